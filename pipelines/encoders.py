"""Puts models and extractor together: the one place that knows both."""

from __future__ import annotations

from dataclasses import dataclass, field

from features.videos import embedding, image_encoder, speech
from features.videos.extractor import Extractor
from features.videos.probe import Limits
from features.weights import WeightsConfig
from pipelines.configuration import Configuration


@dataclass(frozen=True)
class EncoderConfig:
    """Which models look and listen.

    Attributes:
        weights: replacements for the built-in weights.
        speech: recognise speech where the manifest has no transcript and the extra `speech` is installed.
        visual: embed and tag frames.
        text: embed text.
        frames: how stills are chosen, one of `features.videos.wire.MODES`.
    """

    weights: WeightsConfig = field(default_factory=WeightsConfig)
    speech: bool = True
    visual: bool = True
    text: bool = True
    frames: str = "exact"


def encoders_of(settings: Configuration) -> EncoderConfig:
    """What a workspace's settings say of it."""
    return EncoderConfig(weights=settings.weights, speech=settings.speech, frames=settings.frames)


def build_extractor(encoders: EncoderConfig, limits: Limits, workers: int) -> Extractor:
    """An extractor with its models, none of which is loaded before the first video needs it."""
    weights = encoders.weights
    return Extractor(
        speech.load_transcriber(weights) if encoders.speech and speech.available(weights) is None else None,
        embedding.load_text_encoder(weights) if encoders.text else None,
        image_encoder.load_visual_encoder(weights) if encoders.visual else None,
        limits,
        workers,
        encoders.frames,
    )
