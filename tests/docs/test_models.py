"""The pages about models: commands that need no key, no cloud and no graphics card are run, all others parsed."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import typer

from features.annotators import reply
from features.annotators.control import read_orders
from features.annotators.model_server import Rule, RunningServer, ServerConfig, running
from features.annotators.settings import PaceSettings
from features.annotators.spend import Prices
from features.records import Annotation, Failure, VideoFeatures
from features.workspace import Workspace
from pipelines.cli import app
from pipelines.configuration import FILE, load_configuration
from tests.faults.asked_over_http import video, workspace_with

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE, VERTEX, VLLM = (ROOT / "docs" / name for name in ("annotate-with-a-model.md", "vertex-ai.md", "vllm.md"))
PAGES = (PAGE, VERTEX, VLLM, ROOT / "docs" / "batch-jobs.md", ROOT / "docs" / "local-model.md")
DOCUMENTED = "http://127.0.0.1:8100"
"""Address of the model server in the page."""
VIDEOS = 8
REFUSED = "A lake on day 3"
"""Title of a video that the first model refuses."""
ENVIRONMENT = re.compile(r"(OPENAI|GEMINI|GOOGLE|VIDATTR)_")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the file whose name its first line gives as a comment."""

    language: str
    text: str

    @property
    def file(self) -> str:
        named = re.match(r"# ([\w.-]+\.yaml)\b", self.text)
        return named[1] if named else ""


def blocks(page: pathlib.Path) -> list[Block]:
    """All fenced blocks of a page, indented ones too."""
    found = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(*each) for each in found]


def lines(text: str) -> list[str]:
    """A shell block's commands, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", text)
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.strip().startswith("#")]


def words_of(line: str) -> list[str]:
    """What follows `vidattr` in a shell line; nothing for other commands."""
    words = shlex.split(line, comments=True)
    while words and re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    return words[1:] if words and words[0] == "vidattr" else []


def check_flags(words: list[str]) -> None:
    """Parses a command line without running it. Raises the usage error of a command, flag or value that does not exist."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("vidattr", list(words))
    while hasattr(command, "resolve_command"):
        left = [*context._protected_args, *context.args]
        if not left and command.invoke_without_command:
            return
        name, command, rest = command.resolve_command(context, left)
        context = command.make_context(name, rest, parent=context)


def documented(page: pathlib.Path) -> list[str]:
    """All commands of ours on a page."""
    return [line for block in blocks(page) if block.language in ("", "sh", "bash") for line in lines(block.text) if words_of(line)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_on_the_page_exists(page: pathlib.Path) -> None:
    commands = documented(page)
    assert commands
    for line in commands:
        try:
            check_flags(words_of(line))
        except Exception as error:
            pytest.fail(f"{page.name}: {line}: {getattr(error, 'message', '') or error}")


@pytest.mark.parametrize("words", [["annotate", "--in-fligth", "4"], ["answers", "stat"], ["annotate", "--frames", "many"]])
def test_what_does_not_exist_is_noticed(words: list[str]) -> None:
    with pytest.raises(typer.BadParameter.__mro__[1]):
        check_flags(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_in_running_text_exist_too(page: pathlib.Path) -> None:
    """Those of our own commands; foreign ones stand in tables and blocks of servers, or beside their server's name."""
    foreign = set(re.findall(r"--[a-z][\w-]+", "\n".join(block.text for block in blocks(page) if block.language == "sh")))
    known = {option for command in _commands(typer.main.get_command(app)) for each in command.params for option in _names(each)}
    text = re.sub(r"^ *```.*?^ *```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    named = {match for quoted in re.findall(r"`([^`]+)`", text) for match in re.findall(r"(?<![\w-])--[a-z][\w-]+", quoted)}
    elsewhere = {"--api-key", "--max-logprobs", "--guided-decoding-disable-any-whitespace", "--help"}
    assert named - known - foreign - elsewhere == set()


def test_every_help_can_be_shown(vidattr: Callable[..., Any]) -> None:
    for path in ("", "annotate", "prompt show", "answers stats", "answers export", "answers prune", "dev model-server", "dev llm"):
        outcome = vidattr(*path.split(), "--help")
        assert outcome.exit_code == 0 and "Usage: vidattr" in outcome.out, (path, outcome)


def _commands(command: Any) -> Iterator[Any]:
    yield command
    for each in getattr(command, "commands", {}).values():
        yield from _commands(each)


def _names(parameter: Any) -> list[str]:
    return [*parameter.opts, *parameter.secondary_opts]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_to_copy_are_taken(page: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for block in blocks(page):
        if block.language != "yaml":
            continue
        path = tmp_path / block.file
        path.write_text(block.text)
        if block.file == FILE:
            settings = load_configuration(Workspace(str(tmp_path)))
            assert settings.annotator in ("gemini", "openai")
        elif block.file == "control.yaml":
            assert read_orders(path.read_bytes(), str(path), PaceSettings()).paused
        elif block.file == "prices.yaml":
            own = re.findall(r"^  (\S+): \{", block.text, re.MULTILINE)
            assert own and all(Prices.load(str(path)).of(model) for model in own)
        else:
            pytest.fail(f"{page.name}: say in a comment what file this is: {block.text[:60]!r}")


def test_every_kind_of_dead_letter_is_explained() -> None:
    assert reply.__doc__
    known = set(re.findall(r"^    ([a-z]+_?[a-z]+)  +\S", reply.__doc__, re.MULTILINE)) - {"kind"}
    known |= set(re.findall(r"`([a-z]+_[a-z]+)`[,)]", reply.__doc__.partition("Permanent")[2]))
    assert {"refused", "cut_off", "no_evidence", "too_large"} <= known
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE))
    assert known <= rows, known - rows


def test_the_prices_on_the_page_are_those_of_the_table() -> None:
    table = Prices.load()
    rows = re.findall(r"^\| (gemini-\S+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", VERTEX.read_text(), re.MULTILINE)
    assert len(rows) >= 4
    for model, *prices in rows:
        price = table.models[model]
        assert [float(each) for each in prices] == [price.input, price.cached_input, price.output], model
    for page in (PAGE, VERTEX):
        assert table.taken in page.read_text()


@contextlib.contextmanager
def inside(folder: pathlib.Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def named(number: int) -> VideoFeatures:
    """A video with the id that `vidattr sample` gives."""
    return replace(video(number), video_id=f"sample-{number // 8}-{number % 8:03}")


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    rules = (Rule("refusal", contains=REFUSED, model="gpt-4.1-mini", times=1),)
    with running(ServerConfig(latency_s=0.01, rules=rules)) as found:
        yield found


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """What the page starts from: features, a manifest and ratings, under the names that `make demo` uses."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "feature_repo").symlink_to(ROOT / "feature_repo")
    shown = [named(number) for number in range(VIDEOS)]
    workspace_with(folder / "demo" / "workspace", shown)
    golden = folder / "demo" / "videos" / "golden"
    golden.mkdir(parents=True)
    rows = [json.dumps({"video_id": each.video_id, "uri": f"{each.video_id}.mp4"}) for each in shown]
    (golden.parent / "manifest.jsonl").write_text("\n".join(rows) + "\n")
    ratings = [f"{each.video_id},{name},r1,true" for each in shown for name in ("cozy", "funny")]
    (golden / "ratings.csv").write_text("\n".join(["video_id,attribute,rater_id,value", *ratings]) + "\n")
    return folder


@pytest.fixture
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if ENVIRONMENT.match(name)]:
        monkeypatch.delenv(name)


def test_every_command_that_needs_no_key_works(
    demo: pathlib.Path,
    server: RunningServer,
    no_keys: None,
    vidattr: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    done: Counter[str] = Counter()
    said: dict[str, str] = {}
    for block in blocks(PAGE):
        with inside(demo):
            if block.language == "python":
                exec(compile(block.text, PAGE.name, "exec"), {})
                out = capsys.readouterr().out
                assert re.search(r"^cozy: \d of 4 as the raters say$", out, re.MULTILINE), "the fifth is refused"
                done["python"] += 1
            for line in lines(block.text) if block.language == "bash" else ():
                words = words_of(line.replace(DOCUMENTED, server.gemini_url))
                if not words:
                    assert line.startswith("head "), line
                    subprocess.run(line, shell=True, check=True)
                    continue
                outcome = vidattr(*words)
                assert outcome.exit_code == 0, (line, outcome)
                assert "Traceback" not in outcome.err
                said[line] = outcome.out
                done[words[0]] += 1
    assert done["annotate"] >= 8 and done["answers"] >= 3 and done["prompt"] and done["runs"] and done["python"]

    (dry,) = [out for line, out in said.items() if "--dry-run" in line]
    assert "Nobody was asked" in dry and "90 % interval" in dry
    workspace = Workspace(str(demo / "demo" / "workspace"))
    answered = {(row.video_id, row.attribute) for row in workspace.rows(Annotation) if row.source == "llm"}
    assert len(answered) == VIDEOS * 6, "the run over the whole, and nothing is left open"
    letters = [row for row in workspace.rows(Failure) if row.kind == "refused"]
    assert letters and {(row.video_id, row.attribute) for row in letters} <= answered, "--only-failed closed them"
    stats = server.stats()
    assert stats["requests"]["by_status"].keys() == {"200"}
