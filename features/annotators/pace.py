"""Sends no more than a server and its quota can take, and finds out how much that is."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from features.annotators.concurrency import ConcurrencyLimit
from features.annotators.control import POLL_S, Control, Orders
from features.annotators.protocol import AnnotationReply, AnnotationRequest, Annotator, Around, Usage
from features.annotators.quota import Quota
from features.annotators.settings import PaceSettings
from features.errors import Transient

START = 64
_LEAST_SLEEP_S = 0.005
_AGAIN_S = 2.0
"""A rejection so soon after a decrease (or two requests' times) is not answered by a decrease alone."""


@dataclass(frozen=True)
class PaceState:
    """Where the pace stands, for metrics.

    Attributes:
        limit: requests at the same time.
        in_flight, waiting: requests.
        sent, rejected: exchanges so far.
        latency_s: smoothed; 0: not known.
        held_s: how long nothing is sent yet because the server asked for it.
        paused: by control.yaml.
    """

    limit: int
    in_flight: int
    waiting: int
    sent: int
    rejected: int
    latency_s: float
    held_s: float
    paused: bool


class Paced(Around):
    """Lets requests through in order, as many at a time and a minute as is right.

    At a time: `ConcurrencyLimit`, at most `in_flight`. A minute: quotas, shared out over `workers`; a request is counted with its
    estimate when it is sent and with what it took when it is back. A rejected one took no tokens; of one that broke off the
    estimate stays counted. A rejection that follows a decrease closely is no question of a request more or less: nothing is sent
    then for as long as its Retry-After says, at most `longest_wait_s`.

    Pausing lets nothing through; a stop ends the waiting of all that was not sent. Everything may be changed while the run goes
    on (control.yaml).

    Args:
        annotator: the one inside; one call is one exchange.
        settings: for `workers`, `longest_wait_s` and the first limit; the rest comes from `control`.
        estimate: what a request will take.
        control: what holds now.
        clock: seconds, never going back.
        start: the limit to begin with.
    """

    def __init__(
        self,
        annotator: Annotator,
        settings: PaceSettings,
        estimate: Callable[[AnnotationRequest], Usage],
        control: Control,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        start: int = START,
    ) -> None:
        super().__init__(annotator)
        self.limit = ConcurrencyLimit(start, settings.in_flight, clock)
        self._settings, self._estimate, self._control, self._clock, self._sleep = settings, estimate, control, clock, sleep
        self._requests, self._tokens = Quota(0, clock), Quota(0, clock)
        self._heed(settings)
        self._queue: deque[tuple[asyncio.Future[None], int]] = deque()
        self._owed = 0  # have their turn and are not sent yet: the loop has not come to them
        self._ticker: asyncio.Task[None] | None = None
        self._held = False
        self._held_until = self._lowered_at = -float("inf")

    def open(self) -> None:
        self._control.open()
        super().open()

    def state(self) -> PaceState:
        """Where it stands now."""
        limit, waiting = self.limit, sum(not future.done() for future, _ in tuple(self._queue))
        return PaceState(
            limit=int(min(limit.limit, limit.most)),
            in_flight=limit.in_flight,
            waiting=waiting,
            sent=limit.sent,
            rejected=limit.rejected,
            latency_s=limit.latency_s,
            held_s=max(0.0, self._held_until - self._clock()),
            paused=self._control.orders().paused,
        )

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        """See `Annotator`. Waits for its turn; raises Stopped when the run is stopped before that."""
        orders = self._control.orders()
        tokens = _total(self._estimate(request)) if orders.max_tokens_per_minute else 0
        await self._turn(tokens)
        ticket, took = self.limit.send(), tokens
        try:
            reply = await self.annotator.annotate(request)
        except Transient as error:
            took = 0 if error.rejected else tokens
            if self.limit.failed(ticket, error.rejected) and error.rejected:
                self._lowered(error.retry_after_s)
            raise
        except BaseException:
            self.limit.given_up(ticket)
            raise
        else:
            self.limit.succeeded(ticket)
            took = _total(reply.spent) if tokens else 0
            return reply
        finally:
            self._tokens.give_back(tokens - took)
            self._pump()

    async def _turn(self, tokens: int) -> None:
        """Returns when one request may be sent, which the caller does at once."""
        self._heed(self._control.orders())
        self._control.check()
        if not self._queue and self._wait_s(tokens) == 0.0:
            self._take(tokens)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((turn, tokens))
        if self._ticker is None or self._ticker.done():
            self._ticker = asyncio.get_running_loop().create_task(self._tick())
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:  # cancelled between its turn and its sending
                self._owed -= 1
                self._requests.give_back(1)
                self._tokens.give_back(tokens)
            self._pump()
            raise
        self._owed -= 1

    def _wait_s(self, tokens: int) -> float:
        """Seconds until the next may be sent; 0: now; infinite: that depends on something else than time."""
        if self._control.orders().paused or self.limit.in_flight + self._owed >= int(min(self.limit.limit, self.limit.most)):
            return float("inf")
        held_s = self._held_until - self._clock()
        if self._held and held_s <= 0:
            self._held = False
            self.limit.start_gently()
            return self._wait_s(tokens)
        return max(0.0, held_s, self._requests.wait_s(1), self._tokens.wait_s(tokens))

    def _take(self, tokens: int) -> None:
        self._requests.take(1)
        self._tokens.take(tokens)

    def _pump(self) -> float:
        """Lets through whoever is first in line as long as it may; returns seconds until the next try."""
        while self._queue:
            turn, tokens = self._queue[0]
            if not turn.done():
                wait_s = self._wait_s(tokens)
                if wait_s > 0:
                    return wait_s
                self._take(tokens)
                self._owed += 1
                turn.set_result(None)
            self._queue.popleft()
        return float("inf")

    async def _tick(self) -> None:
        """Goes on while anybody waits: for the time when the next may be sent, and for what a person orders."""
        while self._queue:
            if self._control.orders().stopped:
                while self._queue:
                    turn, _ = self._queue.popleft()
                    if not turn.done():
                        turn.set_exception(self._control.stopped())
                return
            self._heed(self._control.orders())
            await self._sleep(min(POLL_S, max(_LEAST_SLEEP_S, self._pump())))

    def _heed(self, orders: Orders | PaceSettings) -> None:
        self.limit.most = orders.in_flight
        self._requests.set(orders.max_requests_per_minute / self._settings.workers)
        self._tokens.set(orders.max_tokens_per_minute / self._settings.workers)

    def _lowered(self, retry_after_s: float | None) -> None:
        now = self._clock()
        again, self._lowered_at = now - self._lowered_at < max(_AGAIN_S, 2 * self.limit.latency_s), now
        if again and retry_after_s:
            self._held_until = max(self._held_until, now + min(retry_after_s, self._settings.longest_wait_s))
            self._held = True


def _total(usage: Usage) -> int:
    return usage.input_tokens + usage.output_tokens
