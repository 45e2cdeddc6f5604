"""The network: one small trunk shared by all attributes, one head each. Keras 3 (`import keras`, never `tf.keras`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from features.student.inputs import Floats
from features.student.labels import Head, slices

TRUNK_UNITS = 64
WEIGHT_DECAY = 1e-4
INPUT_DROPOUT = 0.2
TRUNK_DROPOUT = 0.3


def build_network(widths: Mapping[str, int], heads: Sequence[Head], priors: Floats, seed: int) -> keras.Model:
    """Transformed inputs in, the U numbers of all heads out, before sigmoid or softmax.

    Args:
        widths: columns of each transformed input, by name.
        heads: in the order of their numbers.
        priors: [U] starting values: what a head says before it has learned anything.
        seed: of weights and dropout.
    """
    seeds = keras.random.SeedGenerator(seed)
    inputs = {name: keras.Input((width,), name=name) for name, width in widths.items()}
    hidden = keras.layers.Concatenate(name="inputs")(list(inputs.values()))
    hidden = keras.layers.Dropout(INPUT_DROPOUT, seed=seed, name="input_dropout")(hidden)
    hidden = keras.layers.Dense(
        TRUNK_UNITS,
        activation="relu",
        kernel_initializer=keras.initializers.HeNormal(seed=seeds),
        kernel_regularizer=keras.regularizers.L2(WEIGHT_DECAY),
        name="trunk",
    )(hidden)
    hidden = keras.layers.Dropout(TRUNK_DROPOUT, seed=seed + 1, name="trunk_dropout")(hidden)
    outputs = [
        keras.layers.Dense(
            head.width,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01, seed=seeds),
            bias_initializer=_constant(priors[place]),
            kernel_regularizer=keras.regularizers.L2(WEIGHT_DECAY),
            name=f"head_{head.attribute}",
        )(hidden)
        for head, place in zip(heads, slices(heads), strict=True)
    ]
    logits = outputs[0] if len(outputs) == 1 else keras.layers.Concatenate(name="logits")(outputs)
    return keras.Model(inputs, logits, name="student")


def _constant(values: Floats) -> Callable[..., Any]:
    def initial(shape: tuple[int, ...], dtype: Any = None) -> Any:
        return ops.cast(ops.reshape(ops.convert_to_tensor(values), shape), dtype or "float32")

    return initial


def prior_logits(heads: Sequence[Head], targets: Floats, mask: Any) -> Floats:
    """[U]: the log-odds (boolean, score) or log-shares (category) of the mean target, smoothed by one imagined video."""
    priors = np.zeros(targets.shape[1], np.float32)
    for number, (head, place) in enumerate(zip(heads, slices(heads), strict=True)):
        rows = targets[mask[:, number], place]
        share = (rows.sum(axis=0) + 1.0 / max(head.width, 2)) / (len(rows) + 1.0)
        priors[place] = np.log(share) if head.value_type == "category" else np.log(share / (1.0 - share))
    return priors


def masked_loss(heads: Sequence[Head]) -> Callable[[Any, Any], Any]:
    """Cross-entropy against soft targets, averaged over the pairs that have one.

    A score is learned as a share of its range, by the same formula as a boolean.

    Returns:
        `loss(y_true, y_pred)` with `y_true` [N, U + H]: targets, then mask; `y_pred` [N, U] before sigmoid or softmax.
    """
    places = slices(heads)
    units = places[-1].stop

    def loss(y_true: Any, y_pred: Any) -> Any:
        mask = y_true[:, units:]
        losses = []
        for head, place in zip(heads, places, strict=True):
            target, logits = y_true[:, place], y_pred[:, place]
            if head.value_type == "category":
                losses.append(ops.categorical_crossentropy(target, logits, from_logits=True))
            else:
                losses.append(ops.binary_crossentropy(target, logits, from_logits=True)[:, 0])
        return ops.sum(ops.stack(losses, axis=1) * mask) / ops.maximum(ops.sum(mask), 1.0)

    return loss


def activations(logits: Any, heads: Sequence[Head]) -> dict[str, Any]:
    """What each head says: boolean [N] probability of true, category [N, labels] probabilities, score [N] in its range."""
    said = {}
    for head, place in zip(heads, slices(heads), strict=True):
        numbers = logits[:, place]
        if head.value_type == "category":
            said[head.attribute] = ops.softmax(numbers, axis=-1)
            continue
        share = ops.sigmoid(numbers)[:, 0]
        if head.score_range is not None and head.value_type == "score":
            share = head.score_range[0] + (head.score_range[1] - head.score_range[0]) * share
        said[head.attribute] = share
    return said
