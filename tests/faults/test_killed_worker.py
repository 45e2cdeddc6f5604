"""Fault 2: the process that asks is killed in mid-batch, and the run is started again."""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from features.records import Annotation
from features.workspace import Workspace
from pipelines import annotate
from pipelines.annotate import AnnotateConfig
from pipelines.annotators import AnnotatorConfig
from tests.pipelines.hand_made import definition, write_features, write_recording

VIDEOS, IN_FLIGHT = 600, 16
DEFINITIONS = (definition("funny"), definition("calm"))

SCRIPT = """
import sys
from features.workspace import Workspace
from pipelines import annotate
from pipelines.annotators import AnnotatorConfig
from features.annotators.settings import PaceSettings
from tests.pipelines.hand_made import definition
annotator = AnnotatorConfig("replay", sys.argv[2], sys.argv[3], pace=PaceSettings(in_flight=16))
config = annotate.AnnotateConfig(Workspace(sys.argv[1]), (definition("funny"), definition("calm")), annotator)
annotate.run(config)
"""


def test_only_calls_in_flight_are_paid_again(tmp_path: pathlib.Path, repo_root: pathlib.Path) -> None:
    workspace, log = Workspace(str(tmp_path / "w")), tmp_path / "calls"
    ids = [f"v{number}" for number in range(VIDEOS)]
    write_features(workspace, ids, per_file=100)
    recording = write_recording(tmp_path / "recording.jsonl", {(v, d.name): "true" for v in ids for d in DEFINITIONS})
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, workspace.root, recording, str(log)],
        env={**os.environ, "PYTHONPATH": str(repo_root)},
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while (not log.exists() or log.stat().st_size < 5000) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    before = len(log.read_text().splitlines())
    assert IN_FLIGHT < before < VIDEOS, "it was to be killed half-way"
    assert [record.stage for record in workspace.runs()] == ["extract"] and not list(workspace.rows(Annotation))

    config = AnnotateConfig(workspace, DEFINITIONS, AnnotatorConfig("replay", recording, str(log)))
    record = annotate.run(config)
    calls = [(call["video_id"], name) for call in map(json.loads, log.read_text().splitlines()) for name in call["attributes"]]
    assert set(calls) == {(v, d.name) for v in ids for d in DEFINITIONS}
    assert len(calls) - len(set(calls)) <= IN_FLIGHT * len(DEFINITIONS)
    assert record.pair_counts is not None
    assert (record.counts.into, record.counts.annotated, record.counts.pending) == (VIDEOS, VIDEOS, 0)
    assert record.pair_counts.reused >= (before - IN_FLIGHT) * len(DEFINITIONS)
    rows = [(row.video_id, row.attribute) for row in workspace.rows(Annotation)]
    assert len(rows) == len(set(rows)) == 2 * VIDEOS
