"""One event loop a process on which annotators run, and a window of requests in flight."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Generic, TypeVar

from features.annotators.protocol import AnnotationReply, AnnotationRequest, Annotator

T = TypeVar("T")


class EventLoopThread:
    """An asyncio loop that runs in a daemon thread for as long as the process lives."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="annotators", daemon=True).start()


_lock = threading.Lock()
_loop: EventLoopThread | None = None


def event_loop() -> asyncio.AbstractEventLoop:
    """The loop of this process, started at the first call."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = EventLoopThread()
        return _loop.loop


class Window(Generic[T]):
    """Requests in flight, at most `size`: `ask` hands back what has finished, `drain` waits for the rest.

    It outlives a single element, so a slow reply holds up neither its neighbours nor the next element of the bundle.
    """

    def __init__(self, annotator: Annotator, size: int, finish: Callable[[T, Future[AnnotationReply]], Iterator[object]]) -> None:
        self._annotator, self._size, self._finish = annotator, size, finish
        self._landed: queue.SimpleQueue[tuple[T, Future[AnnotationReply]]] = queue.SimpleQueue()
        self._flying = 0

    def ask(self, about: T, request: AnnotationRequest) -> Iterator[object]:
        """Sends a request once the window has room; yields the outputs of whatever finished meanwhile."""
        yield from self._collect(self._size - 1)
        future = asyncio.run_coroutine_threadsafe(self._annotator.annotate(request), event_loop())
        self._flying += 1
        future.add_done_callback(lambda landed: self._landed.put((about, landed)))

    def drain(self) -> Iterator[object]:
        """Waits for everything in flight and yields its outputs."""
        yield from self._collect(0)

    def settle(self) -> None:
        """Waits for everything in flight and lets its outcomes go, so that what was paid for can still be stored."""
        while self._flying:
            self._landed.get()
            self._flying -= 1

    def _collect(self, room: int) -> Iterator[object]:
        while self._flying > room or not self._landed.empty():
            about, future = self._landed.get()
            self._flying -= 1
            yield from self._finish(about, future)
