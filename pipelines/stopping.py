"""Ctrl-C that stops cleanly: what is in flight is finished and written, the rest of the run stays pending."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

_requested = threading.Event()


def requested() -> bool:
    """Whether somebody asked this process to stop. Stages look before each video."""
    return _requested.is_set()


def request() -> None:
    """Asks the stages in this process to stop."""
    _requested.set()


@contextlib.contextmanager
def on_interrupt() -> Iterator[None]:
    """Within it, the first Ctrl-C (or SIGTERM) asks the stages to stop and the second one interrupts at once.

    Outside the main thread nothing is installed, since Python delivers signals there only.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if _requested.is_set():
            raise KeyboardInterrupt
        _requested.set()
        print("\nStopping: finishing what is in flight, the rest stays pending. Press again to abort.", file=sys.stderr)

    _requested.clear()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
