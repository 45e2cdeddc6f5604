"""Faults 1, 2 and 3: bundles that run twice, and processes that are killed between asking and writing, against a paid server."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from features.annotators.model_server import RunningServer
from features.records import Annotation
from features.workspace import Workspace
from tests.faults.asked_over_http import NAMES, Outcome, annotate_against, billed, paid, pairs_of, serving, workspace_with

CHILD = """
import os, sys
from features.annotators.answers_sqlite import SqliteAnswers
from features.workspace import Workspace
from pipelines import annotate
from pipelines.annotate import AnnotateConfig
from tests.faults.asked_over_http import DEFINITIONS, asking

root, url, in_flight, dies = sys.argv[1:]
put_many, times = SqliteAnswers.put_many, []

def put_and_die(self, answers, spent=None):
    times.append(1)
    if len(times) == 4 and dies == "before":
        os._exit(9)
    stands = put_many(self, answers, spent)
    if len(times) == 4 and dies == "after":
        os._exit(9)
    return stands

SqliteAnswers.put_many = put_and_die
annotate.run(AnnotateConfig(Workspace(root), DEFINITIONS, asking(url, pace={"in_flight": int(in_flight)})))
"""


def child(
    workspace: Workspace, server: RunningServer, in_flight: int, repo_root: pathlib.Path, dies: str = ""
) -> subprocess.Popen[bytes]:
    """A process that annotates, and exits at its fourth write: before or after it is committed."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, workspace.root, server.openai_url, str(in_flight), dies],
        env={**os.environ, "PYTHONPATH": str(repo_root)},
        start_new_session=True,
    )


@contextmanager
def gone_after(workspace: Workspace, server: RunningServer, process: subprocess.Popen[bytes]) -> Iterator[None]:
    """What holds once the process has died in mid-run."""
    try:
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(120)
    assert [record.stage for record in workspace.runs()] == ["extract"] and not list(workspace.rows(Annotation))


def everything_once(outcome: Outcome, videos: int) -> bool:
    """Every pair has one row, and nothing else has."""
    return outcome.annotated.keys() == pairs_of(*range(videos)) and not outcome.dead and not outcome.pending


def test_a_bundle_that_runs_twice_pays_once(tmp_path: pathlib.Path) -> None:
    with serving() as server:
        workspace = workspace_with(tmp_path / "w", 12, per_file=4)
        outcome = annotate_against(server, workspace, beam_args=["--direct_runner_bundle_repeat=1"])
        assert everything_once(outcome, 12) and set(paid(server).values()) == {1}
        assert len(list(workspace.rows(Annotation))) == 12 * len(NAMES)


def test_a_killed_worker_pays_again_only_for_what_was_in_flight(tmp_path: pathlib.Path, repo_root: pathlib.Path) -> None:
    videos, in_flight = 80, 4
    workspace = workspace_with(tmp_path / "w", videos)
    with serving(latency_s=0.1) as server:
        process = child(workspace, server, in_flight, repo_root)
        with gone_after(workspace, server, process):
            deadline = time.monotonic() + 120
            while server.stats()["accepted"] < 12 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            os.killpg(process.pid, signal.SIGKILL)
        before = server.stats()["accepted"]
        assert 12 <= before < videos, "it was to be killed half-way"
        outcome = annotate_against(server, workspace)
        assert everything_once(outcome, videos)
        calls = paid(server)
        assert sum(calls.values()) - len(calls) <= in_flight * len(NAMES), "only calls in flight are paid for again"
        assert outcome.record.pair_counts is not None
        assert outcome.record.pair_counts.reused >= (before - in_flight) * len(NAMES)


@pytest.mark.parametrize(("dies", "again"), [pytest.param("before", 1, marks=pytest.mark.soak), ("after", 0)])
def test_a_crash_between_reply_and_write_costs_at_most_one_call(
    dies: str, again: int, tmp_path: pathlib.Path, repo_root: pathlib.Path
) -> None:
    videos = 8
    workspace = workspace_with(tmp_path / "w", videos)
    with serving() as server:
        process = child(workspace, server, 1, repo_root, dies)
        with gone_after(workspace, server, process):
            assert process.wait(120) == 9
        before = paid(server)
        assert len(before) == 4 * len(NAMES)
        server.reset()
        outcome = annotate_against(server, workspace)
        after = paid(server)
        assert everything_once(outcome, videos) and set(after.values()) == {1} and billed(server, outcome)
        assert after.keys() | before.keys() == pairs_of(*range(videos)) and len(after.keys() & before.keys()) == again * len(NAMES)
        assert outcome.record.pair_counts is not None and outcome.record.pair_counts.reused == (4 - again) * len(NAMES)
