"""Cuts that PySceneDetect finds in thumbnails."""

from __future__ import annotations

import numpy as np
import pytest

from features.videos.rgb import Image
from features.videos.shots import Cuts, hard_cuts


def flat(level: int) -> Image:
    return np.full((36, 64, 3), level, np.uint8)


def noise(seed: int, count: int, level: int) -> list[Image]:
    generator = np.random.default_rng(seed)
    base = generator.integers(0, 256, (36, 64, 3))
    return [np.clip(base + generator.integers(-level, level + 1, base.shape), 0, 255).astype(np.uint8) for _ in range(count)]


def test_cuts_are_found_where_they_are() -> None:
    shots = np.stack(noise(1, 10, 3) + noise(2, 15, 3) + noise(3, 8, 3))
    assert hard_cuts(shots) == [10, 25]


def test_a_fade_a_pan_and_a_flicker_of_light_are_no_cuts() -> None:
    fade = np.stack([flat(level) for level in range(0, 250, 10)])
    wide = noise(4, 1, 0)[0].repeat(6, axis=1)
    pan = np.stack([wide[:, at * 4 : at * 4 + 64] for at in range(40)])
    assert hard_cuts(fade) == [] and hard_cuts(pan) == []
    assert hard_cuts(np.stack(noise(5, 30, 5))) == [] and hard_cuts(fade[:1]) == []


def test_reds_that_flicker_around_the_end_of_the_hue_circle_are_no_cuts() -> None:
    """Hue 0 and 179 are neighbours: a red lamp next to a red wall."""
    reds = np.zeros((30, 36, 64, 3), np.uint8)
    reds[..., 0] = 200
    reds[10:20, ..., 2] = 30
    reds[:10, ..., 1] = reds[20:, ..., 1] = 30
    assert hard_cuts(reds) == []


def test_noise_in_near_black_is_no_cut() -> None:
    """A fade out of black: the first pictures that are not quite black have any saturation."""
    generator = np.random.default_rng(0)
    fade = np.stack([generator.integers(0, 1 + 6 * max(0, at - 4), (36, 64, 3)) for at in range(24)]).astype(np.uint8)
    assert hard_cuts(fade) == []


def test_a_cut_is_known_two_thumbnails_later_with_its_time() -> None:
    cuts = Cuts()
    said = [cuts.see(at / 5, image) for at, image in enumerate(noise(1, 6, 3) + noise(2, 6, 3))]
    assert [found for found in said if found is not None] == [pytest.approx(1.2)]
    assert said[8] is not None
