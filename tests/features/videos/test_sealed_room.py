"""What a decoder that is taken over could reach: tried from inside, in the very process that decodes."""

from __future__ import annotations

import json
import os
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
own = os.open(sys.argv[1], os.O_RDONLY)
sealed_room.prepare()
{steps}
found = sealed_room.examine(parent, own)
print(json.dumps(found), flush=True)
sealed_room.end_as_program()
"""
LANDLOCK = "sealed_room.Landlock(strict=False).apply()"
LIMITS = "sealed_room.set_limits(Limits())"
STRANGER = "sealed_room._leave_root()"
FOR_EVERYBODY = {"files", "udp", "tcp", "unix_sockets", "memory", "processor_time"}
"""What limits alone keep in, on any kernel and for any user."""


def looked(repo_root: pathlib.Path, own: pathlib.Path, steps: str) -> dict[str, str]:
    own.touch()
    command = [sys.executable, "-c", LOOK.format(steps=steps), str(own)]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True)
    return {**json.loads(done.stdout), "programs": "" if done.returncode else "refused"}


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
    assert all(found[wall] for wall in FOR_EVERYBODY)
    if os.geteuid():
        pytest.skip("the user of these tests owns files; only root's decoders become users of their own")
    assert all(found[wall] for wall in ("permissions", "processes"))
    if not has_landlock(6):
        pytest.skip(f"this kernel's Landlock does not keep signals in; what held: {found}")
    assert all(found.values()), f"within reach: {[wall for wall, how in found.items() if not how]}"


def test_outside_of_the_room_all_of_it_is_within_reach(repo_root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Else a look from inside would say nothing."""
    found = looked(repo_root, tmp_path / "own", "")
    assert {wall for wall, how in found.items() if not how} >= set(WALLS) - {"memory", "processor_time"}


def test_each_wall_holds_alone(repo_root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    limited = looked(repo_root, tmp_path / "own", LIMITS)
    assert {wall for wall, how in limited.items() if how} >= FOR_EVERYBODY
    if os.geteuid() == 0:
        stranger = looked(repo_root, tmp_path / "own", STRANGER)
        assert {wall for wall, how in stranger.items() if how} >= {"permissions", "signals"}
    if not has_landlock(4):
        pytest.skip("this kernel has no Landlock with TCP")
    confined = looked(repo_root, tmp_path / "own", LANDLOCK)
    assert {wall for wall, how in confined.items() if how} >= {"files", "changes", "programs", "tcp"}
    assert confined["files"] == confined["changes"] == confined["tcp"] == "PermissionError"
