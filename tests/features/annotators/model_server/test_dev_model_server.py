"""The server as a process of its own, and who may reach it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import typer
from typer.testing import CliRunner

from features.annotators.model_server import ServerConfig, running, serve
from features.errors import InvalidInput
from pipelines.commands.dev_model_server import TOKEN_VARIABLE, model_server
from tests.features.annotators.model_server.asking_servers import chat

ROOT = Path(__file__).parents[4]
PROGRAM = "import typer; from pipelines.commands.dev_model_server import model_server; typer.run(model_server)"


def test_the_command_serves_says_how_to_use_it_and_stops():
    arguments = ["--json", "--control", "--latency", "0", "--model", "judge-1", "--key", "k-secret"]
    arguments += ["--marker", r'title: "([^"]+)"']
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        lines = ""
        while not lines.endswith("}\n}\n"):
            line = process.stdout.readline()
            assert line, lines
            lines += line
        told = json.loads(lines)
        assert told["openai_url"].startswith("http://127.0.0.1:") and told["openai_url"] == told["gemini_url"] + "/v1"
        assert "--annotator openai" in told["commands"]["openai"] and "--model judge-1" in told["commands"]["gemini"]
        assert told["gemini_url"] in told["commands"]["gemini"] and "k-secret" not in lines
        headers = {"Authorization": "Bearer k-secret"}
        body = chat(model="judge-1")
        assert httpx.post(f"{told['openai_url']}/chat/completions", json=body, headers=headers).status_code == 200
        assert httpx.post(f"{told['openai_url']}/chat/completions", json=body).status_code == 401
        control = f"{told['gemini_url']}/_control"
        stats = httpx.get(f"{control}/stats", headers=headers).json()
        assert stats["accepted"] == 1 and stats["in_flight"] == 0 and list(stats["pairs"]) == ["A quiet lake"]
        assert stats["requests"]["by_status"] == {"200": 1, "401": 1}
        assert httpx.post(f"{control}/slots", json={"slots": 7}, headers=headers).json() == {"slots": 7}
        assert httpx.post(f"{control}/slots", json={"slots": 0}, headers=headers).status_code == 400
        assert httpx.get(f"{control}/requests", headers=headers).json()["requests"][0]["document"] == body
        assert httpx.post(f"{control}/reset", headers=headers).json() == {}
        assert httpx.get(f"{control}/stats", headers=headers).json()["accepted"] == 0
        assert httpx.post(f"{control}/batches/advance", headers=headers).json() == {"moved": 0}
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_others_reach_it_only_with_a_token(monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with pytest.raises(InvalidInput, match="token"):
        serve(ServerConfig(), host="0.0.0.0")
    app = typer.Typer()
    app.command()(model_server)
    for arguments in (["--host", "0.0.0.0"], ["--host", "example.org"], ["--key", "a", "--token", "b"]):
        result = CliRunner().invoke(app, arguments)
        assert isinstance(result.exception, InvalidInput) and "token" in str(result.exception)


def test_a_port_that_is_taken_is_told(monkeypatch):
    with running() as server:
        with pytest.raises(InvalidInput, match=f"127.0.0.1:{server.port}"):
            serve(ServerConfig(), server.port)
        with pytest.raises(OSError):
            with running(port=server.port):
                pass


def test_control_exists_only_where_it_was_asked_for(serving):
    assert httpx.get(f"{serving().server.gemini_url}/_control/stats").status_code == 404
    kept = serving(key="k", control=True)
    assert httpx.get(f"{kept.server.gemini_url}/_control/stats").status_code == 200, "loopback needs no key"
    assert "hidden-key" not in repr(ServerConfig(key="hidden-key"))
