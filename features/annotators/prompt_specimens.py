"""Made-up definitions and videos, written about in every shape of prompt: a digest of that tells one wording from another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from features.annotators.exchange import Clip, Picture, Prompt, Text
from features.annotators.prompt_examples import Rated
from features.annotators.protocol import AnnotationRequest, Repair
from features.annotators.settings import PromptSettings
from features.attributes.definition import AttributeDefinition, Example
from features.errors import Permanent
from features.records import SOUND_STATS, VISUAL_STATS, Annotation, Frame, Tag, VideoFeatures

_LONG = " ".join(f"word{number} <|x|> e\u0301\u200b [INST]" for number in range(700))
_SOLID = "".join(map(str, range(3000)))


class Writer(Protocol):
    """A `PromptWriter`."""

    settings: PromptSettings

    def write(self, request: AnnotationRequest) -> Prompt: ...


@dataclass(frozen=True)
class _Specimen:
    video: VideoFeatures
    annotation: Annotation


_BOOLEAN = AttributeDefinition(
    "b",
    "B",
    "Is it b?",
    "It is b.",
    ("b counts",),
    ("c does not",),
    (Example("b is shown", "true", "b"),),
    evidence=("frames", "title", "description", "hashtags", "transcript", "onscreen_text", "tags", "measurements"),
)
_DEFINITIONS = (
    _BOOLEAN,
    replace(_BOOLEAN, name="n", evidence=("title", "frames"), examples=()),
    replace(_BOOLEAN, name="m", evidence=tuple(place for place in _BOOLEAN.evidence if place != "title"), examples=()),
    replace(_BOOLEAN, name="w", value_type="category", labels=("calm", "lively"), examples=()),
    replace(_BOOLEAN, name="l", value_type="category", labels=("very calm", "very lively"), examples=()),
    replace(_BOOLEAN, name="s", value_type="score", score_range=(1.0, 5.0), examples=()),
    replace(_BOOLEAN, name="t", value_type="score", score_range=(0.0, 1.0), examples=()),
)
_VIDEO = VideoFeatures(
    "specimen",
    "0",
    "0",
    "0",
    uri="/specimen.mp4",
    title=_LONG,
    description=_LONG,
    hashtags=tuple(_LONG.split()),
    language="en",
    duration_s=12.34,
    has_audio=True,
    frames=tuple(Frame(number * 0.75, 512, 288, b"") for number in range(16)),
    visual_stats=tuple(0.1 for _ in VISUAL_STATS),
    sound_stats=tuple(-10.0 for _ in SOUND_STATS),
    transcript=_LONG,
    onscreen_text=_LONG,
    visual_tags=(Tag("seen", 0.9), Tag("unseen", 0.1)),
)


def written(writer_for: Callable[[Sequence[AttributeDefinition], Sequence[Rated]], Writer]) -> Iterator[str]:
    """What a writer writes about the specimens in every shape that its settings lead to.

    Args:
        writer_for: makes a writer with the settings in question for these definitions and examples.
    """
    examples = tuple(
        _Specimen(
            _VIDEO, Annotation(f"e{value}", each.name, each.definition_hash, value, 0.75, "3 of 4 raters", "gold", "raters", "")
        )
        for each in _DEFINITIONS
        for value in _values(each)
    )
    writer = writer_for(_DEFINITIONS, examples)
    asked = [(each,) for each in _DEFINITIONS] if writer.settings.ask == "each" else [_DEFINITIONS]
    bare = VideoFeatures("bare", "0", "0", "0", title="t", visual_stats=tuple(0.1 for _ in VISUAL_STATS), frames=_VIDEO.frames[:1])
    low, high = (
        replace(_VIDEO, visual_stats=(far,) * len(VISUAL_STATS), sound_stats=(far,) * len(SOUND_STATS), duration_s=seconds)
        for far, seconds in ((-1000.0, 1.0), (1000.0, 1000.0))
    )
    # A text without spaces is cut to the character, and so tells one limit from the next.
    low = replace(low, title=_SOLID, description=_SOLID, hashtags=(_SOLID,), transcript=_SOLID, onscreen_text=_SOLID)
    low = replace(low, visual_tags=(Tag(_SOLID, 0.3),))
    videos = (_VIDEO, replace(_VIDEO, uri="gs://specimen/specimen.mp4"), bare, low, high)
    for definitions in asked:
        requests = [AnnotationRequest(video, definitions) for video in videos]
        requests += [
            AnnotationRequest(_VIDEO, definitions, repair=Repair(_LONG, _LONG)),
            AnnotationRequest(_VIDEO, definitions, repair=Repair("", "")),
        ]
        if writer.settings.videos_per_request > 1:
            requests.append(AnnotationRequest(_VIDEO, definitions, (bare,)))
        for request in requests:
            try:
                yield from _spelled(writer.write(request))
            except Permanent as error:
                yield str(error)


def _values(definition: AttributeDefinition) -> tuple[str, ...]:
    if definition.value_type == "boolean":
        return "true", "false"
    return definition.labels or ("1", "0.5")


def _spelled(prompt: Prompt) -> Iterator[str]:
    yield prompt.system
    yield json.dumps([prompt.schema, prompt.choices, prompt.shared_parts])
    for turn in prompt.turns:
        yield turn.role
        for part in turn.parts:
            if isinstance(part, Text):
                yield part.text
            elif isinstance(part, Picture):
                yield "picture"
            elif isinstance(part, Clip):
                yield f"clip {part.media_type}"
