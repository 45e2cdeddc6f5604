"""The words in a video's pictures, read by RapidOCR in its stills and put together by vote.

Reading a whole picture as RapidOCR does by itself takes a third of a second, so little is read: no still that looks like the last
one that was read, no still without strokes, and of the others only the part that has them. Optional: `available` says why it
cannot be used here. The models come with the package and read Latin letters and Chinese; nothing is fetched and nothing written.
"""

from __future__ import annotations

import contextlib
import importlib.util
import threading
from collections.abc import Sequence
from functools import cached_property
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from features.errors import InvalidInput
from features.videos.frames import Still
from features.videos.line_voting import Line, joined, voted
from features.videos.rgb import Image
from features.videos.stroke_region import stroke_region

if TYPE_CHECKING:
    from rapidocr import RapidOCR

MODELS = ("PP-OCRv6_det_small.onnx", "PP-OCRv6_rec_small.onnx")
"""Detection and recognition, in the wheel."""
DETECTION_SIDE = 512
"""Pixels of the longest side in which lines are looked for: that of the stills."""
RECOGNITION_SHAPE = (3, 48, 160)
"""Channels, height and least width of a line for the recogniser; RapidOCR fills up to 320, which short captions need not."""
SPACE_PROBABILITY = 0.003
"""Between two letters a space is read from here on. Tightly set words rarely give it the highest probability of all signs; inside
of words it stays below this (2 of 1,000 gaps), between words it is above (9 of 10)."""
LEAST_ASPECT = 1.1
"""Width to height of a line; what is narrower holds one letter, and is a thing more often than not."""
MOST_ASPECT = 40.0
LEAST_HEIGHT = 7.0
"""Pixels of a line, as its box has it."""
LINES_A_STILL = 20
LINES = 64
"""The most lines that are recognised in a video, the largest of each still first: what a hostile one may cost, 3 s."""
MAX_LINE = 200
MAX_TEXT = 2000
"""The most letters of a line, and of all lines."""
THUMBNAIL = 64
UNCHANGED = 10
"""The largest difference of luma, 0 to 255, of two thumbnails of 64 x 64 that counts as none; a new word makes 20 and more."""

_EXTRA = "pip install 'vidattr[ocr]'"


def available() -> str | None:
    """Why on-screen text cannot be read here, or None when it can: the package or its models are missing."""
    found = importlib.util.find_spec("rapidocr")
    if found is None or found.origin is None:
        return f"reading on-screen text needs rapidocr: {_EXTRA}"
    for name in MODELS:
        if not (_models(found.origin) / name).is_file():
            return f"{_models(found.origin) / name} is missing: {_EXTRA}"
    return None


def _models(origin: str) -> Path:
    return Path(origin).parent / "models"


class SpacedLetters:
    """Turns the recogniser's probabilities into words, in place of RapidOCR's own decoder, which swallows most spaces.

    Args:
        letters: of each class; the first one is the blank between letters.
    """

    def __init__(self, letters: Sequence[str]) -> None:
        self._letters = letters
        self._space = letters.index(" ")

    def __call__(self, probabilities: NDArray[np.float32], *_: Any, **__: Any) -> tuple[list[tuple[str, float]], list[Any]]:
        """(text, mean probability of its letters) of each line.

        Args:
            probabilities: shape (lines, places, classes).
        """
        return [self._line(line) for line in probabilities], []

    def _line(self, probabilities: NDArray[np.float32]) -> tuple[str, float]:
        best = probabilities.argmax(axis=1)
        text, scores, space, before = "", [], 0.0, -1
        for at, letter in enumerate(best):
            if letter in (0, self._space):
                space = max(space, float(probabilities[at, self._space]))
            elif letter != before:
                text += " " * bool(text and space >= SPACE_PROBABILITY) + self._letters[letter]
                scores.append(float(probabilities[at, letter]))
                space = 0.0
            before = letter
        return text, sum(scores) / len(scores) if scores else 0.0


class ScreenReader:
    """RapidOCR on the CPU. It opens at first use, and must not be carried over a fork once open.

    Args:
        threads: cores for one picture.

    Raises:
        InvalidInput: as `available` says.
    """

    def __init__(self, threads: int = 1) -> None:
        if reason := available():
            raise InvalidInput(reason)
        self.version = f"rapidocr-{installed_version('rapidocr')}+onnxruntime-{installed_version('onnxruntime')}"
        self._threads = threads
        self._lock = threading.Lock()

    @cached_property
    def _engine(self) -> RapidOCR:
        import rapidocr
        from rapidocr.main import RapidOCRError

        # Named files are opened as they are; RapidOCR would compare those it chooses itself, and download them anew.
        detection, recognition = (str(_models(rapidocr.__file__) / name) for name in MODELS)
        engine = rapidocr.RapidOCR(
            params={
                "Global.log_level": "critical",
                "Global.use_cls": False,
                "Global.use_vertical_padding": False,
                "EngineConfig.onnxruntime.intra_op_num_threads": self._threads,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
                "Det.model_path": detection,
                "Det.limit_type": "max",
                "Det.limit_side_len": DETECTION_SIDE,
                "Rec.model_path": recognition,
                "Rec.rec_img_shape": list(RECOGNITION_SHAPE),
            }
        )
        blank = np.zeros((64, 64, 3), np.uint8)
        engine.recognize_txt([blank])
        recogniser: Any = engine.text_rec
        recogniser.postprocess_op = SpacedLetters(recogniser.postprocess_op.character)
        with contextlib.suppress(RapidOCRError):  # it finds nothing, as it should
            engine.detect_and_crop(blank, {})
        return engine

    def warm(self) -> None:
        """Opens the models and runs each once."""
        with self._lock:
            _ = self._engine

    def read(self, stills: Sequence[Still]) -> str:
        """The words in the pictures of one video.

        Args:
            stills: in time order, RGB, the longest side about 512.

        Returns:
            Lines in the order in which they appear, a line break between two, at most 2000 characters; empty where nothing is read.
        """
        left = LINES
        seen: list[list[Line]] = []
        last: NDArray[np.int16] | None = None
        for still in stills:
            now = _thumbnail(still.image)
            if last is not None and int(np.abs(now - last).max()) <= UNCHANGED:
                continue
            last = now
            lines = self._lines(still.image, min(left, LINES_A_STILL))
            left -= len(lines)
            seen.append(joined(line for line in lines if line.text))
        return bounded(voted(seen))

    def _lines(self, image: Image, most: int) -> list[Line]:
        """At most so many lines of one picture, the largest of those that were found, as they were read."""
        region = stroke_region(image) if most > 0 else None
        if region is None:
            return []
        from rapidocr.main import RapidOCRError

        self.warm()
        left, top, right, bottom = region
        corner = np.array([left, top], np.float32)
        picture = np.ascontiguousarray(image[top:bottom, left:right, ::-1])
        try:
            pieces, found = self._engine.detect_and_crop(picture, {})
        except RapidOCRError:  # nothing is found
            return []
        assert found.boxes is not None
        fitting = [(piece, box) for piece, box in zip(pieces, found.boxes, strict=True) if _may_be_line(piece)]
        fitting.sort(key=lambda pair: pair[0].shape[0] * pair[0].shape[1], reverse=True)
        return [self._recognised(piece, box + corner) for piece, box in fitting[:most]]

    def _recognised(self, piece: Image, box: NDArray[np.float32]) -> Line:
        """A cut-out line, and its corners. One by one, since a line is read a little differently beside a longer one."""
        read = self._engine.recognize_txt([piece])
        assert read.txts is not None and read.scores is not None
        text = "".join(letter for letter in read.txts[0][:MAX_LINE] if letter.isprintable())
        (left, top), (right, bottom) = box.min(axis=0), box.max(axis=0)
        return Line(" ".join(text.split()), float(read.scores[0]), float(left), float(top), float(right), float(bottom))


def _may_be_line(piece: Image) -> bool:
    height, width = piece.shape[:2]
    return bool(height >= LEAST_HEIGHT and LEAST_ASPECT * height <= width <= MOST_ASPECT * height)


def _thumbnail(image: Image) -> NDArray[np.int16]:
    small = cv2.resize(image, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.int16)


def bounded(lines: Sequence[str]) -> str:
    """Lines as one text of at most `MAX_TEXT` characters, the last one cut."""
    return "\n".join(lines)[:MAX_TEXT].rstrip()


def load_screen_reader(threads: int = 1) -> ScreenReader:
    """A reader that is not opened yet. Raises InvalidInput as `available` says."""
    return ScreenReader(threads)
