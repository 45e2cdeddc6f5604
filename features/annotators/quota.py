"""A provider's quota a minute, kept smoothly."""

from __future__ import annotations

import math
from collections.abc import Callable

MINUTE_S = 60.0
BURST_S = 1.0
"""How many seconds' worth may be sent at once."""
_LEAST_RATE = 0.9


class Quota:
    """A token bucket that in no minute lets more through than its quota.

    It holds a second's worth (at least 1), and is filled so that a full bucket and a minute's filling are the quota together; for
    quotas below 10 it is filled at nine tenths of the quota, which keeps whole requests within it too. An amount above what the
    bucket holds passes when it is full and leaves a debt, so a minute may exceed the quota by at most one such amount.

    Args:
        per_minute: of this process; 0: no quota.
        clock: seconds, never going back.
    """

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self._clock, self._at = clock, clock()
        self._per_minute = self._holds = self._per_second = self._level = 0.0
        self.set(per_minute)

    def set(self, per_minute: float) -> None:
        """Another quota from now on; costs nothing where it is the same."""
        if per_minute == self._per_minute:
            return
        self._fill()
        fresh = not self._per_minute
        self._per_minute = per_minute
        self._holds = max(1.0, per_minute * BURST_S / MINUTE_S)
        self._per_second = max(per_minute - self._holds, _LEAST_RATE * per_minute) / MINUTE_S
        self._level = min(self._holds, per_minute) if fresh else min(self._level, self._holds)

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._holds, self._level + (now - self._at) * self._per_second)
        self._at = now

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` may be taken; 0: now."""
        if not self._per_minute:
            return 0.0
        self._fill()
        missing = min(amount, self._holds) - self._level
        # Times are floats: without the margin a sleeper wakes a hair too early, again and again.
        return 0.0 if missing <= 1e-9 * self._holds else math.ceil(missing / self._per_second * 1e6) / 1e6

    def take(self, amount: float) -> None:
        """Takes `amount`, which `wait_s` said may be taken."""
        if self._per_minute:
            self._level -= amount

    def give_back(self, amount: float) -> None:
        """What was taken too much; negative: what was taken too little."""
        if self._per_minute:
            self._fill()
            self._level = min(self._holds, self._level + amount)
