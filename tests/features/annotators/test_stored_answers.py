"""The annotator around an annotator, with each kind of store."""

from __future__ import annotations

import asyncio
import dataclasses
import pathlib
import pickle
import sqlite3

import pytest

from features.annotators.answers import Answers, SqliteAnswers, StoredAnswer, StoredAnswers, open_answers
from features.annotators.protocol import AnnotationReply, AnnotationRequest, Answer, Refusal, Usage
from features.errors import BudgetSpent, Transient
from tests.features.annotators.answer_stores import (
    ANSWER,
    CALM,
    FUNNY,
    IDENTITY,
    ONE,
    WARM,
    Asked,
    location,
    redis_for_all,
    request,
    store,
)

__all__ = ["location", "redis_for_all", "store"]  # fixtures


def around(inner: Asked, store: Answers) -> StoredAnswers:
    annotator = StoredAnswers(inner, store, "run")
    annotator.open()
    return annotator


def sqlite_around(inner: Asked, path: pathlib.Path, busy_timeout_s: float = 30.0) -> StoredAnswers:
    return around(inner, SqliteAnswers(str(path / "answers.sqlite"), busy_timeout_s))


def locked(annotator: StoredAnswers) -> sqlite3.Connection:
    """Another process that writes until it rolls back."""
    assert isinstance(annotator.store, SqliteAnswers)
    other = sqlite3.connect(annotator.store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return other


def values(reply: AnnotationReply) -> dict[str, bool]:
    """Of each answered attribute, whether the answer was reused."""
    return {answer.attribute: answer.reused for answer in reply.answers}


def test_only_what_is_missing_is_asked(location: str) -> None:
    inner = Asked()

    async def walk() -> None:
        annotator = around(inner, open_answers(location))
        assert values(await annotator.annotate(request("v", CALM, FUNNY))) == {"calm": False, "funny": False}
        assert values(await annotator.annotate(request("v", FUNNY, WARM, CALM))) == {"funny": True, "warm": False, "calm": True}
        edited = dataclasses.replace(CALM, definition="Calm is quiet.")
        assert values(await annotator.annotate(request("v", edited, FUNNY))) == {"calm": False, "funny": True}
        assert values(await annotator.annotate(request("w", CALM))) == {"calm": False}
        await annotator.close()
        again = around(inner, open_answers(location))
        reply = await again.annotate(request("v", CALM))
        assert reply.answers == (dataclasses.replace(ANSWER, reused=True),), "what it cost then is kept"
        assert reply.spent == Usage(), "and costs nothing now"
        await again.close()

    asyncio.run(walk())
    assert inner.asked == [("calm", "funny"), ("warm",), ("calm",), ("calm",)]


def test_refusals_are_not_stored_and_silence_stays_pending(store: Answers) -> None:
    inner = Asked()
    inner.refused, inner.silent = {"calm"}, {"warm"}

    async def walk() -> None:
        annotator = around(inner, store)
        for _ in range(2):
            reply = await annotator.annotate(request("v", CALM, WARM, FUNNY))
            assert [refusal.attribute for refusal in reply.refusals] == ["calm"] and list(values(reply)) == ["funny"]
            assert reply.why_pending == "the budget is spent" and reply.spent == ONE
        assert len(store) == 1 and store.spent("run").requests == 2, "refusals are paid for too"
        await annotator.close()

    asyncio.run(walk())
    assert inner.asked == [("calm", "warm", "funny"), ("calm", "warm")]


def test_answers_that_nobody_asked_for_are_dropped(store: Answers) -> None:
    """Fault 19: invented attributes in a reply, and answers about other videos."""

    class Inventive(Asked):
        async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
            mine = dataclasses.replace(ANSWER, video_id="v")
            others = dataclasses.replace(ANSWER, attribute="funny", video_id="w")
            refusals = (Refusal("cold", "refused", ""), Refusal("funny", "refused", "", video_id="w"))
            return AnnotationReply((mine, others, dataclasses.replace(ANSWER, attribute="warm")), refusals)

    async def walk() -> None:
        annotator = around(Inventive(), store)
        reply = await annotator.annotate(request("v", CALM, FUNNY))
        assert values(reply) == {"calm": False} and reply.refusals == () and len(store) == 1
        await annotator.close()

    asyncio.run(walk())


def test_concurrent_requests_for_one_key_ask_once_and_one_pays(store: Answers) -> None:
    """Fault 1: a replayed bundle asks the same at the same time."""
    inner = Asked(lambda request: asyncio.sleep(0.01))

    async def walk() -> None:
        annotator = around(inner, store)
        replies = await asyncio.gather(
            *(annotator.annotate(request("v", CALM, FUNNY)) for _ in range(20)),
            *(annotator.annotate(request("v", FUNNY, WARM)) for _ in range(20)),
        )
        assert sum(not answer.reused for reply in replies for answer in reply.answers) == 3
        assert all(len(reply.answers) == 2 for reply in replies)
        assert [reply.spent.requests for reply in replies] == [1, *[0] * 19, 1, *[0] * 19]
        assert store.spent("run").requests == 2
        await annotator.close()

    asyncio.run(walk())
    assert inner.asked == [("calm", "funny"), ("warm",)]


def test_whoever_waits_shares_refusals_and_why_it_is_pending(store: Answers) -> None:
    """A budget that is spent is not asked again by everybody who waits."""
    inner = Asked(lambda request: asyncio.sleep(0.01))
    inner.refused, inner.silent = {"calm"}, {"funny"}

    async def walk() -> None:
        annotator = around(inner, store)
        replies = await asyncio.gather(*(annotator.annotate(request("v", CALM, FUNNY)) for _ in range(10)))
        assert {reply.why_pending for reply in replies} == {"the budget is spent"}
        assert {reply.refusals for reply in replies} == {(Refusal("calm", "refused", "no"),)}
        assert sum(reply.spent.requests for reply in replies) == 1
        await annotator.close()

    asyncio.run(walk())
    assert inner.asked == [("calm", "funny")]


def test_videos_of_the_same_content_share_answers_and_keep_their_ids(store: Answers) -> None:
    class Named(Asked):
        async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
            reply = await super().annotate(request)
            whose = request.video.video_id
            return dataclasses.replace(reply, answers=tuple(dataclasses.replace(a, video_id=whose) for a in reply.answers))

    inner = Named(lambda request: asyncio.sleep(0.01))

    async def walk() -> None:
        annotator = around(inner, store)
        await asyncio.gather(*(annotator.annotate(request(video, CALM, content="same")) for video in "vw"))
        replies = [await annotator.annotate(request(video, CALM, content="same")) for video in "vwx"]
        assert all(answer.video_id == "" for reply in replies for answer in reply.answers)
        await annotator.close()

    asyncio.run(walk())
    assert inner.asked == [("calm",)]


def test_the_request_reaches_the_inner_one_whole(store: Answers) -> None:
    seen = []

    async def look(request: AnnotationRequest) -> None:
        seen.append(request.sample)

    async def walk() -> None:
        annotator = around(Asked(look), store)
        await annotator.annotate(dataclasses.replace(request("v", CALM), sample=3))
        await annotator.close()

    asyncio.run(walk())
    assert seen == [3]


def test_half_a_surrogate_pair_from_a_model_poisons_no_neighbour(store: Answers) -> None:
    class Odd(Asked):
        async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
            return AnnotationReply((dataclasses.replace(ANSWER, rationale="so funny \ud83d", model="m\udc00"),))

    async def walk() -> None:
        annotator = around(Odd(), store)
        replies = await asyncio.gather(*(annotator.annotate(request(video, CALM)) for video in "vw"))
        assert [reply.answers[0].rationale for reply in replies] == ["so funny ?"] * 2 and len(store) == 2
        await annotator.close()

    asyncio.run(walk())


def test_somebody_else_was_first_in_another_process(store: Answers) -> None:
    """What stands is handed on, with what was paid for asking just now."""
    first = dataclasses.replace(ANSWER, value="false", cost_usd=9.0)

    async def answer_meanwhile(request: AnnotationRequest) -> None:
        key = IDENTITY.answer_key(request.video.content_key, CALM.definition_hash)
        store.put_many([StoredAnswer(key, first, IDENTITY, "v", request.video.content_key, CALM.definition_hash)])

    async def walk() -> None:
        annotator = around(Asked(answer_meanwhile), store)
        (answer,) = (await annotator.annotate(request("v", CALM))).answers
        assert answer == dataclasses.replace(first, cost_usd=ANSWER.cost_usd) and not answer.reused
        await annotator.close()

    asyncio.run(walk())


def test_whoever_waits_for_a_cancelled_request_asks_itself(store: Answers) -> None:
    """Fault 4: the deadline cancels the request, and only that one."""
    started = asyncio.Event()

    async def hang_first(request: AnnotationRequest) -> None:
        if len(inner.asked) == 1:
            started.set()
            await asyncio.Event().wait()

    inner = Asked(hang_first)

    async def walk() -> None:
        annotator = around(inner, store)
        first = asyncio.create_task(annotator.annotate(request("v", CALM)))
        await started.wait()
        second = asyncio.create_task(annotator.annotate(request("v", CALM, FUNNY)))
        await asyncio.sleep(0.01)
        first.cancel()
        reply = await second
        assert values(reply) == {"funny": False, "calm": False} and reply.spent.requests == 2
        with pytest.raises(asyncio.CancelledError):
            await first
        await annotator.close()

    asyncio.run(walk())
    assert inner.asked == [("calm",), ("funny",), ("calm",)]


def test_what_somebody_paid_who_was_cancelled_waiting_is_in_the_next_reply(store: Answers) -> None:
    hold = asyncio.Event()

    async def hold_calm(request: AnnotationRequest) -> None:
        if request.definitions == (CALM,):
            await hold.wait()

    async def walk() -> None:
        annotator = around(Asked(hold_calm), store)
        first = asyncio.create_task(annotator.annotate(request("v", CALM)))
        await asyncio.sleep(0.01)
        second = asyncio.create_task(annotator.annotate(request("v", CALM, FUNNY)))
        while not len(store):
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        hold.set()
        assert (await first).spent.requests == 2, "its own and the other's"
        await annotator.close()

    asyncio.run(walk())


def test_an_error_reaches_the_one_who_asked(store: Answers) -> None:
    async def spent(request: AnnotationRequest) -> None:
        raise BudgetSpent("no money left")

    async def walk() -> None:
        annotator = around(Asked(spent), store)
        outcomes = await asyncio.gather(*(annotator.annotate(request("v", CALM)) for _ in range(3)), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [BudgetSpent] * 3
        assert len(store) == 0
        await annotator.close()

    asyncio.run(walk())


def test_a_reply_that_cannot_be_stored_is_neither_passed_on_nor_paid_for_again(tmp_path: pathlib.Path) -> None:
    inner = Asked()

    async def walk() -> None:
        annotator = sqlite_around(inner, tmp_path, busy_timeout_s=0.05)
        other = locked(annotator)
        for _ in range(2):
            with pytest.raises(Transient):
                await annotator.annotate(request("v", CALM))
        other.execute("ROLLBACK")
        assert len(annotator.store) == 0
        reply = await annotator.annotate(request("v", CALM, FUNNY))
        assert values(reply) == {"calm": False, "funny": False}
        assert len(annotator.store) == 2
        assert reply.spent.requests == 2 and annotator.store.spent("run").requests == 2, "both exchanges, each once"
        await annotator.close()

    asyncio.run(walk())
    assert inner.asked == [("calm",), ("funny",)]


def test_what_could_not_be_stored_is_stored_at_the_end(tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
    async def walk(unlock: bool) -> int:
        annotator = sqlite_around(Asked(), tmp_path, busy_timeout_s=0.05)
        other = locked(annotator)
        with pytest.raises(Transient):
            await annotator.annotate(request("v", CALM))
        if unlock:
            other.execute("ROLLBACK")
        await annotator.close()
        other.close()
        return len(SqliteAnswers(str(tmp_path / "answers.sqlite")))

    assert asyncio.run(walk(unlock=False)) == 0 and "1 paid answers could not be stored" in caplog.text
    assert asyncio.run(walk(unlock=True)) == 1
    assert SqliteAnswers(str(tmp_path / "answers.sqlite")).spent("run").requests == 1


def test_a_request_cancelled_while_its_reply_is_stored_loses_nothing(tmp_path: pathlib.Path) -> None:
    inner = Asked()

    async def walk() -> None:
        annotator = sqlite_around(inner, tmp_path)
        other = locked(annotator)
        task = asyncio.create_task(annotator.annotate(request("v", CALM)))
        while not annotator._unsaved:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        other.execute("ROLLBACK")
        reply = await annotator.annotate(request("v", CALM))
        assert values(reply).keys() == {"calm"} and reply.spent == ONE
        assert annotator.store.spent("run") == ONE
        await annotator.close()

    asyncio.run(walk())
    assert inner.asked == [("calm",)]


def test_a_waiting_writer_does_not_hold_up_the_event_loop(tmp_path: pathlib.Path) -> None:
    async def walk() -> None:
        annotator = sqlite_around(Asked(), tmp_path)
        await annotator.annotate(request("known", CALM))
        other = locked(annotator)
        waiting = asyncio.create_task(annotator.annotate(request("new", CALM)))
        await asyncio.sleep(0.01)
        assert values(await annotator.annotate(request("known", CALM))) == {"calm": True}
        assert not waiting.done()
        other.execute("ROLLBACK")
        assert values(await waiting) == {"calm": False}
        await annotator.close()

    asyncio.run(walk())


def test_it_travels_to_a_worker(store: Answers) -> None:
    async def walk() -> None:
        annotator = around(Asked(), store)
        await annotator.annotate(request("v", CALM))
        copy = pickle.loads(pickle.dumps(annotator))
        assert copy.run_id == "run"
        copy.open()
        assert values(await copy.annotate(request("v", CALM))) == {"calm": True}
        await copy.close()
        await annotator.close()

    asyncio.run(walk())


def test_what_was_paid_counts_even_if_nobody_commits_the_run(location: str) -> None:
    """Fault 3: the process dies after the reply; rejected replies were paid for and left no answer."""

    class Wasteful(Asked):
        async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
            return AnnotationReply((), (Refusal("calm", "invalid_reply", "no JSON"),), Usage(2, 100, 0, 10, 0.004))

    async def walk() -> None:
        annotator = around(Wasteful(), open_answers(location))
        await annotator.annotate(request("v", CALM))

    asyncio.run(walk())  # nothing is closed, and no run record written
    assert open_answers(location).spent("run") == Usage(2, 100, 0, 10, 0.004)


def test_answers_keep_their_order(store: Answers) -> None:
    async def walk() -> None:
        annotator = around(Asked(), store)
        await annotator.annotate(request("v", FUNNY))
        reply = await annotator.annotate(request("v", CALM, FUNNY, WARM))
        assert [answer.attribute for answer in reply.answers] == ["calm", "funny", "warm"]
        assert [type(answer) for answer in reply.answers] == [Answer] * 3
        await annotator.close()

    asyncio.run(walk())
