"""Manifests: JSONL, CSV, Parquet, or simply a folder or glob of media files, become `records.Video`.

Nothing that a manifest names is opened or fetched here. A bad row is a problem of that row; only a manifest that cannot be
read as a whole is an error.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import fnmatch
import glob
import io
import json
import os
import posixpath
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from features import storage
from features.errors import InvalidInput
from features.records import Video
from features.videos.manifest_row import Problem, RowParser, readable_id, resolve_roots

MEDIA = frozenset(["mp4", "m4v", "mov", "webm", "mkv", "ts", "avi", "3gp", "mpg", "mpeg", "ogv", "flv", "wmv", "gif", "webp"])
MANIFESTS = {"jsonl": "jsonl", "ndjson": "jsonl", "csv": "csv", "parquet": "parquet"}
FORMS = "a .jsonl, .csv or .parquet file, or a folder or glob of media files"

MAX_LINE_BYTES = 8 << 20
_SHOWN = 5
_CSV_HEADER = "the first line names the columns, separated by commas"


@dataclass(frozen=True)
class ManifestRow:
    """One row, good or bad.

    Attributes:
        number: of the line in JSONL, of the spreadsheet's row in CSV (the header is row 1), else counted from 1.
        video: None when the row is bad.
        problem: what is wrong with it and what to do, empty when the row is good.
        video_id: the row's id where it can be read, else `row N`.
    """

    number: int
    video: Video | None
    problem: str
    video_id: str


@dataclass(frozen=True)
class ManifestReport:
    """A whole manifest, read.

    Attributes:
        rows: number of rows, blank ones left out.
        videos: the good ones, in order.
        bad: the others, in order; each becomes a dead letter.
        duplicates: a sentence for each id that occurs more than once; a manifest with any is refused.
        notes: what a person may want to know: skipped files, media that is not there, mixed embedding lengths.
    """

    rows: int
    videos: tuple[Video, ...]
    bad: tuple[ManifestRow, ...]
    duplicates: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """A sentence for each bad row."""
        return tuple(row.problem for row in self.bad)


def read_manifest(location: str, roots: Sequence[str] = ()) -> Iterator[ManifestRow]:
    """The rows of a manifest, one by one.

    Args:
        location: local or gs://. A name that exists is taken literally, whatever characters it has; else `*`, `?`, `[...]` and
            `**` are patterns.
        roots: further folders, local or gs://, that media may lie in. The manifest's own folder always is one.

    Raises:
        InvalidInput: there is no such manifest, or it cannot be read as a whole.
    """
    return _open(location, roots).rows()


def check_manifest(location: str, roots: Sequence[str] = ()) -> ManifestReport:
    """Reads a whole manifest and says all that is wrong with it. Raises InvalidInput like `read_manifest`."""
    source = _open(location, roots)
    videos: list[Video] = []
    bad: list[ManifestRow] = []
    numbers: dict[str, list[int]] = {}
    lengths: Counter[int] = Counter()
    absent: list[str] = []
    for row in source.rows():
        numbers.setdefault(row.video_id, []).append(row.number)
        if row.video is None:
            bad.append(row)
            continue
        videos.append(row.video)
        if row.video.embedding is not None:
            lengths[len(row.video.embedding)] += 1
        if not storage.is_gcs(row.video.uri) and not os.path.lexists(row.video.uri):
            absent.append(row.video.video_id)
    duplicates = tuple(
        f"{video_id!r} in rows {', '.join(map(str, found[:_SHOWN]))}{' and more' if len(found) > _SHOWN else ''}"
        for video_id, found in numbers.items()
        if len(found) > 1
    )
    notes = list(source.notes)
    if not numbers:
        notes.append(f"{location}: no rows")
    if absent:
        notes.append(f"{len(absent)} of {len(videos)} videos point at no file: {', '.join(absent[:_SHOWN])}")
    if len(lengths) > 1:
        mixture = ", ".join(f"{count} of {size}" for size, count in lengths.most_common())
        notes.append(f"embeddings of different lengths: {mixture}")
    return ManifestReport(sum(map(len, numbers.values())), tuple(videos), tuple(bad), duplicates, tuple(notes))


def load_manifest(location: str, roots: Sequence[str] = ()) -> ManifestReport:
    """The same for a run: raises InvalidInput, before anything is done, when an id occurs twice."""
    report = check_manifest(location, roots)
    if report.duplicates:
        more = len(report.duplicates) - _SHOWN
        raise InvalidInput(
            f"{location}: video_id must be unique, but {'; '.join(report.duplicates[:_SHOWN])}"
            f"{f'; and {more} more' if more > 0 else ''}: rename or remove the repeated rows"
        )
    return report


@dataclass(frozen=True)
class _Source:
    """Where rows come from: a manifest file, or the media files themselves."""

    location: str
    parser: RowParser
    form: str
    media: tuple[tuple[str, str], ...] = ()  # (video_id, address)
    notes: tuple[str, ...] = ()

    def rows(self) -> Iterator[ManifestRow]:
        if self.form == "media":
            raws: Iterator[tuple[int, Any]] = enumerate(({"video_id": name, "uri": uri} for name, uri in self.media), 1)
        else:
            raws = {"jsonl": _jsonl, "csv": _csv, "parquet": _parquet}[self.form](self.location)
        for number, raw in raws:
            try:
                if isinstance(raw, Problem):
                    raise raw
                if not isinstance(raw, Mapping):
                    raise Problem(f"{type(raw).__name__} instead of an object: write {{'video_id': ..., 'uri': ...}}")
                video = self.parser.video(raw, from_text=self.form == "csv", listed=self.form == "media")
            except Problem as problem:
                known = readable_id(raw) if isinstance(raw, Mapping) else None
                yield ManifestRow(number, None, f"{self.location}, row {number}: {problem}", known or f"row {number}")
            else:
                yield ManifestRow(number, video, "", video.video_id)


def _open(location: str, roots: Sequence[str]) -> _Source:
    if not location or "\0" in location:
        raise InvalidInput(f"manifest {location!r}: name {FORMS}")
    cloud = storage.is_gcs(location)
    if not cloud and "://" in location:
        raise InvalidInput(f"manifest {location}: only local files and gs:// are read; copy it there, and name {FORMS}")
    path = location.rstrip("/") if cloud else os.path.abspath(os.path.expanduser(location))
    if (not cloud or "/" in path[5:]) and storage.exists(path):
        form = MANIFESTS.get(_extension(path))
        folder = posixpath.dirname(path)
        if form is not None:
            return _Source(path, RowParser(folder, resolve_roots(folder, roots)), form)
        if _extension(path) in MEDIA:
            return _of_media(location, folder, [path], roots)
        raise InvalidInput(f"manifest {location}: its name ends in none of {', '.join(MANIFESTS)}: name {FORMS}")
    if cloud or os.path.isdir(path):
        inside = [name for name in storage.list_names(path) if not name.endswith("/")]
        if inside or not glob.has_magic(path):
            return _of_media(location, path, [name for name in inside if not _hidden(name[len(path) :])], roots)
    elif os.path.lexists(path):
        raise InvalidInput(f"manifest {location}: neither a file nor a folder: name {FORMS}")
    elif not glob.has_magic(path):
        raise InvalidInput(f"manifest {location}: there is no such file or folder: name {FORMS}")
    folder, pattern = _split_pattern(path)
    if cloud:
        names = [name for name in storage.list_names(folder) if _matches(name[len(folder) + 1 :].split("/"), pattern)]
    else:
        found = glob.glob("/".join([glob.escape(folder), *pattern]), recursive=True)
        names = sorted(name for name in found if os.path.isfile(name))
    return _of_media(location, folder, names, roots)


def _split_pattern(path: str) -> tuple[str, list[str]]:
    """The folder before the first wildcard, and the segments of the pattern from there on.

    A segment with pattern characters that exists as it stands is no pattern: `takes[1]/*.mp4` means the folder of that name.
    """
    segments = path.split("/")
    fixed = 0
    while fixed < len(segments) - 1:
        name = "/".join(segments[: fixed + 1])
        if glob.has_magic(segments[fixed]) and not _stands(name):
            break
        fixed += 1
    return "/".join(segments[:fixed]) or "/", segments[fixed:]


def _stands(name: str) -> bool:
    """Whether there is a folder of this name."""
    return next(storage.list_names(name), None) is not None if storage.is_gcs(name) else os.path.isdir(name)


def _matches(name: Sequence[str], pattern: Sequence[str]) -> bool:
    """Glob over path segments: `**` stands for any number of them, and only a pattern's own dot matches a hidden name's."""
    if not pattern:
        return not name
    if pattern[0] == "**":
        return _matches(name, pattern[1:]) or (bool(name) and not name[0].startswith(".") and _matches(name[1:], pattern))
    if not name or (name[0].startswith(".") and not pattern[0].startswith(".")):
        return False
    return fnmatch.fnmatchcase(name[0], pattern[0]) and _matches(name[1:], pattern[1:])


def _hidden(below: str) -> bool:
    return any(part.startswith(".") for part in below.split("/"))


def _of_media(location: str, folder: str, names: Sequence[str], roots: Sequence[str]) -> _Source:
    """The media files among `names`, each with its id: its path below the folder, the extension only to tell two apart."""
    below = {name: name[len(folder) :].strip("/") for name in names}
    manifests = [inside for inside in below.values() if inside.lower() in {f"manifest.{kind}" for kind in MANIFESTS}]
    media = {name: inside for name, inside in below.items() if _extension(name) in MEDIA}
    if not media:
        remedy = f"name {manifests[0]} in it" if manifests else f"name {FORMS}"
        raise InvalidInput(f"manifest {location}: no media ({', '.join(sorted(MEDIA))}) among {len(names)} files: {remedy}")
    notes = []
    if manifests:
        notes.append(f"{location} also holds {', '.join(manifests)}, which was not read: name it to use its ids and titles")
    others = len(names) - len(media) - len(manifests)
    if others:
        notes.append(f"{others} other files in {location} were skipped")
    stems = Counter(posixpath.splitext(inside)[0] for inside in media.values())
    full = set(media.values())
    listed = []
    for name, inside in media.items():
        stem = posixpath.splitext(inside)[0]
        listed.append((stem if stems[stem] == 1 and stem not in full else inside, name))
    return _Source(location, RowParser(folder, resolve_roots(folder, roots)), "media", tuple(listed), tuple(notes))


def _extension(name: str) -> str:
    return posixpath.splitext(name)[1].lower().lstrip(".")


def _binary(location: str) -> BinaryIO:
    try:
        return io.BytesIO(storage.read_bytes(location)) if storage.is_gcs(location) else open(location, "rb")
    except OSError as error:
        raise InvalidInput(f"manifest {location}: cannot be read ({error.strerror or error}); check its permissions") from error


def _lines(location: str) -> Iterator[tuple[int, str | None]]:
    """Numbered lines without their ends; None for one that is too long."""
    with _binary(location) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_LINE_BYTES)
                yield number, None
                continue
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                _not_utf8(location, number, error)
            yield number, text


def _not_utf8(location: str, number: int, error: UnicodeDecodeError) -> NoReturn:
    raise InvalidInput(
        f"manifest {location}, line {number}: not UTF-8 (byte 0x{error.object[error.start]:02x}): save it as UTF-8"
    ) from error


def _jsonl(location: str) -> Iterator[tuple[int, Any]]:
    for number, line in _lines(location):
        if line is None:
            yield number, Problem(f"longer than {MAX_LINE_BYTES} bytes: shorten it")
        elif line.strip():
            try:
                raw = json.loads(line, object_pairs_hook=_without_repeats)
            except (ValueError, RecursionError) as error:
                raw = Problem(f"not a JSON object ({' '.join(str(error).split())[:120]}): write one object a line")
            yield number, raw


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        repeated = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{repeated!r} is there twice")
    return found


def _csv(location: str) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE_BYTES))

    def lines() -> Iterator[str]:
        for number, line in _lines(location):
            if line is None:
                raise InvalidInput(f"manifest {location}, line {number}: longer than {MAX_LINE_BYTES} bytes: is it a CSV file?")
            yield line

    reader = csv.reader(lines(), strict=True)
    header: list[str] | None = None
    number = 0
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise InvalidInput(
                f"manifest {location}, line {reader.line_num}: not CSV ({error}): write a quote within text twice"
            ) from error
        if cells is None:
            break
        number += 1
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            _check_columns(location, header, _CSV_HEADER)
        elif len(cells) != len(header):
            yield number, Problem(f"{len(cells)} cells where the header has {len(header)}: quote text with commas in it")
        else:
            yield number, dict(zip(header, cells, strict=True))
    if header is None:
        _check_columns(location, [], _CSV_HEADER)


def _check_columns(location: str, columns: Sequence[str], remedy: str) -> None:
    repeated = [name for name, count in Counter(columns).items() if count > 1]
    if repeated:
        raise InvalidInput(f"manifest {location}: column {repeated[0]!r} is there twice: remove or rename one")
    for needed in ("video_id", "uri"):
        if needed not in columns:
            near = difflib.get_close_matches(needed, [name for name in columns if name.isprintable() and ";" not in name], 1)
            raise InvalidInput(
                f"manifest {location}: no column {needed!r} among {', '.join(map(repr, columns[:12])) or 'none'}: "
                + (f"rename {near[0]!r} to {needed!r}" if near else remedy)
            )


def _parquet(location: str) -> Iterator[tuple[int, Any]]:
    try:
        with _binary(location) as binary, pq.ParquetFile(binary) as file:
            _check_columns(location, file.schema_arrow.names, "add it, as text")
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for raw in batch.to_pylist():
                    number += 1
                    yield number, raw
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InvalidInput(
            f"manifest {location}: not a readable Parquet file ({' '.join(str(error).split())[:160]}): write it again"
        ) from error
