"""Fault 9: a correction with the same timestamp. The new value is served, in every store."""

from __future__ import annotations

import pathlib

import pytest

from features.serving.online import OnlineAttributes
from features.serving.rows import ProviderRows, open_rows
from tests.features.serving.stores import FUNNY, at, publish, registered_store, say, wide


@pytest.mark.parametrize("open_online", [open_rows, ProviderRows])
def test_a_correction_of_the_same_second_is_served(tmp_path: pathlib.Path, online: str, open_online) -> None:
    store = registered_store(tmp_path, [FUNNY], online)
    options = {"clock": at(50).timestamp, "open_online": open_online, "sleep": lambda seconds: None}
    for value, key in (("true", "a"), ("false", "b"), ("true", "c")):
        annotations = [say("v", FUNNY, value, "gold", 7, answer_key=key)]
        assert publish(store, annotations, [FUNNY], 10, **options).written == ("v",)
        expected = 1.0 if value == "true" else 0.0
        assert wide(store, ["v"], "funny")["funny"] == [expected]
        assert OnlineAttributes(store).get(["v"]).row("v") == {"funny": expected}
