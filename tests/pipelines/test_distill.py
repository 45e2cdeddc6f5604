"""The distill stage on small workspaces: what it learns, what it says, and that nothing is done twice."""

from __future__ import annotations

import dataclasses
import pathlib
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from features.errors import InvalidInput, NothingToLearn
from features.records import Annotation, Failure, Video
from features.workspace import Workspace, new_run_id
from pipelines.distill import DistillConfig, fit, newest_features, publish, resolved_labels, run, training_rows
from tests.features.student import planted
from tests.pipelines.hand_made import write_features


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Twelve videos, one with an embedding of another length and one without any answer."""
    rng = np.random.default_rng(4)
    videos = [planted.features(number, rng) for number in range(12)]
    videos[2] = dataclasses.replace(videos[2], text_embedding=(0.1, 0.2))
    answers = [row for video in videos[:-1] for row in planted.annotations(video)]
    made: Workspace = planted.workspace(tmp_path_factory.mktemp("tiny") / "workspace", videos, answers)
    return made


def test_a_corpus_too_small_to_split_is_said_and_a_second_run_does_nothing(tiny: Workspace) -> None:
    record = run(DistillConfig(tiny, planted.DEFINITIONS))
    assert record.details["metrics"]["too_small_to_split"] is True and record.details["metrics"]["validation_videos"] == 0
    assert any("too small to split: 10 labelled videos" in note for note in record.details["notes"])
    assert any(note.startswith("rare is left out: 2 labelled videos") for note in record.details["notes"])
    assert set(record.details["attributes"]) == {"calm", "mood", "energy"}
    assert record.details["attributes"]["calm"] == {"teacher": "llm", "labelled": 10}
    assert record.details["metrics"]["attributes"]["calm"]["on"] == "training"
    assert (record.counts.into, record.counts.annotated, record.counts.dead_lettered, record.counts.pending) == (12, 10, 1, 1)
    assert record.pair_counts is not None and record.pair_counts.into == 48 and record.pair_counts.annotated == 30
    (failure,) = tiny.rows(Failure)
    assert (failure.video_id, failure.kind, failure.stage) == ("v0002", "embedding_dimension", "distill")

    folder = pathlib.Path(tiny.path("students", record.details["student_id"]))
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
    again = run(DistillConfig(tiny, planted.DEFINITIONS))
    assert again.details["reused"] is True and again.details["student_id"] == record.details["student_id"]
    assert again.counts.reused == 10 and "train" not in again.timings
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()} == before
    assert [name.name for name in folder.parent.iterdir()] == [folder.name], "nothing half-done is left behind"


def test_metrics_compare_with_the_teacher_on_videos_that_were_kept_back() -> None:
    metrics = planted.student().card.metrics
    calm = metrics["attributes"]["calm"]
    assert metrics["too_small_to_split"] is False and metrics["validation_videos"] == 32
    assert calm["on"] == "validation" and calm["n"] == metrics["validation_videos"] and calm["n"] + calm["learned_from"] == 160
    assert 0.5 < calm["auc"] <= 1.0 and 0.0 <= metrics["attributes"]["mood"]["agreement"] <= 1.0
    assert metrics["attributes"]["energy"]["mae"] < metrics["attributes"]["energy"]["spread"]


def test_the_most_trusted_answer_to_the_current_definition_is_learned() -> None:
    calm = planted.CALM
    llm = planted.annotations(planted.features(0, np.random.default_rng(0)))[0]
    gold = dataclasses.replace(
        llm, source="gold", value="true", probability=None, answer_key="gold", annotated_at=planted.NOW - timedelta(9)
    )
    student = dataclasses.replace(
        llm, source="student", teacher="gold", answer_key="student", annotated_at=planted.NOW + timedelta(9)
    )
    stale = dataclasses.replace(llm, video_id="v0001", definition_hash="an older one")
    odd = dataclasses.replace(llm, video_id="v0002", probability=float("nan"))
    withdrawn = dataclasses.replace(llm, video_id="v0003", value=None, annotated_at=planted.NOW + timedelta(1))
    spoken = dataclasses.replace(llm, video_id="v0003")
    before = dataclasses.replace(llm, video_id="v0004", content_key="old")
    preferred = dataclasses.replace(before, source="baseline", content_key="new")
    said = [llm, student, gold, stale, odd, spoken, withdrawn, before]
    labels, bad = resolved_labels(said, (calm,), {"v0000": "any", "v0004": "new"})
    assert [(label.video_id, label.source, label.answer_key) for label in labels] == [("v0000", "gold", "gold")]
    assert [(each.video_id, each.kind) for each in bad] == [("v0002", "not_a_number")]
    labels, _ = resolved_labels([before, preferred], (calm,), {"v0004": "new"})
    assert [label.source for label in labels] == ["baseline"], "what is about the present content"
    assert len(resolved_labels([before], (calm,), {"v0004": "old"})[0]) == 1


def test_answers_about_content_that_changed_are_not_learned(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(12)
    videos = [planted.features(number, rng) for number in range(6)]
    answers = [dataclasses.replace(row, content_key=v.content_key) for v in videos for row in planted.annotations(v)]
    place = planted.workspace(tmp_path, videos, answers)
    assert int(training_rows(DistillConfig(place, planted.DEFINITIONS)).silver.mask.sum()) == 18
    edited = dataclasses.replace(videos[3], content_key="edited", extracted_at=planted.NOW + timedelta(hours=1))
    planted.workspace(tmp_path, [edited], [])
    rows = training_rows(DistillConfig(place, planted.DEFINITIONS))
    assert rows.videos == 6 and int(rows.silver.mask.sum()) == 15 and edited.video_id not in rows.silver.video_ids
    all_edited = [dataclasses.replace(each, content_key="edited", extracted_at=edited.extracted_at) for each in videos]
    planted.workspace(tmp_path, all_edited, [])
    with pytest.raises(NothingToLearn, match="no video has both features and an answer about them"):
        training_rows(DistillConfig(place, planted.DEFINITIONS))


def test_the_newest_features_of_a_video_are_learned(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(6)
    videos = [planted.features(number, rng) for number in range(6)]
    place = planted.workspace(tmp_path, videos, [row for video in videos for row in planted.annotations(video)])
    before = training_rows(DistillConfig(place, planted.DEFINITIONS))
    planted.workspace(tmp_path, [dataclasses.replace(videos[3], duration_s=99.0)], [])
    after = training_rows(DistillConfig(place, planted.DEFINITIONS))
    assert after.videos == 6 and after.student_id != before.student_id
    assert after.prepared.batch.column("duration_s")[3].as_py() == [99.0]


def test_nothing_to_learn_is_the_users_to_mend(tmp_path: pathlib.Path) -> None:
    with pytest.raises(NothingToLearn, match="no features yet"):
        run(DistillConfig(Workspace(str(tmp_path / "none")), planted.DEFINITIONS))
    rng = np.random.default_rng(7)
    videos = [planted.features(number, rng) for number in range(3)]
    silent = planted.workspace(tmp_path / "silent", videos, [])
    with pytest.raises(NothingToLearn, match="no video has both"):
        run(DistillConfig(silent, planted.DEFINITIONS))
    few = planted.workspace(tmp_path / "few", videos, [row for video in videos for row in planted.annotations(video)])
    with pytest.raises(NothingToLearn, match=r"nothing can be learned\. calm is left out: 3 labelled videos"):
        run(DistillConfig(few, planted.DEFINITIONS))
    with pytest.raises(InvalidInput, match="no attribute to learn"):
        DistillConfig(few, ())
    with pytest.raises(InvalidInput, match="distill runs on this machine only"):
        run(DistillConfig(few, planted.DEFINITIONS), ["--runner=DataflowRunner"])


def test_a_published_student_stays_and_a_damaged_one_is_replaced(tmp_path: pathlib.Path) -> None:
    """Somebody may be loading it while another machine, or another process, has distilled the very same one."""
    rng = np.random.default_rng(9)
    videos = [planted.features(number, rng) for number in range(6)]
    place = planted.workspace(tmp_path / "w", videos, [row for video in videos for row in planted.annotations(video)])
    config = DistillConfig(place, planted.DEFINITIONS)
    rows, training = training_rows(config), tmp_path / "training"
    training.mkdir()
    fitted = fit(config, rows, str(training))
    card = publish(config, rows, fitted)
    folder = pathlib.Path(place.path("students", card.student_id))

    def files() -> dict[pathlib.Path, tuple[int, int]]:
        return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}

    before = files()
    assert publish(config, rows, fitted) == card and files() == before
    (folder / "saved_model.pb").write_bytes(b"cut")
    record = run(config)
    assert record.details["reused"] is False and record.details["student_id"] == card.student_id
    assert run(config).details["reused"] is True
    assert [name.name for name in folder.parent.iterdir()] == [folder.name], "nothing half-done is left behind"


def test_annotations_of_a_student_are_not_training_data(tmp_path: pathlib.Path) -> None:
    rng = np.random.default_rng(8)
    videos = [planted.features(number, rng) for number in range(5)]
    answers: list[Annotation] = [
        dataclasses.replace(row, source="student", teacher="llm") for video in videos for row in planted.annotations(video)
    ]
    place = planted.workspace(tmp_path, videos, answers)
    with pytest.raises(InvalidInput, match="no video has both"):
        training_rows(DistillConfig(place, planted.DEFINITIONS))


def test_a_workspace_in_a_bucket(bucket: str) -> None:
    """Published with the card last, loaded through a local copy, and its answers written beside it."""
    from features import storage
    from features.student.scoring import Student
    from pipelines import score

    rng = np.random.default_rng(11)
    videos = [planted.features(number, rng) for number in range(8)]
    place = planted.workspace(f"{bucket}/distilled", videos, [row for video in videos for row in planted.annotations(video)])
    record = run(DistillConfig(place, planted.DEFINITIONS))
    folder = place.path("students", record.details["student_id"])
    assert storage.exists(f"{folder}/student.json") and storage.exists(f"{folder}/saved_model.pb")
    assert run(DistillConfig(place, planted.DEFINITIONS)).details["reused"] is True
    said = Student.load(folder).score(planted.light(*videos))
    scored = score.run(score.ScoreConfig(place))
    assert (scored.counts.into, scored.counts.annotated) == (8, 8)
    answers = {row.video_id: row for row in place.rows(Annotation) if row.source == "student" and row.attribute == "calm"}
    for number, video in enumerate(videos):
        assert answers[video.video_id].probability == pytest.approx(float(said["calm"][number]), abs=1e-6)


def test_the_newest_row_of_a_video_is_learned_from_whatever_run_lists_it(tmp_path: pathlib.Path) -> None:
    workspace, now = Workspace(str(tmp_path / "adopted")), datetime.now(UTC)
    write_features(workspace, ["a", "b"], title="new", when=now)
    later_run, old_row = new_run_id(now + timedelta(hours=1)), now - timedelta(hours=1)
    write_features(workspace, ["a"], title="old", when=old_row)
    (record,) = [record for record in workspace.runs() if record.started_at == old_row]
    workspace.commit(dataclasses.replace(record, run_id=later_run))
    (tmp_path / "adopted" / "runs" / f"{record.run_id}.json").unlink()
    newest = newest_features(workspace)
    expected = {Video(name, "", "new").content_key(name) for name in "ab"}
    assert set(newest["content_key"].to_pylist()) == expected and newest["video_id"].to_pylist() == ["a", "b"]
