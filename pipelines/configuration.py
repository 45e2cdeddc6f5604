"""`vidattr.yaml` of a workspace: every setting that is not a flag of one run. Flags win over it; unknown keys are refused."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from dataclasses import dataclass, field
from typing import Any

import yaml

from features import storage
from features.errors import InvalidInput
from features.videos.probe import Limits
from features.weights import WeightsConfig
from features.workspace import Workspace

FILE = "vidattr.yaml"
RANGES = {"workers": (1, 64), "in_flight": (1, 1024), "max_age_days": (0, 36500)}
"""The least and the most that a setting may be: processes and requests that one machine can bear, and a century."""


@dataclass(frozen=True)
class Configuration:
    """All settings of a workspace.

    Attributes:
        annotator: who answers by default.
        recording: the answers of the replay annotator.
        online_store: sqlite, or redis://HOST:PORT.
        speech: recognise speech where a manifest has no transcript.
        workers: videos decoded at the same time in a process, 1 to 64.
        in_flight: requests to an annotator at the same time in a process, 1 to 1024.
        max_age_days: an online value older than this is marked stale; 0: never; at most 36500.
        limits: what a video may be; see `features.videos.probe.Limits`.
        weights: replacements for the built-in weights.
    """

    annotator: str = "baseline"
    recording: str = ""
    online_store: str = "sqlite"
    speech: bool = True
    workers: int = 2
    in_flight: int = 16
    max_age_days: float = 0.0
    limits: Limits = field(default_factory=Limits)
    weights: WeightsConfig = field(default_factory=WeightsConfig)

    def __post_init__(self) -> None:
        """Raises InvalidInput naming a setting that is out of its range."""
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            if not least <= value <= most:  # nan is in no range
                raise InvalidInput(f"{name} is {value!r}; write a number from {least} to {most}")


def load_configuration(workspace: Workspace, **flags: Any) -> Configuration:
    """The workspace's settings; flags that are not None win.

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
    chosen = {name: value for name, value in flags.items() if value is not None}
    configured: Configuration = _filled(Configuration, settings, path, "")
    return dataclasses.replace(configured, **chosen)


def _filled(kind: Any, settings: Any, path: str, prefix: str) -> Any:
    if not isinstance(settings, dict):
        raise InvalidInput(f"{path}: {prefix.rstrip('.') or 'the file'} must hold name: value pairs, not {settings!r}")
    types = typing.get_type_hints(kind)
    values = {}
    for name, value in settings.items():
        if name not in types:
            near = difflib.get_close_matches(str(name), types, 1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(sorted(types))}"
            raise InvalidInput(f"{path}: {prefix}{name} is no setting; {hint}")
        wanted = types[name]
        if dataclasses.is_dataclass(wanted):
            values[name] = _filled(wanted, value, path, f"{prefix}{name}.")
            continue
        if wanted is float and type(value) is int:
            value = float(value)
        if isinstance(wanted, type) and type(value) is not wanted:
            raise InvalidInput(f"{path}: {prefix}{name} is {value!r}; write a value of type {wanted.__name__}")
        values[name] = value
    try:
        return kind(**values)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{path}: {prefix.rstrip('.') or FILE}: {error}") from error
