"""Near-duplicates: how many copies of real and drawn clips are found, how many pairs are found that are none, and how it grows.

Copies are made of each clip in nine ways (`benchmarks.changed_copies`), decoded in the sealed room in both frame modes, and looked
for among all of them and all plain clips: candidates by band keys, then verification. A pair of copies of one clip is right, any
other is wrong, but for two pairs of real clips that are near-duplicates of each other. Thresholds were set on one half (every
second real clip, and a drawn corpus); the figures are of the other half, with a drawn corpus of another seed. For comparison the
same with one 64-bit hash a picture by ImageHash, bars and all, its threshold set in the same way.

Then the Beam stage on made-up fingerprints, a tenth of them copies, a twentieth with a common opening.
"""

from __future__ import annotations

import itertools
import pathlib
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import imagehash
import numpy as np
from PIL import Image as PillowImage

from benchmarks.changed_copies import CHANGES, write_copies
from features.records import Counts, RunRecord, VideoFeatures, to_table
from features.videos.decoding import Decoder
from features.videos.duplicate_candidates import Block, band_keys, candidates
from features.videos.duplicates import COLOUR, MEAN_BITS, OVERLAP, PART, Marks, Match, compare, verify
from features.videos.fingerprint import BLANK, BYTES, HASH_BYTES
from features.videos.frames import decode_pictures
from features.videos.probe import Limits, open_container, probe
from features.videos.sample import write_sample
from features.videos.wire import MODES
from features.workspace import Workspace, new_run_id
from pipelines import duplicates
from tests.conftest import DATA

DRAWN = 20
SEEDS = {False: 0, True: 1}
"""Of the drawn corpus, by whether it is held out."""
KNOWN = ({"squirrel-on-rail", "squirrel-on-rail-silent"}, {"bunny-meadow-10s", "bunny-meadow-30s"})
PLAIN = "plain"
PATIENT = Limits(cpu_s=600, wall_s=1200)
"""However busy the machine is."""
GROWTH = (20_000, 100_000)
PICTURES = 60
DETAILS = ("detail/pairs compared", "detail/copies", "detail/keys too common")


@dataclass(frozen=True)
class Origin:
    """A clip, whether thresholds were not set on it, and whether copies are made of it."""

    name: str
    path: pathlib.Path
    held_out: bool
    copied: bool


@dataclass(frozen=True)
class Seen:
    """One video: whose copy it is, by which change, and its fingerprints."""

    origin: Origin
    change: str
    path: pathlib.Path
    marks: Marks | None = None

    @property
    def name(self) -> str:
        """Of this video and no other."""
        return f"{self.origin.name}/{self.change}"


def origins(folder: pathlib.Path) -> Iterator[Origin]:
    """All real clips, and the drawn ones of both corpora, of which some are copied."""
    clips = sorted(path for path in (DATA / "clips").iterdir() if path.suffix != ".jsonl")
    for number, path in enumerate(clips):
        yield Origin(path.stem, path, number % 2 == 1, True)
    for held_out, seed in SEEDS.items():
        write_sample(str(folder / f"drawn-{seed}"), 64, seed)
        drawn = sorted((folder / f"drawn-{seed}" / "videos").iterdir())
        step = len(drawn) // DRAWN
        for number, path in enumerate(drawn):
            yield Origin(path.stem, path, held_out, number % step == 0 and number // step < DRAWN)


def videos(folder: pathlib.Path) -> list[Seen]:
    """Every clip and every copy, the copies written where they are not there yet."""
    found = []
    for origin in origins(folder):
        found.append(Seen(origin, PLAIN, origin.path))
        if not origin.copied:
            continue
        place = folder / "copies" / origin.name
        if not (place / "done").exists():
            place.mkdir(parents=True, exist_ok=True)
            write_copies(origin.path, place)
            (place / "done").touch()
        found += [Seen(origin, change.name, place / f"{number}.mp4") for number, change in enumerate(CHANGES)]
    return found


def fingerprinted(seen: Iterable[Seen], mode: str) -> list[Seen]:
    """The same with fingerprints, as extraction makes them."""

    def one(video: Seen) -> Seen:
        clip = decoder.decode(str(video.path), PATIENT)
        return with_marks(video, clip.fingerprint_times_s, clip.fingerprints)

    with Decoder(2, mode) as decoder, ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, seen))


def with_marks(video: Seen, times_s: Iterable[float], prints: Iterable[bytes]) -> Seen:
    """The video with its fingerprints."""
    return replace(video, marks=Marks(video.name, "", video.name, tuple(times_s), b"".join(prints)))


def with_image_hash(video: Seen) -> Seen:
    """The video with ImageHash's 64-bit `phash` of each sample, written four times so that it fills a fingerprint.

    Distances are twice those of the 64 bits, and whatever compares fingerprints compares these.
    """
    with video.path.open("rb") as file, open_container(file) as container:
        pictures = decode_pictures(container, probe(container, Limits()), Limits())
    shown = [sample for sample in pictures.samples if sample.image.mean(axis=2).std() >= BLANK]
    hashes = [imagehash.phash(PillowImage.fromarray(sample.image)).hash.ravel() for sample in shown]
    prints = [np.packbits(bits).tobytes() * (HASH_BYTES // 8) + b"\x80" * (BYTES - HASH_BYTES) for bits in hashes]
    return with_marks(video, [sample.timestamp_s for sample in shown], prints)


def same_origin(one: Seen, other: Seen) -> bool | None:
    """Whether a pair is right; None for copies of two clips that are near-duplicates themselves."""
    if one.origin.name == other.origin.name:
        return True
    return None if {one.origin.name, other.origin.name} in KNOWN else False


def pairs_found(seen: list[Seen]) -> dict[tuple[str, str], Match]:
    """Every pair that shares a band key and matches."""
    marks = {video.name: video.marks for video in seen if video.marks is not None}
    block = Block.of({name: band_keys(each) for name, each in marks.items()})
    checked = {pair: verify(marks[pair[0]], marks[pair[1]]) for pair in candidates([block]).pairs}
    return {pair: match for pair, match in checked.items() if match is not None}


def scored(seen: list[Seen], mode: str) -> Iterator[dict[str, Any]]:
    """Precision and recall by change and in total."""
    found, by_name = pairs_found(seen), {video.name: video for video in seen}
    judged = {pair: same_origin(by_name[pair[0]], by_name[pair[1]]) for pair in found}
    wrong = sorted(pair for pair, right in judged.items() if right is False)
    copied = [video for video in seen if video.origin.copied]
    size = f"{len({video.origin.name for video in copied})} clips and their copies among {len(seen)} videos, frames: {mode}"
    for change in (*(change.name for change in CHANGES), "all pairs of copies of one clip"):
        if change.startswith("all"):
            wanted = [tuple(sorted((a.name, b.name))) for a, b in itertools.combinations(copied, 2) if a.origin == b.origin]
            mine = judged
        else:
            wanted = [tuple(sorted((v.name, f"{v.origin.name}/{PLAIN}"))) for v in copied if v.change == change]
            mine = {pair: right for pair, right in judged.items() if any(by_name[name].change == change for name in pair)}
        right, false = sum(each is True for each in mine.values()), sum(each is False for each in mine.values())
        hits = sum(pair in found for pair in wanted)
        parts = {"recall": hits / len(wanted), "precision": right / max(1, right + false)}
        for metric, value in parts.items():
            ours = f"{hits} of {len(wanted)}" if metric == "recall" else f"{false} wrong of {right + false}"
            yield {
                "case": f"{mode}: {change}",
                "metric": metric,
                "value": value,
                "ours": ours,
                "workload": size,
                "better": "higher",
            }
    for pair in wrong:
        print(f"wrong ({mode}): {pair[0]} and {pair[1]}, {found[pair]}")


def plain_pairs(seen: list[Seen], mode: str) -> dict[str, Any]:
    """Whether the known pairs are found among the real clips, and nothing else."""
    plain = [video for video in seen if video.change == PLAIN and video.origin.path.parent == DATA / "clips"]
    found = {frozenset(name.split("/")[0] for name in pair) for pair in pairs_found(plain)}
    known = set(map(frozenset, KNOWN))
    shown = "; ".join(sorted(" = ".join(sorted(pair)) for pair in found))
    exact = float(found == known)
    return {
        "case": f"{mode}: the real clips as they are",
        "metric": "the known pairs and no other",
        "value": exact,
        "ours": shown,
        "goal": 1,
        "workload": f"{len(plain)} real clips, frames: {mode}",
    }


def alike(match: Match) -> bool:
    """Whether everything but the mean distance says that two videos show the same."""
    return match.overlap >= OVERLAP and match.part >= PART and match.colour <= COLOUR


def highest_without_a_wrong_pair(seen: list[Seen]) -> float:
    """The mean distance in bits, to halves, up to which no pair of different plain clips would match."""
    plain = [video for video in seen if video.change == PLAIN and video.marks is not None]
    apart = [
        match.distance_bits
        for one, other in itertools.combinations(plain, 2)
        if same_origin(one, other) is False and one.marks and other.marks
        for match in [compare(one.marks, other.marks)]
        if match is not None and alike(match)
    ]
    return np.ceil(2 * min(apart)) / 2 - 0.5


def compared_with_image_hash(tuned: list[Seen], held_out: list[Seen]) -> Iterator[dict[str, Any]]:
    """Recall of copies of held-out clips, thresholds set on the others so that no pair of different clips matches."""
    limits = {"ours": highest_without_a_wrong_pair(tuned)}
    theirs = {video.name: with_image_hash(video) for video in (*(v for v in tuned if v.change == PLAIN), *held_out)}
    limits["theirs"] = highest_without_a_wrong_pair([theirs[video.name] for video in tuned if video.change == PLAIN])
    of_theirs = [theirs[video.name] for video in held_out]
    for change in CHANGES:
        recall = {}
        for whose, seen in (("ours", held_out), ("theirs", of_theirs)):
            by_name = {video.name: video.marks for video in seen}
            pairs = [(by_name[v.name], by_name[f"{v.origin.name}/{PLAIN}"]) for v in seen if v.change == change.name]
            matches = [compare(one, other) for one, other in pairs if one and other]
            good = [match is not None and alike(match) and match.distance_bits <= limits[whose] for match in matches]
            recall[whose] = sum(good) / len(good)
        yield {
            "case": f"against ImageHash: {change.name}",
            "metric": "recall without a wrong pair",
            "value": recall["ours"],
            "theirs": recall["theirs"],
            "workload": f"held-out clips, every pair compared; at most {limits['ours']} and {limits['theirs']} of 128 bits",
        }


def growth(number: int) -> dict[str, Any]:
    """Seconds of the Beam stage on made-up fingerprints."""
    generator, started = np.random.default_rng(0), datetime.now(UTC)
    with tempfile.TemporaryDirectory() as folder:
        workspace, run_id = Workspace(folder), new_run_id()
        opening = generator.integers(0, 256, (8, BYTES), np.uint8)
        files, before = [], None
        for begin in range(0, number, 5_000):
            rows = []
            for at in range(begin, min(begin + 5_000, number)):
                prints = generator.integers(0, 256, (PICTURES // 4, BYTES), np.uint8).repeat(4, axis=0)
                if at % 10 == 9 and before is not None:
                    changed = np.packbits(generator.random((len(before), HASH_BYTES * 8)) < 0.02, axis=1)
                    prints = before.copy()
                    prints[:, :HASH_BYTES] ^= changed
                if at % 20 == 0:
                    prints[: len(opening)] = opening
                before = prints
                rows.append(
                    VideoFeatures(
                        f"video-{at:07}",
                        f"bytes-{at}",
                        "",
                        "made-up",
                        fingerprints=tuple(map(bytes, prints)),
                        fingerprint_times_s=tuple(each / 4 for each in range(len(prints))),
                        extracted_at=started,
                    )
                )
            files.append(workspace.write_table("features", run_id, to_table(rows, VideoFeatures)))
        counts = Counts(number, number)
        workspace.commit(RunRecord(run_id, "extract", started, started, counts=counts, files={"features": files}))
        began = time.monotonic()
        record = duplicates.run(duplicates.DuplicatesConfig(workspace))
        seconds = time.monotonic() - began
    details = record.details
    said = ", ".join(f"{name.removeprefix('detail/')} {details.get(name, 0):,}" for name in DETAILS)
    return {
        "case": f"{number:,} videos",
        "metric": "seconds of the Beam stage",
        "value": seconds,
        "better": "lower",
        "ours": f"{said}; {record.peak_memory_bytes / 2**30:.1f} GiB",
        "workload": f"{PICTURES} fingerprints a video, a tenth copies (2 % of bits), a twentieth share an opening; local runner",
    }


def run(folder: str = "", sizes: Iterable[int] = GROWTH) -> list[dict[str, Any]]:
    """All figures.

    Args:
        folder: where copies are kept for another run; empty: nowhere.
        sizes: numbers of made-up videos.
    """
    figures = []
    with tempfile.TemporaryDirectory() as temporary:
        everything = videos(pathlib.Path(folder or temporary))
        for mode in MODES:
            seen = fingerprinted(everything, mode)
            held_out = [video for video in seen if video.origin.held_out]
            tuned = [video for video in seen if not video.origin.held_out]
            figures += [plain_pairs(seen, mode), *scored(held_out, mode)]
            (total,) = [each for each in scored(tuned, mode) if each["case"].endswith("of one clip") and each["metric"] == "recall"]
            figures.append({**total, "case": f"{mode}: the half that thresholds were set on"})
            if mode == "exact":
                found = highest_without_a_wrong_pair(tuned)
                basis = "plain clips of the half that thresholds are set on"
                limit = {"case": "threshold", "metric": "bits without a wrong pair", "value": found, "workload": basis}
                figures += [{**limit, "ours": f"MEAN_BITS is {MEAN_BITS}"}, *compared_with_image_hash(tuned, held_out)]
    return [*figures, *map(growth, sizes)]
