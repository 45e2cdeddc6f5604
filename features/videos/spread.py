"""A bounded, evenly spread choice out of a stream of unknown length."""

from __future__ import annotations

from typing import Generic, TypeVar

Item = TypeVar("Item")


class Spread(Generic[Item]):
    """Keeps items that lie about equally far from each other, in time order.

    Args:
        capacity: most items ever held, at least 2.
        step_s: least distance between two that are kept, seconds; it grows as the stream turns out longer.
    """

    def __init__(self, capacity: int, step_s: float = 0.0) -> None:
        self._capacity = max(2, capacity)
        self._step = step_s
        self._held: list[tuple[float, Item]] = []

    def wants(self, time_s: float) -> bool:
        """Whether an item of this time would be kept; times do not decrease."""
        return not self._held or time_s - self._held[-1][0] >= self._step - 1e-6

    def add(self, time_s: float, item: Item) -> None:
        """Takes an item, and thins out what is held when that becomes too much."""
        if not self.wants(time_s):
            return
        self._held.append((time_s, item))
        if len(self._held) > self._capacity:
            self._thin()

    def _thin(self) -> None:
        span = self._held[-1][0] - self._held[0][0]
        self._step = max(self._step, 2 * span / self._capacity)
        kept = self._held[:1]
        for entry in self._held[1:]:
            if entry[0] - kept[-1][0] >= self._step - 1e-6:
                kept.append(entry)
        self._held = kept if span > 0 else self._held[: self._capacity // 2]

    def all(self) -> list[tuple[float, Item]]:
        """Everything held, in time order."""
        return list(self._held)
