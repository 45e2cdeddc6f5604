"""Every command of the README is run, in order, on what `make demo` makes."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def demo(repo_root: pathlib.Path, weights_folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder in which `make demo` has run, with a feature repository of its own."""
    if not (pathlib.Path(sys.prefix) / ".installed").exists():
        pytest.skip("not in an environment that `make env` made: run `make test`")
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(repo_root / "feature_repo", folder / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
    command = ["make", "demo", f"VENV={sys.prefix}", f"DEMO={folder / 'demo'}"]
    done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "vidattr get sample-0-000" in done.stdout
    return folder


@contextlib.contextmanager
def inside(folder: pathlib.Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "docs/add-an-annotator.md",
        "docs/add-an-attribute.md",
        "docs/annotate-with-a-model.md",
        "docs/batch-jobs.md",
        "docs/dataflow.md",
        "docs/extraction.md",
        "docs/flink.md",
        "docs/local-model.md",
        "docs/near-duplicates.md",
        "docs/vertex-ai.md",
        "docs/vllm.md",
    ],
)
def test_links_lead_somewhere(repo_root: pathlib.Path, document: str) -> None:
    text = (repo_root / document).read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (repo_root / document).parent.joinpath(target).exists(), target


def test_every_command_works(repo_root: pathlib.Path, demo: pathlib.Path, vidattr: Callable[..., Any]) -> None:
    from features.annotators.model_server import ServerConfig, running

    with running(ServerConfig()) as server:
        text = (repo_root / "README.md").read_text().replace("http://127.0.0.1:8100", server.gemini_url)
        _run_all(blocks(text, "bash"), repo_root, demo, vidattr)


def _run_all(found: list[str], repo_root: pathlib.Path, demo: pathlib.Path, vidattr: Callable[..., Any]) -> None:
    lines = [line for block in found for line in block.splitlines() if line]
    done = 0
    for line in lines:
        words = shlex.split(line)
        if words[0] == "vidattr":
            with inside(demo):
                outcome = vidattr(*words[1:])
            assert outcome.exit_code == 0, (line, outcome)
            done += 1
        elif words[0] == "make":
            subprocess.run(["make", "--dry-run", *words[1:]], cwd=repo_root, check=True, capture_output=True)
        elif words[0] == "cp":
            subprocess.run(words, cwd=demo, check=True)
        else:
            assert line == "source .venv/bin/activate"
    assert done >= 15


def test_the_python_snippet_runs(repo_root: pathlib.Path, demo: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = blocks((repo_root / "README.md").read_text(), "python")
    with inside(demo):
        exec(compile(snippet, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert "(3, " in out and "gold" in out
