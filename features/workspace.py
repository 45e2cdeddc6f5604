"""Where the tables of a project live: one folder, local or on gs://, that every stage reads from and adds to.

    WORKSPACE/vidattr.yaml                configuration, optional
    WORKSPACE/runs/RUN_ID.json            run records, each written last
    WORKSPACE/TABLE/RUN_ID/PART.parquet   features, duplicates, annotations, failures, resolved
    WORKSPACE/apart.csv                   near-duplicates that a person has taken apart, optional
    WORKSPACE/answers.sqlite              every reply ever paid for (law 2)
    WORKSPACE/students/                   distilled models
    WORKSPACE/feast/                      registry, offline and online store
    WORKSPACE/reports/                    HTML

A run record names the files that count. Whatever else lies in a table's folder (a killed run, a replayed bundle) is ignored.
"""

from __future__ import annotations

import io
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from features import storage
from features.errors import InvalidInput
from features.records import Annotation, Duplicate, Failure, R, ResolvedAttribute, RunRecord, VideoFeatures, digest, from_table

Table = Literal["features", "duplicates", "annotations", "failures", "resolved"]
CLOCK_SLACK = timedelta(minutes=5)
"""How far clocks of different machines may lie apart."""
RECORD_OF: dict[str, type[VideoFeatures] | type[Duplicate] | type[Annotation] | type[Failure] | type[ResolvedAttribute]] = {
    "features": VideoFeatures,
    "duplicates": Duplicate,
    "annotations": Annotation,
    "failures": Failure,
    "resolved": ResolvedAttribute,
}


@dataclass(frozen=True)
class TableFile:
    """One file of a table that counts.

    Attributes:
        path: absolute.
        run_id: the run whose record names it first; files come oldest run first, so later rows win.
        order: the position of that run among all runs.
    """

    path: str
    run_id: str
    order: int


@dataclass(frozen=True)
class Workspace:
    """A workspace by its root, which need not exist yet. It holds nothing open and travels to workers by value.

    Args:
        root: a local path, made absolute, or gs://BUCKET/PREFIX.
    """

    root: str

    def __post_init__(self) -> None:
        root = self.root if storage.is_gcs(self.root) else os.path.abspath(self.root)
        object.__setattr__(self, "root", root.rstrip("/") or "/")

    def path(self, *parts: str) -> str:
        """A name inside the workspace. Raises InvalidInput when it would lie outside."""
        return storage.join(self.root, *parts)

    def local_path(self, *parts: str) -> str:
        """The same for things that only a local disk can hold (sqlite). Raises InvalidInput on gs://."""
        if storage.is_gcs(self.root):
            raise InvalidInput(f"{'/'.join(parts)} needs a local workspace, not {self.root}: pass --workspace FOLDER")
        return self.path(*parts)

    def check_writable(self) -> None:
        """Raises InvalidInput now rather than after an hour when nothing can be written here. Local folders only."""
        if storage.is_gcs(self.root):
            return
        try:
            os.makedirs(self.root, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root, prefix=".partial-") as file:
                file.write(b"\0" * 65536)
                file.flush()
        except OSError as error:
            raise storage.unwritable(self.root, error) from error

    def write_table(self, table: Table, run_id: str, rows: pa.Table) -> str:
        """Writes one file of a run, whole or not at all, and returns its path relative to the root.

        The name is a digest of the content, so a replayed bundle writes the same file again and not another one.
        It counts once a run record names it.
        """
        buffer = io.BytesIO()
        pq.write_table(rows, buffer, compression="zstd")
        content = buffer.getvalue()
        relative = f"{table}/{run_id}/{digest(content)}.parquet"
        storage.write_bytes(self.path(relative), content)
        return relative

    def commit(self, record: RunRecord) -> None:
        """Makes a run's files count. Always the last thing a run does."""
        storage.write_bytes(self.path("runs", f"{record.run_id}.json"), record.to_json().encode())

    def run(self, run_id: str) -> RunRecord:
        """One run. Raises FileNotFoundError when it left no record, and InvalidInput when that cannot be read."""
        return _read_record(self.path("runs", f"{run_id}.json"))

    def runs(self, stage: str | None = None) -> list[RunRecord]:
        """All runs, oldest first, of one stage or of all. Raises InvalidInput on a record that cannot be read."""
        names = storage.list_names(self.path("runs"))
        records = [_read_record(name) for name in names if name.endswith(".json")]
        records.sort(key=lambda record: record.run_id)
        return [record for record in records if stage in (None, record.stage)]

    def files(self, table: Table) -> list[TableFile]:
        """The files of a table that count, oldest run first, each once."""
        found: dict[str, TableFile] = {}
        for order, record in enumerate(self.runs()):
            for relative in record.files.get(table, ()):
                found.setdefault(relative, TableFile(self.path(relative), record.run_id, order))
        return list(found.values())

    def newest_files(self, table: Table, stage: str) -> list[str]:
        """Absolute paths of a table's files of the newest run of a stage, for a table that every run makes anew."""
        newest = self.runs(stage)[-1:]
        return [self.path(relative) for record in newest for relative in record.files.get(table, ())]

    def orphans(self, table: Table) -> list[str]:
        """Relative paths of whole files that no run record names: what a killed run left, or what is being written now."""
        known = {file.path for file in self.files(table)}
        prefix = self.path(table)
        return [
            f"{table}{name[len(prefix) :]}"
            for name in storage.list_names(prefix)
            if name.endswith(".parquet") and name not in known
        ]

    def read(self, table: Table, columns: Sequence[str] | None = None) -> pa.Table:
        """A whole table in memory, oldest rows first. For one machine; pipelines read file by file."""
        schema = RECORD_OF[table].SCHEMA
        wanted = schema if columns is None else pa.schema([schema.field(name) for name in columns])
        parts = [read_parquet(file.path, columns) for file in self.files(table)]
        return pa.concat_tables([wanted.empty_table(), *(_conformed(part, wanted) for part in parts)])

    def rows(self, kind: type[R]) -> Iterator[R]:
        """Every record of a kind, oldest first. Later rows about the same thing replace earlier ones: see `latest`."""
        table = next(name for name, record in RECORD_OF.items() if record is kind)
        for file in self.files(table):  # type: ignore[arg-type]
            yield from from_table(read_parquet(file.path), kind)


def _conformed(part: pa.Table, wanted: pa.Schema) -> pa.Table:
    """A file's rows under today's schema: a column that it was written without is null, or an empty list."""
    columns = []
    for column in wanted:
        if column.name in part.schema.names:
            columns.append(part[column.name].cast(column.type))
        else:
            missing: list[object] | None = [] if pa.types.is_list(column.type) else None
            columns.append(pa.chunked_array([pa.array([missing] * part.num_rows, column.type)]))
    return pa.table(columns, schema=wanted)


def _read_record(name: str) -> RunRecord:
    try:
        return RunRecord.from_json(storage.read_bytes(name))
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidInput(f"{name}: not a run record ({error}); restore it, or move it away to drop its run") from error


def read_parquet(path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """One Parquet file, local or gs://; of the latter only the parts that hold the columns are fetched."""
    with storage.open_binary(path) as source, pq.ParquetFile(source) as file:
        return file.read(columns=None if columns is None else list(columns))


def trusted_seconds(moment: datetime | None, now: datetime | None = None) -> float:
    """A row's time in seconds since 1970, for choosing the newest; 0 for none, and for a time that is yet to come.

    A clock that was ahead once must not outlast every correction.
    """
    if moment is None or moment > (now or datetime.now(UTC)) + CLOCK_SLACK:
        return 0.0
    return moment.timestamp()


def latest(rows: Iterable[VideoFeatures], now: datetime | None = None) -> dict[str, VideoFeatures]:
    """The newest row of each video by `extracted_at`, whatever run lists it."""
    newest: dict[str, tuple[float, VideoFeatures]] = {}
    for row in rows:
        when = trusted_seconds(row.extracted_at, now)
        if row.video_id not in newest or when >= newest[row.video_id][0]:
            newest[row.video_id] = when, row
    return {video_id: row for video_id, (_, row) in newest.items()}


def new_run_id(now: datetime | None = None) -> str:
    """An id that sorts by start time and does not collide: 20261125T022309.123Z-1f3a9c."""
    now = now or datetime.now(UTC)
    return f"{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03}Z-{secrets.token_hex(3)}"
