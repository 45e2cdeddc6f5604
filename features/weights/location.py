"""Finding a set of model files, checked the first time in a process."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

from features.errors import InvalidInput, Permanent
from features.weights.places import fault, weights_folder
from features.weights.replacement import replaced
from features.weights.table import BUILT_IN, TABLE, Weight, WeightsConfig, entry

_lock = threading.Lock()
_places: dict[tuple[str, ...], tuple[Path, str]] = {}


def _place(name: str, config: WeightsConfig, table: Mapping[str, Weight], folder: Path | None) -> tuple[Path, str]:
    """Finds and checks a set, once a process."""
    weight, folder = entry(name, table), folder or weights_folder()
    location, wanted = config.location(name), config.sha256(name)
    key = (str(folder), weight.identity, location, wanted)
    with _lock:
        if key not in _places:
            if location:
                _places[key] = replaced(name, location, wanted, folder)
            else:
                place = folder / weight.identity
                if wrong := fault(place):
                    remedy = f"run `vidattr weights install {name}` once, with a network"
                    message = f"weights {name}: {wrong} (looked in {folder}): {remedy}"
                    raise Permanent(message, "wrong_digest") if place.is_dir() else InvalidInput(message)
                _places[key] = place, weight.identity
        return _places[key]


def locate(name: str, config: WeightsConfig = BUILT_IN, *, table: Mapping[str, Weight] = TABLE, folder: Path | None = None) -> Path:
    """The file or folder of a set, compared with its digests the first time in a process. Never downloads what is built in.

    Raises:
        InvalidInput: it is not installed, or the configured place does not exist.
        Permanent: kind `wrong_digest`, a file is not the one that was installed or configured.
        Transient: Google Cloud Storage did not answer.
    """
    return _place(name, config, table, folder)[0]


def version_of(
    name: str, config: WeightsConfig = BUILT_IN, *, table: Mapping[str, Weight] = TABLE, folder: Path | None = None
) -> str:
    """What an extractor's version says about a set: NAME-VERSION-DIGEST, or NAME-custom-DIGEST of a replaced one.

    A built-in set need not be installed for this; a replaced one is read. Raises what `locate` raises.
    """
    return _place(name, config, table, folder)[1] if config.location(name) else entry(name, table).identity
