"""What the baseline learns from Golden examples: a small regularised logistic head on top of its zero-shot judgement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from features.annotators.matching import Matrix
from features.attributes.definition import AttributeDefinition
from features.records import Annotation, VideoFeatures, digest

LEAST_OF_EACH = 8
"""With fewer examples of a class the zero-shot judgement stands."""
LEAST_SCORES = 16
# Chosen on adverts of folds 0-3 against folds 4-5, for 40 to 1,388 examples.
_TRUST_IN_ZERO_SHOT = 1.0
_CLOSENESS_SCALE = 0.15
_EMBEDDING_SCALE = 1.5


@dataclass(frozen=True)
class GoldenExample:
    """A video with what its raters said."""

    video: VideoFeatures
    annotation: Annotation


def golden_examples(annotations: Iterable[Annotation], videos: Mapping[str, VideoFeatures]) -> tuple[GoldenExample, ...]:
    """The annotations whose videos are known, with them. Retracted ones are left out."""
    return tuple(
        GoldenExample(videos[annotation.video_id], annotation)
        for annotation in annotations
        if annotation.video_id in videos and annotation.value is not None
    )


def is_enough(examples: Sequence[GoldenExample]) -> bool:
    """Whether a head is worth fitting: LEAST_OF_EACH examples of two classes, or LEAST_SCORES scores."""
    if any(example.annotation.probability is None for example in examples):
        return len(examples) >= LEAST_SCORES
    counts = Counter(example.annotation.value for example in examples).most_common(2)
    return len(counts) == 2 and counts[1][1] >= LEAST_OF_EACH


def examples_digest(examples: Iterable[GoldenExample]) -> str:
    """Identity of what a head is fitted to, whatever the order: it is part of the answer key."""
    return digest(
        *sorted(
            f"{example.video.content_key} {example.annotation.value} {example.annotation.probability}" for example in examples
        )
    )


def targets(definition: AttributeDefinition, annotations: Sequence[Annotation]) -> Matrix:
    """What is fitted, 0 to 1, shape (examples, outputs): `true`, the height of a score, or one column a label.

    The raters' answer counts, not their share: on the adverts both fitted equally well.
    """
    if definition.value_type == "category":
        return np.array([[float(annotation.value == label) for label in definition.labels] for annotation in annotations])
    numbers = np.array([definition.number(str(annotation.value), None) for annotation in annotations])
    if definition.value_type == "score":
        assert definition.score_range is not None
        low, high = definition.score_range
        numbers = (numbers - low) / (high - low)
    return numbers[:, np.newaxis]


@dataclass(frozen=True)
class GoldenHead:
    """logit = bias + weight * zero-shot logit + weights * (closeness to each anchor, mean sentence vector).

    Attributes:
        weights: shape (outputs, 2 + anchors + dimension).
        center: the training videos' mean sentence vector.
        examples: how many it was fitted to.
    """

    weights: Matrix
    center: Matrix
    examples: int

    @classmethod
    def fit(cls, zero_shot: Matrix, closeness: Matrix, vectors: Matrix, wanted: Matrix) -> GoldenHead:
        """Penalised maximum likelihood by L-BFGS: the weight of the zero-shot logit is drawn to 1, all others to 0.

        Args:
            zero_shot: shape (examples, outputs).
            closeness: shape (examples, anchors), in standard deviations.
            vectors: unit mean sentence vectors, shape (examples, dimension).
            wanted: 0 to 1, shape (examples, outputs).
        """
        center = vectors.mean(axis=0)
        rows = _rows(closeness, vectors - center)
        weights = [_fit_one(np.column_stack([judged, rows]), aim) for judged, aim in zip(zero_shot.T, wanted.T, strict=True)]
        return cls(np.array(weights), center, len(wanted))

    def logits(self, zero_shot: Matrix, closeness: Matrix, vector: Matrix) -> Matrix:
        """One logit an output for one video."""
        row = _rows(closeness[np.newaxis], (vector - self.center)[np.newaxis])[0]
        return np.asarray(self.weights[:, 0] + self.weights[:, 1] * zero_shot + self.weights[:, 2:] @ row)


def _rows(closeness: Matrix, centered: Matrix) -> Matrix:
    return np.hstack([_CLOSENESS_SCALE * closeness, _EMBEDDING_SCALE * centered])


def _fit_one(rows: Matrix, wanted: Matrix) -> Matrix:
    """Minimises cross-entropy + |w - w0|^2 / 2 with the bias free; `wanted` may lie between 0 and 1."""
    design = np.column_stack([np.ones(len(rows)), rows])
    start = np.zeros(design.shape[1])
    start[1] = 1.0
    penalty = np.ones(design.shape[1])
    penalty[:2] = 0.0, _TRUST_IN_ZERO_SHOT

    def loss(weights: Matrix) -> tuple[float, Matrix]:
        logits = design @ weights
        away = weights - start
        value = np.logaddexp(0.0, logits).sum() - wanted @ logits + 0.5 * (penalty * away**2).sum()
        gradient = design.T @ (sigmoid(logits) - wanted) + penalty * away
        return float(value), gradient

    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x)


def sigmoid(logits: Matrix) -> Matrix:
    """1 / (1 + exp(-x)) without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))
