"""The planted student, for the tests in here."""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def planted() -> ModuleType:
    """`planted.py`, loaded once a process whoever asks first."""
    name = "planted_student"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, pathlib.Path(__file__).parent / "planted.py")
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
