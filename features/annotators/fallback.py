"""Asks another model where the first refuses or is down; the label says who answered."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Container
from typing import NoReturn

from features.annotators.protocol import (
    AnnotationReply,
    AnnotationRequest,
    Annotator,
    AnnotatorIdentity,
    Answer,
    Around,
    Refusal,
)
from features.attributes.definition import AttributeDefinition
from features.errors import Halted, Permanent, Transient, Unavailable, VidattrError

Pair = tuple[str, str]
"""(video_id, attribute)."""


class Fallback(Around):
    """Asks `second` for the pairs that `first` refused, or could not be reached for.

    `first` is down where it raises Unavailable, or Transient (its retries are over). BudgetSpent and Stopped are not that: they
    go through. A pair that both refuse is refused with the first one's kind and both reasons. A pair that the first refused and
    the second could not be asked for is pending, not refused.

    Args:
        first: answers as itself; this annotator's identity.
        second: its answers get `by`.
        kinds: of refusals that the second is asked about; None: all.
    """

    def __init__(self, first: Annotator, second: Annotator, kinds: Container[str] | None = None) -> None:
        super().__init__(first)
        self.second = second
        self._kinds = kinds

    @property
    def identities(self) -> tuple[AnnotatorIdentity, AnnotatorIdentity]:
        """Of the first and of the second."""
        return self.annotator.identity, self.second.identity

    def open(self) -> None:
        self.annotator.open()
        self.second.open()

    async def close(self) -> None:
        """Closes both, whatever happens; raises what went wrong first."""
        results = await asyncio.gather(self.annotator.close(), self.second.close(), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        """See `Annotator`. What the first raised is raised again only where the second could not help either."""
        pairs = {(video.video_id, definition.name) for video in request.videos for definition in request.definitions}
        refusals: dict[Pair, Refusal] = {}
        trouble: VidattrError | None = None
        reply = AnnotationReply()
        try:
            reply = await self.annotator.annotate(request)
            refusals = {(refusal.video_id or request.video.video_id, refusal.attribute): refusal for refusal in reply.refusals}
            pairs -= {(answer.video_id or request.video.video_id, answer.attribute) for answer in reply.answers}
        except (Transient, Unavailable) as error:
            trouble = error
        except Permanent as error:
            if not self._wanted(error.kind):
                raise
            trouble = error
        kept = {pair: refusal for pair, refusal in refusals.items() if not self._wanted(refusal.kind)}
        # What the first merely left (a stop, a spent cap, a batch job that has it) is its own: it stays pending.
        pairs = set(refusals) - set(kept) if trouble is None else pairs
        if not pairs:
            return reply
        return await self._ask_second(request, pairs, reply, refusals, kept, trouble)

    async def _ask_second(
        self,
        request: AnnotationRequest,
        pairs: set[Pair],
        reply: AnnotationReply,
        refusals: dict[Pair, Refusal],
        kept: dict[Pair, Refusal],
        trouble: VidattrError | None,
    ) -> AnnotationReply:
        answers, spent, why, identity = list(reply.answers), reply.spent, "", self.second.identity
        asked = _singly(request, pairs) if request.packed_with else [_of(request, pairs)]
        results = await asyncio.gather(*(self.second.annotate(each) for each in asked), return_exceptions=True)
        for each, result in zip(asked, results, strict=True):
            if isinstance(result, VidattrError):
                if trouble is not None and len(asked) == 1:
                    _raise_both(trouble, result)
                if isinstance(result, Permanent):
                    for pair in _pairs(each) & set(refusals):
                        kept[pair] = _also(refusals[pair], result.kind, str(result))
                why = why or f"{reply.why_pending or trouble or 'the first annotator refused'}; the fallback: {result}"
                continue
            if isinstance(result, BaseException):
                raise result
            spent += result.spent
            name = each.video.video_id if request.packed_with else ""
            for answer in result.answers:
                answers.append(dataclasses.replace(answer, video_id=answer.video_id or name, by=answer.by or identity))
            for refusal in result.refusals:
                pair = (refusal.video_id or each.video.video_id, refusal.attribute)
                first = refusals.get(pair) or dataclasses.replace(refusal, video_id=refusal.video_id or name)
                kept[pair] = _also(first, refusal.kind, refusal.message) if pair in refusals else first
            if _pairs(each) - _answered(result, each):
                why = why or result.why_pending
        return AnnotationReply(tuple(answers), tuple(kept.values()), spent, why)

    def _wanted(self, kind: str) -> bool:
        return self._kinds is None or kind in self._kinds


def _of(request: AnnotationRequest, pairs: set[Pair]) -> AnnotationRequest:
    """The part of a request that is about these pairs; the request itself where that is all of it."""
    named = {attribute for _, attribute in pairs}
    definitions = tuple(definition for definition in request.definitions if definition.name in named)
    return request if len(definitions) == len(request.definitions) else dataclasses.replace(request, definitions=definitions)


def _singly(request: AnnotationRequest, pairs: set[Pair]) -> list[AnnotationRequest]:
    """One request a video, with what is open of it."""
    found = []
    for video in request.videos:
        own: tuple[AttributeDefinition, ...] = tuple(d for d in request.definitions if (video.video_id, d.name) in pairs)
        if own:
            found.append(dataclasses.replace(request, video=video, definitions=own, packed_with=()))
    return found


def _pairs(request: AnnotationRequest) -> set[Pair]:
    return {(request.video.video_id, definition.name) for definition in request.definitions}


def _answered(reply: AnnotationReply, request: AnnotationRequest) -> set[Pair]:
    items: list[Answer | Refusal] = [*reply.answers, *reply.refusals]
    return {(item.video_id or request.video.video_id, item.attribute) for item in items}


def _also(refusal: Refusal, kind: str, message: str) -> Refusal:
    return dataclasses.replace(refusal, message=f"{refusal.message}; the fallback: {message} ({kind})")


def _raise_both(first: VidattrError, second: VidattrError) -> NoReturn:
    """Neither could answer anything: the kinder of the two, with both reasons.

    A stop or a spent budget goes through as it is; a refusal counts only where both refuse; else it stays pending.
    """
    both = f"{first}; the fallback: {second}"
    if isinstance(second, Halted) and not isinstance(second, Unavailable):
        raise second
    if isinstance(first, Permanent) and isinstance(second, Permanent):
        raise Permanent(f"{both} ({second.kind})", first.kind) from second
    if isinstance(first, Unavailable) and isinstance(second, Unavailable):
        raise Unavailable(both) from second
    if isinstance(first, Permanent) or isinstance(second, Permanent):
        raise Transient(both) from second
    retry_after_s = first.retry_after_s if isinstance(first, Transient) else None
    raise Transient(both, retry_after_s) from second
