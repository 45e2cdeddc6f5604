"""A bounded, evenly spread choice out of a stream of unknown length."""

from __future__ import annotations

import math
from typing import Generic, TypeVar

Item = TypeVar("Item")


def step_of(time_s: float, step_s: float) -> int:
    """Which of the steps that a stream is divided into a time lies in, the first one 0."""
    return math.floor(time_s / step_s + 1e-6)


class Spread(Generic[Item]):
    """Keeps items that lie about equally far from each other, in time order.

    Args:
        capacity: most items ever held, at least 2.
        step_s: of each so many seconds the first item is kept, or where it is 0 every one; it grows as the stream turns out longer.
    """

    def __init__(self, capacity: int, step_s: float = 0.0) -> None:
        self._capacity = max(2, capacity)
        self._step = step_s
        self._held: list[tuple[float, Item]] = []

    def wants(self, time_s: float) -> bool:
        """Whether an item of this time would be kept; times do not decrease."""
        return not self._held or not self._step or step_of(time_s, self._step) > step_of(self._held[-1][0], self._step)

    def add(self, time_s: float, item: Item) -> None:
        """Takes an item, and thins out what is held when that becomes too much."""
        if not self.wants(time_s):
            return
        self._held.append((time_s, item))
        if len(self._held) > self._capacity:
            self._thin()

    def _thin(self) -> None:
        span = self._held[-1][0] - self._held[0][0]
        if not span:
            self._held = self._held[: self._capacity // 2]
            return
        self._step = max(self._step, 2 * span / self._capacity)
        kept = self._held[:1]
        for entry in self._held[1:]:
            if step_of(entry[0], self._step) > step_of(kept[-1][0], self._step):
                kept.append(entry)
        self._held = kept

    def all(self) -> list[tuple[float, Item]]:
        """Everything held, in time order."""
        return list(self._held)
