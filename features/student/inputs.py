"""What a student sees of a video: the light columns of `VideoFeatures`, prepared the same way for training and for serving.

`prepare` turns an Arrow RecordBatch of features into the columns that the TFT graph reads. Training hands them to Beam,
scoring hands them to the SavedModel; nothing else happens to a row in between (law 6). No TensorFlow in here.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from features.records import SOUND_STATS, VISUAL_STATS, VideoFeatures

LIGHT_COLUMNS: tuple[str, ...] = (
    "video_id",
    "content_key",
    "extractor_version",
    "duration_s",
    "has_audio",
    "language",
    "hashtags",
    "visual_stats",
    "sound_stats",
    "text_embedding",
    "visual_embedding",
    "visual_tags",
)
"""The columns of the features table that training and scoring read: no pictures, no free text."""

LIGHT_SCHEMA: pa.Schema = pa.schema([VideoFeatures.SCHEMA.field(name) for name in LIGHT_COLUMNS])

MOST_WORDS = 32
"""Hashtags, and things seen, that count in one video: the first ones. Both are untrusted, so they are bounded."""
LONGEST_WORD = 64
"""Characters of a hashtag that count."""

FLOAT_INPUTS: tuple[str, ...] = ("duration_s", "has_audio", "visual_stats", "sound_stats", "text_embedding", "visual_embedding")
WORD_INPUTS: tuple[str, ...] = ("language", "hashtags", "visual_tags")

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class InputSpec:
    """Dimensions that were found in the training data and hold from then on.

    Attributes:
        text_dim: length of `text_embedding`; 0 when no training row had one.
        visual_dim: length of `visual_embedding`; 0 when no training row had one.
    """

    text_dim: int
    visual_dim: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one row of each float input; an embedding that never occurs is one zero."""
        return {
            "duration_s": (),
            "has_audio": (),
            "visual_stats": (len(VISUAL_STATS),),
            "sound_stats": (len(SOUND_STATS),),
            "text_embedding": (max(1, self.text_dim),),
            "visual_embedding": (max(1, self.visual_dim),),
        }

    def as_dict(self) -> dict[str, int]:
        """For `student.json`."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> InputSpec:
        """The inverse of `as_dict`."""
        return cls(text_dim=int(document["text_dim"]), visual_dim=int(document["visual_dim"]))


@dataclass(frozen=True)
class Problem:
    """Why one row cannot be used.

    Attributes:
        row: its position in the batch.
        kind: `embedding_dimension`, `stats_dimension` or `not_a_number`: the dead letter's kind.
        message: for a person.
    """

    row: int
    kind: str
    message: str


@dataclass(frozen=True)
class Prepared:
    """A batch as the TFT graph reads it.

    Attributes:
        batch: one list column for each of FLOAT_INPUTS (list<float>, full length in every row) and WORD_INPUTS (list<binary>).
        rows: for each row of `batch`, its position in the batch it came from; rows with a problem are not among them.
        problems: what was left out, and why; in order of row.
    """

    batch: pa.RecordBatch
    rows: Integers
    problems: tuple[Problem, ...]


def infer_spec(batches: Iterable[pa.RecordBatch]) -> InputSpec:
    """The embeddings' dimensions: the commonest length above 0, the longer one among equals."""
    lengths: dict[str, Counter[int]] = {"text_embedding": Counter(), "visual_embedding": Counter()}
    for batch in batches:
        for name, counter in lengths.items():
            values, counts = np.unique(_lengths(batch.column(name)), return_counts=True)
            counter.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
    dims = {
        name: max(((count, length) for length, count in counter.items() if length), default=(0, 0))[1]
        for name, counter in lengths.items()
    }
    return InputSpec(text_dim=dims["text_embedding"], visual_dim=dims["visual_embedding"])


def prepare(batch: pa.RecordBatch, spec: InputSpec) -> Prepared:
    """Light columns in, the student's inputs out; rows it cannot take are named instead.

    An empty embedding becomes zeros, empty statistics NaN (the graph turns NaN into "does not apply"). A row is left out when
    an embedding or a list of statistics has another length than in training, when an embedding or the duration is not a finite
    number, or a statistic is infinite.

    Args:
        batch: at least LIGHT_COLUMNS without the ids, as in `VideoFeatures.SCHEMA`.
        spec: of the student.
    """
    problems = _problems(batch, spec)
    rows = np.arange(batch.num_rows, dtype=np.int64)
    if problems:
        rows = np.setdiff1d(rows, np.fromiter(problems, np.int64))
        batch = batch.take(pa.array(rows))
    count = batch.num_rows
    shapes = spec.shapes
    columns: dict[str, pa.Array] = {
        "duration_s": _float_lists(_numbers(batch.column("duration_s")).reshape(count, 1)),
        "has_audio": _float_lists(_numbers(batch.column("has_audio")).reshape(count, 1)),
    }
    for name, missing in (
        ("visual_stats", np.nan),
        ("sound_stats", np.nan),
        ("text_embedding", 0.0),
        ("visual_embedding", 0.0),
    ):
        columns[name] = _float_lists(_matrix(batch.column(name), shapes[name][0], missing))
    languages = batch.column("language")
    columns["language"] = _words(pa.ListArray.from_arrays(pa.array(np.arange(count + 1), pa.int32()), languages.fill_null("")), 1)
    columns["hashtags"] = _words(batch.column("hashtags"), MOST_WORDS)
    columns["visual_tags"] = _words(_names(batch.column("visual_tags")), MOST_WORDS)
    ordered = {name: columns[name] for name in (*FLOAT_INPUTS, *WORD_INPUTS)}
    return Prepared(pa.RecordBatch.from_pydict(ordered), rows, tuple(problems[row] for row in sorted(problems)))


def _problems(batch: pa.RecordBatch, spec: InputSpec) -> dict[int, Problem]:
    found: dict[int, Problem] = {}

    def note(mask: Mask, kind: str, message: str, lengths: Integers | None = None) -> None:
        for row in np.flatnonzero(mask).tolist():
            said = message if lengths is None else message.format(length=int(lengths[row]))
            found.setdefault(row, Problem(row, kind, said))

    expected = {
        "text_embedding": ("embedding_dimension", spec.text_dim),
        "visual_embedding": ("embedding_dimension", spec.visual_dim),
        "visual_stats": ("stats_dimension", len(VISUAL_STATS)),
        "sound_stats": ("stats_dimension", len(SOUND_STATS)),
    }
    for name, (kind, dim) in expected.items():
        column = batch.column(name)
        lengths = _lengths(column)
        note(
            (lengths != 0) & (lengths != dim),
            kind,
            f"{name} has {{length}} numbers where the student learned from {dim}: extract it again, or distill a new student",
            lengths,
        )
        values = _numbers(column.flatten())
        bad = np.isinf(values) if name.endswith("stats") else ~np.isfinite(values)
        if bad.any():
            mask = np.zeros(batch.num_rows, np.bool_)
            mask[np.repeat(np.arange(batch.num_rows), lengths)[bad]] = True
            note(mask, "not_a_number", f"{name} holds a number that is not finite: extract this video again")
    note(
        ~np.isfinite(_numbers(batch.column("duration_s"))),
        "not_a_number",
        "duration_s is not a finite number: extract this video again",
    )
    return found


def _lengths(column: pa.Array) -> Integers:
    return np.asarray(pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False), np.int64)


def _numbers(column: pa.Array) -> Floats:
    return np.asarray(column.cast(pa.float32()).to_numpy(zero_copy_only=False), np.float32)


def _matrix(column: pa.Array, width: int, missing: float) -> Floats:
    lengths = _lengths(column)
    values = _numbers(column.flatten())
    if len(values) == len(lengths) * width:
        return values.reshape(-1, width)
    matrix = np.full((len(lengths), width), missing, np.float32)
    matrix[lengths == width] = values.reshape(-1, width)
    return matrix


def _float_lists(matrix: Floats) -> pa.ListArray:
    offsets = np.arange(len(matrix) + 1, dtype=np.int32) * matrix.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(matrix).reshape(-1)))


def _names(tags: pa.ListArray) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(_lengths(tags))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), tags.flatten().field("name"))


def _words(column: pa.ListArray, most: int) -> pa.ListArray:
    """The first `most` words of each row that are not empty, bounded, as UTF-8 bytes."""
    lengths = _lengths(column)
    words = pc.utf8_slice_codeunits(pc.utf8_trim_whitespace(column.flatten()), 0, LONGEST_WORD)
    rows = np.repeat(np.arange(len(lengths)), lengths)
    position = np.arange(len(words)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    keep = np.asarray(pc.greater(pc.binary_length(words), 0).fill_null(False).to_numpy(zero_copy_only=False), np.bool_)
    keep &= position < most
    kept = np.bincount(rows[keep], minlength=len(lengths))
    offsets = np.concatenate([[0], np.cumsum(kept)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), words.filter(pa.array(keep)).cast(pa.binary()))
