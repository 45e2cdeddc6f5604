"""A video's words for the text encoder, and its things seen as tags."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

import numpy as np

from features.records import Tag, Video
from features.videos.senses import Floats

TAG_PROBABILITY = 0.4
MAX_TAGS = 8
PIECE_CHARACTERS = 500
MAX_PIECES = 64


def video_text(video: Video, transcript: str, onscreen: str = "") -> str:
    """All words of a video: title, description, hashtags, transcript and on-screen text, one after the other."""
    parts: Iterable[str] = (video.title, video.description, " ".join(video.hashtags), transcript, onscreen)
    return "\n".join(part.strip() for part in parts if part.strip())


def text_pieces(text: str) -> list[str]:
    """A text in pieces of about 100 English words, so that an encoder that reads 128 tokens sees all of it.

    Of a very long one, 64 pieces spread over it.
    """
    pieces = textwrap.wrap(text, PIECE_CHARACTERS, break_on_hyphens=False)
    if len(pieces) > MAX_PIECES:
        pieces = [pieces[round(at * (len(pieces) - 1) / (MAX_PIECES - 1))] for at in range(MAX_PIECES)]
    return pieces


def tags_of(probabilities: Floats, labels: Sequence[str]) -> tuple[Tag, ...]:
    """What is confidently seen in any picture: at most eight labels with a probability of 0.4 or more, highest first.

    Args:
        probabilities: shape (pictures, labels). Below about 0.4 the built-in model's guesses are nonsense.
    """
    highest = probabilities.max(axis=0)
    confident = [int(at) for at in np.flatnonzero(highest >= TAG_PROBABILITY)]
    order = sorted(confident, key=lambda at: (-highest[at], at))
    return tuple(Tag(labels[at], float(highest[at])) for at in order[:MAX_TAGS])
