"""The one way to ask anybody about a video, be it a model server, a local model or a recording."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from features.attributes.definition import AttributeDefinition
from features.records import Source, VideoFeatures, digest


@dataclass(frozen=True)
class AnnotationRequest:
    """Questions about one video: all of them go to the annotator together."""

    video: VideoFeatures
    definitions: tuple[AttributeDefinition, ...]


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        attribute: the definition's name.
        value: as in `Annotation.value`, never None.
        probability: of `true`, or of the given label; None when the annotator has none.
        rationale: short, names the evidence.
        input_tokens, cached_input_tokens, output_tokens, cost_usd: this answer's share of what was paid.
        reused: it came from the answers store and cost nothing now.
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


@dataclass(frozen=True)
class Refusal:
    """Why one attribute got no answer; it becomes a dead letter."""

    attribute: str
    kind: str
    message: str
    reply_digest: str = ""


@dataclass(frozen=True)
class AnnotationReply:
    """What came back. An attribute that is in neither list stays pending."""

    answers: tuple[Answer, ...] = ()
    refusals: tuple[Refusal, ...] = ()


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
        own = [text for definition, text in self.parameters_by_definition if definition == definition_hash]
        return digest(content_key, definition_hash, self.prompt, self.model, self.parameters, *own)


class Annotator(Protocol):
    """Answers questions about videos.

    `annotate` raises Transient (ask again), Permanent (this video cannot be answered) or BudgetSpent (stop; pending).
    It is called concurrently from one event loop. `open` is called once a process before, `close` once after.
    """

    @property
    def identity(self) -> AnnotatorIdentity: ...

    def open(self) -> None: ...

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply: ...

    async def close(self) -> None: ...
