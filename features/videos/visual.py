"""How a video looks, in the eight numbers of `records.VISUAL_STATS`.

Light, colour and detail are means over the stills; motion and cuts come from the thumbnails, about five a second. Where only
keyframes were decoded, motion comes from pairs that are as close as that, and where shots begin is not known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from features.videos.frames import Image, Pictures

CUT_RATIO = 3.0
CUT_LEAST = 15.0
CUT_WINDOW = 2
"""PySceneDetect's AdaptiveDetector: `adaptive_threshold`, `min_content_val` (0 to 255) and `window_width` (thumbnails)."""


def visual_stats(pictures: Pictures, starts: Sequence[float]) -> tuple[float, ...]:
    """The numbers in the order of `VISUAL_STATS`, each finite but the rate of cuts, which is NaN where `starts` is empty.

    Args:
        pictures: of one video.
        starts: its shots, from `shot_starts`.
    """
    stills = np.mean([still_stats(still.image) for still in pictures.stills], axis=0)
    steps = [pictures.thumbnails] if pictures.pairs is None else [np.stack(pair) for pair in pictures.pairs]
    return (
        *(float(value) for value in stills),
        float(np.mean([motion(step) for step in steps])),
        (len(starts) - 1) / max(pictures.duration_s, 1e-3) if starts else math.nan,
    )


def shot_starts(pictures: Pictures) -> list[float]:
    """When each shot begins, seconds, the first one at 0; empty where too little was decoded to know."""
    if pictures.pairs is not None:
        return []
    return [0.0, *(float(pictures.thumbnail_times[at]) for at in hard_cuts(pictures.thumbnails))]


def still_stats(image: Image) -> tuple[float, float, float, float, float, float]:
    """Brightness, contrast, saturation, warmth, colourfulness and sharpness of one RGB picture.

    Luma is ITU-R BT.601 as in OpenCV's RGB2GRAY; saturation is (max - min) / max of the channels, 0 for black. Colourfulness is
    M3 of Hasler and Suesstrunk, "Measuring colourfulness in natural images" (2003), on 0 to 255, divided by 100. Sharpness
    is the variance of the Laplacian (Pech-Pacheco et al., 2000) on a log scale.
    """
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    saturation = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1]
    red, green, blue = cv2.split(image.astype(np.float32))
    red_green, yellow_blue = _mean_and_deviation(red - green), _mean_and_deviation((red + green) / 2 - blue)
    (means, deviations) = zip(red_green, yellow_blue, strict=True)
    colourfulness = np.hypot(*deviations) + 0.3 * np.hypot(*means)
    _, detail = _mean_and_deviation(cv2.Laplacian(luma, cv2.CV_32F))
    brightness, contrast = _mean_and_deviation(luma)
    return (
        brightness / 255,
        contrast / 255,
        float(cv2.mean(saturation)[0] / 255),
        float((cv2.mean(red)[0] - cv2.mean(blue)[0]) / 255),
        float(colourfulness / 100),
        float(np.log10(1 + detail**2)),
    )


def _mean_and_deviation(values: NDArray[Any]) -> tuple[float, float]:
    mean, deviation = cv2.meanStdDev(values)
    return float(mean[0, 0]), float(deviation[0, 0])


def motion(thumbnails: Image) -> float:
    """Mean absolute luma difference of neighbouring thumbnails, 0 to 1; 0 for a single one."""
    if len(thumbnails) < 2:
        return 0.0
    luma = _each(thumbnails, cv2.COLOR_RGB2GRAY)
    return float(np.abs(np.diff(luma, axis=0)).mean() / 255)


def hard_cuts(thumbnails: Image) -> list[int]:
    """Positions of the thumbnails that begin a new shot.

    The change between two neighbours is the mean absolute difference of hue, saturation and value (PySceneDetect's
    ContentDetector); it is a cut when it is at least 15 and three times the mean change around it (its AdaptiveDetector).
    """
    if len(thumbnails) < 2:
        return []
    hsv = _each(thumbnails, cv2.COLOR_RGB2HSV)
    hue = np.abs(np.diff(hsv[..., 0], axis=0))
    hue = np.minimum(hue, 180 - hue)
    rest = np.abs(np.diff(hsv[..., 1:], axis=0)).mean(axis=(1, 2))
    change = (hue.mean(axis=(1, 2)) + rest.sum(axis=1)) / 3
    return [at + 1 for at in range(len(change)) if _stands_out(change, at)]


def _stands_out(change: NDArray[np.float64], at: int) -> bool:
    around = np.concatenate([change[max(0, at - CUT_WINDOW) : at], change[at + 1 : at + 1 + CUT_WINDOW]])
    usual = float(around.mean()) if len(around) else 0.0
    return bool(change[at] >= CUT_LEAST and change[at] >= CUT_RATIO * usual)


def _each(images: Image | Sequence[Image], conversion: int) -> NDArray[np.float64]:
    return np.stack([cv2.cvtColor(image, conversion) for image in images]).astype(np.float64)
