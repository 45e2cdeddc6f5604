"""Frames as a viewer sees them: the matrix that was meant, and transparency on white."""

from __future__ import annotations

import av
import numpy as np
import pytest

from features.videos.rgb import matrix_of, to_rgb


def red(matrix: str) -> av.VideoFrame:
    image = np.full((64, 64, 3), (220, 30, 40), np.uint8)
    return av.VideoFrame.from_ndarray(image).reformat(format="yuv444p", dst_colorspace=matrix, dst_color_range="MPEG")


@pytest.mark.parametrize(("matrix", "tag"), [("ITU709", 1), ("ITU601", 5), ("ITU601", 6), ("BT2020", 9), ("BT2020", 10)])
def test_the_matrix_that_a_file_names_is_used(matrix: str, tag: int) -> None:
    frame = red(matrix)
    frame.colorspace = tag
    assert to_rgb(frame, 32, 32, "AREA")[5, 5].astype(int) == pytest.approx((220, 30, 40), abs=3)


@pytest.mark.parametrize("tag", [0, 2, 3, 8, 11, 14, 255])
def test_without_a_known_matrix_size_decides(tag: int) -> None:
    """Unnamed, and what swscale refuses: a video must not be lost for that."""
    small = red("ITU601")
    small.colorspace = tag
    assert to_rgb(small, 32, 32, "AREA")[5, 5].astype(int) == pytest.approx((220, 30, 40), abs=3)
    large = red("ITU709").reformat(1280, 720)
    large.colorspace = tag
    assert to_rgb(large, 32, 32, "AREA")[5, 5].astype(int) == pytest.approx((220, 30, 40), abs=3)
    large.colorspace, large.color_primaries = 2, 9
    assert matrix_of(large) == 9


def test_odd_tags_are_no_failure() -> None:
    frame = red("ITU601")
    for value in (0, 3, 22, 255):
        frame.color_trc = frame.color_primaries = value
        frame.color_range = value % 3
        assert to_rgb(frame, 32, 32, "AREA").shape == (32, 32, 3)


@pytest.mark.parametrize("pixels", ["rgba", "bgra", "argb", "yuva444p", "gbrap", "rgba64le", "ya8"])
def test_transparency_is_white_and_nothing_shines_through(pixels: str) -> None:
    """Opaque black left, transparent black right, half-transparent black in the middle: also where it is scaled down."""
    image = np.zeros((64, 96, 4), np.uint8)
    image[:, :32, 3], image[:, 32:64, 3] = 255, 128
    frame = av.VideoFrame.from_ndarray(image, "rgba")
    frame = frame if pixels == "rgba" else frame.reformat(format=pixels, dst_color_range="JPEG" if pixels == "ya8" else None)
    seen = to_rgb(frame, 24, 16, "AREA").astype(int)
    assert seen[8, 4] == pytest.approx(0, abs=2) and seen[8, 12] == pytest.approx(127, abs=2)
    assert seen[8, 20] == pytest.approx(255, abs=2)


def test_what_lies_under_transparency_does_not_bleed() -> None:
    """A black letter in transparent green, scaled down: its edges are grey and not green."""
    image = np.full((64, 64, 4), (0, 255, 0, 0), np.uint8)
    image[:, 31:34] = (0, 0, 0, 255)
    seen = to_rgb(av.VideoFrame.from_ndarray(image, "rgba"), 16, 16, "AREA").astype(int)
    assert np.ptp(seen, axis=2).max() <= 2 and seen.min() < 150 and seen.max() == 255
