"""Fault 14: a type change of a served attribute. It is refused, with the remedy: a new version."""

from __future__ import annotations

import pathlib

import pytest

from features.attributes import registry
from features.errors import InvalidInput
from features.feast_api import FeatureView, Field, Float32
from features.serving.online import OnlineAttributes
from features.serving.publish import Publisher
from features.workspace import Workspace
from pipelines.materialize import MaterializeConfig, run
from tests.features.serving.stores import FUNNY, TONE, define, publish, register, registered_store, say, wide

SCORE = define("funny", value_type="score", score_range=(0.0, 5.0))


def test_another_kind_of_value_under_the_same_name_is_refused_everywhere(tmp_path: pathlib.Path) -> None:
    store = registered_store(tmp_path, [FUNNY])
    publish(store, [say("v", FUNNY, "true", probability=0.25)], [FUNNY])
    planned = registry.plan(registry.registered_attributes(store), [SCORE])
    assert planned.refused and "under a new name, funny_v2" in planned.refused[0]
    with pytest.raises(InvalidInput, match="funny_v2"):
        registry.apply(store, [SCORE], planned)
    with pytest.raises(InvalidInput, match="funny_v2"):
        run(MaterializeConfig(Workspace(str(tmp_path / "workspace")), (SCORE,)))
    assert wide(store, ["v"], "funny")["funny"] == [0.25]
    both = register(store, [FUNNY, define("funny_v2", value_type="score", score_range=(0.0, 5.0))])
    assert [each.name for each in both.attributes] == ["funny", "funny_v2"], "the remedy works"


def test_withdrawing_and_coming_back_with_another_type_is_refused(tmp_path: pathlib.Path) -> None:
    store = registered_store(tmp_path, [FUNNY, TONE])
    publish(store, [say("v", FUNNY, "true")], [FUNNY, TONE])
    register(store, [TONE], retire=True)
    with pytest.raises(InvalidInput, match="funny_v2"):
        register(store, [SCORE, TONE])


def test_a_column_changed_behind_our_back_is_neither_written_nor_read(tmp_path: pathlib.Path) -> None:
    """Feast itself applies Float32 -> Int64 without a word and serves the old floats."""
    from feast.types import Int64

    store = registered_store(tmp_path, [FUNNY])
    publish(store, [say("v", FUNNY, "true", probability=0.25)], [FUNNY])
    view = store.get_feature_view(registry.WIDE_VIEW)
    columns = [Field(name=each.name, dtype=Int64 if each.dtype == Float32 else each.dtype) for each in view.schema]
    entity = store.get_entity(registry.ENTITY)
    store.apply(FeatureView(name=view.name, entities=[entity], source=view.batch_source, ttl=view.ttl, schema=columns))
    assert wide(store, ["v"], "funny")["funny"] == [0.25]
    for use in (Publisher, OnlineAttributes):
        with pytest.raises(InvalidInput, match=r"video_attributes.funny was changed to Int64 .*vidattr register.*funny_v2"):
            use(store)
    planned = registry.plan(registry.registered_attributes(store), [FUNNY])
    assert planned.repaired == ("funny",)
    registry.apply(store, [FUNNY], planned)
    assert OnlineAttributes(store).get(["v"]).row("v") == {"funny": 0.25}
