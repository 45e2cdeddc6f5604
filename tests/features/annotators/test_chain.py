"""The whole chain around a model, over a real socket: what each layer hands to the next."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from features.annotators.budget import Ledger
from features.annotators.chain import ModelAsked, asking, plugged_in
from features.annotators.control import Control
from features.annotators.model_server import Rule, ServerConfig, running
from features.annotators.protocol import AnnotationReply, AnnotationRequest, Annotator, AnnotatorIdentity, Answer, Usage
from features.annotators.settings import ModelSettings, PaceSettings, PromptSettings
from features.attributes.definition import AttributeDefinition
from features.errors import BudgetSpent, InvalidInput
from features.records import VideoFeatures

FUNNY = AttributeDefinition("funny", "Funny", "Is it funny?", "It makes viewers laugh.")
SPOKEN = AttributeDefinition("spoken", "Spoken", "Is it well said?", "The words.", evidence=("transcript",))
SILENT = VideoFeatures("v1", "h", "c1", "1", title="Somebody falls off a chair", duration_s=3.0)
TALKING = VideoFeatures("v2", "h", "c2", "1", title="A speech", transcript="Friends, Romans, countrymen", duration_s=3.0)


def ask(annotator: Annotator, *requests: AnnotationRequest) -> list[Any]:
    async def all_of_them() -> list[Any]:
        annotator.open()
        try:
            return await asyncio.gather(*(annotator.annotate(request) for request in requests), return_exceptions=True)
        finally:
            await annotator.close()

    return asyncio.run(all_of_them())


def model(url: str, prompts: PromptSettings | None = None, **more: Any) -> ModelAsked:
    return ModelAsked("openai", ModelSettings(name="gpt-4.1-mini", base_url=url, **more), prompts or PromptSettings())


@pytest.mark.parametrize("ask_how", ["together", "each"])
def test_what_a_video_shows_nothing_of_is_refused_unpaid_and_the_rest_is_asked(ask_how: Any) -> None:
    with running(ServerConfig()) as server:
        asked = model(server.openai_url, PromptSettings(ask=ask_how))
        chain = asking(asked, PaceSettings(), Control())
        silent, talking, nothing = ask(
            chain,
            AnnotationRequest(SILENT, (FUNNY, SPOKEN)),
            AnnotationRequest(TALKING, (FUNNY, SPOKEN)),
            AnnotationRequest(SILENT, (SPOKEN,)),
        )
        assert [answer.attribute for answer in silent.answers] == ["funny"]
        assert [(refusal.attribute, refusal.kind) for refusal in (*silent.refusals, *nothing.refusals)] == [
            ("spoken", "no_evidence"),
            ("spoken", "no_evidence"),
        ]
        assert {answer.attribute for answer in talking.answers} == {"funny", "spoken"}
        assert nothing.spent == Usage() and server.stats()["paid_pairs"] == 3


def test_tries_that_broke_off_count_against_the_cap() -> None:
    with running(ServerConfig(rules=(Rule("close", times=2),))) as server:
        asked = model(server.openai_url)
        likely = asked.writer.estimate(AnnotationRequest(TALKING, (FUNNY,)))
        most = asked.ceiling(AnnotationRequest(TALKING, (FUNNY,)))
        cap = most.input_tokens + most.output_tokens + likely.input_tokens
        ledger, pace = Ledger(), PaceSettings(max_tokens=cap, longest_wait_s=0.01)
        chain = asking(asked, pace, Control(base=pace), ledger)
        first, second = ask(chain, AnnotationRequest(TALKING, (FUNNY,)), AnnotationRequest(SILENT, (FUNNY,)))
        assert len(first.answers) == 1
        assert ledger.lost.input_tokens == 2 * likely.input_tokens, "nobody knows whether the two were billed"
        assert isinstance(second, BudgetSpent)


def test_a_cap_holds_for_somebody_elses_annotator_too() -> None:
    class Dear:
        identity = AnnotatorIdentity("llm", "dear")

        def open(self) -> None: ...

        async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
            await asyncio.sleep(0)
            return AnnotationReply((Answer("funny", "true", None, ""),), spent=Usage(1, 100, 0, 10, 0.4))

        async def close(self) -> None: ...

    pace = PaceSettings(max_cost=1.0, in_flight=1)
    replies = ask(plugged_in(Dear(), pace, Control(base=pace)), *[AnnotationRequest(SILENT, (FUNNY,))] * 6)
    answered = [reply for reply in replies if isinstance(reply, AnnotationReply)]
    assert len(answered) < 6 and isinstance(replies[-1], BudgetSpent)


def test_what_cannot_be_asked_is_said_before_anything_is() -> None:
    with pytest.raises(InvalidInput, match="pass --model NAME"):
        ModelAsked("openai", ModelSettings())
    with pytest.raises(InvalidInput, match="'baseline' sends no prompt"):
        ModelAsked("baseline", ModelSettings(name="m"))
    with pytest.raises(InvalidInput, match="--clips is for the gemini annotator"):
        asking(model("http://127.0.0.1:1/v1", clips=True), PaceSettings(), Control())


def test_where_a_model_is_does_not_count_and_what_it_is_sent_does() -> None:
    here, there = model("http://127.0.0.1:1/v1").identity, model("http://127.0.0.1:2/v1", timeout_s=5).identity
    assert here == there
    others = [
        model("http://127.0.0.1:1/v1", PromptSettings(ask="each")).identity,
        model("http://127.0.0.1:1/v1", PromptSettings(ask="each", first_token=True)).identity,
        model("http://127.0.0.1:1/v1", temperature=1.0).identity,
        model("http://127.0.0.1:1/v1", PromptSettings(frames=2)).identity,
    ]
    keys = {identity.answer_key("content", FUNNY.definition_hash) for identity in (here, *others)}
    assert len(keys) == 5
