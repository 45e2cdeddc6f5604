"""`vidattr.yaml` of a workspace: every setting that is not a flag of one run. Flags win over it; unknown keys are refused."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from features import storage
from features.annotators.settings import ModelSettings, PaceSettings, PromptSettings
from features.errors import InvalidInput
from features.videos.image_encoder import VisualSettings
from features.videos.probe import Limits
from features.videos.wire import MODES as FRAME_MODES
from features.weights import WeightsConfig
from features.workspace import Workspace

FILE = "vidattr.yaml"
PARTS = ("all", "evidence")
RANGES = {"workers": (1, 64), "max_age_days": (0, 36500)}
"""The least and the most that a setting may be: processes that one machine can bear, and a century."""


@dataclass(frozen=True)
class FallbackSettings:
    """Who is asked where the annotator refuses or is down.

    Attributes:
        annotator: as in `Configuration`; empty: nobody.
        recording: of a replay annotator.
        model: which model, where.
    """

    annotator: str = ""
    recording: str = ""
    model: ModelSettings = field(default_factory=ModelSettings)


@dataclass(frozen=True)
class Configuration:
    """All settings of a workspace.

    Attributes:
        annotator: who answers by default.
        recording: the answers of the replay annotator.
        model: of a model annotator: which one, where, how it is called; see `features.annotators.settings.ModelSettings`.
        prompt: what it is asked and shown; see `features.annotators.settings.PromptSettings`.
        pace: how fast and how much is asked; see `features.annotators.settings.PaceSettings`.
        fallback: who is asked where the annotator refuses or is down.
        prices: a price table of your own (YAML), merged over the built-in one.
        answers: where answers are kept: the path of an sqlite file, or redis://HOST:PORT; empty: in the workspace.
        options: NAME=VALUE, for an annotator of somebody else's package.
        online_store: sqlite, or redis://HOST:PORT.
        speech: recognise speech where a manifest has no transcript and the extra `speech` is installed.
        onscreen: read words in the pictures where the extra `ocr` is installed.
        tempo: measure the beats a minute of music where the extra `audio` is installed.
        frames: how stills are chosen: exact (everything is decoded), or keyframes (faster: one stands for its neighbourhood).
        visual: how a picture encoder of your own is shown pictures; see `features.videos.image_encoder.VisualSettings`.
        parts: all, or `evidence`: of speech, on-screen text and pictures only what some attribute in force admits as evidence.
        duplicates: of near-duplicates ask about one, and carry its answers over to the others.
        workers: videos decoded at the same time in a process, 1 to 64.
        max_age_days: an online value older than this is marked stale; 0: never; at most 36500.
        limits: what a video may be; see `features.videos.probe.Limits`.
        weights: replacements for the built-in weights.
    """

    annotator: str = "baseline"
    recording: str = ""
    model: ModelSettings = field(default_factory=ModelSettings)
    prompt: PromptSettings = field(default_factory=PromptSettings)
    pace: PaceSettings = field(default_factory=PaceSettings)
    fallback: FallbackSettings = field(default_factory=FallbackSettings)
    prices: str = ""
    answers: str = ""
    options: dict[str, str] = field(default_factory=dict)
    online_store: str = "sqlite"
    speech: bool = True
    onscreen: bool = True
    tempo: bool = True
    frames: str = "exact"
    visual: VisualSettings = field(default_factory=VisualSettings)
    parts: str = "all"
    duplicates: bool = True
    workers: int = 2
    max_age_days: float = 0.0
    limits: Limits = field(default_factory=Limits)
    weights: WeightsConfig = field(default_factory=WeightsConfig)

    def __post_init__(self) -> None:
        """Raises InvalidInput naming a setting that is out of its range."""
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if not least <= value <= most:  # nan is in no range
                raise InvalidInput(f"{name} is {value!r}; write a number from {least} to {most}")
        if self.frames not in FRAME_MODES:
            raise InvalidInput(f"frames is {self.frames!r}; write one of {', '.join(FRAME_MODES)}")
        if self.parts not in PARTS:
            raise InvalidInput(f"parts is {self.parts!r}; write one of {', '.join(PARTS)}")


def load_configuration(workspace: Workspace, **flags: Any) -> Configuration:
    """The workspace's settings; flags that are not None win. A flag that is a dict holds flags of a group, such as `model`.

    Raises:
        InvalidInput: no YAML, an unknown key (with the nearest known one), or a value of the wrong type or out of its range.
    """
    path = workspace.path(FILE)
    settings: Any = {}
    if storage.exists(path):
        try:
            settings = yaml.safe_load(storage.read_bytes(path)) or {}
        except yaml.YAMLError as error:
            raise InvalidInput(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    configured: Configuration = _filled(Configuration, settings, path, "")
    asked = flags.get("annotator")
    if asked and "annotator" in settings and asked != configured.annotator:
        # The file's model, its address and its options belong to the file's annotator.
        configured = dataclasses.replace(configured, model=ModelSettings(), options={})
    second = (flags.get("fallback") or {}).get("annotator")
    if second and configured.fallback.annotator and second != configured.fallback.annotator:
        configured = dataclasses.replace(configured, fallback=FallbackSettings())
    return with_flags(configured, flags)


def with_flags(settings: Any, flags: Mapping[str, Any]) -> Any:
    """`settings` with the flags that are not None, group by group."""
    chosen = {}
    for name, value in flags.items():
        if isinstance(value, Mapping):
            now = getattr(settings, name)
            chosen[name] = with_flags(now, value) if dataclasses.is_dataclass(now) else {**now, **value}
        elif value is not None:
            chosen[name] = value
    return dataclasses.replace(settings, **chosen) if chosen else settings


def _filled(kind: Any, settings: Any, path: str, prefix: str) -> Any:
    if not isinstance(settings, dict):
        raise InvalidInput(f"{path}: {prefix.rstrip('.') or 'the file'} must hold name: value pairs, not {settings!r}")
    types = typing.get_type_hints(kind)
    values = {}
    for name, value in settings.items():
        if name not in types:
            near = difflib.get_close_matches(str(name), types, 1) or [
                f"{group}.{name}" for group, inner in types.items() if dataclasses.is_dataclass(inner) and hasattr(inner, str(name))
            ]
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(sorted(types))}"
            raise InvalidInput(f"{path}: {prefix}{name} is no setting; {hint}")
        wanted = types[name]
        if dataclasses.is_dataclass(wanted):
            values[name] = _filled(wanted, value, path, f"{prefix}{name}.")
            continue
        if wanted is float and type(value) is int:
            value = float(value)
        if typing.get_origin(wanted) is dict:
            if not isinstance(value, dict):
                raise InvalidInput(f"{path}: {prefix}{name} is {value!r}; write `NAME: VALUE` lines below it")
            value = {str(key): str(item) for key, item in value.items()}
        if isinstance(wanted, type) and type(value) is not wanted:
            raise InvalidInput(f"{path}: {prefix}{name} is {value!r}; write a value of type {wanted.__name__}")
        values[name] = value
    try:
        return kind(**values)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{path}: {prefix.rstrip('.') or FILE}: {error}") from error
