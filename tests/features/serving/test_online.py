"""Reading at serving time: one array, absent and stale said apart."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import threading
from datetime import timedelta

import numpy as np
import pytest

from features.attributes import registry, views
from features.errors import InvalidInput, Transient
from features.serving.online import REFRESH_S, RETRY_S, OnlineAttributes
from features.serving.publish import Publisher, packed_rows
from features.serving.resolution import by_video, resolve
from features.serving.rows import open_rows
from tests.features.serving.stores import (
    FUNNY,
    TONE,
    at,
    define,
    publish,
    redis_server,
    register,
    registered_store,
    say,
)

IDS = [f"v{number}" for number in range(50)]
ANNOTATIONS = [say(video_id, FUNNY, "true", probability=number / 100) for number, video_id in enumerate(IDS)]


def test_one_array_with_masks(tmp_path: pathlib.Path, online: str) -> None:
    store = registered_store(tmp_path, [FUNNY, TONE], online)
    publish(store, [*ANNOTATIONS, say("v3", TONE, "loud", "gold", 7)], [FUNNY, TONE])
    table = OnlineAttributes(store).get(["v3", "nobody", "v1", "v3"])
    assert table.video_ids == ("v3", "nobody", "v1", "v3") and table.attributes == ("funny", "tone")
    assert table.present.tolist() == [[True, True], [False, False], [True, False], [True, True]]
    assert np.array_equal(np.isnan(table.values), ~table.present) and table.values.dtype == np.float32
    assert table.row("v3") == {"funny": pytest.approx(0.03), "tone": 2.0} and table.row("nobody") == {}
    assert table.source_names("v3") == {"funny": "llm", "tone": "gold"} and table.source_names("v1")["tone"] == "absent"
    assert table.annotated_at[0].tolist() == [int(at(0).timestamp()), int(at(7).timestamp())]
    assert not table.stale.any() and (table.fresh == table.present).all()
    with pytest.raises(KeyError):
        table.row("v9")
    assert OnlineAttributes(store).get([]).values.shape == (0, 2)


def test_stale_by_age_by_definition_and_by_a_date_yet_to_come(tmp_path: pathlib.Path) -> None:
    store = registered_store(tmp_path, [FUNNY])
    publish(store, [say("old", FUNNY, "true", seconds=0), say("new", FUNNY, "true", seconds=90)], [FUNNY])
    publish(store, [say("future", FUNNY, "true", seconds=9000)], [FUNNY])
    ids = ["old", "new", "future", "nobody"]
    reader = OnlineAttributes(store, timedelta(seconds=60), clock=at(100).timestamp)
    assert reader.get(ids).stale[:, 0].tolist() == [True, False, True, False]
    assert OnlineAttributes(store, clock=at(9100).timestamp).get(ids).stale.any(axis=1).tolist() == [False] * 4
    register(store, [define("funny", question="Would one laugh?")])
    after = OnlineAttributes(store, clock=at(9100).timestamp).get(ids)
    assert after.stale[:, 0].tolist() == [True, True, True, False] and not after.fresh.any()


def test_a_running_reader_notices_a_registration_within_a_minute(tmp_path: pathlib.Path) -> None:
    store = registered_store(tmp_path, [FUNNY])
    publish(store, ANNOTATIONS[:1], [FUNNY])
    now = [1000.0]
    reader = OnlineAttributes(store, clock=lambda: now[0])
    register(store, [FUNNY, TONE])
    now[0] += 61
    assert reader.get(["v0"]).attributes == ("funny", "tone")


def test_an_answer_that_was_stale_when_it_was_written_reads_as_stale(tmp_path: pathlib.Path, online: str) -> None:
    store = registered_store(tmp_path, [FUNNY], online)
    publisher = Publisher(store)
    opinions = [say(video_id, FUNNY, "true", content_key="old") for video_id in "ab"]
    rows = by_video(resolve(opinions, [FUNNY], None, {"a": "new", "b": "old"}).rows)
    publisher.publish(*packed_rows(publisher.layout, rows, at(0)), "run")
    table = OnlineAttributes(store).get(["a", "b"])
    assert table.present.all() and table.stale[:, 0].tolist() == [True, False]


def test_what_served_goes_on_serving_while_a_registration_is_half_done(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = registered_store(tmp_path, [FUNNY])
    publish(store, ANNOTATIONS[:1], [FUNNY])
    now = [1000.0]
    reader = OnlineAttributes(store, clock=lambda: now[0])
    after = registry.next_registration(reader.registration, [FUNNY, TONE])
    store.apply([views.entity(), views.packed_view(after, str(store.repo_path))])
    for _ in range(3):
        now[0] += REFRESH_S + 1
        assert reader.get(["v0"]).attributes == ("funny",) and reader.get(["v0"]).present.all()
    (warning,) = [record for record in caplog.records if record.name == "features.serving.online"]
    assert "interrupted" in warning.getMessage()
    with pytest.raises(InvalidInput, match="interrupted"):
        reader.refresh()
    with pytest.raises(InvalidInput, match="interrupted"):
        OnlineAttributes(store)
    register(store, [FUNNY, TONE])
    now[0] += RETRY_S + 1
    assert reader.get(["v0"]).attributes == ("funny", "tone"), "it does not wait another minute"


def test_chosen_attributes(tmp_path: pathlib.Path) -> None:
    store = registered_store(tmp_path, [FUNNY, TONE])
    publish(store, [*ANNOTATIONS, say("v3", TONE, "loud")], [FUNNY, TONE])
    table = OnlineAttributes(store).get(["v3", "v4"], ["tone", "funny"])
    assert table.attributes == ("tone", "funny") and table.values[0].tolist() == [2.0, pytest.approx(0.03)]
    with pytest.raises(InvalidInput, match="cosy: not registered; there is funny, tone"):
        OnlineAttributes(store).get(["v3"], ["cosy"])


def test_many_ids_at_once(tmp_path: pathlib.Path, online: str) -> None:
    store = registered_store(tmp_path, [FUNNY], online)
    publish(store, ANNOTATIONS, [FUNNY])
    asked = [f"v{number % 60}" for number in range(2500)]
    table = OnlineAttributes(store).get(asked)
    expected = [number % 60 / 100 if number % 60 < 50 else np.nan for number in range(2500)]
    assert np.allclose(table.values[:, 0], expected, equal_nan=True)


def test_a_server_that_admits_no_scripts_is_read_all_the_same(tmp_path: pathlib.Path) -> None:
    with redis_server(
        "--rename-command", "EVALSHA", "", "--rename-command", "SCRIPT", "", "--rename-command", "EVAL", ""
    ) as address:
        store = registered_store(tmp_path, [FUNNY], f"redis://{address}")
        publish(store, ANNOTATIONS, [FUNNY])
        assert OnlineAttributes(store).get(IDS).present.all()


def test_threads_share_a_reader(tmp_path: pathlib.Path, online: str) -> None:
    store = registered_store(tmp_path, [FUNNY], online)
    publish(store, ANNOTATIONS, [FUNNY])
    reader, expected, wrong = OnlineAttributes(store), np.arange(50) / 100, []

    def read() -> None:
        for _ in range(20):
            if not np.allclose(reader.get(IDS).values[:, 0], expected):
                wrong.append(1)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_store_that_went_away_says_so(tmp_path: pathlib.Path) -> None:
    with redis_server() as address:
        store = registered_store(tmp_path, [FUNNY], f"redis://{address}")
        publish(store, ANNOTATIONS[:1], [FUNNY])
        reader = OnlineAttributes(store)
        assert reader.get(["v0"]).present.all()
    for ids in (["v0"], IDS):
        with pytest.raises(Transient, match=f"Redis at {address}.*try again"):
            reader.get(ids)


def test_a_damaged_row_is_absent_and_counted(tmp_path: pathlib.Path) -> None:
    store = registered_store(tmp_path, [FUNNY])
    publish(store, ANNOTATIONS[:3], [FUNNY])
    rows = open_rows(store)
    rows._connection.execute(f"UPDATE {rows._packed} SET value = substr(value, 1, 20) WHERE rowid = 2")  # type: ignore[attr-defined]
    rows._connection.execute(f"UPDATE {rows._packed} SET value = x'ff00' WHERE rowid = 3")  # type: ignore[attr-defined]
    table = OnlineAttributes(store).get(["v0", "v1", "v2"])
    assert table.present[:, 0].tolist() == [True, False, False] and table.unreadable == 2
    assert publish(store, ANNOTATIONS[:3], [FUNNY], 5).written == ("v1", "v2"), "the next run mends them"
    assert OnlineAttributes(store).get(["v0", "v1", "v2"]).present.all()


def test_reading_loads_neither_tensorflow_nor_beam(tmp_path: pathlib.Path) -> None:
    store = registered_store(tmp_path, [FUNNY])
    publish(store, ANNOTATIONS[:1], [FUNNY])
    code = (
        "import sys; from features.serving.online import OnlineAttributes; "
        f"assert OnlineAttributes({str(tmp_path / 'workspace')!r}).get(['v0']).present.all(); "
        "print(*{name.split('.')[0] for name in sys.modules} & {'tensorflow', 'apache_beam', 'keras'})"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
