"""Copies of a video as people make them: smaller, re-encoded, cropped, cut, with a caption bar or a letterbox."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np
from av.video.frame import VideoFrame

from features.videos.frames import Orientation
from features.videos.packets import each_frame
from features.videos.probe import open_container
from features.videos.rgb import Image, to_rgb

BAR = 0.15
"""Height of a caption bar, in heights of the picture."""
LETTERBOX = 0.14
"""Height of each black bar, in heights of the picture."""
CAPTION = "when nobody is looking"
LONGEST_SIDE = 640
"""Pixels of what the copies are made from, at most: encoding takes the time."""


@dataclass(frozen=True)
class Change:
    """How a copy differs.

    Attributes:
        name: for figures.
        picture: of one frame, RGB.
        start, end: which part of the video stays, 0 to 1.
        codec: of the copy.
        quality: x264's constant rate factor, or bits a pixel of other codecs.
    """

    name: str
    picture: Callable[[Image], Image] = lambda image: image
    start: float = 0.0
    end: float = 1.0
    codec: str = "libx264"
    quality: float = 24


def smaller(image: Image) -> Image:
    """Half the width and half the height."""
    return _image(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))


def cropped(image: Image) -> Image:
    """5 % less wide and 5 % less high, the middle kept."""
    height, width = image.shape[:2]
    top, left = round(0.025 * height), round(0.025 * width)
    return image[top : height - top, left : width - left]


def captioned_above(image: Image) -> Image:
    """A white bar with a line of text above the picture."""
    return _image(np.vstack([_bar(image, (255, 255, 255), (0, 0, 0)), image]))


def captioned_below(image: Image) -> Image:
    """A black bar with a line of text below the picture."""
    return _image(np.vstack([image, _bar(image, (0, 0, 0), (255, 255, 255))]))


def letterboxed(image: Image) -> Image:
    """Black bars above and below."""
    rows = round(LETTERBOX * image.shape[0])
    return _image(cv2.copyMakeBorder(image, rows, rows, 0, 0, cv2.BORDER_CONSTANT))


def everything(image: Image) -> Image:
    """Cropped, with a caption bar, and smaller."""
    return smaller(captioned_above(cropped(image)))


CHANGES = (
    Change("half the size", smaller),
    Change("another codec, low quality", codec="mpeg4", quality=0.04),
    Change("cropped by 5 %", cropped),
    Change("end cut by 20 %", end=0.8),
    Change("start cut by 20 %", start=0.2),
    Change("caption bar above", captioned_above),
    Change("caption bar below", captioned_below),
    Change("letterbox", letterboxed),
    Change("cropped, captioned, smaller, start cut, low quality", everything, start=0.13, quality=34),
)


def _bar(image: Image, paper: tuple[int, int, int], ink: tuple[int, int, int]) -> Image:
    height, width = image.shape[:2]
    rows = max(8, round(BAR * height))
    bar = np.full((rows, width, 3), paper, np.uint8)
    (across, _), _ = cv2.getTextSize(CAPTION, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 1)
    scale = min(0.9 * width / across, 0.45 * rows / 22)
    thick = max(1, round(2 * scale))
    (across, up), _ = cv2.getTextSize(CAPTION, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    place = (width - across) // 2, (rows + up) // 2
    return _image(cv2.putText(bar, CAPTION, place, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, thick, cv2.LINE_AA))


def _image(array: object) -> Image:
    return np.asarray(array, np.uint8)


def write_copies(source: pathlib.Path, folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """Writes one copy for each of `CHANGES`, decoding the source once; by name of the change."""
    with source.open("rb") as file, open_container(file) as container:
        rate = Fraction(container.streams.video[0].average_rate or 25).limit_denominator(1000)
    length = max(time for time, _ in _frames(source)) + float(1 / rate)
    writers = {change.name: _Writer(folder / f"{number}.mp4", change, rate) for number, change in enumerate(CHANGES)}
    for time, frame in _frames(source):
        image = _picture(frame)
        for change in CHANGES:
            if change.start * length - 1e-6 <= time < change.end * length:
                writers[change.name].add(time - change.start * length, change.picture(image))
    return {name: writer.close() for name, writer in writers.items()}


def _frames(source: pathlib.Path) -> Iterator[tuple[float, VideoFrame]]:
    with source.open("rb") as file, open_container(file) as container:
        first: float | None = None
        for number, frame in enumerate(each_frame(container, container.streams.video[0], "video", [])):
            assert isinstance(frame, VideoFrame)
            time = frame.time if frame.time is not None else number / 25
            first = time if first is None else first
            yield time - first, frame


def _picture(frame: VideoFrame) -> Image:
    scale = min(1.0, LONGEST_SIDE / max(frame.width, frame.height))
    return Orientation.of(frame).upright(to_rgb(frame, round(scale * frame.width), round(scale * frame.height), "AREA"))


class _Writer:
    def __init__(self, path: pathlib.Path, change: Change, rate: Fraction) -> None:
        self.path, self.change, self.rate = path, change, rate
        self._output = av.open(str(path), "w")
        self._stream: av.VideoStream | None = None
        self._last = -1

    def add(self, time: float, image: Image) -> None:
        image = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
        if self._stream is None:
            self._stream = self._begin(image.shape[1], image.shape[0])
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        self._last = max(self._last + 1, round(time * self.rate))
        frame.pts, frame.time_base = self._last, 1 / self.rate
        self._output.mux(self._stream.encode(frame))

    def _begin(self, width: int, height: int) -> av.VideoStream:
        stream = self._output.add_stream(self.change.codec, rate=self.rate)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if self.change.codec == "libx264":
            stream.options = {"crf": str(self.change.quality), "preset": "ultrafast", "threads": "1"}
        else:
            stream.options = {"threads": "1"}
            stream.bit_rate = max(20_000, round(self.change.quality * width * height * self.rate))
        return stream

    def close(self) -> pathlib.Path:
        if self._stream is not None:
            self._output.mux(self._stream.encode(None))
        self._output.close()
        return self.path
