"""Near-duplicates lie close, different pictures far apart."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from features.videos.borders import Window, window_of
from features.videos.fingerprint import BITS, BYTES, HASH_BYTES, distance, fingerprint, fingerprints
from features.videos.frames import SAMPLE_SIDE
from features.videos.rgb import Image

Change = Callable[[Image], Image]
WHOLE = Window(0, SAMPLE_SIDE, 0, SAMPLE_SIDE)


def drawing(seed: int, moved: int = 0) -> Image:
    """A few soft shapes, as different from another seed's as two photographs are; some of them move."""
    generator = np.random.default_rng(seed)
    image = np.full((288, 512, 3), generator.integers(0, 256, 3), np.uint8)
    for shape in range(30):
        centre = (int(generator.integers(0, 512)) + (moved if shape % 3 == 0 else 0), int(generator.integers(0, 288)))
        colour = tuple(int(value) for value in generator.integers(0, 256, 3))
        cv2.circle(image, centre, int(generator.integers(10, 90)), colour, -1)
    return np.asarray(cv2.GaussianBlur(image, (9, 9), 0), np.uint8)


def clip(seed: int = 1) -> list[Image]:
    return [drawing(seed, 4 * at) for at in range(6)]


def jpeg(image: Image, quality: int = 25) -> Image:
    _, small = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(small, cv2.IMREAD_COLOR), np.uint8)


def barred(top: int, bottom: int = 0, left: int = 0, right: int = 0, colour: int = 0, text: str = "") -> Change:
    """Adds bars of so many pixels, with a caption in the first two."""

    def change(image: Image) -> Image:
        made = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(colour,) * 3)
        for line in [top // 2 + 8] * bool(top) + [made.shape[0] - bottom // 2 + 8] * bool(bottom) if text else []:
            cv2.putText(made, text, (30, line), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (255 - colour,) * 3, 2, cv2.LINE_AA)
        return np.asarray(made, np.uint8)

    return change


def cropped(down: float, across: float) -> Change:
    """Takes off such shares of the height and of the width, half of it on each side."""

    def change(image: Image) -> Image:
        y, x = round(down * image.shape[0] / 2), round(across * image.shape[1] / 2)
        return image[y : image.shape[0] - y, x : image.shape[1] - x]

    return change


CHANGES: dict[str, Change] = {
    "half size": lambda image: np.asarray(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8),
    "larger": lambda image: np.asarray(cv2.resize(image, None, fx=1.7, fy=1.7, interpolation=cv2.INTER_CUBIC), np.uint8),
    "jpeg 25": jpeg,
    "brighter": lambda image: np.clip(image.astype(int) + 20, 0, 255).astype(np.uint8),
    "noise": lambda image: np.clip(image + np.random.default_rng(0).normal(0, 6, image.shape), 0, 255).astype(np.uint8),
    "letterbox": barred(40, 40),
    "pillars": barred(0, 0, 60, 60),
    "frame": barred(30, 30, 40, 40, colour=200),
    "caption above": barred(48, colour=255, text="when nobody looks"),
    "caption below": barred(0, 48, text="when nobody looks"),
    "caption, compressed": lambda image: jpeg(barred(48, colour=255, text="when nobody looks")(image), 40),
    "cropped": cropped(0.05, 0.05),
    "cut to 4:3": cropped(0, 0.25),
    "upright": cropped(0, 1 - 9 * 9 / 16 / 16),
    "letterbox in an upright screen": lambda image: barred(311, 311)(image),
}


def samples(images: list[Image]) -> list[tuple[float, Image]]:
    """As decoding makes them: squeezed to a square."""
    squeezed = [cv2.resize(image, (SAMPLE_SIDE, SAMPLE_SIDE), interpolation=cv2.INTER_AREA) for image in images]
    return [(at / 4, np.asarray(image, np.uint8)) for at, image in enumerate(squeezed)]


def marks(images: list[Image]) -> list[bytes]:
    height, width = images[0].shape[:2]
    found = fingerprints(samples(images), width / height)
    assert [time for time, _ in found] == [at / 4 for at in range(len(images))]
    return [mark for _, mark in found]


@pytest.mark.parametrize("name", CHANGES)
def test_changed_copies_stay_close(name: str) -> None:
    original = clip()
    if name == "upright":  # of an upright copy the square in the middle is as wide as the copy
        original = [image[63:225] for image in original]
    copies = marks([CHANGES[name](image) for image in original])
    bits = [distance(one, other) for one, other in zip(marks(original), copies, strict=True)]
    assert np.mean(bits) <= 6 and max(bits) <= 10, bits


def test_different_pictures_lie_far_apart() -> None:
    apart = [distance(one, other) for one, other in itertools.combinations([fingerprint(drawing(seed)) for seed in range(20)], 2)]
    assert min(apart) > 24 and np.mean(apart) == pytest.approx(61, abs=6)


def test_bits_are_the_signs_of_a_cosine_transform() -> None:
    """Within a window that is the whole picture, those of OpenCV's own."""
    image = np.asarray(cv2.resize(drawing(3), (128, 128), interpolation=cv2.INTER_AREA), np.uint8)
    waves = cv2.dct(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64))
    bits = np.unpackbits(np.frombuffer(fingerprint(image), np.uint8))[:BITS]
    places = [(down, total - down) for total in range(1, 16) for down in range(total + 1)][:BITS]
    clear = [at for at, place in enumerate(places) if abs(waves[place]) > 1e-6]
    assert len(clear) > 120 and [bool(bits[at]) for at in clear] == [waves[places[at]] > 0 for at in clear]


def test_colours_are_those_of_nine_cells_of_the_square() -> None:
    image = np.zeros((90, 160, 3), np.uint8)
    image[:30, 35:65], image[60:, 95:125] = (255, 0, 0), (0, 0, 255)
    red, blue = np.frombuffer(fingerprint(image)[HASH_BYTES:], np.uint8).reshape(2, 3, 3)
    assert (red[0, 0], blue[2, 2]) == (255, 255) and red[1].tolist() == blue[1].tolist() == [128] * 3
    assert fingerprints([(0.0, image)])[0][1][HASH_BYTES:] == fingerprint(image)[HASH_BYTES:]


def test_any_picture_has_a_fingerprint() -> None:
    for shape in ((1, 1), (1, 512), (512, 1), (64, 64)):
        assert len(fingerprint(np.zeros((*shape, 3), np.uint8))) == BYTES


@pytest.mark.parametrize(
    ("change", "window"),
    [
        (barred(0), WHOLE),
        (barred(36, 36), Window(12.8, 115.2, 0, 128)),
        (barred(0, 72, text="two words"), Window(0, 102.4, 0, 128)),
        (barred(0, 0, 64, 0, colour=255), Window(0, 128, 14.2, 128)),
    ],
)
def test_bars_are_found_to_a_part_of_a_pixel(change: Change, window: Window) -> None:
    assert window_of([image for _, image in samples([change(image) for image in clip()])]) == pytest.approx(window, abs=0.5)


def test_what_looks_like_a_bar_and_is_none_stays() -> None:
    sky = np.linspace((90, 140, 230), (200, 220, 250), 128)[:, None].repeat(128, axis=1).astype(np.uint8)
    sky[90:, :64] = 40
    assert window_of([sky] * 3) == WHOLE, "a sky changes from row to row"
    product = np.full((128, 128, 3), 250, np.uint8)
    product[30:100, 40:70] = drawing(1)[:70, :30]
    assert window_of([product] * 3) == WHOLE, "a thing on a white table"
    below = np.arange(128)[:, None, None] >= 90
    flashing = [np.where(below, 255 * (at % 2), sky).astype(np.uint8) for at in range(6)]
    assert window_of(flashing) == WHOLE, "it changes over time"


def test_pictures_that_show_nothing_have_no_fingerprint() -> None:
    black, text = np.zeros((288, 512, 3), np.uint8), barred(60, colour=255, text="wait for it")
    shown = [text(image) for image in (black, *clip()[:3], black)]
    found = fingerprints(samples(shown), 512 / 348)
    assert [time for time, _ in found] == [0.25, 0.5, 0.75], "also where a caption stands above them"
    assert fingerprints(samples([black, black])) == [] and fingerprints([]) == []
