"""Tiny distributions, installed on the fly: a folder on `sys.path` with a module and its metadata."""

from __future__ import annotations

import importlib
import pathlib
import sys
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest


def install(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch, name: str, files: Mapping[str, str], entry_points: Mapping[str, str]
) -> None:
    """Puts a distribution where Python finds it, until the test ends."""
    root = folder / f"site-{name}"
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    about = root / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "".join(f"{key} = {value}\n" for key, value in entry_points.items())
    (about / "entry_points.txt").write_text(f"[vidattr.annotators]\n{lines}")
    monkeypatch.syspath_prepend(str(root))
    importlib.invalidate_caches()
    for path in files:
        package = path.split("/")[0].removesuffix(".py")
        for loaded in [each for each in sys.modules if each == package or each.startswith(f"{package}.")]:
            monkeypatch.delitem(sys.modules, loaded)


def entry_points_of(pyproject: str) -> dict[str, Any]:
    """The annotators that a pyproject.toml names."""
    found: dict[str, Any] = tomllib.loads(pyproject)["project"]["entry-points"]["vidattr.annotators"]
    return found
