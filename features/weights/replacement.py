"""Model files that configuration names instead of the built-in ones: a path, an archive, or objects on gs://."""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

from features import storage
from features.errors import InvalidInput, Permanent
from features.weights.places import RECEIPT, digest_of, fault, write_receipt


def _wrong(name: str, place: str, found: str, wanted: str) -> Permanent:
    remedy = f"put the meant file there, or correct `weights: {name}_sha256:`"
    return Permanent(f"weights {name}: {place} has SHA-256 {found}, not {wanted}; {remedy}", "wrong_digest")


def _opened(found: Path, digest: str, name: str, folder: Path) -> Path:
    """The place itself, or what an archive holds, unpacked below the weights folder."""
    if not found.is_file() or not (zipfile.is_zipfile(found) or tarfile.is_tarfile(found)):
        return found
    target = folder / f"{name}-custom-{digest[:16]}-unpacked"
    if fault(target):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
            inside = Path(partial, "inside")
            _extract(found, inside)
            write_receipt(inside, name=name, archive_sha256=digest)
            _claim(inside, target)
    entries = [entry for entry in target.iterdir() if entry.name != RECEIPT]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else target


def _extract(archive: Path, into: Path) -> None:
    """Unpacks an archive; no member gets out of `into`. Raises Permanent of kind `hostile_archive` when one tries."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped:
                zipped.extractall(into)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(into, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise Permanent(f"{archive} cannot be unpacked ({error}); pack its files again", "hostile_archive") from error


def _claim(built: Path, place: Path) -> None:
    """Renames, unless another process was faster: a place named by its content's digest holds the same."""
    try:
        os.rename(built, place)
    except OSError:
        if not place.exists():
            raise


def _fetch(name: str, location: str, wanted: str, folder: Path) -> Path:
    """Copies an object, or everything below a prefix, to a place named by its digest."""
    if wanted and (kept := sorted((folder / f"{name}-custom-{wanted[:16]}").glob("*"))):
        place = kept[0]
        if digest_of(place) == wanted:
            return place
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
        copy = Path(partial, "copy", PurePosixPath(location).name)
        copy.parent.mkdir()
        if storage.exists(location):
            storage.download(location, str(copy))
        else:
            prefix = location.rstrip("/") + "/"
            objects = list(storage.list_names(location))
            if not objects:
                raise InvalidInput(f"weights {name}: nothing is at {location}: correct `weights: {name}:` in vidattr.yaml")
            for item in objects:
                if not item.endswith("/"):
                    target = Path(storage.join(str(copy), item.removeprefix(prefix)))
                    target.parent.mkdir(parents=True, exist_ok=True)
                    storage.download(item, str(target))
        digest = digest_of(copy)
        if wanted and digest != wanted:
            raise _wrong(name, location, digest, wanted)
        place = folder / f"{name}-custom-{digest[:16]}"
        if place.exists() and digest_of(place / copy.name) != digest:
            shutil.rmtree(place)
        _claim(copy.parent, place)
        return place / copy.name


def replaced(name: str, location: str, wanted: str, folder: Path) -> tuple[Path, str]:
    """The file or folder that replaces a set, and its identity.

    Args:
        name: of the set.
        location: a local path or gs:// address.
        wanted: the digest it must have, or empty.
        folder: the weights folder, for what has to be copied or unpacked.

    Raises:
        InvalidInput: there is nothing at the location.
        Permanent: kind `wrong_digest`, or `hostile_archive`.
        Transient: Google Cloud Storage did not answer.
    """
    if storage.is_gcs(location):
        folder.mkdir(parents=True, exist_ok=True)
        found = _fetch(name, location, wanted, folder)
    else:
        found = Path(location).expanduser().absolute()
        if not found.exists():
            raise InvalidInput(f"weights {name}: {location!r} does not exist: correct `weights: {name}:` in vidattr.yaml")
    digest = digest_of(found)
    if wanted and digest != wanted:
        raise _wrong(name, location, digest, wanted)
    return _opened(found, digest, name, folder), f"{name}-custom-{digest[:8]}"
