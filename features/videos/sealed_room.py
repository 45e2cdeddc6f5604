"""The room in which a stranger's video is decoded: its walls, and a look from inside at whether they hold.

Two walls back each other up, since neither is everywhere. Landlock (Linux 5.13 and later) takes away files, programs and TCP, and
from 6.12 signals and abstract sockets. Limits that every kernel has take away further descriptors, and with them every socket,
processes and threads, memory and time. Root is bound by no limit of processes, so a decoder of root becomes a user of its own,
who owns nothing. For any other user one gap stays, which neither wall closes: the permissions of that user's own files.
"""

from __future__ import annotations

import contextlib
import ctypes
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

FIRST_STRANGER = 2_000_000_000
"""A decoder of root runs as the user of this number plus its process id: nobody else, not even another decoder, is that user."""

WALLS = (
    "files", "changes", "permissions", "programs", "processes", "tcp", "udp", "unix_sockets", "signals", "memory", "processor_time",
)  # fmt: skip
"""What a room keeps in, in the order in which `vidattr doctor` tells it."""

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_NEEDED_TO_LEAVE_ROOT = (1 << 5) | (1 << 6) | (1 << 7)
"""CAP_KILL, CAP_SETGID and CAP_SETUID: a parent without the first could not end a child that is another user any more."""
_may_leave_root = False


def prepare() -> None:
    """Loads what `seal` needs, which is files; called once before the processes are made that shut themselves in."""
    global _may_leave_root
    if sys.platform != "linux":
        return
    with contextlib.suppress(LandlockError):
        _ = Landlock(strict=False).abi_version
    if os.geteuid() == 0:
        with open("/proc/self/status") as file:
            (held,) = [int(line.split()[1], 16) for line in file if line.startswith("CapEff:")]
        _may_leave_root = held & _NEEDED_TO_LEAVE_ROOT == _NEEDED_TO_LEAVE_ROOT


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
    if not _may_leave_root:
        return
    stranger = FIRST_STRANGER + os.getpid()
    changes: tuple[Callable[[], None], ...] = (
        lambda: os.setgroups([]),
        lambda: os.setresgid(stranger, stranger, stranger),
        lambda: os.setresuid(stranger, stranger, stranger),
    )
    for change in changes:
        with contextlib.suppress(OSError):  # a user namespace may not know such a user
            change()


def _die_with(parent: int) -> None:
    """Has the kernel end this process when its parent ends, which must be a single thread. A change of user undoes it."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def examine(parent: int, own: int) -> dict[str, str]:
    """Tries to get out of this process, at every wall of `WALLS` but `programs`. Harmless: what can be done is undone.

    Args:
        parent: a process to send nothing to.
        own: a descriptor of a file that whoever started all this owns.

    Returns:
        By wall how it held: the error's name, or the limit; empty where it does not hold.
    """
    attempts: dict[str, Callable[[], object]] = {
        "files": lambda: os.close(os.open("/bin/sh", os.O_RDONLY)),
        "changes": _change,
        "permissions": lambda: os.fchmod(own, 0o600),
        "processes": _fork,
        "tcp": _connect,
        "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
        "unix_sockets": lambda: socket.socketpair()[0].close(),
        "signals": lambda: os.kill(parent, 0),
    }
    found = {wall: _held(attempt) for wall, attempt in attempts.items()}
    for wall, name in (("memory", resource.RLIMIT_AS), ("processor_time", resource.RLIMIT_CPU)):
        most = resource.getrlimit(name)[0]
        found[wall] = "" if most == resource.RLIM_INFINITY else str(most)
    return found


def end_as_program() -> None:
    """The last attempt, at the wall `programs`: becomes another program, which ends with `EXIT_PROGRAM`; else goes on."""
    with contextlib.suppress(OSError):
        os.execv("/bin/sh", ["sh", "-c", f"exit {EXIT_PROGRAM}"])


EXIT_PROGRAM = 77
"""Any code but 0 would do: a program that starts, and then finds no library to read, got past the wall too."""


def _held(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except (ConnectionRefusedError, TimeoutError):  # the network was reached, and nobody was there
        return ""
    except OSError as error:
        return type(error).__name__
    return ""


def _change() -> None:
    """Making a folder takes no descriptor, so the limit of those does not stand before it."""
    place = f"/tmp/vidattr-room-{os.getpid()}"
    os.mkdir(place)
    os.rmdir(place)


def _connect() -> None:
    """An address in bytes: one in text is looked up by a codec, which is a file."""
    with socket.socket() as line:
        line.settimeout(1)
        line.connect((b"127.0.0.1", 9))


def _fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
