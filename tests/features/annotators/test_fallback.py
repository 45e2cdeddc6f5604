"""Another model answers where the first does not, and the label says so."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from features.annotators.fallback import Fallback
from features.annotators.protocol import AnnotationReply, AnnotationRequest, Answer, Refusal, Usage
from features.errors import BudgetSpent, Permanent, Stopped, Transient, Unavailable, VidattrError
from features.records import VideoFeatures
from tests.features.annotators.wrapping import CALM, FUNNY, Scripted, request, virtually

SPENT, MORE = Usage(1, 100, 10, 5, 0.1), Usage(1, 300, 0, 7, 0.4)
YES, NO = Answer("funny", "true", 0.9, "a laugh"), Answer("calm", "false", 0.2, "noise")
BLOCKED = Refusal("calm", "blocked", "the safety system says violence")
SHY = Refusal("calm", "refused", "it would rather not")
BOTH = request("v1", FUNNY, CALM)


def ask(first: Any, second: Any, about: AnnotationRequest = BOTH, **given: Any) -> tuple[Any, list[AnnotationRequest]]:
    async def main() -> tuple[Any, list[AnnotationRequest]]:
        asked: list[AnnotationRequest] = []

        async def note(each: AnnotationRequest) -> Any:
            asked.append(each)
            return await second(each) if callable(second) else second

        annotator = Fallback(Scripted(first, model="one"), Scripted(note, model="two"), **given)
        try:
            return await annotator.annotate(about), asked
        except VidattrError as error:
            return error, asked

    return virtually(main)


TWO = Scripted(model="two").identity


def test_only_what_the_first_refused_is_asked_again() -> None:
    reply, asked = ask(AnnotationReply((YES,), (BLOCKED,), SPENT), AnnotationReply((NO,), (), MORE))
    assert [each.definitions for each in asked] == [(CALM,)]
    assert reply == AnnotationReply((YES, dataclasses.replace(NO, by=TWO)), (), SPENT + MORE)


def test_nothing_is_asked_twice_where_the_first_answers_all() -> None:
    reply, asked = ask(AnnotationReply((YES, NO), (), SPENT), Transient("never asked"))
    assert not asked and reply == AnnotationReply((YES, NO), (), SPENT)


@pytest.mark.parametrize("error", [Unavailable("key revoked"), Transient("time-out"), Permanent("bad schema", "invalid_request")])
def test_the_second_answers_where_the_first_is_down(error: VidattrError) -> None:
    reply, asked = ask(error, AnnotationReply((YES, NO), (), MORE))
    assert len(asked) == 1 and asked[0] is BOTH
    assert [answer.by for answer in reply.answers] == [TWO, TWO] and reply.spent == MORE and reply.why_pending == ""


@pytest.mark.parametrize("error", [BudgetSpent("cap"), Stopped("stop")])
def test_a_spent_budget_and_a_stop_are_not_down(error: VidattrError) -> None:
    result, asked = ask(error, AnnotationReply((YES, NO), (), MORE))
    assert result is error and not asked
    result, _ = ask(Unavailable("key revoked"), error)
    assert result is error, "nor are the second's"


def test_a_pair_that_both_refuse_keeps_the_first_reason_and_adds_the_second() -> None:
    reply, _ = ask(AnnotationReply((YES,), (BLOCKED,), SPENT), AnnotationReply((), (SHY,), MORE))
    assert reply.answers == (YES,) and len(reply.refusals) == 1
    assert reply.refusals[0].kind == "blocked"
    assert reply.refusals[0].message == "the safety system says violence; the fallback: it would rather not (refused)"
    reply, _ = ask(AnnotationReply((YES,), (BLOCKED,), SPENT), Permanent("bad schema", "invalid_request"))
    assert reply.refusals[0].kind == "blocked" and "bad schema (invalid_request)" in reply.refusals[0].message
    result, _ = ask(Permanent("one says no", "invalid_request"), Permanent("two says no", "too_large"))
    assert (
        isinstance(result, Permanent)
        and result.kind == "invalid_request"
        and "one says no; the fallback: two says no" in str(result)
    )


@pytest.mark.parametrize("error", [Transient("time-out"), Unavailable("no key"), Stopped("stop"), BudgetSpent("cap")])
def test_what_the_second_could_not_be_asked_for_is_pending_and_what_the_first_answered_is_kept(error: VidattrError) -> None:
    reply, _ = ask(AnnotationReply((YES,), (BLOCKED,), SPENT), error)
    assert reply.answers == (YES,) and reply.refusals == () and reply.spent == SPENT
    assert str(error) in reply.why_pending


def test_both_down() -> None:
    result, _ = ask(Unavailable("key one"), Unavailable("key two"))
    assert isinstance(result, Unavailable) and "key one; the fallback: key two" in str(result)
    for first, second in (
        (Unavailable("one"), Transient("two")),
        (Transient("one", 3.0), Unavailable("two")),
        (Permanent("one"), Unavailable("two")),
        (Transient("one"), Permanent("two")),
    ):
        result, _ = ask(first, second)
        assert isinstance(result, Transient) and "one; the fallback: two" in str(result), "pending: it may work another time"


def test_what_the_first_left_stays_its_own() -> None:
    """A batch job has it, or the run was stopped, or a cap is reached: it is not to be paid for with somebody else."""
    left = AnnotationReply((YES,), (), SPENT, "in a batch job")
    reply, asked = ask(left, Transient("never asked"))
    assert not asked and reply == left
    reply, asked = ask(AnnotationReply((), (SHY,), SPENT, "in a batch job"), AnnotationReply((NO,), (), MORE))
    refused = {SHY.attribute}
    assert {definition.name for definition in asked[0].definitions} == refused


def test_only_the_kinds_that_are_named() -> None:
    reply, asked = ask(AnnotationReply((YES,), (SHY,), SPENT), Transient("never asked"), kinds={"blocked"})
    assert not asked and reply.refusals == (SHY,)
    result, asked = ask(Permanent("too large", "too_large"), Transient("never asked"), kinds={"blocked"})
    assert isinstance(result, Permanent) and not asked


def test_an_answer_of_a_fallback_of_a_fallback_says_whose_it_is() -> None:
    three = Scripted(model="three").identity
    reply, _ = ask(Transient("down"), AnnotationReply((dataclasses.replace(YES, by=three), NO), (), MORE))
    assert [answer.by for answer in reply.answers] == [three, TWO]


def test_packed_videos_are_told_apart() -> None:
    about = dataclasses.replace(BOTH, packed_with=(VideoFeatures("v2", "h2", "c2", "1"),))

    def of(item: Any, video_id: str) -> Any:
        return dataclasses.replace(item, video_id=video_id)

    first = AnnotationReply(
        (of(YES, "v1"), of(NO, "v2")), (of(BLOCKED, "v1"), Refusal("funny", "refused", "no", video_id="v2")), SPENT
    )

    async def second(each: AnnotationRequest) -> AnnotationReply:
        if each.video.video_id == "v1":
            raise Transient("down")
        return AnnotationReply((YES,), (), MORE)

    reply, asked = ask(first, second, about)
    assert {(each.video.video_id, each.definitions, each.packed_with) for each in asked} == {
        ("v1", (CALM,), ()),
        ("v2", (FUNNY,), ()),
    }
    assert [(answer.video_id, answer.attribute) for answer in reply.answers] == [("v1", "funny"), ("v2", "calm"), ("v2", "funny")]
    assert reply.refusals == () and "down" in reply.why_pending


def test_both_are_opened_and_closed_even_if_one_fails() -> None:
    class Sticky(Scripted):
        async def close(self) -> None:
            await super().close()
            raise Transient("will not close")

    async def main() -> None:
        one, two = Sticky(model="one"), Scripted(model="two")
        both = Fallback(one, two)
        both.open()
        assert one.opened == two.opened == 1
        assert both.identity == one.identity and both.identities == (one.identity, two.identity)
        with pytest.raises(Transient, match="will not close"):
            await both.close()
        assert one.closed == two.closed == 1

    asyncio.run(main())
