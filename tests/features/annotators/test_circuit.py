"""A service that is down costs a probe now and then; one that is gone, or a run that is set up wrongly, costs next to nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from features.annotators.circuit import FAILURES, Circuit
from features.annotators.protocol import AnnotationReply, AnnotationRequest
from features.errors import BudgetSpent, Permanent, Stopped, Transient, Unavailable
from tests.features.annotators.wrapping import ANSWERED, Scripted, ask_all, control, now, request, virtually

GONE = Unavailable("401: the key is not valid")
DOWN = Transient("connection refused")
WRONG = Permanent("400: unknown field", "invalid_request")


def circuit(inner: Scripted, patience_s: float = 600.0, **given: Any) -> Circuit:
    return Circuit(inner, patience_s, control(**given), now, lambda: 1_795_000_000.0 + now())


def ids(count: int) -> list[AnnotationRequest]:
    return [request(f"v{number}") for number in range(count)]


def test_a_revoked_key_costs_exactly_one_call() -> None:
    async def main() -> None:
        inner = Scripted(GONE, takes_s=0.5)
        wrapped = circuit(inner)
        results = await ask_all(wrapped, 64, ids(200))
        assert inner.asked == ["v0"] and wrapped.state == "gone"
        assert len(results) == 200 and all(result is GONE for result in results)
        with pytest.raises(Unavailable):
            await wrapped.annotate(request())

    virtually(main)


def test_a_key_that_is_revoked_in_mid_run_costs_what_is_in_flight() -> None:
    async def main() -> None:
        inner = Scripted(*[ANSWERED] * 20, GONE, takes_s=0.5)
        results = await ask_all(circuit(inner), 8, ids(200))
        assert len(inner.asked) <= 20 + 8 and len(results) == 200

    virtually(main)


def test_the_others_wait_for_the_first_and_then_all_go() -> None:
    async def main() -> None:
        inner = Scripted(takes_s=2.0)
        begins = now()
        results = await ask_all(circuit(inner), 50, ids(50))
        assert [at - begins for at in inner.at] == pytest.approx([0.0] + [2.0] * 49)
        assert inner.asked == [f"v{number}" for number in range(50)], "in order"
        assert all(result is ANSWERED for result in results)

    virtually(main)


@pytest.mark.parametrize("how", ["cancelled", "stopped by the budget"])
def test_a_probe_that_goes_away_hands_on(how: str) -> None:
    async def main() -> None:
        inner = Scripted(ANSWERED if how == "cancelled" else BudgetSpent("cap"), ANSWERED, takes_s=5.0)
        wrapped = circuit(inner)
        tasks = [asyncio.ensure_future(wrapped.annotate(each)) for each in ids(4)]
        await asyncio.sleep(1)
        if how == "cancelled":
            tasks[1].cancel()  # the next in line is gone before its turn
            tasks[0].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert results[2] is results[3] is ANSWERED and wrapped.state == "closed"

    virtually(main)


def test_a_turn_that_is_cancelled_as_it_comes_is_not_lost() -> None:
    async def main() -> None:
        async def first(_: AnnotationRequest) -> AnnotationReply:
            await asyncio.sleep(1)
            asyncio.get_running_loop().call_soon(tasks[1].cancel)
            raise WRONG

        wrapped = circuit(Scripted(first, ANSWERED))
        tasks = [asyncio.ensure_future(wrapped.annotate(each)) for each in ids(3)]
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
        assert isinstance(results[1], asyncio.CancelledError) and results[2] is ANSWERED

    virtually(main)


def test_an_outage_is_sat_out() -> None:
    """Five failures open it; the pause doubles from 5 s to 60 s; one success closes it, and the failures count anew."""

    async def main() -> None:
        inner = Scripted(*[ANSWERED] * 3, *[DOWN] * (FAILURES + 5), ANSWERED)
        wrapped, begins = circuit(inner), now()
        results = await ask_all(wrapped, 1, ids(30))
        probes = [round(at - begins) for at in inner.at]
        assert probes[: 3 + FAILURES] == [0] * (3 + FAILURES)
        assert probes[3 + FAILURES : 9 + FAILURES] == [5, 15, 35, 75, 135, 195], "5, 10, 20, 40, 60, 60 s apart"
        assert sum(isinstance(result, Transient) for result in results) == FAILURES + 5 and wrapped.state == "closed"
        assert wrapped.openings == 6

    virtually(main)


def test_many_in_flight_at_an_outage_are_one_opening_and_a_late_success_closes_it() -> None:
    async def main() -> None:
        async def reply(asked: AnnotationRequest) -> AnnotationReply:
            number = int(asked.video.video_id[1:])
            if 1 <= number <= 40:
                raise DOWN
            if number == 41:
                await asyncio.sleep(2.0)
            return ANSWERED

        inner = Scripted(reply, takes_s=1.0)
        wrapped, begins = circuit(inner), now()
        results = await ask_all(wrapped, 42, ids(60))
        assert wrapped.openings == 1 and sum(isinstance(result, Transient) for result in results) == 40
        assert max(inner.at) - begins <= 5.1, "what was sent before and succeeds closes it"

    virtually(main)


def test_an_outage_without_end_leaves_the_rest_pending() -> None:
    async def main() -> None:
        inner = Scripted(ANSWERED, DOWN)
        wrapped, begins = circuit(inner, patience_s=120.0), now()
        results = await ask_all(wrapped, 16, ids(200))
        assert now() - begins == pytest.approx(120, abs=1) and len(inner.asked) < 40 and len(results) == 200
        assert isinstance(results[-1], Unavailable)
        said = str(results[-1])
        assert "nothing has worked since 2026-11-18" in said and "UTC (120 s; outage_patience_s is 120)" in said
        assert "connection refused" in said and "goes on from here" in said

    virtually(main)


def test_without_patience_the_first_opening_is_the_end() -> None:
    async def main() -> None:
        inner = Scripted(DOWN)
        results = await ask_all(circuit(inner, patience_s=0.0), 16, ids(100))
        assert len(inner.asked) == FAILURES and isinstance(results[-1], Unavailable)

    virtually(main)


def test_a_server_that_refuses_every_request_is_a_fault_of_the_set_up() -> None:
    async def main() -> None:
        inner = Scripted(WRONG, takes_s=0.1)
        results = await ask_all(circuit(inner), 16, ids(100))
        assert len(inner.asked) == 5 and inner.most == 1
        assert [type(result) for result in results[:5]] == [Permanent] * 5
        assert "the server refuses every request, 5 of 5 so far: 400: unknown field" in str(results[-1])

    virtually(main)


def test_bad_videos_are_not_a_fault_of_the_set_up() -> None:
    async def main() -> None:
        inner = Scripted(*[WRONG] * 4, ANSWERED, *[WRONG] * 50, ANSWERED)
        results = await ask_all(circuit(inner), 4, ids(100))
        assert len(inner.asked) == 100 and sum(isinstance(result, Permanent) for result in results) == 54
        large = Scripted(Permanent("too large", "too_large"))
        assert len(await ask_all(circuit(large), 4, ids(20))) == 20 and len(large.asked) == 20

    virtually(main)


def test_refusals_show_that_a_server_is_up() -> None:
    async def main() -> None:
        inner = Scripted(ANSWERED, *[DOWN, DOWN, DOWN, DOWN, WRONG] * 5, ANSWERED)
        wrapped = circuit(inner)
        await ask_all(wrapped, 1, ids(40))
        assert wrapped.openings == 0

    virtually(main)


def test_a_stop_ends_the_waiting() -> None:
    async def main() -> None:
        inner, begins = Scripted(ANSWERED, DOWN), now()
        wrapped = circuit(inner, stopping=lambda: now() > begins + 20)
        results = await ask_all(wrapped, 16, ids(100))
        assert now() - begins <= 20.5 and len(results) == 100 and isinstance(results[-1], Stopped)
        assert await ask_all(wrapped, 1, ids(1)) and isinstance((await ask_all(wrapped, 1, ids(1)))[0], Stopped)

    virtually(main)
