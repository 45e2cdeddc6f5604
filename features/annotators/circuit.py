"""Spares a service that is down, and the money of a run that is set up wrongly: one probe instead of a thousand failures."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime

from features.annotators.control import Control
from features.annotators.protocol import AnnotationReply, AnnotationRequest, Annotator, Around
from features.errors import Permanent, Transient, Unavailable

FAILURES = 5
"""Transient failures in a row (each after all its retries) that open the circuit."""
REFUSALS = 5
"""Refused requests in a row, before anything ever worked, that are the set-up's fault and not the videos'."""
COOL_DOWN_S = (5.0, 60.0)
"""The first and the longest cool-down; each failed probe doubles it."""


class Circuit(Around):
    """Lets one request through to find out, and the others after it.

    - The first request of a process goes alone: a revoked key or a retired model costs exactly one call.
    - Unavailable opens the circuit for good: whatever comes after raises the same at once.
    - FAILURES Transient failures without a success in between open it for a cool-down, then one probe goes out; the others wait.
      When nothing has worked for `outage_patience_s`, that is Unavailable too.
    - REFUSALS Permanent failures (invalid_request) of single videos before the first success are Unavailable: the server refuses
      every request.

    A success of a request that was sent before closes the circuit as well. A probe that is cancelled, or that could not be sent,
    hands on to the next in line.

    Args:
        annotator: the one inside.
        outage_patience_s: how long nothing may work.
        control: tells of a stop, which ends all waiting.
        clock: seconds, never going back.
        wall_clock: seconds since 1970, for the sentence.

    Attributes:
        openings: how often it has opened.
    """

    def __init__(
        self,
        annotator: Annotator,
        outage_patience_s: float,
        control: Control,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(annotator)
        self.openings = 0
        self._patience_s, self._control, self._clock, self._wall_clock = outage_patience_s, control, clock, wall_clock
        self._gone: Unavailable | None = None
        self._works = self._worked_ever = self._probing = False
        self._failures = self._refusals = 0
        self._down_since: float | None = None
        self._opens_at, self._cool_down_s = 0.0, COOL_DOWN_S[0]
        self._queue: deque[asyncio.Future[None]] = deque()
        self._alarm: asyncio.Task[None] | None = None

    @property
    def state(self) -> str:
        """`closed` (requests flow), `probing` (one does), `open` (none does), or `gone` (none ever will)."""
        if self._gone is not None:
            return "gone"
        return "closed" if self._works else "open" if self._clock() < self._opens_at else "probing"

    def open(self) -> None:
        self._control.open()
        super().open()

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        """See `Annotator`. Waits while the circuit is open."""
        probe = await self._admitted()
        try:
            reply = await self.annotator.annotate(request)
        except Unavailable as error:
            self._give_up(error)
            raise
        except Transient as error:
            self._failed(probe, error)
            raise
        except Permanent as error:
            if not request.packed_with:  # a pack is refused for one poisoned video, and then so is each smaller pack with it
                self._refused(error)
            raise
        else:
            self._worked_ever = True
            self._close()
            return reply
        finally:
            if probe:
                self._probing = False
                self._wake()

    async def _admitted(self) -> bool:
        """Waits until the caller may send; whether it is the probe."""
        while True:
            if self._gone is not None:
                raise self._gone.with_traceback(None)
            self._control.check()
            if self._works:
                return False
            if not self._probing and self._clock() >= self._opens_at:
                self._probing = True
                return True
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queue.append(turn)
            try:
                await self._control.wait(turn)
            except BaseException:
                if turn.done() and not turn.cancelled() and turn.exception() is None:
                    self._wake()  # it was this one's turn, and it goes away
                raise

    def _wake(self) -> None:
        """Everybody where the way is clear or closed for good; else one, if a probe is due."""
        all_of_them = self._works or self._gone is not None
        if not all_of_them and (self._probing or self._clock() < self._opens_at):
            return
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                if not all_of_them:
                    return

    def _close(self) -> None:
        self._failures = self._refusals = 0
        self._down_since, self._opens_at, self._cool_down_s = None, 0.0, COOL_DOWN_S[0]
        if not self._works:
            self._works = True
            self._wake()

    def _refused(self, error: Permanent) -> None:
        if error.kind != "invalid_request" or self._worked_ever:
            if self._worked_ever:
                self._close()  # it answers again
            return
        self._refusals += 1
        if self._refusals >= REFUSALS:
            self._give_up(
                Unavailable(
                    f"the server refuses every request, {self._refusals} of {self._refusals} so far: {error}; "
                    f"check the model's name and what it can take, then run again"
                )
            )

    def _failed(self, probe: bool, error: Transient) -> None:
        now = self._clock()
        self._down_since = now if self._down_since is None else self._down_since
        self._failures += 1
        if self._failures < FAILURES or not (probe or self._works):
            return  # not enough of them, or sent before it opened
        ends_at = self._down_since + self._patience_s
        if now >= ends_at:
            began = datetime.fromtimestamp(self._wall_clock() - (now - self._down_since), UTC)
            self._give_up(
                Unavailable(
                    f"nothing has worked since {began:%Y-%m-%d %H:%M:%S} UTC ({now - self._down_since:.0f} s; outage_patience_s is "
                    f"{self._patience_s:g}): {error}; run again when the service is back, and it goes on from here"
                )
            )
            return
        wait_s = min(self._cool_down_s, ends_at - now)
        self.openings += 1
        self._works, self._opens_at = False, now + wait_s
        self._cool_down_s = min(2 * self._cool_down_s, COOL_DOWN_S[1])
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().create_task(self._ring(wait_s))

    async def _ring(self, seconds: float) -> None:
        await self._control.sleep(seconds)
        self._opens_at = min(self._opens_at, self._clock())
        self._wake()

    def _give_up(self, error: Unavailable) -> None:
        if self._gone is None:
            self._gone = error
        self._works = False
        self._wake()
