"""Damaged media by the thousand: each is decoded or one typed dead letter, and nothing stays behind."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections import Counter
from fractions import Fraction

import av
import numpy as np
import psutil
import pytest

from features.records import Failure, VideoFeatures
from features.videos.probe import Limits
from features.workspace import Workspace
from pipelines import extract
from pipelines.encoders import DECODING_ALONE
from tests.faults.mutated_media import mutated
from tests.usual_priority import usual_priority

LIMITS = Limits(max_pixels=2_000_000, max_duration_s=120, wall_s=20, cpu_s=10, memory_bytes=1 << 30)
KINDS = {
    "empty",
    "not_a_video",
    "no_video",
    "no_decoder",
    "no_frames",
    "too_large",
    "too_long",
    "too_many_streams",
    "decoder_error",
    "crashed",
    "timed_out",
    "out_of_memory",
}
"""Every end that a damaged file may come to. `invalid_reply` is none: only a child that was taken over gives one."""
SEEDS = (
    ("h264.mp4", "libx264", "yuv420p", "aac"),
    ("h264.mov", "libx264", "yuv420p", "pcm_s16le"),
    ("mpeg4.avi", "mpeg4", "yuv420p", "mp3"),
    ("h264.ts", "libx264", "yuv420p", "aac"),
    ("vp8.webm", "libvpx", "yuv420p", "libopus"),
    ("vp9.mkv", "libvpx-vp9", "yuv420p", "flac"),
    ("hevc.mp4", "libx265", "yuv420p10le", ""),
    ("av1.mp4", "libsvtav1", "yuv420p", ""),
    ("picture.gif", "gif", "rgb8", ""),
)
SMALL = 200_000
"""Bytes: larger ones of the real odd clips would only slow the fuzz down."""


def write_seed(path: pathlib.Path, codec: str, pixels: str, sound: str) -> None:
    """Half a second of moving noise with a tone."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8).repeat(6, 0).repeat(6, 1)
    with av.open(str(path), "w") as out:
        options = {"libx265": {"x265-params": "log-level=none:pools=1"}, "libsvtav1": {"preset": "12"}}.get(codec, {})
        picture = out.add_stream(codec, rate=12, options=options)
        picture.width, picture.height, picture.pix_fmt = 96, 72, pixels
        heard = out.add_stream(sound, rate=48000, layout="mono") if sound else None
        for at in range(6):
            frame = av.VideoFrame.from_ndarray(np.roll(noise, 6 * at, axis=1))
            out.mux(picture.encode(frame.reformat(format=pixels)))
        out.mux(picture.encode())
        if heard is not None:
            for at in range(24):
                tone = (6000 * np.sin(2 * np.pi * 440 * (np.arange(1024) + 1024 * at) / 48000)).astype(np.int16)
                frame = av.AudioFrame.from_ndarray(tone[None], "s16", "mono")
                frame.sample_rate, frame.pts, frame.time_base = 48000, 1024 * at, Fraction(1, 48000)
                out.mux(heard.encode(frame))
            out.mux(heard.encode())


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    """A small file of each container, and the small ones of the real odd clips where those are."""
    from tests.conftest import DATA

    folder = tmp_path_factory.mktemp("seeds")
    with usual_priority():
        for name, codec, pixels, sound in SEEDS:
            write_seed(folder / name, codec, pixels, sound)
    odd = DATA / "odd_clips"
    real = [path for path in sorted(odd.iterdir()) if 0 < path.stat().st_size <= SMALL] if odd.is_dir() else []
    return sorted(folder.iterdir()) + real


def write_mutants(folder: pathlib.Path, seeds: list[pathlib.Path], first: int, number: int) -> pathlib.Path:
    """A manifest of that many damaged files, every seed's turn after the other's."""
    folder.mkdir()
    contents = [seed.read_bytes() for seed in seeds]
    with (folder / "manifest.jsonl").open("w") as manifest:
        for at in range(first, first + number):
            seed = seeds[at % len(seeds)]
            name = f"{at:05}-{seed.name}"
            (folder / name).write_bytes(mutated(contents[at % len(seeds)], at))
            manifest.write(json.dumps({"video_id": name, "uri": name}) + "\n")
    return folder / "manifest.jsonl"


def ends_of_a_run(workspace: Workspace, manifest: pathlib.Path, number: int) -> Counter[str]:
    """Extracts a manifest and counts how its videos ended; the law of counts holds, by number and by id."""
    record = extract.run(extract.ExtractConfig(workspace, str(manifest), encoders=DECODING_ALONE, limits=LIMITS))
    counts = record.counts
    assert (counts.into, counts.pending) == (number, 0) and counts.annotated + counts.dead_lettered == number
    good = {row.video_id for row in workspace.rows(VideoFeatures) if row.run_id == record.run_id}
    dead = {row.video_id: row for row in workspace.rows(Failure) if row.run_id == record.run_id}
    assert not good & dead.keys() and len(good) == counts.annotated and len(dead) == counts.dead_lettered
    assert {row.kind for row in dead.values()} <= KINDS, Counter(row.kind for row in dead.values())
    assert all(row.message and len(row.message) < 1000 for row in dead.values())
    return Counter({"decoded": len(good)}) + Counter(row.kind for row in dead.values())


def test_a_few_dozen(tmp_path: pathlib.Path, seeds: list[pathlib.Path]) -> None:
    """Fault 22, the short part of the fuzz."""
    before = decoding_processes()
    found = ends_of_a_run(Workspace(str(tmp_path / "w")), write_mutants(tmp_path / "videos", seeds, 0, 80), 80)
    assert found["decoded"] and len(found) > 3, found
    assert decoding_processes() == before


def decoding_processes() -> int:
    """This process's children that decode, and theirs."""
    return sum("decoding_child" in " ".join(child.cmdline()) for child in psutil.Process().children(recursive=True))


@pytest.mark.soak
def test_twenty_thousand(tmp_path: pathlib.Path, seeds: list[pathlib.Path]) -> None:
    """Fault 22: after 20,000 damaged files, 2,000 a run, no descriptor or process is left over, and no memory is gone."""
    me = psutil.Process()
    total: Counter[str] = Counter()
    states: list[tuple[int, int, int]] = []
    for first in range(0, 20_000, 2_000):
        folder = tmp_path / str(first)
        folder.mkdir()
        total += ends_of_a_run(Workspace(str(folder / "w")), write_mutants(folder / "videos", seeds, first, 2_000), 2_000)
        shutil.rmtree(folder)
        states.append((me.num_fds(), decoding_processes(), me.memory_info().rss >> 20))
        print(f"{total.total()} files: {dict(total.most_common())}; descriptors, processes, MiB: {states[-1]}", flush=True)
    assert total.total() == 20_000
    assert {state[:2] for state in states[1:]} == {(states[1][0], 0)}, states
    assert states[-1][2] < states[2][2] + 100, states
