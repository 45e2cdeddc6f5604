"""What of a video an annotator without eyes may read, as short sentences, each with the place it was found in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from features.annotators.measurements import described
from features.attributes.definition import Evidence
from features.records import VideoFeatures

MAX_SENTENCES = 64
MAX_CHARACTERS = 300
MAX_WORDS = 40
"""Longer than this, a sentence is cut in pieces: recognised speech often comes without punctuation."""
_TAG_FROM = 0.3
"""A visual tag below this probability is more often wrong than right."""
_END = re.compile(r"(?<=[.!?…。！？])\s+|(?<=[。！？])|[\r\n\u2028\u2029]+")  # noqa: RUF001
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_\-.]+")
_SHARES: tuple[tuple[Evidence, int], ...] = (
    ("title", 4),
    ("hashtags", 12),
    ("tags", 6),
    ("measurements", 8),
    ("onscreen_text", 12),
    ("description", 20),
    ("transcript", MAX_SENTENCES),
)
"""The most sentences of each place, in the order in which they take up room; the transcript gets all that is left."""


@dataclass(frozen=True)
class Sentence:
    """A piece of evidence.

    Attributes:
        place: title, description, ...: where it is from.
        text: at most MAX_CHARACTERS, on one line, untrusted.
    """

    place: Evidence
    text: str


def sentences_of(text: str) -> list[str]:
    """The sentences of a text: ended by punctuation or a line break, whitespace made plain, long ones cut at words."""
    found = []
    for piece in _END.split(text):
        words = piece.split()
        for start in range(0, len(words), MAX_WORDS):
            sentence = " ".join(words[start : start + MAX_WORDS])[:MAX_CHARACTERS].strip()
            if any(character.isalnum() for character in sentence):
                found.append(sentence)
    return found


def spread(items: Sequence[str], most: int) -> list[str]:
    """At most `most` items, evenly spread over all of them, in order."""
    if len(items) <= most:
        return list(items)
    return [items[position * len(items) // most] for position in range(most)]


def gathered(video: VideoFeatures) -> tuple[Sentence, ...]:
    """All that can be read about a video, at most MAX_SENTENCES, the most telling places first.

    Long texts are represented by sentences spread evenly over them. Hashtags are split into words (`slowMorning`), and visual
    tags below a probability of 0.3 left out. Choosing by a definition's `evidence` is up to the caller.
    """
    texts: dict[Evidence, list[str]] = {
        "title": sentences_of(video.title),
        "hashtags": [text for tag in video.hashtags for text in sentences_of(_CAMEL.sub(" ", tag.lstrip("#")))],
        "tags": [text for tag in video.visual_tags if tag.probability >= _TAG_FROM for text in sentences_of(tag.name)],
        "measurements": list(described(video)),
        "onscreen_text": sentences_of(video.onscreen_text),
        "description": sentences_of(video.description),
        "transcript": sentences_of(video.transcript),
    }
    found: list[Sentence] = []
    for place, most in _SHARES:
        chosen = spread(list(dict.fromkeys(texts[place])), min(most, MAX_SENTENCES - len(found)))
        found += [Sentence(place, text) for text in chosen]
    return tuple(found)
