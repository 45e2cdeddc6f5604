"""`vidattr prompt show`: what would be sent, for a person and for scripts."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import pathlib
import shlex
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from features.errors import InvalidInput, Permanent
from features.records import VISUAL_STATS, Counts, Frame, RunRecord, VideoFeatures, to_table
from features.workspace import Workspace, new_run_id
from pipelines import prompting

Show = Callable[..., str]


def write(workspace: Workspace, *videos: VideoFeatures) -> None:
    run_id, now = new_run_id(), datetime.now(UTC)
    files = {"features": [workspace.write_table("features", run_id, to_table(videos, VideoFeatures))]}
    workspace.commit(RunRecord(run_id, "extract", now, now, counts=Counts(len(videos), len(videos)), files=files))


def video(video_id: str, **changes: object) -> VideoFeatures:
    fields: dict[str, object] = {
        "title": f"Title of {video_id}",
        "duration_s": 12.0,
        "frames": tuple(Frame(2.4 * number, 512, 288, f"{video_id} {number} ".encode() * 300) for number in range(1, 5)),
        "visual_stats": tuple(0.2 for _ in VISUAL_STATS),
        "extracted_at": datetime.now(UTC),
    }
    return VideoFeatures(video_id, "h", f"key of {video_id}", "1", **{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    place = Workspace(str(tmp_path_factory.mktemp("prompts") / "workspace"))
    write(place, video("one", title="An older title"), video("two"))
    write(place, video("one"), video("nothing", title="", frames=(), visual_stats=()))
    return place


@pytest.fixture
def show(workspace: Workspace, repo_root: pathlib.Path) -> Show:
    """Runs `vidattr prompt show` with these words and gives what it printed."""
    from pipelines.commands.prompt import app

    def run(words: str) -> str:
        arguments = [
            "show",
            *shlex.split(words),
            "--workspace",
            workspace.path(""),
            "--feature-repo",
            str(repo_root / "feature_repo"),
        ]
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            app(arguments, standalone_mode=False)
        return out.getvalue()

    return run


def test_a_person_reads_everything_that_would_be_sent(show: Show) -> None:
    said = show("--video one --frames 2")
    assert "You judge short videos" in said and 'title: "Title of one"' in said and "An older title" not in said
    assert "[frame 1 at 4.80 s, 512x288 JPEG, 1,800 bytes]" in said and "[frame 2 at 9.60 s, 512x288 JPEG, 1,800 bytes]" in said
    assert "--- user, about 258 tokens" in said and "--- JSON schema of the reply" in said
    assert "about $0.0" in said and "=== prompt together-1-" in said
    assert "v1 = one; authentic, calming, cozy, energetic, funny, inspiring" in said


def test_each_question_follows_the_video_it_shares(show: Show) -> None:
    said = show("--video one --ask each --attribute cozy --attribute calming --frames 1 --model nobodys-model")
    assert said.count("You reply with nothing but") == 1 and said.count('title: "Title of one"') == 1
    assert "=== Request 2 of 2: v1 = one; calming" in said and "--- the first 4 parts are those of the request before" in said
    assert "Yes (true), No (false)" in said and "no price is known for nobodys-model" in said


def test_a_script_reads_one_document(show: Show, tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "frames"
    command = f"--video one --video two --videos-per-request 2 --frames 2 --attribute cozy --json --save-frames {folder}"
    document = json.loads(show(command))
    (request,) = document["requests"]
    assert request["videos"] == {"v1": "one", "v2": "two"} and request["attributes"] == ["cozy"]
    pictures = [part["what"] for part in request["parts"] if "what" in part]
    assert [text[:9] for text in pictures] == ["[frame 1 ", "[frame 2 "] * 2
    total = sum(part["tokens"] for part in request["parts"])
    assert total < request["tokens"]["input"] + 40 < 1.5 * total
    assert 0 < request["cost_usd"] <= request["first_cost_usd"] < request["most_cost_usd"]
    assert document["prompt"].startswith("together-1-") and json.loads(document["parameters"])["packed"] is True
    assert sorted(pathlib.Path(path).read_bytes()[:5] for path in document["frames"]) == [b"one 2", b"one 4", b"two 2", b"two 4"]


def test_the_body_is_the_providers_with_short_pictures(show: Show) -> None:
    for annotator in ("gemini", "openai"):
        body = show(f"--video one --annotator {annotator} --model m --attribute cozy --frames 1 --body")
        assert "Title of one" in body and "in all)" in body
        assert base64.b64encode(b"one 3 " * 300).decode() not in body
        assert isinstance(json.loads(body), dict)


def test_examples_of_the_golden_set_are_shown_on_demand(show: Show, tmp_path: pathlib.Path) -> None:
    (tmp_path / "ratings.csv").write_text("video_id,attribute,rater_id,value\ntwo,cozy,a,true\ntwo,cozy,b,true\n")
    words = f"--video one --attribute cozy --golden {tmp_path}"
    assert '- title: "Title of two" => true (2 of 2 raters said true)' in show(f"{words} --examples 4")
    assert "Title of two" not in show(words)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ("--video three", "'three' has no features"),
        ("--video one --ask both", "ask is 'both'"),
        ("--video one --attribute sad", "'sad' is no attribute"),
        ("--video one --annotator baseline", "sends no prompt"),
        ("--video one --evidence sound", "'sound' is none of"),
    ],
)
def test_mistakes_are_named(show: Show, words: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        show(words)


def test_a_video_without_evidence_says_so(show: Show) -> None:
    with pytest.raises(Permanent, match="nothing that may be shown"):
        show("--video nothing")


def test_shortening_leaves_words_alone() -> None:
    body = {
        "contents": [{"text": "x" * 500}, {"inline_data": {"data": "A" * 500, "mime_type": "image/jpeg"}}],
        "url": "http://a",
        "n": 1,
    }
    short = prompting.shortened(body)
    assert short["contents"][0] == {"text": "x" * 500} and short["url"] == "http://a" and short["n"] == 1
    assert short["contents"][1]["inline_data"]["data"] == "A" * 48 + "... (500 in all)"
