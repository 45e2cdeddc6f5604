"""The part of a picture that shows the video itself: without a letterbox, and without bars that hold a caption.

A bar is found in all pictures of a video together, since it stands still: rows from an edge inwards whose ends have the edge's own
colour, up to the row where the whole width changes. Text may stand in it, though not over its ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.videos.rgb import Image

PICTURES = 16
"""Pictures of a video that are looked at."""
TOLERANCE = 14.0
"""Difference of any channel, 0 to 255, that compression leaves within a bar."""
PLAIN = 0.96
"""Share of a row that has the bar's colour, in a row without text."""
BEGINNING = 3, 0.8
"""Rows at the edge, each of which has the bar's colour in this share of its width: no text stands so near to the edge."""
MOST_TEXT = 16 / 128
"""Height of the text in a bar, in heights of the picture."""
WHOLE_WIDTH = 0.8
"""Share of a row that changes where the video begins."""
SOME_WIDTH = 0.3
"""The same, next to a row without text."""
DARK = 28.0
"""A bar as dark as this is one even where the video beside it is dark as well."""
MOST = 0.4
"""Share of the picture that bars on one side may take."""

Floats = NDArray[np.float32]


class Window(NamedTuple):
    """Rows top to bottom and columns left to right of a picture, in its pixels, which may be cut."""

    top: float
    bottom: float
    left: float
    right: float


def window_of(images: Sequence[Image]) -> Window:
    """Where the pictures of one video show the video.

    Args:
        images: RGB, all of one shape, in time order; at least one.
    """
    chosen = [images[round(at)] for at in np.linspace(0, len(images) - 1, min(PICTURES, len(images)))]
    stack = np.stack(chosen).astype(np.int16)
    middle = np.partition(stack, len(stack) // 2, axis=0)[len(stack) // 2].astype(np.float32)
    moved = _difference(stack, middle)
    # The largest but one: a single flash, or one damaged picture, is no movement.
    change = np.partition(moved, len(moved) - 2, axis=0)[-2] if len(moved) > 2 else moved.max(axis=0)
    height, width = change.shape
    top, bottom = _bars(middle, change), height - _bars(middle[::-1], change[::-1])
    inner = slice(math.ceil(top), max(math.ceil(top) + 1, math.floor(bottom)))
    across, moving = middle[inner].transpose(1, 0, 2), change[inner].T
    return Window(top, bottom, _bars(across, moving), width - _bars(across[::-1], moving[::-1]))


def _difference(one: NDArray[Any], other: Floats) -> Floats:
    """The largest of any channel, which is the last axis of both."""
    apart = np.abs(one - other)
    return np.asarray(np.maximum(np.maximum(apart[..., 0], apart[..., 1]), apart[..., 2]), np.float32)


def _bars(middle: Floats, change: Floats) -> float:
    """How many rows from the top are bars, one after the other.

    Args:
        middle: the usual picture, shape (rows, columns, 3).
        change: by how much it changes over time, shape (rows, columns).
    """
    begin = 0.0
    while (end := _bar(middle, change, math.ceil(begin))) is not None:
        begin = end
    return begin


def _bar(middle: Floats, change: Floats, top: int) -> float | None:
    """Where the bar ends that begins at row `top`; None where there is none."""
    rows, most_text = len(middle), round(MOST_TEXT * len(middle))
    colour = np.median(middle[top], axis=0)
    other = np.maximum(_difference(middle, colour), change)
    share = (other <= TOLERANCE).mean(axis=1)
    ends = np.max(other[:, [0, 1, -2, -1]], axis=1) <= TOLERANCE
    if share[top] < PLAIN or (share[top : top + BEGINNING[0]] < BEGINNING[1]).any():
        return None
    plain = row = top
    while (share[row] >= PLAIN or ends[row]) and row - plain <= most_text:
        if share[row] >= PLAIN:
            plain = row
        row += 1
        if row >= MOST * rows:
            return None

    def changes(at: int) -> float:
        return float((other[min(at, rows - 1)] > 2 * TOLERANCE).mean())

    if row - plain <= most_text and min(changes(row + 2), changes(row + 3)) >= WHOLE_WIDTH:
        return _boundary(middle, colour, row)
    if colour.max() <= DARK or changes(plain + 2) >= SOME_WIDTH:
        return _boundary(middle, colour, plain + 1)
    return None


def _boundary(middle: Floats, colour: Floats, row: int) -> float:
    """Where within `row`, or the next one, a bar ends: a pixel on the boundary is a mixture of both sides."""
    share = 0.0
    at = row
    for at in (row, row + 1):
        beyond = middle[min(at + 1, len(middle) - 1)]
        way = colour - beyond
        length = float((way * way).sum())
        share = float(((middle[min(at, len(middle) - 1)] - beyond) * way).sum()) / length if length else 0.0
        if share < 0.9:
            break
    return at + min(1.0, max(0.0, share))
