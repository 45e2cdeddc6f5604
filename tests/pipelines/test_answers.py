"""`vidattr answers` on a workspace with answers of several models, definitions and contents."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import pathlib
import time
from datetime import UTC, datetime
from typing import Any

import pytest
import typer

from features.annotators.answers import SqliteAnswers, StoredAnswer, open_answers
from features.annotators.protocol import AnnotatorIdentity, Answer, Usage
from features.annotators.replay import read_recording
from features.attributes.loading import load_definitions
from features.errors import InvalidInput
from features.records import Counts, RunRecord, VideoFeatures, to_table
from features.workspace import Workspace, new_run_id
from pipelines import terminal
from pipelines.answers import Watched
from pipelines.commands import answers as commands
from tests.features.annotators.answer_stores import RedisServer

ONE, OTHER = AnnotatorIdentity("llm", "gemini-x", "v3"), AnnotatorIdentity("llm", "qwen-y", "v3")
DAY = 86_400.0
NAMES = """
name: {name}
title: {name}
question: Is the video {name}?
definition: It looks and sounds {name} to most people who watch it.
value_type: boolean
owner: team@example.com
"""


@dataclasses.dataclass
class Scene:
    """A workspace, its definitions, and what a command printed."""

    workspace: pathlib.Path
    repo: pathlib.Path
    store: SqliteAnswers

    def run(self, *words: str) -> str:
        """Standard output of `vidattr answers WORDS --workspace ...`."""
        out = io.StringIO()
        arguments = [*words, "--workspace", str(self.workspace)]
        with contextlib.redirect_stdout(out), pytest.MonkeyPatch.context() as patch:
            patch.setattr(terminal.out, "_file", out)  # "file" would be put back as the stream of this moment
            typer.main.get_command(commands.app).main(arguments, standalone_mode=False)
        return out.getvalue()

    def document(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json"))


@pytest.fixture
def scene(tmp_path: pathlib.Path) -> Scene:
    repo = tmp_path / "repo"
    (repo / "attributes").mkdir(parents=True)
    for name in ("calm", "funny"):
        (repo / "attributes" / f"{name}.yaml").write_text(NAMES.format(name=name))
    calm, funny = load_definitions(str(repo / "attributes"))
    place, now = Workspace(str(tmp_path / "w")), datetime.now(UTC)
    for run, contents in enumerate((("c1", "c2", "c3 before"), ("c3",)), start=1):
        run_id = new_run_id()
        videos = [
            VideoFeatures(f"v{content[1]}", "hash", content, "x", extracted_at=datetime(2026, 1, run, tzinfo=UTC))
            for content in contents
        ]
        files = [place.write_table("features", run_id, to_table(videos, VideoFeatures))]
        place.commit(RunRecord(run_id, "extract", now, now, counts=Counts(), files={"features": files}))
    store = SqliteAnswers(place.path("answers.sqlite"))

    def row(identity: AnnotatorIdentity, content: str, name: str, definition_hash: str, day: int) -> StoredAnswer:
        answer = Answer(name, "true", 0.5, "because", 1000, 500, 10, 0.25, day * DAY, model="x-001")
        key = identity.answer_key(content, definition_hash)
        return StoredAnswer(key, answer, identity, f"v{content[1]}", content, definition_hash)

    store.put_many(
        [
            row(ONE, "c1", "calm", calm.definition_hash, 20_000),
            row(ONE, "c1", "funny", funny.definition_hash, 20_001),
            row(ONE, "c2", "calm", calm.definition_hash, 20_002),
            row(ONE, "c2", "calm", "as it was defined before", 19_000),
            row(ONE, "c3 before", "calm", calm.definition_hash, 19_001),
            row(OTHER, "c1", "calm", calm.definition_hash, 20_003),
        ],
        {"run1": Usage(7, 7000, 3500, 70, 1.75)},
    )
    return Scene(tmp_path / "w", repo, store)


def test_stats(scene: Scene) -> None:
    document = scene.document("stats")
    assert (document["answers"], document["cost_usd"], document["spent_usd"]) == (6, 1.5, 1.75)
    assert [(group["model"], group["attribute"], group["answers"]) for group in document["groups"]] == [
        ("gemini-x", "calm", 4),
        ("gemini-x", "funny", 1),
        ("qwen-y", "calm", 1),
    ]
    assert document["groups"][0]["since"] == "2022-01-08T00:00:00+00:00" and document["runs"][0]["requests"] == 7
    assert scene.document("stats", "--model", "qwen-y")["answers"] == 1
    shown = scene.run("stats")
    assert "6 answers that cost $1.5000; runs have paid $1.7500" in shown and "run1" in shown and "2022-01-08" in shown


def test_a_recording_of_one_model(scene: Scene, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "recording.jsonl"
    with pytest.raises(InvalidInput, match="several answers"):
        scene.run("export", str(file), "--format", "replay")
    assert not file.exists()
    assert scene.document("export", str(file), "--format", "replay", "--model", "gemini-x", "--newest")["answers"] == 4
    assert read_recording(file.read_bytes(), str(file)).keys() == {("v1", "calm"), ("v1", "funny"), ("v2", "calm"), ("v3", "calm")}
    assert "--annotator replay" in scene.run("export", str(file), "--format", "replay", "--attribute", "funny")
    assert scene.document("export", str(tmp_path / "all.parquet")) == {
        "file": str(tmp_path / "all.parquet"),
        "format": "full",
        "answers": 6,
    }


def test_pruning_says_first_and_does_with_yes(scene: Scene) -> None:
    shown = scene.run("prune", "--model", "qwen-y")
    assert "Would forget 1 answers that had cost $0.2500" in shown and "prune --model qwen-y" in shown and "--yes" in shown
    assert len(scene.store) == 6
    document = scene.document("prune", "--model", "qwen-y", "--yes")
    assert (document["answers"], document["deleted"], document["cost_usd"]) == (1, True, 0.25)
    assert len(scene.store) == 5
    assert scene.document("prune", "--before", "2022-01-09")["answers"] == 1
    assert scene.document("prune", "--before", "2022-01-09T06:00+06:00", "--attribute", "calm")["answers"] == 1
    assert scene.store.spent("run1").requests == 7, "what was paid is still known"


def test_orphans_are_what_nobody_asks_for_any_more(scene: Scene) -> None:
    """The answer to an edited definition, and the one about a video whose text changed."""
    orphans = ("prune", "--orphaned", "--feature-repo", str(scene.repo))
    assert scene.document(*orphans)["answers"] == 2
    assert scene.document(*orphans, "--before", "2022-01-08T12:00")["answers"] == 1
    assert "Forgot 2 answers" in scene.run(*orphans, "--yes")
    assert sorted((row.content_key, row.answer.attribute) for row in scene.store.rows()) == [
        ("c1", "calm"),
        ("c1", "calm"),
        ("c1", "funny"),
        ("c2", "calm"),
    ]


def test_mistakes_are_named(scene: Scene, tmp_path: pathlib.Path) -> None:
    elsewhere = Scene(tmp_path / "new", scene.repo, scene.store)
    for words, says in {
        ("prune",): "say which answers",
        ("prune", "--before", "spring"): "'spring' is no date",
        ("prune", "--before", "1969-01-01"): "before all answers",
        ("prune", "--model", "gemini"): "no answers of model 'gemini' in .*: there are gemini-x, qwen-y",
        ("export", str(tmp_path / "x.jsonl"), "--attribute", "clam"): "no answers to 'clam' in .*: there are calm, funny",
        ("export", "x.csv"): r"FILE\.jsonl or FILE\.parquet",
        ("export", "x.jsonl", "--format", "short"): "choose full or replay",
        ("stats", "--answers", str(tmp_path / "none.sqlite")): "there are no answers",
        ("stats", "--answers", "gs://bucket/x"): "name an sqlite file, or redis",
    }.items():
        with pytest.raises(InvalidInput, match=says):
            scene.run(*words)
    with pytest.raises(InvalidInput, match="holds no features: every answer would be an orphan"):
        elsewhere.run("prune", "--orphaned", "--answers", scene.store.path)
    assert not (tmp_path / "x.jsonl").exists() and not (tmp_path / "none.sqlite").exists()


def test_a_workspace_without_answers(tmp_path: pathlib.Path, scene: Scene) -> None:
    empty = Scene(tmp_path / "new", scene.repo, scene.store)
    assert "No answers in" in empty.run("stats") and empty.document("stats")["answers"] == 0
    assert "No answers in" in empty.run("prune", "--model", "m")
    with pytest.raises(InvalidInput, match="run `vidattr annotate` first"):
        empty.run("export", str(tmp_path / "x.jsonl"))
    assert not (tmp_path / "new").exists(), "looking makes nothing"


def test_other_answers_than_the_workspace_s(tmp_path: pathlib.Path, scene: Scene) -> None:
    empty = Scene(tmp_path / "new", scene.repo, scene.store)
    assert empty.document("stats", "--answers", scene.store.path)["answers"] == 6
    assert "--answers" in empty.run("stats", "--answers", scene.store.path)


def test_answers_in_redis_and_no_password_on_the_screen(scene: Scene) -> None:
    with RedisServer("--requirepass", "sesame") as server:
        url = f"{server.url.replace('//', '//:sesame@')}/2"
        open_answers(url).put_many(list(scene.store.rows()), {"run1": Usage(7)})
        shown = scene.run("stats", "--answers", url) + scene.run("prune", "--model", "qwen-y", "--answers", url)
        assert "6 answers" in shown and "persistence is off" in shown and "Would forget 1" in shown
        assert f"--answers {server.url}/2" in shown and "sesame" not in shown
        assert scene.document("prune", "--model", "qwen-y", "--yes", "--answers", url)["answers"] == 1
        assert scene.document("stats", "--answers", url)["answers"] == 5


def test_what_takes_long_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def told(quiet: bool, seconds: float) -> str:
        watched = Watched("exporting", 10, quiet)
        with watched.told():
            time.sleep(seconds)
        return capsys.readouterr().err

    assert told(False, 0) == "", "what is quick is not"
    monkeypatch.setattr("pipelines.answers.QUIET_S", 0.0)
    assert "exporting" in told(False, 0.2) and told(True, 0.2) == ""
    watched = Watched("exporting", 10)
    assert list(watched.each("abcde")) == list("abcde")
    assert watched._line(4.0) == "exporting 5 of 10 answers, 4 s, about 4 s left"
