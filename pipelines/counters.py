"""What a stage counts: once as Beam metrics for any runner, and once in this process for the progress line.

Counters may run ahead when a runner retries a bundle. The law of counts is therefore checked on the rows themselves
(`io.CommitRun`), never on these.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from apache_beam.metrics import Metrics


@dataclass
class LiveCounts:
    """Counts of the stages that run in this process, safe to read while they run."""

    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    watched: dict[str, Callable[[], str]] = field(default_factory=dict)
    """By name, who may have something to say about a run while it goes on."""

    def trouble(self) -> str:
        """What a person should know now, empty when all is well."""
        return "; ".join(filter(None, (say() for say in list(self.watched.values()))))

    def add(self, stage: str, name: str, amount: int) -> None:
        with self._lock:
            self._counts[stage, name] += amount

    def add_all(self, stage: str, amounts: Mapping[str, int]) -> None:
        """Adds to several counts of a stage at once."""
        with self._lock:
            for name, amount in amounts.items():
                self._counts[stage, name] += amount

    def of(self, stage: str) -> dict[str, int]:
        """The counts of one stage by name."""
        with self._lock:
            return {name: number for (owner, name), number in self._counts.items() if owner == stage}

    def clear(self, stage: str) -> None:
        """Starts a stage from zero."""
        with self._lock:
            for key in [key for key in self._counts if key[0] == stage]:
                del self._counts[key]
            self.watched.clear()


live = LiveCounts()


def count(stage: str, name: str, amount: int = 1) -> None:
    """Adds to a counter, such as `done`, `reused`, `dead_lettered`, `pending`, `bytes` or `milliseconds` of a stage."""
    Metrics.counter(stage, name).inc(amount)
    live.add(stage, name, amount)
