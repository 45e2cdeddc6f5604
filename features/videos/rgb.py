"""Decoded frames as RGB as a viewer sees them: matrix and range as the file says, transparency on white, HDR mapped to a screen."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from av.video.format import VideoFormat
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from features.videos.hdr import BT2020, in_bt709, is_hdr, is_wide, tone_mapped

Image = NDArray[np.uint8]

_BT709, _BT601, _BT2020 = 1, 5, 9
"""swscale's names of matrices."""
_MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
"""By matrix coefficients of H.273, swscale's name. BT.2020 of constant luminance (10) is shown as the other one."""
_LARGEST_SD = (1279, 576)
"""Width and height up to which a file that names no matrix has that of BT.601, and beyond, BT.709: mpv's rule."""
_WHITE = 255


def to_rgb(frame: VideoFrame, width: int, height: int, interpolation: str) -> Image:
    """A decoded frame scaled to RGB of shape (height, width, 3), on this thread alone."""
    if _may_be_transparent(frame.format.name):
        frame = _on_white(frame)
    if is_hdr(frame):
        return tone_mapped(_reformatted(frame, width, height, "rgb48le", interpolation), frame)
    image = _reformatted(frame, width, height, "rgb24", interpolation)
    return in_bt709(image, frame) if is_wide(frame) else image


def matrix_of(frame: VideoFrame) -> int:
    """swscale's name of the matrix of a frame's YUV: what the file says, else by primaries, else by size."""
    named = _MATRICES.get(int(frame.colorspace))
    if named is not None:
        return named
    if int(frame.color_primaries) == BT2020:
        return _BT2020
    return _BT601 if frame.width <= _LARGEST_SD[0] and frame.height <= _LARGEST_SD[1] else _BT709


def _on_white(frame: VideoFrame) -> VideoFrame:
    """A frame as it looks on a white page, at full size: what lies under transparency must not bleed into its surroundings."""
    rgba = _reformatted(frame, frame.width, frame.height, "rgba", "POINT")
    colour, alpha = rgba[..., :3], rgba[..., 3:]
    if alpha.min() < _WHITE:
        weight = alpha.astype(np.uint16)
        colour = ((colour * weight + _WHITE * (_WHITE - weight) + _WHITE // 2) // _WHITE).astype(np.uint8)
    opaque = VideoFrame.from_ndarray(np.ascontiguousarray(colour), "rgb24")
    opaque.color_trc, opaque.color_primaries = frame.color_trc, frame.color_primaries
    return opaque


def _reformatted(frame: VideoFrame, width: int, height: int, pixels: str, interpolation: str) -> NDArray[Any]:
    scaled = _reformatter(width, height, pixels).reformat(
        frame,
        width,
        height,
        pixels,
        src_colorspace=matrix_of(frame),
        interpolation=interpolation,
        src_color_range=int(frame.color_range),
        dst_color_range="JPEG",
        threads=1,
    )
    return np.asarray(scaled.to_ndarray())


@functools.lru_cache(maxsize=8)
def _reformatter(width: int, height: int, pixels: str) -> VideoReformatter:
    """One for each kind of picture: making it ready costs as much as using it."""
    return VideoReformatter()


@functools.lru_cache(maxsize=64)
def _may_be_transparent(pixels: str) -> bool:
    kind = VideoFormat(pixels)
    return kind.has_palette or any(component.is_alpha for component in kind.components)
