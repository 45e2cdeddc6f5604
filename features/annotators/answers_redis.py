"""Answers in Redis, for workers on many machines."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ConnectionError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis.retry import Retry

from features.annotators.answer_records import (
    ALL,
    SPEND,
    Selection,
    Stats,
    StoredAnswer,
    answer_of,
    changed,
    from_whole,
    grouped,
    in_whole,
)
from features.annotators.protocol import AnnotatorIdentity, Answer, Usage
from features.errors import InvalidInput, Transient, VidattrError
from features.records import Moment, digest

PASSWORD = "VIDATTR_REDIS_PASSWORD"
"""The environment variable that holds the password when the URL has none."""
PREFIX = "vidattr:"
FORMAT = 1
CONNECT_S = 3.0
REPLY_S = 10.0
_BATCH = 500

_PUT = """
local answers, identities, at = tonumber(ARGV[1]), tonumber(ARGV[2]), 2 + ARGV[1]
local stood = {}
for i = 1, answers do
  if redis.call('SETNX', KEYS[2 + i], ARGV[2 + i]) == 0 then
    stood[#stood + 1] = i
    stood[#stood + 1] = redis.call('GET', KEYS[2 + i])
  end
end
for i = 1, identities do
  redis.call('HSETNX', KEYS[1], ARGV[at + 1], ARGV[at + 2])
  at = at + 2
end
for k = 3 + answers, #KEYS do
  redis.call('SADD', KEYS[2], ARGV[at + 1])
  for f, name in ipairs({COLUMNS}) do
    local place, value = ARGV[at + 2] .. ':' .. name, ARGV[at + 2 + f]
    if tonumber(value) > tonumber(redis.call('HGET', KEYS[k], place) or '-1') then
      redis.call('HSET', KEYS[k], place, value)
    end
  end
  at = at + 7
end
return stood
""".replace("COLUMNS", ", ".join(map(repr, SPEND)))
"""Puts answers where there is none, and says which stood (place, content, ...). The first SETNX fails if memory is full, and then
nothing is written; once it succeeded Redis lets the script finish. Spend is each writer's total so far: sent twice, it counts once.
"""


@dataclass
class RedisAnswers:
    """Answers under a prefix of one Redis database: one key an answer, one hash a run for spend, and one hash for identities.

    A batch of up to 500 answers is one round trip and is stored at once or not at all. What `put_many` returned from is in the
    server's append-only file if it keeps one: it survives a `kill -9` of the server, but for up to two
    seconds that wait behind a slow flush; with `appendfsync always` all of it does, and a power cut
    (`everysec` may lose the last second). `stats` notes a server that evicts or forgets. Redis Cluster needs a prefix in braces,
    such as {vidattr}:, which keeps everything on one node. See `features.annotators.answers.Answers` for the methods.

    Args:
        url: redis://[USER[:PASSWORD]@]HOST[:PORT][/DB][?prefix=PREFIX], or rediss:// for TLS, which may name its authority's
            certificates: &ssl_ca_certs=FILE. Without a password in it, that of VIDATTR_REDIS_PASSWORD is used if set.
            The prefix is `vidattr:` unless named.

    Raises:
        InvalidInput: the URL is not of this form.
    """

    url: str = field(repr=False)
    location: str = field(init=False)
    prefix: str = field(init=False, repr=False)
    _options: dict[str, Any] = field(init=False, repr=False, compare=False)
    _client: redis.Redis | None = field(default=None, init=False, repr=False, compare=False)
    _paid: dict[str, Usage] = field(default_factory=dict, init=False, repr=False, compare=False)
    _behind: set[str] = field(default_factory=set, init=False, repr=False, compare=False)
    _writer: tuple[int, str] = field(default=(0, ""), init=False, repr=False, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.location, self.prefix, self._options = _parsed(self.url)

    def __reduce__(self) -> tuple[type[RedisAnswers], tuple[str]]:
        return type(self), (self.url,)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[redis.Redis]:
        """The client, which all threads share; its errors become ours."""
        with self._lock:
            if self._client is None:
                password = self._options["password"] or os.environ.get(PASSWORD) or None
                # One more try mends an idle connection; whoever asks decides about any further one.
                retry = Retry(NoBackoff(), 1)
                self._client = redis.Redis(
                    **{**self._options, "password": password},
                    socket_timeout=REPLY_S,
                    socket_connect_timeout=CONNECT_S,
                    retry=retry,
                )
            client = self._client
        try:
            yield client
        except (RedisError, OSError) as error:
            raise self._meaning(error) from error

    def _meaning(self, error: Exception) -> VidattrError:
        where, text = self.location, str(error)
        if isinstance(error, NoPermissionError):
            return InvalidInput(f"{where}: this user may not do that ({text}); allow it all commands on {self.prefix}*")
        if isinstance(error, AuthenticationError | AuthorizationError):
            return InvalidInput(f"{where}: Redis refuses the login; put the password into {PASSWORD}, and the user into the URL")
        if isinstance(error, OutOfMemoryError) or "OOM command not allowed" in text:
            return InvalidInput(f"{where}: Redis is full; raise its maxmemory, or `vidattr answers prune`, then run again")
        if isinstance(error, ReadOnlyError) or "READONLY" in text:
            return InvalidInput(f"{where}: Redis is a read-only replica; name its primary")
        if isinstance(error, ClusterCrossSlotError | MovedError):
            return InvalidInput(f"{where}: a Redis Cluster; give its address of one node a prefix in braces, ?prefix={{vidattr}}:")
        if isinstance(error, BusyLoadingError):
            return Transient(f"{where}: Redis is still loading its data; try again")
        if isinstance(error, ConnectionError | TimeoutError | OSError):
            return Transient(f"{where}: Redis does not answer ({text}); check that it runs, then try again")
        if isinstance(error, ResponseError) and text.startswith(("MISCONF", "WRONGTYPE", "NOREPLICAS", "ERR DB index")):
            return InvalidInput(f"{where}: Redis cannot hold answers ({text}); mend the server, or name another one")
        return Transient(f"{where}: Redis failed ({text}); try again, and look into its log if it stays so")

    def get_many(self, keys: Iterable[str]) -> dict[str, Answer]:
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Answer] = {}
        with self._connected() as client:
            for start in range(0, len(wanted), _BATCH):
                some = wanted[start : start + _BATCH]
                values: Any = client.mget([f"{self.prefix}answer:{key}" for key in some])
                for key, value in zip(some, values, strict=True):
                    if value is not None:
                        found[key] = _answer(self._fields(key, value), reused=True)
        return found

    def _fields(self, key: str, value: bytes) -> list[Any]:
        try:
            content: list[Any] = json.loads(value)
            form, fields = content[0], content[1:]
        except (ValueError, TypeError, LookupError) as error:
            message = f"{self.location}: {self.prefix}answer:{key} holds something else; name another prefix for answers"
            raise InvalidInput(message) from error
        if form != FORMAT:
            raise InvalidInput(f"{self.location}: written by a newer version (format {form}, known is {FORMAT}); upgrade vidattr")
        return fields

    def put_many(self, answers: Sequence[StoredAnswer], spent: Mapping[str, Usage] | None = None) -> dict[str, Answer]:
        with self._lock:
            writer = self._own_writer()
            for run_id, usage in (spent or {}).items():
                self._paid[run_id] = self._paid.get(run_id, Usage()) + usage
                self._behind.add(run_id)
            noting = {run_id: self._paid[run_id] for run_id in self._behind}
        standing: dict[str, Answer] = {}
        with self._connected() as client:
            script = client.register_script(_PUT)
            for start in range(0, max(len(answers), bool(noting)), _BATCH):
                some, runs = answers[start : start + _BATCH], noting if start == 0 else {}
                known = {id(stored.identity): stored.identity for stored in some}
                identities = {place: digest(*_shared(identity))[:16] for place, identity in known.items()}
                names = [f"{self.prefix}answer:{stored.key}" for stored in some]
                journals = [f"{self.prefix}spend:{run_id}" for run_id in runs]
                arguments: list[Any] = [len(some), len(identities)]
                arguments += [_encoded(stored, identities[id(stored.identity)]) for stored in some]
                for place, identity in known.items():
                    arguments += [
                        identities[place],
                        json.dumps([identity.source, identity.model, identity.prompt, identity.parameters]),
                    ]
                for run_id, usage in runs.items():
                    arguments += [run_id, writer, *in_whole(usage)]
                places = [f"{self.prefix}identities", f"{self.prefix}runs", *names, *journals]
                stood: Any = script(keys=places, args=arguments)
                for number, value in zip(stood[::2], stood[1::2], strict=True):
                    key = some[number - 1].key
                    standing[key] = _answer(self._fields(key, value), reused=True)
        with self._lock:
            # Another thread may have added to a run meanwhile: then it is behind still.
            self._behind -= {run_id for run_id, usage in noting.items() if self._paid.get(run_id) == usage}
        return changed(answers, standing)

    def _own_writer(self) -> str:
        """A name for this process's totals, which a fork of it must not go on with."""
        if self._writer[0] != os.getpid():
            self._writer = os.getpid(), secrets.token_hex(6)
            self._paid, self._behind = {}, set()
        return self._writer[1]

    def note_spent(self, run_id: str, usage: Usage) -> None:
        self.put_many((), {run_id: usage})

    def spent(self, run_id: str) -> Usage:
        with self._connected() as client:
            places: Any = client.hgetall(f"{self.prefix}spend:{run_id}")
        sums = dict.fromkeys(SPEND, 0)
        for place, amount in places.items():
            sums[place.decode().partition(":")[2]] += int(amount)
        return from_whole([sums[name] for name in SPEND])

    def __len__(self) -> int:
        return sum(1 for _ in self._keys())

    def _keys(self) -> Iterator[str]:
        """Every key once: a scan may come upon one twice."""
        seen: set[bytes] = set()
        begin = len(f"{self.prefix}answer:".encode())
        cursor: Any = 0
        while True:
            with self._connected() as client:
                page: Any = client.scan(cursor, match=f"{self.prefix}answer:*", count=1000)
            cursor, names = page
            for name in names:
                if name not in seen:
                    seen.add(name)
                    yield name[begin:].decode()
            if not cursor:
                return

    def stats(self, selection: Selection = ALL) -> Stats:
        groups = grouped(self.rows(selection))
        with self._connected() as client:
            runs: Any = client.smembers(f"{self.prefix}runs")
            memory: Any = client.info("memory")
        spent = {run_id: self.spent(run_id) for run_id in sorted(name.decode() for name in runs)}
        return Stats(groups, spent, int(memory.get("used_memory", 0)), self._notes(memory))

    def _notes(self, memory: Mapping[str, Any]) -> tuple[str, ...]:
        """What about this server may lose answers. Managed servers keep some of it to themselves."""
        notes = []
        policy = str(memory.get("maxmemory_policy", ""))
        # Answers have no time to live: the volatile policies evict none.
        if policy.startswith("allkeys"):
            notes.append(
                f"maxmemory-policy is {policy}: Redis drops answers when its memory is full, and they are paid for again; "
                "set it to noeviction"
            )
        with self._connected() as client:
            persistence: Any = client.info("persistence")
            try:
                settings: Any = client.config_get("save", "appendfsync")
            except ResponseError:
                settings = {}
        if not int(persistence.get("aof_enabled", 0)):
            if settings.get("save") == "":
                notes.append("persistence is off: a restart of Redis forgets every answer; set appendonly to yes")
            else:
                notes.append("appendonly is off: a crash of Redis forgets answers since its last snapshot; set appendonly to yes")
        elif settings.get("appendfsync") == "no":
            notes.append("appendfsync is no: a power cut loses the last half minute of answers; set it to everysec or always")
        return tuple(notes)

    def rows(self, selection: Selection = ALL) -> Iterator[StoredAnswer]:
        identities: dict[str, list[str]] = {}
        keys = self._keys()
        while some := list(itertools.islice(keys, _BATCH)):
            with self._connected() as client:
                values: Any = client.mget([f"{self.prefix}answer:{key}" for key in some])
                fields = {key: self._fields(key, value) for key, value in zip(some, values, strict=True) if value is not None}
                if any(one[-5] not in identities for one in fields.values()):
                    known: Any = client.hgetall(f"{self.prefix}identities")
                    identities = {key.decode(): json.loads(text) for key, text in known.items()}
            for key, one in fields.items():
                stored = _stored(key, one, identities)
                if selection.admits(stored):
                    yield stored

    def delete_many(self, keys: Iterable[str]) -> int:
        doomed, deleted = list(keys), 0
        with self._connected() as client:
            for start in range(0, len(doomed), _BATCH):
                some = doomed[start : start + _BATCH]
                removed: Any = client.unlink(*(f"{self.prefix}answer:{key}" for key in some))
                deleted += int(removed)
        return deleted

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()


def _parsed(url: str) -> tuple[str, str, dict[str, Any]]:
    """A URL fit to be shown, the prefix, and what the client is told."""
    form = "write redis://HOST:PORT[/DB][?prefix=PREFIX]"
    try:
        address = urlsplit(url)
    except ValueError as error:
        raise InvalidInput(f"answers in Redis: the address is none ({error}); {form}") from error
    try:
        port = address.port or 6379
    except ValueError:
        port = 0
    host, database = address.hostname or "", address.path.strip("/") or "0"
    shown = f"{address.scheme}://{host or '...'}{f':{port}' if port else ''}"
    if address.scheme not in ("redis", "rediss") or not host or not port or not re.fullmatch("[0-9]{1,9}", database):
        raise InvalidInput(f"answers at {shown}: the address is not complete, or its port or database is no number; {form}")
    options = dict(parse_qsl(address.query, keep_blank_values=True))
    prefix = options.pop("prefix", PREFIX)
    authority = options.pop("ssl_ca_certs", None)
    if options or address.fragment:
        unknown = next(iter(options), f"#{address.fragment}")
        raise InvalidInput(f"answers at {shown}: {unknown!r} is no option of the address; known are prefix, ssl_ca_certs")
    if not re.fullmatch(r"[A-Za-z0-9:_.{}-]{1,100}", prefix):
        raise InvalidInput(f"answers at {shown}: prefix {prefix!r}; write 1 to 100 letters, digits and : _ . - {{ }}")
    if authority is not None and address.scheme != "rediss":
        raise InvalidInput(f"answers at {shown}: ssl_ca_certs needs rediss://")
    told = ([f"prefix={prefix}"] if prefix != PREFIX else []) + ([f"ssl_ca_certs={authority}"] if authority else [])
    shown += f"/{database}{'?' if told else ''}{'&'.join(told)}"
    client: dict[str, Any] = {
        "host": host,
        "port": port,
        "db": int(database),
        "username": unquote(address.username) if address.username else None,
        "password": unquote(address.password) if address.password else None,
        "ssl": address.scheme == "rediss",
    }
    if authority is not None:
        client["ssl_ca_certs"] = authority
    return shown, prefix, client


def _shared(identity: AnnotatorIdentity) -> tuple[str, ...]:
    """What all answers of an annotator have in common: kept once."""
    return identity.source, identity.model, identity.prompt, identity.parameters


def _encoded(stored: StoredAnswer, identity_key: str) -> str:
    """An answer as a JSON list: the format, the answer, its moments, and whose it is."""
    answer = stored.answer
    content = [
        FORMAT,
        answer.attribute,
        answer.value,
        answer.probability,
        answer.rationale,
        answer.input_tokens,
        answer.cached_input_tokens,
        answer.output_tokens,
        answer.cost_usd,
        answer.answered_at,
        [(moment.start_s, moment.end_s) for moment in answer.moments],
        answer.model,
        identity_key,
        stored.own_parameters if stored.identity.parameters_by_definition else (),
        stored.video_id,
        stored.content_key,
        stored.definition_hash,
    ]
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _answer(fields: Sequence[Any], reused: bool = False) -> Answer:
    return answer_of(fields[:11], tuple(Moment(float(start), float(end)) for start, end in fields[9]), reused)


def _stored(key: str, fields: Sequence[Any], identities: Mapping[str, Sequence[Any]]) -> StoredAnswer:
    identity_key, own, video_id, content_key, definition_hash = fields[11:]
    source, model, prompt, parameters = identities.get(identity_key, ("llm", "", "", ""))
    mine = tuple((definition_hash, text) for text in own)
    identity = AnnotatorIdentity(source, model, prompt, parameters, mine)
    return StoredAnswer(key, _answer(fields), identity, video_id, content_key, definition_hash)
