"""What lies in the weights folder, and whether it is what was put there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from features import WEIGHTS_DEFAULT, WEIGHTS_VARIABLE
from features.errors import InvalidInput
from features.weights.table import TABLE, Weight, chosen

RECEIPT = "weights.json"
"""Names the digest of every file beside it; a folder without it is not installed."""


class Verdict(NamedTuple):
    """What `verify` found: whether the set `name` is whole, and a sentence about it."""

    name: str
    ok: bool
    message: str


class Row(NamedTuple):
    """One line of `listing`."""

    name: str
    package: str
    version: str
    licence: str
    size: int
    purpose: str
    sha256: str
    state: str
    path: str
    optional: bool


def weights_folder() -> Path:
    """$VIDATTR_WEIGHTS, else ~/.cache/vidattr/weights; it need not exist."""
    return Path(os.environ.get(WEIGHTS_VARIABLE) or WEIGHTS_DEFAULT).expanduser().absolute()


def sha256_of(path: Path) -> str:
    """SHA-256 of one file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(path: Path) -> str:
    """SHA-256 of a file; of a folder, SHA-256 over `DIGEST  RELATIVE/PATH` lines, as of sha256sum, in order of path."""
    if path.is_file():
        return sha256_of(path)
    files = sorted((file for file in path.rglob("*") if file.is_file()), key=lambda file: file.relative_to(path).as_posix())
    lines = "".join(f"{sha256_of(file)}  {file.relative_to(path).as_posix()}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def fault(place: Path) -> str:
    """What is wrong with an installed set, empty when nothing is. Reads every file."""
    if not place.is_dir():
        return "not installed"
    try:
        files = json.loads((place / RECEIPT).read_text("utf-8"))["files"]
        for file, sha256 in files.items():
            found = sha256_of(place / file)
            if found != sha256:
                return f"{place / file} has SHA-256 {found}, not {sha256}"
    except OSError as error:
        return f"{error.filename} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{place / RECEIPT} is damaged ({type(error).__name__})"
    return "" if files else f"{place / RECEIPT} names no file"


def write_receipt(built: Path, **facts: str | int) -> None:
    """Notes the digest of every file of a finished folder in it, with `facts` about where they come from."""
    files = {file.relative_to(built).as_posix(): sha256_of(file) for file in sorted(built.rglob("*")) if file.is_file()}
    (built / RECEIPT).write_text(json.dumps({**facts, "files": files}, indent=1) + "\n", "utf-8")


def verify(names: Iterable[str] | None = None, *, table: Mapping[str, Weight] = TABLE, folder: Path | None = None) -> list[Verdict]:
    """Hashes every installed file again and says, set by set, whether it is what was installed.

    Raises InvalidInput on a name that is not in the table. None is all of them but the optional ones that are not installed.
    """
    folder = folder or weights_folder()
    sets = chosen(names, table)
    if names is None:
        sets += [weight for weight in table.values() if weight.optional and (folder / weight.identity).is_dir()]
    verdicts = []
    for weight in sets:
        place = folder / weight.identity
        wrong = fault(place)
        message = f"{wrong}: run `vidattr weights install {weight.name}`" if wrong else f"{place} is whole"
        verdicts.append(Verdict(weight.name, not wrong, message))
    return verdicts


def listing(*, table: Mapping[str, Weight] = TABLE, folder: Path | None = None) -> list[Row]:
    """Every known set, and whether it is installed; reads no file's content."""
    rows = []
    for weight in table.values():
        place = (folder or weights_folder()) / weight.identity
        state = "installed" if (place / RECEIPT).is_file() else "missing"
        origin = (weight.name, weight.package, weight.version, weight.licence, weight.size, weight.purpose, weight.sha256)
        rows.append(Row(*origin, state, str(place), weight.optional))
    return rows


def file_in(place: Path, file: str) -> Path:
    """A file of a set: below its folder, or the set itself when it is a single file. Raises InvalidInput when it is missing."""
    path = place if place.is_file() else place / file
    if not path.is_file():
        raise InvalidInput(f"{place} holds no {file}: name a folder that does in `weights:` of vidattr.yaml")
    return path
