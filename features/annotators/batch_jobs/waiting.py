"""The annotator that leaves to a batch job what is in one, and asks another annotator the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from features.annotators.protocol import AnnotationReply, AnnotationRequest, Annotator, Around, Refusal


class InBatch(Around):
    """Pairs that are in a batch job stay pending; what a job's model refused is refused; all others are asked directly.

    It belongs inside the answers store, which by then holds what the jobs answered, and outside everything that is paid.
    Requests hold one video each.

    Args:
        annotator: who is asked directly.
        waiting: answer keys of questions that are in a job.
        why: a sentence about them.
        refused: by answer key, what is not to be asked again; leave it empty to try again what was refused.
    """

    def __init__(
        self,
        annotator: Annotator,
        waiting: frozenset[str],
        why: str = "in a batch job; fetch what is done with `vidattr annotate --batch-jobs collect`",
        refused: Mapping[str, Refusal] | None = None,
    ) -> None:
        super().__init__(annotator)
        self.waiting = waiting
        self.why = why
        self.refused = refused or {}

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        """See `Annotator`."""
        identity, content = self.identity, request.video.content_key
        direct, refusals, left = [], [], 0
        for definition in request.definitions:
            key = identity.answer_key(content, definition.definition_hash)
            if key in self.waiting:
                left += 1
            elif key in self.refused:
                refusals.append(dataclasses.replace(self.refused[key], attribute=definition.name, video_id=""))
            else:
                direct.append(definition)
        if len(direct) == len(request.definitions):
            return await self.annotator.annotate(request)
        reply = AnnotationReply()
        if direct:
            reply = await self.annotator.annotate(dataclasses.replace(request, definitions=tuple(direct)))
        why = " ".join(filter(None, [reply.why_pending, self.why if left else ""]))
        return dataclasses.replace(reply, refusals=(*reply.refusals, *refusals), why_pending=why)
