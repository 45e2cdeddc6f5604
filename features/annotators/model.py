"""A language model as an annotator: a prompt out, a completion back, read. One call is one exchange."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Protocol

from features.annotators.exchange import Completion, ModelClient, Prompt
from features.annotators.protocol import AnnotationReply, AnnotationRequest, AnnotatorIdentity, Refusal, Usage
from features.annotators.reply import read

_log = logging.getLogger(__name__)


class Writer(Protocol):
    """Writes prompts; see `features.annotators.prompt.PromptWriter`."""

    def write(self, request: AnnotationRequest) -> Prompt: ...


class ModelAnnotator:
    """Asks a model once for each call, and neither waits, repeats nor mends anything: other annotators around it do.

    Args:
        client: carries prompts to the server.
        writer: writes them.
        identity: whose answers these are.
        cost: US dollars of the tokens that were billed.
        clock: seconds since 1970.
        by_first_token: see `features.annotators.reply.read`.
    """

    def __init__(
        self,
        client: ModelClient,
        writer: Writer,
        identity: AnnotatorIdentity,
        cost: Callable[[Usage], float],
        clock: Callable[[], float] = time.time,
        by_first_token: bool = False,
    ) -> None:
        self.client = client
        self.writer = writer
        self.cost = cost
        self.clock = clock
        self.by_first_token = by_first_token
        self._identity = identity

    @property
    def identity(self) -> AnnotatorIdentity:
        return self._identity

    def open(self) -> None:
        self.client.open()

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        """See `Annotator`. What is raised, the client or the writer raised before anything was paid for."""
        prompt = self.writer.write(request)
        completion = await self.client.complete(prompt)
        try:
            return read(request, prompt, completion, self.cost, self.clock, self.by_first_token)
        except Exception as error:  # a mistake of ours: paid for, so it has to be counted, and the run goes on
            _log.exception("a reply could not be read")
            return self._unreadable(request, completion, error)

    def _unreadable(self, request: AnnotationRequest, completion: Completion, error: Exception) -> AnnotationReply:
        try:
            spent = dataclasses.replace(completion.usage, cost_usd=self.cost(completion.usage))
        except Exception:
            _log.exception("the cost of a reply could not be computed")
            spent = completion.usage
        message = f"the reply could not be read ({type(error).__name__}); report this as a defect of vidattr"
        refusals = [
            Refusal(
                definition.name, "unreadable_reply", f"{definition.name!r} of {video.video_id!r}: {message}", "", video.video_id
            )
            for video in request.videos
            for definition in request.definitions
        ]
        return AnnotationReply((), tuple(refusals), spent)

    async def close(self) -> None:
        await self.client.close()
