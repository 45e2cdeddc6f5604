from __future__ import annotations

import math

import pytest

from features.annotators.measurements import described
from features.records import SOUND_STATS, VISUAL_STATS, VideoFeatures

ORDINARY_PICTURE = {
    "brightness": 0.45, "contrast": 0.2, "saturation": 0.35, "warmth": 0.02,
    "colorfulness": 0.35, "sharpness": 2.5, "motion": 0.05, "cut_rate": 0.2,
}  # fmt: skip
ORDINARY_SOUND = {
    "loudness_dbfs": -22.0, "peak_dbfs": -3.0, "dynamic_range_db": 20.0, "silence_share": 0.1,
    "spectral_centroid_hz": 1800.0, "zero_crossing_rate": 0.1, "onset_rate_hz": 2.0,
}  # fmt: skip


def video(duration_s: float = 20.0, sound: dict[str, float] | None = ORDINARY_SOUND, **picture: float) -> VideoFeatures:
    return VideoFeatures(
        "v",
        "h",
        "c",
        "e",
        duration_s=duration_s,
        has_audio=sound is not None,
        visual_stats=tuple({**ORDINARY_PICTURE, **picture}[name] for name in VISUAL_STATS),
        sound_stats=tuple(math.nan if sound is None else sound[name] for name in SOUND_STATS),
    )


def test_an_ordinary_video_has_nothing_to_say() -> None:
    assert described(video()) == ()


def test_a_video_that_was_not_measured_has_nothing_to_say() -> None:
    assert described(VideoFeatures("v", "h", "c", "e")) == ()


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        ({"brightness": 0.1}, "dark, dim pictures"),
        ({"brightness": 0.8}, "bright, light pictures"),
        ({"warmth": 0.2}, "warm, golden light"),
        ({"warmth": -0.2}, "cold, blue light"),
        ({"motion": 0.3}, "fast movement all the time"),
        ({"motion": 0.0}, "a still camera and hardly any movement"),
        ({"cut_rate": 1.0}, "fast cuts, one after another"),
        ({"cut_rate": 0.0}, "one long, slow take without cuts"),
        ({"duration_s": 4.0}, "a very short clip"),
        ({"duration_s": 600.0}, "a long video"),
    ],
)
def test_what_is_unusual_is_said(measured: dict[str, float], said: str) -> None:
    assert described(video(**measured)) == (said,)


def test_sound() -> None:
    assert described(video(sound={**ORDINARY_SOUND, "loudness_dbfs": -50.0})) == ("very quiet sound",)
    assert described(video(sound={**ORDINARY_SOUND, "onset_rate_hz": 6.0})) == ("a fast, busy beat",)
    assert described(video(sound=None)) == ("no sound at all",)
