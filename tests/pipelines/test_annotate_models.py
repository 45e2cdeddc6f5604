"""The annotation stage with model servers: what is asked again and what is not, who answers, and what a person says meanwhile."""

from __future__ import annotations

import functools
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow.parquet as pq
import pytest

from features.annotators.control import Control
from features.annotators.model_server import Rule
from features.records import Annotation, to_table
from pipelines import annotate, annotators, stopping
from pipelines.annotators import CONTROL
from pipelines.counters import live
from pipelines.planning import Question
from tests.faults.asked_over_http import (
    DEFINITIONS,
    MODELS,
    NAMES,
    At,
    annotate_against,
    asking,
    billed,
    meanwhile,
    paid,
    pairs_of,
    serving,
    workspace_with,
)


@pytest.fixture(autouse=True)
def nobody_stops() -> Iterator[None]:
    """A stop that a test asked for ends with it."""
    yield
    stopping._requested.clear()


@pytest.fixture
def prompt_control(monkeypatch: pytest.MonkeyPatch) -> None:
    """control.yaml is looked at more often than every other second."""
    monkeypatch.setattr(annotators, "Control", functools.partial(Control, every_s=0.02))


def until(true: Callable[[], object], what: str) -> None:
    """Waits until something holds."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def test_an_edit_asks_for_that_attribute_and_a_new_model_for_everything(tmp_path: pathlib.Path) -> None:
    workspace, videos = workspace_with(tmp_path / "w", 6), range(6)
    edited = tuple(replace(each, question="How quick is it?") if each.name == "pace" else each for each in DEFINITIONS)
    with serving() as server:
        first = annotate_against(server, workspace)
        server.reset()
        second = annotate_against(server, workspace, definitions=edited)
        assert paid(server) == dict.fromkeys(pairs_of(*videos, names=["pace"]), 1)
        assert {pair: value for pair, value in second.values.items() if pair[1] != "pace"} == {
            pair: value for pair, value in first.values.items() if pair[1] != "pace"
        }
        server.reset()
        third = annotate_against(server, workspace, definitions=edited, model={"name": "gpt-4.1-nano"})
        assert paid(server) == dict.fromkeys(pairs_of(*videos), 1)
        assert {row.annotator for row in third.annotated.values()} != {row.annotator for row in first.annotated.values()}


@pytest.mark.parametrize(
    ("protocol", "prompts"),
    [("openai", {}), ("gemini", {"videos_per_request": 4}), ("openai", {"ask": "each"})],
    ids=["together", "packed", "each"],
)
def test_the_cached_prefix_stays_the_same_over_a_run(protocol: str, prompts: dict[str, Any], tmp_path: pathlib.Path) -> None:
    workspace = workspace_with(tmp_path / "w", 24)
    mended = Rule("text", text="Perhaps", contains="#clip-007", turn="first")
    with serving(rules=[mended], cache_minimum_tokens=0) as server:
        outcome = annotate_against(server, workspace, protocol, prompts=prompts)
        stats = server.stats()
        assert len(outcome.annotated) == 24 * len(NAMES) and billed(server, outcome)
        assert stats["repairs"] > 0 and stats["repair_first_turns"] == {"same": stats["repairs"], "changed": 0}
        if prompts.get("ask") == "each":
            assert len(stats["prefixes"]) == 1
            repeats = stats["accepted"] - 24
            assert stats["video_prefixes"] == {"videos": 24, "same": repeats, "changed": 0}
        else:
            assert all(len(systems) == 1 for systems in stats["prefixes_by_definitions"].values())
            # A pack that is taken apart has another system text for single videos; nothing else may differ.
            assert len(stats["prefixes"]) == len(stats["prefixes_by_definitions"]) <= 1 + ("videos_per_request" in prompts)
        assert stats["tokens"]["cached"] > 0.3 * stats["tokens"]["input"]


def test_what_a_model_says_beside_its_verdict_reaches_the_table_and_older_tables_are_still_read(tmp_path: pathlib.Path) -> None:
    workspace = workspace_with(tmp_path / "w", 4)
    old = Annotation("clip-000", "calming", "h", "true", 0.5, "", "llm", "old", "another-key", run_id="old")
    with serving() as server:
        record = annotate_against(server, workspace).record
    rows = [row for row in workspace.rows(Annotation) if row.run_id == record.run_id]
    assert all(row.moments and 0 <= row.moments[0].start_s <= row.moments[0].end_s <= 12 for row in rows)
    (model,) = {row.annotator for row in rows}
    assert model.startswith(MODELS["openai"]), "the version that the server says it is"
    verdicts = [row for row in rows if row.attribute != "polish"]
    assert all(row.raw_probability == row.probability and row.probability is not None for row in verdicts)
    assert record.forecast["requests"] == record.details["detail/requests"] == 4
    assert record.forecast["cost_usd"] > 0 < record.cost_usd

    plain = to_table([old], Annotation).drop_columns(["raw_probability", "moments"])
    name = workspace.path("annotations", "old", "old.parquet")
    os.makedirs(os.path.dirname(name))
    pq.write_table(plain, name)
    workspace.commit(replace(record, run_id="00-old", files={"annotations": ["annotations/old/old.parquet"]}))
    table = workspace.read("annotations")
    assert table.schema.equals(Annotation.SCHEMA) and table["raw_probability"].null_count >= 1
    first = next(iter(workspace.rows(Annotation)))
    assert (first.annotator, first.raw_probability, first.moments) == ("old", None, ())
    with serving() as server:
        annotate_against(server, workspace)
        assert server.stats()["accepted"] == 0, "the old row is in nobody's way"


def test_only_failed_asks_another_model_and_an_answer_closes_the_letter(tmp_path: pathlib.Path) -> None:
    workspace = workspace_with(tmp_path / "w", 6)
    rules = [Rule("refusal", contains="#clip-001"), Rule("safety", contains="#clip-002"), Rule("not_json", contains="#clip-003")]
    other: dict[str, Any] = {"model": {"name": "gpt-4.1-nano"}}
    with serving(rules=rules) as server:
        first = annotate_against(server, workspace)
        assert first.dead.keys() == pairs_of(1, 2, 3)
        server.reset()
        server.rules(Rule("refusal", contains="#clip-002"))
        kinds = annotate_against(server, workspace, how={"only_failed": True, "kinds": ("blocked", "refused")}, **other)
        assert paid(server) == dict.fromkeys(pairs_of(1, 2), 1), "only those of the wanted kinds"
        assert kinds.annotated.keys() == pairs_of(1) and kinds.dead.keys() == pairs_of(2)
        server.reset()
        server.rules()
        rest = annotate_against(server, workspace, how={"only_failed": True}, **other)
        assert paid(server) == dict.fromkeys(pairs_of(2, 3), 1), "the answered one is closed, the refused one is not"
        assert rest.annotated.keys() == pairs_of(2, 3)
        server.reset()
        nothing = annotate_against(server, workspace, how={"only_failed": True}, **other)
        assert server.stats()["generations"] == 0 and nothing.record.counts.into == 0


def test_a_fallback_answers_what_the_first_refuses_and_says_so(tmp_path: pathlib.Path) -> None:
    workspace = workspace_with(tmp_path / "w", 6)
    refuses = [Rule("refusal", contains="#clip-001", model=MODELS["openai"]), Rule("safety", contains="#clip-002")]
    with serving(rules=refuses) as server:
        second = asking(server, "gemini")
        outcome = annotate_against(server, workspace, fallback=second)
        assert outcome.dead.keys() == pairs_of(2), "refused by both"
        assert all("fallback" in row.message for row in outcome.dead.values())
        assert outcome.annotated.keys() == pairs_of(0, 1, 3, 4, 5) and not outcome.pending
        by = {pair: row.annotator.startswith(MODELS["gemini"]) for pair, row in outcome.annotated.items()}
        assert {pair for pair, from_second in by.items() if from_second} == pairs_of(1)
        assert billed(server, outcome), "what both cost is in the books"
        before = server.stats()["generations"]
        again = annotate_against(server, workspace, fallback=second)
        assert server.stats()["generations"] == before and again.values == outcome.values


def test_a_fallback_answers_while_the_first_is_down(tmp_path: pathlib.Path) -> None:
    workspace = workspace_with(tmp_path / "w", 8)
    with serving(rules=[Rule("status", status=503, after=4, protocol="openai")]) as server:
        pace = {"attempts": 1, "in_flight": 2}
        outcome = annotate_against(server, workspace, fallback=asking(server, "gemini"), pace=pace)
        assert outcome.annotated.keys() == pairs_of(*range(8)) and billed(server, outcome)
        models = {row.annotator for row in outcome.annotated.values()}
        assert len(models) == 2 and set(paid(server).values()) == {1}


def test_what_is_in_flight_when_a_bundle_fails_is_paid_once(tmp_path: pathlib.Path) -> None:
    """A bundle that raises is taken down without its end: its answers are on their way, and the next try finds them."""
    workspace = workspace_with(tmp_path / "w", 3)
    (features,) = workspace.files("features")
    with serving(latency_s=0.3) as server:
        asks = annotate.AskFn(annotate.told(annotate.AnnotateConfig(workspace, DEFINITIONS, asking(server))))
        asks.setup()
        asks.start_bundle()
        questions = [Question(f"clip-{number:03}", NAMES, 0, 0).to_json() for number in range(3)]
        assert list(asks.process((features.path, questions))) == []
        asks.teardown()
        assert annotate_against(server, workspace).annotated.keys() == pairs_of(0, 1, 2)
        assert server.stats()["generations"] == 3


@pytest.mark.soak
def test_a_run_that_is_paused_waits_and_goes_on(tmp_path: pathlib.Path, prompt_control: None) -> None:
    workspace, videos = workspace_with(tmp_path / "w", 36), 36
    control = pathlib.Path(workspace.path(CONTROL))
    seen: list[int] = []

    def person() -> None:
        until(lambda: "paused by control.yaml" in live.trouble(), "it was to say that it is paused")
        until(lambda: server.stats()["accepted"] >= 5 and server.stats()["in_flight"] == 0, "what is in flight is finished")
        seen.append(server.stats()["generations"])
        time.sleep(0.5)
        seen.append(server.stats()["generations"])
        control.write_text("in_flight: 2\n")
        until(lambda: server.stats()["generations"] > seen[-1] + 4, "it was to go on")

    fifth = At(5, lambda: control.write_text("paused: true\nnote: lunch\n"))
    with serving(judge=fifth, latency_s=0.1) as server, meanwhile(person):
        outcome = annotate_against(server, workspace, pace={"in_flight": 3})
        assert seen[0] == seen[1] < videos, "nothing new is sent while it is paused"
        assert outcome.annotated.keys() == pairs_of(*range(videos)) and set(paid(server).values()) == {1}
    control.unlink()


@pytest.mark.soak
def test_fewer_requests_at_a_time_may_be_ordered(tmp_path: pathlib.Path, prompt_control: None) -> None:
    workspace, videos = workspace_with(tmp_path / "w", 80), 80
    control, most = pathlib.Path(workspace.path(CONTROL)), []

    def person() -> None:
        until(control.exists, "it was to come so far")
        most.append(server.stats()["most_in_flight"])
        until(lambda: server.stats()["in_flight"] <= 2, "it was to be slower")
        server.reset()
        until(lambda: server.stats()["accepted"] >= 10, "it was to go on")
        most.append(server.stats()["most_in_flight"])

    twentieth = At(20, lambda: control.write_text("in_flight: 2\n"))
    with serving(judge=twentieth, latency_s=0.1) as server, meanwhile(person):
        outcome = annotate_against(server, workspace, pace={"in_flight": 16})
    assert most[0] > 6 and most[1:] == [2] and len(outcome.annotated) == videos * len(NAMES)


@pytest.mark.parametrize("by", [pytest.param("control.yaml", marks=pytest.mark.soak), "Ctrl-C"])
def test_a_stop_keeps_what_is_answered_and_the_next_run_pays_only_for_the_rest(
    by: str, tmp_path: pathlib.Path, prompt_control: None
) -> None:
    workspace, videos, in_flight = workspace_with(tmp_path / "w", 40), 40, 4
    control = pathlib.Path(workspace.path(CONTROL))

    def stop() -> None:
        if by == "Ctrl-C":
            stopping.request()
        else:
            control.write_text("stopped: true\nnote: enough for today\n")

    with serving(judge=At(8, stop), latency_s=0.1) as server:
        outcome = annotate_against(server, workspace, pace={"in_flight": in_flight})
        answered = server.stats()["accepted"]
        assert 8 <= answered < videos and not outcome.dead
        assert outcome.annotated.keys() == paid(server).keys(), "what was in flight is kept"
        if by == "control.yaml":
            assert "control.yaml says stopped (enough for today)" in outcome.why_pending
            control.unlink()
        stopping._requested.clear()
        rest = annotate_against(server, workspace, pace={"in_flight": in_flight})
        assert rest.annotated.keys() == pairs_of(*range(videos)) and set(paid(server).values()) == {1}
        assert rest.values | outcome.values == rest.values
