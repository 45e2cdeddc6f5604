"""What the tests of answers share: both stores, a Redis server, and an annotator that counts what it is asked."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import pathlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from features.annotators.answers import Answers, StoredAnswer, open_answers
from features.annotators.protocol import AnnotationReply, AnnotationRequest, AnnotatorIdentity, Answer, Refusal, Usage
from features.attributes.definition import AttributeDefinition
from features.records import Moment, VideoFeatures

IDENTITY = AnnotatorIdentity("llm", "model-1", "prompt-1", "temperature=0")
CALM = AttributeDefinition("calm", "Calm", "Is it calm?", "Calm is calm.")
FUNNY = AttributeDefinition("funny", "Funny", "Is it funny?", "Funny is funny.")
WARM = AttributeDefinition("warm", "Warm", "Is it warm?", "Warm is warm.")
ANSWER = Answer(
    "calm",
    "true",
    0.75,
    "slow waves",
    900,
    800,
    12,
    0.001,
    1764000000.5,
    moments=(Moment(0.5, 2.25), Moment(7.1, 7.1)),
    model="model-1-0611",
)
ONE = Usage(1, 900, 800, 12, 0.001)


def stored(key: str, answer: Answer = ANSWER, identity: AnnotatorIdentity = IDENTITY, **more: str) -> StoredAnswer:
    return StoredAnswer(
        key, answer, identity, **{"video_id": "v1", "content_key": "content", "definition_hash": "definition", **more}
    )


def request(video: str, *definitions: AttributeDefinition, content: str = "") -> AnnotationRequest:
    return AnnotationRequest(VideoFeatures(video, "hash", content or "content of " + video, "extractor"), definitions)


class Asked:
    """An annotator that says true, keeps what it was asked, and first does what a test wants of it."""

    identity = IDENTITY

    def __init__(self, before: Callable[[AnnotationRequest], Coroutine[Any, Any, None]] | None = None) -> None:
        self.before = before
        self.asked: list[tuple[str, ...]] = []
        self.refused: set[str] = set()
        self.silent: set[str] = set()

    def open(self) -> None: ...

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        asked = tuple(definition.name for definition in request.definitions)
        self.asked.append(asked)
        if self.before is not None:
            await self.before(request)
        names = [name for name in asked if name not in self.silent]
        return AnnotationReply(
            tuple(dataclasses.replace(ANSWER, attribute=name) for name in names if name not in self.refused),
            tuple(Refusal(name, "refused", "no") for name in names if name in self.refused),
            ONE,
            "the budget is spent" if len(names) < len(asked) else "",
        )

    async def close(self) -> None: ...


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A real Redis on loopback; without persistence unless the options say otherwise."""

    def __init__(self, *options: str) -> None:
        program = shutil.which("redis-server")
        if program is None:
            pytest.skip("redis-server is not installed")
        self.port = free_port()
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--databases", "1000", *options]
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.2):
                return
            time.sleep(0.05)
        raise AssertionError("redis-server did not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


_databases = itertools.count()


@pytest.fixture(scope="session")
def redis_for_all() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "redis"])
def location(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> str:
    """Where an empty store of each kind is."""
    if request.param == "sqlite":
        return str(tmp_path / "below" / "answers.sqlite")
    server: RedisServer = request.getfixturevalue("redis_for_all")
    return f"{server.url}/{next(_databases)}"


@pytest.fixture
def store(location: str) -> Iterator[Answers]:
    answers = open_answers(location)
    yield answers
    answers.close()
