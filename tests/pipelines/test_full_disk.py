"""A disk that fills up in the middle of a run."""

from __future__ import annotations

import os
import pathlib
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from features.videos.sample import write_sample
from features.workspace import Workspace
from tests.conftest import FRAMES_ONLY


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system of 200 KB."""
    place = tmp_path / "small"
    place.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)], capture_output=True).returncode
    ):
        pytest.skip("mounting a small tmpfs is not allowed here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_it_is_said_and_nothing_is_half_written(
    vidattr: Callable[..., Any],
    small_disk: pathlib.Path,
    tmp_path: pathlib.Path,
    weights_folder: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_sample(str(tmp_path / "videos"), 8, 0)
    place = small_disk / "workspace"
    place.mkdir()
    (place / "vidattr.yaml").write_text(FRAMES_ONLY)
    arguments = ("extract", "--videos", tmp_path / "videos" / "manifest.jsonl", "--workspace", place)
    outcome = vidattr(*arguments)
    assert outcome.exit_code == 2 and "the disk is full" in outcome.err and "while running" not in outcome.err, outcome.err
    assert "Traceback" not in outcome.err + caplog.text
    assert Workspace(str(place)).runs() == []
    left = [path.name for path in small_disk.rglob("*") if path.is_file() and path.name != "vidattr.yaml"]
    assert all(name.endswith(".parquet") and not name.startswith(".") for name in left), left
