"""The TFT graph: a video's inputs as the network sees them. Analysed once over the training rows, frozen into the SavedModel.

Two analysers only, so that analysis is one short pass: one mean over moments (which gives means and variances where some values
do not apply), and one vocabulary over all words.
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

    blocks = [numbers, applies, text, has_text, visual, has_visual]
    widths = [block.shape[1] for block in blocks]
    moments = tft.mean(tf.concat([*blocks, numbers**2, text**2, visual**2], axis=1), reduce_instance_dims=False)
    number_mean, number_share, text_mean, text_share, visual_mean, visual_share, number_square, text_square, visual_square = (
        tf.split(moments, [*widths, widths[0], widths[2], widths[4]])
    )
    mean, variance = _mean_and_variance(number_mean, number_square, number_share)
    standardised = applies * (numbers - mean) * tf.math.rsqrt(tf.maximum(variance, _LEAST_VARIANCE))

    return {
        "text": _centred(text, has_text, text_mean, text_square, text_share),
        "visual": _centred(visual, has_visual, visual_mean, visual_square, visual_share),
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
    unit = tf.math.l2_normalize(embedding, axis=1)
    return unit, tf.cast(tf.reduce_any(embedding != 0.0, axis=1, keepdims=True), tf.float32)


def _mean_and_variance(mean: tf.Tensor, square: tf.Tensor, share: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Of those that apply, from moments over all rows in which the others count as 0."""
    mean = tf.math.divide_no_nan(mean, share)
    return mean, tf.math.divide_no_nan(square, share) - mean**2


def _centred(unit: tf.Tensor, present: tf.Tensor, mean: tf.Tensor, square: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    mean, variance = _mean_and_variance(mean, square, share)
    return present * (unit - mean) * BLOCK_NORM * tf.math.rsqrt(tf.maximum(tf.reduce_sum(variance), _LEAST_VARIANCE))


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
