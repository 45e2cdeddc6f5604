"""Transform and network fused into one SavedModel, so that what serves is what was trained (law 6)."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf

from features import storage
from features.records import digest
from features.student.card import CARD, StudentCard, intact_card, student_folder
from features.student.inputs import FLOAT_INPUTS, WORD_INPUTS
from features.student.labels import Head
from features.student.model import activations
from features.workspace import Workspace


class FusedStudent(tf.Module):  # type: ignore[misc]
    """Owns the TFT layer and the network: what a module does not own is saved without its tables and variables.

    Args:
        transform: TFT's layer (`TFTransformOutput.transform_features_layer()`).
        network: the fitted Keras 3 model.
        heads: in the order of its numbers.
        student_id: kept as a variable, since a constant is not saved.
    """

    def __init__(self, transform: Any, network: keras.Model, heads: tuple[Head, ...], student_id: str) -> None:
        super().__init__(name="student")
        self.transform = transform
        self.network = network
        self.student_id = tf.Variable(student_id, trainable=False)
        self._heads = heads

    @tf.function  # type: ignore[untyped-decorator]
    def serve(self, **inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        """Plain tensors in: floats [N] or [N, D], words [N, K] padded with "". Out: `model.activations`.

        NaN where a row holds a number that is not finite (or an infinite statistic), so it never passes for a score.
        """
        usable = tf.math.is_finite(inputs["duration_s"]) & tf.math.is_finite(inputs["has_audio"])
        for name in ("text_embedding", "visual_embedding"):
            usable &= tf.reduce_all(tf.math.is_finite(inputs[name]), axis=1)
        for name in ("visual_stats", "sound_stats"):
            usable &= ~tf.reduce_any(tf.math.is_inf(inputs[name]), axis=1)
        words = {name: tf.sparse.from_dense(inputs[name]) for name in WORD_INPUTS}
        transformed = self.transform({**inputs, **words})
        said = activations(self.network(transformed, training=False), self._heads)
        return {
            name: tf.where(usable if value.shape.rank == 1 else usable[:, tf.newaxis], value, tf.constant(float("nan")))
            for name, value in said.items()
        }


def signature(card: StudentCard) -> dict[str, tf.TensorSpec]:
    """The inputs of `serving_default`."""
    floats = {name: tf.TensorSpec([None, *card.spec.shapes[name]], tf.float32, name=name) for name in FLOAT_INPUTS}
    return {**floats, **{name: tf.TensorSpec([None, None], tf.string, name=name) for name in WORD_INPUTS}}


def save_student(transform: Any, network: keras.Model, card: StudentCard, folder: str) -> StudentCard:
    """Writes the SavedModel and its card into a local folder that does not exist yet. Returns the card as written."""
    fused = FusedStudent(transform, network, card.heads, card.student_id)
    tf.saved_model.save(fused, folder, signatures={"serving_default": fused.serve.get_concrete_function(**signature(card))})
    files = {os.path.relpath(name, folder): name for name in storage.list_names(folder)}
    card = replace(card, files={relative: digest(storage.read_bytes(name)) for relative, name in sorted(files.items())})
    storage.write_bytes(os.path.join(folder, CARD), card.to_json().encode())
    return card


def publish_student(transform: Any, network: keras.Model, card: StudentCard, workspace: Workspace) -> StudentCard:
    """Saves a student into its workspace, whole or not at all: the folder is renamed into place, on gs:// the card comes last.

    One that is there and intact stays, whoever may be loading it: equal ids mean the same student. What is damaged is replaced.

    Returns the card as it stands in the workspace.
    """
    final = student_folder(workspace, card.student_id)
    if storage.is_gcs(final):
        with tempfile.TemporaryDirectory() as parent:
            local = os.path.join(parent, "student")
            card = save_student(transform, network, card, local)
            if present := intact_card(final):
                return present
            _upload({relative: os.path.join(local, relative) for relative in (*card.files, CARD)}, final)
        return card
    os.makedirs(os.path.dirname(final), exist_ok=True)
    parent = tempfile.mkdtemp(prefix=".partial-", dir=os.path.dirname(final))
    try:
        card = save_student(transform, network, card, os.path.join(parent, "student"))
        if present := intact_card(final):
            return present
        with contextlib.suppress(FileNotFoundError):
            os.rename(final, os.path.join(parent, "damaged"))
        os.rename(os.path.join(parent, "student"), final)
    finally:
        shutil.rmtree(parent, ignore_errors=True)
    return card


def _upload(files: Mapping[str, str], folder: str) -> None:
    for relative, local in files.items():
        storage.write_bytes(storage.join(folder, relative), storage.read_bytes(local))
