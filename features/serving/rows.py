"""Rows of both views in an online store: one interface, the stores' own commands behind it where that is much faster.

`SqliteRows` and `RedisRows` read and write the format that Feast's own stores keep (for Redis it is specified in Feast's
`docs/specs/online_store_format.md`), so plain Feast clients see the same rows; `ProviderRows` goes through Feast's provider and
serves every other store. All of them raise `Transient` when the store is busy or away.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from features.attributes.registry import JOIN_KEY, PACKED_COLUMN, PACKED_VIEW, WIDE_VIEW
from features.errors import InvalidInput, Permanent, Transient, VidattrError

if TYPE_CHECKING:
    from feast import FeatureStore

READ_CHUNK = 1000
LOCK_WAIT_S = 5.0
_GET_FIELDS = "local found = {} for at, key in ipairs(KEYS) do found[at] = redis.call('HGET', key, ARGV[1]) end return found"


@dataclass(frozen=True)
class NumberColumn:
    """One Float32 column of the wide view: `values` float32 (n,), `present` bool (n,)."""

    name: str
    values: NDArray[np.float32]
    present: NDArray[np.bool_]


@dataclass(frozen=True)
class TextColumn:
    """One String column of the wide view; None is absent."""

    name: str
    values: Sequence[str | None]


@dataclass(frozen=True)
class NewRows:
    """Rows to write, of both views.

    Attributes:
        video_ids: distinct.
        stamps: event timestamps, whole seconds since 1970, each later than what is stored.
        packed: the packed column.
        columns: of the wide view.
        replaces: whether a row is stored already.
    """

    video_ids: Sequence[str]
    stamps: Sequence[int]
    packed: Sequence[bytes]
    columns: Sequence[NumberColumn | TextColumn]
    replaces: Sequence[bool]


class OnlineRows(Protocol):
    """Rows of one online store. One object serves one thread at a time."""

    def packed(self, video_ids: Sequence[str]) -> list[bytes | None]:
        """The packed column of each video, None where there is no row. Raises Transient."""
        ...

    def stamped(self, video_ids: Sequence[str]) -> list[tuple[bytes | None, int]]:
        """The same with the event timestamp, whole seconds since 1970 rounded up, 0 where there is none."""
        ...

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """What is read and written within happens at once or not at all, where the store can do that."""
        ...

    def write(self, rows: NewRows) -> None:
        """Writes both views. Raises Transient."""
        ...

    def close(self) -> None: ...


def open_rows(store: FeatureStore) -> OnlineRows:
    """The fastest way to the online store of `store`."""
    kind = str(store.config.online_store.type)
    if kind == "sqlite":
        return SqliteRows(str(store.config.online_store.path), store.project)
    if kind == "redis":
        return RedisRows(store)
    return ProviderRows(store)


@lru_cache(maxsize=1)
def _key_prefix() -> bytes:
    """What Feast puts before the length of a video id in an entity key (serialization version 3)."""
    from features.feast_api import EntityKey, Value, serialize_entity_key

    return bytes(serialize_entity_key(EntityKey(join_keys=[JOIN_KEY], entity_values=[Value(string_val="")]), 3)[:-4])


def entity_keys(video_ids: Sequence[str]) -> list[bytes]:
    """Feast's serialized entity key of each video."""
    prefix, length = _key_prefix(), struct.Struct("<I").pack
    return [prefix + length(len(encoded)) + encoded for encoded in map(str.encode, video_ids)]


@lru_cache(maxsize=4096)
def _text_value(text: str) -> bytes:
    from features.feast_api import Value

    return bytes(Value(string_val=text).SerializeToString())


def _bytes_values(contents: Sequence[bytes]) -> list[bytes]:
    from features.feast_api import Value

    return [Value(bytes_val=content).SerializeToString() for content in contents]


@lru_cache(maxsize=1)
def _float_tag() -> int:
    from features.feast_api import Value

    return int(Value(float_val=1.0).SerializeToString()[0])


def _float_values(values: NDArray[np.float32]) -> list[bytes]:
    """Serialized `Value(float_val=...)` of each number: the field's tag byte and the number, little-endian."""
    encoded = np.empty(len(values), np.dtype([("tag", "u1"), ("value", "<f4")]))
    encoded["tag"], encoded["value"] = _float_tag(), values
    content = encoded.tobytes()
    return [content[start : start + 5] for start in range(0, len(content), 5)]


def _content(value: bytes) -> bytes:
    """The bytes in a serialized `Value(bytes_val=...)`; anything else comes back empty, which reads as damaged."""
    if value[:1] == b"\n" and len(value) > 2:  # field 1, then its length as one or two base-128 digits
        if value[1] < 128 and value[1] == len(value) - 2:
            return value[2:]
        if value[2] < 128 and (value[1] & 127 | value[2] << 7) == len(value) - 3:
            return value[3:]
    return _parsed_content(value)


def _parsed_content(value: bytes) -> bytes:
    from google.protobuf.message import DecodeError

    from features.feast_api import Value

    try:
        return bytes(Value.FromString(value).bytes_val)
    except DecodeError:
        return b""


def _values_of(column: NumberColumn | TextColumn) -> list[bytes | None]:
    """Serialized values of a column, None where absent."""
    if isinstance(column, TextColumn):
        return [None if text is None else _text_value(text) for text in column.values]
    return [value if here else None for value, here in zip(_float_values(column.values), column.present.tolist(), strict=True)]


class SqliteRows:
    """Feast's sqlite table: one row a feature. A row that is absent is deleted, so that Feast's client says NOT_FOUND.

    Args:
        path: of the database.
        project: Feast's.
        lock_wait_s: how long a call waits for another writer before it raises Transient.
    """

    def __init__(self, path: str, project: str, lock_wait_s: float = LOCK_WAIT_S) -> None:
        self._path, self._wide, self._packed = path, f'"{project}_{WIDE_VIEW}"', f'"{project}_{PACKED_VIEW}"'
        with self._translated():
            self._connection = sqlite3.connect(path, timeout=lock_wait_s, isolation_level=None, check_same_thread=False)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise _sqlite_error(self._path, error) from error

    def packed(self, video_ids: Sequence[str]) -> list[bytes | None]:
        return [content for content, _ in self.stamped(video_ids)]

    def stamped(self, video_ids: Sequence[str]) -> list[tuple[bytes | None, int]]:
        keys = entity_keys(video_ids)
        found: dict[bytes, tuple[bytes, int]] = {}
        with self._translated():
            for start in range(0, len(keys), READ_CHUNK):
                chunk = keys[start : start + READ_CHUNK]
                rows = self._connection.execute(
                    f"SELECT entity_key, value, event_ts FROM {self._packed} "
                    f"WHERE entity_key IN ({','.join('?' * len(chunk))}) AND feature_name = '{PACKED_COLUMN}'",
                    chunk,
                )
                found.update((key, (_content(value), int(stamp))) for key, value, stamp in rows)
        return [found.get(key, (None, 0)) for key in keys]

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        with self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def write(self, rows: NewRows) -> None:
        keys = entity_keys(rows.video_ids)
        lists = [self._rows_of(keys, column, rows.stamps) for column in rows.columns]
        wide = (row for row in itertools.chain.from_iterable(zip(*lists, strict=True)) if row[2] is not None)
        values, name = _bytes_values(rows.packed), itertools.repeat(PACKED_COLUMN)
        packed = zip(keys, name, values, itertools.repeat(None), rows.stamps, rows.stamps)
        old = [(key,) for key, replaces in zip(keys, rows.replaces, strict=True) if replaces]
        with self._translated(), self.exclusive() if not self._connection.in_transaction else contextlib.nullcontext():
            for table, content in ((self._wide, wide), (self._packed, packed)):
                self._connection.executemany(f"DELETE FROM {table} WHERE entity_key = ?", old)
                self._connection.executemany(
                    f"INSERT OR REPLACE INTO {table} (entity_key, feature_name, value, value_text, event_ts, created_ts) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    content,
                )

    @staticmethod
    def _rows_of(keys: list[bytes], column: NumberColumn | TextColumn, stamps: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        texts = column.values if isinstance(column, TextColumn) else map(str, column.values.tolist())
        return zip(keys, itertools.repeat(column.name), _values_of(column), texts, stamps, stamps)

    def close(self) -> None:
        self._connection.close()


def _sqlite_error(path: str, error: sqlite3.DatabaseError) -> VidattrError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        remedy = "move it away, run `vidattr register`, then `vidattr materialize`"
        return Permanent(f"{path}: the online store is damaged; {remedy}", "store_damaged")
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY):
        return InvalidInput(f"{path}: cannot be written ({error}); free some space or mend its permissions")
    if code == sqlite3.SQLITE_ERROR and "no such table" in str(error):
        return InvalidInput(f"{path}: nothing is registered in this online store: run `vidattr register`")
    return Transient(f"{path}: the online store is busy or away ({error}); try again")


class RedisRows:
    """Feast's Redis hash: one hash a video, both views in it, so one command writes a whole row at once."""

    def __init__(self, store: FeatureStore) -> None:
        from feast.infra.online_stores.helpers import _mmh3
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        self._project = store.project.encode()
        self._address = str(store.config.online_store.connection_string).split(",")[0]
        online_store: Any = store._get_provider().online_store
        with self._translated():
            self._client = online_store._get_client(store.config.online_store)
        # One more try mends an idle connection; a server that is away is reported at once, and retried by whoever publishes.
        self._client.set_retry(Retry(NoBackoff(), 1))
        self._script = self._client.register_script(_GET_FIELDS) if hasattr(self._client, "connection_pool") else None
        self._field = lru_cache(maxsize=4096)(lambda view, name: _mmh3(f"{view}:{name}"))
        self._stamp_fields = [f"_ts:{view}".encode() for view in (WIDE_VIEW, PACKED_VIEW)]

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        import redis

        try:
            yield
        except redis.exceptions.AuthenticationError as error:
            raise InvalidInput(f"Redis at {self._address} refuses the password: set VIDATTR_REDIS_PASSWORD") from error
        except redis.exceptions.RedisError as error:
            raise Transient(f"the online store, Redis at {self._address}, is busy or away ({error}); try again") from error

    def _hashes(self, video_ids: Sequence[str]) -> list[bytes]:
        return [key + self._project for key in entity_keys(video_ids)]

    def _ask(self, commands: Sequence[tuple[bytes | str, ...]]) -> list[Any]:
        """Replies to commands sent in one go: what a pipeline does, without its cost of ten microseconds a command."""
        if not hasattr(self._client, "connection_pool"):  # a cluster, whose pipeline finds each key's node
            with self._client.pipeline(transaction=False) as pipe:
                for command in commands:
                    pipe.execute_command(*command)
                return list(pipe.execute())
        pool = self._client.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_packed_command(connection.pack_commands(commands))
            return [connection.read_response() for _ in commands]
        except BaseException:
            connection.disconnect()  # replies may still be on their way
            raise
        finally:
            pool.release(connection)

    def _replies(self, commands: Iterable[tuple[bytes | str, ...]]) -> list[Any]:
        replies: list[Any] = []
        commands = iter(commands)
        with self._translated():
            while chunk := list(itertools.islice(commands, READ_CHUNK)):
                replies += self._ask(chunk)
        return replies

    def packed(self, video_ids: Sequence[str]) -> list[bytes | None]:
        hashes, field = self._hashes(video_ids), self._field(PACKED_VIEW, PACKED_COLUMN)
        values = self._at_once(hashes, field)
        if values is None:
            values = self._replies(("HGET", name, field) for name in hashes)
        return [None if value is None else _content(value) for value in values]

    def _at_once(self, hashes: Sequence[bytes], field: bytes) -> list[bytes | None] | None:
        """One field of many hashes by one command a thousand, or None where the server admits no scripts."""
        import redis

        if self._script is None or len(hashes) < 2:
            return None
        values: list[bytes | None] = []
        with self._translated():
            try:
                for start in range(0, len(hashes), READ_CHUNK):
                    values += self._script(keys=hashes[start : start + READ_CHUNK], args=[field])
            except redis.exceptions.ResponseError:
                self._script = None
                return None
        return values

    def stamped(self, video_ids: Sequence[str]) -> list[tuple[bytes | None, int]]:
        from google.protobuf.timestamp_pb2 import Timestamp

        found = []
        fields = (self._field(PACKED_VIEW, PACKED_COLUMN), *self._stamp_fields)
        for value, *stamps in self._replies(("HMGET", name, *fields) for name in self._hashes(video_ids)):
            seconds = 0
            for stamp in filter(None, stamps):
                moment = Timestamp.FromString(stamp)
                seconds = max(seconds, moment.seconds + (moment.nanos > 0))
            found.append((None if value is None else _content(value), seconds))
        return found

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        yield

    def write(self, rows: NewRows) -> None:
        from google.protobuf.timestamp_pb2 import Timestamp

        moments = {stamp: Timestamp(seconds=stamp).SerializeToString() for stamp in set(rows.stamps)}
        names = [self._field(WIDE_VIEW, column.name) for column in rows.columns]
        names = [*names, self._field(PACKED_VIEW, PACKED_COLUMN), *self._stamp_fields]
        values = [*map(_values_of, rows.columns), _bytes_values(rows.packed), *[[moments[stamp] for stamp in rows.stamps]] * 2]
        self._replies(
            (
                "HSET",
                name,
                *itertools.chain.from_iterable((field, cell or b"") for field, cell in zip(names, cells, strict=True)),
            )
            for name, cells in zip(self._hashes(rows.video_ids), zip(*values, strict=True), strict=True)
        )

    def close(self) -> None:
        self._client.close()


class ProviderRows:
    """Any online store that Feast knows, through Feast's provider: the packed row last, since it vouches for the wide one."""

    def __init__(self, store: FeatureStore) -> None:
        self._store, self._provider = store, store._get_provider()
        self._views = {name: store.registry.get_feature_view(name, store.project) for name in (WIDE_VIEW, PACKED_VIEW)}

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Stores have errors of their own that Feast passes on: whatever one raises means that it did not answer."""
        try:
            yield
        except VidattrError:
            raise
        except Exception as error:
            kind = self._store.config.online_store.type
            what = f"{type(error).__name__}: {error}"
            raise Transient(f"the online store ({kind}) is busy or away ({what}); try again") from error

    def packed(self, video_ids: Sequence[str]) -> list[bytes | None]:
        return [content for content, _ in self.stamped(video_ids)]

    def stamped(self, video_ids: Sequence[str]) -> list[tuple[bytes | None, int]]:
        with self._translated():
            keys = self._keys(video_ids)
            rows = self._provider.online_read(self._store.config, self._views[PACKED_VIEW], keys, [PACKED_COLUMN])
        found: list[tuple[bytes | None, int]] = []
        for moment, values in rows:
            value = (values or {}).get(PACKED_COLUMN)
            content = None if value is None or value.WhichOneof("val") is None else bytes(value.bytes_val)
            found.append((content, math.ceil(moment.timestamp()) if moment else 0))
        return found

    @staticmethod
    def _keys(video_ids: Sequence[str]) -> list[Any]:
        from features.feast_api import EntityKey, Value

        return [EntityKey(join_keys=[JOIN_KEY], entity_values=[Value(string_val=video_id)]) for video_id in video_ids]

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        yield

    def write(self, rows: NewRows) -> None:
        from features.feast_api import Value

        keys, moments = self._keys(rows.video_ids), [datetime.fromtimestamp(stamp, UTC) for stamp in rows.stamps]
        values = [[Value.FromString(value or b"") for value in _values_of(column)] for column in rows.columns]
        names = [column.name for column in rows.columns]
        wide = [dict(zip(names, cells, strict=True)) for cells in zip(*values, strict=True)]
        packed = [{PACKED_COLUMN: Value(bytes_val=content)} for content in rows.packed]
        with self._translated():
            for view, contents in ((WIDE_VIEW, wide), (PACKED_VIEW, packed)):
                batch: list[Any] = list(zip(keys, contents, moments, moments, strict=True))
                self._provider.online_write_batch(self._store.config, self._views[view], batch, None)

    def close(self) -> None:
        """Feast closes its own connections."""
