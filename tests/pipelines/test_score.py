"""The score stage: a student's answers for every video that has features, each pair once."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from features.errors import InvalidInput
from features.records import Annotation, RunRecord, VideoFeatures, digest, to_table
from features.workspace import Workspace, new_run_id
from pipelines.score import ScoreConfig, run
from tests.features.student import planted


@pytest.fixture
def made() -> Any:
    return planted.student()


@pytest.fixture
def workspace(made: Any, tmp_path: pathlib.Path) -> Workspace:
    shutil.copytree(made.workspace.root, tmp_path / "workspace")
    return Workspace(str(tmp_path / "workspace"))


def spoken(workspace: Workspace) -> list[Annotation]:
    return [row for row in workspace.rows(Annotation) if row.source == "student"]


def extracted(workspace: Workspace, *videos: VideoFeatures) -> None:
    """Another extract run that left these rows."""
    run_id = new_run_id()
    path = workspace.write_table("features", run_id, to_table(videos, VideoFeatures))
    workspace.commit(RunRecord(run_id, "extract", videos[0].extracted_at, videos[0].extracted_at, files={"features": [path]}))  # type: ignore[arg-type]


def test_every_pair_is_scored_once_and_the_values_are_the_students(made: Any, workspace: Workspace) -> None:
    from features.student.scoring import Student

    record = run(ScoreConfig(workspace, made.folder))
    assert record.counts.as_dict() == {"in": 160, "annotated": 160, "dead_lettered": 0, "pending": 0, "reused": 0}
    assert record.pair_counts is not None and record.pair_counts.annotated == record.pair_counts.into == 480
    rows = {(row.video_id, row.attribute): row for row in spoken(workspace)}
    assert len(rows) == len(spoken(workspace)) == 480
    said = Student.load(made.folder).score(planted.light(*made.videos))
    for number, video in enumerate(made.videos):
        calm, mood, energy = (rows[video.video_id, name] for name in ("calm", "mood", "energy"))
        assert calm.probability == pytest.approx(float(said["calm"][number]), abs=1e-6)
        assert calm.value == ("true" if calm.probability >= 0.5 else "false")
        assert mood.value == planted.MOOD.labels[int(said["mood"][number].argmax())]
        assert mood.probability == pytest.approx(float(said["mood"][number].max()), abs=1e-6)
        assert energy.probability is None and float(energy.value or "") == pytest.approx(float(said["energy"][number]), abs=1e-5)
        assert calm.answer_key == digest(video.content_key, made.card.student_id, "calm")
    assert {(row.annotator, row.teacher, row.run_id, row.rationale) for row in rows.values()} == {
        (made.card.annotator, "llm", record.run_id, "")
    }
    assert rows["v0000", "calm"].definition_hash == planted.CALM.definition_hash
    table = workspace.read("annotations")
    assert table.schema.equals(Annotation.SCHEMA)

    again = run(ScoreConfig(workspace, made.folder))
    assert again.counts.reused == 160 and again.pair_counts is not None and again.pair_counts.reused == 480
    assert not again.files and len(spoken(workspace)) == 480

    changed = dataclasses.replace(made.videos[5], content_key="edited", extracted_at=planted.NOW + timedelta(1))
    fresh = planted.features(900, np.random.default_rng(9))
    extracted(workspace, changed, fresh)
    third = run(ScoreConfig(workspace, made.folder))
    assert (third.counts.into, third.counts.annotated, third.counts.reused) == (161, 161, 159)
    assert {row.video_id for row in spoken(workspace) if row.run_id == third.run_id} == {"v0005", "v0900"}
    assert third.pair_counts is not None and third.pair_counts.annotated - third.pair_counts.reused == 6


def test_a_bundle_that_is_replayed_changes_nothing(made: Any, workspace: Workspace) -> None:
    record = run(ScoreConfig(workspace, made.folder), ["--direct_runner_bundle_repeat=1"])
    assert record.pair_counts is not None and record.pair_counts.annotated == 480
    assert len({(row.video_id, row.attribute) for row in spoken(workspace)}) == len(spoken(workspace)) == 480


def test_another_student_spoke_since_then_so_this_one_speaks_again(made: Any, workspace: Workspace) -> None:
    run(ScoreConfig(workspace, made.folder))
    mine = next(row for row in spoken(workspace) if row.video_id == "v0003" and row.attribute == "calm")
    assert mine.annotated_at is not None
    other = dataclasses.replace(
        mine, answer_key="another student's", annotator="student-2", annotated_at=mine.annotated_at + timedelta(seconds=1)
    )
    run_id = new_run_id()
    path = workspace.write_table("annotations", run_id, to_table([other], Annotation))
    workspace.commit(RunRecord(run_id, "score", planted.NOW, planted.NOW, files={"annotations": [path]}))
    record = run(ScoreConfig(workspace, made.folder))
    assert record.pair_counts is not None and record.pair_counts.annotated - record.pair_counts.reused == 1
    assert record.counts.annotated == 160 and record.counts.reused == 159


def test_a_head_of_an_edited_definition_is_left_out(made: Any, workspace: Workspace) -> None:
    edited = dataclasses.replace(planted.CALM, question="Is it slow?")
    record = run(ScoreConfig(workspace, made.folder, (edited, planted.MOOD)))
    assert record.pair_counts is not None and record.pair_counts.into == 160
    assert {row.attribute for row in spoken(workspace)} == {"mood"}
    with pytest.raises(InvalidInput, match="knows no attribute as it is defined now"):
        run(ScoreConfig(workspace, made.folder, (edited,)))


def test_the_newest_student_is_found_by_its_run_record(made: Any, workspace: Workspace) -> None:
    with pytest.raises(InvalidInput, match="no student yet"):
        run(ScoreConfig(workspace))
    student = {"student_id": made.card.student_id}
    workspace.commit(RunRecord(new_run_id(), "distill", planted.NOW, planted.NOW, details=student))
    assert run(ScoreConfig(workspace)).counts.annotated == 160
