"""A corpus of short encoded videos made by code, to try everything on: `vidattr sample DIR`.

    DIR/videos/ID.mp4          real files: H.264 with AAC, a few VP8 with Opus in WebM, a few Matroska, some turned, some silent
    DIR/manifest.jsonl         what the extractor reads
    DIR/truth.jsonl            what was planted in each clip
    DIR/golden/ratings.csv     three simulated raters on a third of the clips
    DIR/sample.json            what this sample was made from; written last

Manifest, truth and ratings depend on `count` and `seed` alone; the bytes of the videos also on the encoder.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import av.audio.frame
import av.video.frame
import numpy as np

from features import storage
from features.errors import InvalidInput
from features.records import digest
from features.videos.sample import catalogue
from features.videos.sample.catalogue import Clip
from features.videos.sample.drawing import Picture, caption_overlay
from features.videos.sample.scenes import SCENES
from features.videos.sample.sound import SAMPLE_RATE_HZ, make_sound

FORMAT = "1"
"""Rises whenever the same count and seed would give another manifest, truth or picture."""
MAX_COUNT = 5_000
_TEXTS = ("manifest.jsonl", "truth.jsonl", "golden/ratings.csv")
_OWN = {"videos", "golden", "manifest.jsonl", "truth.jsonl", "sample.json"}


@dataclass(frozen=True)
class SampleReport:
    """What a sample holds.

    Attributes:
        folder, manifest, truth, ratings: absolute paths.
        count: how many clips.
        bytes: of all clips together.
        planted: for each attribute, how many clips truly carry it.
        rated: how many clips the simulated raters rated.
        reused: a complete sample of the same parameters was there already, and nothing was written.
    """

    folder: str
    manifest: str
    truth: str
    ratings: str
    count: int
    bytes: int
    planted: dict[str, int]
    rated: int
    reused: bool


def write_sample(folder: str, count: int = 64, seed: int = 0, progress: Callable[[int, int], None] | None = None) -> SampleReport:
    """Makes the sample, whole or not at all; a sample of the same parameters that is there already is kept.

    Args:
        folder: a local folder that is empty, missing, or an earlier sample, which is replaced when its parameters differ.
        count: clips, 1 to 5000.
        seed: decides everything else, 0 and up.
        progress: called with clips done and clips in all.

    Raises:
        InvalidInput: wrong arguments, a folder with something else in it, or a disk that is full or not writable.
    """
    if not 1 <= count <= MAX_COUNT:
        raise InvalidInput(f"--count {count}: a sample has 1 to {MAX_COUNT} videos; choose a number within")
    if seed < 0:
        raise InvalidInput(f"--seed {seed}: choose 0 or a positive number")
    if storage.is_gcs(folder):
        raise InvalidInput(f"{folder}: a sample is made on a local disk; name a folder there, then copy it")
    target = os.path.realpath(folder)
    clips = catalogue.plan(count, seed)
    parameters = {"format": FORMAT, "count": count, "seed": seed}
    if _holds(target, parameters):
        if progress is not None:
            progress(count, count)
        return _report(target, clips, reused=True)
    parent = os.path.dirname(target)
    partial = ""
    try:
        os.makedirs(parent, exist_ok=True)
        partial = tempfile.mkdtemp(prefix=".partial-sample-", dir=parent)
        _fill(partial, clips, parameters, progress)
        os.chmod(partial, 0o755)
        _replace(target, partial)
    except OSError as error:
        raise storage.unwritable(folder, error) from error
    finally:
        if partial:
            shutil.rmtree(partial, ignore_errors=True)
    return _report(target, clips, reused=False)


def _holds(target: str, parameters: dict[str, Any]) -> bool:
    """Whether the wanted sample is there, complete. Raises InvalidInput when the place may not be written over."""
    if not os.path.lexists(target):
        return False
    if not os.path.isdir(target):
        raise InvalidInput(f"{target} is a file: name a folder for the sample")
    try:
        names = set(os.listdir(target))
    except OSError as error:
        raise InvalidInput(f"{target}: cannot be read ({error.strerror}); name another folder") from error
    if os.path.ismount(target):
        raise InvalidInput(f"{target} is a mount point and cannot be replaced as a whole: name a folder below it")
    if not names:
        return False
    try:
        with open(os.path.join(target, "sample.json"), encoding="utf-8") as file:
            made = json.load(file)
        sizes, texts, _ = dict(made["videos"]), dict(made["texts"]), [made[name] for name in parameters]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{target} is not empty and is no earlier sample: name an empty or new folder") from error
    whole = all(_size(os.path.join(target, name)) == size for name, size in sizes.items())
    if (
        whole
        and all(_size(os.path.join(target, name)) for name in texts)
        and all(made[name] == parameters[name] for name in parameters)
    ):
        return True
    edited = [name for name, known in texts.items() if _size(os.path.join(target, name)) and _text_digest(target, name) != known]
    foreign = sorted(edited) + sorted(names - _OWN)
    if foreign:
        raise InvalidInput(
            f"{target} is an earlier sample, but {', '.join(foreign[:5])} in it is not: move that away, or name another folder"
        )
    return False


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.isfile(path) else 0


def _text_digest(folder: str, name: str) -> str:
    with open(os.path.join(folder, name), "rb") as file:
        return digest(file.read())


def _replace(target: str, partial: str) -> None:
    if not os.path.isdir(target) or not os.listdir(target):
        os.rename(partial, target)
        return
    old = tempfile.mkdtemp(prefix=".partial-sample-", dir=os.path.dirname(target))
    os.rename(target, os.path.join(old, "old"))
    os.rename(partial, target)
    shutil.rmtree(old, ignore_errors=True)


def _fill(folder: str, clips: tuple[Clip, ...], parameters: dict[str, Any], progress: Callable[[int, int], None] | None) -> None:
    os.mkdir(os.path.join(folder, "videos"))
    os.mkdir(os.path.join(folder, "golden"))
    sizes = {}
    with ThreadPoolExecutor(max_workers=max(os.cpu_count() or 1, 2)) as pool:
        waiting = {pool.submit(_write_clip, folder, clip): clip for clip in clips}
        try:
            for done, future in enumerate(as_completed(waiting), start=1):
                sizes[f"videos/{waiting[future].video_id}{waiting[future].suffix}"] = future.result()
                if progress is not None:
                    progress(done, len(clips))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    content = {
        "manifest.jsonl": _lines([_manifest_row(clip) for clip in clips]),
        "truth.jsonl": _lines([_truth_row(clip) for clip in clips]),
        "golden/ratings.csv": _ratings_csv(clips, parameters["seed"]),
    }
    for name in _TEXTS:
        with open(os.path.join(folder, name), "w", encoding="utf-8", newline="") as file:
            file.write(content[name])
    made = {**parameters, "videos": dict(sorted(sizes.items())), "texts": {name: _text_digest(folder, name) for name in _TEXTS}}
    with open(os.path.join(folder, "sample.json"), "w", encoding="utf-8") as file:
        json.dump(made, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _manifest_row(clip: Clip) -> dict[str, Any]:
    row: dict[str, Any] = {
        "video_id": clip.video_id,
        "uri": f"videos/{clip.video_id}{clip.suffix}",
        "title": clip.title,
        "description": clip.description,
        "hashtags": list(clip.hashtags),
        "creator_id": clip.creator_id,
        "published_at": clip.published_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "language": clip.language,
    }
    return row if clip.transcript is None else {**row, "transcript": clip.transcript}


def _truth_row(clip: Clip) -> dict[str, Any]:
    return {
        "video_id": clip.video_id,
        **{attribute: attribute in clip.attributes for attribute in catalogue.ATTRIBUTES},
        "genre": clip.genre,
        "scenes": [shot.scene for shot in clip.shots],
        "cuts_s": [shot.start_s for shot in clip.shots[1:]],
        "captions": [dataclasses.asdict(caption) for caption in clip.captions],
        "audio": clip.sound,
        "orientation": "portrait" if clip.height > clip.width else "landscape" if clip.width > clip.height else "square",
        "rotation": clip.rotation,
        "duration_s": clip.seconds,
        "title_kind": clip.title_kind,
        "hashtags_leak": clip.hashtags_leak,
    }


def _ratings_csv(clips: tuple[Clip, ...], seed: int) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("video_id", "attribute", "rater_id", "value"))
    writer.writerows(catalogue.ratings(clips, seed))
    return buffer.getvalue()


def _report(target: str, clips: tuple[Clip, ...], reused: bool) -> SampleReport:
    return SampleReport(
        folder=target,
        manifest=os.path.join(target, "manifest.jsonl"),
        truth=os.path.join(target, "truth.jsonl"),
        ratings=os.path.join(target, "golden", "ratings.csv"),
        count=len(clips),
        bytes=sum(os.path.getsize(os.path.join(target, "videos", f"{clip.video_id}{clip.suffix}")) for clip in clips),
        planted={name: sum(name in clip.attributes for clip in clips) for name in catalogue.ATTRIBUTES},
        rated=len(clips[::3]),
        reused=reused,
    )


def _write_clip(folder: str, clip: Clip) -> int:
    content = encode(clip)
    with open(os.path.join(folder, "videos", f"{clip.video_id}{clip.suffix}"), "wb") as file:
        file.write(content)
    return len(content)


def draw(clip: Clip) -> list[Picture]:
    """All pictures of a clip, upright, (height, width, 3) RGB, captions included."""
    total = round(clip.seconds * clip.fps)
    starts = [round(shot.start_s * clip.fps) for shot in clip.shots] + [total]
    overlays = [(caption, caption_overlay(caption.text, clip.width, clip.height)) for caption in clip.captions]
    pictures = []
    for shot, begin, end in zip(clip.shots, starts, starts[1:], strict=False):
        paint = SCENES[shot.scene](clip.width, clip.height, np.random.default_rng(shot.seed), (end - begin) / clip.fps)
        for number in range(begin, end):
            picture = paint((number - begin) / clip.fps)
            for caption, (rows, colours, opacity) in overlays:
                if caption.start_s <= number / clip.fps < caption.end_s:
                    picture[rows] = (picture[rows] * (1 - opacity) + colours * opacity).astype(np.uint8)
            pictures.append(picture)
    return pictures


def encode(clip: Clip) -> bytes:
    """One clip as the content of its file."""
    buffer = io.BytesIO()
    webm = clip.suffix == ".webm"
    turned = clip.rotation in (90, 270)
    container = {".webm": "webm", ".mkv": "matroska"}.get(clip.suffix, "mp4")
    with av.open(buffer, "w", format=container) as output:
        quality = {"deadline": "realtime", "cpu-used": "8", "crf": "20"} if webm else {"preset": "ultrafast", "crf": "26"}
        video = output.add_stream("libvpx" if webm else "libx264", rate=clip.fps, options=quality)
        video.width, video.height = (clip.height, clip.width) if turned else (clip.width, clip.height)
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1
        if webm:
            video.bit_rate = 700_000
        samples = make_sound(clip.sound, clip.seconds, np.random.default_rng(clip.seed))
        sound = None if samples is None else output.add_stream("libopus" if webm else "aac", rate=SAMPLE_RATE_HZ, layout="mono")
        for number, picture in enumerate(draw(clip)):
            # A player turns the stored picture by `rotation` clockwise, so it is stored turned the other way.
            stored = np.ascontiguousarray(np.rot90(picture, clip.rotation // 90)) if clip.rotation else picture
            frame = av.video.frame.VideoFrame.from_ndarray(stored, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, clip.fps)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        if sound is not None and samples is not None:
            for start in range(0, len(samples), SAMPLE_RATE_HZ):
                part = av.audio.frame.AudioFrame.from_ndarray(
                    samples[None, start : start + SAMPLE_RATE_HZ], format="flt", layout="mono"
                )
                part.sample_rate, part.pts, part.time_base = SAMPLE_RATE_HZ, start, Fraction(1, SAMPLE_RATE_HZ)
                output.mux(sound.encode(part))
            output.mux(sound.encode(None))
    content = buffer.getvalue()
    return _turned(content, clip.rotation, video.width, video.height) if clip.rotation and container == "mp4" else content


def _turned(mp4: bytes, rotation: int, width: int, height: int) -> bytes:
    """The file with a display matrix in its first track's header (ISO/IEC 14496-12, 8.3.2), which PyAV cannot write."""
    matrix = {
        90: (0, 1, 0, -1, 0, 0, height, 0),
        270: (0, -1, 0, 1, 0, 0, 0, width),
    }[rotation]
    fixed = [number << 16 for number in matrix] + [1 << 30]
    at = (
        mp4.index(b"tkhd", mp4.rindex(b"moov")) + 4 + 40
    )  # version and flags, five fields, two reserved, layer to reserved: 40 bytes in version 0
    return mp4[:at] + struct.pack(">9i", *fixed) + mp4[at + 36 :]
