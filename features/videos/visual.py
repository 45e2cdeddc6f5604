"""How a video looks, in the eight numbers of `records.VISUAL_STATS`.

Light, colour and detail are means over the stills; motion and cuts come from the thumbnails, about five a second. Where only
keyframes were decoded, motion comes from pairs that are as close as that, and where shots begin is not known.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from features.videos.frames import Pictures
from features.videos.rgb import Image


def visual_stats(pictures: Pictures) -> tuple[float, ...]:
    """The numbers in the order of `VISUAL_STATS`, each finite but the rate of cuts, which is NaN where shots are not known."""
    starts = pictures.shot_starts_s
    stills = np.mean([still_stats(still.image) for still in pictures.stills], axis=0)
    steps = [pictures.thumbnails] if pictures.pairs is None else [np.stack(pair) for pair in pictures.pairs]
    return (
        *(float(value) for value in stills),
        float(np.mean([motion(step) for step in steps])),
        (len(starts) - 1) / max(pictures.duration_s, 1e-3) if starts else math.nan,
    )


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
    luma = np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in thumbnails]).astype(np.float64)
    return float(np.abs(np.diff(luma, axis=0)).mean() / 255)
