"""Golden examples for a prompt: which rated videos are shown for a definition, and how one is written down."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Protocol

from features.annotators.prompt_video import words_of
from features.annotators.untrusted import plain
from features.attributes.definition import AttributeDefinition, Evidence
from features.records import Annotation, VideoFeatures, digest

MOST_CHARACTERS = 240
"""Of each place of an example: it is there for its verdict, not for its length."""


class Rated(Protocol):
    """A video with what its raters said: a `features.annotators.golden_head.GoldenExample`."""

    @property
    def video(self) -> VideoFeatures: ...

    @property
    def annotation(self) -> Annotation: ...


def chosen(
    definition: AttributeDefinition, examples: Iterable[Rated], evidence: Sequence[Evidence], most: int
) -> tuple[Rated, ...]:
    """At most `most` examples rated under this very definition, the same ones whatever order they come in.

    They are balanced: as many of each value as there are, taken in turn. Among those of one value they are spread evenly
    from the clearest (by the share of raters) to the least clear; scores are spread evenly from the lowest to the highest. They
    are shown in an order that says nothing about their values. An example of which none of `evidence` can be read is left out.
    """
    readable = [
        example
        for example in examples
        if example.annotation.definition_hash == definition.definition_hash
        and example.annotation.value is not None
        and words_of(example.video, evidence, MOST_CHARACTERS)
    ]
    if definition.value_type == "score":
        readable.sort(key=lambda example: (float(example.annotation.value or 0), example.video.video_id))
        picked = _spread(readable, most)
    else:
        by_value: dict[str, list[Rated]] = defaultdict(list)
        for example in sorted(readable, key=_clearest_first):
            by_value[str(example.annotation.value)].append(example)
        shares = _fair(most, [len(by_value[value]) for value in sorted(by_value)])
        picked = [each for value, share in zip(sorted(by_value), shares, strict=True) for each in _spread(by_value[value], share)]
    return tuple(sorted(picked, key=lambda example: digest(example.video.video_id, definition.name)))


def line(example: Rated, evidence: Sequence[Evidence], said: str) -> str:
    """An example on one line: its words, each fenced, then the verdict and the raters' reason. Its pictures are left out.

    Args:
        example: the video and its annotation.
        evidence: what of it is shown.
        said: the verdict as the model is to write it.
    """
    words = ", ".join(f"{label}: {fence}" for label, fence in words_of(example.video, evidence, MOST_CHARACTERS))
    reason = plain(example.annotation.rationale)
    return f"- {words} => {said}" + (f" ({reason})" if reason else "")


def _clearest_first(example: Rated) -> tuple[float, str]:
    probability = example.annotation.probability
    share = 1.0 if probability is None else probability
    return -max(share, 1.0 - share), example.video.video_id


def _fair(most: int, counts: Sequence[int]) -> list[int]:
    """How many of each, in turn, until there are `most` or none is left."""
    shares = [0] * len(counts)
    while sum(shares) < min(most, sum(counts)):
        for place, count in enumerate(counts):
            if shares[place] < count and sum(shares) < most:
                shares[place] += 1
    return shares


def _spread(items: Sequence[Rated], most: int) -> list[Rated]:
    if len(items) <= most:
        return list(items)
    if most <= 1:
        return list(items[:most])
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]
