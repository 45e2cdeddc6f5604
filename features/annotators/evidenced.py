"""The annotator that refuses, unpaid, what nothing of a video may be shown for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from features.annotators.protocol import AnnotationReply, AnnotationRequest, Annotator, Around, Refusal


class Evidenced(Around):
    """Questions about which nothing of the video may be shown end as refusals of kind `no_evidence`; the rest is asked.

    A definition says which evidence may be used, and a video may have none of it: a silent clip has no transcript.

    Args:
        annotator: the one inside.
        unseen: names of a request's definitions that may see nothing; see `PromptWriter.unseen`.
    """

    def __init__(self, annotator: Annotator, unseen: Callable[[AnnotationRequest], tuple[str, ...]]) -> None:
        super().__init__(annotator)
        self._unseen = unseen

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        """See `Annotator`. Requests hold one video each."""
        unseen = self._unseen(request)
        if not unseen:
            return await self.annotator.annotate(request)
        video_id = request.video.video_id
        refusals = tuple(
            Refusal(
                name,
                "no_evidence",
                f"{name!r} of {video_id!r}: the video has nothing that its definition admits as evidence: admit more",
            )
            for name in unseen
        )
        rest = tuple(definition for definition in request.definitions if definition.name not in unseen)
        if not rest:
            return AnnotationReply(refusals=refusals)
        reply = await self.annotator.annotate(dataclasses.replace(request, definitions=rest))
        return dataclasses.replace(reply, refusals=(*reply.refusals, *refusals))
