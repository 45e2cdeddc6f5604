"""The TFT graph: a video's inputs as the network sees them. Analysed once over the training rows, frozen into the SavedModel.

Two analysers only, so that analysis is one short pass: one sum (of values, of whether they apply, of squares: enough for every mean
and variance), and one vocabulary over all words.
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
import tensorflow_transform as tft

from features.student.inputs import FLOAT_INPUTS, WORD_INPUTS, InputSpec

VOCABULARY_SIZE = 255
"""Words that get a place of their own, commonest first; all others share one more."""
BLOCK_NORM = 4.0
"""Typical length of each embedding block after scaling: that of sixteen standardised numbers, so no block drowns another."""
SCALES: Mapping[str, tuple[float, ...]] = {
    "visual_stats": (1.0, 0.5, 1.0, 1.0, 1.5, 4.0, 1.0, 1.0),
    "sound_stats": (90.0, 90.0, 90.0, 1.0, 8000.0, 1.0, 10.0),
}
"""Order of magnitude of each statistic (from the ranges in `records`), so that moments stay exact in 32-bit floats."""
_LEAST_VARIANCE = 1e-6


def raw_feature_spec(spec: InputSpec) -> dict[str, tf.io.FixedLenFeature | tf.io.VarLenFeature]:
    """What the graph reads, in the order of `Prepared.batch`."""
    fixed = {name: tf.io.FixedLenFeature(list(spec.shapes[name]), tf.float32) for name in FLOAT_INPUTS}
    return {**fixed, **{name: tf.io.VarLenFeature(tf.string) for name in WORD_INPUTS}}


def preprocessing_fn(inputs: Mapping[str, tf.Tensor | tf.SparseTensor]) -> dict[str, tf.Tensor]:
    """One batch of N rows, as TFT wants it.

    Args:
        inputs: as `raw_feature_spec` says: floats [N] or [N, D], words as SparseTensor [N, any].

    Returns:
        `text` [N, D], `visual` [N, D]: centred, typical length BLOCK_NORM, zeros where missing;
        `numbers` [N, 35]: standardised duration and statistics (0 where one does not apply), then for each whether it applies,
        then whether there is sound, text, a picture; `words` [N, VOCABULARY_SIZE + 1]: 1 where the word occurs, the last one
        for unknown words.
    """
    raw = tf.concat(
        [
            tf.math.log1p(tf.maximum(inputs["duration_s"], 0.0))[:, tf.newaxis] / 5.0,
            inputs["visual_stats"] / tf.constant(SCALES["visual_stats"]),
            inputs["sound_stats"] / tf.constant(SCALES["sound_stats"]),
        ],
        axis=1,
    )
    applies = tf.cast(tf.math.is_finite(raw), tf.float32)
    numbers = tf.where(applies > 0, raw, tf.zeros_like(raw))
    text, has_text = _unit(inputs["text_embedding"])
    visual, has_visual = _unit(inputs["visual_embedding"])

    blocks = [numbers, applies, numbers**2, text, has_text, visual, has_visual]
    totals = tft.sum(tf.concat(blocks, axis=1), reduce_instance_dims=False)
    number_sum, applied, square_sum, text_sum, texts, visual_sum, visuals = tf.split(totals, [block.shape[1] for block in blocks])
    mean = tf.math.divide_no_nan(number_sum, applied)
    variance = tf.math.divide_no_nan(square_sum, applied) - mean**2
    standardised = applies * (numbers - mean) * tf.math.rsqrt(tf.maximum(variance, _LEAST_VARIANCE))

    return {
        "text": _centred(text, has_text, tf.math.divide_no_nan(text_sum, texts)),
        "visual": _centred(visual, has_visual, tf.math.divide_no_nan(visual_sum, visuals)),
        "numbers": tf.concat(
            [
                tf.clip_by_value(standardised, -5.0, 5.0),
                applies,
                inputs["has_audio"][:, tf.newaxis],
                has_text,
                has_visual,
            ],
            axis=1,
        ),
        "words": _bag(inputs),
    }


def _unit(embedding: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Unit length, and whether there is one [N, 1]."""
    squares = tf.reduce_sum(tf.square(embedding), axis=1, keepdims=True)
    return embedding * tf.math.rsqrt(tf.maximum(squares, 1e-12)), tf.cast(squares > 0.0, tf.float32)


def _centred(unit: tf.Tensor, present: tf.Tensor, mean: tf.Tensor) -> tf.Tensor:
    """Around their mean; the squared distances of unit vectors from it average 1 - |mean|^2."""
    variance = tf.maximum(1.0 - tf.reduce_sum(mean**2), _LEAST_VARIANCE)
    return present * (unit - mean) * (BLOCK_NORM * tf.math.rsqrt(variance))


def _bag(inputs: Mapping[str, tf.SparseTensor]) -> tf.Tensor:
    """Which words occur. A language, a hashtag and a thing seen are told apart by a prefix."""
    marked = []
    for name in WORD_INPUTS:
        words = inputs[name]
        values = tf.strings.join([name + ":", tf.strings.lower(words.values, encoding="utf-8")])
        marked.append(tf.SparseTensor(words.indices, values, words.dense_shape))
    ids = tft.compute_and_apply_vocabulary(tf.sparse.concat(1, marked), top_k=VOCABULARY_SIZE, vocab_filename="words")
    known = tf.where(ids.values < 0, tf.constant(VOCABULARY_SIZE, tf.int64), ids.values)
    rows = tf.shape(inputs[WORD_INPUTS[0]], out_type=tf.int64)[0]
    counts = tf.scatter_nd(
        tf.stack([ids.indices[:, 0], known], axis=1), tf.ones_like(known, tf.float32), tf.stack([rows, VOCABULARY_SIZE + 1])
    )
    return tf.ensure_shape(tf.minimum(counts, 1.0), [None, VOCABULARY_SIZE + 1])
