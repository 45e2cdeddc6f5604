"""What a decoder that is taken over could reach: tried from inside, in the very process that decodes."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from features.videos.decoding import Decoder
from features.videos.sealed_room import WALLS

LOOK = """
import json, os, sys
from features.videos import sealed_room
from features.videos.probe import Limits
parent = os.getppid()
sealed_room.prepare()
{steps}
print(json.dumps(sealed_room.examine(parent)))
"""
LANDLOCK = "sealed_room.Landlock(strict=False).apply()"
LIMITS = "sealed_room.set_limits(Limits())"
FOR_EVERYBODY = {"files", "udp", "tcp", "unix_sockets", "memory", "processor_time"}
"""What limits alone keep in, on any kernel and for any user."""


def looked(repo_root: pathlib.Path, steps: str) -> dict[str, str]:
    command = [sys.executable, "-c", LOOK.format(steps=steps)]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def has_landlock(least: int) -> bool:
    try:
        from py_landlock import Landlock, LandlockError
    except ImportError:
        return False
    try:
        return Landlock().abi_version >= least
    except LandlockError:
        return False


def test_a_decoder_reaches_nothing() -> None:
    with Decoder(1) as decoder:
        found = decoder.examine()
        again = decoder.examine()
    assert tuple(found) == WALLS and again == found
    if not has_landlock(6):
        pytest.skip(f"this kernel's Landlock does not keep signals in; what held: {found}")
    assert all(found.values()), f"within reach: {[wall for wall, how in found.items() if not how]}"


def test_outside_of_the_room_all_of_it_is_within_reach(repo_root: pathlib.Path) -> None:
    """Else a look from inside would say nothing."""
    found = looked(repo_root, "")
    open_walls = {wall for wall, how in found.items() if not how}
    assert open_walls >= {"files", "changes", "programs", "processes", "udp", "unix_sockets", "signals"}


def test_each_of_the_two_walls_holds_alone(repo_root: pathlib.Path) -> None:
    limited = looked(repo_root, LIMITS)
    assert {wall for wall, how in limited.items() if how} >= FOR_EVERYBODY
    if not has_landlock(4):
        pytest.skip("this kernel has no Landlock with TCP")
    confined = looked(repo_root, LANDLOCK)
    assert {wall for wall, how in confined.items() if how} >= {"files", "changes", "programs", "tcp"}
    assert confined["files"] == confined["programs"] == confined["tcp"] == "PermissionError"
