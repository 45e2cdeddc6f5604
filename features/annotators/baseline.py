"""The annotator that needs no model server and no key: sentence embeddings of the definition against the video's text.

It reads title, description, hashtags, transcript, on-screen text, visual tags and measurements in words, as far as the
definition's `evidence` admits them, and is a start, not a judge: evaluate it before anything leans on it. Golden examples
improve it.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from features.annotators.batching import Gatherer
from features.annotators.evidence import Sentence, gathered
from features.annotators.golden_head import (
    GoldenExample,
    GoldenHead,
    Judged,
    examples_digest,
    golden_examples,
    is_enough,
    sigmoid,
    targets,
)
from features.annotators.matching import Encode, Matcher, Matrix, unit_rows
from features.annotators.protocol import AnnotationReply, AnnotationRequest, AnnotatorIdentity, Answer, Refusal
from features.attributes.definition import AttributeDefinition
from features.records import VideoFeatures

__all__ = ["MODEL", "BaselineAnnotator", "GoldenExample", "golden_examples"]

MODEL = "baseline-1"
"""Goes up with every change of this room that changes answers, so that nothing stale is reused."""
_QUOTED = 80
_VIDEOS_A_CALL = 32


@dataclass(frozen=True)
class _Read:
    """What one definition may see of one video: its sentences and their unit vectors, (sentences, dimension)."""

    sentences: tuple[Sentence, ...]
    vectors: Matrix

    @property
    def mean(self) -> Matrix:
        return np.asarray(unit_rows(self.vectors.mean(axis=0, keepdims=True))[0])


class BaselineAnnotator:
    """Answers by comparing sentences; see `features.annotators.matching` for how.

    Deterministic for one encoder. A video of which a definition may read nothing at all gets a Refusal of kind `no_evidence`.

    Args:
        encode: sentences to one vector each, (sentences, dimension); must be safe to call from another thread.
        encoder_version: name and version of its weights; part of every answer key.
        golden: rated videos. Those rated under the very definition that is asked (equal `definition_hash`) fit a head for it;
            they are part of that definition's answer keys and of no other's.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        encode: Encode,
        encoder_version: str,
        golden: Sequence[GoldenExample] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._encode = encode
        self._clock = clock
        self._made_of = (encode, encoder_version, tuple(golden), clock)
        by_definition: dict[str, list[GoldenExample]] = defaultdict(list)
        for example in sorted(golden, key=lambda example: example.video.video_id):
            by_definition[example.annotation.definition_hash].append(example)
        self._golden = {name: examples for name, examples in by_definition.items() if is_enough(examples)}
        self._identity = AnnotatorIdentity(
            source="baseline",
            model=MODEL,
            parameters=f"encoder={encoder_version}",
            parameters_by_definition=tuple(
                (name, f"golden={examples_digest(examples)}") for name, examples in sorted(self._golden.items())
            ),
        )
        self._matchers: dict[str, tuple[Matcher, GoldenHead | None]] = {}
        self._lock = threading.Lock()
        self._together: Gatherer[AnnotationRequest, AnnotationReply] | None = None

    def __reduce__(self) -> tuple[type[BaselineAnnotator], tuple[Encode, str, tuple[GoldenExample, ...], Callable[[], float]]]:
        return type(self), self._made_of

    @property
    def identity(self) -> AnnotatorIdentity:
        return self._identity

    def open(self) -> None:
        """Starts the thread in which `annotate` computes."""
        if self._together is None:
            self._together = Gatherer(self.annotate_many, limit=_VIDEOS_A_CALL)

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        """See `Annotator`. Requests that come in while others are computed are encoded together."""
        self.open()
        assert self._together is not None
        return await self._together(request)

    async def close(self) -> None:
        """Waits for what is being computed."""
        if self._together is not None:
            await self._together.close()
            self._together = None

    def annotate_many(self, requests: Sequence[AnnotationRequest]) -> list[AnnotationReply]:
        """The replies to many requests; the sentences of all videos are encoded in one call."""
        definitions = {each.definition_hash: each for request in requests for each in request.definitions}
        with self._lock:
            known = {name: self._known(definition) for name, definition in definitions.items()}
        videos = self._read([request.video for request in requests])
        replies = []
        for request, read in zip(requests, videos, strict=True):
            answers, refusals = [], []
            for definition in request.definitions:
                seen = _admitted(read, definition)
                if seen.sentences:
                    answers.append(self._answer(*known[definition.definition_hash], seen))
                else:
                    places = ", ".join(definition.evidence)
                    message = f"the baseline finds nothing to read in {places}: give the video a title, or ask a model that sees"
                    refusals.append(Refusal(definition.name, "no_evidence", message))
            replies.append(AnnotationReply(tuple(answers), tuple(refusals)))
        return replies

    def _read(self, videos: Sequence[VideoFeatures]) -> list[_Read]:
        """The sentences of many videos with their vectors, each different sentence encoded once."""
        read = [gathered(video) for video in videos]
        texts = list(dict.fromkeys(sentence.text for sentences in read for sentence in sentences))
        if not texts:
            return [_Read((), np.zeros((0, 1))) for _ in videos]
        vectors = unit_rows(self._encode(texts))
        position = {text: number for number, text in enumerate(texts)}
        return [_Read(sentences, vectors[[position[sentence.text] for sentence in sentences]]) for sentences in read]

    def _known(self, definition: AttributeDefinition) -> tuple[Matcher, GoldenHead | None]:
        """The matcher of a definition and its head if there are Golden examples for one; made at its first use."""
        name = definition.definition_hash
        if name not in self._matchers:
            matcher = Matcher(definition, self._encode)
            self._matchers[name] = matcher, self._head(matcher, self._golden.get(name, ()))
        return self._matchers[name]

    def _head(self, matcher: Matcher, examples: Sequence[GoldenExample]) -> GoldenHead | None:
        judged, annotations = [], []
        for example, read in zip(examples, self._read([example.video for example in examples]), strict=True):
            seen = _admitted(read, matcher.definition)
            if seen.sentences:
                judged.append(_judged(matcher, seen))
                annotations.append(example.annotation)
        return GoldenHead.fit(judged, targets(matcher.definition, annotations)) if judged else None

    def _answer(self, matcher: Matcher, head: GoldenHead | None, seen: _Read) -> Answer:
        definition = matcher.definition
        judged = _judged(matcher, seen)
        logits = judged.zero_shot if head is None else head.logits(judged)
        probability: float | None
        if definition.value_type == "category":
            likely = np.exp(logits - logits.max())
            chosen = int(likely.argmax())
            value, probability = definition.labels[chosen], float(likely[chosen] / likely.sum())
        else:
            probability, chosen = float(sigmoid(logits)[0]), int(logits[0] < 0)
            value = "true" if probability >= 0.5 else "false"
            if definition.value_type == "score":
                assert definition.score_range is not None
                low, high = definition.score_range
                value, probability = f"{min(max(low + (high - low) * probability, low), high):.6g}", None
        rationale = _reason(matcher, matcher.similarities(seen.vectors), seen.sentences, chosen)
        if head is not None:
            rationale += f"; weighed by {head.examples} Golden examples"
        return Answer(definition.name, value, probability, rationale, answered_at=self._clock())


def _admitted(read: _Read, definition: AttributeDefinition) -> _Read:
    kept = [number for number, sentence in enumerate(read.sentences) if sentence.place in definition.evidence]
    return _Read(tuple(read.sentences[number] for number in kept), read.vectors[kept])


def _judged(matcher: Matcher, seen: _Read) -> Judged:
    similarities = matcher.similarities(seen.vectors)
    texts = tuple(sentence.text for sentence in seen.sentences)
    return Judged(matcher.logits(similarities), matcher.closeness(similarities), seen.mean, texts)


def _reason(matcher: Matcher, similarities: Matrix, sentences: Sequence[Sentence], chosen: int) -> str:
    """The pair of sentences that speaks loudest for the answer: of the chosen label, of what counts, or of what does not."""
    category = matcher.definition.value_type == "category"
    group = list(matcher.anchors.groups[chosen]) or list(matcher.anchors.groups[0])
    if not category and chosen == 1 and similarities[:, group].max() < similarities.max():
        group = list(matcher.anchors.groups[0])  # nothing speaks against it, but not enough for it
    row, column = divmod(int(similarities[:, group].argmax()), len(group))
    anchor, closeness = matcher.anchors.texts[group[column]], similarities[row, group[column]]
    pair = f'{sentences[row].place} "{_short(sentences[row].text)}" is closest to "{_short(anchor)}" ({closeness:.2f})'
    if category or chosen == 0:
        return pair
    return pair + (", which does not count" if group == list(matcher.anchors.groups[1]) else ", which is not close enough")


def _short(text: str) -> str:
    return text if len(text) <= _QUOTED else text[: _QUOTED - 1].rstrip() + "…"
