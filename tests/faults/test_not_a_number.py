"""Fault 16: NaN, infinities and impossible values. They are refused or flagged, and never served as a number."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from features.records import Counts, Failure
from features.serving.online import OnlineAttributes
from features.serving.packed import PackedLayout, PackedRows
from features.serving.rows import open_rows
from features.workspace import Workspace
from pipelines.materialize import MaterializeConfig, run
from tests.features.serving.stores import FUNNY, PACE, TONE, publish, registered_store, say, wide, write_annotations

DEFINITIONS = (FUNNY, PACE, TONE)


def test_impossible_answers_are_dead_letters_and_the_next_source_speaks(tmp_path: pathlib.Path) -> None:
    store = registered_store(tmp_path, DEFINITIONS)
    workspace = Workspace(str(tmp_path / "workspace"))
    nan, infinity = float("nan"), float("inf")
    write_annotations(
        workspace,
        [
            say("a", FUNNY, "true", "student", probability=nan, teacher="llm"),
            say("a", FUNNY, "true", "baseline", probability=0.25),
            say("b", FUNNY, "true", "student", probability=infinity, teacher="llm"),
            say("c", PACE, "nan"),
            say("d", PACE, "-inf", "gold"),
            say("d", PACE, "4", "llm"),
            say("e", TONE, "shrill"),
            say("f", PACE, "1e30"),
            say("g", TONE, "calm", probability=nan),
        ],
    )
    record = run(MaterializeConfig(workspace, DEFINITIONS))
    assert record.counts == Counts(into=7, annotated=2, dead_lettered=5)
    assert record.pair_counts == Counts(into=7, annotated=2, dead_lettered=5)
    kinds = {(failure.video_id, failure.kind) for failure in workspace.rows(Failure)}
    wrong = {("c", "not_a_number"), ("d", "not_a_number"), ("e", "bad_value"), ("f", "bad_value"), ("g", "not_a_number")}
    assert kinds == {("a", "not_a_number"), ("b", "not_a_number"), *wrong}
    ids = list("abcdefg")
    table = OnlineAttributes(store).get(ids)
    assert {(ids[row], table.attributes[column]) for row, column in zip(*np.nonzero(table.present), strict=True)} == {
        ("a", "funny"),
        ("d", "pace"),
    }
    assert np.isfinite(table.values[table.present]).all() and table.source_names("a")["funny"] == "baseline"
    seen = wide(store, ids, "funny", "pace", "tone")
    assert seen["funny"] == [0.25, *[None] * 6] and seen["pace"] == [None, None, None, 4.0, None, None, None]
    assert seen["tone"] == [None] * 7


def test_a_nan_that_somebody_else_stored_is_absent_and_counted(tmp_path: pathlib.Path) -> None:
    """A row that is whole, of our layout, with a right checksum: only its number is none."""
    store = registered_store(tmp_path, [FUNNY])
    publish(store, [say("v", FUNNY, "true")], [FUNNY])
    layout = PackedLayout.of(OnlineAttributes(store).registration.layout)
    rows = PackedRows.absent(1, 1)
    rows.values[:], rows.source[:] = 1234.5, 3
    (blob,) = layout.encode_many(rows)
    body = blob.replace(np.float32(1234.5).tobytes(), np.float32(np.nan).tobytes())
    import zlib

    forged = body[:8] + zlib.crc32(body[12:]).to_bytes(4, "little") + body[12:]
    online = open_rows(store)
    from feast.protos.feast.types.Value_pb2 import Value

    value = Value(bytes_val=forged).SerializeToString()
    online._connection.execute(f"UPDATE {online._packed} SET value = ?", (value,))  # type: ignore[attr-defined]
    table = OnlineAttributes(store).get(["v"])
    assert not table.present.any() and table.unreadable == 1


@pytest.mark.parametrize("probability", [float("nan"), float("inf"), 1.0000001, -0.0000001])
def test_probabilities_outside_0_to_1(tmp_path: pathlib.Path, probability: float) -> None:
    from features.serving.resolution import resolve

    (row,) = resolve([say("v", FUNNY, "true", probability=probability)], [FUNNY]).rows
    assert row.source == "absent" and row.number is None
