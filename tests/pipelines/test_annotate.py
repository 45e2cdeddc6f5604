from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from features.attributes.registry import exclusive
from features.errors import InvalidInput, Transient
from features.records import Annotation, Counts, Failure, RunRecord, to_table
from features.workspace import Workspace
from pipelines import annotate, stopping
from pipelines.annotate import AnnotateConfig
from pipelines.annotators import AnnotatorConfig
from pipelines.options import RunHeader
from tests.pipelines.hand_made import definition, write_features, write_recording

FUNNY, CALM = definition("funny"), definition("calm")
Make = Callable[..., Workspace]


@pytest.fixture
def log(tmp_path: pathlib.Path) -> pathlib.Path:
    """Where the annotator notes each real call."""
    return tmp_path / "calls"


def calls(log: pathlib.Path) -> list[tuple[str, str]]:
    """(video, attribute) of every question that reached the annotator."""
    if not log.exists():
        return []
    return [(call["video_id"], name) for call in map(json.loads, log.read_text().splitlines()) for name in call["attributes"]]


def config(workspace: Workspace, log: pathlib.Path, *definitions, answers=None, **changes) -> AnnotateConfig:
    recording = log.with_name("recording.jsonl")
    if answers is not None or not recording.exists():
        everything = {(f"v{n}", name): "true" for n in range(20) for name in ("funny", "calm", "cozy")}
        write_recording(recording, everything if answers is None else answers)
    annotator = AnnotatorConfig("replay", str(recording), str(log))
    return AnnotateConfig(workspace, definitions or (FUNNY, CALM), annotator, header=RunHeader(), **changes)


def rows(workspace: Workspace) -> list[tuple[str, str, str | None, str]]:
    return sorted((row.video_id, row.attribute, row.value, row.source) for row in workspace.rows(Annotation))


def test_every_pair_is_asked_once_and_written(with_features: Make, log: pathlib.Path) -> None:
    workspace = with_features(*(f"v{n}" for n in range(10)))
    record = annotate.run(config(workspace, log))
    assert record.counts == Counts(10, 10, 0, 0) and record.pair_counts == Counts(20, 20, 0, 0)
    assert rows(workspace) == sorted((f"v{n}", name, "true", "llm") for n in range(10) for name in ("calm", "funny"))
    assert sorted(calls(log)) == sorted((f"v{n}", name) for n in range(10) for name in ("calm", "funny"))
    assert len(log.read_text().splitlines()) == 10, "all attributes of a video go in one request"


def test_a_second_run_asks_nothing_and_writes_nothing(with_features: Make, log: pathlib.Path) -> None:
    workspace = with_features("v0", "v1")
    annotate.run(config(workspace, log))
    before = rows(workspace)
    record = annotate.run(config(workspace, log))
    assert record.counts == Counts(2, 2, 0, 0, 2) and record.pair_counts == Counts(4, 4, 0, 0, 4)
    assert rows(workspace) == before and len(calls(log)) == 4 and record.files == {}


def test_a_new_attribute_asks_only_that_attribute(with_features: Make, log: pathlib.Path) -> None:
    workspace = with_features("v0", "v1")
    annotate.run(config(workspace, log))
    annotate.run(config(workspace, log, FUNNY, CALM, definition("cozy")))
    assert calls(log)[4:] == [("v0", "cozy"), ("v1", "cozy")]


def test_an_edited_definition_asks_again_only_for_itself(with_features: Make, log: pathlib.Path) -> None:
    workspace = with_features("v0", "v1")
    annotate.run(config(workspace, log))
    annotate.run(config(workspace, log, FUNNY, replace(CALM, question="Is it really calm?")))
    annotate.run(config(workspace, log, FUNNY, replace(CALM, question="Is it really calm?", owner="somebody else", stage="full")))
    assert calls(log)[4:] == [("v0", "calm"), ("v1", "calm")]


def test_a_changed_title_asks_about_that_video(with_features: Make, log: pathlib.Path) -> None:
    workspace = with_features("v0", "v1")
    annotate.run(config(workspace, log))
    write_features(workspace, ["v1"], title="new title", when=datetime.now(UTC) + timedelta(seconds=1))
    record = annotate.run(config(workspace, log))
    assert calls(log)[4:] in ([("v1", "funny"), ("v1", "calm")], [("v1", "calm"), ("v1", "funny")])
    assert record.counts == Counts(2, 2, 0, 0, 1)


def test_reasons_that_differ_each_time_do_not_swell_the_record(with_features: Make, log: pathlib.Path) -> None:
    """A server that quotes a request id in its error gives a million sentences to a run of a million videos."""
    asking = annotate.AskFn(config(with_features("v0"), log))
    asking.start_bundle()
    for number in range(3 * annotate.REASONS):
        asking._pending(f"503, request {number}", 2)
    assert len(asking._tallies) == annotate.REASONS + 1 and sum(asking._tallies.values()) == 6 * annotate.REASONS


def test_what_is_not_answered_becomes_one_dead_letter_a_pair(with_features: Make, log: pathlib.Path) -> None:
    workspace = with_features("v0", "v1", "v2")
    answers = {("v0", "funny"): "true", ("v0", "calm"): "false", ("v1", "funny"): "true"}
    record = annotate.run(config(workspace, log, answers=answers))
    assert record.counts == Counts(3, 2, 1, 0) and record.pair_counts == Counts(6, 3, 3, 0)
    letters = sorted((row.video_id, row.attribute, row.kind, row.stage) for row in workspace.rows(Failure))
    assert letters == [(v, a, "not_recorded", "annotate") for v, a in (("v1", "calm"), ("v2", "calm"), ("v2", "funny"))]
    assert record.details == {"kind/not_recorded": 3}


def test_what_was_refused_is_not_paid_for_again_unless_asked_or_changed(with_features: Make, log: pathlib.Path) -> None:
    workspace = with_features("v0", "v1")
    answers = {("v0", "funny"): "true", ("v0", "calm"): "false"}
    first = annotate.run(config(workspace, log, answers=answers))
    again = annotate.run(config(workspace, log))
    assert first.counts == Counts(2, 1, 1, 0) and again.counts == Counts(2, 1, 1, 0, 1)
    assert again.pair_counts == Counts(4, 2, 2, 0, 2) and len(calls(log)) == 4
    assert sorted(row.attempts for row in workspace.rows(Failure)) == [0, 0, 1, 1]
    annotate.run(config(workspace, log, retry_failed=True))
    assert len(calls(log)) == 6
    annotate.run(config(workspace, log, replace(FUNNY, question="Is it truly funny?"), CALM))
    assert sorted(calls(log)[6:]) == [("v0", "funny"), ("v1", "funny")]


def test_videos_that_extraction_did_not_get_through_this_time_are_left_out(with_features: Make, log: pathlib.Path) -> None:
    workspace = with_features("v0", "v1")
    letters = [
        Failure("v0", "extract", "missing", "gone", run_id="this-run"),
        Failure("v1", "extract", "missing", "gone", run_id="other"),
    ]
    now = datetime.now(UTC)
    file = workspace.write_table("failures", "this-run", to_table(letters, Failure))
    workspace.commit(RunRecord("this-run", "extract", now, now, files={"failures": [file]}))
    record = annotate.run(config(workspace, log, without_failures_of="this-run"))
    assert record.counts == Counts(1, 1, 0, 0) and {video for video, _ in calls(log)} == {"v1"}
    assert annotate.run(config(workspace, log)).counts.into == 2


def test_two_annotations_of_one_workspace_do_not_pay_twice(with_features: Make, log: pathlib.Path) -> None:
    workspace = with_features("v0")
    with exclusive(workspace.local_path(".annotate.lock"), 1, "annotation"):
        with pytest.raises(Transient, match=r"another annotation has held .*run again when it is done"):
            annotate.run(config(workspace, log, lock_timeout_s=0.1))
    assert calls(log) == []


def test_an_answer_from_a_clock_that_was_ahead_is_not_the_newest_for_ever(with_features: Make, log: pathlib.Path) -> None:
    workspace = with_features("v0")
    future = datetime.now(UTC) + timedelta(days=365)
    row = Annotation("v0", "funny", "h", "false", 0.1, "", "llm", "replay", "another-key", annotated_at=future)
    file = workspace.write_table("annotations", "ahead", to_table([row], Annotation))
    workspace.commit(RunRecord("ahead", "annotate", future, future, files={"annotations": [file]}))
    annotate.run(config(workspace, log))
    assert annotate.run(config(workspace, log)).counts == Counts(1, 1, 0, 0, 1), "the second run finds the first one's answers"


def test_only_the_videos_of_a_manifest_are_asked(with_features: Make, log: pathlib.Path, tmp_path: pathlib.Path) -> None:
    workspace = with_features("v0", "v1", "v2")
    (tmp_path / "m.jsonl").write_text('{"video_id": "v1", "uri": "v1.mp4"}\n{"video_id": "unseen", "uri": "u.mp4"}\n')
    record = annotate.run(config(workspace, log, videos=str(tmp_path / "m.jsonl")))
    assert record.counts == Counts(1, 1, 0, 0) and {video for video, _ in calls(log)} == {"v1"}


def test_a_stop_leaves_the_rest_pending_and_the_next_run_does_it(with_features: Make, log: pathlib.Path) -> None:
    workspace = with_features("v0", "v1")
    stopping.request()
    try:
        record = annotate.run(config(workspace, log))
    finally:
        stopping._requested.clear()
    assert record.counts == Counts(2, 0, 0, 2) and record.pair_counts == Counts(4, 0, 0, 4) and calls(log) == []
    assert annotate.run(config(workspace, log)).counts == Counts(2, 2, 0, 0)


def test_gold_is_written_corrected_and_withdrawn(with_features: Make, log: pathlib.Path) -> None:
    workspace = with_features("v0")

    def gold(value: str) -> Annotation:
        return Annotation("v0", "funny", FUNNY.definition_hash, value, 1.0, "3 of 3", "gold", "raters(3)", f"key-{value}")

    for golden, expected in (
        ((gold("true"),), ["true"]),
        ((gold("true"),), ["true"]),
        ((gold("false"),), ["true", "false"]),
        ((), ["true", "false", None]),
        ((), ["true", "false", None]),
    ):
        annotate.run(config(workspace, log, golden=golden))
        assert [row.value for row in workspace.rows(Annotation) if row.source == "gold"] == expected
    assert len(calls(log)) == 2


def test_a_replayed_bundle_asks_once_and_writes_the_same_rows(with_features: Make, log: pathlib.Path) -> None:
    """Fault 1: every bundle runs twice; the answers store stands between."""
    workspace = with_features(*(f"v{n}" for n in range(6)))
    record = annotate.run(config(workspace, log), ["--direct_runner_bundle_repeat=1"])
    assert sorted(calls(log)) == sorted((f"v{n}", name) for n in range(6) for name in ("calm", "funny"))
    assert rows(workspace) == sorted((f"v{n}", name, "true", "llm") for n in range(6) for name in ("calm", "funny"))
    assert record.counts.annotated == 6 and record.pair_counts is not None and record.pair_counts.annotated == 12


def test_nothing_to_ask_is_said_before_anything_starts(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidInput, match="add a definition"):
        AnnotateConfig(Workspace(str(tmp_path)), ())
    with pytest.raises(InvalidInput, match="'oracle' is no annotator: choose one of baseline, gemini, openai, replay"):
        AnnotatorConfig("oracle")


def test_a_workspace_without_features_gives_an_empty_run(tmp_path: pathlib.Path, log: pathlib.Path) -> None:
    record: RunRecord = annotate.run(config(Workspace(str(tmp_path / "w")), log))
    assert record.counts == Counts() and record.files == {}
