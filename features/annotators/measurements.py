"""A video's measurements in plain words, so that they can be compared with sentences of a definition."""

from __future__ import annotations

import math

from features.records import SOUND_STATS, VISUAL_STATS, VideoFeatures, named_stats

# (statistic, below, above, what is said): a sentence is said where below <= value < above. Between the ends nothing is said:
# an ordinary value tells nothing about a mood.
_VISUAL: tuple[tuple[str, float, float, str], ...] = (
    ("brightness", -math.inf, 0.22, "dark, dim pictures"),
    ("brightness", 0.62, math.inf, "bright, light pictures"),
    ("saturation", -math.inf, 0.15, "muted, almost colourless pictures"),
    ("colorfulness", 0.6, math.inf, "vivid, bright colours"),
    ("warmth", 0.12, math.inf, "warm, golden light"),
    ("warmth", -math.inf, -0.12, "cold, blue light"),
    ("sharpness", -math.inf, 1.5, "blurry, soft pictures"),
    ("motion", -math.inf, 0.02, "a still camera and hardly any movement"),
    ("motion", 0.1, math.inf, "fast movement all the time"),
    ("cut_rate", 0.5, math.inf, "fast cuts, one after another"),
)
_SOUND: tuple[tuple[str, float, float, str], ...] = (
    ("loudness_dbfs", -math.inf, -38.0, "very quiet sound"),
    ("loudness_dbfs", -14.0, math.inf, "loud sound"),
    ("silence_share", 0.6, math.inf, "long silences"),
    ("onset_rate_hz", 4.0, math.inf, "a fast, busy beat"),
    ("onset_rate_hz", -math.inf, 0.5, "slow, steady sound without a beat"),
)
_UNCUT_FROM_S = 8.0
"""From this duration on, a clip without cuts is a long take and not merely short."""
_SHORT_S, _LONG_S = 8.0, 180.0


def described(video: VideoFeatures) -> tuple[str, ...]:
    """What is unusual about the video's measurements, one short sentence each; nothing for what was not measured."""
    visual = named_stats(VISUAL_STATS, video.visual_stats)
    sound = named_stats(SOUND_STATS, video.sound_stats)
    said = [text for name, low, high, text in _VISUAL if low <= visual.get(name, math.nan) < high]
    if visual.get("cut_rate") == 0.0 and video.duration_s >= _UNCUT_FROM_S:
        said.append("one long, slow take without cuts")
    if visual and not video.has_audio:
        said.append("no sound at all")
    said += [text for name, low, high, text in _SOUND if low <= sound.get(name, math.nan) < high]
    if 0 < video.duration_s < _SHORT_S:
        said.append("a very short clip")
    elif video.duration_s > _LONG_S:
        said.append("a long video")
    return tuple(said)
