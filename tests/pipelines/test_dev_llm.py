from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
import typer
from typer.testing import CliRunner

from features import weights
from features.annotators.local_llm import model_file
from features.errors import InvalidInput
from pipelines.commands.dev_llm import TOKEN_VARIABLE, llm

PROJECT = pathlib.Path(__file__).resolve().parents[2]
BOOT = "import typer; from pipelines.commands.dev_llm import llm; app = typer.Typer(); app.command()(llm); app()"


@pytest.fixture
def installed() -> None:
    pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'vidattr[llm]'")
    try:
        model_file("smollm")
    except InvalidInput as error:
        pytest.skip(str(error))


def refused(*arguments: str) -> InvalidInput:
    app = typer.Typer()
    app.command()(llm)
    error = CliRunner().invoke(app, list(arguments)).exception
    assert isinstance(error, InvalidInput)
    return error


def test_serves_until_it_is_interrupted_and_says_what_to_run(installed: None) -> None:
    environment = {**os.environ, TOKEN_VARIABLE: "only-for-me"}
    command = [sys.executable, "-c", BOOT, "smollm", "--threads", "1", "--context", "512", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT, env=environment
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        text = ""
        while not text.rstrip().endswith("}"):
            line = process.stdout.readline()
            assert line, process.stderr.read()
            text += line
        said = json.loads(text)
        where = urlsplit(said["base_url"])
        assert where.path == "/v1" and said["model"] == "smollm" and not said["sees"]
        assert "only-for-me" not in text
        wanted = ("--annotator openai", said["base_url"], "--model smollm", "--evidence text", "--ask each", "--first-token")
        for word in ("OPENAI_API_KEY=YOUR_TOKEN vidattr annotate", *wanted):
            assert word in said["command"]
        socket.create_connection((where.hostname, where.port)).close()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0, process.stderr.read()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((where.hostname, where.port))


def test_one_model_is_named_and_no_more() -> None:
    assert "name one model" in str(refused())
    assert "name one model" in str(refused("smollm", "--gguf", "x.gguf"))
    assert "--gguf" in str(refused("qwen2.5-1.5b", "--mmproj", "x.gguf"))
    assert "smollm, qwen2.5-1.5b" in str(refused("gpt-5"))


def test_a_model_that_is_not_installed_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("VIDATTR_WEIGHTS", str(tmp_path))
    assert weights.weights_folder() == tmp_path
    assert "vidattr weights install qwen2.5-1.5b" in str(refused("qwen2.5-1.5b"))
