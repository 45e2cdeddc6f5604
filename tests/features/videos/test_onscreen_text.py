"""Words in pictures: what is found, what is never looked at, and how readings of several stills become one text."""

from __future__ import annotations

import importlib.util
import pathlib
import socket
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import InvalidInput
from features.videos import onscreen_text
from features.videos.frames import Still
from features.videos.line_voting import Line, joined, voted
from features.videos.onscreen_text import LINES, MAX_LINE, MAX_TEXT, ScreenReader, SpacedLetters, bounded
from features.videos.rgb import Image
from features.videos.stroke_region import stroke_region


def line(text: str, score: float = 0.95, top: float = 100, left: float = 50) -> Line:
    return Line(text, score, left, top, left + 10 * len(text), top + 20)


# --- voting -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("readings", "words"),
    [
        (["LOUDER", "L0UDER", "LOUDER"], ["LOUDER"]),
        (["wait far it", "wait for it", "vait for it", "wait for it"], ["wait for it"]),
        (["loúder", "louder", "louder"], ["louder"]),
        (["hediditagain", "he did itagain", "hedid it again"], ["he did it again"]),
        (["breathe in", "breathe in", "breathe out", "breathe out"], ["breathe in", "breathe out"]),
        (["12:00", "12:00", "12:01", "12:01"], ["12:00", "12:01"]),
        (["step 2 of 5", "step 2 of 5", "step Z of 5"], ["step 2 of 5"]),
    ],
)
def test_a_line_is_spelt_as_most_stills_have_it(readings: list[str], words: list[str]) -> None:
    assert voted([[line(reading)] for reading in readings]) == words


def test_confident_stills_count_more() -> None:
    assert voted([[line("sunny day", 0.99)], [line("sunmy day", 0.8)]]) == ["sunny day"]
    assert voted([[line("sunmy day", 0.8)], [line("sunny day", 0.99)]]) == ["sunny day"]


@pytest.mark.parametrize(
    ("stills", "words"),
    [
        ([[line("once only", 0.91)], []], ["once only"]),
        ([[line("once only", 0.89)], []], []),
        ([[line("ab", 0.99)], []], []),
        ([[line("ab", 0.99)], [line("ab", 0.99)]], ["ab"]),
        ([[line("often", 0.76)], [line("often", 0.76)]], ["often"]),
        ([[line("often", 0.7)], [line("often", 0.7)]], []),
        ([[line("A", 0.99)]] * 8, []),
        ([[line("...!", 0.99)]] * 8, []),
        ([[line("用甲用", 0.97)], []], []),
        ([[line("等一下吧", 0.97)], []], ["等一下吧"]),
    ],
)
def test_what_is_seen_once_must_be_plain(stills: list[list[Line]], words: list[str]) -> None:
    assert voted(stills) == words


def test_lines_come_once_and_in_order() -> None:
    stills = [
        [line("title of it", top=10), line("first words", top=200)],
        [line("title of it", top=14), line("second words", top=200)],
        [line("third words", top=180), line("title of it", top=300, left=9), line("Title of it", top=330)],
    ]
    assert voted(stills) == ["title of it", "first words", "second words", "third words"]
    assert voted([]) == voted([[], []]) == []


def test_a_slip_elsewhere_in_the_picture_is_another_text() -> None:
    assert voted([[line("cut here", top=10)], [line("cut hero", top=300)]]) == ["cut here", "cut hero"]
    assert voted([[line("cut here", top=10)], [line("cut hero", top=12)]]) == ["cut here"]


def test_pieces_of_a_row_are_one_line() -> None:
    pieces = [
        line("his face", left=120, top=101),
        line("watch", left=60),
        line("far away", left=300),
        line("below", top=130, left=60),
    ]
    assert [row.text for row in joined(pieces)] == ["watch his face", "far away", "below"]
    assert joined([]) == []


@given(st.lists(st.lists(st.tuples(st.text(max_size=12), st.floats(0, 1), st.integers(0, 300)), max_size=4), max_size=8))
def test_any_readings_can_be_voted_on(readings: list[list[tuple[str, float, int]]]) -> None:
    stills = [[line(text, score, top) for text, score, top in still] for still in readings]
    words = voted([joined(still) for still in stills])
    assert all(word.strip() for word in words) and len(words) <= sum(map(len, readings))


# --- finding strokes ----------------------------------------------------------------------------------------------------------


def picture(*words: str, height: int = 288, width: int = 512, size: float = 0.9, shade: int = 90) -> Image:
    """A dull sky over a dull ground, with outlined captions below each other."""
    image = np.full((height, width, 3), (shade, shade + 10, shade - 10), np.uint8)
    image[height // 2 :] = (shade - 40, shade - 30, shade)
    for at, word in enumerate(words):
        place = (30, 60 + 50 * at)
        cv2.putText(image, word, place, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 6, cv2.LINE_AA)
        cv2.putText(image, word, place, cv2.FONT_HERSHEY_SIMPLEX, size, (255, 255, 255), 2, cv2.LINE_AA)
    return image


def soft_pictures() -> list[Image]:
    """Pictures without writing: plain, a gradient, two colours, soft noise, one thick bar."""
    rng = np.random.default_rng(4)
    bar = np.full((288, 512, 3), 40, np.uint8)
    bar[100:180, 200:320] = 230
    slope = np.repeat(np.linspace(0, 255, 512).astype(np.uint8)[None, :, None], 288, axis=0).repeat(3, axis=2)
    noise = rng.normal(128, 8, (288, 512, 3)).clip(0, 255).astype(np.uint8)
    return [np.zeros((288, 512, 3), np.uint8), slope, picture(), noise, bar]


def test_strokes_are_where_the_words_are() -> None:
    left, top, right, bottom = stroke_region(picture("HELLO THERE")) or (0, 0, 0, 0)
    assert left <= 30 and right >= 230 and top <= 40 and 60 <= bottom <= 160
    assert (right - left) % 32 == (bottom - top) % 32 == 0 and right <= 512 and top >= 0
    assert stroke_region(picture("HELLO THERE", shade=150)) is not None
    assert [stroke_region(image) for image in soft_pictures()] == [None] * 5
    assert stroke_region(np.zeros((1, 1, 3), np.uint8)) is stroke_region(picture("HI")[:31]) is None


# --- reading ------------------------------------------------------------------------------------------------------------------


def stills(images: Sequence[Image]) -> list[Still]:
    return [Still(float(at), image) for at, image in enumerate(images)]


@pytest.fixture(scope="module")
def reader() -> Iterator[ScreenReader]:
    """A reader that opens and works while every connection is refused, and leaves its package as it was."""
    if reason := onscreen_text.available():
        pytest.skip(reason)

    def refuse(*_: Any) -> NoReturn:
        raise AssertionError("reading asked the network")

    found = importlib.util.find_spec("rapidocr")
    assert found is not None and found.origin is not None
    models = pathlib.Path(found.origin).parent / "models"
    before = {path.name: path.stat().st_mtime_ns for path in models.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield ScreenReader()
    assert {path.name: path.stat().st_mtime_ns for path in models.iterdir()} == before


def test_captions_are_read_once_each_in_order(reader: ScreenReader, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    images = [picture("never give up", "day 12")] * 3 + [picture("almost there", "day 12")] * 2 + [picture()] * 3
    images = [np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8) for image in images]
    assert reader.read(stills(images)).split("\n") == ["never give up", "day 12", "almost there"]
    assert capfd.readouterr() == ("", "")
    assert "rapidocr-" in reader.version and "onnxruntime-" in reader.version


def test_several_videos_at_once_read_the_same(reader: ScreenReader) -> None:
    videos = [stills([picture(f"clip number {at}")]) for at in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(reader.read, videos)) == [f"clip number {at}" for at in range(4)]


def test_odd_pictures_are_survived(reader: ScreenReader) -> None:
    rng = np.random.default_rng(3)
    noises = [rng.integers(0, 255, (*shape, 3), dtype=np.uint8) for shape in [(512, 288), (1, 2), (31, 512), (512, 33)]]
    checks = np.kron(np.indices((64, 64)).sum(axis=0) % 2, np.ones((4, 4))) * 255
    for image in (*noises, checks.astype(np.uint8)[..., None].repeat(3, axis=2)):
        assert len(reader.read(stills([image]))) <= 30
    assert reader.read([]) == ""


class CountingEngine:
    """Stands for RapidOCR: finds as many lines as it is told, and reads the same in each."""

    def __init__(self, count: int, text: str) -> None:
        self.count, self.text = count, text
        self.searched = self.recognised = 0

    def detect_and_crop(self, image: Image, record: dict[str, Any]) -> tuple[list[Image], SimpleNamespace]:
        self.searched += 1
        tops = np.arange(self.count)
        corners = [[[0, top], [100, top], [100, top + 10], [0, top + 10]] for top in tops]
        return [np.zeros((10, 100, 3), np.uint8)] * self.count, SimpleNamespace(boxes=np.array(corners, np.float32))

    def recognize_txt(self, pieces: list[Image]) -> SimpleNamespace:
        self.recognised += 1
        return SimpleNamespace(txts=(f"{self.text} {self.recognised}",), scores=(0.99,))


def with_engine(engine: CountingEngine) -> ScreenReader:
    if reason := onscreen_text.available():
        pytest.skip(reason)
    reader = ScreenReader()
    reader.__dict__["_engine"] = engine
    return reader


def test_pictures_without_strokes_never_reach_the_model() -> None:
    engine = CountingEngine(1, "words")
    assert with_engine(engine).read(stills(soft_pictures())) == "" and engine.searched == 0


def test_a_picture_like_the_last_one_is_not_read_again() -> None:
    engine = CountingEngine(1, "words")
    one, other = picture("one"), picture("two")
    with_engine(engine).read(stills([one, one, np.minimum(one, 253) + 2, other, other, one]))
    assert engine.searched == 3


def test_what_a_hostile_picture_may_cost_and_say() -> None:
    engine = CountingEngine(500, "\x1b[31m\u202e" + "long words " * 100)
    shown = [picture("HELLO THERE", shade=shade) for shade in range(60, 140, 10)]
    text = with_engine(engine).read(stills(shown))
    assert engine.recognised == LINES and engine.searched <= 8
    assert 0 < len(text) <= MAX_TEXT and all(len(part) <= MAX_LINE for part in text.split("\n"))
    assert all(part.isprintable() for part in text.split("\n"))
    assert bounded(["x" * 150] * 40) == "\n".join(["x" * 150] * 40)[:MAX_TEXT] and bounded([]) == ""


def test_spaces_are_read_from_faint_signs_of_them() -> None:
    letters = ["", *"abc", " "]
    probabilities = np.full((8, len(letters)), 1e-5, np.float32)
    for at, (letter, sure) in enumerate([(1, 0.9), (1, 0.8), (0, 0.9), (2, 0.7), (0, 0.98), (4, 0.6), (3, 0.8), (0, 0.9)]):
        probabilities[at, letter] = sure
    decode = SpacedLetters(letters)
    ((text, score),), _ = decode(probabilities[None])
    assert text == "ab c" and score == pytest.approx((0.9 + 0.7 + 0.8) / 3)
    probabilities[2, 4] = 0.004
    assert decode(probabilities[None])[0][0][0] == "a b c"
    probabilities[2, 4] = 0.002
    assert decode(probabilities[None])[0][0][0] == "ab c"
    assert decode(np.zeros((1, 3, 5), np.float32))[0] == [("", 0.0)]


# --- where it cannot be used --------------------------------------------------------------------------------------------------


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "rapidocr" else find(name))
    assert "vidattr[ocr]" in (onscreen_text.available() or "")
    with pytest.raises(InvalidInput, match=r"rapidocr: pip install 'vidattr\[ocr\]'"):
        onscreen_text.load_screen_reader()


def test_a_package_without_its_models_is_a_reason_and_no_download(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: spec)
    assert "PP-OCRv6_det_small.onnx is missing" in (onscreen_text.available() or "")
    with pytest.raises(InvalidInput, match="is missing"):
        ScreenReader()
