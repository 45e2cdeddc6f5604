"""Animated WebP, which FFmpeg does not decode: libwebp does, by way of Pillow, with transparency on white and its own timing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO

import numpy as np
from av.video.frame import VideoFrame
from PIL import _webp

from features.errors import Permanent
from features.videos.frames import Pictures, see_all
from features.videos.probe import Limits, Probe, check_duration, check_pixels

SHORTEST_MS = 10
INSTEAD_MS = 100
"""Browsers show a picture that asks for 10 ms or less for 100 ms, since those were made when none could be shown so fast."""

_ANIMATION = 0x02
"""Flag in VP8X: https://developers.google.com/speed/webp/docs/riff_container."""


@dataclass(frozen=True)
class Animation:
    """What the header of an animated WebP says: pixels of its canvas, and how long each picture is shown, milliseconds."""

    width: int
    height: int
    durations_ms: tuple[int, ...]


def is_animated_webp(file: BinaryIO) -> bool:
    """Whether a file says that it is one; leaves it where it stands."""
    place = file.tell()
    file.seek(0)
    head = file.read(21)
    file.seek(place)
    return len(head) == 21 and head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20] & _ANIMATION)


def read_animation(file: BinaryIO, limits: Limits) -> Animation:
    """Reads the header of an animated WebP, and of each of its pictures; nothing is decoded.

    Raises:
        Permanent: `too_large`, `too_long`, or `no_frames` when there is none.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(24)
    canvas = file.read(6)
    width, height = (1 + int.from_bytes(canvas[at : at + 3], "little") for at in (0, 3))
    check_pixels(width, height, limits)
    durations: list[int] = []
    total = 0
    place = 12
    while place + 8 <= size:
        file.seek(place)
        head = file.read(8 + 16)
        if head[:4] == b"ANMF" and len(head) == 24:
            said = int.from_bytes(head[20:23], "little")
            durations.append(said if said > SHORTEST_MS else INSTEAD_MS)
            total += durations[-1]
            check_duration(total / 1000, limits)
        length = int.from_bytes(head[4:8], "little")
        place += 8 + length + length % 2
    if not durations:
        raise Permanent("an animated WebP without a picture: the file is damaged", "no_frames")
    return Animation(width, height, tuple(durations))


def decode_animation(file: BinaryIO, limits: Limits) -> tuple[Probe, Pictures]:
    """What an animated WebP claims, and what is seen of it.

    Raises:
        Permanent: `no_frames`, `too_large` or `too_long`.
        MemoryError: the process's limit is reached.
    """
    animation = read_animation(file, limits)
    duration = sum(animation.durations_ms) / 1000
    clip = Probe(
        container="webp",
        video_codec="webp",
        width=animation.width,
        height=animation.height,
        sample_aspect_ratio=Fraction(1),
        duration_s=duration,
        fps=len(animation.durations_ms) / duration,
        streams=1,
        video_index=0,
        audio_index=None,
    )
    warnings: list[str] = []
    return clip, see_all(_frames(file, animation, warnings), clip, limits, warnings)


def _frames(file: BinaryIO, animation: Animation, warnings: list[str]) -> Iterator[tuple[VideoFrame, bool]]:
    """Pillow's own reader of files takes pictures for opaque that leave parts of the canvas empty; below it, they are not."""
    file.seek(0)
    try:
        decoder = _webp.WebPAnimDecoder(file.read())
    except OSError:
        warnings.append("libwebp cannot read it")
        return
    elapsed = 0
    for at, duration in enumerate(animation.durations_ms):
        try:
            data, _ = decoder.get_next()
        except OSError:
            warnings.append(f"{len(animation.durations_ms) - at} of {len(animation.durations_ms)} pictures did not decode")
            return
        picture = np.frombuffer(data, np.uint8).reshape(animation.height, animation.width, 4)
        frame = VideoFrame.from_ndarray(picture, "rgba")
        frame.pts, frame.duration, frame.time_base = elapsed, duration, Fraction(1, 1000)
        yield frame, False
        elapsed += duration
