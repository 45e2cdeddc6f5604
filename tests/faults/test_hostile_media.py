"""Files made to take a machine down, among good ones: one dead letter each that names the limit, and the good ones come through."""

from __future__ import annotations

import contextlib
import pathlib
import re
import signal
import threading
import time
from fractions import Fraction

import av
import numpy as np
import psutil
import pytest

from features.records import Counts, Failure, VideoFeatures
from features.videos.probe import Limits
from features.workspace import Workspace
from pipelines import extract
from pipelines.encoders import DECODING_ALONE
from pipelines.extract import ExtractConfig
from tests.features.videos.test_decoding import write_clip

LIMITS = Limits(max_pixels=2_000_000, max_duration_s=10_000, wall_s=30, cpu_s=2)


def png(side: int) -> bytes:
    """A black square, a thousandth of its size."""
    codec = av.CodecContext.create("png", "w")
    codec.width = codec.height = side
    codec.pix_fmt, codec.time_base = "gray", Fraction(1, 1)
    frame = av.VideoFrame.from_ndarray(np.zeros((side, side), np.uint8), "gray")
    return b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)])


def write_pictures(path: pathlib.Path, pictures: list[bytes], said: int) -> None:
    """A file of these pictures whose header says that they are `said` pixels wide and high."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("png", rate=1)
        stream.width = stream.height = said
        stream.pix_fmt = "gray"
        for at, picture in enumerate(pictures):
            packet = av.Packet(picture)
            packet.stream, packet.time_base, packet.pts, packet.dts, packet.is_keyframe = stream, Fraction(1, 1), at, at, True
            out.mux(packet)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("videos")
    for name in ("good-1", "good-2", "good-3"):
        write_clip(folder / f"{name}.mp4", 1)
    large, small = png(4000), png(64)
    write_pictures(folder / "bomb.mov", [large], 4000)
    write_pictures(folder / "lying-bomb.mov", [small] * 30 + [large] * 20, 64)
    for name in ("endless-1", "endless-2"):
        write_clip(folder / f"{name}.mkv", 400, (640, 360))
    assert (folder / "lying-bomb.mov").stat().st_size < 1_000_000, "20 times 16 million pixels"
    return folder


class Shooter(threading.Thread):
    """Sends SIGSEGV to the first decoding child that works for longer than a good file takes, as bad machine code would."""

    def __init__(self) -> None:
        super().__init__()
        self.done = threading.Event()

    def run(self) -> None:
        seen: dict[int, float] = {}
        while not self.done.wait(0.01):
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in _decoding():
                    if time.monotonic() - seen.setdefault(child.pid, time.monotonic()) > 0.5:
                        child.send_signal(signal.SIGSEGV)
                        return

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *error: object) -> None:
        self.done.set()
        self.join()


def _decoding() -> list[psutil.Process]:
    warm = [child for child in psutil.Process().children() if "decoding_child" in " ".join(child.cmdline())]
    return [child for parent in warm for child in parent.children()]


def test_bombs_crashes_and_the_endless_are_one_dead_letter_each(tmp_path: pathlib.Path, videos: pathlib.Path) -> None:
    """Fault 22, at the level of a run: each of the seven ends as it should, and says which limit to raise."""
    workspace = Workspace(str(tmp_path / "w"))
    with Shooter():
        record = extract.run(ExtractConfig(workspace, str(videos), encoders=DECODING_ALONE, limits=LIMITS))
    assert record.counts == Counts(7, 3, 4, 0)
    assert {row.video_id for row in workspace.rows(VideoFeatures)} == {"good-1", "good-2", "good-3"}
    letters = {row.video_id: (row.kind, *re.findall(r"raise (\w+)|(SIG\w+)", row.message)) for row in workspace.rows(Failure)}
    assert letters["bomb"] == letters["lying-bomb"] == ("too_large", ("max_pixels", ""))
    assert {letters["endless-1"], letters["endless-2"]} == {("timed_out", ("cpu_s", "")), ("crashed", ("", "SIGSEGV"))}
