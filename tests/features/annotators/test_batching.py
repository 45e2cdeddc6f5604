from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from features.annotators.batching import Gatherer


def test_what_queues_up_during_a_call_goes_into_the_next_one() -> None:
    batches: list[list[int]] = []
    free = threading.Event()

    def work(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        free.wait(10)
        return [item * 2 for item in items]

    async def walk() -> None:
        double = Gatherer(work, limit=3)
        first = asyncio.create_task(double(0))
        while not batches:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(double(number)) for number in range(1, 6)]
        await asyncio.sleep(0.01)
        free.set()
        assert await asyncio.gather(first, *others) == [0, 2, 4, 6, 8, 10]
        await double.close()

    asyncio.run(walk())
    assert batches == [[0], [1, 2, 3], [4, 5]]


def test_an_error_reaches_everybody_in_the_batch_and_the_next_batch_works() -> None:
    def work(items: Sequence[int]) -> list[int]:
        if 13 in items:
            raise ValueError("unlucky")
        return list(items)

    async def walk() -> None:
        same = Gatherer(work)
        outcomes = await asyncio.gather(same(12), same(13), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ValueError, ValueError]
        assert await same(14) == 14
        await same.close()

    asyncio.run(walk())


def test_closing_waits_for_what_a_cancelled_caller_handed_in() -> None:
    done: list[int] = []
    free = threading.Event()

    def work(items: Sequence[int]) -> list[int]:
        free.wait(10)
        done.extend(items)
        return list(items)

    async def walk() -> None:
        keep = Gatherer(work)
        task = asyncio.create_task(keep(1))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        free.set()
        await keep.close()

    asyncio.run(walk())
    assert done == [1]
