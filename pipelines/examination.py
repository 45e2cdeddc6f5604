"""What `vidattr doctor` looks at."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import psutil

from features import weights
from features.errors import Transient, VidattrError
from features.videos.decoding import Decoder
from features.workspace import Workspace

NEEDED_MEMORY_GIB = 4
NEEDED_DISK_GIB = 1
PACKAGES = {
    "apache-beam": "2.77", "tensorflow": "2.21", "tensorflow-transform": "1.21", "keras": "3.15", "feast": "0.67", "av": "18.1",
}  # fmt: skip
EXTRAS = {"faster-whisper": "speech", "rapidocr": "ocr", "redis": "redis", "librosa": "audio", "xllamacpp": "llm"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        what: its name.
        state: ok, missing (the main job needs it) or optional.
        found: what is there.
        remedy: what to do; nothing when all is well.
    """

    what: str
    state: Literal["ok", "missing", "optional"]
    found: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.state == "ok":
            object.__setattr__(self, "remedy", "")


def _sealed_room() -> Finding:
    """Whether a decoder that is taken over by a hostile file finds anything to reach; tried from inside of one."""
    with Decoder(1) as decoder:
        try:
            open_walls = [wall for wall, how in decoder.examine().items() if not how]
        except Transient as error:
            return Finding("sealed room", "missing", "no decoding process", str(error))
    return Finding(
        "sealed room",
        "optional" if open_walls else "ok",
        f"a decoder can reach: {', '.join(open_walls)}" if open_walls else "a decoder reaches no file, socket or process",
        "Linux 6.12 or later with Landlock; permissions stay within reach of all but root: run it as a user who owns little",
    )


def examine(workspace: str) -> list[Finding]:
    """Looks at Python, packages, weights, memory, disk, the kernel's confinement, and services; changes nothing."""
    findings = [
        Finding(
            "Python",
            "ok" if (3, 11) <= sys.version_info[:2] < (3, 14) else "missing",
            sys.version.split()[0],
            "install Python 3.11 to 3.13",
        )
    ]
    for package, wanted in PACKAGES.items():
        found = _version(package)
        fits = found.startswith(wanted)
        findings.append(
            Finding(package, "ok" if fits else "missing", found or "-", "" if fits else f"pip install '{package}=={wanted}.*'")
        )
    for package, extra in EXTRAS.items():
        found = _version(package)
        findings.append(
            Finding(
                f"{package} ({extra})",
                "ok" if found else "optional",
                found or "-",
                "" if found else f"pip install 'vidattr[{extra}]'",
            )
        )
    for name, ok, message in weights.verify():
        findings.append(
            Finding(f"weights {name}", "ok" if ok else "missing", message, "" if ok else f"vidattr weights install {name}")
        )
    memory = psutil.virtual_memory().available / 2**30
    findings.append(
        Finding(
            "memory",
            "ok" if memory >= NEEDED_MEMORY_GIB else "missing",
            f"{memory:.1f} GiB free",
            f"{NEEDED_MEMORY_GIB} GiB for a run",
        )
    )
    findings.append(_disk(workspace))
    findings.append(_sealed_room())
    redis = shutil.which("redis-server")
    findings.append(Finding("redis-server", "ok" if redis else "optional", redis or "-", "" if redis else "make services"))
    credentials = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")
    findings.append(
        Finding(
            "Google credentials",
            "ok" if os.path.isfile(credentials) else "optional",
            "set" if credentials else "-",
            "" if credentials else "only for gs:// and Dataflow: gcloud auth application-default login",
        )
    )
    return findings


def _disk(workspace: str) -> Finding:
    place = Workspace(workspace)
    try:
        place.check_writable()
    except VidattrError as error:
        return Finding("workspace", "missing", place.root, str(error))
    if place.root.startswith("gs://"):
        return Finding("workspace", "ok", place.root)
    free = shutil.disk_usage(place.root).free / 2**30
    enough = free >= NEEDED_DISK_GIB
    return Finding(
        "workspace", "ok" if enough else "missing", f"{place.root}, {free:.1f} GiB free", "" if enough else "free some space"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
