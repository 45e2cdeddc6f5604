"""What an extractor hears, reads and looks with, as protocols: each may be another model than the built-in one, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from features.videos.frames import Still
from features.videos.rgb import Image
from features.videos.sound import Samples
from features.videos.speech import Speech

Floats = NDArray[np.float32]


class Sense(Protocol):
    """What all of them have."""

    @property
    def version(self) -> str:
        """Identity of code and weights."""
        ...


class Transcriber(Sense, Protocol):
    """Speech recognition."""

    def transcribe(self, pcm: Samples, language: str) -> Speech:
        """What is said in mono 16 kHz sound; the language is BCP 47, empty when unknown. No segments without speech."""
        ...


class Reader(Sense, Protocol):
    """Reading of words in pictures."""

    def read(self, stills: Sequence[Still]) -> str:
        """Lines of text in RGB pictures of one video, in the order in which they appear; empty where nothing is read."""
        ...


class TempoMeter(Sense, Protocol):
    """How fast music is."""

    def beats_a_minute(self, pcm: Samples) -> float | None:
        """Of mono 16 kHz sound; None where there is no clear beat."""
        ...


class TextEncoder(Sense, Protocol):
    """Sentence embedding."""

    def encode(self, texts: Sequence[str]) -> Floats:
        """One row of unit length for each text, shape (n, d)."""
        ...


class VisualEncoder(Sense, Protocol):
    """Image embedding and classification."""

    @property
    def labels(self) -> Sequence[str]:
        """Names of the classes, in the order of the probabilities."""
        ...

    def encode(self, images: Sequence[Image]) -> tuple[Floats, Floats]:
        """For RGB pictures of any size: embeddings, shape (n, d), and probabilities, shape (n, len(labels))."""
        ...
