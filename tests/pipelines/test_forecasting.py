"""What a run is expected to take, against what it took: over the socket, with the server's own count of tokens."""

from __future__ import annotations

import math
import pathlib
import random
from datetime import UTC, datetime, timedelta

import pytest

from features.records import Counts, RunRecord, VideoFeatures, to_table
from features.workspace import Workspace, new_run_id
from pipelines import annotate
from pipelines.annotate import AnnotateConfig
from tests.faults.asked_over_http import DEFINITIONS, annotate_against, asking, billed, serving, video, workspace_with

WORDS = ("lake", "morning", "swim", "cold", "water", "coffee", "dog", "runs", "over", "the", "bridge", "and", "nobody", "minds")
PILOT, RUN = 50, 300


def told(count: int, start: int = 0) -> list[VideoFeatures]:
    """Videos without pictures, with texts of very different lengths."""
    words = random.Random(7 + start)
    return [
        video(
            number,
            frames=(),
            description=" ".join(words.choices(WORDS, k=words.randrange(60))),
            transcript=" ".join(words.choices(WORDS, k=int(words.expovariate(1 / 120)))),
        )
        for number in range(start, start + count)
    ]


def add(workspace: Workspace, videos: list[VideoFeatures]) -> None:
    """Features of another extract run."""
    later = datetime.now(UTC) + timedelta(seconds=1)
    run_id = new_run_id(later)
    file = workspace.write_table("features", run_id, to_table(videos, VideoFeatures))
    counts = Counts(len(videos), len(videos), 0, 0)
    workspace.commit(RunRecord(run_id, "extract", later, later, counts=counts, files={"features": [file]}))


@pytest.mark.parametrize(("protocol", "packed"), [("openai", 1), pytest.param("gemini", 4, marks=pytest.mark.soak)])
def test_after_a_pilot_the_forecast_is_within_a_tenth_of_the_bill(protocol: str, packed: int, tmp_path: pathlib.Path) -> None:
    workspace, prompts = workspace_with(tmp_path / "w", told(PILOT)), {"videos_per_request": packed}
    with serving() as server:
        pilot = annotate_against(server, workspace, protocol, prompts=prompts).record
        cold = pilot.forecast
        assert cold["requests"] == math.ceil(PILOT / packed) and "corrected" not in cold["basis"]
        assert pilot.cost_usd / 2 < cold["cost_usd"] < 2 * pilot.cost_usd, "nothing is known yet: the right order"

        add(workspace, told(RUN, start=PILOT))
        config = AnnotateConfig(workspace, DEFINITIONS, asking(server, protocol, prompts=dict(prompts)))
        asked = server.stats()["generations"]
        expected = annotate.dry_run(config)
        assert server.stats()["generations"] == asked, "a forecast asks nobody"
        server.reset()
        outcome = annotate_against(server, workspace, protocol, prompts=prompts)
        record = outcome.record
        assert billed(server, outcome)
    assert (expected["videos"], expected["pairs"], expected["reused"]) == (RUN, RUN * len(DEFINITIONS), PILOT * len(DEFINITIONS))
    assert f"corrected by {PILOT} earlier exchanges" in expected["basis"]
    # Packs are as full as the moment allows, in the pilot and in the run: what is said of them is no closer than that.
    near = 0.1 if packed == 1 else 0.25
    assert expected["requests"] == RUN / packed <= record.details["detail/requests"]
    for forecast in (expected, record.forecast):
        assert forecast["cost_usd"] == pytest.approx(record.cost_usd, rel=near)
        assert forecast["input_tokens"] == pytest.approx(record.input_tokens, rel=near)
        assert forecast["output_tokens"] == pytest.approx(record.output_tokens, rel=near)
        assert forecast["low_usd"] <= forecast["cost_usd"] <= forecast["high_usd"]
