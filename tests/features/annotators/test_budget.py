"""What is spent stays within the cap, and what is left of the run is pending."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.annotators.budget import Budgeted, Ledger
from features.annotators.protocol import AnnotationReply, AnnotationRequest, Usage
from features.annotators.settings import PaceSettings
from features.errors import BudgetSpent, Permanent, Stopped, Transient
from tests.features.annotators.wrapping import ANSWERED, Scripted, ask_all, control, request, virtually

CEILING = Usage(1, 120, 0, 30, 0.02)


def budgeted(inner: Scripted, settings: PaceSettings, ceiling: Usage = CEILING, **given: Any) -> Budgeted:
    return Budgeted(inner, settings, lambda _: ceiling, control(settings, given.pop("stopping", None)), **given)


@given(
    st.lists(
        st.tuples(st.floats(0.001, 1), st.floats(0, 1), st.sampled_from(["answer", "break", "refuse", "reject"])), max_size=40
    ),
    st.floats(0.5, 4),
    st.integers(1, 16),
    st.integers(1, 4),
)
def test_spent_never_exceeds_the_cap(plan: list[tuple[float, float, str]], cap: float, window: int, workers: int) -> None:
    """Whatever the ceilings, the shares of them that are billed, the failures and the order of replies."""
    ceilings = {f"v{i}": Usage(1, round(1e5 * top), 0, round(1e4 * top), top) for i, (top, _, _) in enumerate(plan)}
    settings = PaceSettings(max_cost=cap, max_tokens=200_000, workers=workers)

    class Billing(Scripted):
        billed = 0.0
        tokens = 0

        async def annotate(self, asked: AnnotationRequest) -> AnnotationReply:
            number = int(asked.video.video_id[1:])
            top, share, how = plan[number]
            await asyncio.sleep(random.Random(number).random())
            if how == "refuse":
                raise Permanent("no")
            if how == "reject":
                raise Transient("429", rejected=True)
            ceiling = ceilings[asked.video.video_id]
            if how == "break":  # billed in full although it broke off
                Billing.billed += top
                Billing.tokens += ceiling.input_tokens + ceiling.output_tokens
                raise Transient("time-out")
            used = Usage(1, int(ceiling.input_tokens * share), 0, int(ceiling.output_tokens * share), top * share)
            Billing.billed += used.cost_usd
            Billing.tokens += used.input_tokens + used.output_tokens
            return AnnotationReply(spent=used)

    def ceiling(asked: AnnotationRequest) -> Usage:
        return ceilings[asked.video.video_id]

    async def main() -> tuple[Budgeted, list[Any]]:
        budget = Budgeted(Billing(), settings, ceiling, control(settings), lost=ceiling)
        return budget, await ask_all(budget, window, [request(name) for name in ceilings])

    budget, results = virtually(main)
    assert len(results) == len(plan)
    assert Billing.billed <= cap / workers * (1 + 1e-9) and Billing.tokens <= 200_000 / workers
    book = budget.ledger
    assert book.spent.cost_usd + book.lost.cost_usd == pytest.approx(Billing.billed)
    assert book.reserved == Usage() and book.flying == 0 and not book.waiting


def test_what_does_not_fit_waits_for_what_is_in_flight() -> None:
    async def main() -> tuple[Scripted, list[Any], Budgeted]:
        inner = Scripted(takes_s=1.0)
        budget = budgeted(inner, PaceSettings(max_cost=0.05))
        return inner, await ask_all(budget, 10, [request(f"v{i}") for i in range(10)]), budget

    inner, results, budget = virtually(main)
    assert inner.most == 2, "two ceilings of 0.02 fit at once"
    assert inner.asked == ["v0", "v1", "v2", "v3"], "in order, since each cost only half its ceiling"
    assert budget.spent.cost_usd == pytest.approx(0.04)
    left = [result for result in results if isinstance(result, BudgetSpent)]
    assert len(left) == 6
    assert "0.04 US dollars are spent" in str(left[0]) and "max_cost is 0.05" in str(left[0]) and "--max-cost" in str(left[0])


def test_tokens_are_capped_too_and_workers_share() -> None:
    async def main() -> tuple[list[Any], int]:
        inner = Scripted()
        results = await ask_all(budgeted(inner, PaceSettings(max_tokens=1000, workers=2)), 1, [request(f"v{i}") for i in range(9)])
        return results, len(inner.asked)

    results, asked = virtually(main)
    assert asked == 4, "110 tokens each and a ceiling of 150 within 500"
    assert "max_tokens is 1,000, of which this process has 1/2" in str(results[-1]) and "--max-tokens" in str(results[-1])


def test_failures_give_back_what_was_set_aside() -> None:
    async def main() -> tuple[Usage, Usage]:
        inner = Scripted(Transient("429", rejected=True), Permanent("no"), Transient("time-out"), ANSWERED)
        budget = budgeted(inner, PaceSettings(max_cost=0.02), lost=lambda _: Usage(0, 50, 0, 0, 0.001))
        results = [(await asyncio.gather(budget.annotate(request()), return_exceptions=True))[0] for _ in range(4)]
        assert [type(result) for result in results] == [Transient, Permanent, Transient, BudgetSpent]
        return budget.ledger.lost, budget.ledger.reserved

    lost, reserved = virtually(main)
    assert lost == Usage(0, 50, 0, 0, 0.001), "of the one that broke off the input counts: it may be billed"
    assert reserved == Usage()


def test_without_a_cap_nothing_is_estimated() -> None:
    async def main() -> Usage:
        def never(_: AnnotationRequest) -> Usage:
            raise AssertionError

        budget = Budgeted(Scripted(), PaceSettings(), never, control())
        await budget.annotate(request())
        return budget.spent

    assert virtually(main) == ANSWERED.spent


def test_a_model_and_its_fallback_share_one_cap() -> None:
    async def main() -> tuple[int, list[Any]]:
        settings, book = PaceSettings(max_cost=0.025), Ledger()
        one, other = Scripted(), Scripted()
        first, second = budgeted(one, settings, ledger=book), budgeted(other, settings, ledger=book)
        results = await ask_all(first, 1, [request()]) + await ask_all(second, 1, [request()])
        return len(one.asked) + len(other.asked), results

    asked, results = virtually(main)
    assert asked == 1 and isinstance(results[1], BudgetSpent)


def test_cancelled_and_stopped_waiters_leave_no_hole() -> None:
    async def main() -> None:
        stop: list[bool] = []
        inner = Scripted(takes_s=5.0)
        budget = budgeted(inner, PaceSettings(max_cost=0.025), stopping=lambda: bool(stop))
        tasks = [asyncio.ensure_future(budget.annotate(request(f"v{i}"))) for i in range(4)]
        await asyncio.sleep(1)
        tasks[1].cancel()
        tasks[0].cancel()
        await asyncio.sleep(0.1)
        assert inner.asked == ["v0", "v2"], "the next in line has the room"
        stop.append(True)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(results[3], Stopped) and results[2] is ANSWERED
        assert budget.ledger.flying == 0 and budget.ledger.reserved == Usage()

    virtually(main)


def test_whoever_gives_up_waiting_makes_room_at_once() -> None:
    """The first in line is large; what is behind it fits as soon as it is gone."""

    async def main() -> None:
        inner = Scripted(takes_s=5.0)
        settings = PaceSettings(max_cost=1.0)
        tops = {"v0": 0.6, "v1": 0.8, "v2": 0.1}
        budget = Budgeted(inner, settings, lambda asked: Usage(cost_usd=tops[asked.video.video_id]), control(settings))
        tasks = [asyncio.ensure_future(budget.annotate(request(name))) for name in tops]
        await asyncio.sleep(1)
        assert inner.asked == ["v0"]
        tasks[1].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert inner.asked == ["v0", "v2"]
        await asyncio.gather(*tasks, return_exceptions=True)

    virtually(main)


def test_a_turn_that_is_cancelled_as_it_comes_gives_its_room_back() -> None:
    async def main() -> None:
        async def first(_: AnnotationRequest) -> AnnotationReply:
            await asyncio.sleep(1)
            asyncio.get_running_loop().call_soon(tasks[1].cancel)
            return ANSWERED

        inner = Scripted(first, ANSWERED)
        budget = budgeted(inner, PaceSettings(max_cost=0.035))
        tasks = [asyncio.ensure_future(budget.annotate(request(f"v{i}"))) for i in range(3)]
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
        assert isinstance(results[1], asyncio.CancelledError) and results[2] is ANSWERED
        assert budget.ledger.flying == 0 and budget.ledger.reserved == Usage()

    virtually(main)
