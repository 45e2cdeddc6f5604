"""Stills of real clips and of generated 720p clips: ours against bare PyAV and against OpenCV that reads everything.

`exact` is compared with PyAV that decodes the same file on one thread and converts the same frames, and nothing else; `keyframes`
with OpenCV that reads every frame of the file and keeps eight. Both of ours run in the sealed room, thumbnails included; what the
room costs is the time of `Decoder.decode` over that of the same work in this process. The pictures of `exact` and PyAV are
compared, byte by byte. Each file is measured in turn by all, three rounds, the median counts. Then clips an hour, by the extract
stage with two workers, start of the pipeline included.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np

from features.videos.decoding import Decoded, Decoder
from features.videos.decoding_child import answer_for
from features.videos.frames import STILLS, Clock, Orientation
from features.videos.packets import each_frame, one_thread
from features.videos.probe import Limits, open_container, probe
from features.videos.rgb import Image, to_rgb
from features.workspace import Workspace
from pipelines import extract
from pipelines.encoders import DECODING_ALONE, EncoderConfig

DATA = pathlib.Path(os.environ.get("VIDATTR_TEST_DATA") or pathlib.Path(__file__).resolve().parents[2] / "shared" / "data")
ROUNDS = 3
MADE = 3
MADE_S = 60
FPS = 30
GOAL_EXACT, GOAL_KEYFRAMES, GOAL_ROOM = 0.9, 15.0, 0.10


def write_720p(path: str, seed: int) -> str:
    """A minute of a picture that drifts, a cut every ten seconds, a keyframe every two, as phones and platforms write them."""
    generator = np.random.default_rng(seed)
    with av.open(path, "w") as out:
        stream = out.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23", "sc_threshold": "0"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 1280, 720, "yuv420p", 2 * FPS
        stream.codec_context.time_base = Fraction(1, FPS)
        for at in range(MADE_S * FPS):
            if at % (10 * FPS) == 0:
                wide = cv2.resize(generator.integers(0, 256, (45, 120, 3), np.uint8), (1920, 720), interpolation=cv2.INTER_CUBIC)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(wide[:, at % (10 * FPS) :][:, :1280]))
            frame.pts = at
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def positions(path: str, times: list[float]) -> tuple[int, list[int]]:
    """The stream that is shown, and which of its frames, counted from 0, are shown at these moments; untimed."""
    with open(path, "rb") as file, open_container(file) as container:
        clip = probe(container, Limits())
        clock = Clock(clip.fps, clip.duration_s)
        shown = [clock.tick(frame.time) for frame in each_frame(container, one_thread(container, clip.video_index), "video", [])]
    return clip.video_index, [int(np.abs(np.array(shown) - time).argmin()) for time in times]


def bare(path: str, index: int, wanted: list[int], shapes: list[tuple[int, ...]]) -> list[Image]:
    """PyAV on one thread: decodes a stream to its end, and converts the frames at these positions to these shapes."""
    pictures: list[Image] = []
    with open(path, "rb") as file, av.open(file, metadata_errors="ignore") as container:
        stream = container.streams[index]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        for at, frame in enumerate(container.decode(stream)):
            if at in wanted:
                turn = Orientation.of(frame)
                height, width = shapes[len(pictures)][:2]
                size = (height, width) if turn.transpose else (width, height)
                pictures.append(turn.upright(to_rgb(frame, *size, "BICUBIC")))
    return pictures


def opencv(path: str) -> int:
    """Reads every frame and keeps eight; their number."""
    capture, frames, kept = cv2.VideoCapture(path), 0, []
    whole = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) or 1
    while True:
        there, image = capture.read()
        if not there:
            return frames
        if len(kept) * whole <= frames * STILLS:
            kept.append(image)
        frames += 1


def in_this_process(path: str, mode: str) -> None:
    with open(path, "rb") as file:
        b"".join(bytes(memoryview(part).cast("B")) for part in answer_for(file, Limits(), mode))


def _seconds(work: Callable[..., Any], *about: Any) -> tuple[float, Any]:
    began = time.perf_counter()
    done = work(*about)
    return time.perf_counter() - began, done


def measured(path: str, decoders: dict[str, Decoder]) -> dict[str, float]:
    """Median seconds of each way, for one file."""
    taken: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for mode, decoder in decoders.items():
            found: Decoded
            seconds, found = _seconds(decoder.decode, path)
            taken.setdefault(f"{mode} in the room", []).append(seconds)
            taken.setdefault(mode, []).append(found.seconds["open"] + found.seconds["decode"])
            taken.setdefault(f"{mode} outside", []).append(_seconds(in_this_process, path, mode)[0])
            if mode == "exact":
                index, wanted = positions(path, [still.timestamp_s for still in found.stills])
                seconds, pictures = _seconds(bare, path, index, wanted, [still.image.shape for still in found.stills])
                taken.setdefault("bare", []).append(seconds)
                for still, picture in zip(found.stills, pictures, strict=True):
                    assert np.array_equal(still.image, picture), f"{path}: another picture than PyAV's at {still.timestamp_s} s"
        taken.setdefault("opencv", []).append(_seconds(opencv, path)[0])
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def run(data_dir: pathlib.Path | str | None = None, made: int = MADE) -> list[dict[str, Any]]:
    """Figures as JSON-ready rows.

    Args:
        data_dir: the folder that holds `clips`.
        made: how many 720p clips are generated beside them.
    """
    cv2.setNumThreads(1)
    folder = pathlib.Path(data_dir or DATA) / "clips"
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines() if line.strip()]
    real = [str(folder / row["uri"]) for row in rows]
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as made_in, Decoder(1) as exact, Decoder(1, "keyframes") as keyframes:
        decoders = {"exact": exact, "keyframes": keyframes}
        for decoder in decoders.values():
            decoder.decode(real[0])
        long = [write_720p(os.path.join(made_in, f"{seed}.mp4"), seed) for seed in range(made)]
        for case, paths in (("real clips", real), (f"{MADE_S} s of 720p", long)):
            taken = [measured(path, decoders) for path in paths]
            whole = {name: sum(each[name] for each in taken) for name in taken[0]}
            workload = f"{len(paths)} files, {STILLS} stills each, one thread, median of {ROUNDS}"
            figures += _figures(case, whole, workload)
    return figures + clips_an_hour(folder / "manifest.jsonl")


def clips_an_hour(manifest: pathlib.Path) -> list[dict[str, Any]]:
    """The extract stage over the real clips, everything on and decoding alone."""
    figures = []
    for case, encoders in (("everything on", EncoderConfig()), ("frames only", DECODING_ALONE)):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            record = extract.run(extract.ExtractConfig(Workspace(folder), str(manifest), encoders=encoders))
            hours = (time.perf_counter() - began) / 3600
        assert record.counts.annotated == record.counts.into, f"{record.counts}"
        workload = f"the {record.counts.into} real clips, two workers on two cores, models loaded within the time"
        figure = {"case": case, "metric": "clips an hour", "value": record.counts.into / hours, "goal": None, "better": "higher"}
        figures.append({**figure, "ours": record.counts.into, "theirs": None, "workload": workload})
    return figures


def _figures(case: str, whole: dict[str, float], workload: str) -> list[dict[str, Any]]:
    def figure(metric: str, ours: float, theirs: float, value: float, goal: float | None, better: str = "higher") -> dict[str, Any]:
        facts = {"case": case, "metric": metric, "value": value, "goal": goal, "better": better}
        return {**facts, "ours": ours, "theirs": theirs, "workload": workload}

    found = [
        figure("exact, speed vs bare PyAV", whole["exact"], whole["bare"], whole["bare"] / whole["exact"], GOAL_EXACT),
        figure(
            "keyframes, speed vs OpenCV reading everything",
            whole["keyframes"],
            whole["opencv"],
            whole["opencv"] / whole["keyframes"],
            GOAL_KEYFRAMES,
        ),
    ]
    for mode in ("exact", "keyframes"):
        inside, outside = whole[f"{mode} in the room"], whole[f"{mode} outside"]
        found.append(figure(f"{mode}, share that the sealed room costs", inside, outside, inside / outside - 1, GOAL_ROOM, "lower"))
    return found


if __name__ == "__main__":
    for row in run():
        print(json.dumps(row))
