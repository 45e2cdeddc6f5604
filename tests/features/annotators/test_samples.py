from __future__ import annotations

import asyncio
import statistics
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.annotators.protocol import (
    AnnotationReply,
    AnnotationRequest,
    AnnotatorIdentity,
    Answer,
    Refusal,
    Usage,
)
from features.annotators.samples import Samples
from features.attributes.definition import AttributeDefinition
from features.errors import BudgetSpent, Permanent, Transient
from features.records import Moment, VideoFeatures

FUNNY = AttributeDefinition("funny", "Funny", "Is it funny?", "It makes people laugh.")
MOOD = AttributeDefinition("mood", "Mood", "Which mood?", "Mood.", value_type="category", labels=("calm", "wild", "sad"))
PACE = AttributeDefinition("pace", "Pace", "How fast?", "Pace.", value_type="score", score_range=(0.0, 10.0))
CAT = VideoFeatures("cat", "h", "k", "1", title="A cat")
COST = Usage(1, 100, 10, 5, 0.01)

Outcome = Answer | Refusal | Exception | None


class Scripted:
    """Sample i gets outcome i; None: the pair stays pending."""

    identity = AnnotatorIdentity("llm", "m")

    def __init__(self, outcomes: list[Outcome]) -> None:
        self.outcomes = outcomes
        self.asked: list[int] = []
        self.flying = self.most = 0

    def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        self.asked.append(request.sample)
        self.flying += 1
        self.most = max(self.most, self.flying)
        await asyncio.sleep(0)
        self.flying -= 1
        outcome = self.outcomes[request.sample]
        if isinstance(outcome, Exception):
            raise outcome
        answers = (outcome,) if isinstance(outcome, Answer) else ()
        refusals = (outcome,) if isinstance(outcome, Refusal) else ()
        return AnnotationReply(answers, refusals, COST, "" if outcome else "left")


def says(definition: AttributeDefinition, value: str, probability: float | None = None, **more: object) -> Answer:
    return Answer(definition.name, value, probability, more.pop("rationale", value), 100, 10, 5, 0.01, 3.0, **more)  # type: ignore[arg-type]


def ask(definition: AttributeDefinition, outcomes: list[Outcome]) -> AnnotationReply:
    return asyncio.run(Samples(Scripted(outcomes), len(outcomes)).annotate(AnnotationRequest(CAT, (definition,))))


def votes(definition: AttributeDefinition, *values: str) -> tuple[str, float | None]:
    (answer,) = ask(definition, [says(definition, value) for value in values]).answers
    return answer.value, answer.probability


def test_asks_as_often_as_told_and_at_once() -> None:
    scripted = Scripted([says(FUNNY, "true")] * 5)
    reply = asyncio.run(Samples(scripted, 5).annotate(AnnotationRequest(CAT, (FUNNY,))))
    assert scripted.asked == [0, 1, 2, 3, 4] and scripted.most == 5
    assert reply.spent == sum([COST] * 5, Usage())


@pytest.mark.parametrize(
    ("definition", "values", "value", "probability"),
    [
        (FUNNY, ("true", "true", "false"), "true", 2 / 3),
        (FUNNY, ("false", "true", "false"), "false", 1 / 3),
        (FUNNY, ("false", "true"), "false", 0.5),
        (FUNNY, ("true", "false"), "true", 0.5),
        (FUNNY, ("true",), "true", 1.0),
        (MOOD, ("calm", "wild", "wild"), "wild", 2 / 3),
        (MOOD, ("sad", "wild", "calm"), "sad", 1 / 3),
        (MOOD, ("calm", "wild", "sad", "wild", "sad"), "wild", 2 / 5),
        (PACE, ("9", "1", "3"), "3", 1 / 3),
        (PACE, ("10", "9", "2", "2"), "2", 1 / 2),
        (PACE, ("10", "9.5", "2", "1"), "2", 1 / 4),
    ],
)
def test_the_vote(definition: AttributeDefinition, values: tuple[str, ...], value: str, probability: float) -> None:
    assert votes(definition, *values) == (value, pytest.approx(probability))


@given(st.lists(st.sampled_from(MOOD.labels), min_size=1, max_size=12))
def test_the_vote_against_a_count(values: list[str]) -> None:
    value, probability = votes(MOOD, *values)
    count = Counter(values)
    assert count[value] == max(count.values()) and probability == pytest.approx(count[value] / len(values))


@given(st.lists(st.floats(0, 10), min_size=1, max_size=12))
def test_the_score_against_the_library(numbers: list[float]) -> None:
    assert float(votes(PACE, *map(repr, numbers))[0]) == statistics.median_low(numbers)


def test_log_probabilities_are_averaged() -> None:
    (answer,) = ask(FUNNY, [says(FUNNY, "true", 0.9), says(FUNNY, "true", 0.6), says(FUNNY, "false", 0.3)]).answers
    assert (answer.value, answer.probability) == ("true", pytest.approx(0.6))
    (answer,) = ask(FUNNY, [says(FUNNY, "true", 0.9), says(FUNNY, "true")]).answers
    assert answer.probability == 1.0, "one without: the votes count"
    (answer,) = ask(MOOD, [says(MOOD, "calm", 0.9), says(MOOD, "wild", 0.6), says(MOOD, "calm", 0.5)]).answers
    assert answer.probability == pytest.approx(2 / 3), "what the others gave to this label is not known"


def test_reason_and_moments_are_those_of_the_first_that_says_so_and_tokens_of_all() -> None:
    first, second = Moment(1.0, 2.0), Moment(3.0, 4.0)
    answers = [
        says(FUNNY, "false", rationale="dull"),
        says(FUNNY, "true", rationale="cat falls", moments=(first,), model="m-1"),
        says(FUNNY, "true", rationale="loud", moments=(second,), model="m-2"),
    ]
    (answer,) = ask(FUNNY, [*answers]).answers
    assert (answer.rationale, answer.moments, answer.model) == ("cat falls", (first,), "m-1")
    assert (answer.input_tokens, answer.cached_input_tokens, answer.output_tokens) == (300, 30, 15)
    assert answer.cost_usd == pytest.approx(0.03)


class TestWhereSamplesAreMissing:
    REFUSED = Refusal("funny", "refused", "declined", "d1")
    BLOCKED = Refusal("funny", "blocked", "violence", "d2")

    def test_refused_ones_are_left_out(self) -> None:
        reply = ask(FUNNY, [self.REFUSED, says(FUNNY, "true"), says(FUNNY, "false"), says(FUNNY, "true")])
        assert reply.answers[0].probability == pytest.approx(2 / 3) and not reply.refusals

    def test_half_is_enough(self) -> None:
        assert len(ask(FUNNY, [self.REFUSED, self.REFUSED, says(FUNNY, "true"), says(FUNNY, "true")]).answers) == 1

    def test_fewer_than_half_is_a_refusal_of_the_most_frequent_kind(self) -> None:
        reply = ask(FUNNY, [self.REFUSED, self.BLOCKED, self.BLOCKED, says(FUNNY, "true"), Permanent("x", "too_large")])
        (refusal,) = reply.refusals
        assert (refusal.kind, refusal.reply_digest, refusal.video_id) == ("blocked", "d2", "cat") and not reply.answers
        assert "1 of 5 samples answered; violence" in refusal.message and reply.spent.requests == 4

    def test_the_only_sample_refused(self) -> None:
        assert ask(FUNNY, [self.REFUSED]).refusals[0].kind == "refused"

    def test_failed_ones_leave_the_pair_pending_where_they_could_decide(self) -> None:
        reply = ask(FUNNY, [says(FUNNY, "true"), Transient("busy"), Transient("busy"), self.REFUSED])
        assert not reply.answers and not reply.refusals and reply.why_pending == "busy" and reply.spent.requests == 2
        reply = ask(FUNNY, [says(FUNNY, "true"), says(FUNNY, "true"), Transient("busy"), BudgetSpent("cap")])
        assert len(reply.answers) == 1 and reply.why_pending == ""
        reply = ask(FUNNY, [None, None, says(FUNNY, "true")])
        assert not reply.answers and reply.why_pending == "left"

    def test_refused_for_good_where_they_could_not(self) -> None:
        reply = ask(FUNNY, [self.REFUSED, self.REFUSED, self.REFUSED, Transient("busy")])
        assert reply.refusals[0].kind == "refused" and reply.why_pending == ""

    @pytest.mark.parametrize(
        ("errors", "raised"),
        [
            ([Transient("a"), BudgetSpent("b"), Permanent("c")], BudgetSpent),
            ([Permanent("c"), Transient("a")], Transient),
            ([Permanent("c"), Permanent("d")], Permanent),
        ],
    )
    def test_where_not_one_came_back_it_is_raised(self, errors: list[Outcome], raised: type[Exception]) -> None:
        with pytest.raises(raised):
            ask(FUNNY, errors)

    def test_a_defect_is_not_hidden(self) -> None:
        with pytest.raises(ZeroDivisionError):
            ask(FUNNY, [says(FUNNY, "true"), ZeroDivisionError()])


outcomes = st.sampled_from(
    [
        says(FUNNY, "true"),
        says(FUNNY, "false"),
        Refusal("funny", "refused", "m"),
        None,
        Transient("busy"),
        Permanent("no", "too_large"),
        Answer("cute", "true", None, ""),
    ]
)


@given(st.lists(outcomes, min_size=1, max_size=9))
def test_a_pair_is_answered_refused_or_pending(script: list[Outcome]) -> None:
    try:
        reply = ask(FUNNY, script)
    except (Transient, Permanent):
        assert all(isinstance(outcome, Exception) for outcome in script)
        return
    assert [each.attribute for each in (*reply.answers, *reply.refusals)] in (["funny"], [])
    assert bool(reply.answers or reply.refusals) != bool(reply.why_pending)
    assert reply.spent.requests == sum(not isinstance(outcome, Exception) for outcome in script)
