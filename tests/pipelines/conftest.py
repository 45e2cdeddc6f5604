"""Fixtures of the stages' tests."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest

from features.workspace import Workspace
from tests.pipelines.hand_made import write_features


@pytest.fixture
def with_features(tmp_path: pathlib.Path) -> Callable[..., Workspace]:
    """Makes a workspace that has features for the given ids."""

    def make(*ids: str) -> Workspace:
        workspace = Workspace(str(tmp_path / "workspace"))
        write_features(workspace, ids)
        return workspace

    return make
