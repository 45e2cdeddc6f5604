from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.features.annotators.batch_jobs import provider_server
from tests.features.annotators.batch_jobs.world import World


@pytest.fixture
def provider() -> Iterator[Any]:
    with provider_server.running() as running:
        yield running


@pytest.fixture(params=["openai", "gemini"])
def world(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, provider: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    monkeypatch.setenv("BATCH_TEST_KEY", "secret-key")
    made = World(request.param, tmp_path, provider)
    yield made
    made.batches.close()
    made.answers.close()
