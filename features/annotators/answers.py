"""The answers store: no answer is lost and none is paid for twice (law 2).

`AnswersStore` is one sqlite file that several processes share. `StoredAnswers` is an annotator around an annotator that looks
there before it asks and writes there before it replies.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from features.annotators.batching import Gatherer
from features.annotators.protocol import (
    AnnotationReply,
    AnnotationRequest,
    Annotator,
    AnnotatorIdentity,
    Answer,
    Refusal,
)
from features.attributes.definition import AttributeDefinition
from features.errors import InvalidInput, Transient, VidattrError
from features.records import VideoFeatures

SCHEMA_VERSION = 1
APPLICATION_ID = 0x76617474  # "vatt", so that `file` and we can tell the store from any other sqlite file
_ANSWER_FIELDS = tuple(item.name for item in dataclasses.fields(Answer) if item.name != "reused")
_COLUMNS = ("key", *_ANSWER_FIELDS, "source", "model", "prompt", "parameters", "video_id", "content_key", "definition_hash")
_CREATE = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, attribute TEXT NOT NULL, value TEXT NOT NULL, probability REAL, rationale TEXT NOT NULL,
    input_tokens INTEGER NOT NULL, cached_input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,
    cost_usd REAL NOT NULL, answered_at REAL NOT NULL, source TEXT NOT NULL, model TEXT NOT NULL, prompt TEXT NOT NULL,
    parameters TEXT NOT NULL, video_id TEXT NOT NULL, content_key TEXT NOT NULL, definition_hash TEXT NOT NULL
) WITHOUT ROWID
"""
_INSERT = f"INSERT INTO answers ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT (key) DO NOTHING"
_LOOKUP_BATCH = 500
_OPEN_AGAIN_S = 0.02


@dataclass(frozen=True)
class StoredAnswer:
    """An answer with everything that says whose it is."""

    key: str
    answer: Answer
    identity: AnnotatorIdentity
    video_id: str
    content_key: str
    definition_hash: str

    def _row(self) -> tuple[object, ...]:
        own = (text for definition, text in self.identity.parameters_by_definition if definition == self.definition_hash)
        return (
            self.key,
            *(getattr(self.answer, name) for name in _ANSWER_FIELDS),
            self.identity.source,
            self.identity.model,
            self.identity.prompt,
            "\n".join([self.identity.parameters, *own]),
            self.video_id,
            self.content_key,
            self.definition_hash,
        )


@dataclass
class AnswersStore:
    """One sqlite file of answers, safe to share between threads and processes of one machine, and to send to a worker.

    A write-ahead log lets readers go on while somebody writes, and every commit is flushed to the disk: an answer that `put`
    returned from survives `kill -9` and a power cut. An answer never changes: whoever puts a key second gets what stands.

    Args:
        path: the file; it and its folder are made at the first use. A local disk, not a network share.
        busy_timeout_s: how long to wait for another process's write.
    """

    path: str
    busy_timeout_s: float = 30.0
    _connections: dict[tuple[int, int], sqlite3.Connection] = field(default_factory=dict, init=False, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __reduce__(self) -> tuple[type[AnswersStore], tuple[str, float]]:
        return type(self), (self.path, self.busy_timeout_s)

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
                # One snapshot: between two statements another process may make the store.
                with _transaction(connection, "DEFERRED"):
                    ready = self._is_ready(connection)
                if not ready:
                    self._create(connection)
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

    def _is_ready(self, connection: sqlite3.Connection) -> bool:
        """Whether the file is a store of this version; False for an empty one. Raises InvalidInput on any other."""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application == APPLICATION_ID and version > SCHEMA_VERSION:
            versions = f"schema {version}, known is {SCHEMA_VERSION}"
            raise InvalidInput(f"{self.path}: written by a newer version ({versions}); upgrade vidattr")
        if application == APPLICATION_ID:
            return bool(version == SCHEMA_VERSION)
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if tables or application:
            holds = ", ".join(tables[:3]) or "no tables"
            raise InvalidInput(f"{self.path}: a database of something else ({holds}); name another file for answers")
        return False

    def _create(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        with _transaction(connection):
            if not self._is_ready(connection):
                connection.execute(_CREATE)
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
        """The answers that are there, by key, each marked `reused`. Raises Transient or InvalidInput."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Answer] = {}
        with self._connected() as connection:
            for start in range(0, len(wanted), _LOOKUP_BATCH):
                some = wanted[start : start + _LOOKUP_BATCH]
                query = f"SELECT key, {', '.join(_ANSWER_FIELDS)} FROM answers WHERE key IN ({', '.join('?' * len(some))})"
                for key, *values in connection.execute(query, some):
                    found[key] = Answer(**dict(zip(_ANSWER_FIELDS, values, strict=True)), reused=True)
        return found

    def put_many(self, answers: Sequence[StoredAnswer]) -> dict[str, Answer]:
        """Stores answers, all or none, and returns what now stands under their keys.

        Raises:
            Transient: locked by another process for longer than `busy_timeout_s`; nothing was stored.
            InvalidInput: the disk is full, the file damaged or not writable; nothing was stored.
        """
        with self._connected() as connection:
            with _transaction(connection):
                connection.executemany(_INSERT, [answer._row() for answer in answers])
            return self.get_many(answer.key for answer in answers)

    def put(self, answer: StoredAnswer) -> Answer:
        """Stores one answer and returns what now stands under its key. See `put_many`."""
        return self.put_many([answer])[answer.key]

    def __len__(self) -> int:
        with self._connected() as connection:
            return int(connection.execute("SELECT count(*) FROM answers").fetchone()[0])

    def close(self) -> None:
        """Closes this process's connections; the next use opens new ones."""
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


class StoredAnswers:
    """An annotator that asks another one only what the store does not hold, and stores each reply before it hands it on.

    Two concurrent requests for one key in one process ask once. Answers that are found, or that another request got, are marked
    `reused`; their tokens and cost say what they cost then. Refusals are not stored. A reply that could not be stored is kept
    in memory and not passed on: asking again after the Transient tries to store it first, and pays for nothing. Answers that
    nobody asked for are dropped.

    Args:
        annotator: who is asked.
        store: where answers stay.
    """

    def __init__(self, annotator: Annotator, store: AnswersStore) -> None:
        self.annotator = annotator
        self.store = store
        self._asking: dict[str, asyncio.Future[Answer | Refusal | None]] = {}
        self._unsaved: dict[str, StoredAnswer] = {}
        self._lookup: Gatherer[tuple[str, ...], dict[str, Answer]] | None = None
        self._save: Gatherer[tuple[StoredAnswer, ...], dict[str, Answer]] | None = None

    def __reduce__(self) -> tuple[type[StoredAnswers], tuple[Annotator, AnswersStore]]:
        return type(self), (self.annotator, self.store)

    @property
    def identity(self) -> AnnotatorIdentity:
        return self.annotator.identity

    def open(self) -> None:
        """Opens the annotator inside, and the store: a damaged one is reported now and not after the first reply."""
        self.annotator.open()
        self.store.get_many(())
        self._lookup = Gatherer(self._get_batches)
        self._save = Gatherer(self._put_batches)

    def _get_batches(self, batches: Sequence[tuple[str, ...]]) -> list[dict[str, Answer]]:
        found = self.store.get_many(key for keys in batches for key in keys)
        return [{key: found[key] for key in keys if key in found} for keys in batches]

    def _put_batches(self, batches: Sequence[tuple[StoredAnswer, ...]]) -> list[dict[str, Answer]]:
        standing = self.store.put_many([answer for answers in batches for answer in answers])
        return [{answer.key: standing[answer.key] for answer in answers} for answers in batches]

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        """See `Annotator`. Also raises Transient or InvalidInput when the store fails."""
        assert self._lookup is not None and self._save is not None, "open() comes before annotate()"
        identity, content = self.annotator.identity, request.video.content_key
        keys = {identity.answer_key(content, definition.definition_hash): definition for definition in request.definitions}
        # Claimed before the store is looked at: an answer that arrives in between would be missed and asked for twice.
        shared = {key: self._asking[key] for key in keys if key in self._asking}
        mine = {key: asyncio.get_running_loop().create_future() for key in keys if key not in shared}
        self._asking.update(mine)
        outcomes: dict[str, Answer | Refusal | None] = {}
        try:
            outcomes.update(await self._lookup(tuple(mine)) if mine else {})
            for key in outcomes:
                self._unsaved.pop(key, None)
            missing = {key: keys[key] for key in mine if key not in outcomes}
            if missing:
                outcomes.update(await self._ask(request.video, identity, missing))
        finally:
            # Whoever waits for a request that failed or was cancelled gets None, and asks on its own account.
            for key, future in mine.items():
                del self._asking[key]
                future.set_result(outcomes.get(key))
        again = []
        for key, other in shared.items():
            outcome = await asyncio.shield(other)
            outcomes[key] = dataclasses.replace(outcome, reused=True) if isinstance(outcome, Answer) else outcome
            if outcome is None:
                again.append(keys[key])
        rest = await self.annotate(AnnotationRequest(request.video, tuple(again))) if again else AnnotationReply()
        ordered = [outcomes[key] for key in keys if outcomes.get(key) is not None]
        return AnnotationReply(
            (*(outcome for outcome in ordered if isinstance(outcome, Answer)), *rest.answers),
            (*(outcome for outcome in ordered if isinstance(outcome, Refusal)), *rest.refusals),
        )

    async def _ask(
        self, video: VideoFeatures, identity: AnnotatorIdentity, missing: dict[str, AttributeDefinition]
    ) -> dict[str, Answer | Refusal]:
        """Asks for what is not waiting to be saved, saves it all, and gives the outcome by key."""
        outcomes: dict[str, Answer | Refusal] = {}
        asked = {key: definition for key, definition in missing.items() if key not in self._unsaved}
        if asked:
            reply = await self.annotator.annotate(AnnotationRequest(video, tuple(asked.values())))
            key_of = {definition.name: key for key, definition in asked.items()}
            for refusal in reply.refusals:
                if refusal.attribute in key_of:
                    outcomes[key_of[refusal.attribute]] = refusal
            for answer in reply.answers:
                if answer.attribute in key_of:
                    key = key_of[answer.attribute]
                    definition_hash = asked[key].definition_hash
                    self._unsaved[key] = StoredAnswer(key, answer, identity, video.video_id, video.content_key, definition_hash)
        saving = tuple(self._unsaved[key] for key in missing if key in self._unsaved)
        if saving:
            assert self._save is not None
            standing = await self._save(saving)
            for stored in saving:
                self._unsaved.pop(stored.key, None)
                outcomes[stored.key] = _as_paid(stored.answer, standing[stored.key])
        return outcomes

    async def close(self) -> None:
        """Waits for what is being stored, then closes the annotator inside and the store."""
        for gatherer in (self._lookup, self._save):
            if gatherer is not None:
                await gatherer.close()
        await self.annotator.close()
        self.store.close()


def _as_paid(asked: Answer, standing: Answer) -> Answer:
    """What stands in the store, with what was paid for asking just now."""
    return dataclasses.replace(
        asked,
        value=standing.value,
        probability=standing.probability,
        rationale=standing.rationale,
        answered_at=standing.answered_at,
    )
