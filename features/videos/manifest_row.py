"""One row of a manifest: each field checked, its address resolved and confined. Pure, apart from resolving symbolic links."""

from __future__ import annotations

import json
import math
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np

from features import storage
from features.errors import InvalidInput
from features.records import Video

MAX_CHARACTERS = {
    "video_id": 256,
    "uri": 4096,
    "title": 2_000,
    "description": 20_000,
    "creator_id": 256,
    "language": 35,
    "transcript": 200_000,
}
MAX_HASHTAGS = 200
MAX_HASHTAG_CHARACTERS = 200
MAX_EMBEDDING = 8192
MAX_FRAME_EMBEDDINGS = 64
MAX_EXTRA_CHARACTERS = 65_536

_FIELDS = frozenset(Video.SCHEMA.names) - {"extra", "frame_embeddings"}
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:")
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]{1,8})*")


class Problem(Exception):
    """What is wrong with a row: the field, the value and the remedy."""


def resolve_roots(folder: str, roots: Sequence[str]) -> tuple[str, ...]:
    """The manifest's folder and further ones, as real paths or gs:// prefixes. Raises InvalidInput on one that is neither."""
    resolved = []
    for root in (folder, *roots):
        if storage.is_gcs(root):
            resolved.append(root.rstrip("/"))
        elif "://" in root or not os.path.isdir(root):
            raise InvalidInput(f"root {root!r}: not a folder; name a local folder or gs://BUCKET/PREFIX that holds media")
        else:
            resolved.append(os.path.realpath(root))
    return tuple(resolved)


def readable_id(raw: Mapping[str, Any]) -> str | None:
    """The id of a row that is bad for another reason."""
    try:
        return _video_id(raw)
    except Problem:
        return None


@dataclass(frozen=True)
class RowParser:
    """Turns raw rows into videos.

    Args:
        folder: what relative addresses are relative to, absolute or gs://.
        roots: from `resolve_roots`; local media must lie below one of the local ones.
    """

    folder: str
    roots: tuple[str, ...]

    def video(self, raw: Mapping[str, Any], from_text: bool = False, listed: bool = False) -> Video:
        """One row.

        Args:
            raw: its fields by name.
            from_text: every value is text (CSV): an empty cell is an absent one, lists are parsed.
            listed: the address comes from listing a folder, not from a person: it is literal.

        Raises:
            Problem: the row is bad.
        """
        if from_text:
            raw = {name: None if name in _FIELDS and value == "" else value for name, value in raw.items()}
        video_id = _video_id(raw)
        embedding, frame_embeddings = _embeddings(raw.get("embedding"), from_text)
        return Video(
            video_id=video_id,
            uri=self._uri(raw.get("uri"), listed),
            title=_text(raw, "title") or "",
            description=_text(raw, "description") or "",
            hashtags=_hashtags(raw.get("hashtags"), from_text),
            creator_id=_text(raw, "creator_id") or "",
            published_at=_moment(raw.get("published_at")),
            language=_language(raw),
            transcript=_text(raw, "transcript"),
            embedding=embedding,
            frame_embeddings=frame_embeddings,
            extra=_extra(raw),
        )

    def _uri(self, value: Any, listed: bool) -> str:
        uri = _text({"uri": value}, "uri")
        if not uri or not uri.strip():
            raise Problem("uri is missing: give the address of the media file")
        if any(unicodedata.category(letter) == "Cc" for letter in uri):
            raise Problem(f"uri {uri!r} has control characters: remove them")
        if storage.is_gcs(uri):
            return _cloud(uri, uri)
        if not listed and _SCHEME.match(uri):
            raise Problem(
                f"uri {_brief(uri)}: only local files and gs:// are read, nothing is fetched from elsewhere: copy the file "
                "next to the manifest, or write ./ before a file name with a colon"
            )
        if storage.is_gcs(self.folder) and not uri.startswith("/"):
            return _cloud(f"{self.folder}/{uri.removeprefix('./')}", uri)
        path = os.path.realpath(os.path.join("/" if storage.is_gcs(self.folder) else self.folder, uri))
        for root in self.roots:
            if not storage.is_gcs(root) and (path == root or path.startswith(root.rstrip("/") + "/")):
                return path
        raise Problem(
            f"uri {_brief(uri)} lies outside the manifest's folder ({path}): move the file there, or pass its folder as a root"
        )


def _cloud(uri: str, said: str) -> str:
    bucket, _, key = uri[5:].partition("/")
    if {".", ".."} & set(key.split("/")):
        raise Problem(f"uri {_brief(said)} has '.' or '..' in it: write the address without")
    if not bucket or not key or key.endswith("/"):
        raise Problem(f"uri {_brief(said)} names no object: write gs://BUCKET/KEY")
    return uri


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _text(raw: Mapping[str, Any], name: str) -> str | None:
    value = raw.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise Problem(f"{name} {_brief(value)} is {_kind(value)}, not text: write it in quotes")
    if len(value) > MAX_CHARACTERS[name]:
        raise Problem(f"{name} has {len(value)} characters, the limit is {MAX_CHARACTERS[name]}: shorten it")
    return _encodable(name, value)


def _encodable(name: str, value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Problem(f"{name} {_brief(value)} has a character that is no Unicode text: correct or rename it") from error
    return value


def _kind(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def _video_id(raw: Mapping[str, Any]) -> str:
    value = _text(raw, "video_id")
    if not value or not value.strip():
        raise Problem("video_id is missing: give each row a unique one")
    if any(unicodedata.category(letter) == "Cc" for letter in value):
        raise Problem(f"video_id {_brief(value)} has control characters: remove them")
    return value


def _hashtags(value: Any, from_text: bool) -> tuple[str, ...]:
    if value is None:
        return ()
    if from_text:
        value = re.split(r"[\s,;]+", value)
    if not isinstance(value, list):
        raise Problem(f'hashtags {_brief(value)} is {_kind(value)}, not a list: write ["one", "two"]')
    if len(value) > MAX_HASHTAGS:
        raise Problem(f"hashtags has {len(value)} entries, the limit is {MAX_HASHTAGS}: keep the most telling")
    tags = []
    for entry in value:
        if not isinstance(entry, str):
            raise Problem(f'hashtags holds {_brief(entry)}, {_kind(entry)}, not text: write ["one", "two"]')
        if len(entry) > MAX_HASHTAG_CHARACTERS:
            raise Problem(f"hashtags holds one of {len(entry)} characters, the limit is {MAX_HASHTAG_CHARACTERS}: shorten it")
        tag = _encodable("hashtags", entry.strip().lstrip("#").strip())
        if tag:
            tags.append(tag)
    return tuple(tags)


def _moment(value: Any) -> datetime | None:
    if value is None:
        return None
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value.strip())
        elif isinstance(value, date) and not isinstance(value, datetime):
            value = datetime(value.year, value.month, value.day)
        if not isinstance(value, datetime):
            raise ValueError
        at = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return datetime(at.year, at.month, at.day, at.hour, at.minute, at.second, at.microsecond, UTC)
    except (ValueError, OverflowError) as error:
        raise Problem(f"published_at {_brief(value)} is no date: write it as 2026-03-02T12:00:00Z") from error


def _language(raw: Mapping[str, Any]) -> str:
    value = (_text(raw, "language") or "").strip()
    if value and not _LANGUAGE.fullmatch(value):
        raise Problem(f"language {_brief(value)} is no language tag: write one such as en or pt-BR, or leave it out")
    return value


Vector = tuple[float, ...]


def _embeddings(value: Any, from_text: bool) -> tuple[Vector | None, tuple[Vector, ...]]:
    """One vector of a video; or one of each of its frames, of which it is the mean."""
    if value is None:
        return None, ()
    if from_text:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise Problem(f"embedding {_brief(value)} is no JSON list: write [0.1, -0.2]") from error
    if isinstance(value, list) and value and isinstance(value[0], list):
        if len(value) > MAX_FRAME_EMBEDDINGS:
            raise Problem(f"embedding has {len(value)} vectors, at most {MAX_FRAME_EMBEDDINGS} are allowed: keep fewer frames")
        vectors = tuple(map(_vector, value))
        if len(set(map(len, vectors))) > 1:
            raise Problem("embedding has vectors of different lengths, one a frame: write them all by the same model")
        return tuple(float(each) for each in np.mean(vectors, axis=0)), vectors
    return _vector(value), ()


def _vector(value: Any) -> Vector:
    if not isinstance(value, list):
        raise Problem(f"embedding {_brief(value)} is {_kind(value)}, not a list: write [0.1, -0.2], or null")
    if not 1 <= len(value) <= MAX_EMBEDDING:
        raise Problem(f"embedding has {len(value)} numbers, 1 to {MAX_EMBEDDING} are allowed: correct it, or write null")
    largest = float(np.finfo(np.float32).max)
    for entry in value:
        if isinstance(entry, bool) or not isinstance(entry, int | float) or not -largest <= entry <= largest:
            raise Problem(f"embedding holds {_brief(entry)}, no finite number: correct it, or write null")
    return tuple(float(entry) for entry in value)


def _extra(raw: Mapping[str, Any]) -> str:
    try:
        extra = {str(name): _plain(str(name), value) for name, value in raw.items() if name not in _FIELDS}
    except RecursionError as error:
        raise Problem("the other columns are nested too deeply: flatten them") from error
    text = _encodable("extra", json.dumps(extra, sort_keys=True, ensure_ascii=False))
    if len(text) > MAX_EXTRA_CHARACTERS:
        raise Problem(f"the other columns take {len(text)} characters, the limit is {MAX_EXTRA_CHARACTERS}: leave some out")
    return text


def _plain(name: str, value: Any) -> Any:
    """A value of an unknown column as JSON can hold it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Problem(f"{name} is {value}, no finite number: correct it, or write null")
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(name, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, item) for item in value]
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise Problem(f"{name} {_brief(value)} is {_kind(value)}, which JSON cannot hold: drop the column or convert it to text")
