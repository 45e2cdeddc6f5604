"""Between extract and annotate: features -> groups of near-duplicates, of which one video is asked about for all.

Candidates share a band key (`features.videos.duplicate_candidates`), are compared (`features.videos.duplicates`), and fall into
groups (`features.videos.duplicate_groups`). Only the ids of pairs that match come together on one worker, where components are
made of them: such pairs are few. Everything else is spread over workers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import apache_beam as beam
import pyarrow as pa

from features.records import Duplicate, RunRecord
from features.videos.apart import Apart, read_apart
from features.videos.duplicate_candidates import Block, Candidates, band_keys, candidates
from features.videos.duplicate_groups import components, split
from features.videos.duplicates import Marks, verify
from features.videos.fingerprint import BYTES
from features.workspace import Workspace, trusted_seconds
from pipelines.copies import APART, STAGE, apart_digest
from pipelines.counters import count
from pipelines.io import CommitRun, ReadColumns, WriteTable, at_bundle_end, finish, tallies, to_batch
from pipelines.options import RunHeader, check_place, make_pipeline

COLUMNS = ("video_id", "content_hash", "fingerprints", "fingerprint_times_s", "published_at", "extracted_at")
BLOCK = 5_000
"""Videos whose band keys travel together."""


@dataclass(frozen=True)
class DuplicatesConfig:
    """Where to look for near-duplicates.

    Attributes:
        workspace: its features and `apart.csv` are read, its duplicates table and run record written.
        parts: into which band keys fall, each looked at by one worker at a time.
    """

    workspace: Workspace
    parts: int = 64
    header: RunHeader = field(default_factory=RunHeader)


def marks_of(_: str, batch: pa.RecordBatch) -> Iterator[tuple[str, tuple[float, bytes]]]:
    """(video id, (when its features were extracted, its `Marks`)) of each row of a features file.

    Fingerprints of another length are an older extractor's, and are compared with none.
    """
    for row in batch.to_pylist():
        timed = zip(row.get("fingerprint_times_s") or (), row.get("fingerprints") or (), strict=False)
        marks = [(time, mark) for time, mark in timed if len(mark) == BYTES]
        published = row["published_at"] and row["published_at"].isoformat()
        prints = b"".join(mark for _, mark in marks)
        made = Marks(row["video_id"], published or "", row["content_hash"], tuple(time for time, _ in marks), prints)
        yield row["video_id"], (trusted_seconds(row["extracted_at"]), made.to_bytes())


class BandFn(beam.DoFn):
    """Band keys of many videos as (part of the keys, `Block`)."""

    def __init__(self, parts: int) -> None:
        self._parts = parts

    def start_bundle(self) -> None:
        self._keys: dict[str, Any] = {}

    def process(self, element: tuple[str, bytes]) -> Iterator[tuple[int, bytes]]:
        self._keys[element[0]] = band_keys(Marks.from_bytes(element[1]))
        if len(self._keys) >= BLOCK:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[Any]:
        yield from at_bundle_end(self._flush())

    def _flush(self) -> Iterator[tuple[int, bytes]]:
        blocks, self._keys = Block.of(self._keys).parts(self._parts), {}
        for part, block in blocks.items():
            yield part, block.to_bytes()


def pair_up(_: int, blocks: Iterable[bytes]) -> Iterator[Any]:
    """The candidate pairs of one part of the keys, with how many keys were too common."""
    found: Candidates = candidates([Block.from_bytes(block) for block in blocks])
    yield from found.pairs
    yield from tallies({"detail/keys too common": found.capped, "detail/pairs left out for them": found.left_out})


def with_first(_: str, groups: dict[str, Iterable[Any]]) -> Iterator[tuple[str, bytes]]:
    """(the second video of a pair, the first one's marks) for all pairs of one first video."""
    for marks in groups["marks"]:
        for other in groups["others"]:
            yield other, marks


class CompareFn(beam.DoFn):
    """Compares a video with those that it may be a copy of; main output: pairs of ids that match."""

    def process(self, element: tuple[str, dict[str, Iterable[bytes]]]) -> Iterator[Any]:
        video_id, groups = element
        compared = matched = 0
        for mine in map(Marks.from_bytes, groups["marks"]):
            for other in map(Marks.from_bytes, groups["others"]):
                compared += 1
                if verify(other, mine) is not None:
                    matched += 1
                    yield other.video_id, video_id
        yield from tallies({"detail/pairs compared": compared, "detail/pairs that match": matched})


def in_component(_: str, groups: dict[str, Iterable[Any]]) -> Iterator[tuple[str, bytes]]:
    """(component, marks) of a video that matches any other."""
    for component in groups["component"]:
        for marks in groups["marks"]:
            yield component, marks


class SplitFn(beam.DoFn):
    """Splits components into groups; main output: RecordBatches of Duplicates."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id

    def process(self, element: tuple[str, Iterable[bytes]], apart: str) -> Iterator[Any]:
        pairs, alone = json.loads(apart)
        taken = Apart(frozenset(map(tuple, pairs)), frozenset(alone))
        members = split(map(Marks.from_bytes, element[1]), taken)
        now = datetime.now(UTC)
        rows = [
            Duplicate(
                video_id=member.marks.video_id,
                lead_id=member.lead.video_id,
                content_hash=member.marks.content_hash,
                lead_content_hash=member.lead.content_hash,
                overlap=member.match.overlap,
                shift_s=member.match.shift_s,
                distance_bits=member.match.distance_bits,
                found_at=now,
                run_id=self._run_id,
            )
            for member in members
        ]
        if rows:
            yield to_batch(rows, Duplicate)
        yield from tallies({"detail/groups": len({row.lead_id for row in rows}), "detail/copies": len(rows)})


def _entered(element: tuple[str, bytes]) -> Iterator[tuple[str, int]]:
    """What is counted of each video: a comparison cannot fail, so what comes in is done."""
    empty = not Marks.from_bytes(element[1]).times_s
    count(STAGE, "annotated")
    yield from (("video/in", 1), ("video/annotated", 1))
    if empty:
        yield "detail/without fingerprints", 1


def build(pipeline: beam.Pipeline, config: DuplicatesConfig) -> None:
    """Wires the stage."""
    workspace, run_id = config.workspace, config.header.run_id
    apart = (
        pipeline
        | "Start" >> beam.Create([None])
        | "ReadApart" >> beam.Map(lambda _: _as_json(read_apart(workspace))).with_output_types(str)
    )
    marks = (
        pipeline
        | "ReadFingerprints" >> ReadColumns(workspace, "features", COLUMNS)
        | "KeyByVideo" >> beam.FlatMapTuple(marks_of).with_output_types(tuple[str, tuple[float, bytes]])
        | "Newest" >> beam.CombinePerKey(max)
        | "DropTime" >> beam.MapTuple(lambda video_id, row: (video_id, row[1])).with_output_types(tuple[str, bytes])
    )
    paired = (
        marks
        | "MakeBandKeys" >> beam.ParDo(BandFn(config.parts)).with_output_types(tuple[int, bytes])
        | "GroupByKeys" >> beam.GroupByKey()
        | "PairUp" >> beam.FlatMapTuple(pair_up).with_outputs("tallies", main="pairs").with_output_types(tuple[str, str])
    )
    pairs = paired.pairs | "EachOnce" >> beam.Distinct()
    compared = (
        {"others": _to_second(marks, pairs), "marks": marks}
        | "MatchSecond" >> beam.CoGroupByKey()
        | "KeepPaired" >> beam.Filter(lambda element: bool(element[1]["others"]))
        | "Compare" >> beam.ParDo(CompareFn()).with_outputs("tallies", main="pairs").with_output_types(tuple[str, str])
    )
    joined = (
        compared.pairs
        | "ToOneWorker" >> beam.combiners.ToList()
        | "JoinComponents" >> beam.FlatMap(lambda edges: components(edges).items()).with_output_types(tuple[str, str])
    )
    grouped = (
        {"component": joined, "marks": marks}
        | "MatchComponent" >> beam.CoGroupByKey()
        | "KeyByComponent" >> beam.FlatMapTuple(in_component).with_output_types(tuple[str, bytes])
        | "GroupComponents" >> beam.GroupByKey()
        | "SplitIntoGroups"
        >> beam.ParDo(SplitFn(run_id), beam.pvalue.AsSingleton(apart))
        .with_outputs("tallies", main="duplicates")
        .with_output_types(pa.RecordBatch)
    )
    entered = marks | "Enter" >> beam.FlatMap(_entered).with_output_types(tuple[str, int])
    written = (grouped.duplicates | "WriteDuplicates" >> WriteTable(workspace, "duplicates", run_id),)
    counted = (entered, paired.tallies, compared.tallies, grouped.tallies)
    written | "CommitRun" >> CommitRun(workspace, STAGE, config.header, counted)


def _to_second(
    marks: beam.PCollection[tuple[str, bytes]], pairs: beam.PCollection[tuple[str, str]]
) -> beam.PCollection[tuple[str, bytes]]:
    return (
        {"others": pairs, "marks": marks}
        | "MatchFirst" >> beam.CoGroupByKey()
        | "HandOver" >> beam.FlatMapTuple(with_first).with_output_types(tuple[str, bytes])
    )


def _as_json(apart: Apart) -> str:
    return json.dumps([sorted(apart.pairs), sorted(apart.alone)])


def run(config: DuplicatesConfig, beam_args: Sequence[str] = ()) -> RunRecord:
    """Looks for near-duplicates here, to the end, and returns the run's record.

    Raises:
        InvalidInput: the workspace cannot be written, or its `apart.csv` cannot be read.
    """
    check_place(config.workspace, ())
    told = {**config.header.arguments, APART: apart_digest(config.workspace)}
    config = replace(config, header=replace(config.header, arguments=told))
    pipeline = make_pipeline(beam_args)
    build(pipeline, config)
    return finish(pipeline, config.workspace, config.header)
