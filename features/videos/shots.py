"""Where shots begin, by PySceneDetect, which sees the thumbnails of a video one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from features.videos.rgb import Image

CUT_RATIO = 3.0
CUT_LEAST = 15.0
CUT_WINDOW = 2
"""AdaptiveDetector's own defaults: `adaptive_threshold`, `min_content_val` (0 to 255) and `window_width` (thumbnails)."""
CUT_WEIGHTS = (0.0, 1.0, 1.0, 0.0)
"""Of changes in hue, saturation, brightness and edges. PySceneDetect measures hue on a line though it is a circle, so reds flicker:
without hue, 98 % of 525 cuts between real shots of 0.6 to 8 s are found instead of 96 %, and no false ones either way. Shots that
differ by nothing but hue are not told apart."""
LOOKED_AT = (32, 18)
"""Width and height that thumbnails are shrunk to first: less of what moves in a shot stays."""
DARKEST = 16
"""What is darker, 0 to 255, is taken for this: the saturation of near-black is noise, and a fade out of black would be a cut."""


class Cuts:
    """Finds hard cuts while thumbnails come in. Dissolves and fades are none, nor is what lies within two thumbnails of an end.

    The change between two neighbours is the mean absolute difference of saturation and value (PySceneDetect's ContentDetector);
    it is a cut when it is at least 15 and three times the mean of the two changes before and the two after (its
    AdaptiveDetector).
    """

    def __init__(self) -> None:
        from scenedetect.common import FrameTimecode  # here, since it takes a third of a second, and only decoding needs it
        from scenedetect.detectors import AdaptiveDetector, ContentDetector

        self._timecode = FrameTimecode
        self._detector = AdaptiveDetector(
            adaptive_threshold=CUT_RATIO,
            min_content_val=CUT_LEAST,
            window_width=CUT_WINDOW,
            min_scene_len=1,
            weights=ContentDetector.Components(*CUT_WEIGHTS),
        )
        self._times: list[float] = []

    def see(self, time_s: float, thumbnail: Image) -> float | None:
        """Takes the next thumbnail, RGB. Returns when the shot began that it proves, at most two thumbnails ago, seconds."""
        small = cv2.resize(np.maximum(thumbnail, DARKEST), LOOKED_AT, interpolation=cv2.INTER_AREA)
        found = self._detector.process_frame(self._timecode(len(self._times), fps=1.0), cv2.cvtColor(small, cv2.COLOR_RGB2BGR))
        self._times.append(time_s)
        return self._times[found[0].frame_num] if found else None


def hard_cuts(thumbnails: Sequence[Image] | Image) -> list[int]:
    """Positions of the thumbnails that begin a new shot, but for the first."""
    cuts = Cuts()
    return [round(found) for at, image in enumerate(thumbnails) if (found := cuts.see(at, image)) is not None]
