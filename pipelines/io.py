"""Tables of a workspace in and out of Beam, and the commit that makes a run count.

Rows travel as Arrow RecordBatches. Files are written under names that no other bundle uses, and only the names that come out of the
pipeline are put into the run record: a bundle that is retried or replayed leaves at most an unlisted file.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam import coders
from apache_beam.pvalue import TaggedOutput
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

from features.records import Counts, R, RunRecord, to_table
from features.workspace import Table, Workspace, read_parquet, trusted_seconds
from pipelines.options import RunHeader


class RecordBatchCoder(coders.Coder):
    """Arrow's stream format: one batch with its schema."""

    def encode(self, value: pa.RecordBatch) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, value.schema) as writer:
            writer.write_batch(value)
        return sink.getvalue().to_pybytes()

    def decode(self, encoded: bytes) -> pa.RecordBatch:
        return pa.ipc.open_stream(encoded).read_next_batch()

    def is_deterministic(self) -> bool:
        return True


coders.registry.register_coder(pa.RecordBatch, RecordBatchCoder)


def to_batch(rows: Sequence[Any], kind: type[R]) -> pa.RecordBatch:
    """Records of one kind as one RecordBatch with exactly `kind.SCHEMA`."""
    return to_table(rows, kind).combine_chunks().to_batches()[0] if rows else pa.RecordBatch.from_pylist([], schema=kind.SCHEMA)


@dataclass(frozen=True)
class ListedFile:
    """One file of a table, as `ListFiles` gives it. `orphan`: no run record names it; its rows count only if adopted."""

    path: str
    order: int
    orphan: bool = False

    def to_json(self) -> str:
        return json.dumps(vars(self))


@dataclass(eq=False)
class ListFiles(beam.PTransform):
    """The files of a table that count, as JSON of `ListedFile`, one element each and spread over workers.

    The workspace is listed while the pipeline runs, so that building a graph needs no storage.

    Args:
        workspace: where.
        table: which.
        orphans: also whole files that no run record names (what a killed run left).
    """

    workspace: Workspace
    table: Table
    orphans: bool = False

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[str]:
        workspace, table, orphans = self.workspace, self.table, self.orphans

        def listed(_: None) -> Iterator[str]:
            for file in workspace.files(table):
                yield ListedFile(file.path, file.order).to_json()
            for relative in workspace.orphans(table) if orphans else ():
                yield ListedFile(workspace.path(relative), -1, orphan=True).to_json()

        return (
            pipeline
            | "Start" >> beam.Create([None])
            | "List" >> beam.FlatMap(listed).with_output_types(str)
            | "Spread" >> beam.Reshuffle()
        )


@dataclass(eq=False)
class ReadColumns(beam.PTransform):
    """Some columns of a table, as (ListedFile as JSON, RecordBatch) per file, spread over workers."""

    workspace: Workspace
    table: Table
    columns: tuple[str, ...]
    orphans: bool = False

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[tuple[str, pa.RecordBatch]]:
        columns = self.columns

        def read(listed: str) -> Iterator[tuple[str, pa.RecordBatch]]:
            for batch in read_parquet(json.loads(listed)["path"], columns).to_batches():
                yield listed, batch

        return (
            pipeline
            | "ListFiles" >> ListFiles(self.workspace, self.table, self.orphans)
            | "Read" >> beam.FlatMap(read).with_output_types(tuple[str, pa.RecordBatch])
        )


class _WriteFn(beam.DoFn):
    def __init__(self, workspace: Workspace, table: Table, run_id: str, max_rows: int, max_bytes: int) -> None:
        self._workspace, self._table, self._run_id = workspace, table, run_id
        self._max_rows, self._max_bytes = max_rows, max_bytes

    def start_bundle(self) -> None:
        self._batches: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0

    def process(self, batch: pa.RecordBatch) -> Iterator[tuple[str, str, int]]:
        if batch.num_rows:
            self._batches.append(batch)
            self._rows += batch.num_rows
            self._bytes += batch.nbytes
        if self._rows >= self._max_rows or self._bytes >= self._max_bytes:
            yield self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._batches:
            yield from at_bundle_end([self._flush()])

    def _flush(self) -> tuple[str, str, int]:
        rows = pa.Table.from_batches(self._batches)
        self._batches, self._rows, self._bytes = [], 0, 0
        return self._table, self._workspace.write_table(self._table, self._run_id, rows), rows.num_rows


@dataclass(eq=False)
class WriteTable(beam.PTransform):
    """Writes RecordBatches as files of a table; gives (table, relative path, rows) of each file for `CommitRun`.

    Args:
        max_rows, max_bytes: when a file is closed before its bundle ends, so that a killed run leaves whole files behind.
    """

    workspace: Workspace
    table: Table
    run_id: str
    max_rows: int = 50_000
    max_bytes: int = 64 << 20

    def expand(self, batches: beam.PCollection[pa.RecordBatch]) -> beam.PCollection[tuple[str, str, int]]:
        return batches | "Write" >> beam.ParDo(
            _WriteFn(self.workspace, self.table, self.run_id, self.max_rows, self.max_bytes)
        ).with_output_types(tuple[str, str, int])


@dataclass(eq=False)
class IndexFeatures(beam.PTransform):
    """(video id, JSON of [extracted at in seconds, features file, content key]) for every row of the features table.

    The largest of a video's entries is its newest row, whatever run lists it.

    Args:
        content_hash: each entry ends with the content hash.
    """

    workspace: Workspace
    content_hash: bool = False

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[tuple[str, str]]:
        told = ("content_key", "content_hash") if self.content_hash else ("content_key",)

        def index(listed: str, batch: pa.RecordBatch) -> Iterator[tuple[str, str]]:
            path = json.loads(listed)["path"]
            for row in batch.to_pylist():
                yield row["video_id"], json.dumps([trusted_seconds(row["extracted_at"]), path, *(row[name] for name in told)])

        return (
            pipeline
            | "ReadIndex" >> ReadColumns(self.workspace, "features", ("video_id", *told, "extracted_at"))
            | "KeyByVideo" >> beam.FlatMapTuple(index).with_output_types(tuple[str, str])
        )


OUTCOMES = ("annotated", "reused", "dead_lettered", "pending")


def counts_of(tallies: dict[str, int], unit: str) -> Counts:
    """`Counts` from tallies such as {"video/in": 3, "video/annotated": 2, "video/reused": 1}.

    Raises ValueError when the law of counts does not hold: `in` is tallied where rows enter, the outcomes where they leave.
    """
    number = {name: tallies.get(f"{unit}/{name}", 0) for name in ("in", *OUTCOMES)}
    return Counts(
        into=number["in"],
        annotated=number["annotated"] + number["reused"],
        dead_lettered=number["dead_lettered"],
        pending=number["pending"],
        reused=number["reused"],
    )


class _CommitFn(beam.DoFn):
    def __init__(self, workspace: Workspace, stage: str, header: RunHeader) -> None:
        self._workspace, self._stage, self._header = workspace, stage, header

    def process(
        self, _: None, tallies: dict[str, int], files: list[tuple[str, str, int]], forecast: Sequence[dict[str, Any]] = ()
    ) -> None:
        listed: dict[str, list[str]] = {}
        for table, path, _rows in sorted(set(files)):
            listed.setdefault(table, []).append(path)
        finished = datetime.now(UTC)
        record = RunRecord(
            run_id=self._header.run_id,
            stage=self._stage,
            started_at=self._header.started_at,
            finished_at=finished,
            arguments=self._header.arguments,
            versions=self._header.versions,
            counts=counts_of(tallies, "video"),
            pair_counts=counts_of(tallies, "pair") if any(name.startswith("pair/") for name in tallies) else None,
            input_tokens=tallies.get("input_tokens", 0),
            cached_input_tokens=tallies.get("cached_input_tokens", 0),
            output_tokens=tallies.get("output_tokens", 0),
            cost_usd=tallies.get("cost_nano_usd", 0) / 1e9,
            timings={
                "total": (finished - self._header.started_at).total_seconds(),
                **{
                    f"busy: {name.removeprefix('busy_us/')}": number / 1e6
                    for name, number in sorted(tallies.items())
                    if name.startswith("busy_us/")
                },
            },
            peak_memory_bytes=peak_memory_bytes(),
            files=listed,
            details={name: number for name, number in sorted(tallies.items()) if name.startswith(("kind/", "detail/"))},
            forecast=dict(*forecast),
        )
        self._workspace.commit(record)


def tallies(amounts: Mapping[str, int]) -> Iterator[TaggedOutput]:
    """Outputs tagged `tallies` for `CommitRun`, zeros left out."""
    for name, amount in amounts.items():
        if amount:
            yield TaggedOutput("tallies", (name, amount))


def at_bundle_end(outputs: Iterable[Any]) -> Iterator[Any]:
    """What `process` would yield, tagged or not, as `finish_bundle` must: in the global window."""
    for output in outputs:
        value = output.value if isinstance(output, TaggedOutput) else output
        windowed = WindowedValue(value, GlobalWindow().max_timestamp(), [GlobalWindow()])
        yield TaggedOutput(output.tag, windowed) if isinstance(output, TaggedOutput) else windowed


def peak_memory_bytes() -> int:
    """Highest resident memory of this process plus that of its largest finished child, bytes."""
    return 1024 * sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


@dataclass(eq=False)
class CommitRun(beam.PTransform):
    """Adds up the tallies, checks the law of counts and writes the run record, after everything else is written.

    Args:
        workspace, stage, header: whose record.
        tallies: (name, number) pairs; names are `video/in`, `video/annotated`, `video/reused`, `video/dead_lettered`,
            `video/pending`, the same with `pair/`, `kind/WORD` for dead letters by kind, `detail/WORD`,
            `busy_us/PHASE` for microseconds that all workers spent on a phase, `input_tokens`,
            `cached_input_tokens`, `output_tokens`, `cost_nano_usd`.
        forecast: one document of what the run was expected to take; None: nothing was forecast.

    It is applied to a tuple of the PCollections that `WriteTable` gave.
    """

    workspace: Workspace
    stage: str
    header: RunHeader
    tallies: tuple[beam.PCollection[tuple[str, int]], ...]
    forecast: beam.PCollection[dict[str, Any]] | None = None

    def expand(self, written: Sequence[beam.PCollection[tuple[str, str, int]]]) -> beam.PCollection[None]:
        files = tuple(written) | "JoinFiles" >> beam.Flatten()
        tallies = self.tallies | "JoinTallies" >> beam.Flatten() | "Sum" >> beam.CombinePerKey(sum)
        return (
            files.pipeline
            | "Once" >> beam.Create([None])
            | "WriteRecord"
            >> beam.ParDo(
                _CommitFn(self.workspace, self.stage, self.header),
                tallies=beam.pvalue.AsDict(tallies),
                files=beam.pvalue.AsList(files),
                **({"forecast": beam.pvalue.AsList(self.forecast)} if self.forecast is not None else {}),
            )
        )


def finish(pipeline: beam.Pipeline, workspace: Workspace, header: RunHeader) -> RunRecord:
    """Runs a pipeline to its end and reads back the record that it wrote."""
    pipeline.run().wait_until_finish()
    return workspace.run(header.run_id)
