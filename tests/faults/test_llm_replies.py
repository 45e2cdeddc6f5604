"""Faults 7, 17, 18, 19 and 20: replies that are cut off, refused, mixed up or wrong, alone and in packs, over the socket."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

from features.annotators.model_server import Rule
from tests.faults.asked_over_http import (
    DEFINITIONS,
    NAMES,
    PROTOCOLS,
    Pair,
    annotate_against,
    billed,
    paid,
    pairs_of,
    serving,
    workspace_with,
)

VIDEOS = 16


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Pair, str | None]]:
    """What a server in which nothing goes wrong says about each pair."""
    with serving() as server:
        outcome = annotate_against(server, workspace_with(tmp_path_factory.mktemp("w"), VIDEOS))
    assert len(outcome.values) == VIDEOS * len(NAMES) and len({*outcome.values.values()}) > 10
    assert all(row.moments and row.annotator and row.rationale for row in outcome.annotated.values())
    yield outcome.values


CUT_OFF, REFUSED = (0, 1, 2), (5, 6, 7, 8)
ENDINGS = (
    # Fault 17: always cut off, and cut off at the first time only.
    Rule("truncated", contains="#clip-000"),
    Rule("whitespace", contains="#clip-001"),
    Rule("closed_but_length", contains="#clip-002"),
    Rule("truncated", contains="#clip-003", times=1),
    Rule("closed_but_length", contains="#clip-004", times=1),
    # Fault 18.
    Rule("refusal", contains="#clip-005"),
    Rule("safety", contains="#clip-006"),
    Rule("empty", contains="#clip-007"),
    Rule("prompt_blocked", contains="#clip-008"),
    # Fault 20: a label that the definition does not have, always and at the first time only.
    Rule("unknown_label", contains="#clip-009", attribute="pace"),
    Rule("unknown_label", contains="#clip-010", attribute="pace", times=1),
    Rule("out_of_range", contains="#clip-011", attribute="polish"),
    Rule("missing_attribute", contains="#clip-012", attribute="calming", times=1),
    Rule("extra_attribute", contains="#clip-013"),
)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_reply_that_is_not_whole_or_not_permitted_is_never_accepted(
    protocol: str, tmp_path: pathlib.Path, unharmed: dict[Pair, str | None]
) -> None:
    workspace = workspace_with(tmp_path / "w", VIDEOS)
    with serving(rules=ENDINGS) as server:
        outcome = annotate_against(server, workspace, protocol)
        kinds = {pair: row.kind for pair, row in outcome.dead.items()}
        expected = dict.fromkeys(pairs_of(*CUT_OFF), "cut_off")
        # Gemini has no sign for a model that declines: it says so in words, which is no reply of the form asked for.
        declined = "refused" if protocol == "openai" else "invalid_reply"
        for number, kind in zip(REFUSED, (declined, "blocked", "empty_reply", "blocked"), strict=True):
            expected |= dict.fromkeys(pairs_of(number), kind)
        expected |= dict.fromkeys(pairs_of(9, names=["pace"]) | pairs_of(11, names=["polish"]), "invalid_reply")
        assert kinds == expected and not outcome.pending
        assert outcome.values == {pair: value for pair, value in unharmed.items() if pair not in expected}, "neighbours are as ever"
        assert all(row.message for row in outcome.dead.values())
        assert {name for name in outcome.record.details if name.startswith("kind/")} == {f"kind/{kind}" for kind in kinds.values()}

        calls = paid(server)
        mended = {*CUT_OFF, 3, 4, 9, 10, 11, 12} | ({5} if protocol == "gemini" else set())
        assert {calls[pair] for pair in pairs_of(*mended)} == {2}, "one repair, and no more"
        assert {calls[pair] for pair in pairs_of(*{*REFUSED} - mended)} == {1}, "a refusal is not asked about again"
        assert {calls[pair] for pair in pairs_of(13, 14, 15)} == {1}
        assert billed(server, outcome), "what was refused was paid for, and is in the books"

        if protocol == PROTOCOLS[0]:
            again = annotate_against(server, workspace, protocol)
            assert paid(server) == calls and again.dead.keys() == outcome.dead.keys() and again.values == outcome.values


MIXED_UP = (
    # Fault 7: whatever holds this video is refused as a whole.
    Rule("status", status=400, contains="#clip-005"),
    # Fault 19.
    Rule("drop_id", contains="#clip-001", times=1),
    Rule("duplicate_id", contains="#clip-009", times=1),
    Rule("invent_id", contains="#clip-013", times=1),
)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_in_a_pack_nothing_is_assigned_to_the_wrong_video(
    protocol: str, tmp_path: pathlib.Path, unharmed: dict[Pair, str | None]
) -> None:
    with serving(rules=MIXED_UP) as server:
        workspace = workspace_with(tmp_path / "w", VIDEOS)
        outcome = annotate_against(server, workspace, protocol, prompts={"videos_per_request": 4})
        assert {pair: row.kind for pair, row in outcome.dead.items()} == dict.fromkeys(pairs_of(5), "invalid_request")
        assert outcome.values == {pair: value for pair, value in unharmed.items() if pair[0] != "clip-005"}
        calls = paid(server)
        assert calls.keys() == outcome.values.keys(), "a refused request is not paid for"
        # Four videos could not be matched: the dropped one, the two that share an id, the one under an id of nobody.
        assert sum(calls.values()) == len(calls) + 4 * len(DEFINITIONS) and max(calls.values()) == 2
        assert {calls[pair] for pair in pairs_of(1, 13)} == {2}
        assert server.stats()["faults"].keys() == {"status", "drop_id", "duplicate_id", "invent_id"}
        assert billed(server, outcome)


def test_a_poisoned_video_at_the_head_of_a_large_pack_costs_only_itself(
    tmp_path: pathlib.Path, unharmed: dict[Pair, str | None]
) -> None:
    rules = Rule("status", status=400, contains="#clip-000"), Rule("swap_order", contains="#clip-012")
    with serving(rules=rules) as server:
        workspace = workspace_with(tmp_path / "w", VIDEOS)
        outcome = annotate_against(server, workspace, prompts={"videos_per_request": VIDEOS}, pace={"in_flight": 2})
        assert outcome.dead.keys() == pairs_of(0) and not outcome.pending
        assert outcome.values == {pair: value for pair, value in unharmed.items() if pair[0] != "clip-000"}
        assert set(paid(server).values()) == {1}
