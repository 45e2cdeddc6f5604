from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Callable

import pytest

from features.annotators.exchange import Completion, Prompt
from features.annotators.model import ModelAnnotator
from features.annotators.prompt import PromptWriter
from features.annotators.protocol import AnnotationReply, AnnotationRequest, AnnotatorIdentity, Usage
from features.annotators.settings import ModelSettings, PromptSettings
from features.attributes.definition import AttributeDefinition
from features.errors import Permanent, Transient, Unavailable, VidattrError
from features.records import VideoFeatures

FUNNY = AttributeDefinition("funny", "Funny", "Is it funny?", "It makes people laugh.")
CUTE = AttributeDefinition("cute", "Cute", "Is it cute?", "It makes people smile.")
CAT = VideoFeatures("cat", "h", "k", "1", title="A cat", duration_s=10.0)
IDENTITY = AnnotatorIdentity("llm", "model-1", "p", "x")
USAGE = Usage(1, 100, 40, 20)


class Client:
    """Carries prompts to a function."""

    def __init__(self, replies: Callable[[Prompt], Completion]) -> None:
        self.replies = replies
        self.events: list[str] = []

    def open(self) -> None:
        self.events.append("open")

    async def complete(self, prompt: Prompt) -> Completion:
        self.events.append("complete")
        return self.replies(prompt)

    async def close(self) -> None:
        self.events.append("close")


def annotator(client: Client, cost: Callable[[Usage], float] = lambda usage: usage.input_tokens * 0.001) -> ModelAnnotator:
    return ModelAnnotator(client, PromptWriter(PromptSettings(), ModelSettings(name="m")), IDENTITY, cost, clock=lambda: 7.0)


def good(prompt: Prompt) -> Completion:
    text = json.dumps({"id": "v1", "attributes": {"funny": {"value": True}, "cute": {"value": False}}})
    return Completion(text, "stop", "", USAGE, "model-1-0611")


def ask(asked: ModelAnnotator) -> AnnotationReply:
    return asyncio.run(asked.annotate(AnnotationRequest(CAT, (FUNNY, CUTE))))


def test_one_call_is_one_exchange() -> None:
    client = Client(good)
    asked = annotator(client)
    asked.open()
    reply = ask(asked)
    asyncio.run(asked.close())
    assert client.events == ["open", "complete", "close"]
    assert [(answer.value, answer.model, answer.answered_at, answer.cost_usd) for answer in reply.answers] == [
        ("true", "model-1-0611", 7.0, 0.05),
        ("false", "model-1-0611", 7.0, 0.05),
    ]
    assert reply.spent == Usage(1, 100, 40, 20, 0.1) and asked.identity is IDENTITY


@pytest.mark.parametrize("error", [Transient("busy", 3.0, True), Permanent("too long", "too_large"), Unavailable("key")])
def test_what_the_client_raises_goes_through(error: VidattrError) -> None:
    def fails(prompt: Prompt) -> Completion:
        raise error

    with pytest.raises(type(error)) as raised:
        ask(annotator(Client(fails)))
    assert raised.value is error


def test_what_was_paid_for_is_counted_even_where_reading_it_fails(caplog: pytest.LogCaptureFixture) -> None:
    def odd(prompt: Prompt) -> Completion:
        return Completion(None, "stop", "", USAGE, "m")  # type: ignore[arg-type]

    reply = ask(annotator(Client(odd)))
    assert [refusal.kind for refusal in reply.refusals] == ["unreadable_reply"] * 2
    assert reply.spent == Usage(1, 100, 40, 20, 0.1) and "AttributeError" in caplog.text


def test_even_where_its_price_can_not_be_told(caplog: pytest.LogCaptureFixture) -> None:
    def cost(usage: Usage) -> float:
        raise KeyError("m")

    reply = ask(annotator(Client(good), cost))
    assert len(reply.refusals) == 2 and reply.spent == USAGE
    assert "cost of a reply" in caplog.text


def test_a_video_of_which_nothing_can_be_shown_costs_nothing() -> None:
    client = Client(good)
    nothing = AnnotationRequest(VideoFeatures("x", "h", "k", "1"), (FUNNY,))
    with pytest.raises(Permanent):
        asyncio.run(annotator(client).annotate(nothing))
    assert client.events == []


def test_travels_to_workers() -> None:
    asked = ModelAnnotator(Client(good), PromptWriter(PromptSettings(), ModelSettings(name="m")), IDENTITY, usage_cost)
    assert pickle.loads(pickle.dumps(asked)).identity == IDENTITY


def usage_cost(usage: Usage) -> float:
    return 0.0
