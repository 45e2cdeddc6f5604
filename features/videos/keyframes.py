"""Stills without reading everything: all packets are listed, and only those are decoded that lead to a picture that is wanted.

A keyframe costs one picture; any other costs all pictures since its keyframe. So a keyframe stands for its neighbourhood: where
one lies near the middle of a part of the video, that is the part's picture. Of these the stills are chosen as if the video were one
shot, since it is not known where shots begin. Packets are passed over in their order and never
sought: after a seek some files give another picture than the one that was asked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from features.videos.choice import Candidate, Looks, Shot, choose, is_blank
from features.videos.frames import JUMP_S, STILLS, THUMBNAIL_STEP_S, Pictures, ends_early, pictures_of, sample_of, thumbnail_of
from features.videos.packets import Decode, Sparing, each_packet, has_alpha_beside, one_thread
from features.videos.probe import Limits, Probe, check_duration, check_pixels
from features.videos.rgb import Image

NEAR = 0.5
"""A keyframe stands for a part when it lies within so many parts of the part's middle: anywhere in it."""
WORTH_IT = 0.6
"""Where more than this share of all pictures would be decoded, reading all of them says more and costs hardly more."""
MAX_PACKETS = 500_000
ALTERING: tuple[Literal["new_extradata", "param_change", "palette"], ...] = ("new_extradata", "param_change", "palette")
"""What a packet may carry that changes how all later ones are decoded: none of those may be passed over."""
LOOKED_AT = 12
CHEAP = 0.15
"""So many pictures are looked at, to choose stills that show something, and not the same as another, where at most such a share of
all pictures has to be decoded for that; else only as many as there are stills."""
BLANK_PATIENCE_S = 1.0
"""How long a picture that shows something is waited for: a fade out of black."""


@dataclass(frozen=True)
class Timeline:
    """A video's packets in the order in which they are decoded.

    Attributes:
        times: when each is shown, seconds from the first shown one, shape (n,).
        keys: which of them are keyframes, shape (n,), the first one always.
        first_s: what the file itself calls the first one's time.
        end_s: seconds from the first to the end of the last.
        period_s: seconds from one to the next, on average.
    """

    times: NDArray[np.float64]
    keys: NDArray[np.bool_]
    first_s: float
    end_s: float
    period_s: float


def timeline(container: InputContainer, index: int) -> Timeline | None:
    """Lists the packets of a stream, which leaves the container at its end; None where they do not say enough to rely on."""
    if has_alpha_beside(container.streams[index]):
        return None
    times: list[float] = []
    keys: list[bool] = []
    shown: list[bool] = []
    try:
        for packet in each_packet(container, index):
            if packet.pts is None or packet.time_base is None or packet.is_corrupt or len(times) == MAX_PACKETS:
                return None
            if times and any(packet.has_sidedata(kind) for kind in ALTERING):
                return None
            times.append(float(packet.pts * packet.time_base))
            keys.append(packet.is_keyframe)
            shown.append(not packet.is_discard)
    except MemoryError:
        raise
    except av.FFmpegError:
        return None
    if len(times) < 2 or not keys[0] or not any(shown):
        return None
    stamps, visible = np.array(times), np.array(shown)
    first = float(stamps[visible].min())
    stamps -= first
    steps = np.diff(np.sort(stamps[visible]))
    at_keys = stamps[np.array(keys)]
    if not len(steps) or (steps <= 0).any() or steps.max() > JUMP_S or (np.diff(at_keys) <= 0).any():
        return None
    period = float(steps.mean())
    return Timeline(stamps, np.array(keys), first, float(stamps[visible].max()) + period, period)


def plan(line: Timeline, number: int = STILLS, near: float = NEAR) -> dict[int, list[float]]:
    """Which pictures are wanted: by position of a keyframe, the times after it, in order.

    Args:
        line: the packets.
        number: pictures, one for each of as many equal parts of the video.
        near: how far from a part's middle a keyframe may lie to stand for it, in parts; 0: the middles themselves.
    """
    starts = np.flatnonzero(line.keys)
    at_keys = line.times[starts]
    part = line.end_s / number
    wanted: dict[int, list[float]] = {}
    taken: set[int] = set()
    for at in range(number):
        middle = (at + 0.5) * part
        before = max(0, int(np.searchsorted(at_keys, middle, side="right")) - 1)
        nearest = min(range(before, min(before + 2, len(starts))), key=lambda key: abs(at_keys[key] - middle))
        if nearest not in taken and abs(at_keys[nearest] - middle) <= near * part:
            taken.add(nearest)
            before, middle = nearest, float(at_keys[nearest])
        wanted.setdefault(int(starts[before]), []).append(middle)
    return {start: sorted(times) for start, times in sorted(wanted.items())}


def cost(line: Timeline, wanted: Mapping[int, list[float]]) -> float:
    """The share of all pictures that a plan decodes, 0 to 1."""
    starts = [*np.flatnonzero(line.keys).tolist(), len(line.times)]
    ends = dict(itertools.pairwise(starts))
    decoded = sum(int((line.times[start : ends[start]] <= times[-1] + line.period_s).sum()) for start, times in wanted.items())
    return decoded / len(line.times)


@dataclass(eq=False)
class _Picture:
    """A decoded picture, scaled at most once."""

    time_s: float
    frame: VideoFrame

    @cached_property
    def sample(self) -> Image:
        return sample_of(self.frame)


@dataclass
class _Run:
    """The pictures from one keyframe on: those that are wanted, and the one `THUMBNAIL_STEP_S` after the first of them."""

    from_s: float
    times: list[float]
    half_s: float
    taken: list[_Picture] = field(default_factory=list)
    follower: _Picture | None = None
    _spare: _Picture | None = None
    _last: _Picture | None = None
    no_keyframe: bool = False

    @property
    def done(self) -> bool:
        return not self.times and self.follower is not None

    def see(self, time: float, frame: VideoFrame) -> None:
        """The next picture. Those before the keyframe lean on pictures that were not decoded."""
        if time < self.from_s - self.half_s:
            return
        if self._last is None and not frame.key_frame:
            self.no_keyframe = True
        self._last = picture = _Picture(time, frame)
        if self._wants_a_follower(time):
            self.follower = picture
        if self.times and time >= self.times[0] - self.half_s:
            if is_blank(picture.sample) and time < self.times[0] + BLANK_PATIENCE_S:
                self._spare = self._spare or picture
                return
            self._take(picture)

    def looks_at(self, time: float, shown_s: float) -> bool:
        """Whether `see` may do anything with a picture that is shown from this time on for so long."""
        if self.times and time + shown_s >= self.times[0] - self.half_s:
            return True
        return self._wants_a_follower(time)

    def _wants_a_follower(self, time: float) -> bool:
        return bool(self.taken) and self.follower is None and time - self.taken[0].time_s >= THUMBNAIL_STEP_S - 1e-6

    def end(self) -> None:
        """No more pictures come: a blank one, or the one that is still shown at the wanted time, is better than none."""
        left = self._spare or self._last
        if self.times and left is not None and left not in self.taken:
            self._take(left)

    def _take(self, picture: _Picture) -> None:
        self.taken.append(picture)
        self.times = [wanted for wanted in self.times if wanted > picture.time_s + self.half_s]
        self._spare = None


def decode_keyframes(container: InputContainer, clip: Probe, limits: Limits, line: Timeline) -> Pictures | None:
    """The stills of a plan, out of a container that stands at its beginning.

    Returns:
        None where reading everything is the better way: it costs hardly more, what was wanted did not decode, or what is called
        a keyframe is none.

    Raises:
        Permanent: `too_large` or `too_long`.
        MemoryError: the process's limit is reached.
    """
    check_duration(line.end_s, limits)
    wanted, more = plan(line), plan(line, LOOKED_AT)
    if cost(line, wanted) > WORTH_IT:
        return None
    if cost(line, more) <= CHEAP:
        wanted = more
    try:
        runs = list(_runs(container, clip, limits, line, wanted))
    except MemoryError:
        raise
    except av.FFmpegError:
        return None
    taken = [each for run in runs for each in run.taken]
    pairs = tuple(
        (thumbnail_of(run.taken[0].sample), thumbnail_of(run.follower.sample)) for run in runs if run.follower is not None
    )
    if not taken or not pairs or any(run.no_keyframe for run in runs):
        return None
    samples = [(picture.time_s, picture.sample) for picture in taken]
    thumbnails = [(time, thumbnail_of(sample)) for time, sample in samples]
    shot = Shot(0.0, [Candidate(picture.time_s, picture.frame) for picture in taken])
    chosen = choose([shot], Looks(thumbnails), STILLS, line.end_s)
    if len(chosen) < STILLS // 2:
        return None
    warnings = ends_early(line.end_s, clip)
    return pictures_of(chosen, clip, thumbnails, samples, len(line.times), line.end_s, warnings, pairs=pairs)


def _runs(
    container: InputContainer, clip: Probe, limits: Limits, line: Timeline, wanted: Mapping[int, list[float]]
) -> Iterator[_Run]:
    """Raises FFmpegError where a packet does not decode."""
    stream = one_thread(container, clip.video_index)
    run: _Run | None = None
    decode: Decode = Packet.decode
    if Sparing.suits(stream):
        decode = Sparing(stream, lambda time, shown_s: run is None or run.looks_at(time, shown_s), line.first_s).decode
    for at, packet in enumerate(each_packet(container, clip.video_index)):
        if at < len(line.keys) and line.keys[at]:
            if run is not None:
                yield _ended(stream, run, line, limits)
            run = None
            if at in wanted:
                run = _Run(float(line.times[at]), list(wanted[at]), line.period_s / 2)
        if run is not None:
            _show(run, decode(packet), line, limits)
            if run.done:
                stream.codec_context.flush_buffers()
                yield run
                run = None
    if run is not None:
        yield _ended(stream, run, line, limits)


def _ended(stream: VideoStream, run: _Run, line: Timeline, limits: Limits) -> _Run:
    """What the decoder holds back is wanted too; it comes without the unit of its time."""
    held = stream.codec_context.decode(None)
    for frame in held:
        frame.time_base = stream.time_base
    _show(run, held, line, limits)
    stream.codec_context.flush_buffers()
    run.end()
    return run


def _show(run: _Run, frames: list[VideoFrame], line: Timeline, limits: Limits) -> None:
    for frame in frames:
        check_pixels(frame.width, frame.height, limits)
        if frame.time is not None and not frame.is_corrupt and not run.done:
            run.see(frame.time - line.first_s, frame)
