"""TFT's analysis and transform of training rows: Arrow RecordBatches in and out against the instance-dict path.

Both sides run the same `preprocessing_fn` on the same rows, on the same runner, in one pipeline each that analyses, transforms and
hands over every transformed row. Starting a pipeline costs both the same few seconds, which count. Ours reads its file once for the
analysis and once for the transform (TFT's deep copies); the other way gains nothing from that, since it would convert twice. The
outputs are compared row by row. The two are measured in turn, and the figure is the ratio of the medians.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from features.records import SOUND_STATS, VISUAL_STATS
from features.student.inputs import LIGHT_SCHEMA, InputSpec, prepare

ROWS = 60_000
ROUNDS = 2
GOAL = 10.0
SEED = 7
PLACE = 2 * (1 + len(VISUAL_STATS) + len(SOUND_STATS))
"""Column of `numbers` that `has_audio` becomes."""
SPEC = InputSpec(text_dim=384, visual_dim=1280)

_collected: list[Any] = []


def random_rows(rows: int, seed: int = SEED) -> pa.RecordBatch:
    """The light columns of many videos, of the dimensions that extraction gives, prepared.

    `has_audio`, which the graph hands on unchanged, holds the row's position, so that the two outputs can be put in one order.
    """
    rng = np.random.default_rng(seed)

    def lists(values: np.ndarray) -> pa.Array:
        offsets = np.arange(rows + 1, dtype=np.int32) * values.shape[1]
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.astype(np.float32).reshape(-1)))

    words = np.array([f"tag{number}" for number in range(400)], object)
    counts = rng.integers(0, 5, rows)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    chosen = words[rng.zipf(1.5, int(counts.sum())) % len(words)]
    sound = rng.random((rows, len(SOUND_STATS)))
    sound[rng.random(rows) < 0.3] = np.nan
    kind = LIGHT_SCHEMA.field("visual_tags").type.value_type
    tags = pa.StructArray.from_arrays(
        [pa.array(chosen, pa.string()), pa.array(rng.random(len(chosen)), pa.float32())], fields=list(kind)
    )
    ids = pa.array([f"v{number:07d}" for number in range(rows)])
    columns = {
        "video_id": ids,
        "content_key": ids,
        "extractor_version": ids,
        "duration_s": pa.array(rng.uniform(1, 60, rows), pa.float32()),
        "has_audio": pa.array(rng.random(rows) < 0.7),
        "language": pa.array(rng.choice(["en", "pt", "de", ""], rows).tolist()),
        "hashtags": pa.ListArray.from_arrays(offsets, pa.array(chosen, pa.string())),
        "visual_stats": lists(rng.random((rows, len(VISUAL_STATS)))),
        "sound_stats": lists(sound),
        "text_embedding": lists(rng.standard_normal((rows, SPEC.text_dim), np.float32)),
        "visual_embedding": lists(rng.random((rows, SPEC.visual_dim), np.float32)),
        "visual_tags": pa.ListArray.from_arrays(offsets, tags),
    }
    batch = prepare(pa.RecordBatch.from_pydict(columns), SPEC).batch
    places = pa.ListArray.from_arrays(pa.array(np.arange(rows + 1, dtype=np.int32)), pa.array(np.arange(rows, dtype=np.float32)))
    return batch.set_column(batch.schema.get_field_index("has_audio"), "has_audio", places)


def _instances(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """Rows as TFT's instance dicts: scalars plain, vectors as numpy arrays, words as lists."""
    floats = {
        name: batch.column(name).flatten().to_numpy().reshape(batch.num_rows, -1)
        for name in ("duration_s", "has_audio", "visual_stats", "sound_stats", "text_embedding", "visual_embedding")
    }
    words = {name: batch.column(name).to_pylist() for name in ("language", "hashtags", "visual_tags")}
    for row in range(batch.num_rows):
        instance: dict[str, Any] = {name: values[row] for name, values in floats.items()}
        instance["duration_s"], instance["has_audio"] = instance["duration_s"][0], instance["has_audio"][0]
        yield {**instance, **{name: values[row] for name, values in words.items()}}


def _transform(path: str, batches: int, by_batches: bool) -> tuple[float, dict[str, np.ndarray]]:
    """Seconds, and the transformed rows in the order in which they went in."""
    import apache_beam as beam
    import tensorflow_transform.beam as tft_beam
    from tensorflow_transform.tf_metadata import dataset_metadata

    from features.student.preprocessing import preprocessing_fn, raw_feature_spec
    from pipelines.options import make_pipeline
    from pipelines.transform import ROW, adapter_config, read_batch

    schema = read_batch(path, 0).drop_columns([ROW]).schema
    _collected.clear()
    start = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        make_pipeline() as pipeline,
        tft_beam.Context(temp_dir=folder, use_deep_copy_optimization=by_batches),
    ):
        rows = (
            pipeline
            | "ListBatches" >> beam.Create(list(range(batches)), reshuffle=False)
            | "Read" >> beam.Map(lambda number: read_batch(path, number).drop_columns([ROW])).with_output_types(pa.RecordBatch)
        )
        source: tuple[Any, Any]
        if by_batches:
            source = rows, adapter_config(schema, SPEC)
        else:
            instances = rows | "ToInstances" >> beam.FlatMap(_instances)
            source = instances, dataset_metadata.DatasetMetadata.from_feature_spec(raw_feature_spec(SPEC))
        (transformed, _), _ = source | tft_beam.AnalyzeAndTransformDataset(preprocessing_fn, output_record_batches=by_batches)
        transformed | "Collect" >> beam.Map(_collect)
    seconds = time.perf_counter() - start
    found = _by_batches() if by_batches else {name: np.stack([row[name] for row in _collected]) for name in _collected[0]}
    order = np.argsort(found["numbers"][:, PLACE])
    return seconds, {name: values[order] for name, values in found.items()}


def _collect(element: Any) -> None:
    _collected.append(element)


def _by_batches() -> dict[str, np.ndarray]:
    from pipelines.transform import flat

    table = pa.Table.from_batches([batch for batch, _ in _collected])
    return {name: flat(table[name]).reshape(len(table), -1) for name in table.column_names}


def run(rows: int = ROWS) -> list[dict[str, Any]]:
    """One figure."""
    from pipelines.transform import count_batches, write_rows

    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = write_rows(random_rows(rows), folder)
        batches = count_batches(path)
        _transform(path, 1, True)
        for _ in range(ROUNDS):
            seconds, batched = _transform(path, batches, True)
            ours.append(seconds)
            seconds, single = _transform(path, batches, False)
            theirs.append(seconds)
            assert batched.keys() == single.keys()
            for name, values in batched.items():
                assert len(values) == rows and np.abs(values - single[name]).max() < 1e-4, f"{name}: the two sides differ"
    quick, slow = statistics.median(ours), statistics.median(theirs)
    return [
        {
            "case": f"{rows} rows of {SPEC.text_dim} + {SPEC.visual_dim} numbers",
            "metric": "speed vs instance dicts",
            "value": slow / quick,
            "goal": GOAL,
            "better": "higher",
            "ours": f"{quick:.2f} s",
            "theirs": f"{slow:.2f} s",
            "workload": f"analyse and transform, one pipeline each, {os.cpu_count()} cores, {ROUNDS} rounds in turn, seed {SEED}",
        }
    ]
