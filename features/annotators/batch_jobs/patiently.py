"""A few tries of a call about batch jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from features.errors import Transient

T = TypeVar("T")
Sleep = Callable[[float], None]
ATTEMPTS = 4
LONGEST_WAIT_S = 30.0


def patiently(call: Callable[[], T], sleep: Sleep) -> T:
    """What `call` gives, tried `ATTEMPTS` times while it raises Transient, with the provider's pauses or 1, 2 and 4 seconds.

    Raises:
        Transient: of the last try; everything else at once.
    """
    for attempt in range(ATTEMPTS - 1):
        try:
            return call()
        except Transient as error:
            asked = error.retry_after_s
            sleep(min(2.0**attempt if asked is None else asked, LONGEST_WAIT_S))
    return call()
