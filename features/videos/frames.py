"""Stills and thumbnails of one video, spread over whatever of it decodes.

`decode_pictures` reads every frame in order and so needs no duration and no honest header. The faster way, which reads only what
leads to a still, is `features.videos.keyframes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any, cast

import cv2
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from features.errors import Permanent
from features.videos.choice import Candidates, Looks, Shot, choose
from features.videos.packets import each_picture
from features.videos.probe import Limits, Probe, check_duration, check_pixels, plausible_aspect
from features.videos.rgb import Image, to_rgb
from features.videos.shots import Cuts
from features.videos.spread import Spread, step_of

STILLS = 8
LONGEST_SIDE = 512
JPEG_QUALITY = 85

THUMBNAIL_WIDTH = 64
THUMBNAIL_HEIGHT = 36
THUMBNAIL_STEP_S = 0.2
MAX_THUMBNAILS = 3000

SAMPLE_SIDE = 128
MAX_SAMPLES = 1200
"""Pictures for fingerprints: those of the thumbnails, or as many as this spread over a video that is longer. Of a copy that begins
elsewhere the pictures lie between those of the original: the denser they are, the less has moved."""

CANDIDATES = 64
CANDIDATE_BYTES = 256 << 20
"""Decoded frames held back while it is not known how long the video is: at most so many, and about so many bytes."""

SHORT_S = 2.0
"""Of a video that is shorter, every picture is decoded: eight that differ are few enough."""

JUMP_S = 10.0
JUMP_OF_UNKNOWN_S = 60.0
"""A step in time longer than this is damage, not a long still picture: beyond the header's duration, or without one."""


@dataclass
class Clock:
    """Turns whatever timestamps a file carries into seconds from its first frame that never go back.

    Args:
        fps: frames a second, used where a timestamp is missing, repeats, goes back, or leaps.
        duration_s: the header's, 0 when unknown.
    """

    fps: float
    duration_s: float
    repaired: int = 0
    _offset: float | None = field(default=None, init=False)
    _now: float = field(default=0.0, init=False)

    def tick(self, stamp_s: float | None) -> float:
        """The time of the next frame."""
        if self._offset is None:
            self._offset = stamp_s or 0.0
            return self._now
        frame_s = 1 / (self.fps or 25.0)
        time = None if stamp_s is None else stamp_s - self._offset
        leap = max(JUMP_S, self.duration_s - self._now) if self.duration_s else JUMP_OF_UNKNOWN_S
        if time is None or time <= self._now or time - self._now > leap + frame_s:
            self.repaired += 1
            self._offset = self._offset if stamp_s is None else stamp_s - (self._now + frame_s)
            time = self._now + frame_s
        self._now = time
        return time


@dataclass(frozen=True)
class Still:
    """One upright picture: seconds from the first frame, and RGB of shape (height, width, 3)."""

    timestamp_s: float
    image: Image


@dataclass(frozen=True)
class Pictures:
    """What was seen of a video.

    Attributes:
        stills: up to eight, in time order, the longest side at most 512.
        thumbnails: upright RGB, shape (n, 36, 64, 3), squeezed to that shape; for statistics only.
        thumbnail_times: seconds, shape (n,).
        width, height: as displayed: after rotation and sample aspect ratio.
        rotation: degrees clockwise the picture was turned to stand upright: 0, 90, 180, 270.
        samples: upright RGB of 128 x 128, squeezed to that, about five a second; for fingerprints.
        decoded: number of frames, as far as they were decoded or listed.
        duration_s: seconds from the first frame to the end of the last.
        warnings: what was wrong and survivable.
        shot_starts_s: when each shot begins, seconds, the first one at 0; empty where too little was decoded to know.
        pairs: thumbnails `THUMBNAIL_STEP_S` apart, where the other ones are further apart than that; None: they are not.
    """

    stills: tuple[Still, ...]
    thumbnails: Image
    thumbnail_times: NDArray[np.float64]
    width: int
    height: int
    rotation: int
    samples: tuple[Still, ...]
    decoded: int
    duration_s: float
    warnings: tuple[str, ...]
    shot_starts_s: tuple[float, ...] = ()
    pairs: tuple[tuple[Image, Image], ...] | None = None


@dataclass(frozen=True)
class Orientation:
    """How to turn a coded picture upright: first swap its axes, then mirror."""

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def of(cls, frame: VideoFrame) -> Orientation:
        """From FFmpeg's display matrix, mirrored ones included (libavutil/display.h: x' = ax + cy, y' = bx + dy)."""
        data = cast(Any, frame).side_data.get("DISPLAYMATRIX")
        matrix = np.frombuffer(bytes(data or b""), np.int32)
        if matrix.size != 9:
            return cls()
        a, b, c, d = (int(matrix[at]) for at in (0, 1, 3, 4))
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(False, a < 0, d < 0)
        return cls(True, c < 0, b < 0)

    @property
    def rotation(self) -> int:
        """Degrees clockwise, mirroring left out."""
        if self.transpose:
            return 270 if self.flip_y else 90
        return 180 if self.flip_y else 0

    def upright(self, image: Image) -> Image:
        """The picture as displayed."""
        if self.transpose:
            image = image.transpose(1, 0, 2)
        if self.flip_x:
            image = image[:, ::-1]
        if self.flip_y:
            image = image[::-1]
        return np.ascontiguousarray(image)


def decode_pictures(container: InputContainer, clip: Probe, limits: Limits) -> Pictures:
    """Decodes a video from its first to its last frame, but for those that only a look at them would need: see `is_looked_at`.

    Raises:
        Permanent: `no_frames`, or `too_large` or `too_long` when it shows only while decoding.
        MemoryError: the process's limit is reached.
    """
    warnings: list[str] = []
    looked_at = partial(is_looked_at, fps=clip.fps) if clip.fps and clip.duration_s >= SHORT_S else None
    frames = each_picture(container, clip.video_index, warnings, looked_at)
    return see_all(frames, clip, limits, warnings)


def is_looked_at(time_s: float, shown_s: float, fps: float) -> bool:
    """Whether `see_all` makes a thumbnail of a frame, since it is the first in its step.

    Args:
        time_s: since the first frame.
        shown_s: for how long, as the file says.
        fps: frames a second.
    """
    return step_of(time_s - max(shown_s, 1 / fps), THUMBNAIL_STEP_S) < step_of(time_s, THUMBNAIL_STEP_S)


def see_all(frames: Iterable[tuple[VideoFrame, bool]], clip: Probe, limits: Limits, warnings: list[str]) -> Pictures:
    """Sees a video from its first to its last frame.

    Args:
        frames: in time order, each with whether damage may show in it that it does not report.
        clip: what the file claims.
        limits: what one video may cost.
        warnings: what went wrong while `frames` were decoded; gets more.

    Raises:
        Permanent: `no_frames`, `too_large` or `too_long`.
        MemoryError: the process's limit is reached.
    """
    clock = Clock(clip.fps, clip.duration_s)
    whole_frames: Candidates[VideoFrame] = Candidates(CANDIDATES)
    damaged_frames: Candidates[VideoFrame] = Candidates(STILLS)
    thumbnails: Spread[Image] = Spread(MAX_THUMBNAILS, THUMBNAIL_STEP_S)
    samples: Spread[Image] = Spread(MAX_SAMPLES, THUMBNAIL_STEP_S)
    cuts = Cuts()
    decoded = damaged = 0
    time = 0.0
    last: VideoFrame | None = None
    for frame, doubtful in frames:
        check_pixels(frame.width, frame.height, limits)
        time = clock.tick(frame.time)
        check_duration(time, limits)
        if last is None:
            whole_frames = Candidates(most_held(frame, clip))
        decoded += 1
        last = frame
        if frame.is_corrupt:
            damaged += 1
            damaged_frames.add(time, frame)
            continue
        if thumbnails.wants(time) or samples.wants(time):
            sample = sample_of(frame)
            samples.add(time, sample)
            if thumbnails.wants(time):
                thumbnail = thumbnail_of(sample)
                thumbnails.add(time, thumbnail)
                cut = cuts.see(time, thumbnail)
                if cut is not None:
                    whole_frames.cut(cut)
        whole_frames.add(time, frame, doubtful)
    if last is None:
        said = "; ".join(warnings) or "its packets hold none"
        raise Permanent(f"no frame of its {clip.video_codec} video decodes ({said}): the file is damaged", "no_frames")
    if damaged:
        warnings.append(f"{damaged} of {decoded} decoded frames are damaged" + (" and were left out" if damaged < decoded else ""))
    if clock.repaired:
        warnings.append(f"{clock.repaired} timestamps were missing, out of order or far off, and were counted instead")
    end = time + _shown_s(last, time, clip)
    warnings += ends_early(end, clip)
    shots: Sequence[Shot[VideoFrame]] = (whole_frames if decoded > damaged else damaged_frames).shots
    if decoded == damaged:
        for entry in shots[0].held:
            thumbnails.add(entry.time_s, thumbnail_of(sample_of(entry.item)))
    chosen = choose(shots, Looks(thumbnails.all()), STILLS, end)
    starts = tuple(shot.start_s for shot in shots)
    return pictures_of(chosen, clip, thumbnails.all(), samples.all(), decoded, end, warnings, starts)


def most_held(first: VideoFrame, clip: Probe) -> int:
    """How many frames of a video are held back at most, by the size of the first one: see `CANDIDATE_BYTES`."""
    pixels = max(1, first.width * first.height, clip.width * clip.height)
    size = pixels * max(16, first.format.padded_bits_per_pixel) // 8
    return max(2 * STILLS, min(CANDIDATES, CANDIDATE_BYTES // size))


def _shown_s(last: VideoFrame, time_s: float, clip: Probe) -> float:
    """How long the last frame is shown, seconds, as far as what the file says of it is plausible."""
    said = float(last.duration * last.time_base) if last.duration and last.time_base else 0.0
    return said if 0 < said <= max(JUMP_S, clip.duration_s - time_s) else 1 / (clip.fps or 25.0)


def ends_early(end_s: float, clip: Probe) -> list[str]:
    """A warning where a video is much shorter than its header says."""
    if clip.duration_s and end_s < 0.8 * clip.duration_s - 1:
        return [f"the video ends after {end_s:.1f} s of {clip.duration_s:.1f} s"]
    return []


def pictures_of(
    chosen: Sequence[tuple[float, VideoFrame]],
    clip: Probe,
    thumbnails: Sequence[tuple[float, Image]],
    samples: Sequence[tuple[float, Image]],
    decoded: int,
    duration_s: float,
    warnings: Sequence[str],
    shot_starts_s: tuple[float, ...] = (),
    pairs: tuple[tuple[Image, Image], ...] | None = None,
) -> Pictures:
    """Puts together what was seen; the first still says how the video is displayed."""
    first = chosen[0][1]
    orientation = Orientation.of(first)
    width, height = _displayed(first.width, first.height, _aspect(first, clip))
    return Pictures(
        stills=tuple(Still(at, _still(frame, clip)) for at, frame in chosen),
        thumbnails=np.stack([image for _, image in thumbnails]),
        thumbnail_times=np.array([at for at, _ in thumbnails]),
        width=height if orientation.transpose else width,
        height=width if orientation.transpose else height,
        rotation=orientation.rotation,
        samples=tuple(Still(at, image) for at, image in samples),
        decoded=decoded,
        duration_s=duration_s,
        warnings=tuple(warnings),
        shot_starts_s=shot_starts_s,
        pairs=pairs,
    )


def _aspect(frame: VideoFrame, clip: Probe) -> Fraction:
    return clip.sample_aspect_ratio if (frame.width, frame.height) == (clip.width, clip.height) else plausible_aspect(None)


def _displayed(width: int, height: int, aspect: Fraction) -> tuple[int, int]:
    """Pixels as displayed before turning: FFmpeg's convention keeps the height and stretches the width."""
    return max(1, round(width * aspect)), height


def _still(frame: VideoFrame, clip: Probe) -> Image:
    width, height = _displayed(frame.width, frame.height, _aspect(frame, clip))
    scale = min(1.0, LONGEST_SIDE / max(width, height))
    target = max(1, round(width * scale)), max(1, round(height * scale))
    return Orientation.of(frame).upright(to_rgb(frame, *target, "BICUBIC"))


def thumbnail_of(sample: Image) -> Image:
    """RGB of shape (36, 64, 3): a sample, squeezed further."""
    return np.asarray(cv2.resize(sample, (THUMBNAIL_WIDTH, THUMBNAIL_HEIGHT), interpolation=cv2.INTER_AREA), np.uint8)


def sample_of(frame: VideoFrame) -> Image:
    """RGB of shape (128, 128, 3), squeezed to that shape and upright."""
    return Orientation.of(frame).upright(to_rgb(frame, SAMPLE_SIDE, SAMPLE_SIDE, "AREA"))


def encode_jpeg(image: Image, quality: int = JPEG_QUALITY) -> bytes:
    """An RGB picture of shape (height, width, 3) as JPEG. Raises ValueError when it cannot be encoded."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"a picture of shape {image.shape} cannot be encoded as JPEG")
    return bytes(data.tobytes())
