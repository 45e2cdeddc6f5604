"""Where the time of extraction goes, so that a person sees which part to switch off."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

DECODING = ("open", "decode", "measure", "sound")
"""Phases inside the decoding process: header, pictures, their numbers and fingerprints, sound and its numbers.

Around it are `fetch` (reading and hashing the bytes), `process` (what a process of its own costs), `speech`, `read` (words in the
pictures), `tempo`, `text`, `embed` and `frames` (writing JPEG).
"""


class Stopwatch:
    """Seconds by phase, one after the other.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock
        self._since = clock()

    def lap(self, phase: str) -> None:
        """Counts the time since the last lap, or the start, for a phase."""
        now = self._clock()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._since
        self._since = now


class BusySeconds:
    """Seconds by phase, added up over threads."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, seconds: Mapping[str, float]) -> None:
        with self._lock:
            for phase, more in seconds.items():
                self._seconds[phase] = self._seconds.get(phase, 0.0) + more

    def take(self) -> dict[str, float]:
        """What came together since the last call."""
        with self._lock:
            taken, self._seconds = self._seconds, {}
        return taken
