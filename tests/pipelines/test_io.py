from __future__ import annotations

import pathlib

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam import coders

from features.errors import InvalidInput
from features.records import Counts, Failure
from features.workspace import Workspace
from pipelines.io import CommitRun, ListFiles, ReadColumns, RecordBatchCoder, WriteTable, counts_of, finish, to_batch
from pipelines.options import RunHeader, make_pipeline


def batch(*ids: str) -> pa.RecordBatch:
    return to_batch([Failure(name, "extract", "kind", "why") for name in ids], Failure)


def write(workspace: Workspace, ids: list[str], beam_args: tuple[str, ...] = (), entered: int | None = None) -> RunHeader:
    header = RunHeader()
    pipeline = make_pipeline(beam_args)
    batches = pipeline | "Ids" >> beam.Create(ids) | beam.Map(batch).with_output_types(pa.RecordBatch)
    tallies = pipeline | "Outcomes" >> beam.Create(
        [("video/in", len(ids) if entered is None else entered), ("video/annotated", len(ids))]
    )
    (batches | WriteTable(workspace, "failures", header.run_id, max_rows=2),) | CommitRun(workspace, "extract", header, (tallies,))
    finish(pipeline, workspace, header)
    return header


def test_batches_travel_by_arrow_and_not_by_pickle() -> None:
    assert isinstance(coders.registry.get_coder(pa.RecordBatch), RecordBatchCoder)
    assert RecordBatchCoder().decode(RecordBatchCoder().encode(batch("a", "b"))).equals(batch("a", "b"))


def test_a_run_counts_what_it_wrote_and_its_record_is_read_back(tmp_path: pathlib.Path) -> None:
    workspace = Workspace(str(tmp_path))
    header = write(workspace, list("abcde"))
    (record,) = workspace.runs()
    assert record.run_id == header.run_id and record.counts == Counts(5, 5, 0, 0) and record.pair_counts is None
    assert sorted(row.video_id for row in workspace.rows(Failure)) == list("abcde")
    assert record.peak_memory_bytes > 0 and record.timings["total"] > 0


def test_a_replayed_bundle_writes_the_same_rows_once(tmp_path: pathlib.Path) -> None:
    """Fault 1: every bundle runs twice."""
    workspace = Workspace(str(tmp_path))
    write(workspace, list("abcde"), ("--direct_runner_bundle_repeat=1",))
    assert sorted(row.video_id for row in workspace.rows(Failure)) == list("abcde")


def test_a_run_whose_counts_do_not_add_up_leaves_no_record(tmp_path: pathlib.Path) -> None:
    workspace = Workspace(str(tmp_path))
    with pytest.raises(Exception, match="law of counts"):
        write(workspace, list("abc"), entered=4)
    assert workspace.runs() == [] and list(workspace.rows(Failure)) == []


def test_columns_are_read_with_the_file_they_stand_in_and_orphans_on_demand(tmp_path: pathlib.Path) -> None:
    workspace = Workspace(str(tmp_path))
    write(workspace, ["a"])
    orphan = workspace.write_table("failures", "killed", pa.Table.from_batches([batch("z")]))

    def read(orphans: bool) -> list[str]:
        name = str(tmp_path / f"out-{orphans}")
        with make_pipeline() as pipeline:
            (
                pipeline
                | ReadColumns(workspace, "failures", ("video_id",), orphans)
                | beam.MapTuple(lambda listed, rows: f"{orphan in listed} {rows['video_id'].to_pylist()} {rows.schema.names}")
                | beam.combiners.ToList()
                | beam.Map(lambda lines, name=name: pathlib.Path(name).write_text("\n".join(sorted(lines))))
            )
        return pathlib.Path(name).read_text().splitlines()

    assert read(False) == ["False ['a'] ['video_id']"]
    assert read(True) == ["False ['a'] ['video_id']", "True ['z'] ['video_id']"]


def test_listing_happens_on_workers_so_that_a_graph_needs_no_storage() -> None:
    pipeline = beam.Pipeline()
    _ = pipeline | ListFiles(Workspace("gs://no-such-bucket/w"), "features")


@pytest.mark.parametrize(
    ("tallies", "counts"),
    [
        ({}, Counts()),
        ({"video/in": 3, "video/annotated": 1, "video/reused": 1, "video/pending": 1}, Counts(3, 2, 0, 1, 1)),
        ({"video/in": 1, "video/dead_lettered": 1, "pair/in": 9}, Counts(1, 0, 1, 0)),
    ],
)
def test_tallies_add_up(tallies: dict[str, int], counts: Counts) -> None:
    assert counts_of(tallies, "video") == counts


def test_the_runner_is_pinned_unless_another_is_named() -> None:
    assert type(make_pipeline().runner).__name__ == "FnApiRunner"
    assert type(make_pipeline(["--runner=DirectRunner"]).runner).__name__ == "FnApiRunner"
    assert type(make_pipeline(["--runner=PortableRunner", "--job_endpoint=localhost:1"]).runner).__name__ == "PortableRunner"


@pytest.mark.parametrize("arguments", [["fast"], ["--direct_num_workers=many"]])
def test_a_wrong_beam_option_is_named(arguments: list[str]) -> None:
    with pytest.raises(InvalidInput, match=arguments[0].replace("=", ".")):
        make_pipeline(arguments)
