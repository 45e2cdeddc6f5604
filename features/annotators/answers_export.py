"""Answers of a store as a file: JSON lines or Parquet with all that is known, or a recording for the replay annotator."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from features import storage
from features.annotators.answer_records import StoredAnswer
from features.errors import InvalidInput

Format = Literal["full", "replay"]
PARQUET_ROWS = 10_000
_TEXTS = ("key", "video_id", "attribute", "value", "rationale")
_COUNTS = ("input_tokens", "cached_input_tokens", "output_tokens")
_WHOSE = ("source", "model", "server_model", "prompt", "parameters", "content_key", "definition_hash")
SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in _TEXTS),
        pa.field("probability", pa.float64()),
        pa.field("moments", pa.list_(pa.struct([pa.field("start_s", pa.float64()), pa.field("end_s", pa.float64())]))),
        *(pa.field(name, pa.int64(), nullable=False) for name in _COUNTS),
        pa.field("cost_usd", pa.float64(), nullable=False),
        pa.field("answered_at", pa.timestamp("us", "UTC")),
        *(pa.field(name, pa.string(), nullable=False) for name in _WHOSE),
        pa.field("own_parameters", pa.list_(pa.string()), nullable=False),
    ]
)
"""Columns of the full format; `model` was asked and `server_model` answered, as the server says. Of a JSON line the fields too."""


def full_document(stored: StoredAnswer) -> dict[str, Any]:
    """One answer in the columns of `SCHEMA`."""
    answer, identity = stored.answer, stored.identity
    return {
        "key": stored.key,
        **replay_document(stored),
        "moments": [{"start_s": moment.start_s, "end_s": moment.end_s} for moment in answer.moments],
        "answered_at": datetime.fromtimestamp(answer.answered_at, UTC) if answer.answered_at else None,
        "source": identity.source,
        "model": identity.model,
        "server_model": answer.model,
        "prompt": identity.prompt,
        "parameters": identity.parameters,
        "own_parameters": list(stored.own_parameters),
        "content_key": stored.content_key,
        "definition_hash": stored.definition_hash,
    }


def replay_document(stored: StoredAnswer) -> dict[str, Any]:
    """One answer in the fields that a recording may have."""
    answer = stored.answer
    names = ("value", "probability", "rationale", *_COUNTS, "cost_usd")
    return {"video_id": stored.video_id, "attribute": answer.attribute, **{name: getattr(answer, name) for name in names}}


def one_each(rows: Iterable[StoredAnswer], newest: bool = False) -> Iterator[StoredAnswer]:
    """Rows with one answer for each video and attribute.

    Args:
        rows: of a store.
        newest: of several keep the one that was given last.

    Raises:
        InvalidInput: there are several, and `newest` is not set.
    """
    if newest:
        last: dict[tuple[str, str], StoredAnswer] = {}
        for row in rows:
            pair = row.video_id, row.answer.attribute
            if pair not in last or last[pair].answer.answered_at <= row.answer.answered_at:
                last[pair] = row
        yield from last.values()
        return
    seen: dict[tuple[str, str], str] = {}
    for row in rows:
        pair = row.video_id, row.answer.attribute
        if pair in seen:
            models = " and ".join(dict.fromkeys((seen[pair], row.identity.model)))
            raise InvalidInput(
                f"{pair[1]!r} of {pair[0]!r} has several answers, of {models}: "
                "a recording holds one of each; choose with --model, or pass --newest"
            )
        seen[pair] = row.identity.model
        yield row


def export(rows: Iterable[StoredAnswer], path: str, form: Format = "full", newest: bool = False) -> int:
    """Writes answers to a file, whole or not at all, and says how many.

    Args:
        rows: what to write.
        path: FILE.jsonl or FILE.parquet, local; what is there is replaced.
        form: `full`: every field; `replay`: what the replay annotator reads, JSON lines only.
        newest: one answer for each video and attribute, the last; see `one_each`.

    Raises:
        InvalidInput: another kind of file, a place that cannot be written, or (replay) several answers for a video and attribute.
    """
    check_export(path, form)
    if newest or form == "replay":
        rows = one_each(rows, newest)
    with _written(path) as partial:
        return (_parquet if path.endswith(".parquet") else _jsonl)(
            rows, partial, full_document if form == "full" else replay_document
        )


def check_export(path: str, form: Format) -> None:
    """Raises InvalidInput where `export` would before it has read an answer."""
    if "://" in path or not path.endswith((".jsonl", ".parquet")):
        raise InvalidInput(f"{path!r}: answers are exported to a local FILE.jsonl or FILE.parquet")
    if form == "replay" and not path.endswith(".jsonl"):
        raise InvalidInput(f"{path!r}: the replay annotator reads JSON lines; name a FILE.jsonl")


def _jsonl(rows: Iterable[StoredAnswer], path: str, document: Callable[[StoredAnswer], dict[str, Any]]) -> int:
    count = 0
    with open(path, "w", encoding="utf-8") as file:
        for count, row in enumerate(rows, start=1):  # noqa: B007
            file.write(json.dumps(document(row), ensure_ascii=False, default=datetime.isoformat) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return count


def _parquet(rows: Iterable[StoredAnswer], path: str, document: Callable[[StoredAnswer], dict[str, Any]]) -> int:
    count, rows = 0, iter(rows)
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        while some := [document(row) for row in itertools.islice(rows, PARQUET_ROWS)]:
            writer.write_table(pa.Table.from_pylist(some, schema=SCHEMA))
            count += len(some)
    return count


@contextmanager
def _written(path: str) -> Iterator[str]:
    """A name beside `path` that becomes `path` at the end."""
    folder = os.path.dirname(os.path.abspath(path))
    partial = ""
    try:
        os.makedirs(folder, exist_ok=True)
        descriptor, partial = tempfile.mkstemp(prefix=".partial-", dir=folder)
        os.close(descriptor)
        yield partial
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except OSError as error:
        raise storage.unwritable(path, error) from error
    finally:
        if partial and os.path.exists(partial):
            os.unlink(partial)
