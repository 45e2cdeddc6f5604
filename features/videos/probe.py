"""What a media file says about itself, checked against limits before anything of it is decoded."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, BinaryIO, cast

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from features.errors import InvalidInput, Permanent

GIB = 1 << 30

CONTAINERS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,gif,webp,webp_pipe,ivf,nut,"
    "h264,hevc,m4v,av1,obu,mp3,wav,flac,aac"
)
"""FFmpeg's demuxers that may read a file: none that opens further files or addresses (playlists, image sequences, concat).

The audio ones are there so that a sound file is told apart from no media at all.
"""

MOST_FPS = 1000
SAMPLE_ASPECT_RANGE = (Fraction(1, 8), Fraction(8))
"""A sample aspect ratio outside of this is taken for damage and ignored."""


@dataclass(frozen=True)
class Limits:
    """What one video may cost. A video beyond a limit is a dead letter that names the limit, never a dead run.

    Attributes:
        max_pixels: width times height of the coded picture, in the header and of every decoded frame.
        max_duration_s: seconds, as the header says and as counted while decoding.
        max_streams: streams of all kinds in one file.
        max_bytes: size of the file.
        wall_s: seconds from the start of decoding until its process is killed.
        cpu_s: processor seconds of the decoding process, whole ones.
        memory_bytes: address space of the decoding process (about 0.5 GiB of it are libraries).
    """

    max_pixels: int = 4096 * 2304
    max_duration_s: float = 600.0
    max_streams: int = 16
    max_bytes: int = 2 * GIB
    wall_s: float = 60.0
    cpu_s: int = 60
    memory_bytes: int = 2 * GIB

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
                raise InvalidInput(f"limit {item.name}={value!r}: give a finite number above 0")


@dataclass(frozen=True)
class Probe:
    """A file's own claims, none of them proven by decoding.

    Attributes:
        container: FFmpeg's name of the container.
        video_codec: FFmpeg's name of the video decoder.
        width, height: coded pixels, before rotation and sample aspect ratio.
        sample_aspect_ratio: width of a pixel over its height.
        duration_s: seconds, 0 when the file does not say.
        fps: average frames a second, 0 when unknown.
        streams: number of streams of all kinds.
        video_index: index of the chosen video stream.
        audio_index: index of the chosen sound stream, None without one that has a decoder.

    Rotation lies with the frames in current FFmpeg: see `features.videos.frames.Pictures`.
    """

    container: str
    video_codec: str
    width: int
    height: int
    sample_aspect_ratio: Fraction
    duration_s: float
    fps: float
    streams: int
    video_index: int
    audio_index: int | None


class _Nameless:
    """A file without a name: FFmpeg then judges by content alone, and error texts carry no path."""

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read
        self.seek = file.seek
        self.tell = file.tell
        self.name = ""


@contextmanager
def open_container(file: BinaryIO) -> Iterator[InputContainer]:
    """Opens a media file from its first byte, wherever the file stands.

    Raises:
        Permanent: `empty` or `not_a_video`.
    """
    size = file.seek(0, os.SEEK_END)  # fstat asks for permissions anew, and some file systems refuse them to another user
    if size == 0:
        raise Permanent("the file is empty (0 bytes): upload it again", "empty")
    file.seek(0)
    try:
        container = av.open(
            _Nameless(file),
            mode="r",
            metadata_errors="ignore",
            options={"format_whitelist": CONTAINERS, "protocol_whitelist": "none"},
        )
    except MemoryError:
        raise
    except (av.FFmpegError, UnicodeDecodeError) as error:
        raise Permanent(
            f"no video that FFmpeg recognises within {size} bytes ({_short(error)}): it is damaged, or something else",
            "not_a_video",
        ) from error
    with container:
        yield container


def probe(container: InputContainer, limits: Limits) -> Probe:
    """Reads the header of an open container and checks it.

    Raises:
        Permanent: `too_many_streams`, `no_video`, `no_decoder`, `too_large` or `too_long`, with the limit and how to raise it.
    """
    count = len(container.streams)
    if count > limits.max_streams:
        message = f"{count} streams, the limit is {limits.max_streams}: raise max_streams to accept it"
        raise Permanent(message, "too_many_streams")
    stream = choose_video(container)
    if stream is None:
        kinds = ", ".join(sorted({item.type for item in container.streams})) or "nothing"
        raise Permanent(f"no video stream, only {kinds}: a video is needed", "no_video")
    if stream.codec_context is None:
        raise Permanent(f"FFmpeg has no decoder here for {_codec_of(container, stream.index)}: convert it to H.264", "no_decoder")
    width, height = stream.codec_context.width, stream.codec_context.height
    check_pixels(width, height, limits)
    duration = _duration_s(container, stream)
    check_duration(duration, limits)
    rate = stream.average_rate or stream.guessed_rate
    fps = plausible_rate(float(rate)) if rate else 0.0
    sound = container.streams.best("audio")
    return Probe(
        container=container.format.name,
        video_codec=stream.codec_context.name,
        width=width,
        height=height,
        sample_aspect_ratio=plausible_aspect(stream.sample_aspect_ratio),
        duration_s=duration,
        fps=fps,
        streams=count,
        video_index=stream.index,
        audio_index=sound.index if sound is not None and sound.codec_context is not None else None,
    )


def choose_video(container: InputContainer) -> VideoStream | None:
    """The stream a player would show: FFmpeg's choice, cover pictures of sound files left out."""
    moving = [item for item in container.streams.video if not item.disposition & type(item.disposition).attached_pic]
    best = container.streams.best("video")
    for item in moving:
        if best is not None and item.index == best.index:
            return item
    return moving[0] if moving else None


def check_pixels(width: int, height: int, limits: Limits) -> None:
    """Raises Permanent `too_large` for a picture above `max_pixels`."""
    if width * height > limits.max_pixels:
        message = f"{width} x {height} pixels are more than the limit of {limits.max_pixels}: raise max_pixels to accept it"
        raise Permanent(message, "too_large")


def check_duration(seconds: float, limits: Limits) -> None:
    """Raises Permanent `too_long` for a video above `max_duration_s`."""
    if seconds > limits.max_duration_s:
        raise Permanent(
            f"{seconds:.1f} s are longer than the limit of {limits.max_duration_s:g} s: raise max_duration_s to accept it",
            "too_long",
        )


def plausible_rate(fps: float) -> float:
    """Frames a second, 0 (unknown) for what no camera makes: damaged time stamps."""
    return fps if 0 < fps <= MOST_FPS else 0.0


def plausible_aspect(ratio: Fraction | None) -> Fraction:
    """A sample aspect ratio, 1 where it is missing or absurd."""
    if not ratio or not SAMPLE_ASPECT_RANGE[0] <= ratio <= SAMPLE_ASPECT_RANGE[1]:
        return Fraction(1)
    return Fraction(ratio)


def _codec_of(container: InputContainer, index: int) -> str:
    """What FFmpeg calls the codec of a stream, and what the file calls it; only FFmpeg's own description of a file tells."""
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        said = str(cast(Any, container).dumps_format())
    finally:
        av.logging.set_level(level)
    found = re.search(rf"^  Stream #0:{index}\b.*?: Video: (\w+)(?: \((.{{1,16}}) / 0x)?", said, re.MULTILINE)
    if found is None:
        return "its video stream"
    names = [name for name in dict.fromkeys(found.groups("none")) if name != "none"]
    return f"its codec {', '.join(names)}" if names else "its codec, which it does not know"


def _duration_s(container: InputContainer, stream: VideoStream) -> float:
    if container.duration and container.duration > 0:
        return container.duration / av.time_base
    if stream.duration and stream.duration > 0 and stream.time_base:
        return float(stream.duration * stream.time_base)
    return 0.0


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
