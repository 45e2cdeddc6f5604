"""`kill -9` at every write of a submit and a collect, then the same again: nothing is lost, and nothing paid for twice."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from features.annotators.batch_jobs import BatchJob
from features.errors import Permanent

WRITES = 8
"""Files that a submit and a collect of one job put in place."""


def _go(world: Any) -> None:
    world.submit()
    for job in world.provider.jobs.values():
        world.finish(job)
    world.collect()


def _killed_at(world: Any, number: int, after: bool) -> bool:
    """Lets a child go until its write of this number, and says whether it came so far."""
    child = os.fork()
    if child == 0:
        put_in_place: Callable[..., None] = os.replace
        written = 0

        def replace(*places: str) -> None:
            nonlocal written
            written += 1
            if written == number and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            put_in_place(*places)
            if written == number:
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = replace  # type: ignore[assignment]
        try:
            world.submit()
            # The provider lives in the parent: the child asks it to finish by a request that nobody else makes.
            with contextlib.suppress(Permanent):
                world.batches.status(BatchJob("finish", world.kind, "", "", 0.0, "waiting"))
            world.collect()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("world", ["openai"], indirect=True)
@pytest.mark.parametrize("number", range(1, WRITES + 1))
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_write_and_run_again(world: Any, number: int, after: bool) -> None:
    world.provider.on_unknown = lambda: [world.finish(job) for job in world.provider.jobs.values()]
    assert _killed_at(world, number, after), "the child wrote less than was thought"
    world.runs = 10
    _go(world)
    assert len(world.stored()) == 8
    assert world.provider.made() == 1
    noted = [world.answers.spent(f"run-{run:03}").requests for run in range(1, 20)]
    assert sum(noted) == 4
    assert world.submit().requests == 0
