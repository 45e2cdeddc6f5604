"""The room in which a stranger's video is decoded: its walls, and a look from inside at whether they hold.

Two walls back each other up, since neither is everywhere. Landlock (Linux 5.13 and later) takes away files, programs and TCP, and
from 6.12 signals and abstract sockets. Limits that every kernel has take away further descriptors, and with them every socket,
processes and threads, memory and time. Root is bound by no limit of processes, so a room that root makes is left to `nobody`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import math
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable

from features.videos.probe import Limits

if sys.platform == "linux":
    from py_landlock import Landlock, LandlockError

NOBODY = 65534
"""The user and group that own nothing, on every Linux."""

WALLS = ("files", "changes", "programs", "processes", "tcp", "udp", "unix_sockets", "signals", "memory", "processor_time")
"""What a room keeps in, in the order in which `vidattr doctor` tells it."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_TOO_LONG = "x" * (1 << 18)
"""Longer than any single argument that Linux takes (MAX_ARG_STRLEN, 128 KiB)."""


def prepare() -> None:
    """Loads what `seal` needs, which is files; called once before the processes are made that shut themselves in."""
    if sys.platform == "linux":
        with contextlib.suppress(LandlockError):
            _ = Landlock(strict=False).abi_version


def seal(limits: Limits, parent: int) -> None:
    """Shuts this process in, for good. Whatever of it this kernel does not have is left out: `examine` tells.

    It is called once all modules are loaded and all descriptors are closed but those that are needed.

    Args:
        limits: memory and processor time.
        parent: the process with which this one ends.
    """
    _leave_root()
    _die_with(parent)
    if sys.platform == "linux":
        with contextlib.suppress(LandlockError, OSError):
            Landlock(strict=False).apply()  # no rule: nothing is permitted
    set_limits(limits)


def set_limits(limits: Limits) -> None:
    """Memory, processor time, no writing to files, no core dumps, no further descriptors, processes and threads."""
    cpu = math.ceil(limits.cpu_s)
    for name, soft, hard in (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_FSIZE, 0, 0),
        (resource.RLIMIT_NPROC, 0, 0),
        (resource.RLIMIT_CPU, cpu, cpu + 1),
        (resource.RLIMIT_AS, limits.memory_bytes, limits.memory_bytes),
        (resource.RLIMIT_NOFILE, 0, 0),
    ):
        with contextlib.suppress(ValueError):  # a hard limit that is lower already
            resource.setrlimit(name, (soft, hard))


def _leave_root() -> None:
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):  # a container may not allow it
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)


def _die_with(parent: int) -> None:
    """Has the kernel end this process when its parent ends, which must be a single thread. A change of user undoes it."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def examine(parent: int) -> dict[str, str]:
    """Tries to get out of this process, at every wall of `WALLS`. Harmless: what can be done is undone.

    Returns:
        By wall how it held: the error's name, or the limit; empty where it does not hold.
    """
    attempts: dict[str, Callable[[], object]] = {
        "files": _read,
        "changes": _change,
        "programs": lambda: os.execv(sys.executable, [_TOO_LONG]),
        "processes": _fork,
        "tcp": lambda: socket.create_connection(("127.0.0.1", 9), 1).close(),
        "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
        "unix_sockets": lambda: socket.socketpair()[0].close(),
        "signals": lambda: os.kill(parent, 0),
    }
    found = {wall: _held(attempt) for wall, attempt in attempts.items()}
    for wall, name in (("memory", resource.RLIMIT_AS), ("processor_time", resource.RLIMIT_CPU)):
        most = resource.getrlimit(name)[0]
        found[wall] = "" if most == resource.RLIM_INFINITY else str(most)
    return found


def _held(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except ConnectionRefusedError:  # the network was reached, and nobody was there
        return ""
    except OSError as error:
        # Found and opened, and turned down for its argument: see `_TOO_LONG`.
        return "" if error.errno == errno.E2BIG else type(error).__name__
    return ""


def _read() -> None:
    os.close(os.open(sys.executable, os.O_RDONLY))


def _change() -> None:
    """Making a folder takes no descriptor, so the limit of those does not stand before it."""
    place = f"/tmp/vidattr-room-{os.getpid()}"
    os.mkdir(place)
    os.rmdir(place)


def _fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
