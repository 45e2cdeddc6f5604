"""What the baseline learns from Golden examples: a small regularised logistic head on top of its zero-shot judgement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix, hstack

from features.annotators.matching import Matrix
from features.annotators.ngrams import NGrams
from features.attributes.definition import AttributeDefinition
from features.records import Annotation, VideoFeatures, digest

LEAST_OF_EACH = 8
"""With fewer examples of a class the zero-shot judgement stands."""
LEAST_SCORES = 16
# Chosen on adverts of folds 0-3 against folds 4-5, for 40 to 1,388 examples; n-grams have scale 1.
_CLOSENESS_SCALE = 0.15
_EMBEDDING_SCALE = 1.5
_TRUST_IN_ZERO_SHOT = 5.0
_SOLVER = {"maxiter": 1000, "ftol": 1e-10, "gtol": 1e-6}


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
    values = [str(example.annotation.value) for example in examples]
    if all(example.annotation.probability is None for example in examples) and not {"true", "false"} & set(values):
        return len(examples) >= LEAST_SCORES
    counts = Counter(values).most_common(2)
    return len(counts) == 2 and counts[1][1] >= LEAST_OF_EACH


def examples_digest(examples: Iterable[GoldenExample]) -> str:
    """Identity of what a head is fitted to, whatever the order: it is part of the answer key."""
    said = []
    for example in examples:
        probability = example.annotation.probability
        share = "" if probability is None else f"{probability:.6g}"  # a table keeps seven digits
        said.append(f"{example.video.content_key} {example.annotation.value} {share}")
    return digest(*sorted(said))


def targets(definition: AttributeDefinition, annotations: Sequence[Annotation]) -> Matrix:
    """What is fitted, 0 to 1, shape (examples, outputs): `true`, the height of a score, or one column a label.

    Of a boolean it is the share of raters who said `true`: it fitted better than the majority's answer.
    """
    if definition.value_type == "category":
        return np.array([[float(annotation.value == label) for label in definition.labels] for annotation in annotations])
    numbers = np.array([definition.number(str(annotation.value), annotation.probability) for annotation in annotations])
    if definition.value_type == "score":
        assert definition.score_range is not None
        low, high = definition.score_range
        numbers = (numbers - low) / (high - low)
    return numbers[:, np.newaxis]


@dataclass(frozen=True)
class Judged:
    """What a head goes by, for one video.

    Attributes:
        zero_shot: logits, shape (outputs,).
        closeness: to each anchor in standard deviations, shape (anchors,).
        vector: unit mean sentence vector, shape (dimension,).
        sentences: the texts themselves.
    """

    zero_shot: Matrix
    closeness: Matrix
    vector: Matrix
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class GoldenHead:
    """logit = bias + weight * zero-shot logit + weights * (closeness to each anchor, mean sentence vector, n-grams).

    Attributes:
        weights: shape (outputs, 2 + anchors + dimension + terms).
        center: the training videos' mean sentence vector.
        ngrams: the terms that the training videos share.
        examples: how many it was fitted to.
    """

    weights: Matrix
    center: Matrix
    ngrams: NGrams
    examples: int

    @classmethod
    def fit(cls, judged: Sequence[Judged], wanted: Matrix) -> GoldenHead:
        """Penalised maximum likelihood by L-BFGS-B: the weight of the zero-shot logit is drawn to 1, all others to 0.

        That weight is never below 0: a definition may turn out not to help, but its opposite is not what it says.

        Args:
            judged: the rated videos.
            wanted: 0 to 1, shape (videos, outputs).
        """
        center = np.mean([each.vector for each in judged], axis=0)
        ngrams = NGrams.fit([each.sentences for each in judged])
        rows = _rows(judged, center, ngrams)
        zero_shot = np.array([each.zero_shot for each in judged])
        weights = [_fit_one(judgement, rows, aim) for judgement, aim in zip(zero_shot.T, wanted.T, strict=True)]
        return cls(np.array(weights), center, ngrams, len(judged))

    def logits(self, judged: Judged) -> Matrix:
        """One logit an output for one video, shape (outputs,)."""
        row = _rows([judged], self.center, self.ngrams)
        return np.asarray(self.weights[:, 0] + self.weights[:, 1] * judged.zero_shot + (row @ self.weights[:, 2:].T)[0])


def _rows(judged: Sequence[Judged], center: Matrix, ngrams: NGrams) -> csr_matrix:
    closeness = np.array([each.closeness for each in judged])
    vectors = np.array([each.vector for each in judged]) - center
    terms = ngrams.rows([each.sentences for each in judged])
    return hstack([csr_matrix(_CLOSENESS_SCALE * closeness), csr_matrix(_EMBEDDING_SCALE * vectors), terms]).tocsr()


def _fit_one(zero_shot: Matrix, rows: csr_matrix, wanted: Matrix) -> Matrix:
    """Minimises cross-entropy + |w - w0|^2 / 2 with the bias free; `wanted` may lie between 0 and 1."""
    design = hstack([csr_matrix(np.column_stack([np.ones(len(zero_shot)), zero_shot])), rows]).tocsr()
    start = np.zeros(design.shape[1])
    start[1] = 1.0
    penalty = np.ones(design.shape[1])
    penalty[:2] = 0.0, _TRUST_IN_ZERO_SHOT
    bounds = [(None, None), (0.0, None), *[(None, None)] * (len(start) - 2)]

    def loss(weights: Matrix) -> tuple[float, Matrix]:
        logits = design @ weights
        away = weights - start
        value = np.logaddexp(0.0, logits).sum() - wanted @ logits + 0.5 * (penalty * away**2).sum()
        return float(value), design.T @ (sigmoid(logits) - wanted) + penalty * away

    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options=_SOLVER).x)


def sigmoid(logits: Matrix) -> Matrix:
    """1 / (1 + exp(-x)) without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))
