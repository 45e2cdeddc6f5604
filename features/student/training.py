"""Fitting a student to the Silver Set, and saying how far it agrees with its teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.stats import rankdata

from features.student.inputs import Floats, Mask
from features.student.labels import LEAST_TO_SPLIT, Head, Silver, decide, slices, validation_mask
from features.student.model import activations, build_network, masked_loss, prior_logits

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class TrainingOptions:
    """How long and how fast. The defaults suit anything from a dozen to a hundred thousand videos.

    Attributes:
        seed: of weights, dropout and the order of rows.
        batch_size: rows a step.
        learning_rate: of Adam.
        steps: least steps between two looks at the validation loss; a larger corpus is read once in between.
        rounds: most such looks.
        patience: looks without improvement before it stops.
        blind_rounds: looks when there is nothing to validate on.
    """

    seed: int = 7
    batch_size: int = 64
    learning_rate: float = 2e-3
    steps: int = 20
    rounds: int = 60
    patience: int = 6
    blind_rounds: int = 8


@dataclass(frozen=True)
class Trained:
    """A fitted network.

    Attributes:
        network: transformed inputs -> U numbers.
        metrics: for the run record; JSON values only.
        notes: sentences for a person.
    """

    network: keras.Model
    metrics: dict[str, Any]
    notes: tuple[str, ...]


def train(inputs: Mapping[str, Floats], silver: Silver, options: TrainingOptions) -> Trained:
    """Fits one network to all attributes, masking pairs without a label.

    Args:
        inputs: transformed, [N, width] by name, rows in the order of `silver.video_ids`.
        silver: with at least one head.
        options: deterministic for equal options and inputs, up to the order of additions in parallel.
    """
    keras.utils.set_random_seed(options.seed)
    kept_back = validation_mask(silver.video_ids)
    learned = ~kept_back
    mask = silver.mask & learned[:, np.newaxis]
    network = build_network(
        {name: block.shape[1] for name, block in inputs.items()},
        silver.heads,
        prior_logits(silver.heads, silver.targets, mask),
        options.seed,
    )
    targets = np.concatenate([silver.targets, silver.mask.astype(np.float32)], axis=1)
    rows = int(learned.sum())
    dataset = (
        tf.data.Dataset.from_tensor_slices(({name: block[learned] for name, block in inputs.items()}, targets[learned]))
        .shuffle(min(rows, 20_000), seed=options.seed)
        .repeat()
        .batch(options.batch_size)
        .prefetch(2)
    )
    steps = max(options.steps, -(-rows // options.batch_size))
    optimizer = keras.optimizers.Adam(options.learning_rate)
    optimizer.build(network.trainable_variables)  # or the first step is traced twice
    network.compile(optimizer, loss=masked_loss(silver.heads), steps_per_execution=min(steps, 100), jit_compile=False)
    validate = bool(kept_back.any())
    stop = keras.callbacks.EarlyStopping("val_loss", patience=options.patience, restore_best_weights=True)
    history = network.fit(
        dataset,
        steps_per_epoch=steps,
        epochs=options.rounds if validate else options.blind_rounds,
        validation_data=({name: block[kept_back] for name, block in inputs.items()}, targets[kept_back]) if validate else None,
        validation_batch_size=_ROWS_AT_ONCE,
        shuffle=False,
        callbacks=[stop] if validate else [],
        verbose=0,
    )
    metrics: dict[str, Any] = {
        "videos": len(silver.video_ids),
        "validation_videos": int(kept_back.sum()),
        "too_small_to_split": not validate,
        "rounds": len(history.history["loss"]),
        "attributes": _agreement(network, inputs, silver, kept_back),
    }
    notes: tuple[str, ...] = ()
    if not validate:
        notes = (
            f"The corpus is too small to split: {len(silver.video_ids)} labelled videos, none kept back for validation "
            f"(that takes {LEAST_TO_SPLIT}). How well this student agrees with its teacher on new videos is unknown.",
        )
    return Trained(network, metrics, notes)


def _agreement(network: keras.Model, inputs: Mapping[str, Floats], silver: Silver, kept_back: Mask) -> dict[str, Any]:
    rows = kept_back if kept_back.any() else np.ones(len(kept_back), np.bool_)
    on = "validation" if kept_back.any() else "training"
    chosen = np.flatnonzero(rows)
    logits = np.concatenate(
        [
            np.asarray(network({name: block[part] for name, block in inputs.items()}, training=False))
            for part in np.split(chosen, range(_ROWS_AT_ONCE, len(chosen), _ROWS_AT_ONCE))
        ]
    )
    said = {name: np.asarray(numbers) for name, numbers in activations(logits, silver.heads).items()}
    found = {}
    for number, (head, place) in enumerate(zip(silver.heads, slices(silver.heads), strict=True)):
        labelled = silver.mask[rows, number]
        learned = int(silver.mask[~kept_back, number].sum())
        found[head.attribute] = {
            "on": on,
            "learned_from": learned,
            **agreement(head, said[head.attribute][labelled], silver.targets[rows, place][labelled]),
        }
    return found


def agreement(head: Head, said: Floats, targets: Floats) -> dict[str, float | int | None]:
    """How far a student agrees with its teacher on n videos; None where a figure is not defined.

    Args:
        head: which attribute.
        said: the student: [n] or [n, labels], as `model.activations` gives it.
        targets: the teacher: [n, width], 0 to 1.

    Returns:
        `n`; boolean and category: `agreement` (share of equal answers) and `commonest` (what always giving the commonest answer
        would reach); boolean: `auc` (probability that a video the teacher calls true is given more than one it calls false);
        score: `mae` in the score's own unit and `spread` (the MAE of always giving the median).
    """
    count = len(targets)
    if head.value_type == "score":
        assert head.score_range is not None
        low, high = head.score_range
        truth = low + (high - low) * targets[:, 0]
        return {
            "n": count,
            "mae": float(np.abs(said - truth).mean()) if count else None,
            "spread": float(np.abs(np.median(truth) - truth).mean()) if count else None,
        }
    truth = decide(head, targets)
    answers = decide(head, said if said.ndim == 2 else said[:, np.newaxis])
    figures: dict[str, float | int | None] = {
        "n": count,
        "agreement": float((answers == truth).mean()) if count else None,
        "commonest": float(np.unique(truth, return_counts=True)[1].max() / count) if count else None,
    }
    if head.value_type == "boolean":
        figures["auc"] = auc(said, truth > 0.5)
    return figures


def auc(scores: Floats, positive: Mask) -> float | None:
    """Area under the ROC curve from ranks (Mann and Whitney 1947), ties counted half; None without both kinds."""
    ones = int(positive.sum())
    zeros = len(positive) - ones
    if not ones or not zeros:
        return None
    return float((rankdata(scores)[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))
