from __future__ import annotations

import asyncio
import gc
import pickle
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.annotators.packing import Packed, Separately
from features.annotators.protocol import (
    AnnotationReply,
    AnnotationRequest,
    AnnotatorIdentity,
    Answer,
    Refusal,
    Repair,
    Usage,
)
from features.attributes.definition import AttributeDefinition
from features.errors import BudgetSpent, Permanent, Transient, VidattrError
from features.records import VideoFeatures

FUNNY = AttributeDefinition("funny", "Funny", "Is it funny?", "It makes people laugh.")
CUTE = AttributeDefinition("cute", "Cute", "Is it cute?", "It makes people smile.")
SAD = AttributeDefinition("sad", "Sad", "Is it sad?", "It makes people cry.")
COST = Usage(1, 101, 50, 11, 0.07)


class Asked:
    """Answers each pair with its video's id in the rationale; keeps what it was asked; waits where told to."""

    def __init__(self, outcome: Callable[[AnnotationRequest], AnnotationReply | Exception | None] = lambda request: None) -> None:
        self.outcome = outcome
        self.requests: list[AnnotationRequest] = []
        self.gate: asyncio.Event | None = None
        self.finished = 0
        self.events: list[str] = []

    identity = AnnotatorIdentity("llm", "m")

    def open(self) -> None:
        self.events.append("open")

    async def close(self) -> None:
        self.events.append("close")

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        self.requests.append(request)
        if self.gate is not None:
            await self.gate.wait()
        self.finished += 1
        outcome = self.outcome(request)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome or answered(request)

    @property
    def packs(self) -> list[list[str]]:
        return [[video.video_id for video in request.videos] for request in self.requests]


def answered(request: AnnotationRequest) -> AnnotationReply:
    pairs = [(video, definition) for video in request.videos for definition in request.definitions]
    answers = [Answer(definition.name, "true", None, video.video_id, video_id=video.video_id) for video, definition in pairs]
    return AnnotationReply(tuple(answers), (), COST)


def request(name: str, *definitions: AttributeDefinition, sample: int = 0) -> AnnotationRequest:
    return AnnotationRequest(VideoFeatures(name, "h", name, "1", title=name), definitions or (FUNNY,), sample=sample)


class Lingering:
    """A sleep that ends when told to."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.over = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.waits.append(seconds)
        await self.over.wait()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def together(packed: Packed, *requests: AnnotationRequest) -> list[AnnotationReply | BaseException]:
    async def run() -> list[AnnotationReply | BaseException]:
        found = await asyncio.gather(*map(packed.annotate, requests), return_exceptions=True)
        await packed.close()
        return found

    return asyncio.run(run())


class TestPacked:
    def test_concurrent_requests_share_an_exchange_and_its_cost(self) -> None:
        asked = Asked()
        replies = together(Packed(asked, 3), *map(request, "abc"))
        assert asked.packs == [["a", "b", "c"]]
        total = Usage()
        for name, reply in zip("abc", replies, strict=True):
            assert isinstance(reply, AnnotationReply)
            assert [(answer.video_id, answer.rationale) for answer in reply.answers] == [(name, name)]
            total += reply.spent
        assert (total.requests, total.input_tokens, total.cached_input_tokens, total.output_tokens) == (1, 101, 50, 11)
        assert total.cost_usd == pytest.approx(0.07, rel=1e-12)

    def test_a_pack_goes_out_when_nobody_else_comes(self) -> None:
        async def run() -> None:
            asked, lingering = Asked(), Lingering()
            packed = Packed(asked, 4, linger_s=0.2, sleep=lingering)
            tasks = [asyncio.create_task(packed.annotate(request(name))) for name in "ab"]
            await settle()
            assert asked.requests == [] and lingering.waits == [0.2]
            lingering.over.set()
            await asyncio.gather(*tasks)
            assert asked.packs == [["a", "b"]]

        asyncio.run(run())

    def test_other_questions_other_samples_and_the_same_video_go_apart(self) -> None:
        asked = Asked()
        replies = together(
            Packed(asked, 8, linger_s=0),
            request("a", FUNNY),
            request("b", CUTE),
            request("c", FUNNY, sample=1),
            request("a", FUNNY),
            request("d", FUNNY),
        )
        assert sorted(asked.packs) == [["a"], ["a", "d"], ["b"], ["c"]]
        assert [r.sample for r in asked.requests if r.video.video_id == "c"] == [1]
        assert all(isinstance(reply, AnnotationReply) for reply in replies)

    def test_questions_that_are_equal_but_not_the_same_object_go_together(self) -> None:
        asked = Asked()
        together(Packed(asked, 2), request("a", FUNNY), request("b", pickle.loads(pickle.dumps(FUNNY))))
        assert asked.packs == [["a", "b"]]

    def test_single_repairs_and_packs_go_through(self) -> None:
        asked = Asked()
        together(Packed(asked, 1), request("a"))
        whole = AnnotationRequest(request("a").video, (FUNNY,), (request("b").video,))
        mending = AnnotationRequest(request("c").video, (FUNNY,), repair=Repair("", "bad"))
        together(Packed(asked, 8), whole, mending)
        assert asked.requests[1:] == [whole, mending]

    def test_what_goes_wrong_reaches_every_caller(self) -> None:
        replies = together(Packed(Asked(lambda _: Transient("busy")), 2), *map(request, "ab"))
        assert all(isinstance(reply, Transient) for reply in replies)

    def test_refusals_and_pending_pairs_reach_their_own_caller(self) -> None:
        def outcome(asked: AnnotationRequest) -> AnnotationReply:
            answers = (Answer("funny", "true", None, "", video_id="a"), Answer("funny", "true", None, ""))
            stranger = Answer("funny", "true", None, "", video_id="zebra")
            return AnnotationReply((*answers, stranger), (Refusal("funny", "blocked", "m", video_id="b"),), COST, "gone")

        a, b, c = together(Packed(Asked(outcome), 3), *map(request, "abc"))
        assert isinstance(a, AnnotationReply) and isinstance(b, AnnotationReply) and isinstance(c, AnnotationReply)
        assert (len(a.answers), a.why_pending) == (1, "") and (b.refusals[0].kind, b.why_pending) == ("blocked", "")
        assert (c.answers, c.refusals, c.why_pending) == ((), (), "gone"), "an answer to nobody goes to nobody"

    def test_a_caller_that_gives_up_leaves_a_waiting_pack(self) -> None:
        async def run() -> None:
            asked, lingering = Asked(), Lingering()
            packed = Packed(asked, 3, sleep=lingering)
            tasks = [asyncio.create_task(packed.annotate(request(name))) for name in "ab"]
            await settle()
            tasks[0].cancel()
            await settle()
            lingering.over.set()
            assert (await tasks[1]).spent == COST
            assert asked.packs == [["b"]]

        asyncio.run(run())

    def test_a_pack_that_all_have_left_is_never_sent(self) -> None:
        async def run() -> None:
            asked, lingering = Asked(), Lingering()
            packed = Packed(asked, 3, sleep=lingering)
            task = asyncio.create_task(packed.annotate(request("a")))
            await settle()
            task.cancel()
            await settle()
            lingering.over.set()
            await settle()
            assert asked.requests == []
            await packed.close()

        asyncio.run(run())

    def test_a_caller_that_gives_up_does_not_take_the_others_along(self) -> None:
        async def run() -> None:
            asked = Asked()
            asked.gate = asyncio.Event()
            packed = Packed(asked, 3)
            tasks = [asyncio.create_task(packed.annotate(request(name))) for name in "abc"]
            await settle()
            tasks[1].cancel()
            await settle()
            asked.gate.set()
            first, gone, third = await asyncio.gather(*tasks, return_exceptions=True)
            assert isinstance(first, AnnotationReply) and isinstance(third, AnnotationReply)
            assert isinstance(gone, asyncio.CancelledError)
            assert first.spent.input_tokens + third.spent.input_tokens == 101, "those who stay bear the whole cost"

        asyncio.run(run())

    def test_an_exchange_that_all_have_left_is_cancelled(self) -> None:
        async def run() -> None:
            asked = Asked()
            asked.gate = asyncio.Event()
            packed = Packed(asked, 2)
            tasks = [asyncio.create_task(packed.annotate(request(name))) for name in "ab"]
            await settle()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await packed.close()
            assert asked.finished == 0 and asked.events == ["close"]

        asyncio.run(run())

    def test_closing_sends_what_waits(self) -> None:
        async def run() -> None:
            asked, lingering = Asked(), Lingering()
            packed = Packed(asked, 3, sleep=lingering)
            task = asyncio.create_task(packed.annotate(request("a")))
            await settle()
            await packed.close()
            assert len((await task).answers) == 1

        asyncio.run(run())

    def test_travels_to_workers(self) -> None:
        travelled = pickle.loads(pickle.dumps(Packed(Separately(Asked2()), 4, 0.1)))
        assert (travelled.videos_per_request, travelled.linger_s) == (4, 0.1)

    @settings(max_examples=50)
    @given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 1)), min_size=1, max_size=30), st.integers(1, 5))
    def test_everybody_gets_his_own_and_the_cost_adds_up(self, wanted: list[tuple[str, int]], size: int) -> None:
        asked = Asked()
        replies = together(Packed(asked, size, linger_s=0), *(request(name, sample=sample) for name, sample in wanted))
        total = Usage()
        for (name, _), reply in zip(wanted, replies, strict=True):
            assert isinstance(reply, AnnotationReply) and [answer.video_id for answer in reply.answers] == [name]
            total += reply.spent
        assert total.requests == len(asked.requests) and total.input_tokens == 101 * len(asked.requests)
        assert all(len(set(pack)) == len(pack) <= size for pack in asked.packs)
        assert sum(map(len, asked.packs)) == len(wanted)


class Asked2:
    """Can be pickled."""

    identity = AnnotatorIdentity("llm", "m")

    def open(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        return answered(request)


class TestSeparately:
    def ask(self, outcome: Callable[[AnnotationRequest], AnnotationReply | Exception | None]) -> tuple[AnnotationReply, Asked]:
        asked = Asked(outcome)
        return asyncio.run(Separately(asked).annotate(request("cat", FUNNY, CUTE, SAD))), asked

    def test_one_question_after_another(self) -> None:
        reply, asked = self.ask(lambda _: None)
        assert [[each.name for each in one.definitions] for one in asked.requests] == [["funny"], ["cute"], ["sad"]]
        assert [answer.attribute for answer in reply.answers] == ["funny", "cute", "sad"]
        assert reply.spent == COST + COST + COST and reply.why_pending == ""

    def test_the_next_question_waits_for_the_last_answer(self) -> None:
        async def run() -> None:
            asked = Asked()
            asked.gate = asyncio.Event()
            task = asyncio.create_task(Separately(asked).annotate(request("cat", FUNNY, CUTE)))
            await settle()
            assert len(asked.requests) == 1, "the second finds the video in the cache"
            asked.gate.set()
            await task

        asyncio.run(run())

    def test_a_question_that_is_not_taken_does_not_stop_the_others(self) -> None:
        reply, _ = self.ask(lambda one: Permanent("no text", "no_evidence") if one.definitions == (FUNNY,) else None)
        assert [(refusal.attribute, refusal.kind, refusal.video_id) for refusal in reply.refusals] == [
            ("funny", "no_evidence", "cat")
        ]
        assert [answer.attribute for answer in reply.answers] == ["cute", "sad"]

    @pytest.mark.parametrize("error", [Transient("busy"), BudgetSpent("cap")])
    def test_what_was_answered_is_kept_when_the_service_goes_away(self, error: VidattrError) -> None:
        reply, asked = self.ask(lambda one: error if one.definitions == (CUTE,) else None)
        assert [answer.attribute for answer in reply.answers] == ["funny"] and not reply.refusals
        assert reply.why_pending == str(error) and reply.spent == COST and len(asked.requests) == 2

    def test_with_nothing_to_keep_it_is_raised(self) -> None:
        with pytest.raises(Transient):
            self.ask(lambda _: Transient("busy"))

    def test_what_was_paid_for_a_refusal_is_not_lost(self) -> None:
        refused = AnnotationReply((), (Refusal("funny", "refused", "m"),), COST)
        reply, _ = self.ask(lambda one: refused if one.definitions == (FUNNY,) else Transient("busy"))
        assert reply.refusals == refused.refusals and reply.spent == COST and reply.why_pending == "busy"

    def test_nor_what_was_paid_for_a_question_that_is_pending(self) -> None:
        paid = AnnotationReply((), (), COST, "gone")
        reply, _ = self.ask(lambda one: paid if one.definitions == (FUNNY,) else Transient("busy"))
        assert (reply.answers, reply.refusals, reply.spent, reply.why_pending) == ((), (), COST, "gone")


def test_no_exception_is_left_unread(caplog: pytest.LogCaptureFixture) -> None:
    """A pack that fails after one of its callers has gone leaves no warning behind."""

    async def run() -> None:
        asked = Asked(lambda _: Transient("busy"))
        asked.gate = asyncio.Event()
        packed = Packed(asked, 2)
        tasks = [asyncio.create_task(packed.annotate(request(name))) for name in "ab"]
        await settle()
        tasks[0].cancel()
        await settle()
        asked.gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        await packed.close()

    asyncio.run(run())
    gc.collect()
    assert caplog.text == ""
