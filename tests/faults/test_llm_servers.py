"""Faults 4, 5 and 6: servers that are silent, overrun, or refuse everybody."""

from __future__ import annotations

import pathlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from features.annotators.circuit import FAILURES
from features.annotators.model_server import Rule
from tests.faults.asked_over_http import (
    NAMES,
    annotate_against,
    billed,
    paid,
    pairs_of,
    serving,
    workspace_with,
)


@contextmanager
def silence() -> Iterator[tuple[str, list[str]]]:
    """A socket that accepts and never answers: its address, and what happened to its connections in order."""
    events: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def read_to_the_end(connection: socket.socket) -> None:
        with connection:
            try:
                while connection.recv(65536):
                    pass
            except OSError:
                pass
            events.append("closed")

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            events.append("opened")
            threading.Thread(target=read_to_the_end, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1", events


def test_a_silent_server_is_left_at_the_deadline_and_the_request_is_cancelled(tmp_path: pathlib.Path) -> None:
    workspace, began = workspace_with(tmp_path / "w", 8), time.monotonic()
    with silence() as (address, events):
        outcome = annotate_against(address, workspace, model={"timeout_s": 0.5}, pace={"attempts": 1})
    assert time.monotonic() - began < 60, "five deadlines of half a second"
    assert outcome.pending == pairs_of(*range(8)) and not outcome.dead
    assert "0.5 s" in outcome.why_pending and "nothing has worked since" in outcome.why_pending
    assert events.count("opened") == 5, "one probe after the other until the circuit gives up"
    # Two at the most, since the end of one may be noticed after the beginning of the next: none goes on in the background.
    standing = [events[:end].count("opened") - events[:end].count("closed") for end in range(len(events))]
    assert max(standing) <= 2


@pytest.mark.soak
def test_requests_that_hang_are_cancelled_and_asked_again(tmp_path: pathlib.Path) -> None:
    workspace = workspace_with(tmp_path / "w", 8)
    with serving(rules=[Rule("hang", contains="#clip-003"), Rule("hang", contains="#clip-004", times=1)]) as server:
        outcome = annotate_against(server, workspace, "gemini", model={"timeout_s": 0.5}, pace={"attempts": 2})
        stats = server.stats()
        assert outcome.pending == pairs_of(3) and not outcome.dead and "tried 2 times" in outcome.why_pending
        assert outcome.annotated.keys() == pairs_of(*{*range(8)} - {3})
        assert (stats["cancelled"], stats["in_flight"], stats["faults"]) == (3, 0, {"hang": 3})
        assert set(paid(server).values()) == {1} and billed(server, outcome)


def test_the_pace_finds_what_an_overrun_server_can_take_and_the_budget_holds(tmp_path: pathlib.Path) -> None:
    workspace, slots, in_flight, cap = workspace_with(tmp_path / "w", 120), 4, 24, 90_000
    pace = {"in_flight": in_flight, "attempts": 20, "longest_wait_s": 0.05, "max_tokens": cap}
    with serving(slots=slots, overflow="reject", retry_after_s=0.02, latency_s=0.02) as server:
        outcome = annotate_against(server, workspace, pace=pace)
        stats = server.stats()
    assert stats["slots"]["most_taken"] == slots
    # The first burst is too much for it. Waiting alone, without a pace, would be turned away a hundred times.
    assert 0 < stats["rejected"] < 2 * in_flight
    assert 0.8 * cap < stats["tokens"]["input"] + stats["tokens"]["output"] <= cap, "rejections cost nothing"
    assert outcome.pending and not outcome.dead and "max_tokens" in outcome.why_pending
    assert {times for counts in stats["pairs"].values() for times in counts.values()} == {1}


@pytest.mark.soak
def test_a_storm_that_does_not_end_leaves_the_rest_pending_and_the_next_run_does_it(tmp_path: pathlib.Path) -> None:
    workspace, videos = workspace_with(tmp_path / "w", 24), 24
    storm = Rule("status", status=429, retry_after_s=0.01, after=8)
    with serving(rules=[storm]) as server:
        outcome = annotate_against(server, workspace, pace={"attempts": 2, "longest_wait_s": 0.05})
        answered, stats = len(paid(server)) // len(NAMES), server.stats()
        assert answered == 8 and not outcome.dead and len(outcome.pending) == (videos - answered) * len(NAMES)
        assert "429" in outcome.why_pending and billed(server, outcome)
        # Eight tries a request: of the five that open the circuit for good, and of those in flight by then.
        assert stats["rejected"] <= (FAILURES - 1 + 8) * 8
        server.reset()
        server.rules()
        after = annotate_against(server, workspace)
        assert len(after.annotated) == videos * len(NAMES) and server.stats()["rejected"] == 0, "goodput is as ever"
        assert len(paid(server)) == (videos - answered) * len(NAMES), "only the rest is paid for"


REFUSALS: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "a key that is not known": ("openai", {"key": "the-right-one"}, {}, "key"),
    "a key that is not known to Google": ("gemini", {"key": "the-right-one"}, {}, "key"),
    "a model that is retired": ("openai", {}, {"name": "gpt-4-vision-preview"}, "gpt-4-vision-preview"),
    "a project that is shut out": ("gemini", {"rules": (Rule("status", status=403),)}, {}, "403"),
}


@pytest.mark.parametrize("what", REFUSALS)
def test_who_is_refused_as_such_asks_once_and_stops(what: str, tmp_path: pathlib.Path) -> None:
    protocol, behaviour, model, said = REFUSALS[what]
    key = tmp_path / "key"
    key.write_text("a-key-of-somebody-else\n")
    key.chmod(0o600)
    workspace = workspace_with(tmp_path / "w", 12)
    with serving(**behaviour) as server:
        outcome = annotate_against(server, workspace, protocol, model={"api_key_file": str(key), **model})
        assert server.stats()["requests"]["total"] == 1, "one call tells it all"
    assert outcome.pending == pairs_of(*range(12)) and not outcome.dead, "nothing is wrong with the videos"
    assert said in outcome.why_pending and "somebody-else" not in outcome.record.to_json()


def test_a_key_that_is_revoked_while_it_runs_pauses_the_rest(tmp_path: pathlib.Path) -> None:
    workspace, in_flight = workspace_with(tmp_path / "w", 24), 4
    with serving(rules=[Rule("status", status=401, after=6)]) as server:
        outcome = annotate_against(server, workspace, pace={"in_flight": in_flight})
        assert len(outcome.annotated) == 6 * len(NAMES) and not outcome.dead and len(outcome.pending) == 18 * len(NAMES)
        assert server.stats()["generations"] <= 6 + in_flight, "those in flight, and nobody after them"
        assert "401" in outcome.why_pending or "key" in outcome.why_pending
        server.rules()
        after = annotate_against(server, workspace)
        assert after.annotated.keys() == pairs_of(*range(24)) and set(paid(server).values()) == {1}
