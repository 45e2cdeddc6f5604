"""Several videos in one exchange, and several exchanges for one video."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from features.annotators.protocol import AnnotationReply, AnnotationRequest, Annotator, Answer, Around, Refusal, Usage
from features.annotators.shares import share
from features.attributes.definition import AttributeDefinition
from features.errors import Halted, Permanent, Transient
from features.records import VideoFeatures


@dataclass(eq=False)
class _Pack:
    """Requests that wait to be sent together."""

    definitions: tuple[AttributeDefinition, ...]
    sample: int
    waiting: list[tuple[VideoFeatures, asyncio.Future[AnnotationReply]]] = field(default_factory=list)
    linger: asyncio.Task[None] | None = None
    exchange: asyncio.Task[AnnotationReply] | None = None

    def takes(self, request: AnnotationRequest) -> bool:
        """The same questions, about a video that is not in it yet."""
        same = self.sample == request.sample and self.definitions == request.definitions
        return same and all(video.video_id != request.video.video_id for video, _ in self.waiting)


class Packed(Around):
    """Sends concurrent requests with the same questions as one request about several videos.

    A pack goes out when it is full, or `linger_s` after its first request. A caller that is cancelled is left out of a pack that
    waits; a pack that is out goes on for the others, and is cancelled with the last of them. What a pack cost is shared out to
    those who still wait, so that their `spent` adds up to it. Two requests about one video are never in one pack.

    Args:
        annotator: the one inside, which is to take packed requests (`features.annotators.repair.Repaired`).
        videos_per_request: the most videos in a request, 1 and up; with 1 requests go through as they are.
        linger_s: seconds that the first request of a pack waits for company.
        sleep: waits for that many seconds.
    """

    def __init__(
        self,
        annotator: Annotator,
        videos_per_request: int,
        linger_s: float = 0.05,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(annotator)
        self.videos_per_request = videos_per_request
        self.linger_s = linger_s
        self._sleep = sleep
        self._open: list[_Pack] = []
        self._out: set[asyncio.Task[None]] = set()

    def __reduce__(self) -> tuple[type[Packed], tuple[Annotator, int, float, Callable[[float], Awaitable[None]]]]:
        return type(self), (self.annotator, self.videos_per_request, self.linger_s, self._sleep)

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        """See `Annotator`; what the exchange raises, every caller of the pack gets."""
        if self.videos_per_request <= 1 or request.packed_with or request.repair is not None:
            return await self.annotator.annotate(request)
        future: asyncio.Future[AnnotationReply] = asyncio.get_running_loop().create_future()
        pack = self._join(request, future)
        try:
            return await future
        except asyncio.CancelledError:
            self._leave(pack)
            raise

    def _join(self, request: AnnotationRequest, future: asyncio.Future[AnnotationReply]) -> _Pack:
        for pack in self._open:
            if pack.takes(request):
                break
        else:
            pack = _Pack(request.definitions, request.sample)
            self._open.append(pack)
            pack.linger = asyncio.create_task(self._after_a_while(pack))
        pack.waiting.append((request.video, future))
        if len(pack.waiting) >= self.videos_per_request:
            self._send(pack)
        return pack

    def _leave(self, pack: _Pack) -> None:
        if pack.exchange is not None:
            if all(future.done() for _, future in pack.waiting):
                pack.exchange.cancel()
            return
        pack.waiting = [(video, future) for video, future in pack.waiting if not future.cancelled()]

    async def _after_a_while(self, pack: _Pack) -> None:
        await self._sleep(self.linger_s)
        pack.linger = None
        self._send(pack)

    def _close(self, pack: _Pack) -> None:
        """Nobody else joins it."""
        if pack in self._open:
            self._open.remove(pack)
        if pack.linger is not None:
            pack.linger.cancel()
            pack.linger = None

    def _send(self, pack: _Pack) -> None:
        self._close(pack)
        if not pack.waiting:
            return
        videos = [video for video, _ in pack.waiting]
        request = AnnotationRequest(videos[0], pack.definitions, tuple(videos[1:]), sample=pack.sample)
        pack.exchange = asyncio.create_task(self.annotator.annotate(request))
        task = asyncio.create_task(self._deliver(pack, request, pack.exchange))
        self._out.add(task)
        task.add_done_callback(self._out.discard)

    async def _deliver(self, pack: _Pack, request: AnnotationRequest, exchange: asyncio.Task[AnnotationReply]) -> None:
        await asyncio.wait([exchange])
        waiting = [(video, future) for video, future in pack.waiting if not future.done()]
        if exchange.cancelled():
            for _, future in waiting:
                future.cancel()
            return
        error = exchange.exception()
        if error is not None:
            for _, future in waiting:
                future.set_exception(error)
            return
        if not waiting:
            return
        reply = exchange.result()
        for (video, future), spent in zip(waiting, share(reply.spent, len(waiting)), strict=True):
            future.set_result(_of(video.video_id, request, reply, spent))

    async def close(self) -> None:
        """Sends what waits, waits for what is out, and closes the annotator inside."""
        for pack in tuple(self._open):
            self._send(pack)
        if self._out:
            await asyncio.wait(set(self._out))
        await self.annotator.close()


def _of(video_id: str, request: AnnotationRequest, reply: AnnotationReply, spent: Usage) -> AnnotationReply:
    """The part of a reply that is about one video. What names no video is about nobody, unless there is only one."""
    unnamed = "" if request.packed_with else video_id
    answers = tuple(answer for answer in reply.answers if (answer.video_id or unnamed) == video_id)
    refusals = tuple(refusal for refusal in reply.refusals if (refusal.video_id or unnamed) == video_id)
    pending = len(answers) + len(refusals) < len(request.definitions)
    return AnnotationReply(answers, refusals, spent, reply.why_pending if pending else "")


class Separately(Around):
    """Asks one question after another about a video, so that the video is the cached prefix of all but the first.

    A question that is refused as such (Permanent) is a Refusal, and the others are asked. Where the service goes away (Transient,
    Halted) what was answered by then is kept and the rest is pending; only where there is nothing to keep, it is raised.
    """

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        """See `Annotator`."""
        answers: list[Answer] = []
        refusals: list[Refusal] = []
        spent = Usage()
        why_pending = ""
        for definition in request.definitions:
            try:
                reply = await self.annotator.annotate(dataclasses.replace(request, definitions=(definition,)))
            except Permanent as error:
                for video in request.videos:
                    message = f"{definition.name!r} of {video.video_id!r}: {error}"
                    refusals.append(Refusal(definition.name, error.kind, message, "", video.video_id))
                continue
            except (Transient, Halted) as error:
                if not answers and not refusals and spent == Usage():
                    raise
                why_pending = why_pending or str(error)
                break
            answers += reply.answers
            refusals += reply.refusals
            spent += reply.spent
            why_pending = why_pending or reply.why_pending
        return AnnotationReply(tuple(answers), tuple(refusals), spent, why_pending)
