"""The TFT graph over training rows in Beam: analysed, applied, and frozen, on Arrow RecordBatches in and out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import schema_utils
from tfx_bsl.tfxio.tensor_adapter import TensorAdapterConfig
from tfx_bsl.tfxio.tensor_representation_util import InferTensorRepresentationsFromSchema

from features.student.inputs import Floats, InputSpec
from features.student.preprocessing import preprocessing_fn, raw_feature_spec

ROW = "_row"
"""Column that carries a row's position past TFT, since Beam keeps no order."""
ROWS_A_BATCH = 1024


def write_rows(batch: pa.RecordBatch, folder: str) -> str:
    """Writes prepared rows (`inputs.Prepared.batch`) for `TransformRows` and returns the path of an Arrow file."""
    positions = pa.ListArray.from_arrays(
        pa.array(np.arange(batch.num_rows + 1, dtype=np.int32)), pa.array(np.arange(batch.num_rows, dtype=np.int64))
    )
    path = os.path.join(folder, "rows.arrow")
    table = pa.Table.from_batches([batch]).append_column(ROW, positions)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=ROWS_A_BATCH)
    return path


def count_batches(path: str) -> int:
    """How many batches `write_rows` made."""
    with pa.memory_map(path) as file:
        return int(pa.ipc.open_file(file).num_record_batches)


def read_batch(path: str, number: int) -> pa.RecordBatch:
    """One batch of what `write_rows` wrote."""
    with pa.memory_map(path) as file:
        return pa.ipc.open_file(file).get_batch(number)


def adapter_config(schema: pa.Schema, spec: InputSpec) -> TensorAdapterConfig:
    """How TFT reads prepared rows as tensors."""
    representations = InferTensorRepresentationsFromSchema(schema_utils.schema_from_feature_spec(raw_feature_spec(spec)))
    return TensorAdapterConfig(schema, representations)


@dataclass
class TransformRows(beam.PTransform):
    """Analyses all rows of a file, transforms them and writes graph and rows into a folder.

    Args:
        path: from `write_rows`; only the path enters the graph, not the rows.
        spec: dimensions.
        folder: gets `graph/` (TFT's output) and `transformed/` (Parquet, with ROW); it must exist.
    """

    path: str
    spec: InputSpec
    folder: str

    def expand(self, pipeline: beam.Pipeline) -> None:
        path, transformed = self.path, os.path.join(self.folder, "transformed")
        os.makedirs(transformed, exist_ok=True)
        batches, schema = count_batches(path), read_batch(path, 0).schema

        def write(batch: pa.RecordBatch, _: dict[str, pa.Array]) -> Iterator[str]:
            name = os.path.join(transformed, f"from-{batch.column(batch.schema.get_field_index(ROW))[0].as_py()[0]:012d}.parquet")
            pq.write_table(pa.Table.from_batches([batch]), name, compression="none")
            yield name

        with tft_beam.Context(
            temp_dir=os.path.join(self.folder, "analysis"), passthrough_keys={ROW}, use_deep_copy_optimization=True
        ):
            rows = (
                pipeline
                | "ListBatches" >> beam.Create(list(range(batches)), reshuffle=False)
                | "ReadRows" >> beam.Map(lambda number: read_batch(path, number)).with_output_types(pa.RecordBatch)
            )
            (made, _), graph = (rows, adapter_config(schema, self.spec)) | tft_beam.AnalyzeAndTransformDataset(
                preprocessing_fn, output_record_batches=True
            )
            graph | "WriteGraph" >> tft_beam.WriteTransformFn(os.path.join(self.folder, "graph"))
            made | "WriteTransformed" >> beam.FlatMapTuple(write).with_output_types(str)


@dataclass(frozen=True)
class Transformed:
    """What `TransformRows` left in its folder.

    Attributes:
        inputs: [N, width] by name, in the order of the rows that went in.
        output: TFT's handle on the frozen graph.
    """

    inputs: dict[str, Floats]
    output: tft.TFTransformOutput


def read_transformed(folder: str) -> Transformed:
    """Reads back what `TransformRows` wrote into a folder."""
    output = tft.TFTransformOutput(os.path.join(folder, "graph"))
    parts = os.path.join(folder, "transformed")
    table = pa.concat_tables([pq.read_table(os.path.join(parts, name)) for name in sorted(os.listdir(parts))]).combine_chunks()
    order = np.argsort(flat(table[ROW]))
    shapes = output.transformed_feature_spec()
    return Transformed({name: flat(table[name]).reshape(len(table), *shape.shape)[order] for name, shape in shapes.items()}, output)


def flat(column: pa.ChunkedArray) -> Floats:
    """All numbers of a column of (nested) lists, row after row."""
    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    while pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        values = values.flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False))
