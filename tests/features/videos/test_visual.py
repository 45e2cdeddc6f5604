"""Visual statistics against their formulas written out again with scipy, colorsys and plain numpy."""

from __future__ import annotations

import colorsys
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from features.records import VISUAL_STATS, named_stats
from features.videos.frames import Pictures, Still
from features.videos.rgb import Image
from features.videos.visual import motion, still_stats, visual_stats

NAMES = VISUAL_STATS[:6]


def flat(colour: tuple[int, int, int], size: tuple[int, int] = (36, 64)) -> Image:
    return np.full((*size, 3), colour, np.uint8)


def again(image: Image) -> dict[str, float]:
    """The formulas a second time."""
    red, green, blue = (image[..., channel].astype(float) for channel in range(3))
    luma = np.round(0.299 * red + 0.587 * green + 0.114 * blue)
    saturation = np.mean([colorsys.rgb_to_hsv(*(pixel / 255))[1] for pixel in image.reshape(-1, 3)])
    rg, yb = red - green, 0.5 * (red + green) - blue
    m3 = math.sqrt(rg.std() ** 2 + yb.std() ** 2) + 0.3 * math.sqrt(rg.mean() ** 2 + yb.mean() ** 2)
    laplacian = scipy.ndimage.laplace(luma, mode="mirror")
    return {
        "brightness": luma.mean() / 255,
        "contrast": luma.std() / 255,
        "saturation": float(saturation),
        "warmth": float((red - blue).mean() / 255),
        "colorfulness": m3 / 100,
        "sharpness": math.log10(1 + laplacian.var()),
    }


@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3))))
def test_formulas_on_any_picture(image: Image) -> None:
    found, expected = named_stats(NAMES, still_stats(image)), again(image)
    for name in NAMES:
        assert found[name] == pytest.approx(expected[name], abs=0.02 if name == "sharpness" else 0.004), name


@pytest.mark.parametrize(
    ("colour", "brightness", "saturation", "warmth"),
    [
        ((0, 0, 0), 0, 0, 0),
        ((255, 255, 255), 1, 0, 0),
        ((255, 0, 0), 0.299, 1, 1),
        ((0, 0, 255), 0.114, 1, -1),
        ((128, 128, 128), 0.502, 0, 0),
    ],
)
def test_plain_colours(colour: tuple[int, int, int], brightness: float, saturation: float, warmth: float) -> None:
    found = named_stats(NAMES, still_stats(flat(colour)))
    assert found["brightness"] == pytest.approx(brightness, abs=0.003)
    assert found["saturation"] == saturation and found["warmth"] == warmth
    assert found["contrast"] == 0 and found["sharpness"] == 0


def test_half_black_half_white_has_the_highest_contrast() -> None:
    image = flat((0, 0, 0))
    image[:18] = 255
    assert named_stats(NAMES, still_stats(image))["contrast"] == pytest.approx(0.5)


def test_motion_by_hand() -> None:
    shots = np.stack([flat((0, 0, 0)), flat((51, 51, 51)), flat((0, 0, 0))])
    assert motion(shots) == pytest.approx(0.2)
    assert motion(shots[:1]) == 0


def test_all_eight_in_order() -> None:
    shots = np.stack([flat((at % 2 * 51,) * 3) for at in range(20)])
    pictures = Pictures(
        stills=(Still(0.0, flat((255, 0, 0))), Still(1.0, flat((0, 0, 255)))),
        thumbnails=shots,
        thumbnail_times=np.arange(20) / 5,
        width=64,
        height=36,
        rotation=0,
        samples=(),
        decoded=100,
        duration_s=4.0,
        warnings=(),
        shot_starts_s=(0.0, 2.0),
    )
    found = named_stats(VISUAL_STATS, visual_stats(pictures))
    assert found["warmth"] == 0 and found["saturation"] == 1
    assert found["cut_rate"] == pytest.approx(0.25) and found["motion"] == pytest.approx(0.2)
    assert all(math.isfinite(value) for value in found.values())
    sparse = replace(pictures, pairs=((shots[0], shots[1]),), shot_starts_s=())
    unsure = named_stats(VISUAL_STATS, visual_stats(sparse))
    assert math.isnan(unsure.pop("cut_rate")) and all(math.isfinite(value) for value in unsure.values())
