"""Answers in one sqlite file, for the processes of one machine."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from features.annotators.answer_records import (
    ALL,
    SPEND,
    Group,
    Selection,
    Stats,
    StoredAnswer,
    answer_of,
    changed,
    from_whole,
    in_whole,
    moments_from,
    moments_text,
)
from features.annotators.protocol import AnnotatorIdentity, Answer, Usage
from features.errors import InvalidInput, Transient, VidattrError

SCHEMA_VERSION = 2
APPLICATION_ID = 0x76617474  # "vatt", so that `file` and we can tell the store from any other sqlite file
_ANSWER = """attribute, value, probability, rationale, input_tokens, cached_input_tokens, output_tokens, cost_usd, answered_at,
    moments, server_model"""
_WHOSE = "source, model, prompt, parameters, own_parameters, video_id, content_key, definition_hash"
_VERSION_1 = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, attribute TEXT NOT NULL, value TEXT NOT NULL, probability REAL, rationale TEXT NOT NULL,
    input_tokens INTEGER NOT NULL, cached_input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    cost_usd REAL NOT NULL, answered_at REAL NOT NULL, source TEXT NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL,
    parameters TEXT NOT NULL, video_id TEXT NOT NULL, content_key TEXT NOT NULL, definition_hash TEXT NOT NULL
) WITHOUT ROWID
"""
_STEPS: tuple[tuple[str, ...], ...] = (
    (_VERSION_1,),
    (
        # moments: JSON; server_model: who answered, as the server says; own_parameters: JSON list, in version 1 it was appended to
        # `parameters`. With their defaults a process of version 1 that is still running goes on writing.
        "ALTER TABLE answers ADD COLUMN moments TEXT NOT NULL DEFAULT '[]'",
        "ALTER TABLE answers ADD COLUMN server_model TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE answers ADD COLUMN own_parameters TEXT NOT NULL DEFAULT '[]'",
        """CREATE TABLE spend (
            run_id TEXT PRIMARY KEY, requests INTEGER NOT NULL, input_tokens INTEGER NOT NULL,
            cached_input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cost_nano_usd INTEGER NOT NULL
        ) WITHOUT ROWID""",
    ),
)
"""The statements that lead from each version to the next."""
_INSERT = f"INSERT INTO answers (key, {_ANSWER}, {_WHOSE}) VALUES ({', '.join('?' * 20)}) ON CONFLICT (key) DO NOTHING"
_SPEND = ", ".join(SPEND)
_NOTE = f"""
INSERT INTO spend (run_id, {_SPEND}) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (run_id) DO UPDATE SET
    requests = requests + excluded.requests, input_tokens = input_tokens + excluded.input_tokens,
    cached_input_tokens = cached_input_tokens + excluded.cached_input_tokens,
    output_tokens = output_tokens + excluded.output_tokens, cost_nano_usd = cost_nano_usd + excluded.cost_nano_usd
"""
_LOOKUP_BATCHES = (10, 100, 500)
_PAGE = 2000
_DELETE_BATCH = 500
_CACHE_KIB = 32_768
_OPEN_AGAIN_S = 0.02


@dataclass
class SqliteAnswers:
    """One sqlite file of answers, safe to share between threads and processes of one machine, and to send to a worker.

    A write-ahead log lets readers go on while somebody writes, and every commit is flushed to the disk: an answer that `put_many`
    returned from survives `kill -9` and a power cut. A file of an older version is brought up to date at its first use.
    See `features.annotators.answers.Answers` for the methods.

    Args:
        path: the file; it and its folder are made at the first use. A local disk, not a network share.
        busy_timeout_s: how long to wait for another process's write.
    """

    path: str
    busy_timeout_s: float = 30.0
    _connections: dict[tuple[int, int], sqlite3.Connection] = field(default_factory=dict, init=False, repr=False, compare=False)
    _owed: dict[tuple[int, str], Usage] = field(default_factory=dict, init=False, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[SqliteAnswers], tuple[str, float]]:
        return type(self), (self.path, self.busy_timeout_s)

    @property
    def location(self) -> str:
        return self.path

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """This thread's connection; sqlite's errors become ours."""
        key = (os.getpid(), threading.get_ident())
        try:
            with self._lock:
                connection = self._connections.get(key)
            if connection is None:
                connection = self._open()
                with self._lock:
                    self._connections[key] = connection
            yield connection
        except (sqlite3.Error, OSError) as error:
            raise self._meaning(error) from error

    def _open(self) -> sqlite3.Connection:
        os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
        deadline = time.monotonic() + self.busy_timeout_s
        while True:
            connection = sqlite3.connect(self.path, timeout=self.busy_timeout_s, isolation_level=None, check_same_thread=False)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
                # One snapshot: between two statements another process may make the store.
                with _transaction(connection, "DEFERRED"):
                    version = self._version(connection)
                if version < SCHEMA_VERSION:
                    self._upgrade(connection)
                return connection
            except sqlite3.OperationalError as error:
                connection.close()
                # Two processes that make the file at the same moment: the switch to WAL does not wait for the other one.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(_OPEN_AGAIN_S)
            except BaseException:
                connection.close()
                raise

    def _version(self, connection: sqlite3.Connection) -> int:
        """The version of the store, 0 for an empty file. Raises InvalidInput on a newer one and on any other file."""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application == APPLICATION_ID and version > SCHEMA_VERSION:
            versions = f"schema {version}, known is {SCHEMA_VERSION}"
            raise InvalidInput(f"{self.path}: written by a newer version ({versions}); upgrade vidattr")
        if application == APPLICATION_ID:
            return int(version)
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if tables or application:
            holds = ", ".join(tables[:3]) or "no tables"
            raise InvalidInput(f"{self.path}: a database of something else ({holds}); name another file for answers")
        return 0

    def _upgrade(self, connection: sqlite3.Connection) -> None:
        """Makes the store, or brings an older one up to date: one transaction, by whoever comes first."""
        connection.execute("PRAGMA journal_mode = WAL")
        with _transaction(connection):
            for statements in _STEPS[self._version(connection) :]:
                for statement in statements:
                    connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _meaning(self, error: sqlite3.Error | OSError) -> VidattrError:
        code = getattr(error, "sqlite_errorcode", None)
        primary = None if code is None else code & 0xFF
        if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL):
            return Transient(f"{self.path}: another process has locked the answers for {self.busy_timeout_s:g} s; try again")
        if primary == sqlite3.SQLITE_FULL:
            return InvalidInput(f"{self.path}: the disk is full; free some space, then run again (what is stored is kept)")
        if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return InvalidInput(
                f"{self.path}: the answers store is damaged ({error}); restore a copy, or save what is left with "
                f"`sqlite3 FILE .recover`, or move the file away to ask everything again"
            )
        if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM) or isinstance(error, OSError):
            return InvalidInput(f"{self.path}: cannot be written ({error}); mend its permissions, or name another place")
        return Transient(f"{self.path}: the answers store failed ({error}); try again, and check the disk if it stays so")

    def get_many(self, keys: Iterable[str]) -> dict[str, Answer]:
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Answer] = {}
        with self._connected() as connection:
            start = 0
            while start < len(wanted):
                # A few lengths only, filled up with NULL, which equals nothing: sqlite then prepares a few statements only.
                left = len(wanted) - start
                length = next((size for size in _LOOKUP_BATCHES if size >= left), _LOOKUP_BATCHES[-1])
                some = wanted[start : start + length]
                query = f"SELECT key, {_ANSWER} FROM answers WHERE key IN ({', '.join('?' * length)})"
                for key, *values in connection.execute(query, [*some, *[None] * (length - len(some))]):
                    found[key] = _answer(values, reused=True)
                start += length
        return found

    def put_many(self, answers: Sequence[StoredAnswer], spent: Mapping[str, Usage] | None = None) -> dict[str, Answer]:
        process = os.getpid()
        with self._lock:
            for run_id, usage in (spent or {}).items():
                self._owed[process, run_id] = self._owed.get((process, run_id), Usage()) + usage
            noting = {run_id: usage for (owner, run_id), usage in self._owed.items() if owner == process}
            for run_id in noting:
                del self._owed[process, run_id]
        if not answers and not noting:
            return {}
        try:
            with self._connected() as connection:
                with _transaction(connection):
                    added = connection.executemany(_INSERT, map(_row, answers)).rowcount if answers else 0
                    for run_id, usage in noting.items():
                        connection.execute(_NOTE, (run_id, *in_whole(usage)))
        except BaseException:
            with self._lock:
                for run_id, usage in noting.items():
                    self._owed[process, run_id] = self._owed.get((process, run_id), Usage()) + usage
            raise
        if added == len(answers):
            return {}
        return changed(answers, self.get_many(stored.key for stored in answers))

    def put(self, answer: StoredAnswer) -> Answer:
        """Stores one answer and returns what now stands under its key. See `put_many`."""
        self.put_many([answer])
        return self.get_many([answer.key])[answer.key]

    def note_spent(self, run_id: str, usage: Usage) -> None:
        self.put_many((), {run_id: usage})

    def spent(self, run_id: str) -> Usage:
        return self._journal(" WHERE run_id = ?", (run_id,)).get(run_id, Usage())

    def _journal(self, where: str = "", values: tuple[str, ...] = ()) -> dict[str, Usage]:
        with self._connected() as connection:
            rows = connection.execute(f"SELECT run_id, {_SPEND} FROM spend{where} ORDER BY run_id", values)
            return {run_id: from_whole(counts) for run_id, *counts in rows}

    def __len__(self) -> int:
        with self._connected() as connection:
            return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])

    def stats(self, selection: Selection = ALL) -> Stats:
        where, values = _where(selection)
        query = f"""
            SELECT model, prompt, attribute, count(*), sum(input_tokens), sum(cached_input_tokens), sum(output_tokens),
                sum(cost_usd), coalesce(min(nullif(answered_at, 0)), 0), max(answered_at)
            FROM answers{where} GROUP BY model, prompt, attribute ORDER BY model, prompt, attribute
        """
        with self._connected() as connection:
            groups = tuple(
                Group(model, prompt, attribute, count, Usage(0, read, cached, written, cost), since, until)
                for model, prompt, attribute, count, read, cached, written, cost, since, until in connection.execute(query, values)
            )
        size = sum(os.path.getsize(name) for name in (self.path, f"{self.path}-wal") if os.path.exists(name))
        return Stats(groups, self._journal(), size)

    def rows(self, selection: Selection = ALL) -> Iterator[StoredAnswer]:
        where, values = _where(selection, from_key=True)
        query = f"SELECT key, {_ANSWER}, {_WHOSE} FROM answers{where} ORDER BY key LIMIT {_PAGE}"
        start = ""
        while True:
            # Page by page: a reader that stays in one transaction keeps the write-ahead log from being emptied.
            with self._connected() as connection:
                page = connection.execute(query, [start, *values]).fetchall()
            yield from map(_stored, page)
            if len(page) < _PAGE:
                return
            start = f"{page[-1][0]}\0"  # the next text in sqlite's order

    def delete_many(self, keys: Iterable[str]) -> int:
        doomed, deleted = list(keys), 0
        with self._connected() as connection:
            for start in range(0, len(doomed), _DELETE_BATCH):
                with _transaction(connection):
                    some = [(key,) for key in doomed[start : start + _DELETE_BATCH]]
                    deleted += connection.executemany("DELETE FROM answers WHERE key = ?", some).rowcount
        return deleted

    def close(self) -> None:
        with self._lock:
            connections, self._connections = self._connections, {}
        for (process, _), connection in connections.items():
            if process == os.getpid():
                connection.close()


@contextmanager
def _transaction(connection: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk has rolled it back already
            connection.execute("ROLLBACK")
        raise


def _where(selection: Selection, from_key: bool = False) -> tuple[str, list[object]]:
    """The WHERE clause of a selection, and its values; with `from_key` a key comes first among them."""
    values: list[object] = []
    terms = ["key >= ?"] if from_key else []
    for name in ("model", "attribute"):
        if getattr(selection, name):
            terms.append(f"{name} = ?")
            values.append(getattr(selection, name))
    if selection.before:
        terms.append("answered_at > 0 AND answered_at < ?")
        values.append(selection.before)
    return (f" WHERE {' AND '.join(terms)}" if terms else ""), values


def _row(stored: StoredAnswer) -> tuple[object, ...]:
    answer, identity = stored.answer, stored.identity
    return (
        stored.key,
        answer.attribute,
        answer.value,
        answer.probability,
        answer.rationale,
        answer.input_tokens,
        answer.cached_input_tokens,
        answer.output_tokens,
        answer.cost_usd,
        answer.answered_at,
        moments_text(answer.moments),
        answer.model,
        identity.source,
        identity.model,
        identity.prompt,
        identity.parameters,
        json.dumps(stored.own_parameters) if identity.parameters_by_definition else "[]",
        stored.video_id,
        stored.content_key,
        stored.definition_hash,
    )


def _answer(values: Sequence[Any], reused: bool = False) -> Answer:
    """From the columns of `_ANSWER`."""
    return answer_of(values, moments_from(values[9]), reused)


def _stored(row: Sequence[Any]) -> StoredAnswer:
    """From the columns key, `_ANSWER` and `_WHOSE`."""
    key, *rest = row
    source, model, prompt, parameters, own, video_id, content_key, definition_hash = rest[11:]
    mine = tuple((definition_hash, text) for text in json.loads(own))
    identity = AnnotatorIdentity(source, model, prompt, parameters, mine)
    return StoredAnswer(key, _answer(rest[:11]), identity, video_id, content_key, definition_hash)
