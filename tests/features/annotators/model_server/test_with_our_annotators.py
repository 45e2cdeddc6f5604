"""Our own clients and the annotators around them against the server: what is paid, and what stays the same in front."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from features.annotators.gemini import GeminiClient
from features.annotators.golden_head import GoldenExample
from features.annotators.model import ModelAnnotator
from features.annotators.model_server import Rule
from features.annotators.openai_compatible import OpenAIClient
from features.annotators.packing import Packed
from features.annotators.prompt import PromptWriter
from features.annotators.protocol import AnnotationReply, AnnotationRequest, AnnotatorIdentity
from features.annotators.repair import Repaired
from features.annotators.settings import ModelSettings, PromptSettings
from features.attributes.definition import AttributeDefinition
from features.records import Annotation, Frame, VideoFeatures
from tests.features.annotators.model_server.asking_servers import picture

DEFINITIONS = (
    AttributeDefinition("calming", "Calming", "Is it calming?", "It lets viewers breathe out."),
    AttributeDefinition("pace", "Pace", "How fast?", "The cutting.", value_type="category", labels=("slow", "medium", "fast")),
    AttributeDefinition("polish", "Polish", "How polished?", "All of it.", value_type="score", score_range=(1.0, 5.0)),
)
NAMES = tuple(definition.name for definition in DEFINITIONS)
MARKER = r'title: "([^"]+)"'


def video(title: str) -> VideoFeatures:
    frames = tuple(Frame(timestamp_s=at, jpeg=picture(), width=64, height=36) for at in (1.0, 5.0))
    return VideoFeatures(title, "h", title, "1", title=title, duration_s=12.0, frames=frames)


def rated(count: int) -> list[GoldenExample]:
    """Videos that people rated, for each definition."""
    values = {"calming": ("true", "false"), "pace": ("slow", "fast"), "polish": ("1", "4.5")}
    return [
        GoldenExample(
            VideoFeatures(f"rated-{each.name}-{number}", "h", "k", "1", title=f"Rated {number}"),
            Annotation(
                f"rated-{each.name}-{number}", each.name, each.definition_hash, value, None, "said so", "gold", "raters", ""
            ),
        )
        for each in DEFINITIONS
        for number, value in enumerate(values[each.name] * (count // 2))
    ]


def annotated(
    served: Any, provider: str, requests: Sequence[AnnotationRequest], examples: int = 0, **settings: Any
) -> list[AnnotationReply]:
    """The replies to requests that are made at the same time."""
    name, url = {
        "openai": ("gpt-4.1-mini", served.server.openai_url),
        "gemini": ("gemini-2.5-flash", served.server.gemini_url),
    }[provider]
    model = ModelSettings(name, base_url=url, timeout_s=20.0)
    wanted = PromptSettings(examples=examples, **settings)
    writer = PromptWriter(wanted, model, rated(examples), DEFINITIONS)
    clients: dict[str, Callable[[ModelSettings], Any]] = {"openai": OpenAIClient, "gemini": GeminiClient}
    identity = AnnotatorIdentity("llm", name)
    inner = ModelAnnotator(clients[provider](model), writer, identity, lambda usage: 0.0)
    annotator = Packed(Repaired(inner), wanted.videos_per_request)

    async def run() -> list[AnnotationReply]:
        annotator.open()
        try:
            return list(await asyncio.gather(*(annotator.annotate(request) for request in requests)))
        finally:
            await annotator.close()

    return asyncio.run(run())


def paid_once(stats: Any, titles: Sequence[str]) -> bool:
    return bool(stats["pairs"] == {title: dict.fromkeys(NAMES, 1) for title in titles})


@pytest.mark.parametrize("provider", ["openai", "gemini"])
@pytest.mark.parametrize("shape", [{}, {"rationale": False, "moments": False}, {"videos_per_request": 3}, {"examples": 8}])
def test_every_pair_is_answered_and_paid_exactly_once(serving, provider, shape):
    served = serving(marker=MARKER)
    titles = [f"Video {number}" for number in range(6)]
    replies = annotated(served, provider, [AnnotationRequest(video(title), DEFINITIONS) for title in titles], **shape)
    assert [[answer.attribute for answer in reply.answers] for reply in replies] == [list(NAMES)] * 6
    stats = served.server.stats()
    assert paid_once(stats, titles) and stats["requests"]["by_status"] == {"200": stats["accepted"]}
    assert stats["accepted"] == (2 if shape.get("videos_per_request") else 6) and stats["images"] == 12
    assert sum(reply.spent.input_tokens for reply in replies) == stats["tokens"]["input"]
    (prefixes,) = stats["prefixes_by_definitions"].values()
    assert list(prefixes.values()) == [stats["accepted"]]


@pytest.mark.parametrize("provider", ["openai", "gemini"])
@pytest.mark.parametrize("examples", [0, 8])
def test_one_question_at_a_time_shares_the_video(serving, provider, examples):
    served = serving(marker=MARKER, cache_minimum_tokens=0, questions=tuple((each.question, each.name) for each in DEFINITIONS))
    titles = ["A lake", "A race"]
    asked = [AnnotationRequest(video(title), (definition,)) for title in titles for definition in DEFINITIONS]
    replies = annotated(served, provider, asked, examples, ask="each")
    assert all(len(reply.answers) == 1 for reply in replies)
    stats = served.server.stats()
    assert paid_once(stats, titles)
    assert stats["video_prefixes"] == {"videos": 2, "same": 4, "changed": 0} and list(stats["prefixes"].values()) == [6]
    assert stats["tokens"]["cached"] > 0.5 * 4 / 6 * stats["tokens"]["input"]


@pytest.mark.parametrize("provider", ["openai", "gemini"])
@pytest.mark.parametrize("shape", [{}, {"videos_per_request": 3}, {"ask": "each"}])
def test_repairs_begin_as_the_requests_did(serving, provider, shape):
    served = serving(marker=MARKER, rules=(Rule("text", text="As you like.", turn="first"),))
    sets = [(definition,) for definition in DEFINITIONS] if shape.get("ask") else [DEFINITIONS]
    asked = [AnnotationRequest(video(title), each) for title in ("A lake", "A race", "A cat") for each in sets]
    replies = annotated(served, provider, asked, **shape)
    assert sum(len(reply.answers) for reply in replies) == 9
    stats = served.server.stats()
    assert (
        stats["repairs"] * 2
        == stats["accepted"]
        == {"": 6, "each": 18}[shape.get("ask", "")] // (3 if shape.get("videos_per_request") else 1)
    )
    assert stats["repair_first_turns"] == {"same": stats["repairs"], "changed": 0}
    assert stats["video_prefixes"]["changed"] == 0
    assert all(len(prefixes) == 1 for prefixes in stats["prefixes_by_definitions"].values())


def test_prefixes_that_change_are_noticed(serving):
    served = serving(marker=MARKER)
    for wanted in ({}, {"rationale": False}):
        annotated(served, "openai", [AnnotationRequest(video("A lake"), DEFINITIONS)], **wanted)
    for frames in (1, 2):
        annotated(served, "openai", [AnnotationRequest(video("A lake"), DEFINITIONS[:1])], ask="each", frames=frames)
    stats = served.server.stats()
    assert {names: len(found) for names, found in stats["prefixes_by_definitions"].items()} == {",".join(NAMES): 2}
    assert stats["video_prefixes"] == {"videos": 1, "same": 0, "changed": 1}
