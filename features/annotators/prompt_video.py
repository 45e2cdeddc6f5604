"""One video as the parts of a prompt: facts and stills first, then its words, each fenced, all between two marks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from features.annotators.exchange import Clip, Part, Picture, Text
from features.annotators.measurements import described
from features.annotators.settings import TEXT_ONLY
from features.annotators.tokens import Family, clip_tokens, picture_tokens, text_tokens
from features.annotators.untrusted import clean, fenced
from features.attributes.definition import Evidence
from features.errors import InvalidInput
from features.records import SOUND_STATS, VISUAL_STATS, Frame, VideoFeatures, named_stats

EVIDENCE: tuple[Evidence, ...] = get_args(Evidence)

PLACES: tuple[tuple[Evidence, str, int, int], ...] = (
    ("title", "title", 300, 0),
    ("description", "description", 1500, 0),
    ("hashtags", "hashtags", 400, 0),
    ("transcript", "transcript", 4000, 1500),
    ("onscreen_text", "on-screen text", 1200, 300),
    ("tags", "things a classifier saw", 300, 0),
)
"""Evidence in words: its name in the prompt, the most characters, and how many of them are kept for its end."""

NUMBERS: tuple[tuple[str, str, str], ...] = (
    ("brightness", ".2f", "brightness from 0 (black) to 1 (white)"),
    ("saturation", ".2f", "saturation from 0 (grey) to 1"),
    ("warmth", ".2f", "warmth from -1 (blue) to 1 (red)"),
    ("motion", ".3f", "motion from 0 (still) to 1, above 0.1 is fast"),
    ("cut_rate", ".2f", "cut_rate in cuts a second"),
    ("loudness_dbfs", ".0f", "loudness_dbfs from -90 (silent) to 0 (loudest)"),
    ("silence_share", ".2f", "silence_share from 0 to 1"),
    ("onset_rate_hz", ".1f", "onset_rate_hz in beats or other onsets a second"),
)
"""The measurements that are shown as numbers: name, format, and what they mean."""

_TAG_FROM = 0.3
"""As in `features.annotators.evidence`: a tag below it is more often wrong than right."""
_MARKS_TOKENS, _PLACE_TOKENS, _STILL_TOKENS, _MEASURED_TOKENS = 34, 4, 14, 90
_MEDIA_TYPES = {"mov": "video/quicktime", "webm": "video/webm", "3gp": "video/3gpp", "mpg": "video/mpeg", "mpeg": "video/mpeg"}
_MEDIA_TYPES |= {"avi": "video/avi", "wmv": "video/wmv", "flv": "video/x-flv", "mkv": "video/x-matroska", "ts": "video/mp2t"}


def permitted(setting: str) -> tuple[Evidence, ...]:
    """The evidence that `PromptSettings.evidence` names, in a fixed order.

    Raises:
        InvalidInput: an unknown name.
    """
    words = [word.strip() for word in setting.split(",") if word.strip()]
    if not words:
        return EVIDENCE
    for word in words:
        if word not in (TEXT_ONLY, *EVIDENCE):
            known = ", ".join((TEXT_ONLY, *EVIDENCE))
            raise InvalidInput(f"evidence: {word!r} is none of {known}; name some of these, or nothing for all")
    return tuple(each for each in EVIDENCE if each in words or (TEXT_ONLY in words and each != "frames"))


@dataclass(frozen=True)
class View:
    """What of each video is shown.

    Attributes:
        evidence: places, in the order of EVIDENCE.
        frames: the most stills, 0 for none.
        clips: a video under a gs:// address is sent whole, in place of stills.
    """

    evidence: tuple[Evidence, ...]
    frames: int
    clips: bool = False

    @property
    def pictures(self) -> bool:
        return "frames" in self.evidence and (self.frames > 0 or self.clips)

    @property
    def usable(self) -> tuple[Evidence, ...]:
        """`evidence`, without frames where none are sent."""
        return tuple(each for each in self.evidence if each != "frames" or self.pictures)

    def stills(self, video: VideoFeatures) -> tuple[Frame, ...]:
        """At most `frames` of the video's stills, evenly spread."""
        count = len(video.frames) if "frames" in self.evidence else 0
        most = min(count, self.frames)
        if most == count:
            return video.frames if count else ()
        return tuple(video.frames[(2 * place + 1) * count // (2 * most)] for place in range(most))

    def clip(self, video: VideoFeatures) -> Clip | None:
        """The whole video, where it is sent."""
        if not (self.clips and "frames" in self.evidence and video.uri.startswith("gs://")):
            return None
        ending = video.uri.rsplit("/", 1)[-1].rpartition(".")[2].lower()
        return Clip(video.uri, _MEDIA_TYPES.get(ending, "video/mp4"), video.duration_s)

    def shows(self, video: VideoFeatures) -> bool:
        """Whether anything at all can be seen or read of the video."""
        return (
            bool(self.stills(video))
            or self.clip(video) is not None
            or ("measurements" in self.evidence and bool(video.visual_stats or video.sound_stats))
            or any(clean(_words(video, place)) for place, *_ in PLACES if place in self.evidence)
        )

    def parts(self, video: VideoFeatures, name: str) -> tuple[Part, ...]:
        """The video's parts, from `<<video NAME>>` to `<<end of video NAME>>`; nothing in them can forge these marks.

        Args:
            video: whose.
            name: what it is called in the prompt; carries nothing of its real id.
        """
        lines = [f"<<video {name}>>"]
        timed = self.pictures or "measurements" in self.evidence
        if timed and video.duration_s > 0:
            lines.append(f"duration: {video.duration_s:.1f} s")
        language = fenced(video.language, 35)
        if language and self.evidence != ("frames",):
            lines.append(f"language: {language}")
        if "measurements" in self.evidence:
            lines += _measured(video)
        parts: list[Part] = []
        clip = self.clip(video)
        if clip is not None:
            lines.append("the whole video:")
            parts += [Text("\n".join(lines)), clip]
            lines = []
        else:
            stills = self.stills(video)
            for number, frame in enumerate(stills, 1):
                lines.append(f"frame {number} of {len(stills)}, at {frame.timestamp_s:.2f} s:")
                parts += [Text("\n".join(lines)), Picture(frame.jpeg, frame.width, frame.height)]
                lines = []
        lines += [f"{label}: {words}" for label, words in words_of(video, self.evidence)]
        lines.append(f"<<end of video {name}>>")
        parts.append(Text("\n".join(lines)))
        return tuple(parts)

    def tokens(self, video: VideoFeatures, family: Family) -> int:
        """An estimate for `parts`, without making them."""
        tokens = _MARKS_TOKENS
        for place, _, most, _ in PLACES:
            if place in self.evidence:
                words = _words(video, place)
                if words:
                    tokens += _PLACE_TOKENS + text_tokens(words[:most])
        if "measurements" in self.evidence and video.visual_stats:
            tokens += _MEASURED_TOKENS
        if self.pictures:
            clip = self.clip(video)
            if clip is not None:
                tokens += clip_tokens(clip.duration_s, family)
            else:
                count = min(len(video.frames), self.frames)
                if count:
                    first = video.frames[0]
                    tokens += count * (_STILL_TOKENS + picture_tokens(first.width, first.height, family))
        return tokens


def words_of(video: VideoFeatures, evidence: Iterable[Evidence], most: int = 10**9) -> list[tuple[str, str]]:
    """(label, fenced words) of each place that is in `evidence` and not empty, each of at most `most` characters."""
    found = []
    for place, label, limit, tail in PLACES:
        if place in evidence:
            words = _words(video, place)
            fence = fenced(words, min(limit, most), tail if limit <= most else 0) if words else ""
            if fence:
                found.append((label, fence))
    return found


def _words(video: VideoFeatures, place: Evidence) -> str:
    if place == "title":
        return video.title
    if place == "description":
        return video.description
    if place == "transcript":
        return video.transcript
    if place == "onscreen_text":
        return video.onscreen_text
    if place == "hashtags":
        return " ".join(["#" + tag.lstrip("#") for tag in video.hashtags]) if video.hashtags else ""
    return ", ".join([f"{tag.name} {tag.probability:.2f}" for tag in video.visual_tags if tag.probability >= _TAG_FROM])


def _measured(video: VideoFeatures) -> list[str]:
    said = described(video)
    lines = [f"measured: {'; '.join(said)}"] if said else []
    values = named_stats(VISUAL_STATS, video.visual_stats) | named_stats(SOUND_STATS, video.sound_stats)
    numbers = [f"{name} {values[name]:{form}}" for name, form, _ in NUMBERS if math.isfinite(values.get(name, math.nan))]
    return [*lines, f"numbers: {', '.join(numbers)}"] if numbers else lines


def places_said(evidence: Sequence[Evidence]) -> str:
    """Names of places for a sentence: `the frames, the title and the transcript`."""
    labels = {place: label for place, label, *_ in PLACES}
    names = [f"the {labels.get(each, each)}" for each in evidence]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
