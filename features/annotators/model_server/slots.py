"""How many requests are served at a time, how long each takes, and how many a minute are taken."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from features.annotators.model_server.problems import too_many


def lognormal(random_numbers: random.Random, median: float, sigma: float) -> float:
    """One latency; see `Slots`."""
    return median * math.exp(sigma * random_numbers.gauss(0.0, 1.0)) if median else 0.0


class Slots:
    """Slots that requests are served in.

    Args:
        count: of them.
        queueing: whether requests beyond wait, first come, first served, instead of being refused.
        latency_s, sigma: lognormal time in a slot: its median in seconds, and the standard deviation of its logarithm.
        random_numbers: of the latencies.
        clock: seconds, monotonic.
        retry_after_s: what a request that is refused is told to wait; 0: nothing.
        sleep: waits for that many seconds.
    """

    def __init__(
        self,
        count: int,
        queueing: bool,
        latency_s: float,
        sigma: float,
        random_numbers: random.Random,
        clock: Callable[[], float],
        retry_after_s: float = 1.0,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._sleep = sleep
        self.retry_after_s = retry_after_s
        self.queueing, self.latency_s, self.sigma = queueing, latency_s, sigma
        self._random, self._clock = random_numbers, clock
        self.count, self.taken, self.most_taken, self.most_waiting = count, 0, 0, 0
        self.latencies: list[float] = []
        self._first = self._last = 0.0
        self._waiting: deque[asyncio.Future[float]] = deque()

    def resize(self, count: int) -> None:
        """Changes how many there are; who is being served stays."""
        self.count = count
        self._wake(self._clock())

    def drawn(self) -> float:
        """The next latency, in seconds."""
        return lognormal(self._random, self.latency_s, self.sigma)

    @asynccontextmanager
    async def served(self, protocol: str) -> AsyncIterator[None]:
        """Holds a slot for as long as the drawn latency, or longer where what is done inside takes longer.

        Who has waited is served from the moment at which the slot was due to be free, not from when this process got round to
        it: that it is busy is not taken for a slow model.

        Raises:
            Refused: 429, where all slots are taken and nobody waits.
        """
        if self.taken >= self.count or self._waiting:
            if not self.queueing:
                raise too_many(protocol, "requests", self.retry_after_s)
            place: asyncio.Future[float] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            arrived = self._clock()
            self.most_waiting = max(self.most_waiting, len(self._waiting))
            try:
                started = max(arrived, await place)
            except asyncio.CancelledError:
                if place.done() and not place.cancelled():
                    self._release(place.result())
                elif place in self._waiting:
                    self._waiting.remove(place)
                raise
        else:
            self.taken += 1
            started = self._clock()
        self.most_taken = max(self.most_taken, self.taken)
        latency = self.drawn()
        if not self.latencies:
            self._first = self._last = started
        self.latencies.append(latency)
        free_at = None
        try:
            begun = self._clock()
            yield
            due, now = started + latency, self._clock()
            if due > now:
                await self._sleep(due - now)
            free_at = max(due, started + now - begun)
        finally:
            self._release(self._clock() if free_at is None else free_at)

    def _release(self, free_at: float) -> None:
        self.taken -= 1
        self._last = max(self._last, free_at)
        self._wake(free_at)

    @property
    def busy_s(self) -> float:
        """Seconds from when the first slot was taken to when the last one was free again; 0 before."""
        return max(0.0, self._last - self._first) if self.latencies else 0.0

    def _wake(self, free_at: float) -> None:
        while self._waiting and self.taken < self.count:
            place = self._waiting.popleft()
            if not place.done():
                self.taken += 1
                place.set_result(free_at)

    def reset(self, random_numbers: random.Random) -> None:
        """Forgets what was measured, and draws latencies by other random numbers."""
        self._random = random_numbers
        self.most_taken, self.most_waiting = self.taken, len(self._waiting)
        self.latencies.clear()


class Quota:
    """Requests and tokens a minute, in a sliding window.

    Args:
        requests, tokens: permitted in a window; 0: any number.
        window_s: its length.
        clock: seconds, monotonic.
    """

    def __init__(self, requests: int, tokens: int, window_s: float, clock: Callable[[], float]) -> None:
        self.requests, self.tokens, self.window_s, self._clock = requests, tokens, window_s, clock
        self._taken: deque[tuple[float, int, int]] = deque()
        self._sums = [0, 0]

    def take(self, protocol: str, tokens: int) -> None:
        """Counts a request with `tokens` of input.

        Raises:
            Refused: 429 with the time until there is room.
        """
        if not (self.requests or self.tokens):
            return
        now = self._clock()
        self._forget(now)
        if self.requests and self._sums[0] + 1 > self.requests:
            raise too_many(protocol, "requests", self._wait(now, 1, self._sums[0] + 1 - self.requests))
        if self.tokens and self._sums[1] + tokens > self.tokens:
            raise too_many(protocol, "tokens", self._wait(now, 2, self._sums[1] + tokens - self.tokens))
        self._add(now, 1, tokens)

    def used(self, tokens: int) -> None:
        """Counts tokens of output."""
        if self.tokens:
            self._add(self._clock(), 0, tokens)

    def _add(self, now: float, requests: int, tokens: int) -> None:
        self._taken.append((now, requests, tokens))
        self._sums[0] += requests
        self._sums[1] += tokens

    def _forget(self, now: float) -> None:
        while self._taken and self._taken[0][0] <= now - self.window_s:
            _, requests, tokens = self._taken.popleft()
            self._sums[0] -= requests
            self._sums[1] -= tokens

    def _wait(self, now: float, field: int, excess: int) -> float:
        for entry in self._taken:
            excess -= int(entry[field])
            if excess <= 0:
                return max(entry[0] + self.window_s - now, 0.001)
        return self.window_s
