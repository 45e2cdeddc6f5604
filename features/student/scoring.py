"""A student at work: light columns of the features table in, what each head says out.

Of all that training needs, only TensorFlow is needed here.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import tensorflow as tf

from features import storage
from features.errors import InvalidInput
from features.records import digest
from features.student.card import StudentCard, read_card
from features.student.inputs import FLOAT_INPUTS, WORD_INPUTS, Problem, prepare

Answers = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Scores:
    """What a student says about a batch of N rows.

    Attributes:
        values: by attribute: boolean [N], the probability of true; category [N, labels]; score [N], in its range. NaN in
            rows that have a problem.
        problems: rows that were not scored, in order of row.
    """

    values: Answers
    problems: tuple[Problem, ...]


class Student:
    """A loaded student. Safe to share between threads.

    Attributes:
        card: its metadata.
    """

    def __init__(self, card: StudentCard, model: Any) -> None:
        self.card = card
        self._model = model  # owns the tables that the signature reads
        self._serve = model.signatures["serving_default"]

    @classmethod
    def load(cls, folder: str) -> Student:
        """Loads a student from its folder, local or gs://.

        Raises:
            InvalidInput: no student there, a file that is missing or differs from the card, or a card of another model.
        """
        card = read_card(folder)
        if storage.is_gcs(folder):
            with tempfile.TemporaryDirectory() as local:
                for relative in card.files:
                    os.makedirs(os.path.dirname(os.path.join(local, relative)), exist_ok=True)
                    storage.download(storage.join(folder, relative), os.path.join(local, relative))
                return cls(card, _load_checked(local, card, folder))
        return cls(card, _load_checked(folder, card, folder))

    def score(self, batch: pa.RecordBatch) -> Answers:
        """What each head says about each row, as `Scores.values`: NaN marks a row that cannot be scored."""
        return self.score_rows(batch).values

    def score_rows(self, batch: pa.RecordBatch) -> Scores:
        """The same with the reason for each row that was not scored.

        Args:
            batch: at least the columns of `inputs.LIGHT_COLUMNS` that `inputs.prepare` reads; any number of rows.
        """
        prepared = prepare(batch, self.card.spec)
        said = self.score_prepared(prepared.batch)
        problems = {problem.row: problem for problem in prepared.problems}
        for values in said.values():
            odd = ~np.isfinite(values if values.ndim == 1 else values.sum(axis=1))
            for row in prepared.rows[odd].tolist():
                message = f"student {self.card.student_id} gives no finite number: distill it again"
                problems.setdefault(row, Problem(row, "not_a_number", message))
        if not problems:
            return Scores(said, ())
        full: Answers = {}
        for name, values in said.items():
            full[name] = np.full((batch.num_rows, *values.shape[1:]), np.nan, np.float32)
            full[name][prepared.rows] = values
            full[name][list(problems)] = np.nan
        return Scores(full, tuple(problems[row] for row in sorted(problems)))

    def score_prepared(self, batch: pa.RecordBatch) -> Answers:
        """The SavedModel on prepared rows (`inputs.Prepared.batch`)."""
        return {name: value.numpy() for name, value in self._serve(**tensors(batch, self.card.spec.shapes)).items()}


def tensors(batch: pa.RecordBatch, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tf.Tensor]:
    """Prepared rows as the signature's plain tensors: floats without a copy, words padded with ""."""
    found = {
        name: tf.constant(batch.column(name).flatten().to_numpy().reshape(batch.num_rows, *shapes[name])) for name in FLOAT_INPUTS
    }
    return {**found, **{name: _padded(batch.column(name)) for name in WORD_INPUTS}}


def _padded(column: pa.ListArray) -> tf.Tensor:
    """[N, K] strings: each distinct word crosses into TensorFlow once."""
    encoded = column.flatten().dictionary_encode()
    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    places = np.zeros((len(column), int(lengths.max(initial=0))), np.int32)
    places[np.arange(places.shape[1]) < lengths[:, np.newaxis]] = encoded.indices.to_numpy() + 1
    return tf.gather(tf.constant([b"", *encoded.dictionary.to_pylist()], tf.string), places)


def _load_checked(local: str, card: StudentCard, folder: str) -> Any:
    for relative, expected in card.files.items():
        name = storage.join(local, relative)
        if not storage.exists(name) or digest(storage.read_bytes(name)) != expected:
            raise InvalidInput(f"{folder}: {relative} is missing or differs from its card; run `vidattr distill` again")
    model = tf.saved_model.load(local)
    inside = model.student_id.numpy().decode()
    if inside != card.student_id:
        raise InvalidInput(f"{folder}: the card says student {card.student_id}, the model {inside}; run `vidattr distill` again")
    return model
