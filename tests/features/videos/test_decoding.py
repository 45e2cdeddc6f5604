"""The decoding process: what comes back, what dies in it, and what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import Permanent, Transient
from features.records import SOUND_STATS, VISUAL_STATS
from features.videos.decoding import Decoder, parse_reply
from features.videos.probe import Limits
from features.videos.sealed_room import FIRST_STRANGER
from features.videos.wire import Malformed, pack_reply

LIMITS = Limits()


def write_clip(path: pathlib.Path, repeats: int, size: tuple[int, int] = (64, 48), sound: bool = False) -> str:
    """Ten frames of moving noise at 25 a second, over and over, encoded once."""
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    with av.open(str(path), "w") as out:
        picture = out.add_stream("mpeg4", rate=25, options={"qscale": "12"})
        picture.width, picture.height = size
        picture.gop_size = 10
        heard = out.add_stream("aac", rate=16000, layout="mono") if sound else None
        packets = [packet for at in range(10) for packet in picture.encode(av.VideoFrame.from_ndarray(np.roll(noise, at, axis=1)))]
        packets += picture.encode()
        pieces = [(bytes(packet), packet.is_keyframe) for packet in packets]
        for at in range(10 * repeats):
            packet = av.Packet(pieces[at % 10][0])
            packet.stream, packet.time_base = picture, Fraction(1, 25)
            packet.pts = packet.dts = at
            packet.duration, packet.is_keyframe = 1, pieces[at % 10][1]
            out.mux(packet)
        if heard is not None:
            for at in range(10 * repeats * 640 // 1024):
                tone = 0.3 * np.sin(2 * np.pi * 440 * (np.arange(1024) + 1024 * at) / 16000)
                frame = av.AudioFrame.from_ndarray(tone.astype(np.float32)[None], "fltp", "mono")
                frame.sample_rate, frame.pts = 16000, 1024 * at
                out.mux(heard.encode(frame))
            out.mux(heard.encode())
    return str(path)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("clips")
    (folder / "text.mp4").write_bytes(b"hello")
    (folder / "empty.mp4").touch()
    short = write_clip(folder / "short.mp4", 1)
    return {
        "short": short,
        "sound": write_clip(folder / "sound.mp4", 5, sound=True),
        "middle": write_clip(folder / "middle.mkv", 15, (1280, 720)),
        "long": write_clip(folder / "long.mkv", 120, (1280, 720)),
        "text": str(folder / "text.mp4"),
        "empty": str(folder / "empty.mp4"),
    }


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(workers=3) as made:
        yield made


def kind_of(call: Callable[[], object]) -> str:
    with pytest.raises(Permanent) as caught:
        call()
    return caught.value.kind


def wait_until(true: Callable[[], Any]) -> Any:
    for _ in range(1000):
        found = true()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("it never happened")


def children(decoder: Decoder) -> list[psutil.Process]:
    assert decoder.parent_pid is not None
    return psutil.Process(decoder.parent_pid).children()


def test_everything_comes_back(decoder: Decoder, clips: dict[str, str]) -> None:
    found = decoder.decode(clips["sound"])
    assert (found.width, found.height, found.rotation, found.fps, found.video_codec) == (64, 48, 0, 25.0, "mpeg4")
    assert found.duration_s == pytest.approx(2.0, abs=0.1)
    assert len(found.stills) == 8 and len(found.fingerprints) == len(found.fingerprint_times_s) == 10
    assert all(still.image.shape == (48, 64, 3) and still.image.std() > 10 for still in found.stills)
    assert len(found.visual_stats) == len(VISUAL_STATS) and len(found.sound_stats) == len(SOUND_STATS)
    assert found.has_audio and found.speech.dtype == np.float32 and len(found.speech) == pytest.approx(32000, abs=2000)
    assert np.abs(found.speech).max() == pytest.approx(0.3, abs=0.05)
    assert found.peak_memory_bytes > 10 << 20
    silent = decoder.decode(clips["short"])
    assert not silent.has_audio and not len(silent.speech) and np.isnan(silent.sound_stats).all()


def test_keyframes_will_do_and_a_clip_with_few_of_them_is_read_as_a_whole(decoder: Decoder, clips: dict[str, str]) -> None:
    """How much faster is the benchmarks' to say; here, that all of it comes back."""
    exact = decoder.decode(clips["middle"])
    with Decoder(1, "keyframes") as quick:
        found, short = quick.decode(clips["middle"]), quick.decode(clips["short"])
    assert len(found.stills) == 8 and found.warnings == () and np.isnan(found.visual_stats[-1]) and found.shot_starts_s == ()
    assert not np.isnan(exact.visual_stats[-1])
    assert found.duration_s == exact.duration_s and exact.shot_starts_s[0] == 0
    assert [still.timestamp_s for still in short.stills] == [still.timestamp_s for still in decoder.decode(clips["short"]).stills]
    with pytest.raises(ValueError, match="fast"):
        Decoder(1, "fast")


def test_a_rate_that_no_camera_makes_is_unknown(decoder: Decoder, tmp_path: pathlib.Path) -> None:
    """A damaged header gave a frame a duration of nothing, and the answer a rate that was refused with the whole video."""
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("mpeg4", rate=60_000)
        stream.width, stream.height = 64, 48
        for at in range(3):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 80 * at, np.uint8))))
        out.mux(stream.encode())
    found = decoder.decode(str(tmp_path / "a.mp4"))
    assert found.fps == 0 and found.stills


def test_the_warm_parent_is_one_thread_apart_from_everything(decoder: Decoder, clips: dict[str, str]) -> None:
    decoder.decode(clips["short"])
    assert decoder.parent_pid is not None
    warm = psutil.Process(decoder.parent_pid)
    assert warm.num_threads() == 1 and os.getsid(warm.pid) == warm.pid
    loaded = {entry.path for entry in warm.memory_maps()}
    assert not any(name in path for path in loaded for name in ("libarrow", "tensorflow", "apache_beam"))
    assert not {"HOME", "GOOGLE_APPLICATION_CREDENTIALS"} & set(warm.environ())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("text", "not_a_video"),
        ("empty", "empty"),
        ("/nowhere/a.mp4", "missing"),
        ("/dev/null/a.mp4", "missing"),
        ("/dev/zero", "not_a_file"),
        ("/", "is_a_directory"),
        ("a\0b", "unreadable"),
    ],
)
def test_what_is_no_video(decoder: Decoder, clips: dict[str, str], name: str, kind: str) -> None:
    assert kind_of(lambda: decoder.decode(clips.get(name, name))) == kind


def test_a_pipe_does_not_hang(decoder: Decoder, tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    assert kind_of(lambda: decoder.decode(str(tmp_path / "pipe.mp4"))) == "not_a_file"


@pytest.mark.parametrize(
    ("limits", "kind", "name"),
    [
        (replace(LIMITS, max_bytes=1000), "file_too_large", "max_bytes"),
        (replace(LIMITS, max_pixels=1000), "too_large", "max_pixels"),
        (replace(LIMITS, max_duration_s=1), "too_long", "max_duration_s"),
        (replace(LIMITS, wall_s=0.1), "timed_out", "wall_s"),
        (replace(LIMITS, cpu_s=1), "timed_out", "cpu_s"),
    ],
)
def test_each_limit_kills_only_its_video(decoder: Decoder, clips: dict[str, str], limits: Limits, kind: str, name: str) -> None:
    """Fault 22: the child dies, one dead letter, neighbours unaffected."""
    decoder.decode(clips["short"])
    before = decoder.parent_pid
    with ThreadPoolExecutor(2) as pool:
        neighbour = pool.submit(decoder.decode, clips["sound"])
        with pytest.raises(Permanent, match=f"raise {name}") as caught:
            decoder.decode(clips["long"], limits)
        assert len(neighbour.result().stills) == 8
    assert caught.value.kind == kind
    assert decoder.parent_pid == before


def test_memory_is_limited(decoder: Decoder, clips: dict[str, str]) -> None:
    """Fault 22: libraries fit into the limit, and a small video does, but not what a large one needs."""
    decoder.decode(clips["short"])
    before = decoder.parent_pid
    assert before is not None
    limits = replace(LIMITS, memory_bytes=psutil.Process(before).memory_info().vms + (48 << 20))
    assert len(decoder.decode(clips["short"], limits).stills) == 8
    with pytest.raises(Permanent, match="raise memory_bytes") as caught:
        decoder.decode(clips["long"], limits)
    assert caught.value.kind == "out_of_memory" and decoder.parent_pid == before


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (signal.SIGSEGV, "crashed"),
        (signal.SIGABRT, "crashed"),
        (signal.SIGKILL, "out_of_memory"),
        (signal.SIGSTOP, "timed_out"),
    ],
)
def test_a_child_that_dies_or_hangs(decoder: Decoder, clips: dict[str, str], number: signal.Signals, kind: str) -> None:
    decoder.decode(clips["short"])
    with ThreadPoolExecutor(1) as pool:
        doomed = pool.submit(decoder.decode, clips["long"], replace(LIMITS, wall_s=3 if number == signal.SIGSTOP else 60))
        (child,) = wait_until(lambda: children(decoder))
        if os.geteuid() == 0:
            wait_until(lambda: child.uids().real == child.gids().real == FIRST_STRANGER + child.pid)
        child.send_signal(number)
        with pytest.raises(Permanent) as caught:
            doomed.result()
    assert caught.value.kind == kind
    assert children(decoder) == []


def test_a_dead_warm_parent_is_started_again_and_the_video_is_not_lost(decoder: Decoder, clips: dict[str, str]) -> None:
    decoder.decode(clips["short"])
    before = decoder.parent_pid
    assert before is not None
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(decoder.decode, clips["middle"])
        (child,) = wait_until(lambda: children(decoder))
        child.suspend()  # so that it cannot end by itself
        os.kill(before, signal.SIGKILL)
        assert len(running.result().stills) == 8
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    assert decoder.parent_pid != before


def test_nothing_leaks(decoder: Decoder, clips: dict[str, str]) -> None:
    decoder.decode(clips["short"])
    assert decoder.parent_pid is not None
    warm = psutil.Process(decoder.parent_pid)

    def state() -> tuple[int, int, int, int]:
        return psutil.Process().num_fds(), threading.active_count(), warm.num_fds(), len(warm.children())

    before = state()
    memory = warm.memory_info().rss
    with ThreadPoolExecutor(3) as pool:
        jobs = [
            ("short", LIMITS),
            ("text", LIMITS),
            ("empty", LIMITS),
            ("long", replace(LIMITS, wall_s=0.05)),
            ("short", LIMITS),
            ("long", replace(LIMITS, max_pixels=9)),
        ]
        done = [pool.submit(decoder.decode, clips[name], limits) for name, limits in jobs * 5]
        failed = sum(job.exception() is not None for job in done)
    assert failed == 20
    assert state() == before
    assert warm.memory_info().rss < memory + (8 << 20)


def test_workers_bound_the_children(clips: dict[str, str]) -> None:
    with Decoder(workers=1) as single, ThreadPoolExecutor(3) as pool:
        single.decode(clips["short"])
        running = [pool.submit(single.decode, clips["long"], replace(LIMITS, wall_s=0.4)) for _ in range(3)]
        most = 0
        while not all(job.done() for job in running):
            most = max(most, len(children(single)))
            time.sleep(0.01)
        assert most == 1


def test_closing_ends_everything(clips: dict[str, str]) -> None:
    decoder = Decoder()
    decoder.decode(clips["short"])
    assert decoder.parent_pid is not None
    warm = psutil.Process(decoder.parent_pid)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(decoder.decode, clips["long"])
        (child,) = wait_until(warm.children)
        decoder.close()
        with pytest.raises(Transient):
            running.result()
    assert not psutil.pid_exists(warm.pid)
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)
    decoder.close()
    with pytest.raises(Transient, match="closed"):
        decoder.decode(clips["short"])


def test_a_killed_requester_leaves_nothing_behind(clips: dict[str, str], repo_root: pathlib.Path) -> None:
    program = textwrap.dedent("""
        import sys, threading, time
        from features.videos.decoding import Decoder
        decoder = Decoder()
        decoder.decode(sys.argv[1])
        threading.Thread(target=decoder.decode, args=(sys.argv[2],), daemon=True).start()
        print(decoder.parent_pid, flush=True)
        time.sleep(60)
    """)
    command = [sys.executable, "-c", program, clips["short"], clips["long"]]
    with subprocess.Popen(command, cwd=repo_root, stdout=subprocess.PIPE, text=True) as requester:
        assert requester.stdout is not None
        warm = psutil.Process(int(requester.stdout.readline()))
        (child,) = wait_until(warm.children)
        requester.kill()
    for process in (warm, child):
        wait_until(lambda process=process: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def test_an_abandoned_video_is_not_decoded_to_its_end(clips: dict[str, str], repo_root: pathlib.Path) -> None:
    """Ctrl-C in the requester: its child goes, its warm parent stays for the next one."""
    program = textwrap.dedent("""
        import sys, psutil
        from features.videos.decoding import Decoder
        with Decoder() as decoder:
            decoder.decode(sys.argv[1])
            warm = psutil.Process(decoder.parent_pid)
            print("ready", flush=True)
            try:
                while True:
                    decoder.decode(sys.argv[2])
            except KeyboardInterrupt:
                pass
            decoder.decode(sys.argv[1])
            print(warm.is_running(), len(warm.children()), flush=True)
    """)
    command = [sys.executable, "-c", program, clips["short"], clips["long"]]
    with subprocess.Popen(command, cwd=repo_root, stdout=subprocess.PIPE, text=True) as requester:
        assert requester.stdout is not None and requester.stdout.readline() == "ready\n"
        wait_until(lambda: [child for warm in psutil.Process(requester.pid).children() for child in warm.children()])
        requester.send_signal(signal.SIGINT)
        assert requester.stdout.readline() == "True 0\n"


def test_nothing_is_printed(shared_data: pathlib.Path, repo_root: pathlib.Path) -> None:
    program = textwrap.dedent("""
        import sys
        from features.errors import Permanent
        from features.videos.decoding import Decoder
        with Decoder() as decoder:
            for path in sys.argv[1:]:
                try:
                    decoder.decode(path)
                except Permanent:
                    pass
    """)
    paths = [str(shared_data / "odd_clips" / name) for name in ("invalid-bitstream.webm", "truncated.mp4", "corrupted-midway.mp4")]
    done = subprocess.run([sys.executable, "-c", program, *paths], cwd=repo_root, capture_output=True, check=True)
    assert done.stdout == done.stderr == b""


# --- the answer is untrusted --------------------------------------------------------------------------------------------------


def header(**fields: Any) -> dict[str, Any]:
    return {
        "container": "mp4",
        "video_codec": "h264",
        "duration_s": 1.0,
        "width": 2,
        "height": 1,
        "fps": 25.0,
        "rotation": 0,
        "stills": [{"timestamp_s": 0.0, "width": 2, "height": 1}],
        "visual_stats": [0.0] * len(VISUAL_STATS),
        "sound_stats": [0.0] * len(SOUND_STATS),
        "has_audio": True,
        "fingerprints": ["00ff" * 25],
        "fingerprint_times_s": [0.0],
        "speech": 2,
        "warnings": ["bad\x1b[31m"],
        "seconds": {"decode": 0.5, "unheard_of": 1},
        "shot_starts_s": [0.0, 1.5],
        **fields,
    }


def packed(fields: dict[str, Any], body: bytes = bytes(10)) -> bytes:
    return b"".join(pack_reply(fields, [body]))


def test_a_good_answer() -> None:
    found = parse_reply(packed(header()))
    assert found.stills[0].image.shape == (1, 2, 3) and len(found.speech) == 2
    assert found.fingerprints == (b"\x00\xff" * 25,) and found.warnings == ("bad?[31m",)
    assert found.seconds == {"decode": 0.5}
    with pytest.raises(Permanent, match="why") as caught:
        parse_reply(packed({"failure": {"kind": "no_video", "message": "why"}}, b""))
    assert caught.value.kind == "no_video"


@pytest.mark.parametrize(
    "fields",
    [
        {"stills": []},
        {"stills": [{"timestamp_s": 0.0, "width": 2, "height": 1}] * 9},
        {"stills": [{"timestamp_s": 0.0, "width": 100000, "height": 100000}]},
        {"stills": [{"timestamp_s": 0.0, "width": -2, "height": -1}]},
        {"stills": [{"timestamp_s": float("nan"), "width": 2, "height": 1}]},
        {"stills": [{"timestamp_s": 1.0, "width": 1, "height": 1}, {"timestamp_s": 0.5, "width": 1, "height": 1}]},
        {"stills": {"0": 1}},
        {"visual_stats": [0.0]},
        {"visual_stats": [float("inf")] * len(VISUAL_STATS)},
        {"visual_stats": ["0"] * len(VISUAL_STATS)},
        {"sound_stats": [None] * len(SOUND_STATS)},
        {"sound_stats": None},
        {"has_audio": 1},
        {"has_audio": False},
        {"fingerprints": ["00"]},
        {"fingerprints": []},
        {"fingerprint_times_s": [1.0, 1.0], "fingerprints": ["00ff" * 25] * 2},
        {"fingerprints": ["zz" * 50]},
        {"speech": 10**9},
        {"speech": True},
        {"speech": 1},
        {"rotation": 45},
        {"width": 0},
        {"fps": -1},
        {"fps": None},
        {"container": 3},
        {"warnings": ["x"] * 100},
        {"seconds": {"decode": -1}},
        {"seconds": {"open": "soon"}},
        {"seconds": None},
        {"shot_starts_s": [0.0, 0.0]},
        {"shot_starts_s": [-1.0]},
        {"failure": 3},
        {"failure": {"kind": "Robert'); DROP TABLE", "message": ""}},
        {"failure": {"kind": "x" * 50, "message": ""}},
        {"failure": {"kind": "ok"}},
    ],
)
def test_a_forged_answer_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        parse_reply(packed(header(**fields)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"VDA1",
        b"VDA1\xff\xff\xff\xff{}",
        packed(header())[:-1],
        packed(header()) + b"x",
        b"VDA1" + (2).to_bytes(4, "little") + b"[]",
    ],
)
def test_a_torn_answer_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse_reply(data)


@given(
    st.binary(max_size=300),
    st.dictionaries(st.sampled_from([*header(), "failure"]), st.none() | st.integers() | st.text() | st.lists(st.integers())),
)
def test_any_answer_is_taken_or_refused(body: bytes, changes: dict[str, Any]) -> None:
    for data in (
        body,
        b"VDA1" + len(body).to_bytes(4, "little") + body,
        packed(header(**changes)),
        packed(header(**changes), body),
    ):
        with contextlib.suppress(Malformed, Permanent):
            parse_reply(data)


def test_the_far_side_imports_little(repo_root: pathlib.Path) -> None:
    program = "import json, sys, features.videos.decoding_child; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=repo_root, capture_output=True, check=True, text=True)
    assert not {"pyarrow", "pandas", "tensorflow", "apache_beam", "onnxruntime"} & set(json.loads(done.stdout))
