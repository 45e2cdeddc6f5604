"""The far side of `features.videos.decoding`: the warm parent, which only forks, and its children, which decode.

Nothing here may import TensorFlow or Beam, or start a thread: the warm parent must stay a single thread, since it is forked.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import math
import os
import pkgutil
import resource
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
import cv2
import numpy as np

from features.errors import Permanent
from features.videos.animated import decode_animation, is_animated_webp
from features.videos.fingerprint import fingerprint, fingerprints
from features.videos.frames import Pictures, Still, decode_pictures
from features.videos.hdr import HLG, PQ
from features.videos.keyframes import decode_keyframes, timeline
from features.videos.probe import Limits, Probe, open_container, plausible_rate, probe
from features.videos.rgb import Image, to_rgb
from features.videos.sealed_room import end_as_program, examine, prepare, seal
from features.videos.shots import hard_cuts
from features.videos.sound import RATE, SPEECH_S, decode_sound, sound_stats, to_float
from features.videos.stopwatch import Stopwatch
from features.videos.visual import still_stats, visual_stats
from features.videos.wire import EXAMINE, EXIT_MEMORY, MAX_SHOTS, MAX_WARNINGS, REQUEST_BYTES, pack_reply


@dataclass
class _Child:
    pid: int
    status: int
    deadline: float
    timed_out: bool = False


def serve(control: int) -> None:
    """Runs the warm parent: a child for each request on the line, until the line closes. Never returns."""
    line = socket.socket(fileno=control)
    warm_up()
    children: dict[int, _Child] = {}
    try:
        wake, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        line.sendall(b"r")
        _silence()
        while _step(line, wake, children):
            pass
    finally:
        for child in children.values():
            _kill(child.pid)
        os._exit(0)


def warm_up() -> None:
    """Imports and touches all that decoding needs, so that a child loads nothing (and needs no files) any more."""
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if not module.name.startswith(("av.__main__", "av.datasets")):
            importlib.import_module(module.name)
    av.logging.set_level(av.logging.PANIC)
    cv2.setNumThreads(1)
    for picture in map(_warm_picture, ("yuv420p", "yuva420p", "yuv420p10le", "yuv420p10le"), (2, 2, PQ, HLG)):
        fingerprint(picture)
        still_stats(picture)
        hard_cuts([picture] * 3)
    sound_stats(to_float(np.zeros(RATE, np.int16)))
    prepare()
    gc.collect()
    gc.freeze()


def _warm_picture(pixels: str, transfer: int) -> Image:
    frame = av.VideoFrame(64, 64, pixels)
    frame.color_trc = transfer
    return to_rgb(frame, 32, 32, "BICUBIC")


def _step(line: socket.socket, wake: int, children: dict[int, _Child]) -> bool:
    """Waits for the next event and handles it; False when the line is closed."""
    poll = select.poll()
    poll.register(line, select.POLLIN)
    poll.register(wake, select.POLLIN)
    waiting = {child.status: child for child in children.values() if not child.timed_out}
    for status in waiting:
        poll.register(status, 0)  # only its error: whoever asked has gone
    now = time.monotonic()
    nearest = min((child.deadline for child in waiting.values()), default=now + 3600)
    events = dict(poll.poll(max(0.0, nearest - now) * 1000 + 1))
    if wake in events:
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 4096)
    _reap(children)
    now = time.monotonic()
    for status, child in waiting.items():
        if child.pid in children and (status in events or now >= child.deadline):
            child.timed_out = True
            _kill(child.pid)
    if line.fileno() in events:
        request, descriptors = _receive(line)
        if not request:
            return False
        _start(line, wake, request, descriptors, children)
    return True


def _receive(line: socket.socket) -> tuple[bytes, list[int]]:
    data, descriptors, _, _ = socket.recv_fds(line, REQUEST_BYTES, 3)
    while data and len(data) < REQUEST_BYTES:
        more = line.recv(REQUEST_BYTES - len(data))
        if not more:
            return b"", descriptors
        data += more
    return data, descriptors


def _start(line: socket.socket, wake: int, request: bytes, descriptors: list[int], children: dict[int, _Child]) -> None:
    video, answer, status = descriptors
    asked = json.loads(request)
    mode = asked.pop("mode")
    limits = Limits(**asked)
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as error:
        os.write(status, json.dumps({"not_started": error.strerror}).encode())
        os.close(status)
    else:
        if pid == 0:
            _be_child(parent, video, answer, limits, mode)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        children[pid] = _Child(pid, status, time.monotonic() + limits.wall_s)
    os.close(video)
    os.close(answer)


def _reap(children: dict[int, _Child]) -> None:
    """Collects children that ended. What is left of their process groups is killed while their ids cannot be anybody else's."""
    while children:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return
        _kill(ended.si_pid)
        pid, code, usage = os.wait4(ended.si_pid, 0)
        child = children.pop(pid, None)
        if child is not None:
            scale = 1 if sys.platform == "darwin" else 1024
            said = {
                "exit": os.waitstatus_to_exitcode(code),
                "timed_out": child.timed_out,
                "peak_memory_bytes": usage.ru_maxrss * scale,
            }
            with contextlib.suppress(OSError):
                os.write(child.status, json.dumps(said).encode())
            os.close(child.status)


def _kill(group: int) -> None:
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(group, signal.SIGKILL)


def _be_child(parent: int, video: int, answer: int, limits: Limits, mode: str) -> None:
    """Decodes one video, or looks at its walls, and exits. It never returns into the warm parent's loop."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.setpgid(0, 0)
        _close_all_but(video, answer)
        seal(limits, parent)
        if mode == EXAMINE:
            reply = pack_reply({"walls": examine(parent, video)}, [])
        else:
            with os.fdopen(video, "rb") as file:
                reply = answer_for(file, limits, mode)
        for part in reply:
            _write_all(answer, memoryview(part).cast("B"))
        if mode == EXAMINE:
            end_as_program()
        code = 0
    except MemoryError:
        code = EXIT_MEMORY
    finally:
        os._exit(code)


def _close_all_but(*kept: int) -> None:
    """Closes every inherited descriptor, the line to the requester and other videos' among them."""
    last = 2
    for descriptor in (*sorted(kept), resource.getrlimit(resource.RLIMIT_NOFILE)[0]):
        os.closerange(last + 1, descriptor)
        last = descriptor


def _silence() -> None:
    """Points standard output and error at nothing: libraries that print have nobody to read it."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)


def answer_for(file: BinaryIO, limits: Limits, mode: str) -> list[bytes | memoryview]:
    """Decodes an open file and packs what was found, or why it failed. MemoryError passes through."""
    try:
        return _describe(file, limits, mode)
    except Permanent as error:
        return _failure(str(error), error.kind)
    except MemoryError:
        raise
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from error
        return _failure(f"OpenCV cannot process its pictures: {error.err}", "decoder_error")
    except Exception as error:
        return _failure(f"decoding it failed: {type(error).__name__}: {error}", "decoder_error")


def _failure(message: str, kind: str) -> list[bytes | memoryview]:
    return pack_reply({"failure": {"kind": kind, "message": message[:500]}}, [])


def _describe(file: BinaryIO, limits: Limits, mode: str) -> list[bytes | memoryview]:
    watch = Stopwatch()
    clip, pictures = decode_animation(file, limits) if is_animated_webp(file) else _look(file, limits, mode, watch)
    watch.lap("decode")
    warnings = list(pictures.warnings)
    samples = np.zeros(0, np.int16)
    if clip.audio_index is not None:
        with open_container(file) as container:
            sound = decode_sound(container, clip.audio_index, limits)
        watch.lap("sound")
        samples = sound.samples
        warnings += sound.warnings or (["its sound stream is empty"] if not len(samples) else [])
    speech = samples[: SPEECH_S * RATE]
    marks = fingerprints([(sample.timestamp_s, sample.image) for sample in pictures.samples], pictures.width / pictures.height)
    header: dict[str, Any] = {
        "container": clip.container,
        "video_codec": clip.video_codec,
        "duration_s": clip.duration_s or pictures.duration_s,
        "width": pictures.width,
        "height": pictures.height,
        "fps": clip.fps or plausible_rate(pictures.decoded / pictures.duration_s),
        "rotation": pictures.rotation,
        "stills": [_still_header(still) for still in pictures.stills],
        "visual_stats": [value if math.isfinite(value) else None for value in visual_stats(pictures)],
        "shot_starts_s": pictures.shot_starts_s[:MAX_SHOTS],
        "has_audio": bool(len(samples)),
        "fingerprints": [mark.hex() for _, mark in marks],
        "fingerprint_times_s": [time for time, _ in marks],
        "speech": len(speech),
        "warnings": [warning[:300] for warning in warnings[:MAX_WARNINGS]],
    }
    watch.lap("measure")
    if len(samples):
        header["sound_stats"] = sound_stats(to_float(samples))
        watch.lap("sound")
    header["seconds"] = watch.seconds
    return pack_reply(header, [*(still.image.data for still in pictures.stills), speech.data])


def _look(file: BinaryIO, limits: Limits, mode: str, watch: Stopwatch) -> tuple[Probe, Pictures]:
    pictures = None
    with open_container(file) as container:
        clip = probe(container, limits)
        line = timeline(container, clip.video_index) if mode == "keyframes" else None
        watch.lap("open")
        if mode == "exact":
            pictures = decode_pictures(container, clip, limits)
    if line is not None:
        with open_container(file) as container:
            pictures = decode_keyframes(container, clip, limits, line)
    if pictures is None:
        with open_container(file) as container:
            pictures = decode_pictures(container, clip, limits)
    return clip, pictures


def _still_header(still: Still) -> dict[str, float]:
    return {"timestamp_s": still.timestamp_s, "width": still.image.shape[1], "height": still.image.shape[0]}


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
