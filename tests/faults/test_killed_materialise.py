"""Fault 11: materialisation is killed. Old values keep serving; the next run completes."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time

from features.records import Counts
from features.serving.online import OnlineAttributes
from features.workspace import Workspace
from pipelines.materialize import MaterializeConfig, run
from tests.features.serving.stores import FUNNY, registered_store, say, write_annotations

JOB = """
import os, sys, time
from features.serving import publish, rows
from features.workspace import Workspace
from pipelines import materialize
from tests.features.serving.stores import FUNNY

materialize.BATCH = 10
write, batches = rows.SqliteRows.write, []

def write_then_hang(self, new):
    write(self, new)
    batches.append(1)
    if len(batches) == 3:  # inside the third batch's transaction
        open(sys.argv[2], "w").close()
        time.sleep(600)

rows.SqliteRows.write = write_then_hang
materialize.run(materialize.MaterializeConfig(Workspace(sys.argv[1]), (FUNNY,)))
"""
IDS = [f"v{number:03d}" for number in range(100)]


def test_a_killed_run_leaves_old_values_and_the_next_one_completes(tmp_path: pathlib.Path, repo_root: pathlib.Path) -> None:
    store = registered_store(tmp_path, [FUNNY])
    workspace, reached = Workspace(str(tmp_path / "workspace")), tmp_path / "reached"
    write_annotations(workspace, [say(video_id, FUNNY, "true") for video_id in IDS])
    run(MaterializeConfig(workspace, (FUNNY,)))
    write_annotations(workspace, [say(video_id, FUNNY, "false", seconds=5) for video_id in IDS])
    environment = {**os.environ, "PYTHONPATH": str(repo_root)}
    child = subprocess.Popen([sys.executable, "-W", "ignore", "-c", JOB, workspace.root, str(reached)], env=environment)
    try:
        deadline = time.monotonic() + 180
        while not reached.exists():
            assert child.poll() is None and time.monotonic() < deadline, "the job ended early"
            time.sleep(0.1)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    values = OnlineAttributes(store).get(IDS).values[:, 0]
    assert (values == 0).sum() == 20 and (values == 1).sum() == 80, "two batches are new, the rest serves as before"
    assert len(workspace.runs("materialize")) == 1, "a run without a record did not happen"

    record = run(MaterializeConfig(workspace, (FUNNY,)))
    assert record.counts == Counts(into=100, annotated=100)
    assert (OnlineAttributes(store).get(IDS).values == 0).all()
    assert run(MaterializeConfig(workspace, (FUNNY,))).counts == Counts(into=100, annotated=100, reused=100)
