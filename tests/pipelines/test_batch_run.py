"""`vidattr annotate --batch-jobs` from the command line: handed over, looked at, collected, and nothing paid twice."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest

from features.annotators.model_server import Rule, ServerConfig, running
from features.attributes.registry import exclusive
from features.records import Annotation
from features.workspace import Workspace
from pipelines import batch_run
from pipelines.annotators import LOCK
from tests.pipelines.hand_made import write_features

NAMES = ("funny", "cozy")


@pytest.fixture
def repository(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "repo"
    (folder / "attributes").mkdir(parents=True)
    for name in NAMES:
        fields = {"name": name, "title": name, "question": f"Is it {name}?", "definition": f"{name} means {name}."}
        (folder / "attributes" / f"{name}.yaml").write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize("kind", ["openai", pytest.param("gemini", marks=pytest.mark.soak)])
def test_submitted_looked_at_and_collected(
    kind: str, tmp_path: pathlib.Path, repository: pathlib.Path, vidattr: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.setenv("GEMINI_API_KEY", "any")
    workspace = Workspace(str(tmp_path / "w"))
    write_features(workspace, ["v1", "v2", "v3"])
    with running(ServerConfig(batch_delay_s=-1)) as server:
        url = server.openai_url if kind == "openai" else server.gemini_url
        model = {"openai": "gpt-4.1-mini", "gemini": "gemini-2.5-flash"}[kind]
        place = ("--workspace", workspace.root, "--feature-repo", repository, "--annotator", kind, "--model", model)
        command = ("annotate", *place, "--base-url", url, "--json")

        submitted = vidattr(*command, "--batch-jobs", "submit").document
        assert (submitted["pairs"], submitted["requests"], len(submitted["jobs"])) == (6, 3, 1)
        again = vidattr(*command, "--batch-jobs", "submit").document
        assert (again["pairs"], again["in_jobs"]) == (0, 6), "what is in a job is not handed over twice"

        (job,) = vidattr(*command, "--batch-jobs", "status").document["jobs"]
        assert job["total"] == 3 and "waits up to" in job["next"]
        waiting = vidattr(*command, "--batch-jobs", "collect")
        assert waiting.document["pair_counts"]["pending"] == 6 and server.stats()["paid_pairs"] == 0
        direct = vidattr(*command)
        assert direct.document["pair_counts"]["pending"] == 6, "a direct run leaves to the job what is in it"

        for _ in range(4):
            server.advance_batches()
        collected = vidattr(*command, "--batch-jobs", "collect").document
        assert collected["pair_counts"] == {"in": 6, "annotated": 6, "dead_lettered": 0, "pending": 0, "reused": 6}
        assert collected["arguments"]["batch_jobs"]["jobs"], "the run record holds the job's id"
        stats = server.stats()
        assert {number for counts in stats["pairs"].values() for number in counts.values()} == {1}
        assert stats["batch_items"] == 3
        tokens = stats["tokens"]
        assert (collected["input_tokens"], collected["output_tokens"]) == (tokens["input"], tokens["output"] + tokens["thinking"])
        assert collected["cost_usd"] > 0
        assert {(row.video_id, row.attribute) for row in workspace.rows(Annotation)} == {
            (video, name) for video in ("v1", "v2", "v3") for name in NAMES
        }
        over = vidattr(*command).document
        assert over["pair_counts"]["reused"] == 6 and server.stats()["paid_pairs"] == 6


def test_what_a_job_could_not_answer_is_asked_directly(
    tmp_path: pathlib.Path, repository: pathlib.Path, vidattr: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    workspace = Workspace(str(tmp_path / "w"))
    write_features(workspace, ["v1", "v2"])
    with running(ServerConfig(batch_delay_s=-1, rules=(Rule("batch_expire", part=0.5),))) as server:
        place = ("--workspace", workspace.root, "--feature-repo", repository, "--annotator", "openai", "--model", "gpt-4.1-mini")
        command = ("annotate", *place, "--base-url", server.openai_url, "--json")
        assert vidattr(*command, "--batch-jobs", "submit").exit_code == 0
        for _ in range(4):
            server.advance_batches()
        collected = vidattr(*command, "--batch-jobs", "collect").document
        assert collected["pair_counts"]["annotated"] == 4 and collected["pair_counts"]["pending"] == 0
        assert {number for counts in server.stats()["pairs"].values() for number in counts.values()} == {1}


def test_what_the_fallback_answered_is_not_handed_over_and_a_running_annotation_is_waited_for(
    tmp_path: pathlib.Path, repository: pathlib.Path, vidattr: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.setenv("GEMINI_API_KEY", "any")
    monkeypatch.setattr(batch_run, "LOCK_TIMEOUT_S", 0.0)
    workspace = Workspace(str(tmp_path / "w"))
    write_features(workspace, ["v1", "v2"])
    with running(ServerConfig(rules=(Rule("refusal", contains="title of v1", protocol="openai"),))) as server:
        place = ("--workspace", workspace.root, "--feature-repo", repository, "--annotator", "openai", "--model", "gpt-4.1-mini")
        second = ("--fallback", "gemini", "--fallback-model", "gemini-2.5-flash", "--fallback-base-url", server.gemini_url)
        command = ("annotate", *place, "--base-url", server.openai_url, *second, "--json")
        assert vidattr(*command).document["pair_counts"]["annotated"] == 4
        handed = vidattr(*command, "--batch-jobs", "submit").document
        assert (handed["pairs"], handed["jobs"]) == (0, [])

        write_features(workspace, ["v3"])
        with exclusive(workspace.local_path(LOCK), 0, "annotation"):
            refused = vidattr(*command, "--batch-jobs", "submit")
        assert refused.exit_code != 0 and "annotation" in refused.err and "Traceback" not in refused.err
        assert vidattr(*command, "--batch-jobs", "submit").document["pairs"] == 2


def test_an_annotator_without_batch_jobs_says_so(
    tmp_path: pathlib.Path, repository: pathlib.Path, vidattr: Callable[..., Any]
) -> None:
    outcome = vidattr("annotate", "--workspace", tmp_path / "w", "--feature-repo", repository, "--batch-jobs", "submit")
    assert outcome.exit_code == 2 and "the baseline annotator has no batch jobs" in outcome.err
