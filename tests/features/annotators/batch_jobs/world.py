"""A workspace, a store and a prompt writer beside a provider on loopback, spoken to through the provider's own SDK."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from features.annotators.answers import Answers, open_answers
from features.annotators.batch_jobs import Batches, Collected, Limits, Submitted, collect, open_batches, submit
from features.annotators.prompt import PromptWriter
from features.annotators.protocol import AnnotationRequest, AnnotatorIdentity, Usage
from features.annotators.settings import ModelSettings, PromptSettings
from features.attributes.definition import AttributeDefinition
from features.records import VideoFeatures
from features.workspace import Workspace
from tests.features.annotators.batch_jobs import provider_server

FUNNY = AttributeDefinition("funny", "Funny", "Is it funny?", "It makes people laugh.", evidence=("title",))
CALM = AttributeDefinition("calm", "Calm", "Is it calm?", "It calms people down.", evidence=("title",))
BATCH_PRICE = 0.5e-6
"""US dollars a token, at half the price."""


def video(number: int, title: str = "") -> VideoFeatures:
    title = title or f"A cat falls off shelf {number}"
    return VideoFeatures(f"v{number}", "h", f"content-{number}-{title}", "x", title=title, duration_s=10.0)


def reply_text(**values: bool) -> str:
    """What the model writes about one video."""
    return json.dumps({"id": "v1", "attributes": {name: {"rationale": "So.", "value": value} for name, value in values.items()}})


@functools.lru_cache
def _writer(settings: PromptSettings, model: ModelSettings, definitions: tuple[AttributeDefinition, ...]) -> PromptWriter:
    return PromptWriter(settings, model, (), definitions)


@dataclass
class World:
    """Everything that a submit and a collect need, and a clock that a test moves."""

    kind: str
    root: pathlib.Path
    provider: Any
    now: float = 1_800_000_000.0
    videos: list[VideoFeatures] = field(default_factory=lambda: [video(number) for number in range(4)])
    definitions: tuple[AttributeDefinition, ...] = (FUNNY, CALM)
    settings: PromptSettings = field(default_factory=lambda: PromptSettings(evidence="text", moments=False))
    slept: list[float] = field(default_factory=list)
    on_sleep: Callable[[], None] = lambda: None
    model_name: str = "test-model"

    def __post_init__(self) -> None:
        self.workspace = Workspace(str(self.root / "w"))
        self.answers: Answers = open_answers(str(self.root / "answers.sqlite"))
        self.batches: Batches = self.open()
        self.runs = 0
        self.provider.clock = lambda: self.now

    @property
    def model(self) -> ModelSettings:
        url = self.provider.openai_url if self.kind == "openai" else self.provider.gemini_url
        return ModelSettings(self.model_name, base_url=url, api_key_env="BATCH_TEST_KEY")

    def open(self) -> Batches:
        return open_batches(self.kind, self.model)

    @property
    def writer(self) -> PromptWriter:
        return _writer(self.settings, self.model, self.definitions)

    @property
    def identity(self) -> AnnotatorIdentity:
        return AnnotatorIdentity("llm", self.model_name, self.writer.version, self.writer.parameters)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        self.on_sleep()

    def look_up(self, wanted: Collection[str]) -> Iterator[VideoFeatures]:
        return (each for each in self.videos if each.video_id in wanted)

    def requests(self) -> list[AnnotationRequest]:
        return [AnnotationRequest(each, self.definitions) for each in self.videos]

    def submit(self, limits: Limits | None = None) -> Submitted:
        self.runs += 1
        return submit(
            self.workspace,
            self.requests(),
            self.writer,
            self.identity,
            self.settings,
            self.batches,
            self.answers,
            f"run-{self.runs:03}",
            lambda: self.now,
            self.sleep,
            limits,
        )

    def collect(self, patience_s: float = 86_400.0, cancel_wait_s: float = 30.0) -> Collected:
        self.runs += 1

        def cost(usage: Usage) -> float:
            return BATCH_PRICE * (usage.input_tokens + usage.output_tokens)

        return collect(
            self.workspace,
            self.batches,
            self.look_up,
            self.writer,
            self.identity,
            cost,
            self.answers,
            f"run-{self.runs:03}",
            lambda: self.now,
            self.sleep,
            patience_s,
            cancel_wait_s,
        )

    # What the provider's jobs do

    def result(self, request: dict[str, Any], text: str = "", **options: Any) -> dict[str, Any]:
        """A result line."""
        make = provider_server.openai_result if self.kind == "openai" else provider_server.gemini_result
        document: dict[str, Any] = make(request, text or reply_text(funny=True, calm=False), **options)
        return document

    def failure(self, request: dict[str, Any], code: str, status: int | None = None) -> dict[str, Any]:
        """A line about a request that failed."""
        make = provider_server.openai_error if self.kind == "openai" else provider_server.gemini_error
        document: dict[str, Any] = make(request, code, status)
        return document

    def finish(self, job: Any, text: str = "") -> None:
        """Lets a job answer everything."""
        job.results = [self.result(request, text) for request in job.requests]
        job.state = "done"

    def stored(self) -> dict[tuple[str, str], str]:
        """(video, attribute): value of all that is stored under the identity of now."""
        places = {
            self.identity.answer_key(each.content_key, definition.definition_hash): (each.video_id, definition.name)
            for each in self.videos
            for definition in self.definitions
        }
        return {places[key]: answer.value for key, answer in self.answers.get_many(places).items()}
