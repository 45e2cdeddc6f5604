"""Fingerprints made by hand: films whose pictures differ as much as real ones, and copies of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from features.videos.duplicates import Marks
from features.videos.fingerprint import BYTES, HASH_BYTES


def film(seed: int, pictures: int) -> list[bytes]:
    """Pictures, each seen twice in a row, and each unlike all others."""
    drawn = np.random.default_rng(seed).integers(0, 256, ((pictures + 1) // 2, BYTES), np.uint8)
    return [drawn[at // 2].tobytes() for at in range(pictures)]


def intro_of(pictures: int) -> list[bytes]:
    """The opening that all films of a series begin with."""
    return film(999, pictures)


def moved(prints: Sequence[bytes], bits: int, seed: int = 0) -> list[bytes]:
    """The same with so many bits of each hash changed, and no colour."""
    generator, found = np.random.default_rng(seed), []
    for mark in prints:
        array = np.unpackbits(np.frombuffer(mark[:HASH_BYTES], np.uint8)).reshape(2, -1)
        for half in array:
            half[generator.choice(len(half), bits, replace=False)] ^= 1
        found.append(np.packbits(array).tobytes() + mark[HASH_BYTES:])
    return found


def marks(video_id: str, prints: Sequence[bytes], start_s: float = 0.0, step_s: float = 0.25, published: str = "") -> Marks:
    """Of a video whose first picture is at `start_s`."""
    times = tuple(start_s + step_s * number for number in range(len(prints)))
    return Marks(video_id, published, f"bytes of {video_id}", times, b"".join(prints))
