"""The one way to ask anybody about a video, be it a model server, a local model or a recording.

What surrounds a model (answers store, fallback, samples, packing, repair, circuit, budget, retry, pace) is itself an annotator
around an annotator: see `Around`. One call of the innermost annotator is one exchange with a model.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from features.attributes.definition import AttributeDefinition
from features.records import Moment, Source, VideoFeatures, digest, digest_of, prefixed


@dataclass(frozen=True)
class Usage:
    """What was paid for.

    Attributes:
        requests: exchanges that the server answered.
        input_tokens: cached ones included.
        cached_input_tokens: of which read from the provider's prefix cache.
        output_tokens: hidden reasoning included.
        cost_usd: US dollars.
    """

    requests: int = 0
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.input_tokens + other.input_tokens,
            self.cached_input_tokens + other.cached_input_tokens,
            self.output_tokens + other.output_tokens,
            self.cost_usd + other.cost_usd,
        )


@dataclass(frozen=True)
class Repair:
    """A reply that was not accepted, to be mended in a second exchange that begins with the same bytes as the first.

    Attributes:
        reply: what the model said, empty where repeating it would not help (a reply without end).
        problem: what was wrong with it, one sentence.
    """

    reply: str
    problem: str


@dataclass(frozen=True)
class AnnotationRequest:
    """Questions that go to the annotator together.

    Attributes:
        video: what is asked about.
        definitions: what is asked.
        packed_with: further videos in the same exchange, asked the same questions. Only `features.annotators.packing` fills it.
        repair: the reply of the exchange before, which this one is to mend.
        sample: which of several answers to the same question this is, from 0.
    """

    video: VideoFeatures
    definitions: tuple[AttributeDefinition, ...]
    packed_with: tuple[VideoFeatures, ...] = ()
    repair: Repair | None = None
    sample: int = 0

    @property
    def videos(self) -> tuple[VideoFeatures, ...]:
        return (self.video, *self.packed_with)


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        attribute: the definition's name.
        value: as in `Annotation.value`, never None.
        probability: of `true`, or of the given label; None when the annotator has none.
        rationale: short, names the evidence.
        input_tokens, cached_input_tokens, output_tokens, cost_usd: this answer's share of what its exchange cost; the shares of
            an exchange add up to it exactly.
        reused: it came from the answers store and cost nothing now.
        video_id: whose; empty: of the request's only video.
        moments: the seconds that carry the verdict.
        model: the version that the server says answered, empty where it does not say.
        by: whose answer it is where that is not the annotator that was asked (a fallback).
    """

    attribute: str
    value: str
    probability: float | None
    rationale: str
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    answered_at: float = 0.0
    reused: bool = False
    video_id: str = ""
    moments: tuple[Moment, ...] = ()
    model: str = ""
    by: AnnotatorIdentity | None = None


@dataclass(frozen=True)
class Refusal:
    """Why one attribute got no answer; it becomes a dead letter.

    Attributes:
        attribute: the definition's name.
        kind: a short, stable word; see `features.annotators.reply` for those of models.
        message: for a person.
        reply_digest: digest of the reply, empty when there was none.
        video_id: whose; empty: of the request's only video.
        repair: how the model could be asked to mend its reply; None: asking again is no use.
    """

    attribute: str
    kind: str
    message: str
    reply_digest: str = ""
    video_id: str = ""
    repair: Repair | None = field(default=None, compare=False)


@dataclass(frozen=True)
class AnnotationReply:
    """What came back. A (video, attribute) pair that is in neither list stays pending.

    Attributes:
        answers, refusals: at most one of both a pair.
        spent: everything this call paid for, rejected replies and refusals included; nothing for reused answers.
        why_pending: a sentence about the pairs that are in neither list, empty when there are none.
    """

    answers: tuple[Answer, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    spent: Usage = Usage()
    why_pending: str = ""


@dataclass(frozen=True)
class AnnotatorIdentity:
    """Whose answers these are: all that decides a reply besides content and definition.

    Attributes:
        source: llm, baseline, ...: the trust it is given.
        model: model id and version; recorded in each annotation.
        prompt: version of the prompt, empty where there is none.
        parameters: whatever else changes replies, as stable text.
        parameters_by_definition: (definition_hash, stable text) for what changes the replies to one definition only.
    """

    source: Source
    model: str
    prompt: str = ""
    parameters: str = ""
    parameters_by_definition: tuple[tuple[str, str], ...] = ()

    def answer_key(self, content_key: str, definition_hash: str) -> str:
        """Law 2: the same content, definition, prompt, model and parameters are never paid for twice."""
        rest = self._rest.get(definition_hash)
        if rest is None:
            own = [text for definition, text in self.parameters_by_definition if definition == definition_hash]
            parts = (definition_hash, self.prompt, self.model, self.parameters, *own)
            rest = self._rest[definition_hash] = digest(*parts).encode()
        return digest_of(prefixed(content_key) + rest)

    @cached_property
    def _rest(self) -> dict[str, bytes]:
        """By definition, the digest of all of a key's parts but the content: they are the same for every video."""
        return {}


class Annotator(Protocol):
    """Answers questions about videos.

    `annotate` raises Transient (ask again), Permanent (this request cannot be answered) or Halted (stop; pending).
    It is called concurrently from one event loop. `open` is called once a process before, `close` once after.
    """

    @property
    def identity(self) -> AnnotatorIdentity: ...

    def open(self) -> None: ...

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply: ...

    async def close(self) -> None: ...


class Around:
    """An annotator around another one, which it opens, closes and speaks for; a subclass says what `annotate` adds.

    Args:
        annotator: the one inside.
    """

    def __init__(self, annotator: Annotator) -> None:
        self.annotator = annotator

    @property
    def identity(self) -> AnnotatorIdentity:
        return self.annotator.identity

    def open(self) -> None:
        self.annotator.open()

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        return await self.annotator.annotate(request)

    async def close(self) -> None:
        await self.annotator.close()
