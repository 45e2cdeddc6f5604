"""Batch jobs of a workspace on disk: where features are found, who works at a time, and what the table says happens next."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from features.attributes.registry import exclusive
from features.errors import Transient
from features.records import Frame, RunRecord, VideoFeatures, to_table
from pipelines.batch_jobs import collect_jobs, jobs_status, jobs_table, newest_videos, submit_jobs
from tests.features.annotators.batch_jobs import provider_server
from tests.features.annotators.batch_jobs.world import World, video

DAY = 86_400.0


@pytest.fixture
def world(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("BATCH_TEST_KEY", "secret-key")
    with provider_server.running() as provider:
        made = World("openai", tmp_path, provider)
        made.videos = [_with_frame(number) for number in range(3)]
        yield made
        made.batches.close()
        made.answers.close()


def _with_frame(number: int, day: int = 2, title: str = "") -> VideoFeatures:
    made = video(number, title)
    return VideoFeatures(
        **{**vars(made), "frames": (Frame(0.5, 4, 4, b"jpeg"),), "extracted_at": datetime(2026, 1, day, tzinfo=UTC)}
    )


def _write(world: World, run_id: str, rows: list[VideoFeatures]) -> None:
    path = world.workspace.write_table("features", run_id, to_table(rows, VideoFeatures))
    now = datetime.now(UTC)
    world.workspace.commit(RunRecord(run_id, "extract", now, now, files={"features": [path]}))


def test_the_newest_features_of_the_named_videos_are_found_with_their_frames(world: World) -> None:
    _write(world, "1", [_with_frame(number) for number in range(200)])
    _write(world, "2", [_with_frame(7, 3, "New title"), _with_frame(8, 1, "An older look, written later")])
    found = {each.video_id: each for each in newest_videos(world.workspace)({"v7", "v8", "v150", "v999"})}
    assert sorted(found) == ["v150", "v7", "v8"]
    assert found["v7"].title == "New title" and found["v8"].title == "A cat falls off shelf 8"
    assert found["v150"].frames == (Frame(0.5, 4, 4, b"jpeg"),)


def _submit(world: World) -> Any:
    return submit_jobs(
        world.workspace,
        world.requests(),
        world.writer,
        world.identity,
        world.settings,
        world.batches,
        world.answers,
        "run-1",
        lambda: world.now,
        world.sleep,
        lock_timeout_s=0,
    )


def _collect(world: World) -> Any:
    return collect_jobs(
        world.workspace,
        world.batches,
        world.writer,
        world.identity,
        lambda usage: 0.0,
        world.answers,
        "run-2",
        DAY,
        lambda: world.now,
        world.sleep,
        lock_timeout_s=0,
    )


def test_from_features_on_disk_to_answers_with_a_table_in_between(world: World) -> None:
    _write(world, "1", world.videos)
    assert jobs_status(world.workspace, world.batches, world.now) == []
    _submit(world)
    job = world.provider.only()
    job.state = "running"
    world.now += DAY / 2
    (status,) = jobs_status(world.workspace, world.batches, world.now)
    assert (status.id, status.state, status.total, status.age_s) == (job.id, "running", 3, DAY / 2)
    assert status.next == "waits up to 12.0 h more"
    (unasked,) = jobs_status(world.workspace, None, world.now)
    assert unasked.state == "waiting", "what was last heard"
    (late,) = jobs_status(world.workspace, world.batches, world.now + DAY)
    assert "cancels" in late.next
    world.finish(job)
    (status,) = jobs_status(world.workspace, world.batches, world.now)
    assert (status.state, status.done, status.next) == ("done", 3, "the next collect takes its answers")
    assert _collect(world).counts["answered"] == 6
    (status,) = jobs_status(world.workspace, world.batches, world.now)
    assert (status.state, status.done, status.failed) == ("closed", 3, 0)
    assert status.next == "6 of 6 answered, 0 refused, 0 asked directly"
    assert json.loads(json.dumps(status.as_dict()))["run_id"] == "run-1"
    columns, rows = jobs_table([status])
    assert len(columns) == len(rows[0]) and rows[0][0] == job.id


def test_a_provider_that_is_away_is_told_in_the_table(world: World) -> None:
    _submit(world)
    world.provider.faults.append(("batches/", 503))
    (status,) = jobs_status(world.workspace, world.batches, world.now)
    assert status.next.startswith("waits up to") and ";" in status.next
    world.provider.faults += [("/files", 503)] * 4


def test_one_process_at_a_time(world: World) -> None:
    with exclusive(world.workspace.local_path("batches", ".lock"), 1, "test"):
        with pytest.raises(Transient, match="another process with batch jobs"):
            _submit(world)
        with pytest.raises(Transient, match="another process with batch jobs"):
            _collect(world)
    assert world.provider.calls == []
