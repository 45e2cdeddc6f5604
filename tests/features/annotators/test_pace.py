"""As many requests at a time and a minute as the server and its quota take, no more and not much fewer."""

from __future__ import annotations

import asyncio
import pathlib
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.annotators.concurrency import ConcurrencyLimit
from features.annotators.control import Control
from features.annotators.pace import Paced
from features.annotators.protocol import AnnotationReply, AnnotationRequest, Usage
from features.annotators.quota import Quota
from features.annotators.retry import Retried
from features.annotators.settings import PaceSettings
from features.errors import Permanent, Stopped, Transient
from tests.features.annotators.wrapping import ANSWERED, Scripted, Server, ask_all, control, lognormal, now, request, virtually


def paced(inner: Any, settings: PaceSettings, orders: Control | None = None, tokens: int = 0, **given: Any) -> Paced:
    return Paced(inner, settings, lambda _: Usage(1, tokens), orders or control(settings), now, asyncio.sleep, **given)


class Run:
    """A minute or so of requests against a server with slots, in virtual time."""

    def __init__(
        self,
        server: Server,
        in_flight: int,
        run_s: float,
        seed: int,
        then: Callable[[Server, float], None] = lambda server, at: None,
    ) -> None:
        self.server, self.flying, self.limits = server, [], []

        async def main() -> None:
            settings = PaceSettings(in_flight=in_flight)
            pace = paced(server, settings)
            retried = Retried(pace, 20, 60, control(settings), random.Random(seed).random)
            begins = now()

            async def watch() -> None:
                while True:
                    await asyncio.sleep(0.5)
                    then(server, now() - begins)
                    self.flying.append(pace.limit.in_flight)
                    self.limits.append(pace.state().limit)

            watching = asyncio.ensure_future(watch())
            await ask_all(retried, 2 * in_flight, until=begins + run_s)
            watching.cancel()
            self.served = [at - begins for at in server.finished]

        virtually(main)

    def throughput(self, start_s: float, end_s: float) -> float:
        return sum(start_s < at <= end_s for at in self.served) / (end_s - start_s)


@pytest.mark.parametrize(("mean_s", "retry_after_s"), [(0.5, None), (1.0, 1.0), (1.0, None), (2.0, 5.0)])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.soak) for seed in (1, 2))])
def test_capacity_that_falls_in_mid_run_is_found_again(mean_s: float, retry_after_s: float | None, seed: int) -> None:
    """128 slots, then 48, everything beyond rejected: nine tenths of the capacity are used, and hardly anything is rejected."""
    server = Server(128, lognormal(mean_s, 0.5, seed), retry_after_s=retry_after_s)

    def then(server: Server, at: float) -> None:
        server.slots = 128 if at < 60 else 48

    run = Run(server, 256, 120, seed, then)
    assert run.throughput(0, 120) >= 0.9 * (128 + 48) / 2 / mean_s
    assert server.rejected <= 0.01 * (server.served + server.rejected)


def test_capacity_that_comes_back_is_found_again() -> None:
    def then(server: Server, at: float) -> None:
        server.slots = 48 if at < 40 else 128

    run = Run(Server(48, lognormal(0.5, 0.5, 1)), 256, 140, 1, then)
    assert run.throughput(110, 140) >= 0.9 * 128 / 0.5
    assert run.server.rejected <= 0.01 * run.server.served


def test_it_starts_fast() -> None:
    """512 in flight within three seconds of a server that takes one for each."""
    run = Run(Server(512, lognormal(1.0, 0.5, 1)), 512, 12, 1)
    assert run.flying[0] < 130 and max(run.flying[:6]) >= 500, "at 0.5, 1, ... 3 s"
    assert run.throughput(4, 12) >= 0.95 * 512


def test_a_storm_of_rejections_passes() -> None:
    """Fault 5: the pace drops, and comes back."""

    def then(server: Server, at: float) -> None:
        server.slots = 0 if 20 <= at < 50 else 64

    run = Run(Server(64, lognormal(0.5, 0.5, 1), retry_after_s=1.0), 256, 120, 1, then)
    during = [at for at in run.server.rejected_at if 1000 + 25 < at < 1000 + 50]
    assert len(during) <= 40 and min(run.limits[60:90]) == 1, "about one try a second"
    assert run.throughput(65, 120) >= 0.85 * 64 / 0.5


def test_a_server_that_queues_is_not_flooded() -> None:
    run = Run(Server(48, lognormal(1.0, 0.5, 1), queues=True), 512, 120, 1)
    assert run.throughput(10, 120) >= 0.95 * 48
    later = run.flying[60:240]
    assert sum(later) / len(later) < 2.5 * 48


def test_growth_stops_where_latency_is_inflated_and_goes_on_where_it_is_not() -> None:
    at = [0.0]
    limit = ConcurrencyLimit(64, 10_000, lambda: at[0])

    def rounds(count: int, latency_s: float) -> list[int]:
        """Everybody sends at once, and is answered after as long."""
        found = []
        for _ in range(count):
            tickets = []
            while limit.room:
                tickets.append(limit.send())
            at[0] += latency_s
            for ticket in tickets:
                limit.succeeded(ticket)
            found.append(int(limit.limit))
        return found

    growing = rounds(3, 1.0)
    assert growing[0] > 64 and growing == sorted(set(growing))
    slow = rounds(6, 1.8)
    assert slow[2:] == slow[2:3] * 4, "not twice as slow: it stays"
    assert rounds(6, 1.0)[-1] > slow[-1]


def test_a_server_that_becomes_slower_is_not_taken_for_a_full_one() -> None:
    latency, scale = lognormal(0.5, 0.5, 3), [1.0]

    def then(server: Server, at: float) -> None:
        scale[0] = 1.0 if at < 20 else 4.0

    run = Run(Server(128, lambda: latency() * scale[0]), 128, 80, 1, then)
    assert min(run.flying[100:155]) >= 120


@given(st.floats(1, 5000), st.integers(1, 8), st.lists(st.tuples(st.floats(0, 20), st.floats(1, 60)), min_size=20, max_size=60))
def test_no_minute_exceeds_the_quota(per_minute: float, workers: int, asks: list[tuple[float, float]]) -> None:
    """But by the debt that the one amount left which is larger than the bucket; and whole requests fit below a fraction of 1."""
    at = [50.0]
    quota = Quota(per_minute / workers, lambda: at[0])
    taken: list[tuple[float, float]] = []
    for pause, amount in asks:
        at[0] += pause
        while (wait_s := quota.wait_s(amount)) > 0:
            at[0] += wait_s
        quota.take(amount)
        taken.append((at[0], amount))
    share = per_minute / workers
    holds = max(1.0, share / 60)
    for begin, _ in taken:
        within = [amount for moment, amount in taken if begin <= moment < begin + 60]
        debt = max(0.0, max(within) - holds)
        assert sum(within) <= max(share, 0.9 * share + 1) * (1 + 1e-6) + debt


@pytest.mark.parametrize(("per_minute", "workers"), [(600, 1), (6000, 3), (7, 1), (120, 2)])
def test_requests_a_minute_are_kept_smoothly_and_used_up(per_minute: int, workers: int) -> None:
    async def main() -> list[float]:
        settings = PaceSettings(in_flight=256, max_requests_per_minute=per_minute, workers=workers)
        inner, begins = Scripted(takes_s=0.3), now()
        await ask_all(paced(inner, settings), 300, until=begins + 300)
        return [at - begins for at in inner.at if at < begins + 300]

    at, share = virtually(main), per_minute / workers
    for start in (0, 17.3, 60, 123.4, 240):
        assert sum(start <= moment < start + 60 for moment in at) <= share
    assert len(at) >= 0.85 * share * 5
    assert sum(moment < 1 for moment in at) <= 2 * share / 60 + 1, "no minute's worth at the start"


def test_tokens_are_reserved_by_estimate_and_settled_by_what_was_spent() -> None:
    async def main(spent: int) -> int:
        settings = PaceSettings(in_flight=256, max_tokens_per_minute=60_000)
        inner, begins = Scripted(AnnotationReply(spent=Usage(1, spent)), takes_s=0.2), now()
        await ask_all(paced(inner, settings, tokens=500), 300, until=begins + 60)
        return sum(at < begins + 60 for at in inner.at)

    exact, cheap = virtually(lambda: main(500)), virtually(lambda: main(250))
    assert 0.95 * 120 <= exact <= 120 and 0.9 * 240 <= cheap <= 244


def test_rejected_requests_took_no_tokens() -> None:
    async def main() -> int:
        settings = PaceSettings(in_flight=1, max_tokens_per_minute=60_000)
        pace = paced(Scripted(Transient("429", rejected=True)), settings, tokens=1000)
        begins = now()
        for _ in range(100):
            with pytest.raises(Transient):
                await pace.annotate(request())
        return round(now() - begins)

    assert virtually(main) == 0


def test_first_come_first_served_and_cancelled_ones_leave_no_hole() -> None:
    async def main() -> None:
        inner = Scripted(takes_s=1.0)
        pace = paced(inner, PaceSettings(in_flight=2))
        tasks = [asyncio.ensure_future(pace.annotate(request(f"v{i}"))) for i in range(9)]
        await asyncio.sleep(0.5)
        for i in (0, 3, 4, 8):
            tasks[i].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert inner.asked == ["v0", "v1", "v2", "v5", "v6", "v7"] and inner.most == 2
        assert pace.state().in_flight == pace.state().waiting == 0

    virtually(main)


@pytest.mark.parametrize("seed", range(5))
def test_cancelling_at_any_moment_loses_no_place(seed: int) -> None:
    """Also between the moment when a request has its turn and the moment when it is sent."""

    async def main() -> tuple[int, list[Any]]:
        rng = random.Random(seed)
        inner = Scripted(takes_s=0.1)
        pace = paced(inner, PaceSettings(in_flight=3, max_requests_per_minute=60_000, max_tokens_per_minute=10**7), tokens=10)
        tasks = [asyncio.ensure_future(pace.annotate(request(f"v{i}"))) for i in range(200)]

        async def killer() -> None:
            for _ in range(300):
                await asyncio.sleep(0.1 if rng.random() < 0.2 else 0)
                rng.choice(tasks).cancel()

        await killer()
        await asyncio.gather(*tasks, return_exceptions=True)
        begins = now()
        results = await ask_all(pace, 3, [request() for _ in range(30)])
        assert now() - begins == pytest.approx(1.0, abs=0.1), "still three at a time"
        return inner.most, results

    most, results = virtually(main)
    assert most == 3 and all(result is ANSWERED for result in results)


def test_a_pause_lets_nothing_through_and_a_stop_ends_the_waiting(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        path = tmp_path / "control.yaml"
        path.write_text("paused: true\n")
        inner, stop = Scripted(takes_s=0.1), [False]
        orders = control(PaceSettings(in_flight=4), lambda: stop[0], path=str(path), every_s=1e9)
        pace = paced(inner, PaceSettings(in_flight=4), orders)
        pace.open()
        first = [asyncio.ensure_future(pace.annotate(request(f"v{i}"))) for i in range(3)]
        await asyncio.sleep(60)
        assert not inner.asked and pace.state().paused and pace.state().waiting == 3
        path.unlink()
        orders.read()
        await asyncio.gather(*first)
        assert len(inner.asked) == 3
        path.write_text("in_flight: 1\n")
        orders.read()
        more = [asyncio.ensure_future(pace.annotate(request(f"w{i}"))) for i in range(50)]
        await asyncio.sleep(1.01)
        assert inner.most == 3 and 10 <= len(inner.asked) - 3 <= 12, "one at a time now"
        stop[0], begins = True, now()
        results = await asyncio.gather(*more, return_exceptions=True)
        assert now() - begins <= 0.3 and inner.opened == 1
        stopped = [result for result in results if isinstance(result, Stopped)]
        assert len(stopped) >= 38 and all(result is ANSWERED for result in results if result not in stopped)
        with pytest.raises(Stopped):
            await pace.annotate(request())

    virtually(main)


def test_retry_after_is_heeded_by_all_once_a_decrease_did_not_help() -> None:
    async def main() -> tuple[list[float], float]:
        inner = Scripted(Transient("429", 7.0, rejected=True), Transient("429", 700.0, rejected=True), ANSWERED)
        pace = paced(inner, PaceSettings(in_flight=8, longest_wait_s=20))
        begins = now()
        for _ in range(2):
            with pytest.raises(Transient):
                await pace.annotate(request())
        held_s = pace.state().held_s
        await pace.annotate(request())
        return [at - begins for at in inner.at], held_s

    at, held_s = virtually(main)
    assert at == pytest.approx([0, 0, 20]) and held_s == pytest.approx(20), "but not for longer than we wait"


def test_a_burst_is_one_decrease_and_its_state_is_told() -> None:
    async def main() -> None:
        async def busy(asked: AnnotationRequest) -> AnnotationReply:
            raise Transient("429", rejected=asked.video.video_id < "v1")

        inner = Scripted(busy, takes_s=1.0)
        pace = paced(inner, PaceSettings(in_flight=100), start=100)
        await ask_all(pace, 100, [request(f"v{i // 90}") for i in range(100)])
        state = pace.state()
        assert state.sent == 100 and state.rejected == 90 and state.in_flight == 0
        assert state.limit == 22, "at least a quarter was accepted, whatever is said, and 0.9 of that is left"

    virtually(main)


def test_what_is_no_fault_of_the_server_changes_nothing() -> None:
    async def main() -> int:
        pace = paced(Scripted(Permanent("too large", "too_large")), PaceSettings(in_flight=16))
        await ask_all(pace, 20, [request() for _ in range(100)])
        return pace.state().limit

    assert virtually(main) == 16
