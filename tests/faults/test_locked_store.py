"""Fault 13: the online store is locked, or refuses rows. It is tried again, and what it did not take never counts as done."""

from __future__ import annotations

import contextlib
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from features.errors import Transient
from features.records import Counts, ResolvedAttribute
from features.serving.online import OnlineAttributes
from features.serving.publish import Publisher
from features.serving.rows import NewRows, SqliteRows
from features.workspace import Workspace
from pipelines import materialize
from pipelines.materialize import MaterializeConfig, run
from tests.features.serving.stores import (
    FUNNY,
    believed_rows,
    publish,
    redis_server,
    registered_store,
    say,
    write_annotations,
)

HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
"""
IDS = [f"v{number:02d}" for number in range(20)]


@contextlib.contextmanager
def locked(path: str) -> Iterator[subprocess.Popen[str]]:
    """Another process holds the store's write lock."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=pipe, stdout=pipe, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        yield holder
        if holder.poll() is None:
            holder.communicate("\n")


def impatient(store: Any) -> SqliteRows:
    return SqliteRows(store.config.online_store.path, store.project, lock_wait_s=0.05)


def test_a_lock_that_passes_is_waited_for_and_one_that_stays_is_transient(tmp_path: pathlib.Path) -> None:
    store = registered_store(tmp_path, [FUNNY])
    publish(store, [say("v", FUNNY, "true")], [FUNNY], 0)
    waits: list[float] = []
    publisher = Publisher(store, sleep=waits.append, attempts=3, open_online=impatient)
    rows = believed_rows(publisher, [say("v", FUNNY, "false", seconds=1)], [FUNNY], 5)
    with locked(store.config.online_store.path) as holder:
        with pytest.raises(Transient, match="busy or away"):
            publisher.publish(*rows, "run")
        assert len(waits) == 2
        assert OnlineAttributes(store).get(["v"]).row("v") == {"funny": 1.0}, "readers go on"

        def release(seconds: float) -> None:
            holder.communicate("\n")

        patient = Publisher(store, sleep=release, attempts=2, open_online=impatient)
        assert patient.publish(*rows, "run").written == ("v",)
    assert OnlineAttributes(store).get(["v"]).row("v") == {"funny": 0.0}


def test_a_run_against_a_locked_store_leaves_all_pending_and_the_next_completes(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = registered_store(tmp_path, [FUNNY])
    workspace = Workspace(str(tmp_path / "workspace"))
    write_annotations(workspace, [say(video_id, FUNNY, "true") for video_id in IDS])
    monkeypatch.setattr(materialize, "BATCH", 5)
    monkeypatch.setattr(materialize, "Publisher", partial(Publisher, open_online=impatient))
    with locked(store.config.online_store.path):
        record = run(MaterializeConfig(workspace, (FUNNY,), attempts=2))
    assert record.counts == Counts(into=20, pending=20) and record.pair_counts == Counts(into=20, pending=20)
    assert any(name.startswith("detail/pending: ") and "busy or away" in name for name in record.details)
    assert list(workspace.rows(ResolvedAttribute)) == [] and not OnlineAttributes(store).get(IDS).present.any()
    assert run(MaterializeConfig(workspace, (FUNNY,))).counts == Counts(into=20, annotated=20)
    assert OnlineAttributes(store).get(IDS).present.all() and len(list(workspace.rows(ResolvedAttribute))) == 20


class Forgetful(SqliteRows):
    """A store that answers every write with success and keeps half of the rows."""

    def write(self, rows: NewRows) -> None:
        half = len(rows.video_ids) // 2
        kept = NewRows(rows.video_ids[:half], rows.stamps[:half], rows.packed[:half], [], rows.replaces[:half])
        super().write(kept)


def test_rows_that_were_not_kept_do_not_count(tmp_path: pathlib.Path) -> None:
    store = registered_store(tmp_path, [FUNNY])
    forget = lambda store: Forgetful(store.config.online_store.path, store.project)  # noqa: E731
    annotations = [say(video_id, FUNNY, "true") for video_id in IDS]
    with pytest.raises(Transient, match=r"did not keep \d+ of \d+ rows"):
        publish(store, annotations, [FUNNY], open_online=forget, attempts=2, sleep=lambda seconds: None)


def test_a_redis_that_is_full_refuses_rows_and_they_do_not_count(tmp_path: pathlib.Path) -> None:
    with redis_server("--maxmemory-policy", "noeviction") as address:
        store = registered_store(tmp_path, [FUNNY], f"redis://{address}")
        publish(store, [say("v", FUNNY, "true")], [FUNNY], 0)
        host, _, port = address.partition(":")
        import redis

        with redis.Redis(host, int(port)) as client:
            client.config_set("maxmemory", "1mb")
            with pytest.raises(Transient, match=f"Redis at {address}"):
                publish(store, [say("v", FUNNY, "false")], [FUNNY], 5, attempts=2, sleep=lambda seconds: None)
            assert OnlineAttributes(store).get(["v"]).row("v") == {"funny": 1.0}
            client.config_set("maxmemory", "0")
        assert publish(store, [say("v", FUNNY, "false")], [FUNNY], 6).written == ("v",)
