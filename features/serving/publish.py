"""Writes what is believed to the online store and to the history, both views from the same row.

Only rows that say something new are written. Event timestamps strictly increase for each video, by at least a second: sqlite
keeps whole seconds, and Redis through Feast skips what is older or equal. Which of two writers knows more is decided by when
each began to read the annotations (`as_of`, inside the packed row), never by when it came to write. An `as_of` that is yet to
come decides nothing, since a clock that was ahead once would outlast every correction: by more than CLOCK_SLACK the row is
replaced, by less it is left alone until its time has come. Nothing counts as written before it has been read back equal.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import tenacity

from features.attributes.registry import (
    JOIN_KEY,
    OFFLINE_BASE,
    OFFLINE_FOLDER,
    PACKED_COLUMN,
    WIDE_VIEW,
    Registration,
    registered_attributes,
)
from features.errors import Permanent, Transient
from features.records import ResolvedAttribute, digest
from features.serving.packed import BODY_FROM, LAYOUT_BYTES, SOURCE_CODES, SOURCES, PackedLayout, PackedRows, definition_code
from features.serving.resolution import CLOCK_SLACK
from features.serving.rows import NewRows, NumberColumn, OnlineRows, TextColumn, open_rows

if TYPE_CHECKING:
    from feast import FeatureStore

ATTEMPTS = 5
FULL_FILE_BYTES = 64 << 20
BATCH = 5000
"""Videos written at once: a lock is held for about half a second."""


@dataclass(frozen=True)
class Published:
    """What became of the videos of one call; the four are disjoint and together all of them.

    Attributes:
        written: in the store now, read back equal.
        unchanged: the store said the same already; not touched.
        superseded: the store holds a row of somebody who read the annotations later; not touched.
        ahead: the store's row says that it was read moments from now; not touched, and to be tried again after CLOCK_SLACK.
    """

    written: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    superseded: tuple[str, ...] = ()
    ahead: tuple[str, ...] = ()

    def __add__(self, other: Published) -> Published:
        return Published(
            self.written + other.written,
            self.unchanged + other.unchanged,
            self.superseded + other.superseded,
            self.ahead + other.ahead,
        )


def packed_rows(
    layout: PackedLayout, videos: Mapping[str, Mapping[str, ResolvedAttribute]], as_of: datetime
) -> tuple[list[str], PackedRows]:
    """Resolved rows as arrays, the videos in order of their ids.

    Args:
        layout: which attributes, in which order.
        videos: rows by video id and attribute, as `resolution.by_video` gives them; a missing one is absent.
        as_of: from when on the annotations behind them were read: nothing older is missing.

    A stale row gets the definition code 0, so that readers flag it whatever made it stale.

    Raises:
        Permanent: kind `not_a_number`, a number that is not finite. Resolution refuses them; this is the last gate.
    """
    video_ids = sorted(videos)
    rows = PackedRows.absent(len(video_ids), len(layout.names))
    rows.as_of[:] = round(as_of.timestamp() * 1e6)
    for at, video_id in enumerate(video_ids):
        of_video = videos[video_id]
        for column, name in enumerate(layout.names):
            row = of_video.get(name)
            if row is None or row.number is None or row.source == SOURCES[0]:
                continue
            if not np.isfinite(row.number):
                raise Permanent(f"{video_id}, {name}: {row.number} is not a finite number and is not served", "not_a_number")
            rows.values[at, column] = row.number
            rows.source[at, column] = SOURCE_CODES[row.source]
            rows.definition[at, column] = 0 if row.stale else definition_code(row.definition_hash)
            rows.annotated_at[at, column] = int(row.annotated_at.timestamp()) if row.annotated_at else 0
    return video_ids, rows


class Publisher:
    """Writes rows of one workspace's store. One object serves one thread at a time.

    Args:
        store: from `features.attributes.registry.open_store`.
        clock: seconds since 1970.
        sleep: waits between attempts, seconds.
        attempts: how often a busy store is tried before Transient is raised.
        open_online: opens the online store.

    Raises InvalidInput when nothing is registered, or somebody changed the type of a column.
    """

    def __init__(
        self,
        store: FeatureStore,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        attempts: int = ATTEMPTS,
        open_online: Callable[[FeatureStore], OnlineRows] = open_rows,
    ) -> None:
        self.registration: Registration = registered_attributes(store)
        self.registration.check_served()
        self.layout = PackedLayout.of(self.registration.layout)
        self._older = [PackedLayout.of(layout) for layout in self.registration.layouts]
        self._store, self._clock = store, clock
        self._history = os.path.join(str(store.repo_path), OFFLINE_FOLDER, WIDE_VIEW)
        self._retry = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Transient),
            stop=tenacity.stop_after_attempt(attempts),
            wait=tenacity.wait_exponential(multiplier=0.2, max=5),
            sleep=sleep,
            reraise=True,
        )
        self._online = self._retry(open_online, store)

    def close(self) -> None:
        self._online.close()

    def publish(self, video_ids: Sequence[str], rows: PackedRows, name: str, *, history: bool = True) -> Published:
        """Brings the store to say what `rows` say.

        Args:
            video_ids: distinct, one a row.
            rows: in this publisher's `layout`, see `packed_rows`.
            name: of the files added to the history, such as the run's id.
            history: False leaves the history alone, for rows that come from it.

        Raises:
            Transient: the store stayed busy, or refused rows; what this call had to write is not done.
        """
        total = Published()
        packed = self.layout.encode_many(rows)
        for start in range(0, len(video_ids), BATCH):
            part = slice(start, start + BATCH)
            sent: set[str] = set()
            total += self._retry(self._publish_batch, video_ids[part], rows.take(part), packed[part], name if history else "", sent)
        return total

    def _publish_batch(
        self, video_ids: Sequence[str], rows: PackedRows, packed: Sequence[bytes], name: str, sent: set[str]
    ) -> Published:
        """One attempt. `sent` gathers the videos of all attempts, so that one kept by an earlier attempt counts as written."""
        with self._online.exclusive():
            stored = self._online.stamped(video_ids)
            blobs = [blob for blob, _ in stored]
            newest = self.layout.decode_many(blobs, self._older).as_of
            now = self._clock()
            to_come = newest > now * 1e6
            unbelievable = newest > (now + CLOCK_SLACK.total_seconds()) * 1e6
            nothing = (rows.source.max(axis=1, initial=0) == 0).tolist()
            unchanged: list[int] = []
            superseded: list[int] = []
            ahead: list[int] = []
            wanted: list[int] = []
            for at, (blob, mine) in enumerate(zip(blobs, packed, strict=True)):
                if (blob is None and nothing[at]) or (blob is not None and _says_the_same(blob, mine)):
                    unchanged.append(at)
                elif newest[at] > rows.as_of[at] and not unbelievable[at]:
                    (ahead if to_come[at] else superseded).append(at)
                else:
                    wanted.append(at)
            if doubtful := int(np.count_nonzero(unbelievable[wanted])):
                logging.getLogger(__name__).warning(
                    "%d rows in the online store say that they were read in the future (%s among them): a clock was ahead; "
                    "they are replaced",
                    doubtful,
                    next(video_ids[at] for at in wanted if unbelievable[at]),
                )
            if wanted:
                fresh = NewRows(
                    video_ids=[video_ids[at] for at in wanted],
                    stamps=[max(int(now), stored[at][1] + 1) for at in wanted],
                    packed=[packed[at] for at in wanted],
                    columns=self._columns(rows, wanted),
                    replaces=[stored[at][1] > 0 for at in wanted],
                )
                if name:
                    self._write_history(fresh, name)
                sent.update(fresh.video_ids)
                self._online.write(fresh)
        if wanted:
            self._check_written(fresh)
        same = {video_ids[at] for at in unchanged}
        return Published(
            written=tuple(video_ids[at] for at in wanted) + tuple(sorted(same & sent)),
            unchanged=tuple(sorted(same - sent)),
            superseded=tuple(video_ids[at] for at in superseded),
            ahead=tuple(video_ids[at] for at in ahead),
        )

    def _check_written(self, fresh: NewRows) -> None:
        refused = [
            video_id
            for video_id, sent, found in zip(fresh.video_ids, fresh.packed, self._online.packed(fresh.video_ids), strict=True)
            if sent != found
        ]
        if refused:
            number = f"{len(refused)} of {len(fresh.video_ids)} rows, {refused[0]!r} among them"
            raise Transient(f"the online store did not keep {number}; try again")

    def _columns(self, rows: PackedRows, chosen: Sequence[int]) -> list[NumberColumn | TextColumn]:
        """The wide view's columns of some rows."""
        columns: list[NumberColumn | TextColumn] = []
        for at, attribute in enumerate(self.registration.attributes):
            source, values = rows.source[chosen, at], rows.values[chosen, at]
            present = source != 0
            columns.append(NumberColumn(attribute.name, values, present))
            columns.append(TextColumn(f"{attribute.name}_source", [SOURCES[code] for code in source.tolist()]))
            if attribute.labels:
                places = np.where(present, values, -1).astype(int).tolist()
                labels = [attribute.labels[place] if place >= 0 else None for place in places]
                columns.append(TextColumn(f"{attribute.name}_label", labels))
        return columns

    def _write_history(self, fresh: NewRows, name: str) -> None:
        """One Parquet file, named by its content: an attempt that is repeated replaces its own file."""
        moments = pa.array(np.asarray(fresh.stamps, np.int64) * 1_000_000, pa.timestamp("us", "UTC"))
        columns: dict[str, pa.Array] = {JOIN_KEY: pa.array(fresh.video_ids, pa.string())}
        for column in fresh.columns:
            if isinstance(column, TextColumn):
                columns[column.name] = pa.array(column.values, pa.string())
            else:
                columns[column.name] = pa.array(column.values, pa.float32(), mask=~column.present)
        for retired, signature in self.registration.retired.items():
            columns[retired] = pa.nulls(len(moments), pa.float32())
            columns[f"{retired}_source"] = pa.nulls(len(moments), pa.string())
            if signature.startswith("category("):
                columns[f"{retired}_label"] = pa.nulls(len(moments), pa.string())
        columns |= {PACKED_COLUMN: pa.array(fresh.packed, pa.binary()), "event_timestamp": moments}
        os.makedirs(self._history, exist_ok=True)
        file = f"{name}-{digest(*fresh.packed, *fresh.video_ids)[:16]}.parquet"
        partial = os.path.join(os.path.dirname(self._history), f".partial-{os.getpid()}-{file}")
        pq.write_table(pa.table(columns), partial, compression="zstd")
        os.replace(partial, os.path.join(self._history, file))

    def refill(self) -> Published:
        """Fills the online store from the history: after a move to another store, or the loss of this one.

        What Feast's `materialize` does, for both views; rows that are there already stay untouched, and whoever is newer wins.
        """
        files = [os.path.join(self._history, file) for file in sorted(os.listdir(self._history)) if file.endswith(".parquet")]
        columns = [JOIN_KEY, PACKED_COLUMN, "event_timestamp"]
        table = pa.concat_tables([pq.ParquetFile(file).read(columns=columns) for file in files])
        table = table.filter(pc.is_valid(table[PACKED_COLUMN]))
        table = table.sort_by([(JOIN_KEY, "ascending"), ("event_timestamp", "ascending")])
        ids = table[JOIN_KEY].to_pylist()
        last = [at for at, video_id in enumerate(ids) if at + 1 == len(ids) or ids[at + 1] != video_id]
        packed = table[PACKED_COLUMN].take(pa.array(last, pa.int64())).to_pylist()
        rows = self.layout.decode_many(packed, self._older)
        keep = np.flatnonzero(rows.as_of >= 0)
        return self.publish([ids[last[at]] for at in keep.tolist()], rows.take(keep), "", history=False)


def compact_history(folder: str, max_bytes: int = FULL_FILE_BYTES) -> None:
    """Merges the history's files into one, up to a size, under MATERIALIZE_LOCK and while nobody publishes.

    Feast's file store reads a file as a partition, and its joins fail on partitions without a match. Readers see the rows all
    the time: the merged file is there before its parts go, and a row that is there twice is one row to them.

    Args:
        folder: WORKSPACE/feast.
        max_bytes: a merged file of this size is full; the next ones begin another.
    """
    history = os.path.join(folder, OFFLINE_FOLDER, WIDE_VIEW)
    base = os.path.join(history, OFFLINE_BASE)
    if os.path.exists(base) and os.path.getsize(base) >= max_bytes:
        os.replace(base, os.path.join(history, f"full-{time.time_ns()}.parquet"))
    parts = [os.path.join(history, name) for name in sorted(os.listdir(history)) if name.endswith(".parquet")]
    parts = [part for part in parts if not os.path.basename(part).startswith("full-")]
    if len(parts) < 2 and parts == [base]:
        return
    rows = pa.concat_tables([pq.ParquetFile(part).read() for part in parts], promote_options="default")
    keys = rows.select([JOIN_KEY, "event_timestamp"]).append_column("at", pa.array(np.arange(len(rows))))
    first = keys.group_by([JOIN_KEY, "event_timestamp"]).aggregate([("at", "min")])["at_min"]
    partial = os.path.join(folder, f".partial-{os.getpid()}-{OFFLINE_BASE}")
    pq.write_table(rows.take(first.combine_chunks().sort()), partial, compression="zstd")
    os.replace(partial, base)
    for part in parts:
        if part != base:
            os.unlink(part)


def _says_the_same(stored: bytes, mine: bytes) -> bool:
    return stored[:LAYOUT_BYTES] == mine[:LAYOUT_BYTES] and stored[BODY_FROM:] == mine[BODY_FROM:]
