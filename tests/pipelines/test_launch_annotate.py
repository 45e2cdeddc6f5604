"""`vidattr launch annotate`: what is refused, what travels, and a launched graph that annotates with Redis and a model server."""

from __future__ import annotations

import base64
import bz2
import contextlib
import inspect
import io
import json
import logging
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from features import storage
from features.annotators.answers import open_answers
from features.annotators.settings import ModelSettings, PaceSettings
from features.errors import InvalidInput
from features.records import RunRecord
from features.workspace import Workspace
from pipelines.annotators import AnnotatorConfig
from pipelines.commands.annotate import annotate
from pipelines.commands.launch import launch
from pipelines.launch import build_graph
from pipelines.launch_annotate import for_workers, vcpus
from pipelines.launch_plan import LaunchConfig, checks, plan, require
from tests.conftest import Outcome, run_vidattr
from tests.faults.asked_over_http import serving
from tests.features.annotators.answer_stores import RedisServer
from tests.pipelines.dataflow_api import worker
from tests.pipelines.dataflow_api.server import DataflowApi, credentials_file
from tests.pipelines.hand_made import definition, write_features

ROOT = Path(__file__).resolve().parents[2]
CONTAINER = "registry.example/my-project/vidattr:1"
KEY = "sk-canary-5be1c0ffee77"
REDIS_PASSWORD = "canary-93d2a1f8"
REDIS = "redis://10.1.2.3:6379"
HERE = "127.1"
"""A name of this machine that is not known for one, as names of a private network are not."""
STEPS = ("Plan", "GroupByFile", "AskAnnotator", "WriteAnnotations", "WriteGold", "WriteFailures", "CommitRun")
JOB = ("--project=my-project", "--region=europe-west1", f"--container={CONTAINER}", f"--feature-repo={ROOT / 'feature_repo'}")


def gemini(**changes: Any) -> AnnotatorConfig:
    """Gemini on Vertex AI with answers in Redis; fields of `ModelSettings` and `PaceSettings` by name."""
    fields = {"answers": REDIS, "model": ModelSettings(location="global"), "kind": "gemini"}
    return AnnotatorConfig(**{**fields, **changes})  # type: ignore[arg-type]


def openai(**model: Any) -> ModelSettings:
    return ModelSettings(**{"name": "gpt-4.1-mini", "api_key_file": "gs://keys/openai", **model})


def config(annotator: AnnotatorConfig | None, **changes: Any) -> LaunchConfig:
    good = {
        "stage": "annotate",
        "project": "my-project",
        "region": "europe-west1",
        "bucket": "gs://some-bucket",
        "container": CONTAINER,
        "definitions": (definition("calming"),),
        "annotator": annotator,
    }
    return LaunchConfig(**{**good, **changes})


def failed(annotator: AnnotatorConfig | None, **changes: Any) -> list[str]:
    return [check.name for check in checks(config(annotator, **changes)) if check.state == "failed"]


@pytest.mark.parametrize(
    "annotator",
    [
        gemini(),
        gemini(model=ModelSettings(project="models-here", location="us-central1")),
        gemini(model=ModelSettings(api_key_file="gs://keys/gemini")),
        gemini(kind="openai", model=openai()),
        gemini(kind="openai", model=openai(api_key_file="", base_url="http://models.internal:8000/v1")),
        gemini(kind="openai", model=openai(api_key_file="", api_key_env="OPENAI_API_KEY")),
        gemini(kind="baseline", model=ModelSettings()),
        gemini(answers="rediss://user@10.1.2.3:6380/2?prefix=ours:"),
        gemini(pace=PaceSettings(max_cost=5.0), fallback=gemini(kind="openai", model=openai(), pace=PaceSettings(max_cost=5.0))),
        gemini(options=(("weights_file", "gs://b/w"), ("max_tokens", "400"), ("tone", "calm"))),
    ],
)
def test_what_can_work_passes_every_check(annotator: AnnotatorConfig) -> None:
    assert failed(annotator) == []
    assert failed(annotator, videos="gs://some-bucket/manifest.jsonl") == []


@pytest.mark.parametrize(
    ("annotator", "changes", "name", "remedy"),
    [
        (None, {}, "stage", "--answers redis://HOST:PORT"),
        (gemini(answers=""), {}, "stage", "vidattr annotate --workspace"),
        (gemini(answers="answers.sqlite"), {}, "stage", "answers: in the workspace's vidattr.yaml"),
        (gemini(answers="redis://localhost:6379"), {}, "answers", "that all workers reach"),
        (gemini(answers="redis://127.0.0.1"), {}, "answers", "that all workers reach"),
        (gemini(answers="redis://0.0.0.0"), {}, "answers", "that all workers reach"),
        (gemini(answers="rediss://[::1]:6379"), {}, "answers", "that all workers reach"),
        (gemini(answers="redis://10.1.2.3:many"), {}, "answers", "write redis://HOST:PORT"),
        (gemini(), {"container": ""}, "container", "deploy/Dockerfile"),
        (gemini(), {"videos": "manifest.jsonl"}, "videos", "copy them to the bucket"),
        (gemini(), {"machine_type": "a2-highgpu-1g"}, "pace", "workers: N"),
        (gemini(), {"max_workers": 5000}, "pace", "--max-workers"),
        (gemini(prices="prices.yaml"), {}, "prices", "--prices gs://"),
        (gemini(kind="replay", recording="r.jsonl"), {}, "annotator", "choose gemini"),
        (gemini(model=ModelSettings()), {}, "key", "--location for Vertex AI"),
        (gemini(model=ModelSettings(api_key_file="key.txt")), {}, "key", "--api-key-file gs://"),
        (gemini(model=ModelSettings(location="global", api_key_file="gs://keys/gemini")), {}, "key", "leave out --location"),
        (gemini(kind="openai", model=openai(api_key_file="")), {}, "key", "--api-key-file gs://"),
        (gemini(kind="openai", model=openai(name="")), {}, "annotator", "pass --model NAME"),
        (gemini(kind="openai", model=openai(base_url="http://localhost:8000/v1")), {}, "base url", "that the workers reach"),
        (gemini(kind="openai", model=openai(base_url="models.internal/v1")), {}, "base url", "write an address"),
        (gemini(kind="openai", model=openai(name="own"), pace=PaceSettings(max_cost=5.0)), {}, "annotator", "--prices"),
        (gemini(fallback=gemini(kind="openai", model=openai(api_key_file=""))), {}, "key", "no key of the fallback annotator"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(
    annotator: AnnotatorConfig | None, changes: dict[str, Any], name: str, remedy: str
) -> None:
    assert failed(annotator, **changes) == [name]
    with pytest.raises(InvalidInput) as caught:
        require(checks(config(annotator, **changes)))
    assert remedy in str(caught.value)


def test_why_annotate_needs_redis_is_said() -> None:
    with pytest.raises(InvalidInput, match="workers share no disk: on Dataflow the same question could be paid for twice"):
        require(checks(config(gemini(answers=""))))


@pytest.mark.parametrize(
    ("annotator", "name", "remedy"),
    [
        (gemini(answers=f"redis://:{REDIS_PASSWORD}@10.1.2.3:6379"), "answers", "VIDATTR_REDIS_PASSWORD"),
        (gemini(answers=f"redis://user:{REDIS_PASSWORD}@10.1.2.3:6379"), "answers", "VIDATTR_REDIS_PASSWORD"),
        (gemini(model=ModelSettings(api_key_env=KEY)), "key", "--api-key-file gs://"),
        (gemini(model=ModelSettings(api_key_file=KEY)), "key", "--api-key-file gs://"),
        (gemini(kind="openai", model=openai(base_url=f"http://me:{KEY}@models.internal/v1")), "key", "--api-key-file gs://"),
        (gemini(kind="openai", model=openai(base_url=f"http://:{KEY}@models.internal/v1")), "key", "--api-key-file gs://"),
        (gemini(fallback=gemini(kind="openai", model=openai(api_key_env=KEY))), "key", "--api-key-file gs://"),
        (gemini(options=(("api_key", REDIS_PASSWORD),)), "option", "from a file on gs://"),
        (gemini(options=(("tone", KEY),)), "option", "from a file on gs://"),
    ],
)
def test_a_secret_is_refused_and_not_repeated(annotator: AnnotatorConfig, name: str, remedy: str) -> None:
    assert failed(annotator) == [name]
    with pytest.raises(InvalidInput) as caught:
        build_graph(config(annotator))
    assert remedy in str(caught.value)
    assert KEY not in str(caught.value) and REDIS_PASSWORD not in str(caught.value)


def test_a_password_in_this_shell_is_said_not_to_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDATTR_REDIS_PASSWORD", REDIS_PASSWORD)
    (warning,) = [check for check in checks(config(gemini())) if check.state == "warning"]
    assert "does not travel" in warning.sentence and REDIS_PASSWORD not in warning.sentence


def test_quotas_and_caps_are_shared_out_over_all_processes() -> None:
    asked = config(gemini(fallback=gemini()), max_workers=5, machine_type="n1-standard-8")
    annotator = for_workers(asked)
    assert annotator.pace.workers == 40
    assert annotator.fallback is not None and annotator.fallback.pace.workers == 40
    assert for_workers(replace(asked, annotator=gemini(pace=PaceSettings(workers=7)))).pace.workers == 7
    assert [vcpus(name) for name in ("n1-standard-8", "n2-custom-6-8192", "custom-2-4096", "e2-small")] == [8, 6, 2, 2]


def test_the_jobs_project_is_vertex_ais_unless_another_is_named() -> None:
    assert for_workers(config(gemini())).model.project == "my-project"
    assert for_workers(config(gemini(model=ModelSettings(project="theirs")))).model.project == "theirs"
    assert for_workers(config(gemini(model=ModelSettings(api_key_file="gs://keys/gemini")))).model.project == ""
    assert for_workers(config(gemini(kind="openai", model=openai(location="here")))).model.project == ""


def test_the_plan_says_who_is_asked_what_it_may_cost_and_that_one_runs_at_a_time() -> None:
    asked = config(gemini(pace=PaceSettings(max_cost=25.0, max_requests_per_minute=600)))
    words = plan(asked)
    text = " ".join(words.sentences)
    for part in ("gemini-2.5-flash", "$25.00", "600 requests a minute", "40 processes", "redis://10.1.2.3:6379", "control.yaml"):
        assert part in text
    assert "Do not run two annotations of one workspace at a time" in text
    assert "nothing stored is asked again" in text
    assert "pays for no model" not in text
    assert f"gs://some-bucket/vidattr/annotations/{asked.run_id}/" in words.writes
    assert "No cap and no quota is set" in " ".join(plan(config(gemini())).sentences)


def test_every_option_of_annotate_about_a_model_is_one_of_launch() -> None:
    own, there = (set(inspect.signature(command).parameters) for command in (annotate, launch))
    assert own - there == {"recording", "only_failed", "kind", "batch_jobs", "patience", "call_log"}


@pytest.mark.parametrize("flags", [("--model=m",), ("--answers=redis://h",), ("--annotator=gemini",), ("--attribute=calming",)])
def test_options_about_a_model_are_refused_for_other_stages(flags: tuple[str, ...]) -> None:
    refused = run_vidattr("launch", "score", "--bucket=gs://b-ucket", "--dry-run", *flags)
    assert refused.exit_code == 2 and "score asks no annotator" in refused.err


def test_a_dry_run_builds_the_graph_without_a_bucket_or_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    flags = ("--bucket=gs://no-such-bucket", "--annotator=gemini", "--location=global", f"--answers={REDIS}", "--examples=2")
    with levels_kept():
        dry = run_vidattr("launch", "annotate", *JOB, *flags, "--dry-run", "--json")
    assert dry.exit_code == 0, dry.err
    assert [step for step in dry.document["steps"] if step in STEPS] == list(STEPS)
    assert dry.document["container"] == CONTAINER
    assert "job_id" not in dry.document


def test_a_dry_run_without_redis_says_why_and_what_to_do() -> None:
    with levels_kept():
        refused = run_vidattr("launch", "annotate", *JOB, "--bucket=gs://no-such-bucket", "--dry-run")
    assert refused.exit_code == 2
    assert "workers share no disk" in refused.err and "--answers redis://HOST:PORT" in refused.err


@contextlib.contextmanager
def levels_kept() -> Iterator[None]:
    """Gives loggers back the levels that commands change."""
    names = ("", "absl", "tensorflow", "feast", "google", "apache_beam", "apache_beam.runners.dataflow")
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@dataclass
class Launched:
    """A command that started a job, what was sent to Google, and what the staged graph did when it ran.

    Attributes:
        command: what it left.
        api: the Dataflow service.
        staged: what was staged, by name.
        worker: what the worker said.
        record: of the run.
        asked: requests that the model server answered.
        stored: answers in Redis.
    """

    command: Outcome
    api: DataflowApi
    staged: dict[str, bytes]
    worker: dict[str, Any]
    record: RunRecord
    asked: int
    stored: int


@pytest.fixture(scope="module")
def launched(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    folder, workspace, api = tmp_path_factory.mktemp("launched"), Workspace(f"{bucket}/vidattr"), DataflowApi()
    with (
        pytest.MonkeyPatch.context() as environment,
        RedisServer("--requirepass", REDIS_PASSWORD) as redis,
        serving(key=KEY, marker="title of (v[0-9])") as server,
        levels_kept(),
    ):
        environment.setenv("NO_GCE_CHECK", "true")
        environment.setenv(
            "GOOGLE_APPLICATION_CREDENTIALS", str(credentials_file(folder / "account.json", f"{api.endpoint}/token"))
        )
        environment.setenv("OPENAI_API_KEY", KEY)
        environment.setenv("VIDATTR_REDIS_PASSWORD", REDIS_PASSWORD)
        storage._client.cache_clear()
        storage.write_bytes(f"{bucket}/keys/model", KEY.encode())
        write_features(workspace, ["v1", "v2", "v3"])
        answers = f"redis://{HERE}:{redis.port}"
        settings = f"annotator: openai\nanswers: {answers}\npace: {{in_flight: 4, longest_wait_s: 1.0, outage_patience_s: 0.0}}\n"
        storage.write_bytes(workspace.path("vidattr.yaml"), settings.encode())
        asked = ("--attribute=calming", "--model=gpt-4.1-mini", f"--api-key-file={bucket}/keys/model")
        flags = (*JOB, f"--bucket={bucket}", *asked, "--max-cost=4", "--max-workers=2", "--yes", "--json")
        command = run_vidattr("launch", "annotate", *flags, "--", f"--dataflow_endpoint={api.endpoint}")
        assert command.exit_code == 0, command.err
        staged = {name: storage.read_bytes(name) for name in storage.list_names(f"{bucket}/vidattr-dataflow")}
        (graph,) = [content for name, content in staged.items() if name.endswith("/pipeline.pb")]
        (folder / "pipeline.pb").write_bytes(graph)
        # A worker has the password from its image, and no key of its own. OpenAI is on loopback today.
        environment.delenv("OPENAI_API_KEY")
        environment.setenv("OPENAI_BASE_URL", server.openai_url)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            worker.main(str(folder / "pipeline.pb"))
        (record,) = [record for record in workspace.runs() if record.stage == "annotate"]
        stored = open_answers(answers)
        yield Launched(command, api, staged, json.loads(said.getvalue()), record, server.stats()["requests"]["total"], len(stored))
        stored.close()
    api.close()
    storage._client.cache_clear()


def test_a_submission_starts_the_job_that_was_asked_for(launched: Launched) -> None:
    (job,) = launched.api.jobs.values()
    assert launched.command.document["job_id"] in launched.api.jobs
    assert job["name"].startswith("vidattr-annotate-2") and job["labels"]["vidattr-stage"] == "annotate"
    assert [image["containerImage"] for image in job["environment"]["workerPools"][0]["sdkHarnessContainerImages"]] == [CONTAINER]


def test_the_staged_graph_annotates_with_answers_in_redis_and_a_key_from_the_bucket(launched: Launched) -> None:
    assert launched.worker["state"] == "DONE"
    record = launched.record
    assert record.run_id == launched.command.document["run_id"]
    assert (record.counts.into, record.counts.annotated, record.counts.pending, record.counts.dead_lettered) == (3, 3, 0, 0)
    assert launched.asked == 3 and launched.stored == 3
    told = record.arguments
    assert (told["on"], told["annotator"], told["model"], told["max_cost"]) == ("dataflow", "openai", "gpt-4.1-mini", 4.0)
    assert told["processes"] == 8


def unpacked(content: bytes) -> Iterator[bytes]:
    """What Beam packed into a graph: its pickles are compressed, and written in base 64."""
    for text in re.findall(rb"[A-Za-z0-9+/]{40,}={0,2}", content):
        with contextlib.suppress(ValueError):
            packed = base64.b64decode(text)
            for unpack in (zlib.decompress, bz2.decompress):
                with contextlib.suppress(zlib.error, OSError, ValueError):
                    yield unpack(packed)


def test_no_secret_travels(launched: Launched) -> None:
    """Key and password were in the environment of the command."""
    bodies = [request.body for request in launched.api.requests if request.path != "/token"]
    (graph,) = [content for name, content in launched.staged.items() if name.endswith("/pipeline.pb")]
    pickles = list(unpacked(graph))
    assert any(b"/keys/model" in pickle for pickle in pickles), "the configuration was not found, so secrets would not be either"
    everything = [*bodies, *launched.staged.values(), *pickles, launched.command.out.encode(), launched.record.to_json().encode()]
    for secret in (KEY.encode(), REDIS_PASSWORD.encode()):
        assert not [content for content in everything if secret in content]
