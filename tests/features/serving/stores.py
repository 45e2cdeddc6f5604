"""Real stores for tests: a registered workspace, annotations in a few words, and a Redis server of our own."""

from __future__ import annotations

import contextlib
import itertools
import pathlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from features.attributes import registry
from features.attributes.definition import AttributeDefinition
from features.records import Annotation, Counts, RunRecord, to_table
from features.serving.packed import PackedRows
from features.serving.publish import Publisher, packed_rows
from features.serving.resolution import by_video, resolve
from features.workspace import Workspace, new_run_id

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def at(seconds: float) -> datetime:
    """A moment, counted from T0."""
    return T0 + timedelta(seconds=seconds)


def define(name: str, **changes: Any) -> AttributeDefinition:
    """A boolean attribute of this name."""
    fields: dict[str, Any] = {"title": name.title(), "question": f"Is it {name}?", "definition": f"It feels {name}."}
    return AttributeDefinition(name=name, **{**fields, **changes})


FUNNY = define("funny")
TONE = define("tone", value_type="category", labels=("calm", "neutral", "loud"))
PACE = define("pace", value_type="score", score_range=(1.0, 5.0))


def say(
    video_id: str,
    definition: AttributeDefinition,
    value: str | None,
    source: str = "llm",
    seconds: float = 0.0,
    probability: float | None = None,
    **changes: Any,
) -> Annotation:
    """One opinion, at a moment counted from T0."""
    fields: dict[str, Any] = {
        "definition_hash": definition.definition_hash,
        "rationale": "",
        "annotator": f"{source}-1",
        "answer_key": f"{video_id}/{definition.name}/{source}/{seconds}",
        "annotated_at": at(seconds),
    }
    return Annotation(
        video_id=video_id,
        attribute=definition.name,
        value=value,
        probability=probability,
        source=source,
        **{**fields, **changes},
    )


def register(store: Any, definitions: Sequence[AttributeDefinition], retire: bool = False) -> registry.Registration:
    """Plans and applies."""
    planned = registry.plan(registry.registered_attributes(store), definitions)
    return registry.apply(store, definitions, planned, retire=retire)


def registered_store(folder: pathlib.Path, definitions: Sequence[AttributeDefinition], online: str = "sqlite") -> Any:
    """A store of a new workspace below `folder` with the attributes registered."""
    store = registry.open_store(str(folder / "workspace"), online)
    register(store, definitions)
    return store


def believed_rows(
    publisher: Publisher, annotations: Sequence[Annotation], definitions: Sequence[AttributeDefinition], seconds: float
) -> tuple[list[str], PackedRows]:
    """What annotations that were read at a moment come to, ready to publish."""
    return packed_rows(publisher.layout, by_video(resolve(annotations, definitions).rows), at(seconds))


def publish(
    store: Any,
    annotations: Sequence[Annotation],
    definitions: Sequence[AttributeDefinition],
    seconds: float = 0.0,
    **options: Any,
) -> Any:
    """Resolves and publishes annotations that were read at a moment counted from T0."""
    publisher = Publisher(store, **options)
    try:
        return publisher.publish(*believed_rows(publisher, annotations, definitions, seconds), f"run{seconds:g}")
    finally:
        publisher.close()


def write_annotations(workspace: Workspace, annotations: Sequence[Annotation]) -> None:
    """Commits a run of the annotate stage with these answers."""
    run_id, now = new_run_id(), datetime.now(UTC)
    files = [workspace.write_table("annotations", run_id, to_table(annotations, Annotation))]
    workspace.commit(RunRecord(run_id, "annotate", now, now, counts=Counts(), files={"annotations": files}))


def wide(store: Any, video_ids: Sequence[str], *columns: str) -> dict[str, list[Any]]:
    """What Feast's own client says of the wide view."""
    refs = [f"{registry.WIDE_VIEW}:{column}" for column in columns]
    rows = [{registry.JOIN_KEY: video_id} for video_id in video_ids]
    answer: dict[str, list[Any]] = store.get_online_features(refs, rows).to_dict()
    return answer


@contextlib.contextmanager
def redis_server(*options: str) -> Iterator[str]:
    """host:port of a Redis server without persistence; skips the test where redis-server is not installed."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--databases", "1000", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                break
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


_databases = itertools.count()


@pytest.fixture(scope="session")
def redis_address() -> Iterator[str]:
    """One server for all tests."""
    with redis_server() as address:
        yield address


@pytest.fixture
def redis_url(redis_address: str) -> str:
    """A database of its own for each test."""
    return f"redis://{redis_address}/{next(_databases)}"


@pytest.fixture(params=["sqlite", "redis"])
def online(request: pytest.FixtureRequest) -> str:
    """Each online store in turn."""
    return "sqlite" if request.param == "sqlite" else str(request.getfixturevalue("redis_url"))
