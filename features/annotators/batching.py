"""Gathers what concurrent callers hand in and passes it on together, off the event loop: group commit, and group lookup."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class Gatherer(Generic[In, Out]):
    """Calls `work` in one thread with everything handed in since the call before.

    While one call runs the next ones queue up, so under load a disk flush or a model call serves many callers, and a lone
    caller waits for nothing. What was handed in is worked on even if its caller is cancelled meanwhile.

    Args:
        work: takes a list of items and gives one result for each; what it raises, every caller of that batch gets.
        limit: most items a call.
        executor: where `work` runs; a thread of its own by default.
    """

    def __init__(self, work: Callable[[Sequence[In]], Sequence[Out]], limit: int = 1024, executor: Executor | None = None) -> None:
        self._work = work
        self._limit = limit
        self._own = ThreadPoolExecutor(1) if executor is None else None
        self._executor: Executor = executor or self._own  # type: ignore[assignment]
        self._queue: list[tuple[In, asyncio.Future[Out]]] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, item: In) -> Out:
        """The result for one item. Raises what `work` raised."""
        future: asyncio.Future[Out] = asyncio.get_running_loop().create_future()
        self._queue.append((item, future))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return await asyncio.shield(future)

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        while self._queue:
            batch, self._queue = self._queue[: self._limit], self._queue[self._limit :]
            try:
                results = await loop.run_in_executor(self._executor, self._work, [item for item, _ in batch])
                for (_, future), result in zip(batch, results, strict=True):
                    if not future.done():
                        future.set_result(result)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                        future.exception()  # a cancelled caller never reads it: that is no reason for a warning

    async def close(self) -> None:
        """Waits until everything handed in is worked on."""
        if self._task is not None and not self._task.done():
            await self._task
        if self._own is not None:
            self._own.shutdown(wait=True)
