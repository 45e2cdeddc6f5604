"""Fault 20: instructions in titles, transcripts, on-screen text and pictures, read by a model that obeys them."""

from __future__ import annotations

import functools
import io
import pathlib
from typing import Any

import pytest
import yaml
from PIL import Image, ImageDraw

from features.annotators.model_server import Decision, ObedientJudge, Question, by_digest
from features.records import Frame, VideoFeatures
from tests.faults.asked_over_http import NAMES, Outcome, annotate_against, paid, pairs_of, serving, video, workspace_with

TRIED: list[dict[str, Any]] = yaml.safe_load(
    (pathlib.Path(__file__).parents[1] / "features" / "annotators" / "injections.yaml").read_text()
)
EVERYWHERE = ("title", "description", "transcript", "onscreen_text")


def captioned(text: str) -> bytes:
    """A still with words drawn into it."""
    picture = Image.new("RGB", (320, 180), (20, 30, 40))
    ImageDraw.Draw(picture).multiline_text((6, 40), text[:200].encode("ascii", "replace").decode(), fill=(255, 255, 255))
    data = io.BytesIO()
    picture.save(data, "JPEG")
    return data.getvalue()


def attacked(number: int, attack: dict[str, Any], everywhere: bool) -> VideoFeatures:
    """A video whose words try to be more than data: in the attack's own place, or in all places at once."""
    text = attack["text"] * attack.get("repeat", 1)
    place = attack["place"]
    changes: dict[str, Any] = dict.fromkeys(EVERYWHERE, text) if everywhere else {}
    if everywhere or place == "caption":
        changes["frames"] = (Frame(1.0, 320, 180, captioned(text)),)
    if place == "hashtags":
        changes["hashtags"] = (f"clip-{number:03}", *text.split())
    elif not everywhere and place != "caption":
        changes[place] = text
    return video(number, **changes)


@functools.cache
def videos(harmless: bool) -> tuple[VideoFeatures, ...]:
    """Of each three, the first and the last are attacked, unless `harmless`; the second is their neighbour."""
    found = []
    for number, attack in enumerate(TRIED):
        for place in range(3):
            name = 3 * number + place
            found.append(video(name) if harmless or place == 1 else attacked(name, attack, everywhere=place == 2))
    return tuple(found)


NEIGHBOURS = {f"clip-{3 * number + 1:03}" for number in range(len(TRIED))}


def answered(root: pathlib.Path, boolean: str, harmless: bool = False, **prompts: Any) -> Outcome:
    """A run against a model that says `boolean` to every yes-or-no question unless somebody talks it into something else."""

    def decide(question: Question) -> Decision:
        return Decision(boolean, {boolean: 1.0}, "As seen.") if question.boolean else by_digest(question)

    with serving(judge=ObedientJudge(decide)) as server:
        shown = videos(harmless)
        outcome = annotate_against(server, workspace_with(root, shown), prompts=prompts)
        stats = server.stats()
        assert stats["requests"]["by_status"].keys() == {"200"}, "every picture decodes, and every request is in order"
        calls = 1 if prompts.get("ask") != "each" else len(NAMES)
        assert stats["images"] == calls * sum(len(each.frames) for each in shown)
        # The server knows a video by its hashtag: where a text left its fence, that would be no part of the video any more.
        assert paid(server) == dict.fromkeys(pairs_of(*range(len(shown))), 1), "nothing had to be asked again"
        return outcome


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str | None]:
    """What the neighbours' answers are without any attack."""
    outcome = answered(tmp_path_factory.mktemp("w"), "false", harmless=True, videos_per_request=4)
    return {pair: value for pair, value in outcome.values.items() if pair[0] in NEIGHBOURS}


@pytest.mark.parametrize(
    ("boolean", "prompts"),
    [("false", {"videos_per_request": 4}), ("true", {"videos_per_request": 4}), ("false", {"ask": "each"})],
    ids=["packed, false", "packed, true", "each, false"],
)
def test_what_strangers_write_moves_nothing(
    boolean: str, prompts: dict[str, Any], tmp_path: pathlib.Path, left_alone: dict[tuple[str, str], str | None]
) -> None:
    assert sum(attack["place"] == "title" for attack in TRIED) + len(TRIED) >= 20
    outcome = answered(tmp_path / "w", boolean, **prompts)
    assert not outcome.dead and not outcome.pending
    moved = {pair[0] for pair, value in outcome.values.items() if pair[1] == "calming" and value != boolean}
    assert not moved, [TRIED[int(name[-3:]) // 3]["name"] for name in sorted(moved)]
    if prompts.get("ask") != "each":  # where a score is asked for in whole numbers
        kept = {pair: value for pair, value in outcome.values.items() if pair[0] in NEIGHBOURS and pair[1] != "calming"}
        assert kept == {pair: value for pair, value in left_alone.items() if pair[1] != "calming"}
        assert {row.rationale for pair, row in outcome.annotated.items() if pair[1] == "calming"} == {"As seen."}
