"""Near-duplicates from features to labels: found in one run of the stage, asked about once, carried over, and taken apart again."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from features.annotators.model_server import ServerConfig, running
from features.annotators.protocol import AnnotationReply, Answer, Usage
from features.errors import InvalidInput
from features.records import Annotation, Counts, Duplicate, Failure, Moment, RunRecord, Video, VideoFeatures, to_table
from features.serving.resolution import resolve
from features.videos.apart import take_apart
from features.workspace import Workspace, new_run_id
from pipelines import annotate, batch_run, copies, duplicates
from pipelines.annotators import AnnotatorConfig, Whose, build_annotator
from pipelines.duplicates import DuplicatesConfig
from pipelines.forecasting import requested
from pipelines.planning import AnnotateConfig, Question
from pipelines.project import Project
from tests.features.videos.hand_made_marks import film, intro_of, moved
from tests.pipelines.hand_made import definition, write_recording

FUNNY, CALM = definition("funny"), definition("calm")
START = datetime(2026, 11, 1, tzinfo=UTC)


def features(video_id: str, prints: Sequence[bytes] = (), **changes: Any) -> VideoFeatures:
    """Features that say nothing but a title and fingerprints, four a second."""
    title, content = changes.pop("title", f"title of {video_id}"), changes.pop("content", video_id)
    return replace(
        VideoFeatures(video_id, content, Video(video_id, "", title).content_key(content), "hand-1", title=title),
        fingerprints=tuple(prints),
        fingerprint_times_s=tuple(number / 4 for number in range(len(prints))),
        **{"extracted_at": START, **changes},
    )


def write(workspace: Workspace, rows: Iterable[VideoFeatures], per_file: int = 20) -> None:
    rows, run_id = list(rows), new_run_id()
    parts = [rows[at : at + per_file] for at in range(0, len(rows), per_file)]
    files = [workspace.write_table("features", run_id, to_table(part, VideoFeatures)) for part in parts]
    workspace.commit(RunRecord(run_id, "extract", START, START, counts=Counts(len(rows), len(rows)), files={"features": files}))


def corpus() -> list[VideoFeatures]:
    """Groups, a chain, a pair that a person took apart, and a common opening."""
    cat, chain = film(1, 40), film(2, 60)
    return [
        features("cat-reposted", moved(cat, 3), published_at=START),
        features("cat", cat, published_at=START - timedelta(days=1)),
        features("cat-cut", cat[10:], published_at=START + timedelta(days=1)),
        features("chain-1", chain[:40]),
        features("chain-2", chain),
        features("chain-3", chain[20:]),
        features("twin-1", film(3, 20)),
        features("twin-2", film(3, 20)),
        features("other", film(4, 20)),
        features("nothing"),
        features("old-marks", [b"8 bytes."] * 3),
        features("was-a-cat", cat),
        features("was-a-cat", film(5, 20), extracted_at=START + timedelta(seconds=1)),
        *(features(f"series-{number:02}", [*intro_of(4), *film(100 + number, 20)]) for number in range(40)),
    ]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, RunRecord]:
    """A workspace in which the stage ran, and its record."""
    workspace = Workspace(str(tmp_path_factory.mktemp("found")))
    write(workspace, corpus())
    take_apart(workspace, "twin-2", "twin-1")
    return workspace, duplicates.run(DuplicatesConfig(workspace))


def shape(workspace: Workspace) -> dict[str, list[str]]:
    return {group.lead_id: list(group.ids[1:]) for group in copies.groups(workspace)}


def test_copies_are_grouped_under_the_video_that_was_published_first(found: tuple[Workspace, RunRecord]) -> None:
    workspace, record = found
    assert shape(workspace)["cat"] == ["cat-cut", "cat-reposted"]
    rows = {row.video_id: row for row in workspace.rows(Duplicate)}
    cut, reposted = rows["cat-cut"], rows["cat-reposted"]
    assert (cut.overlap, cut.shift_s, cut.distance_bits) == (1.0, 2.5, 0.0)
    assert reposted.overlap == 1.0 and abs(reposted.shift_s) <= 0.25 and 0 < reposted.distance_bits <= 3
    assert {row.run_id for row in rows.values()} == {record.run_id} and cut.content_hash == "cat-cut"


def test_a_chain_joins_only_what_matches_its_lead_and_differs_from_no_member(found: tuple[Workspace, RunRecord]) -> None:
    """chain-1 and chain-3 have a third of their pictures in common, and both of them lie in chain-2."""
    assert shape(found[0])["chain-1"] == ["chain-2"]


def test_what_a_person_took_apart_and_what_only_shares_an_opening_is_in_no_group(found: tuple[Workspace, RunRecord]) -> None:
    assert set(shape(found[0])) == {"cat", "chain-1"}, "neither twins, nor the series, nor a video as it was before"


def test_every_video_is_counted_and_so_is_what_was_too_common(found: tuple[Workspace, RunRecord]) -> None:
    record = found[1]
    assert record.counts == Counts(52, 52, 0, 0) and record.pair_counts is None
    details = record.details
    assert (details["detail/groups"], details["detail/copies"], details["detail/without fingerprints"]) == (2, 3, 2)
    assert details["detail/keys too common"] > 0 and details["detail/pairs left out for them"] > 40
    assert details["detail/pairs compared"] < 40 * 39 / 2, "a common opening does not make every pair"


def test_the_order_of_rows_and_the_number_of_parts_change_nothing(
    found: tuple[Workspace, RunRecord], tmp_path: pathlib.Path
) -> None:
    workspace = Workspace(str(tmp_path))
    write(workspace, reversed(corpus()), per_file=3)
    take_apart(workspace, "twin-1", "twin-2")
    duplicates.run(DuplicatesConfig(workspace, parts=1))

    def found_by(place: Workspace) -> list[Duplicate]:
        return [replace(row, found_at=None, run_id="") for each in copies.groups(place) for row in each.copies]

    assert found_by(workspace) == found_by(found[0])


def group(workspace: Workspace, *rows: tuple[str, str]) -> None:
    """Commits a run that found these copies of these leads."""
    run_id = new_run_id()
    made = [Duplicate(one, lead, one, lead, 1.0, 0.0, 0.0, START, run_id) for one, lead in rows]
    files = {"duplicates": [workspace.write_table("duplicates", run_id, to_table(made, Duplicate))]}
    workspace.commit(RunRecord(run_id, copies.STAGE, START, START, files=files))


PAIRS = ("plain", "renamed", "split", "rebuilt", "replaced", "wanted", "refused", "gold")
"""What becomes of them: nothing; the copy gets a title, or is taken apart, or gets other bytes, or its lead does; the lead is not
wanted, or refused; the copy has a gold label."""


@dataclass
class Asked:
    """An annotate run: its record, and what was asked in it: {video: attributes}, each in one request."""

    record: RunRecord
    requests: dict[str, list[str]]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, list[Asked], list[dict[tuple[str, str], Any]]]:
    """A workspace with `PAIRS`, annotated three times; and what was believed after each time."""
    place = tmp_path_factory.mktemp("labelled")
    workspace = Workspace(str(place / "w"))
    write(workspace, [features(f"{who}-{name}") for name in PAIRS for who in ("copy", "lead")])
    group(workspace, *((f"copy-{name}", f"lead-{name}") for name in PAIRS))
    later = START + timedelta(seconds=1)
    write(workspace, [features(name, content="other bytes", extracted_at=later) for name in ("copy-rebuilt", "lead-replaced")])
    answers = {(f"{who}-{n}", a): str(who == "lead").lower() for who in ("copy", "lead") for n in PAIRS for a in ("calm", "funny")}
    del answers["lead-refused", "calm"]
    recording = write_recording(place / "recording.jsonl", answers)
    wanted = [
        {"video_id": f"{who}-{n}", "uri": "v.mp4"} for n in PAIRS for who in ("copy", "lead") if (who, n) != ("lead", "wanted")
    ]
    (place / "m.jsonl").write_text("\n".join(map(json.dumps, wanted)))
    gold = Annotation("copy-gold", "funny", FUNNY.definition_hash, "false", 1.0, "3 of 3", "gold", "raters(3)", "key")
    asked, believed = [], []

    def run(**changes: Any) -> None:
        log = place / f"calls-{len(asked)}"
        annotator = AnnotatorConfig("replay", recording, str(log))
        record = annotate.run(AnnotateConfig(workspace, (CALM, FUNNY), annotator, (gold,), **changes))
        calls = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        assert len({call["video_id"] for call in calls}) == len(calls)
        asked.append(Asked(record, {call["video_id"]: call["attributes"] for call in calls}))
        keys = copies.newest(workspace, "content_key")
        rows = resolve(workspace.rows(Annotation), (CALM, FUNNY), datetime.now(UTC), keys).rows
        believed.append({(row.video_id, row.attribute): (row.value, row.source, row.stale) for row in rows})

    run(videos=str(place / "m.jsonl"))
    write(workspace, [features("copy-renamed", title="a new title", content="copy-renamed", extracted_at=later)])
    take_apart(workspace, "copy-split", "lead-split")
    run()
    os.remove(workspace.path("apart.csv"))
    run()
    return workspace, asked, believed


Labelled = tuple[Workspace, list[Asked], list[dict[tuple[str, str], Any]]]


def test_one_request_labels_a_lead_and_its_copy(labelled: Labelled) -> None:
    workspace, (first, *_), believed = labelled
    leads = {f"lead-{name}" for name in PAIRS}
    assert first.requests.keys() == leads | {"copy-rebuilt", "copy-replaced"} and set(map(tuple, first.requests.values())) == {
        ("calm", "funny")
    }
    assert first.record.counts == Counts(15, 15, 0, 0) and first.record.pair_counts == Counts(30, 28, 2, 0)
    assert first.record.details["detail/carried over"] == 11
    rows = {(row.video_id, row.attribute): row for row in workspace.rows(Annotation) if row.run_id == first.record.run_id}
    carried, given = rows["copy-plain", "funny"], rows["lead-plain", "funny"]
    assert (carried.carried_from, given.carried_from) == ("lead-plain", "") and carried.answer_key == given.answer_key
    assert carried.content_key == features("copy-plain").content_key != given.content_key
    assert believed[0]["copy-plain", "funny"] == believed[0]["lead-plain", "funny"] == ("true", "llm", False)


def test_nothing_is_asked_again_and_a_new_title_of_a_copy_asks_nobody(labelled: Labelled) -> None:
    _, (_, second, third), believed = labelled
    assert "copy-plain" not in second.requests and "lead-plain" not in second.requests
    assert second.record.details["detail/carried over"] == 2 and believed[1]["copy-renamed", "funny"] == ("true", "llm", False)
    assert third.requests == {} and third.record.pair_counts == Counts(32, 30, 2, 0, 30)


def test_a_copy_that_a_person_took_apart_is_asked_itself_and_its_own_label_wins(labelled: Labelled) -> None:
    _, (_, second, _), believed = labelled
    assert second.requests == {"copy-split": ["calm", "funny"]}
    assert [each["copy-split", "funny"][0] for each in believed] == ["true", "false", "false"], "also when it is a copy once more"
    assert believed[1]["lead-split", "funny"][0] == "true"


def test_a_copy_of_other_bytes_than_were_compared_is_asked_itself(labelled: Labelled) -> None:
    assert labelled[2][0]["copy-rebuilt", "funny"][0] == labelled[2][0]["copy-replaced", "funny"][0] == "false"


def test_a_lead_that_is_not_wanted_is_asked_about_and_gets_no_row(labelled: Labelled) -> None:
    _, (first, second, _), believed = labelled
    assert "lead-wanted" in first.requests and believed[0]["copy-wanted", "calm"][0] == "true"
    assert ("lead-wanted", "calm") not in believed[0] and believed[1]["lead-wanted", "calm"][0] == "true"
    assert "lead-wanted" not in second.requests, "its answer is stored"


def test_a_copy_shares_the_dead_letter_of_its_lead(labelled: Labelled) -> None:
    workspace, (first, *_), _ = labelled
    letters = {(row.video_id, row.attribute, row.kind) for row in workspace.rows(Failure) if row.run_id == first.record.run_id}
    assert letters == {(f"{who}-refused", "calm", "not_recorded") for who in ("copy", "lead")}


def test_a_gold_label_of_a_copy_stays_gold(labelled: Labelled) -> None:
    _, _, believed = labelled
    assert believed[0]["copy-gold", "funny"] == ("false", "gold", False) and believed[0]["lead-gold", "funny"][1] == "llm"


@pytest.fixture
def pair(tmp_path: pathlib.Path) -> Workspace:
    """A workspace with a video, its copy, and another video; the copy was found."""
    workspace = Workspace(str(tmp_path / "workspace"))
    write(workspace, [features("copy"), features("lead"), features("other")])
    group(workspace, ("copy", "lead"))
    return workspace


@pytest.fixture
def project(pair: Workspace, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Project]:
    """Makes a project about one attribute, funny, with a model server's annotator."""
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    (tmp_path / "repo" / "attributes").mkdir(parents=True)
    fields = {"name": "funny", "title": "funny", "question": "Is it funny?", "definition": "funny means funny."}
    (tmp_path / "repo" / "attributes" / "funny.yaml").write_text(json.dumps(fields))

    def make(**changes: Any) -> Project:
        flags = {"model": {"name": "gpt-4.1-mini"}}
        return Project(pair.root, str(tmp_path / "repo"), annotator="openai", model_flags=flags, **changes)

    return make


def test_a_batch_job_asks_about_the_lead_for_whoever_is_wanted(project: Callable[..., Project], tmp_path: pathlib.Path) -> None:
    def handed_over(**changes: Any) -> list[str]:
        made = project(**changes)
        whose = Whose.of(build_annotator(made.annotator_config, made.workspace, store=False))
        return sorted(request.video.video_id for request in batch_run._requests(made, whose, False))

    assert handed_over() == ["lead", "other"] and handed_over(each_duplicate=True) == ["copy", "lead", "other"]
    (tmp_path / "copy.mp4").touch()
    (tmp_path / "m.jsonl").write_text('{"video_id": "copy", "uri": "copy.mp4"}\n')
    assert handed_over(videos=str(tmp_path / "m.jsonl")) == ["lead"]
    take_apart(project().workspace, "copy")
    assert handed_over() == ["copy", "lead", "other"]


def test_the_setting_and_its_flag_reach_annotate(project: Callable[..., Project]) -> None:
    assert project().annotate_config().duplicates and not project(each_duplicate=True).annotate_config().duplicates
    with open(project().workspace.path("vidattr.yaml"), "w") as file:
        file.write("duplicates: false\n")
    assert not project().annotate_config().duplicates


def test_copies_make_one_request() -> None:
    questions = [Question("copy", ("calm",), 1, 0, "lead", "key"), Question("lead", ("funny", "calm"), 0, 0)]
    path, text = requested("lead", [("file", question.to_json()) for question in questions])
    assert (path, Question.from_json(text)) == ("file", Question("lead", ("funny", "calm"), 0, 0))


@pytest.mark.soak
def test_a_copy_costs_nothing(project: Callable[..., Project], vidattr: Callable[..., Any]) -> None:
    """Of a model server: a forecast, a batch job and direct requests all ask about the lead, and tokens are counted once."""
    made = project()
    with running(ServerConfig(batch_delay_s=-1)) as server:
        place = ("--workspace", made.workspace.root, "--feature-repo", made.feature_repo, "--annotator", "openai")
        command = ("annotate", *place, "--model", "gpt-4.1-mini", "--base-url", server.openai_url, "--json")
        forecast = vidattr(*command, "--dry-run").document["forecast"]
        assert (forecast["videos"], forecast["requests"], forecast["pairs"], forecast["carried"]) == (2, 2, 2, 1)
        submitted = vidattr(*command, "--batch-jobs", "submit").document
        assert (submitted["pairs"], submitted["requests"]) == (2, 2)
        for _ in range(4):
            server.advance_batches()
        collected = vidattr(*command, "--batch-jobs", "collect").document
        assert collected["pair_counts"]["annotated"] == 3 and collected["pair_counts"]["pending"] == 0
        assert server.stats()["paid_pairs"] == 2
        handed = vidattr(*command, "--batch-jobs", "submit").document
        assert (handed["pairs"], handed["jobs"]) == (0, [])
        each = vidattr(*command, "--each-duplicate").document
        assert server.stats()["paid_pairs"] == 3 and each["input_tokens"] > 0
    rows = list(made.workspace.rows(Annotation))
    assert [row.input_tokens for row in rows if row.carried_from] == [0]
    assert sum(row.input_tokens for row in rows) == each["input_tokens"]


def test_pending_copies_are_pending(pair: Workspace, tmp_path: pathlib.Path) -> None:
    """A stop while questions wait leaves the lead and its copies pending, each counted."""
    config = AnnotateConfig(pair, (FUNNY,), AnnotatorConfig("replay", write_recording(tmp_path / "r", {})))
    asks = annotate.AskFn(config)
    asks.start_bundle()
    asks._halted = "the server is down"
    together = [Question("lead", ("funny",), 0, 0), Question("copy", ("funny",), 0, 0, "lead", "key")]
    assert list(asks.process(("no file is read", [question.to_json() for question in together]))) == []
    assert asks._tallies["video/pending"] == asks._tallies["pair/pending"] == 2


def test_an_answer_that_is_carried_over_costs_nothing_and_names_no_moments(pair: Workspace, tmp_path: pathlib.Path) -> None:
    config = AnnotateConfig(pair, (FUNNY,), AnnotatorConfig("replay", write_recording(tmp_path / "r", {})))
    asks = annotate.AskFn(config)
    asks.start_bundle()
    asks._whose = Whose.of(build_annotator(config.annotator, pair, store=False))
    answer = Answer("funny", "true", 0.9, "it is", 100, 20, 10, 0.5, moments=(Moment(1.0, 2.0),))
    reply = AnnotationReply((answer,), (), Usage(1, 100, 20, 10, 0.5))
    landed: Future[AnnotationReply] = Future()
    landed.set_result(reply)
    together = [Question("lead", ("funny",), 0, 0), Question("copy", ("funny",), 0, 0, "lead", "key")]
    assert list(asks._finish((features("lead"), together), landed)) == []
    lead, copy = asks._rows
    assert (lead.input_tokens, lead.cost_usd, lead.moments) == (100, 0.5, answer.moments)
    assert copy == replace(
        lead,
        video_id="copy",
        content_key="key",
        carried_from="lead",
        moments=(),
        **dict.fromkeys(("input_tokens", "cached_input_tokens", "output_tokens", "cost_usd"), 0),
    )
    assert (asks._tallies["detail/requests"], asks._tallies["input_tokens"], asks._tallies["detail/carried over"]) == (1, 100, 1)


def test_a_person_looks_and_splits(pair: Workspace, vidattr: Callable[..., Any]) -> None:
    def said(*words: str) -> Any:
        return vidattr("duplicates", *words, "--workspace", pair.root)

    assert "copy" in said("list").out and "title of lead" in said("list").out
    unknown = said("split", "copi")
    assert unknown.exit_code == 2 and "did you mean 'copy'?" in unknown.err
    assert said("split", "copy", "lead").exit_code == 0
    assert (pathlib.Path(pair.root) / "apart.csv").read_text() == "video_id,apart_from\ncopy,lead\n"
    assert said("split", "lead", "copy", "--json").document == {
        "video_id": "lead",
        "apart_from": "copy",
        "new": False,
        "were_together": True,
    }
    said("split", "other")
    listed = said("list", "--json").document
    assert listed["apart"] == {"pairs": [["copy", "lead"]], "alone": ["other"]} and listed["groups"][0]["lead"] == "lead"
    assert "taken apart" in said("list").out
    (pathlib.Path(pair.root) / "apart.csv").write_text("video_id,apart_from\na,b,c\n")
    assert said().exit_code == 2 and "line 2: 'a,b,c' is no pair of ids" in said().err


def test_marks_survive_a_workspace_of_older_features(tmp_path: pathlib.Path) -> None:
    """Files that were written before there were fingerprints, or their times, give videos without any."""
    rows = to_table([features("old", film(1, 3))], VideoFeatures).drop_columns(["fingerprint_times_s"])
    ((video_id, (_, marks)),) = duplicates.marks_of("", rows.to_batches()[0])
    assert video_id == "old" and duplicates.Marks.from_bytes(marks).times_s == ()
    with pytest.raises(InvalidInput, match="cannot be apart from itself"):
        take_apart(Workspace(str(tmp_path)), "a", "a")


def test_a_search_is_due_after_features_were_written(tmp_path: pathlib.Path) -> None:
    workspace = Workspace(str(tmp_path))

    def ran(stage: str, minute: int, *files: str) -> bool:
        began = START + timedelta(minutes=minute)
        table = {"features": list(files)} if files else {}
        workspace.commit(RunRecord(f"{minute:03}", stage, began, began + timedelta(seconds=30), files=table))
        return copies.is_due(workspace)

    assert copies.is_due(workspace), "there was none"
    assert ran("extract", 1, "features/1/a.parquet")
    assert not ran("duplicates", 2)
    assert not ran("extract", 3), "it found everything done"
    assert ran("extract", 4, "features/4/a.parquet")
    assert not ran("duplicates", 5)
    take_apart(workspace, "a", "b")
    assert copies.is_due(workspace), "somebody was taken apart"
    record = replace(workspace.runs(copies.STAGE)[-1], run_id="006", arguments={copies.APART: copies.apart_digest(workspace)})
    workspace.commit(record)
    assert not copies.is_due(workspace)
    os.remove(workspace.path("apart.csv"))
    assert copies.is_due(workspace), "and back"
