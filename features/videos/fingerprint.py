"""Perceptual fingerprints of a video's pictures, by which near-duplicates are found.

A fingerprint is two hashes of 128 bits, of the largest square in the middle of the picture and of 95 % of it, and the colours of
that square. Bars are left out first. So a copy has the same hashes whatever its size, its compression, its bars, and how much was
cut off on both sides to fit another screen; and where 5 % was cropped all round, one's first hash is the other's second. Hashes see
no colour: the same person in another shirt has practically the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from features.videos.borders import Window, window_of
from features.videos.rgb import Image

BITS = 128
"""Of one hash."""
SCALES = (1.0, 0.95)
"""Sides of the squares."""
CELLS = 3
"""Rows and columns of cells that the large square's colours are kept of."""
HASH_BYTES = len(SCALES) * BITS // 8
BYTES = HASH_BYTES + 2 * CELLS * CELLS
"""Of a fingerprint: its hashes, then the red and the blue difference (Cr, Cb, of ITU-R BT.601) of each cell, 128 for grey."""
BLANK = 2.0
"""Standard deviation of grey, 0 to 127, below which a picture shows nothing."""

Floats = NDArray[np.float64]


def _low_frequencies() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The `BITS` lowest frequencies of a picture, down and across, lowest sum first, the mean brightness left out."""
    places = [(down, total - down) for total in range(1, BITS) for down in range(total + 1)][:BITS]
    down, across = zip(*places, strict=True)
    return np.array(down), np.array(across)


_DOWN, _ACROSS = _low_frequencies()
_HIGHEST = int(max(_DOWN.max(), _ACROSS.max()))


@lru_cache(maxsize=64)
def _cosines(begin: float, end: float, pixels: int) -> Floats:
    """The cosines of a discrete cosine transform over [begin, end] of a row, averaged over each pixel's part of it.

    Shape (frequencies, pixels). With boundaries within pixels nothing has to be scaled before it is transformed.
    """
    length = end - begin
    edges = np.clip(np.arange(pixels + 1), begin, end) - begin
    waves = np.pi * np.arange(1, _HIGHEST + 1)[:, None]
    sines = np.sin(waves * edges / length) / waves
    return np.vstack([np.diff(edges)[None] / length, np.diff(sines, axis=1)])


def squares(window: Window, shape: tuple[int, ...], aspect: float) -> list[Window]:
    """The largest square of the video in the middle of `window`, and smaller ones, as `SCALES` says.

    Args:
        window: where the picture shows the video, in pixels.
        shape: of the picture in pixels, height first.
        aspect: of the whole picture as displayed, width by height.
    """
    tall, wide = 1 / shape[0], aspect / shape[1]  # of a pixel, in heights of the picture
    side = min((window.bottom - window.top) * tall, (window.right - window.left) * wide)
    y, x = (window.top + window.bottom) / 2, (window.left + window.right) / 2
    halves = [(scale * side / tall / 2, scale * side / wide / 2) for scale in SCALES]
    return [Window(y - down, y + down, x - across, x + across) for down, across in halves]


@lru_cache(maxsize=64)
def _cells(begin: float, end: float, pixels: int) -> Floats:
    """Averages over equal parts of [begin, end] of a row, shape (CELLS, pixels)."""
    edges = np.linspace(begin, end, CELLS + 1)[:, None]
    place = np.arange(pixels)
    shares = np.clip(np.minimum(place + 1, edges[1:]) - np.maximum(place, edges[:-1]), 0, 1)
    return np.asarray(shares / np.maximum(shares.sum(axis=1, keepdims=True), 1e-9))


def fingerprint(image: Image, window: Window | None = None, aspect: float = 0.0) -> bytes:
    """The fingerprint of one RGB picture, `BYTES` bytes.

    Each bit is the sign of a coefficient of the discrete cosine transform of grey, lowest frequencies first (as in Zauner 2010, but
    for the sign, which needs no median). Copies lie within a few bits of each other, different pictures around 60. A picture of
    one colour hashes to rounding noise: no two of those are told apart.

    Args:
        image: upright.
        window: where it shows the video; None: everywhere.
        aspect: width by height as displayed; 0: its pixels are square.
    """
    height, width = image.shape[:2]
    return _fingerprint(_planes(image), squares(window or Window(0, height, 0, width), image.shape, aspect or width / height))


def fingerprints(samples: Sequence[tuple[float, Image]], aspect: float = 0.0) -> list[tuple[float, bytes]]:
    """The time and fingerprint of each sample of a video that shows something; samples of one colour are left out.

    Args:
        samples: seconds, and upright RGB, all of one shape.
        aspect: of the video as displayed, width by height; 0: the samples' pixels are square.
    """
    planes = [(time, _planes(image)) for time, image in samples]
    seen = [image for (_, image), (_, plane) in zip(samples, planes, strict=True) if plane[..., 0].std() >= BLANK]
    if not seen:
        return []
    shape = seen[0].shape
    places = squares(window_of(seen), shape, aspect or shape[1] / shape[0])
    return [(time, _fingerprint(plane, places)) for time, plane in planes if _within(plane[..., 0], places[0]).std() >= BLANK]


def distance(one: bytes, other: bytes) -> int:
    """Number of bits in which the hashes of two fingerprints differ, 0 to 128: of their squares that are most alike."""
    half = HASH_BYTES // 2
    hashes = [[int.from_bytes(each[at : at + half], "big") for at in (0, half)] for each in (one, other)]
    return min((hashes[0][p] ^ hashes[1][q]).bit_count() for p, q in ((0, 0), (0, 1), (1, 0)))


def _planes(image: Image) -> Image:
    """Grey, red difference and blue difference, shape (height, width, 3)."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb), np.uint8)


def _within(grey: Image, window: Window) -> Image:
    """The pixels that touch a window."""
    rows, columns = grey.shape
    top, left = min(int(window.top), rows - 1), min(int(window.left), columns - 1)
    return grey[max(0, top) : max(1, round(window.bottom)), max(0, left) : max(1, round(window.right))]


def _fingerprint(planes: Image, places: Sequence[Window]) -> bytes:
    rows, columns = planes.shape[:2]
    grey, *differences = planes.transpose(2, 0, 1).astype(np.float64)
    bits = []
    for place in places:
        waves = _cosines(place.top, place.bottom, rows) @ grey @ _cosines(place.left, place.right, columns).T
        bits.append(waves[_DOWN, _ACROSS] > 0)
    down, across = (_cells(*ends, pixels) for ends, pixels in ((places[0][:2], rows), (places[0][2:], columns)))
    colours = np.concatenate([(down @ each @ across.T).ravel() for each in differences])
    return np.packbits(np.concatenate(bits)).tobytes() + colours.round().astype(np.uint8).tobytes()
