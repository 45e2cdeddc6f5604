"""How close the sentences of a video are to the sentences of a definition: the baseline's zero-shot judgement.

Each sentence of the video is compared with each include and each exclude. One averaged vector a side was near chance on rated
adverts, because it drowns the one telling sentence in ordinary ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from features.annotators.evidence import sentences_of
from features.attributes.definition import AttributeDefinition

Encode = Callable[[Sequence[str]], npt.NDArray[np.float32]]
"""Sentences to one vector each, shape (sentences, dimension)."""
Matrix = npt.NDArray[np.float64]

SHARPNESS = 10.0
"""Between an average (0) and a maximum (infinite) over cosines; best of 5, 10 and 20 on rated adverts."""
EXCLUDES_COUNT = 0.6
"""How much closeness to an exclude takes off; best of 0 to 1.3 on rated adverts of folds 0-5."""
SLOPE = 1.3
OFFSET = 0.8
"""A video must stand this many standard deviations above ordinary ones before a boolean is more likely than not."""
_LEAST_SPREAD = 0.02

BACKGROUND: tuple[str, ...] = (
    "How to fix a leaking kitchen tap",
    "A recipe for pasta with tomato sauce",
    "A dog runs after a ball in the park",
    "Unboxing a new phone",
    "The weather forecast for tomorrow",
    "Football highlights of last night's match",
    "A walk through the old town",
    "How to tie a tie",
    "My cat and the cardboard box",
    "Make-up tutorial for beginners",
    "The history of the steam engine",
    "A child learns to ride a bicycle",
    "Street food in a night market",
    "Guitar lesson: three easy chords",
    "Waves on a beach",
    "A train passes the station",
    "Interview with a local politician",
    "Dance rehearsal in the studio",
    "Five tips for your job interview",
    "A drone flight over the city",
    "Gameplay of a new racing game",
    "The trailer of a film",
    "A baby tries a lemon",
    "Morning exercise in ten minutes",
    "Planting tomatoes on the balcony",
    "A lecture about mathematics",
    "Birthday party at grandmother's house",
    "Buy this product today",
    "The company presents its new car",
    "Drive safely and wear a seat belt",
    "A singer on the stage",
    "People wait for the bus",
    "Rain in the forest",
    "A prank on my brother",
    "Painting a landscape in oil",
    "News about the economy",
    "What I bought this week",
    "Snow in the mountains",
    "A speech at a wedding",
    "Cleaning my room",
)
"""Ordinary videos, against which closeness is measured: some definitions are close to everything, others to nothing."""


def soft_maximum(values: Matrix, axis: int) -> Matrix:
    """log(mean(exp(SHARPNESS * x))) / SHARPNESS along an axis: many weak matches do not outweigh one strong one."""
    top = values.max(axis=axis, keepdims=True)
    mean = np.exp(SHARPNESS * (values - top)).mean(axis=axis)
    return np.asarray(np.log(mean) / SHARPNESS + top.squeeze(axis))


def unit_rows(vectors: npt.ArrayLike) -> Matrix:
    """Rows scaled to length one; rows of zeros stay."""
    matrix = np.asarray(vectors, dtype=np.float64)
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    return np.asarray(matrix / np.where(length > 0, length, 1.0))


@dataclass(frozen=True)
class Anchors:
    """A definition's sentences, in the groups in which they are compared.

    Attributes:
        texts: all sentences.
        groups: positions in `texts`: for a category one group a label, otherwise what counts and what does not.
    """

    texts: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, definition: AttributeDefinition) -> Anchors:
        """Includes against excludes; for a category what belongs to each label.

        An include `LABEL: sentence` belongs to that label, as do the label itself and the examples with that answer. A
        definition without includes is compared by its title and its paragraph.
        """
        if definition.value_type == "category":
            groups = [
                [
                    label,
                    *(text[len(label) + 1 :].strip() for text in definition.includes if text.startswith(f"{label}:")),
                    *(example.video for example in definition.examples if example.value == label),
                ]
                for label in definition.labels
            ]
        else:
            counts = list(definition.includes) or [definition.title, *sentences_of(definition.definition)]
            groups = [counts, list(definition.excludes)]
        texts = [text for group in groups for text in group]
        ends = np.cumsum([len(group) for group in groups])
        spans = tuple(tuple(range(int(end) - len(group), int(end))) for group, end in zip(groups, ends, strict=True))
        return cls(tuple(texts), spans)


class Matcher:
    """One definition, ready to be compared with many videos.

    Args:
        definition: what is asked.
        encode: sentences to vectors; called once, with the definition's sentences and the background's.
    """

    def __init__(self, definition: AttributeDefinition, encode: Encode) -> None:
        self.definition = definition
        self.anchors = Anchors.of(definition)
        vectors = unit_rows(encode([*self.anchors.texts, *BACKGROUND]))
        self.vectors = vectors[: len(self.anchors.texts)]
        ordinary = [self.vectors @ vector[:, np.newaxis] for vector in vectors[len(self.anchors.texts) :]]
        margins = np.array([self.margins(similarity.T) for similarity in ordinary])
        closeness = np.array([similarity.ravel() for similarity in ordinary])
        self._margin_mean, self._margin_spread = margins.mean(axis=0), np.maximum(margins.std(axis=0), _LEAST_SPREAD)
        self._mean, self._spread = closeness.mean(axis=0), np.maximum(closeness.std(axis=0), _LEAST_SPREAD)

    def similarities(self, vectors: Matrix) -> Matrix:
        """Cosines, shape (sentences, anchors), of unit vectors of a video's sentences."""
        return np.asarray(vectors @ self.vectors.T)

    def margins(self, similarities: Matrix) -> Matrix:
        """By how much a video is closer to what counts: one number, or for a category one a label."""
        by_sentence = [
            soft_maximum(similarities[:, list(group)], axis=1) if group else np.zeros(len(similarities))
            for group in self.anchors.groups
        ]
        if self.definition.value_type != "category":
            return np.array([soft_maximum(by_sentence[0] - EXCLUDES_COUNT * by_sentence[1], axis=0)])
        pooled = np.array([soft_maximum(each, axis=0) for each in by_sentence])
        return np.asarray(pooled - pooled.mean())

    def logits(self, similarities: Matrix) -> Matrix:
        """The zero-shot judgement: one logit of `true` (or of the upper end of a score), or for a category one a label."""
        deviations = (self.margins(similarities) - self._margin_mean) / self._margin_spread
        return np.asarray(SLOPE * (deviations - (OFFSET if self.definition.value_type == "boolean" else 0.0)))

    def closeness(self, similarities: Matrix) -> Matrix:
        """To each anchor, in standard deviations above ordinary videos: shape (anchors,)."""
        return np.asarray((soft_maximum(similarities, axis=0) - self._mean) / self._spread)
