"""Decodes untrusted media in a limited process of its own, one for each video.

    this process --descriptor, limits--> warm parent --fork--> child: decodes one video, answers, exits
                 <------------------- result (header and raw numbers), how it ended -------------------

The warm parent has imported what decoding needs and nothing else, is a single thread, and never reads a byte of a video; so a
child costs a fork, and this process, with its threads and its TensorFlow, is never forked. A child that crashes, hangs or eats
its memory is one failed video. Its answer is as untrusted as the video: sizes and types are checked, pictures come as plain
RGB, and nothing in it is unpickled or parsed by a media library. The other side is `features.videos.decoding_child`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from features.errors import Permanent, Transient
from features.records import SOUND_STATS, VISUAL_STATS
from features.videos.fingerprint import BYTES as FINGERPRINT_BYTES
from features.videos.frames import LONGEST_SIDE, MAX_SAMPLES, STILLS, Still
from features.videos.probe import Limits
from features.videos.sealed_room import WALLS
from features.videos.sound import NO_SOUND, SPEECH_S, Samples, to_float
from features.videos.sound import RATE as SOUND_RATE
from features.videos.stopwatch import DECODING
from features.videos.wire import (
    EXAMINE,
    EXIT_MEMORY,
    MAX_HEADER_BYTES,
    MAX_SHOTS,
    MAX_WARNINGS,
    MODES,
    Malformed,
    Reader,
    pack_request,
    split_reply,
)

START_TIMEOUT_S = 120.0
GRACE_S = 10.0
_CHUNK = 1 << 18
_MOST_BYTES = MAX_HEADER_BYTES + STILLS * LONGEST_SIDE * LONGEST_SIDE * 3 + SPEECH_S * SOUND_RATE * 2

_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_MEMORY = {"hugetlb": 1, "mmap_threshold": 1 << 30, "trim_threshold": 1 << 30, "top_pad": 1 << 26}
"""glibc's: huge pages, not given back before a child ends. Else it spends up to a fifth of its time on being given pages."""
_ENVIRONMENT = {
    "PATH": "/nonexistent",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "LC_ALL": "C.UTF-8",
    "GLIBC_TUNABLES": ":".join(f"glibc.malloc.{name}={value}" for name, value in _MEMORY.items()),
}
_BOOT = "import sys; sys.path.insert(0, sys.argv[2]); from features.videos.decoding_child import serve; serve(int(sys.argv[1]))"


@dataclass(frozen=True)
class Decoded:
    """What a child said about one video, checked.

    Attributes:
        container, video_codec: FFmpeg's names.
        duration_s: as the header says, else as counted, seconds.
        width, height: pixels as displayed.
        fps: average frames a second, 0 when unknown.
        rotation: degrees clockwise the picture was turned to stand upright.
        stills: up to eight upright RGB pictures.
        visual_stats, sound_stats: in records' order.
        shot_starts_s: seconds, the first one 0; empty where shots are not known.
        fingerprints: 50 bytes each, about five a second.
        fingerprint_times_s: seconds of each of them.
        has_audio: a sound stream that decoded.
        speech: the first two minutes of sound, mono, 16 kHz, -1 to 1; empty without sound.
        warnings: what was wrong and survivable.
        peak_memory_bytes: highest resident memory of the child, 0 where unknown.
        seconds: what it spent on each of `stopwatch.DECODING`.
    """

    container: str
    video_codec: str
    duration_s: float
    width: int
    height: int
    fps: float
    rotation: int
    stills: tuple[Still, ...]
    visual_stats: tuple[float, ...]
    sound_stats: tuple[float, ...]
    fingerprints: tuple[bytes, ...]
    fingerprint_times_s: tuple[float, ...]
    has_audio: bool
    speech: Samples
    warnings: tuple[str, ...]
    peak_memory_bytes: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    shot_starts_s: tuple[float, ...] = ()


class Decoder:
    """Decodes videos, each in a child process. Several threads may call `decode` at once.

    The warm parent starts at the first call and ends with `close`, with this process, or with `kill -9` of it.

    Args:
        workers: most children at the same time; further calls wait.
        mode: how stills are chosen, one of `wire.MODES`.
    """

    def __init__(self, workers: int = 2, mode: str = MODES[0]) -> None:
        if workers < 1 or mode not in MODES:
            raise ValueError(f"workers={workers}, mode={mode!r}: at least 1, and one of {', '.join(MODES)}")
        self.workers, self.mode = workers, mode
        self._places = threading.BoundedSemaphore(workers)
        self._lock = threading.Lock()
        self._warm: _WarmParent | None = None
        self._closed = False

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def parent_pid(self) -> int | None:
        """Process id of the warm parent, None before the first call."""
        warm = self._warm
        return warm.process.pid if warm is not None else None

    def close(self) -> None:
        """Ends the warm parent and whatever it is decoding. Safe to call twice."""
        with self._lock:
            self._closed = True
            warm, self._warm = self._warm, None
        if warm is not None:
            warm.end()

    def decode(self, path: str, limits: Limits | None = None) -> Decoded:
        """Everything about one local file.

        Raises:
            Permanent: `missing`, `unreadable`, `is_a_directory`, `not_a_file`, `file_too_large`, `empty`, `not_a_video`,
                `no_video`, `no_decoder`, `no_frames`, `too_large`, `too_long`, `too_many_streams`, `decoder_error`, `crashed`,
                `timed_out`, `out_of_memory` or `invalid_reply`.
            Transient: no child could be started, twice in a row.
        """
        limits = limits or Limits()
        with self._places, open_media(path, limits) as file:
            for attempt in (1, 2):
                warm = self._started()
                try:
                    data, status = warm.ask(file.fileno(), limits, self.mode)
                except _ParentDied as error:
                    self._drop(warm)
                    if attempt == 2:
                        reason = f"the decoding process died twice ({error}); is the machine out of memory?"
                        raise Transient(f"{path}: {reason}") from error
                else:
                    return _outcome(data, status, limits)
        raise AssertionError("unreachable")

    def examine(self) -> dict[str, str]:
        """Has a child look at the walls of the room that it decodes in, by trying to get out.

        Returns:
            By wall how it held, empty where it does not: see `features.videos.sealed_room.examine`.

        Raises:
            Transient: no child could be started, or it gave no answer.
        """
        limits = Limits()
        with self._places, tempfile.TemporaryFile() as own:
            warm = self._started()
            try:
                data, status = warm.ask(own.fileno(), limits, EXAMINE)
                walls = {**Reader(split_reply(data)[0]).mapping("walls"), "programs": "" if status.get("exit") else "refused"}
                read = Reader(walls)
                return {wall: read.text(wall, 100) for wall in WALLS}
            except (_ParentDied, Malformed) as error:
                self._drop(warm)
                raise Transient(f"the decoding process did not examine its walls: {error}") from error

    def _started(self) -> _WarmParent:
        with self._lock:
            if self._closed:
                raise Transient("the decoder is closed: open another one")
            if self._warm is None:
                self._warm = _WarmParent()
            return self._warm

    def _drop(self, warm: _WarmParent) -> None:
        with self._lock:
            if self._warm is warm:
                self._warm = None
        warm.end()


def open_media(path: str, limits: Limits) -> BinaryIO:
    """Opens one local file for reading, after a look at what it is.

    Raises:
        Permanent: `missing`, `unreadable`, `is_a_directory`, `not_a_file`, `empty` or `file_too_large`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Permanent(f"{path}: no such file; correct the manifest's uri", "missing") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise Permanent(f"{path}: cannot be read ({reason}); check its permissions", "unreadable") from error
    facts = os.fstat(descriptor)
    problem = None
    if stat.S_ISDIR(facts.st_mode):
        problem = Permanent(f"{path}: a folder; give the address of one media file", "is_a_directory")
    elif not stat.S_ISREG(facts.st_mode):
        problem = Permanent(f"{path}: a device, pipe or socket; give the address of one media file", "not_a_file")
    elif facts.st_size == 0:
        problem = Permanent(f"{path}: the file is empty (0 bytes): upload it again", "empty")
    elif facts.st_size > limits.max_bytes:
        problem = Permanent(
            f"{path}: {facts.st_size} bytes are more than the limit of {limits.max_bytes}: raise max_bytes to accept it",
            "file_too_large",
        )
    if problem is not None:
        os.close(descriptor)
        raise problem
    return os.fdopen(descriptor, "rb")


class _ParentDied(Exception):
    """The warm parent went away before it said how a child ended."""


class _WarmParent:
    """The process that forks a child for each video."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        root = str(Path(__file__).resolve().parents[2])
        kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        with theirs, tempfile.TemporaryFile() as said:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOT, str(theirs.fileno()), root],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                pass_fds=[theirs.fileno()],
                cwd="/",
                start_new_session=True,
                env=_ENVIRONMENT | kept,
            )
            theirs.close()
            self._control.settimeout(START_TIMEOUT_S)
            try:
                ready = self._control.recv(1)
            except OSError:
                ready = b""
            if not ready:
                self.end()
                said.seek(0)
                last = said.read()[-2000:].decode(errors="replace").strip().splitlines()[-1:] or ["it gave no reason"]
                raise Transient(f"the decoding process did not start: {last[0][:300]}")
            self._control.settimeout(GRACE_S)

    def ask(self, descriptor: int, limits: Limits, mode: str) -> tuple[bytes, dict[str, Any]]:
        """Has one child decode an open file, or examine its walls. Returns its answer and how it ended. Raises _ParentDied."""
        data, data_theirs = os.pipe()
        status, status_theirs = os.pipe()
        try:
            try:
                with self._lock:
                    request = pack_request(asdict(limits), mode)
                    sent = socket.send_fds(self._control, [request], [descriptor, data_theirs, status_theirs])
                    self._control.sendall(request[sent:])
            except OSError as error:
                raise _ParentDied(str(error)) from error
            finally:
                os.close(data_theirs)
                os.close(status_theirs)
            answers = _read_both(data, status, time.monotonic() + limits.wall_s + GRACE_S)
        finally:
            os.close(data)
            os.close(status)
        if answers is None:
            self.process.kill()
            raise _ParentDied("it stopped responding")
        try:
            ending = json.loads(answers[1])
        except ValueError as error:
            raise _ParentDied("it ended") from error
        return answers[0], ending

    def end(self) -> None:
        """Closes the line, on which the warm parent kills its children and exits, and makes sure of it."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        self._control.close()
        try:
            self.process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _read_both(data: int, status: int, deadline: float) -> tuple[bytes, bytes] | None:
    """Reads both pipes to their ends; None when that takes too long. What is beyond the largest answer is not kept."""
    parts: dict[int, list[bytes]] = {data: [], status: []}
    room = {data: _MOST_BYTES + 1, status: 4096}
    poll = select.poll()
    for pipe in parts:
        poll.register(pipe, select.POLLIN)
    open_pipes = set(parts)
    while open_pipes:
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        for pipe, _ in poll.poll(min(left, 3600.0) * 1000):
            part = os.read(pipe, _CHUNK)
            if part:
                parts[pipe].append(part[: room[pipe]])
                room[pipe] -= len(parts[pipe][-1])
            else:
                poll.unregister(pipe)
                open_pipes.discard(pipe)
    return b"".join(parts[data]), b"".join(parts[status])


def _outcome(data: bytes, status: dict[str, Any], limits: Limits) -> Decoded:
    code = int(status.get("exit", 1))
    if status.get("timed_out"):
        raise Permanent(f"still decoding after {limits.wall_s:g} s: raise wall_s to give it longer", "timed_out")
    if status.get("not_started"):
        raise Transient(f"no process can be started ({status['not_started']}): wait for others to end")
    if code == -signal.SIGXCPU:
        raise Permanent(f"decoding used up {limits.cpu_s} s of processor time: raise cpu_s to give it longer", "timed_out")
    if code in (EXIT_MEMORY, -signal.SIGKILL):
        raise Permanent(
            f"decoding needs more than {limits.memory_bytes} bytes of memory, or than there is: raise memory_bytes to allow it",
            "out_of_memory",
        )
    if code:
        how = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code}"
        raise Permanent(f"the decoder crashed on it ({how}): the file is damaged or malicious", "crashed")
    try:
        return parse_reply(data, int(status.get("peak_memory_bytes", 0)))
    except Malformed as error:
        message = f"the decoding process gave no valid answer ({error}): the file may be malicious"
        raise Permanent(message, "invalid_reply") from error


def parse_reply(data: bytes, peak_memory_bytes: int = 0) -> Decoded:
    """Checks a child's answer, every field of it.

    Raises:
        Permanent: the child reports a failure.
        Malformed: anything else that is not exactly an answer.
    """
    header, body = split_reply(data)
    read = Reader(header)
    if "failure" in header:
        failure = Reader(read.mapping("failure"))
        raise Permanent(failure.text("message", 600), failure.word("kind"))
    pictures: list[Still] = []
    before = -1.0
    for entry in read.mappings("stills", 1, STILLS):
        still = Reader(entry)
        width, height = still.integer("width", 1, LONGEST_SIDE), still.integer("height", 1, LONGEST_SIDE)
        raw = body.take(width * height * 3)
        moment = still.number("timestamp_s", 0, 1e7)
        if moment <= before:
            raise Malformed("stills out of order")
        before = moment
        pictures.append(Still(moment, np.frombuffer(raw, np.uint8).reshape(height, width, 3)))
    has_audio = read.flag("has_audio")
    seconds = Reader(read.mapping("seconds"))
    speech = np.frombuffer(body.take(2 * read.integer("speech", 0, SPEECH_S * SOUND_RATE)), np.int16)
    body.end()
    sound = read.numbers("sound_stats", len(SOUND_STATS)) if has_audio else NO_SOUND
    if not has_audio and len(speech):
        raise Malformed("speech without sound")
    marked = read.ascending("fingerprint_times_s", MAX_SAMPLES)
    return Decoded(
        container=read.text("container", 100),
        video_codec=read.text("video_codec", 100),
        duration_s=read.number("duration_s", 0, 1e7),
        width=read.integer("width", 1, 1 << 20),
        height=read.integer("height", 1, 1 << 20),
        fps=read.number("fps", 0, 1e4),
        rotation=read.one_of("rotation", (0, 90, 180, 270)),
        stills=tuple(pictures),
        visual_stats=read.numbers("visual_stats", len(VISUAL_STATS), unknown=True),
        sound_stats=sound,
        fingerprints=read.digests("fingerprints", len(marked), FINGERPRINT_BYTES),
        fingerprint_times_s=marked,
        has_audio=has_audio,
        speech=to_float(speech),
        warnings=read.texts("warnings", MAX_WARNINGS, 300),
        peak_memory_bytes=peak_memory_bytes,
        shot_starts_s=read.ascending("shot_starts_s", MAX_SHOTS),
        seconds={phase: seconds.number(phase, 0, 1e6) for phase in DECODING if seconds.has(phase)},
    )
