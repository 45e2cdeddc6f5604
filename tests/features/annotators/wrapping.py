"""What the tests of the wrappers share: time that jumps, an annotator that does as it is told, and a server with slots."""

from __future__ import annotations

import asyncio
import itertools
import random
import selectors
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from features.annotators.control import Control
from features.annotators.protocol import AnnotationReply, AnnotationRequest, AnnotatorIdentity, Answer, Usage
from features.annotators.settings import PaceSettings
from features.attributes.definition import AttributeDefinition
from features.errors import Transient
from features.records import VideoFeatures

T = TypeVar("T")
FUNNY = AttributeDefinition("funny", "Funny", "Is it funny?", "It makes people laugh.")
CALM = AttributeDefinition("calm", "Calm", "Is it calm?", "It calms people down.")


class _Jump(selectors.SelectSelector):
    """Does not wait for time: it moves the loop's."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everybody waits for ever")
        self.loop.now += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while it works and jumps to the next timer when there is nothing to do."""

    def __init__(self) -> None:
        selector = _Jump()
        selector.loop = self
        self.now = 1000.0
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def now() -> float:
    """The running loop's time."""
    return asyncio.get_running_loop().time()


def virtually(main: Callable[[], Awaitable[T]]) -> T:
    """Runs a coroutine function on a loop whose time jumps."""

    async def run() -> T:
        return await main()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(run())


def control(base: PaceSettings | None = None, stopping: Callable[[], bool] | None = None, **given: Any) -> Control:
    return Control(base=base or PaceSettings(), stopping=stopping or (lambda: False), clock=now, **given)


def request(name: str = "v1", *definitions: AttributeDefinition) -> AnnotationRequest:
    return AnnotationRequest(VideoFeatures(name, "hash", "content", "1"), definitions or (FUNNY,))


ANSWERED = AnnotationReply((Answer("funny", "true", 0.9, "laughter"),), spent=Usage(1, 100, 0, 10, 0.01))


class Scripted:
    """Does what a list says, one entry a request, the last one for ever: a reply, an error to raise, or a coroutine function.

    Attributes:
        asked: ids of the videos, in order.
        flying, most: requests now, and the most at the same time.
    """

    def __init__(self, *does: Any, takes_s: float = 0.0, model: str = "scripted") -> None:
        self.identity = AnnotatorIdentity("llm", model)
        self.asked: list[str] = []
        self.at: list[float] = []
        self.flying = self.most = 0
        self.opened = self.closed = 0
        self._does, self._takes_s = list(does) or [ANSWERED], takes_s

    def open(self) -> None:
        self.opened += 1

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        self.asked.append(request.video.video_id)
        self.at.append(now())
        do = self._does.pop(0) if len(self._does) > 1 else self._does[0]
        self.flying += 1
        self.most = max(self.most, self.flying)
        try:
            if self._takes_s:
                await asyncio.sleep(self._takes_s)
            if callable(do):
                do = await do(request)
        finally:
            self.flying -= 1
        if isinstance(do, BaseException):
            raise do
        return do  # type: ignore[no-any-return]

    async def close(self) -> None:
        self.closed += 1


class Server:
    """`slots` requests at a time, each as long as `latency` says; what comes beyond is rejected, or queues.

    Attributes:
        slots: may be changed; what is being worked on is finished.
        served, rejected: so far.
        busy_s: slots in use, integrated over time.
    """

    def __init__(
        self,
        slots: int,
        latency: Callable[[], float],
        queues: bool = False,
        retry_after_s: float | None = None,
        ping_s: float = 0.002,
    ) -> None:
        self.identity = AnnotatorIdentity("llm", "server")
        self.slots, self.queues = slots, queues
        self.served = self.rejected = self.busy = 0
        self.finished: list[float] = []
        self.rejected_at: list[float] = []
        self._latency, self._retry_after_s, self._ping_s = latency, retry_after_s, ping_s
        self._line: list[asyncio.Future[None]] = []

    def open(self) -> None: ...

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        await asyncio.sleep(self._ping_s)
        if self.busy >= self.slots:
            if not self.queues:
                self.rejected += 1
                self.rejected_at.append(now())
                raise Transient("too many", self._retry_after_s, rejected=True)
            turn = asyncio.get_running_loop().create_future()
            self._line.append(turn)
            await turn
        else:
            self.busy += 1
        try:
            await asyncio.sleep(self._latency())
            self.served += 1
            self.finished.append(now())
        finally:
            while self._line and self._line[0].done():
                self._line.pop(0)
            if self._line and self.busy <= self.slots:
                self._line.pop(0).set_result(None)
            else:
                self.busy -= 1
        return ANSWERED

    async def close(self) -> None: ...


def lognormal(mean_s: float, sigma: float, seed: int) -> Callable[[], float]:
    """Latencies with this mean."""
    rng = random.Random(seed)
    scale = mean_s / (2.718281828 ** (sigma * sigma / 2))
    return lambda: scale * rng.lognormvariate(0, sigma)


async def ask_all(
    annotator: Any, window: int, requests: Iterable[AnnotationRequest] | None = None, until: float | None = None
) -> list[Any]:
    """Keeps `window` requests going until there are no more, or until a time; gives replies and errors."""
    source = iter(requests) if requests is not None else (request(f"v{number}") for number in itertools.count())
    results: list[Any] = []

    async def one() -> None:
        for each in source:
            if until is not None and now() >= until:
                return
            try:
                results.append(await annotator.annotate(each))
            except Exception as error:
                results.append(error)

    await asyncio.gather(*(one() for _ in range(window)))
    return results
