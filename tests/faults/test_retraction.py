"""Fault 10: an attribute is retracted. Reads say absent, not null-but-present."""

from __future__ import annotations

import pathlib

import numpy as np

from features.serving.online import OnlineAttributes
from features.serving.rows import open_rows
from features.workspace import Workspace
from pipelines.materialize import MaterializeConfig, run
from tests.features.serving.stores import (
    FUNNY,
    TONE,
    publish,
    register,
    registered_store,
    say,
    wide,
    write_annotations,
)


def test_a_withdrawn_answer_reads_as_absent(tmp_path: pathlib.Path, online: str) -> None:
    """Every opinion withdrawn: all columns of the row are empty, the case that Feast would not write at all."""
    from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

    store = registered_store(tmp_path, [FUNNY, TONE], online)
    workspace = Workspace(str(tmp_path / "workspace"))
    write_annotations(workspace, [say("v", FUNNY, "true"), say("v", TONE, "loud", "gold"), say("w", FUNNY, "true")])
    run(MaterializeConfig(workspace, (FUNNY, TONE), online))
    assert OnlineAttributes(store).get(["v"]).present.all()
    write_annotations(workspace, [say("v", FUNNY, None, seconds=1), say("v", TONE, None, "gold", 1)])
    record = run(MaterializeConfig(workspace, (FUNNY, TONE), online))
    assert record.pair_counts is not None and record.pair_counts.annotated == 3
    table = OnlineAttributes(store).get(["v", "w"])
    assert not table.present[0].any() and np.isnan(table.values[0]).all() and table.present[1, 0]
    seen = wide(store, ["v"], "funny", "funny_source", "tone", "tone_label", "tone_source")
    assert [seen[name] for name in ("funny", "tone", "tone_label")] == [[None]] * 3
    assert seen["funny_source"] == seen["tone_source"] == ["absent"]
    if online == "sqlite":
        answer = store.get_online_features(["video_attributes:funny"], [{"video_id": "v"}])
        assert not answer.to_dict(include_event_timestamps=False)["funny"][0]
        assert [int(status) for status in answer.proto.results[1].statuses] == [FieldStatus.NOT_FOUND]


def test_a_withdrawn_attribute_is_absent_before_and_after_its_rows_are_renewed(tmp_path: pathlib.Path, online: str) -> None:
    store = registered_store(tmp_path, [FUNNY, TONE], online)
    annotations = [say("v", FUNNY, "true"), say("v", TONE, "loud", "gold")]
    publish(store, annotations, [FUNNY, TONE])
    register(store, [FUNNY], retire=True)
    for _ in range(2):
        reader = OnlineAttributes(store)
        assert reader.get(["v"]).attributes == ("funny",) and reader.get(["v"]).row("v") == {"funny": 1.0}
        asked = reader.get(["v"], ["tone", "funny"])
        assert asked.present.tolist() == [[False, True]] and np.isnan(asked.values[0, 0])
        publish(store, annotations, [FUNNY], 5)
    assert len(open_rows(store).packed(["v"])[0] or b"") == 20 + 13
