"""Each clause of the contract, by an annotator that breaks it and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from features.annotators.contract import DEFINITIONS, ContractBroken, check_annotator, check_reply, videos
from features.annotators.gemini import GeminiClient
from features.annotators.model import ModelAnnotator
from features.annotators.model_server import ServerConfig, running
from features.annotators.openai_compatible import OpenAIClient
from features.annotators.prompt import PromptWriter
from features.annotators.protocol import AnnotationReply, AnnotationRequest, AnnotatorIdentity, Answer, Refusal, Usage
from features.annotators.settings import PromptSettings
from features.errors import BudgetSpent, InvalidInput, Permanent, Transient, Unavailable
from features.records import Moment
from tests.features.annotators.asking_models import settings_for

VALUES = {"calming": "true", "pace": "slow", "polish": "2.5"}
IDENTITY = AnnotatorIdentity("llm", "good-1")


class Good:
    """Keeps the contract."""

    identity: Any = IDENTITY

    def open(self) -> None: ...

    async def annotate(self, request: AnnotationRequest) -> Any:
        await asyncio.sleep(0.001)
        return AnnotationReply(tuple(Answer(each.name, VALUES[each.name], 0.5, "so") for each in request.definitions))

    async def close(self) -> None: ...


class Choosy(Good):
    async def annotate(self, request: AnnotationRequest) -> Any:
        reply = await super().annotate(request)
        return replace(reply, answers=(), refusals=(Refusal(reply.answers[0].attribute, "not_seen", "It is not seen."),))


class Raises(Good):
    def __init__(self, error: BaseException, times: int = 10**6) -> None:
        self.error, self.times = error, times

    async def annotate(self, request: AnnotationRequest) -> Any:
        self.times -= 1
        if self.times >= 0:
            raise self.error
        return await super().annotate(request)


def test_a_good_annotator_keeps_it() -> None:
    check_annotator(Good())


@pytest.mark.parametrize(
    "error", [Transient("busy"), Permanent("no", "invalid_request"), Unavailable("gone"), BudgetSpent("spent")]
)
def test_it_may_raise_what_it_may_raise(error: Exception) -> None:
    check_annotator(Raises(error, times=4))


def test_refusing_and_leaving_out_are_both_allowed() -> None:
    check_annotator(Choosy())


@pytest.mark.parametrize("kind", ["openai", "gemini"])
def test_our_own_models_keep_it(kind: str) -> None:
    with running(ServerConfig()) as server:
        settings = settings_for(server, kind)
        client = (OpenAIClient if kind == "openai" else GeminiClient)(settings)
        writer = PromptWriter(PromptSettings(), settings, definitions=DEFINITIONS)
        check_annotator(ModelAnnotator(client, writer, AnnotatorIdentity("llm", settings.name), no_cost))


def no_cost(usage: Usage) -> float:
    return 0.0


def broken(says: str, annotator: Any, **more: Any) -> None:
    with pytest.raises(ContractBroken, match=says):
        check_annotator(annotator, **more)


def first(reply: AnnotationReply, **fields: Any) -> AnnotationReply:
    """With the first answer changed."""
    return replace(reply, answers=(replace(reply.answers[0], **fields), *reply.answers[1:]))


CHANGES: list[tuple[Callable[[AnnotationReply], Any], str]] = [
    (lambda reply: None, "returned NoneType"),
    (lambda reply: first(reply, attribute="other"), "speaks of the attribute 'other'"),
    (lambda reply: first(reply, video_id="another"), "speaks of the video 'another'"),
    (lambda reply: replace(reply, answers=reply.answers * 2), "says 2 things"),
    (
        lambda reply: replace(reply, refusals=(Refusal(reply.answers[0].attribute, "not_seen", "x", video_id="ordinary"),)),
        "says 2 things|speaks of the video",
    ),
    (lambda reply: first(reply, value="maybe"), "neither 'true' nor 'false'"),
    (lambda reply: first(reply, value=True), "values are text"),
    (lambda reply: first(reply, probability=1.01), "probability 1.01"),
    (lambda reply: first(reply, probability=-0.01), "probability -0.01"),
    (lambda reply: first(reply, probability=float("nan")), "probability nan"),
    (lambda reply: first(reply, probability=True), "probability True"),
    (lambda reply: first(reply, probability="0.5"), "probability '0.5'"),
    (lambda reply: first(reply, rationale=None), "rationale"),
    (lambda reply: first(reply, answered_at=None), "answered_at"),
    (lambda reply: first(reply, moments=(Moment(5.0, 4.0),)), "a moment lies within"),
    (lambda reply: first(reply, moments=(Moment(0.0, 99.0),)), "a moment lies within"),
    (lambda reply: first(reply, input_tokens=-1), "give counts"),
    (lambda reply: first(reply, cached_input_tokens=5), "more cached than input"),
    (lambda reply: first(reply, cost_usd=float("inf")), "give US dollars"),
    (lambda reply: first(reply, cost_usd=0.1), "budgets count `spent`"),
    (lambda reply: first(reply, output_tokens=7), "budgets count `spent`"),
    (lambda reply: replace(reply, spent=Usage(requests=-1)), "spent.requests"),
    (lambda reply: replace(reply, answers=({},)), "neither an Answer nor a Refusal"),
    (
        lambda reply: replace(reply, answers=(), refusals=(Refusal(reply.answers[0].attribute, "Not seen!", "x"),)),
        "short stable word",
    ),
    (
        lambda reply: replace(reply, answers=(), refusals=(Refusal(reply.answers[0].attribute, "not_seen", ""),)),
        "short stable word",
    ),
    (lambda reply: AnnotationReply(), "neither answered nor refused anything"),
]


@pytest.mark.parametrize(("number", "says"), [(number, says) for number, (_, says) in enumerate(CHANGES)])
def test_replies_that_break_it(number: int, says: str) -> None:
    broken(says, Travels(number))


class Travels(Good):
    """Picklable, whatever its change is."""

    def __init__(self, number: int) -> None:
        self.number = number

    async def annotate(self, request: AnnotationRequest) -> Any:
        return CHANGES[self.number][0](await super().annotate(request))


def test_a_packed_reply_says_whose_answers_are_whose() -> None:
    one, two, _ = videos()
    request = AnnotationRequest(one, DEFINITIONS[:1], (two,))
    answer = Answer("calming", "true", None, "so", video_id=one.video_id)
    check_reply(AnnotationReply((answer, replace(answer, video_id=two.video_id))), request)
    with pytest.raises(ContractBroken, match="speaks of the video ''"):
        check_reply(AnnotationReply((replace(answer, video_id=""),)), request)


@pytest.mark.parametrize("error", [KeyError("calming"), InvalidInput("no"), ValueError("x"), TimeoutError()])
def test_other_errors_break_it(error: Exception) -> None:
    broken(f"annotate raises {type(error).__name__}.*raise Transient", Raises(error))


class Unpicklable(Good):
    def __init__(self) -> None:
        self.lock = asyncio.run  # a function travels by name
        self.held = (each for each in ())


class Forgetful(Good):
    def __init__(self) -> None:
        self.identity = replace(IDENTITY, parameters="made here")

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.identity = IDENTITY


_numbers = itertools.count()


class Fickle(Good):
    @property
    def identity(self) -> AnnotatorIdentity:  # type: ignore[override]
        return replace(IDENTITY, parameters=str(next(_numbers)))


class Learning(Good):
    async def annotate(self, request: AnnotationRequest) -> Any:
        self.identity = replace(IDENTITY, parameters="used")
        return await super().annotate(request)


class Stubborn(Good):
    async def annotate(self, request: AnnotationRequest) -> Any:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)
        return await super().annotate(request)


class Translating(Good):
    async def annotate(self, request: AnnotationRequest) -> Any:
        try:
            return await super().annotate(request)
        except asyncio.CancelledError as error:
            raise Transient("it was cancelled") from error


class Endless(Good):
    async def annotate(self, request: AnnotationRequest) -> Any:
        await asyncio.Event().wait()


class ClosedTwice(Good):
    closed = False

    async def close(self) -> None:
        if self.closed:
            raise RuntimeError("already closed")
        self.closed = True


class NeverClosed(Good):
    async def close(self) -> None:
        raise OSError("no such socket")


class NotAsync(Good):
    def annotate(self, request: AnnotationRequest) -> Any:  # type: ignore[override]
        return AnnotationReply()


class AsyncOpen(Good):
    async def open(self) -> None: ...  # type: ignore[override]


class Nameless(Good):
    identity = AnnotatorIdentity("llm", " ")


class Elsewhere(Good):
    identity = AnnotatorIdentity("oracle", "x")  # type: ignore[arg-type]


class Plain(Good):
    identity = "me"


@pytest.mark.parametrize(
    ("annotator", "says"),
    [
        (Unpicklable, "cannot be pickled before open"),
        (Forgetful, "identity changes when it is pickled"),
        (Fickle, "paid for again"),
        (Learning, "identity changes when it is used"),
        (Stubborn, "was cancelled and gave a reply"),
        (Translating, "was cancelled and raised Transient"),
        (ClosedTwice, "closing it twice raises RuntimeError"),
        (NeverClosed, "close raises OSError"),
        (NotAsync, "annotate is not an `async def` method"),
        (AsyncOpen, "open is not a plain method"),
        (Nameless, "model is empty"),
        (Elsewhere, "source is 'oracle'"),
        (Plain, "not an AnnotatorIdentity"),
    ],
)
def test_annotators_that_break_it(annotator: Callable[[], Any], says: str) -> None:
    broken(says, annotator())


def test_one_that_never_answers_is_not_waited_for() -> None:
    broken("annotate did not end within 0.2 s", Endless(), patience_s=0.2)
