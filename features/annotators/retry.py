"""Asks again where that may help: the one retry layer."""

from __future__ import annotations

import random as _random
from collections.abc import Callable

from features.annotators.control import Control
from features.annotators.protocol import AnnotationReply, AnnotationRequest, Annotator, Around
from features.errors import Transient

BASE_S = 0.5
"""The first wait lies between 0 and this."""
REJECTIONS_PER_ATTEMPT = 4
"""How many rejections (429) weigh as much as one failure: a busy server is alive, a broken one may not be."""


def retryable(error: BaseException) -> bool:
    """Whether asking again may help: of all errors only `Transient` says so."""
    return isinstance(error, Transient)


def wait_before(tried: int, longest_s: float, retry_after_s: float | None, random: Callable[[], float]) -> float:
    """Seconds to wait before the next try, after `tried` ones (1 and up): "full jitter", at least what the server asked for.

    Source: M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015: `random(0, min(cap, base * 2 ** attempt))`.
    What the server asks for is a lower bound: the jitter is added to it as far as `longest_s` allows, so that those who were
    rejected together do not come back together.

    Args:
        longest_s: the most there is to wait; `retry_after_s` is not above it.
        random: a number from 0 to 1.
    """
    jitter = random() * min(longest_s, BASE_S * 2.0 ** min(tried - 1, 60))
    return min(longest_s, (retry_after_s or 0.0) + jitter)


class Retried(Around):
    """Tries a request up to `attempts` times, and no longer than there is hope.

    A rejection (429) uses up a quarter of an attempt (a whole one where only one is allowed), so a request outlives a storm of
    them for a while; a storm that goes on ends in Transient all the same, with the rest of the run pending. So does a server that
    asks to wait for longer than `longest_wait_s`. A stop ends the waiting at once.

    Args:
        annotator: the one inside; one call is one exchange.
        attempts: tries that fail before this gives up, 1 and up.
        longest_wait_s: the most that is waited between two tries.
        control: tells of a stop.
        random: a number from 0 to 1.
        lost: told of each try that broke off and is made again: it may have been billed.

    Attributes:
        tries: exchanges so far.
        again: of which repeated ones.
    """

    def __init__(
        self,
        annotator: Annotator,
        attempts: int,
        longest_wait_s: float,
        control: Control,
        random: Callable[[], float] = _random.random,
        lost: Callable[[AnnotationRequest], None] = lambda _: None,
    ) -> None:
        super().__init__(annotator)
        self.tries = self.again = 0
        self._attempts, self._longest_s, self._control, self._random = attempts, longest_wait_s, control, random
        self._lost = lost
        self._rejections_per_attempt = REJECTIONS_PER_ATTEMPT if attempts > 1 else 1

    def open(self) -> None:
        self._control.open()
        super().open()

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        """See `Annotator`. Transient is the last one, with a word on how often it was tried."""
        tried, rejections = 0, 0
        while True:
            self._control.check()
            self.tries += 1
            self.again += tried > 0
            try:
                return await self.annotator.annotate(request)
            except Transient as error:
                tried += 1
                rejections += error.rejected
                if error.retry_after_s is not None and error.retry_after_s > self._longest_s:
                    raise _given_up(
                        error,
                        f"the server asks to wait {error.retry_after_s:.0f} s, longer than longest_wait_s ({self._longest_s:g})",
                    ) from error
                if tried - rejections + rejections / self._rejections_per_attempt >= self._attempts:
                    raise _given_up(error, f"tried {tried} time{'s' * (tried > 1)}") from error
                if not error.rejected:
                    self._lost(request)
                await self._control.wait_s(wait_before(tried, self._longest_s, error.retry_after_s, self._random))


def _given_up(error: Transient, why: str) -> Transient:
    return Transient(f"{error} ({why}; it stays pending)", error.retry_after_s, error.rejected)
