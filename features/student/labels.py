"""What a student learns: the Silver Set, one soft target for each (video, attribute) pair that somebody answered.

The label of a pair is the most trusted one; whoever calls has resolved that already. No TensorFlow in here.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.attributes.definition import AttributeDefinition, ValueType
from features.records import Source, digest
from features.student.inputs import Floats, Mask

LEAST_LABELLED = 4
"""Labelled videos below which an attribute gets no head: there is nothing to learn from."""
LEAST_TO_SPLIT = 20
"""Labelled videos below which none is kept back for validation."""
VALIDATION_SHARE = 0.2

TRUST: tuple[Source, ...] = ("gold", "adjudicated", "llm", "baseline")
"""Teachers, most trusted first. A student never learns from a student."""


@dataclass(frozen=True)
class Label:
    """One resolved answer, as in `Annotation`."""

    video_id: str
    attribute: str
    value: str
    probability: float | None
    source: Source
    answer_key: str


@dataclass(frozen=True)
class BadLabel:
    """A label that cannot be learned: its pair becomes a dead letter. `kind` is `unknown_value` or `not_a_number`."""

    video_id: str
    attribute: str
    kind: str
    message: str


@dataclass(frozen=True)
class Head:
    """One attribute of a student.

    Attributes:
        attribute, value_type, labels, score_range, definition_hash: as in the definition it learned.
        teacher: the least trusted source among its labels; a student is trusted right below it.
        labelled: videos it learned from, validation included.
    """

    attribute: str
    value_type: ValueType
    labels: tuple[str, ...]
    score_range: tuple[float, float] | None
    definition_hash: str
    teacher: Source
    labelled: int

    @property
    def width(self) -> int:
        """Numbers the network gives for it: one for each label of a category, else one."""
        return len(self.labels) if self.value_type == "category" else 1

    def as_dict(self) -> dict[str, Any]:
        """For `student.json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Head:
        """The inverse of `as_dict`."""
        low_high = document["score_range"]
        fields = {**document, "labels": tuple(document["labels"]), "score_range": low_high and (low_high[0], low_high[1])}
        return cls(**fields)


@dataclass(frozen=True)
class Silver:
    """The Silver Set over N videos and H heads of U numbers together.

    Attributes:
        video_ids: N ids.
        heads: H of them.
        targets: [N, U], 0 to 1: the probability of true, of each label, or the score's place in its range.
        mask: [N, H], whether that pair has a label.
        bad: labels that were left out.
        notes: sentences for a person.
    """

    video_ids: tuple[str, ...]
    heads: tuple[Head, ...]
    targets: Floats
    mask: Mask
    bad: tuple[BadLabel, ...]
    notes: tuple[str, ...]


def slices(heads: Sequence[Head]) -> list[slice]:
    """Where each head's numbers stand among the U."""
    ends = np.cumsum([head.width for head in heads]).tolist()
    return [slice(end - head.width, end) for head, end in zip(heads, ends, strict=True)]


def soft_target(definition: AttributeDefinition, label: Label) -> list[float]:
    """What the network should say. A category's remaining probability is spread over its other labels.

    Raises ValueError when the value is not one of the attribute's, FloatingPointError when a number is not finite.
    """
    probability = label.probability
    if probability is not None and not (math.isfinite(probability) and 0.0 <= probability <= 1.0):
        raise FloatingPointError(f"{label.attribute} of {label.video_id!r}: probability {probability} is not within 0 to 1")
    if definition.value_type == "category":
        place = int(definition.number(label.value, None))
        others = len(definition.labels) - 1
        share = 1.0 if probability is None or not others else probability
        target = [(1.0 - share) / max(others, 1)] * len(definition.labels)
        target[place] = share
        return target
    number = definition.number(label.value, probability)
    if definition.value_type == "score":
        assert definition.score_range is not None
        low, high = definition.score_range
        return [(number - low) / (high - low)]
    return [number]


def silver_set(definitions: Sequence[AttributeDefinition], labels: Iterable[Label], video_ids: Sequence[str]) -> Silver:
    """Collects the labels of the given videos; attributes with fewer than LEAST_LABELLED get no head, and a note."""
    by_name = {definition.name: definition for definition in definitions}
    rows = {video_id: row for row, video_id in enumerate(video_ids)}
    found: dict[str, dict[int, list[float]]] = {name: {} for name in by_name}
    sources: dict[str, Counter[Source]] = {name: Counter() for name in by_name}
    bad = []
    for label in labels:
        definition = by_name.get(label.attribute)
        if definition is None or label.video_id not in rows or label.source not in TRUST:
            continue
        try:
            found[label.attribute][rows[label.video_id]] = soft_target(definition, label)
        except (ValueError, FloatingPointError) as error:
            kind = "not_a_number" if isinstance(error, FloatingPointError) else "unknown_value"
            bad.append(BadLabel(label.video_id, label.attribute, kind, str(error)))
            continue
        sources[label.attribute][label.source] += 1

    notes, heads = [], []
    for definition in definitions:
        count = len(found[definition.name])
        if count < LEAST_LABELLED:
            notes.append(
                f"{definition.name} is left out: {count} labelled videos, at least {LEAST_LABELLED} are needed. Annotate more."
            )
            continue
        heads.append(
            Head(
                definition.name,
                definition.value_type,
                definition.labels,
                definition.score_range,
                definition.definition_hash,
                max(sources[definition.name], key=TRUST.index),
                count,
            )
        )
    targets = np.zeros((len(video_ids), sum(head.width for head in heads)), np.float32)
    mask = np.zeros((len(video_ids), len(heads)), np.bool_)
    for number, (head, place) in enumerate(zip(heads, slices(heads), strict=True)):
        answered = np.fromiter(found[head.attribute], np.int64)
        targets[answered, place] = np.array(list(found[head.attribute].values()), np.float32)
        mask[answered, number] = True
        decided = targets[answered, place].round(6) if head.value_type == "score" else decide(head, targets[answered, place])
        if len(np.unique(decided)) == 1:
            notes.append(f"{head.attribute}: all {head.labelled} labels say the same, so its head can only repeat them.")
    return Silver(tuple(video_ids), tuple(heads), targets, mask, tuple(bad), tuple(notes))


def decide(head: Head, numbers: Floats) -> Floats:
    """[N, width] probabilities -> [N]: 1 or 0 for true or false, the place of the likeliest label, or the number itself."""
    if head.value_type == "category":
        return np.asarray(numbers.argmax(axis=1), np.float32)
    return np.asarray(numbers[:, 0] >= 0.5 if head.value_type == "boolean" else numbers[:, 0], np.float32)


def validation_mask(video_ids: Sequence[str]) -> Mask:
    """Which videos are kept back: the fifth whose ids have the lowest hashes. None in a tiny corpus.

    It depends on nothing but the ids, and in a growing corpus only videos at the border change sides.
    """
    kept_back = np.zeros(len(video_ids), np.bool_)
    if len(video_ids) >= LEAST_TO_SPLIT:
        hashes = [digest("validation", video_id) for video_id in video_ids]
        kept_back[np.argsort(hashes)[: round(VALIDATION_SHARE * len(hashes))]] = True
    return kept_back
