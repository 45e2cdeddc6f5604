"""How many requests at the same time a server can take, found out from its replies.

Additive increase and multiplicative decrease (Chiu and Jain, 1989), with three ideas of TCP's later congestion controls: the
limit at which rejections occurred is remembered and approached slowly (CUBIC, RFC 9438); growth stops where latency is inflated
against the smallest there was (Vegas, Brakmo and Peterson, 1995; the `Gradient2Limit` of Netflix's concurrency-limits compares
with a tolerance of 1.5, too); and only requests sent after a decrease can cause the next one (NewReno, RFC 6582).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

INCREASE, DECREASE = 1.25, 0.9
"""Added for every success while no ceiling is known: e-fold in 0.8 times a request's time; and what is kept after a burst."""
INFLATED, OVERFULL = 1.5, 2.0
"""Latency over the smallest there was: from the first on the limit does not grow, from the second on it shrinks."""
PATIENCE_S = (5.0, 60.0)
"""How long a known ceiling is respected before it is probed; doubles with every probe that is rejected."""
COHORT = 32
"""Requests sent one after the other whose latencies are averaged once all are back: the first ones back are the fast ones."""
_SMOOTHING = 0.25
_AGEING = 0.001
_ACCEPTED_AT_LEAST = 0.25


@dataclass
class Ticket:
    """A request in flight: its number, when it was sent, and its cohort."""

    number: int
    sent_at: float
    cohort: int


@dataclass
class _Cohort:
    sent: int = 0
    flying: int = 0
    back: int = 0
    counted: int = 0
    log_latency: float = 0.0


class ConcurrencyLimit:
    """The limit of one process towards one server.

    Until something was rejected, every success adds to it, so the limit doubles in less than a request's time. A rejection lowers
    it to 0.9 of what the server had accepted: what was in flight, less all that is rejected of it. From there it comes back to
    that ceiling within a few requests' time, stays, and after a while probes above it: by 1, 2, 4, ... in each request's time
    until something is rejected again. Failures other than rejections (time-outs) lower it too and leave no ceiling.

    A server that queues rejects nothing and gets slower. By Little's law what it works on at the same time is what was in flight
    times the smallest latency over the latency now; the limit goes no further than INFLATED times that, and back to it once the
    latency is OVERFULL. Where fewer requests are not faster ones, the server has become slower, and that is the smallest latency
    from then on.

    Args:
        start: the first limit.
        most: the highest, may be changed.
        clock: seconds, never going back.

    Attributes:
        limit: 1 to `most`, a fraction.
        in_flight: sent and not back.
        rejected: so far.
    """

    def __init__(self, start: int, most: int, clock: Callable[[], float]) -> None:
        self.limit, self.most = float(max(1, min(start, most))), most
        self.in_flight = self.sent = self.rejected = 0
        self._clock = clock
        self._decreased_at = self._round_ends = -1  # numbers of requests
        self._ceiling: float | None = None
        self._burst, self._burst_flying, self._burst_is_rejection = 0, 0, False
        self._ceiling_at, self._patience_s, self._step = 0.0, PATIENCE_S[0], 0.0
        self._accepts = False  # something sent after the last decrease was answered
        self._cohorts: dict[int, _Cohort] = {0: _Cohort()}
        self._newest = 0
        self._known = False  # how long a request takes
        self._smooth = self._least = 0.0  # logarithms
        self._shrinking: tuple[float, float] | None = None
        self._queues = False  # it was overfull once: grow by an eighth in a request's time, not e-fold

    @property
    def room(self) -> bool:
        """Whether one more may be sent."""
        return self.in_flight < int(min(self.limit, self.most))

    @property
    def latency_s(self) -> float:
        """Smoothed; 0 before the first cohort is back."""
        return math.exp(self._smooth) if self._known else 0.0

    @property
    def ceiling(self) -> float | None:
        """What the server is known to take; None: not known."""
        return self._ceiling

    def send(self) -> Ticket:
        """One more is sent."""
        cohort = self._cohorts[self._newest]
        cohort.sent += 1
        cohort.flying += self.in_flight + 1
        ticket = Ticket(self.sent, self._clock(), self._newest)
        if cohort.sent == COHORT:
            self._newest += 1
            self._cohorts[self._newest] = _Cohort()
        self.sent += 1
        self.in_flight += 1
        return ticket

    def succeeded(self, ticket: Ticket) -> None:
        """It is answered, whatever the answer."""
        full = self.in_flight >= int(min(self.limit, self.most))
        self.in_flight -= 1
        self._accepts |= ticket.number > self._decreased_at
        self._back(ticket, max(1e-6, self._clock() - ticket.sent_at))
        if full and self.limit < self.most:
            self._grow(ticket)
        self.limit = min(self.limit, float(self.most))

    def given_up(self, ticket: Ticket) -> None:
        """It was cancelled, or says nothing about the server."""
        self.in_flight -= 1
        self._back(ticket, None)

    def failed(self, ticket: Ticket, rejected: bool) -> bool:
        """It failed: `rejected` for there being too many, or otherwise, for now. Returns whether that is a decrease of its own."""
        self.rejected += rejected
        flying, fresh = self.in_flight, ticket.number > self._decreased_at
        self.in_flight -= 1
        self._back(ticket, None)
        if fresh:
            self._burst, self._burst_flying, self._burst_is_rejection = 0, flying, rejected
            self._decreased_at = self.sent - 1
        elif rejected != self._burst_is_rejection:
            return False
        self._burst += 1
        # A burst is one decrease: its further members only correct how many the server had accepted.
        accepted = max(self._burst_flying - self._burst, self._burst_flying * _ACCEPTED_AT_LEAST, 1.0)
        if rejected:
            if fresh:
                near = self._ceiling is not None and abs(accepted - self._ceiling) <= max(2.0, 0.1 * self._ceiling)
                self._patience_s = min(2 * self._patience_s, PATIENCE_S[1]) if near and self._accepts else PATIENCE_S[0]
                self._ceiling_at, self._step = self._clock(), 0.0
            self._ceiling = accepted
        self._accepts &= not fresh
        self.limit = max(1.0, min(self.limit, DECREASE * accepted))
        return fresh

    def start_gently(self) -> None:
        """After a time without sending: at half the limit, so that what has changed meanwhile costs few rejections."""
        self.limit = max(1.0, float(self.in_flight), self.limit / 2)

    def _grow(self, ticket: Ticket) -> None:
        if self._ceiling is None:
            if not self._inflated:
                self.limit += max(1 / 8, 1 / self.limit) if self._queues else INCREASE
            return
        if self.limit < self._ceiling:
            # A quarter of the way in each request's time, at least 1.
            self.limit = min(self._ceiling, self.limit + max(1.0, (self._ceiling - self.limit) / 4) / self.limit)
            return
        probing = self._step > 0
        if not probing and self._clock() - self._ceiling_at < max(self._patience_s, 10 * self.latency_s):
            return
        if self._inflated or (probing and ticket.number <= self._round_ends):
            return
        self._step = 2 * self._step if probing else 1.0
        self._ceiling = self.limit if probing else self._ceiling
        self.limit = min(float(self.most), self.limit + self._step)
        self._round_ends = self.sent - 1 + int(self._step)

    # Latency

    @property
    def _inflated(self) -> bool:
        return self._smooth - self._least > math.log(INFLATED)

    def _back(self, ticket: Ticket, latency_s: float | None) -> None:
        cohort = self._cohorts[ticket.cohort]
        cohort.back += 1
        if latency_s is not None:
            cohort.counted += 1
            cohort.log_latency += math.log(latency_s)
        if cohort.back < COHORT:
            return
        del self._cohorts[ticket.cohort]
        if cohort.counted >= COHORT // 2:
            self._learn(cohort.log_latency / cohort.counted, cohort.flying / COHORT)

    def _learn(self, log_latency: float, flying: float) -> None:
        """From a cohort's latencies, averaged as logarithms for their long tails, and what was in flight when it was sent."""
        if not self._known:
            self._known, self._smooth, self._least = True, log_latency, log_latency
            return
        self._smooth += _SMOOTHING * (log_latency - self._smooth)
        # It ages towards what is usual now: what is asked may have become longer.
        self._least = min(self._smooth, self._least + _AGEING * (self._smooth - self._least))
        if log_latency - self._least <= math.log(OVERFULL):
            self._shrinking = None
            return
        if self._shrinking is None:
            self._shrinking = (flying, log_latency)
        began, before = self._shrinking
        if flying <= 0.6 * began and log_latency > before + math.log(0.8):
            self._least = self._smooth = log_latency
            self._shrinking, self.limit, self._queues = None, max(self.limit, began), False
        else:
            self._queues = True
            self.limit = max(1.0, min(self.limit, INFLATED * flying * math.exp(self._least - log_latency)))
