"""Publishing: both views from one row, only what changed, and Feast's own client agrees."""

from __future__ import annotations

import os
import pathlib
import shutil
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from features.attributes import registry, views
from features.errors import InvalidInput, Permanent
from features.records import ResolvedAttribute
from features.serving.online import OnlineAttributes
from features.serving.packed import PackedLayout
from features.serving.publish import Published, Publisher, compact_history, packed_rows
from features.serving.rows import OnlineRows, ProviderRows, open_rows
from tests.features.serving.stores import (
    FUNNY,
    PACE,
    TONE,
    at,
    define,
    publish,
    register,
    registered_store,
    say,
    wide,
)

DEFINITIONS = [FUNNY, PACE, TONE]
ANNOTATIONS = [
    say("a", FUNNY, "true", probability=0.7),
    say("a", TONE, "loud", "gold"),
    say("a", PACE, "2.5", "baseline"),
    say("b", FUNNY, "false", "student", teacher="llm"),
    say("ü/ö 🎬", TONE, "calm"),
]


def test_both_views_say_the_same_through_feast_and_through_ours(tmp_path: pathlib.Path, online: str) -> None:
    store = registered_store(tmp_path, DEFINITIONS, online)
    report = publish(store, ANNOTATIONS, DEFINITIONS)
    assert sorted(report.written) == ["a", "b", "ü/ö 🎬"] and not report.unchanged and not report.superseded
    ids = ["ü/ö 🎬", "a", "nobody", "b"]
    seen = wide(store, ids, "funny", "funny_source", "tone", "tone_label", "tone_source", "pace")
    assert seen["funny"] == [None, pytest.approx(0.7), None, 0.0]
    assert seen["funny_source"] == ["absent", "llm", None, "student"]
    assert seen["tone"] == [0.0, 2.0, None, None] and seen["tone_label"] == ["calm", "loud", None, None]
    assert seen["tone_source"] == ["llm", "gold", None, "absent"] and seen["pace"] == [None, 2.5, None, None]
    table = OnlineAttributes(store).get(ids)
    for column, name in enumerate(table.attributes):
        assert [None if np.isnan(number) else number for number in table.values[:, column].tolist()] == seen[name]
    packed = store.get_online_features([f"{registry.PACKED_VIEW}:{registry.PACKED_COLUMN}"], [{"video_id": "a"}]).to_dict()
    assert packed[registry.PACKED_COLUMN] == open_rows(store).packed(["a"])


def test_unchanged_rows_are_not_touched(tmp_path: pathlib.Path, online: str) -> None:
    store = registered_store(tmp_path, DEFINITIONS, online)
    publish(store, ANNOTATIONS, DEFINITIONS, 10)
    rows = open_rows(store)
    before = rows.stamped(["a", "b"])
    report = publish(store, [*ANNOTATIONS, say("b", FUNNY, "true", "gold", 5)], DEFINITIONS, 20)
    assert report.written == ("b",) and set(report.unchanged) == {"a", "ü/ö 🎬"}
    after = rows.stamped(["a", "b"])
    assert after[0] == before[0] and after[1] != before[1] and after[1][1] > before[1][1]


def test_stamps_increase_by_a_second_whatever_the_clock_says(tmp_path: pathlib.Path, online: str) -> None:
    store = registered_store(tmp_path, [FUNNY], online)
    stamps = []
    for number, clock in enumerate([1000.9, 1000.9, 500.0, 2000.0]):
        publish(store, [say("a", FUNNY, "true", probability=number / 10)], [FUNNY], number, clock=lambda clock=clock: clock)
        stamps += [stamp for _, stamp in open_rows(store).stamped(["a"])]
    assert stamps == [1000, 1001, 1002, 2000]


def test_a_clock_that_was_ahead_once_does_not_freeze_a_row(tmp_path: pathlib.Path, online: str) -> None:
    store = registered_store(tmp_path, [FUNNY], online)
    year, clock = 365 * 86400, {"clock": at(100).timestamp}
    publish(store, [say("a", FUNNY, "true"), say("b", FUNNY, "true")], [FUNNY], year, clock=at(year).timestamp)
    report = publish(store, [say("a", FUNNY, "false"), say("b", FUNNY, "true")], [FUNNY], 100, **clock)
    assert report == Published(written=("a",), unchanged=("b",))
    assert wide(store, ["a"], "funny")["funny"] == [0.0] and OnlineAttributes(store).get(["a"]).row("a") == {"funny": 0.0}
    later = [say("a", FUNNY, "true", seconds=1)]
    assert publish(store, later, [FUNNY], 90, **clock).superseded == ("a",), "a slow writer still does not undo it"


def test_a_row_from_moments_ahead_is_left_until_its_time_has_come(tmp_path: pathlib.Path) -> None:
    """Two machines' clocks differ by seconds: who knows more cannot be told yet, and nothing counts as done."""
    store = registered_store(tmp_path, [FUNNY])
    publish(store, [say("a", FUNNY, "true")], [FUNNY], 160, clock=at(160).timestamp)
    corrected = [say("a", FUNNY, "false", seconds=1)]
    assert publish(store, corrected, [FUNNY], 100, clock=at(100).timestamp) == Published(ahead=("a",))
    assert publish(store, corrected, [FUNNY], 170, clock=at(170).timestamp).written == ("a",)


def test_an_interrupted_row_that_says_nothing_is_not_written_but_a_withdrawn_one_is(tmp_path: pathlib.Path, online: str) -> None:
    store = registered_store(tmp_path, [FUNNY], online)
    nothing = [say("a", FUNNY, None)]
    assert publish(store, nothing, [FUNNY], 1).unchanged == ("a",) and open_rows(store).packed(["a"]) == [None]
    publish(store, [say("a", FUNNY, "true")], [FUNNY], 2)
    assert publish(store, nothing, [FUNNY], 3).written == ("a",)
    assert not OnlineAttributes(store).get(["a"]).present.any()


def test_feast_reads_the_history(tmp_path: pathlib.Path) -> None:
    """Point in time: before and after a correction, with a column that came later and one that went."""
    store = registered_store(tmp_path, [FUNNY, TONE])
    publish(store, [say("a", FUNNY, "true"), say("a", TONE, "loud")], [FUNNY, TONE], clock=at(0).timestamp)
    register(store, [FUNNY, PACE], retire=True)
    later = [say("a", FUNNY, "false", seconds=9), say("a", PACE, "4")]
    publish(store, later, [FUNNY, PACE], 10, clock=at(100).timestamp)
    compact_history(str(store.repo_path))
    compact_history(str(store.repo_path))
    asked = pd.DataFrame({"video_id": ["a", "a", "b"], "event_timestamp": [at(50), at(150), at(150)]})
    columns = [f"{registry.WIDE_VIEW}:{name}" for name in ("funny", "pace")]
    history = store.get_historical_features(entity_df=asked, features=columns).to_df()
    seen = history.sort_values(["video_id", "event_timestamp"])[["funny", "pace"]].to_numpy()
    assert np.array_equal(seen, np.array([[1, np.nan], [0, 4], [np.nan, np.nan]]), equal_nan=True)
    assert os.listdir(views.offline_folder(str(store.repo_path))) == [registry.OFFLINE_BASE]


def test_the_history_grows_by_full_files_and_a_row_is_in_it_once(tmp_path: pathlib.Path) -> None:
    store = registered_store(tmp_path, [FUNNY])
    folder = str(store.repo_path)
    history = views.offline_folder(folder)
    for number in range(3):
        publish(store, [say("a", FUNNY, "true", probability=number / 10)], [FUNNY], number)
        newest = next(name for name in os.listdir(history) if name.startswith("run"))
        shutil.copy(os.path.join(history, newest), os.path.join(history, "again.parquet"))
        compact_history(folder, max_bytes=1)
    names = os.listdir(history)
    assert registry.OFFLINE_BASE in names and sum(name.startswith("full-") for name in names) == len(names) - 1 == 3
    rows = [number for name in names for number in pq.read_table(os.path.join(history, name))["funny"].to_pylist()]
    assert sorted(rows) == pytest.approx([0.0, 0.1, 0.2])


def test_refill_equals_feasts_own_materialize(tmp_path: pathlib.Path, online: str) -> None:
    store = registered_store(tmp_path, DEFINITIONS, online)
    publish(store, ANNOTATIONS, DEFINITIONS, 0, clock=at(0).timestamp)
    publish(store, [*ANNOTATIONS, say("b", FUNNY, "true", "gold", 5)], DEFINITIONS, 10, clock=at(10).timestamp)
    columns = [
        column for attribute in registry.registered_attributes(store).attributes for column in registry.columns_of(attribute)
    ]
    ids = ["a", "b", "ü/ö 🎬", "nobody"]
    published = wide(store, ids, *columns)
    other = registered_store(tmp_path / "other", DEFINITIONS, online if online == "sqlite" else online.rpartition("/")[0] + "/999")
    shutil.copytree(views.offline_folder(str(store.repo_path)), views.offline_folder(str(other.repo_path)), dirs_exist_ok=True)
    publisher = Publisher(other)
    assert set(publisher.refill().written) == set(ids) - {"nobody"} and set(publisher.refill().unchanged) == set(ids) - {"nobody"}
    assert wide(other, ids, *columns) == published
    theirs = registered_store(tmp_path / "theirs", DEFINITIONS)
    shutil.copytree(views.offline_folder(str(store.repo_path)), views.offline_folder(str(theirs.repo_path)), dirs_exist_ok=True)
    theirs.materialize(at(-60), at(60))
    assert wide(theirs, ids, *columns) == published
    ours, feasts = (OnlineAttributes(each).get(ids) for each in (other, theirs))
    assert np.array_equal(ours.values, feasts.values, equal_nan=True) and np.array_equal(ours.sources, feasts.sources)


def provider_rows(store: Any) -> OnlineRows:
    return ProviderRows(store)


def test_any_other_store_goes_through_feasts_provider(tmp_path: pathlib.Path, online: str) -> None:
    """The general way and the fast way read each other's rows."""
    store = registered_store(tmp_path, DEFINITIONS, online)
    publish(store, ANNOTATIONS, DEFINITIONS, 0, open_online=provider_rows)
    general, fast = ProviderRows(store), open_rows(store)
    ids = ["a", "b", "ü/ö 🎬", "nobody"]
    assert general.stamped(ids) == fast.stamped(ids) and general.packed(ids)[3] is None
    assert set(publish(store, ANNOTATIONS, DEFINITIONS, 5).unchanged) == set(ids) - {"nobody"}
    assert publish(store, [say("a", FUNNY, "false", seconds=3)], DEFINITIONS, 6).written == ("a",)
    assert general.stamped(["a"]) == fast.stamped(["a"])
    publish(store, [say("a", FUNNY, "true", seconds=4)], DEFINITIONS, 7, open_online=provider_rows)
    assert wide(store, ["a"], "funny")["funny"] == [1.0]


def test_rows_of_a_layout_before_a_new_attribute_stay_readable_and_are_renewed(tmp_path: pathlib.Path, online: str) -> None:
    store = registered_store(tmp_path, [FUNNY], online)
    publish(store, [say("a", FUNNY, "true"), say("b", FUNNY, "true")], [FUNNY], 0)
    register(store, [FUNNY, define("cozy")])
    table = OnlineAttributes(store).get(["a"])
    assert table.attributes == ("cozy", "funny") and table.present.tolist() == [[False, True]] and table.unreadable == 0
    assert publish(store, [say("a", FUNNY, "true")], [FUNNY], 5).written == ("a",), "the layout changed"


def test_what_is_not_a_number_stops_before_the_store(tmp_path: pathlib.Path) -> None:
    row = ResolvedAttribute("a", "funny", float("nan"), "true", "llm", None, "00" * 16, at(0), False, "m")
    with pytest.raises(Permanent, match="finite"):
        packed_rows(PackedLayout(("funny",), ("boolean",)), {"a": {"funny": row}}, at(0))


def test_nothing_registered_is_said_with_its_remedy(tmp_path: pathlib.Path) -> None:
    store = registry.open_store(str(tmp_path / "workspace"))
    for use in (Publisher, OnlineAttributes):
        with pytest.raises(InvalidInput, match="vidattr register"):
            use(store)


def test_batches_cover_every_row(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("features.serving.publish.BATCH", 3)
    store = registered_store(tmp_path, [FUNNY])
    annotations = [say(f"v{number:02d}", FUNNY, "true", probability=number / 10) for number in range(10)]
    assert len(publish(store, annotations, [FUNNY]).written) == 10
    table = OnlineAttributes(store).get([f"v{number:02d}" for number in range(10)])
    assert np.allclose(table.values[:, 0], np.arange(10) / 10)
    history = views.offline_folder(str(store.repo_path))
    assert sum(pq.read_metadata(os.path.join(history, name)).num_rows for name in os.listdir(history)) == 10
