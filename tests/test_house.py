"""The rules of the house that a machine can check."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tomllib

BIN = pathlib.Path(sys.executable).parent


def test_layers_hold(repo_root: pathlib.Path) -> None:
    done = subprocess.run([str(BIN / "lint-imports"), "--no-cache"], cwd=repo_root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_code_is_clean(repo_root: pathlib.Path) -> None:
    done = subprocess.run([str(BIN / "ruff"), "check", "--no-cache", "."], cwd=repo_root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_no_module_is_called_a_drawer(repo_root: pathlib.Path) -> None:
    names = {path.stem for room in ("features", "pipelines") for path in (repo_root / room).rglob("*.py")}
    assert not names & {"utils", "util", "helpers", "helper", "manager", "common", "misc"}


def test_constraints_pin_names_and_versions_only(repo_root: pathlib.Path) -> None:
    lines = (repo_root / "constraints.txt").read_text().splitlines()
    assert len(lines) > 100 and all("==" in line and "/" not in line and "@" not in line for line in lines)


def test_every_dependency_is_constrained(repo_root: pathlib.Path) -> None:
    project = tomllib.loads((repo_root / "pyproject.toml").read_text())["project"]
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in (repo_root / "constraints.txt").read_text().splitlines()}
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["speech"], *extras["redis"], *extras["dev"]]
    names = {"".join(name.split("[")[0].split("==")[0].split(">")[0].split("<")[0]).strip().lower() for name in wanted}
    assert names - pinned <= {"setuptools", "pip"}
