"""Fault 21: caps on cost and tokens, counted by the server."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from features.annotators.model_server import Rule, RunningServer
from features.annotators.protocol import Usage
from features.annotators.spend import Prices
from tests.faults.asked_over_http import MODELS, NAMES, annotate_against, billed, paid, pairs_of, serving, workspace_with

VIDEOS = 24


def charged(server: RunningServer, model: str) -> float:
    """US dollars of all that the server billed since its last reset."""
    price, tokens = Prices.load().of(model), server.stats()["tokens"]
    assert price is not None
    return price.cost(Usage(0, tokens["input"], tokens["cached"], tokens["output"] + tokens["thinking"]))


def test_a_cap_on_the_cost_is_never_passed_and_the_next_run_goes_on(tmp_path: pathlib.Path) -> None:
    workspace, protocol = workspace_with(tmp_path / "w", VIDEOS), "gemini"
    # Some requests are refused, and some are mended: what these cost counts as well.
    mended = Rule("unknown_label", contains="#clip-004", attribute="pace", turn="first")
    rules = [Rule("safety", contains="#clip-003"), mended, Rule("truncated", contains="#clip-005")]
    with serving(rules=rules) as server:
        whole = annotate_against(server, workspace, protocol, answers=str(tmp_path / "elsewhere.sqlite"))
        assert whole.record.cost_usd == pytest.approx(charged(server, MODELS[protocol]), rel=1e-6)
        server.reset()

        workspace = workspace_with(tmp_path / "capped", VIDEOS)
        cap, spent, runs = 0.7 * whole.record.cost_usd, 0.0, []
        for _ in range(6):
            outcome = annotate_against(server, workspace, protocol, pace={"max_cost": cap, "in_flight": 4})
            total = charged(server, MODELS[protocol])
            assert total - spent <= cap and outcome.record.cost_usd == pytest.approx(total - spent, rel=1e-6)
            spent = total
            runs.append(outcome)
            if not outcome.pending:
                break
            assert "max_cost" in outcome.why_pending and "raise --max-cost" in outcome.why_pending
        first, last = runs[0], runs[-1]
        assert first.annotated and first.pending, "it stopped on the way"
        assert len(runs) > 1 and not last.pending
        assert last.dead.keys() == whole.dead.keys() == pairs_of(3, 5) and last.values == whole.values
        calls = paid(server)
        assert {calls[pair] for pair in pairs_of(*{*range(VIDEOS)} - {4, 5})} == {1}, "nothing is paid for twice"


def test_a_cap_on_tokens_is_never_passed_whoever_answers(tmp_path: pathlib.Path) -> None:
    workspace, cap = workspace_with(tmp_path / "w", VIDEOS), 12_000
    pace: dict[str, Any] = {"max_tokens": cap, "in_flight": 16}
    with serving() as server:
        outcome = annotate_against(server, workspace, pace=pace, prompts={"ask": "each"})
        tokens = server.stats()["tokens"]
        assert cap / 2 < tokens["input"] + tokens["output"] <= cap and billed(server, outcome)
        assert outcome.pending and not outcome.dead and "max_tokens" in outcome.why_pending
        server.reset()
        rest = annotate_against(server, workspace, prompts={"ask": "each"})
        assert len(rest.annotated) == VIDEOS * len(NAMES)
        assert paid(server).keys() == outcome.pending and set(paid(server).values()) == {1}
