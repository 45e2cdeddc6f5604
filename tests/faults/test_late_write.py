"""Fault 8: an older write arrives late. The newer value stays, in every store."""

from __future__ import annotations

import pathlib

import pytest

from features.serving.online import OnlineAttributes
from features.serving.publish import Publisher
from features.serving.rows import ProviderRows, open_rows
from tests.features.serving.stores import (
    FUNNY,
    at,
    believed_rows,
    registered_store,
    say,
    wide,
)


@pytest.mark.parametrize("open_online", [open_rows, ProviderRows])
def test_a_slow_writer_does_not_undo_a_newer_one(tmp_path: pathlib.Path, online: str, open_online) -> None:
    store = registered_store(tmp_path, [FUNNY], online)
    known = [say("v", FUNNY, "true", seconds=0), say("w", FUNNY, "true", seconds=0)]
    slow = Publisher(store, clock=at(100).timestamp, open_online=open_online)
    late = believed_rows(slow, known, [FUNNY], 10)  # resolved at 10 s, written at 100 s
    quick = Publisher(store, clock=at(50).timestamp, open_online=open_online)
    corrected = [*known, say("v", FUNNY, "false", "gold", 20)]
    assert quick.publish(*believed_rows(quick, corrected, [FUNNY], 30), "quick").written == ("v", "w")
    report = slow.publish(*late, "slow")
    assert report.superseded == ("v",) and report.unchanged == ("w",) and report.written == ()
    assert wide(store, ["v", "w"], "funny", "funny_source") == {
        "video_id": ["v", "w"],
        "funny": [0.0, 1.0],
        "funny_source": ["gold", "llm"],
    }
    assert OnlineAttributes(store).get(["v"]).row("v") == {"funny": 0.0}


def test_a_clock_that_runs_backwards_does_not_lose_a_correction(tmp_path: pathlib.Path, online: str) -> None:
    """Event timestamps of the correction would be the older ones: the store that goes by them would drop it."""
    store = registered_store(tmp_path, [FUNNY], online)
    for seconds, value, clock in ((10, "true", 5000.0), (20, "false", 1000.0)):
        publisher = Publisher(store, clock=lambda clock=clock: clock, open_online=ProviderRows)
        publisher.publish(*believed_rows(publisher, [say("v", FUNNY, value, seconds=seconds)], [FUNNY], seconds), "run")
    assert wide(store, ["v"], "funny")["funny"] == [0.0] and OnlineAttributes(store).get(["v"]).row("v") == {"funny": 0.0}
