"""A perceptual hash of each still, by which near-duplicates are found."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import imagehash
import numpy as np
from PIL import Image as PillowImage

from features.videos.frames import Image

BYTES = 8
BLANK = 2.0
"""Standard deviation of grey, 0 to 127, below which a picture shows nothing."""
_SIDE = 64


def fingerprint(image: Image) -> bytes:
    """64-bit DCT hash (ImageHash `phash`, Zauner 2010) of an RGB picture, 8 bytes, bits in row order.

    Pictures that differ by scale or compression lie within a few bits of each other, different ones around 32. The picture is
    shrunk by area first, which leaves the hash practically the same and is thirty times faster. A picture of one colour hashes
    to rounding noise: no two of those are told apart.
    """
    small = cv2.resize(image, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    bits = np.asarray(imagehash.phash(PillowImage.fromarray(small)).hash, dtype=bool)
    return np.packbits(bits.ravel()).tobytes()


def fingerprints(samples: Sequence[tuple[float, Image]]) -> list[tuple[float, bytes]]:
    """The time and fingerprint of each sample of a video that shows something; samples of one colour are left out.

    Args:
        samples: seconds, and upright RGB.
    """
    return [(time, fingerprint(image)) for time, image in samples if image.mean(axis=2).std() >= BLANK]


def distance(one: bytes, other: bytes) -> int:
    """Number of bits in which two fingerprints differ, 0 to 64."""
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()
