"""Puts models and extractor together: the one place that knows both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from features.attributes.definition import AttributeDefinition, Evidence
from features.videos import embedding, image_encoder, onscreen_text, speech, tempo
from features.videos.extractor import Extractor
from features.videos.image_encoder import VisualSettings
from features.videos.probe import Limits
from features.weights import WeightsConfig
from pipelines.configuration import Configuration


@dataclass(frozen=True)
class EncoderConfig:
    """Which models look and listen.

    Attributes:
        weights: replacements for the built-in weights.
        speech: recognise speech where the manifest has no transcript and the extra `speech` is installed.
        onscreen: read words in the pictures where the extra `ocr` is installed.
        tempo: measure the beats a minute of music where the extra `audio` is installed.
        visual: embed and tag frames.
        text: embed text.
        frames: how stills are chosen, one of `features.videos.wire.MODES`.
        looking: how a visual encoder of one's own is shown pictures, and whether each still's embedding is kept.
    """

    weights: WeightsConfig = field(default_factory=WeightsConfig)
    speech: bool = True
    onscreen: bool = True
    tempo: bool = True
    visual: bool = True
    text: bool = True
    frames: str = "exact"
    looking: VisualSettings = field(default_factory=VisualSettings)


DECODING_ALONE = EncoderConfig(speech=False, onscreen=False, tempo=False, visual=False, text=False)
"""Nothing beyond what decoding itself gives."""

NEEDED_FOR: dict[str, frozenset[Evidence]] = {
    "speech": frozenset(["transcript"]),
    "onscreen": frozenset(["onscreen_text"]),
    "tempo": frozenset(["measurements"]),
    "visual": frozenset(["frames", "tags"]),
}
"""Evidence that each part brings. A part that is not named here is always there: text, and what decoding itself gives."""


def encoders_of(settings: Configuration, definitions: Sequence[AttributeDefinition] = ()) -> EncoderConfig:
    """What a workspace's settings say of it.

    Args:
        settings: of the workspace.
        definitions: the attributes in force. With `parts: evidence` what none of them admits is not looked for; without any
            definition, everything is.
    """
    encoders = EncoderConfig(
        weights=settings.weights,
        speech=settings.speech,
        onscreen=settings.onscreen,
        tempo=settings.tempo,
        frames=settings.frames,
        looking=settings.visual,
    )
    return narrowed(encoders, definitions) if settings.parts == "evidence" and definitions else encoders


def narrowed(encoders: EncoderConfig, definitions: Sequence[AttributeDefinition]) -> EncoderConfig:
    """The same with those parts off whose evidence no definition admits."""
    admitted = {place for definition in definitions for place in definition.evidence}
    unneeded = [name for name, evidence in NEEDED_FOR.items() if not evidence & admitted]
    return replace(encoders, **dict.fromkeys(unneeded, False))


def build_extractor(encoders: EncoderConfig, limits: Limits, workers: int) -> Extractor:
    """An extractor with its models, none of which is loaded before the first video needs it."""
    weights = encoders.weights
    return Extractor(
        speech.load_transcriber(weights) if encoders.speech and speech.available(weights) is None else None,
        embedding.load_text_encoder(weights) if encoders.text else None,
        image_encoder.load_visual_encoder(weights, encoders.looking) if encoders.visual else None,
        limits,
        workers,
        encoders.frames,
        screen_reader=onscreen_text.load_screen_reader() if encoders.onscreen and onscreen_text.available() is None else None,
        tempo_meter=tempo.load_tempo_meter() if encoders.tempo and tempo.available() is None else None,
        per_frame=encoders.looking.per_frame,
    )
