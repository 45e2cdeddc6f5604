"""`vidattr launch`: real submissions to a Dataflow API and a storage emulator on loopback; a dry run without a network."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import InvalidInput, Permanent
from features.records import Counts, RunRecord
from features.workspace import Workspace
from pipelines import launch_plan
from pipelines.launch_plan import LaunchConfig, checks, options, plan, require
from tests.pipelines.dataflow_api.server import DataflowApi, credentials_file

ROOT = Path(__file__).resolve().parents[2]
BUCKET = "loopback-bucket"
COMMAND = [sys.executable, "-m", "pipelines.cli", "launch"]
EXTRACT = [
    "extract",
    "--on=dataflow",
    "--project=my-project",
    "--region=europe-west1",
    f"--bucket=gs://{BUCKET}",
    f"--videos=gs://{BUCKET}/manifest.jsonl",
    "--json",
]
CONTAINER = "registry.example/my-project/vidattr:1"
CANARY = "canary-3f9c51e07a"
STEPS = ["NameManifest", "ReadManifest", "ReadKnownFeatures", "MatchKnown", "ExtractFeatures", "WriteFeatures", "CommitRun"]


@dataclass
class Emulator:
    """Google Cloud Storage on loopback."""

    url: str

    def call(self, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
        request = urllib.request.Request(f"{self.url}{path}", data=body, headers={"Content-Type": kind})
        with urllib.request.urlopen(request, timeout=10) as answer:
            content: bytes = answer.read()
        return content

    def put(self, name: str, body: bytes) -> None:
        """Writes an object."""
        self.call(f"/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={name}", body, "application/octet-stream")

    def objects(self) -> dict[str, bytes]:
        """Every object of the bucket by name."""
        listed = json.loads(self.call(f"/storage/v1/b/{BUCKET}/o")).get("items", [])
        names = [item["name"] for item in listed]
        return {
            name: self.call(f"/download/storage/v1/b/{BUCKET}/o/{urllib.parse.quote(name, safe='')}?alt=media") for name in names
        }


@dataclass(frozen=True)
class Outcome:
    """What one command left behind."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """Standard output as the one JSON document that it must be."""
        document: dict[str, Any] = json.loads(self.out)
        return document


@dataclass
class Jobs:
    """Three commands that ran side by side, the services they talked to, and the environment they ran in."""

    submitted: Outcome
    failed: Outcome
    dry: Outcome | None
    api: DataflowApi
    objects: dict[str, bytes]
    environment: dict[str, str]

    @property
    def job(self) -> dict[str, Any]:
        """The job as Dataflow got it."""
        (job,) = self.api.jobs.values()
        return dict(job)

    @property
    def pool(self) -> dict[str, Any]:
        return dict(self.job["environment"]["workerPools"][0])

    def staged(self, name: str) -> bytes:
        """A file that the submitted job staged."""
        mine = f"vidattr-dataflow/staging/{self.job['name']}."
        (content,) = [content for path, content in self.objects.items() if path.startswith(mine) and path.endswith(f"/{name}")]
        return content


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    program = Path(sys.executable).with_name("gcp-storage-emulator")
    if not program.exists():
        pytest.skip("gcp-storage-emulator is not installed: make env")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [program, "start", "--host=127.0.0.1", f"--port={port}", "--in-memory"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    emulator = Emulator(f"http://127.0.0.1:{port}")
    try:
        for _ in range(600):
            try:
                emulator.call("/storage/v1/b?project=p", json.dumps({"name": BUCKET}).encode())
                break
            except urllib.error.URLError:
                time.sleep(0.05)
        yield emulator
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def jobs(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    folder = tmp_path_factory.mktemp("launch")
    api, failing = DataflowApi(), DataflowApi("JOB_STATE_FAILED", "Workers ran out of memory.")
    quiet = {
        name: value for name, value in os.environ.items() if not name.startswith("GOOGLE_") and name != "STORAGE_EMULATOR_HOST"
    }
    # The canary is a secret that the launching shell knows, under a name such as an annotator would read.
    offline = {**quiet, "PYTHONPATH": str(ROOT), "HOME": str(folder / CANARY), "GEMINI_API_KEY": CANARY}
    online = {
        **offline,
        "STORAGE_EMULATOR_HOST": emulator.url,
        "NO_GCE_CHECK": "true",
        "GOOGLE_APPLICATION_CREDENTIALS": str(credentials_file(folder / "account.json", f"{api.endpoint}/token")),
    }
    rows = [
        {"video_id": "gone", "uri": "gone.mp4"},
        {"video_id": "outside", "uri": "/etc/passwd"},
        {"video_id": "text", "uri": "text.mp4"},
    ]
    emulator.put("manifest.jsonl", b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    emulator.put("text.mp4", b"This is no video.")
    asked = [
        f"--container={CONTAINER}",
        "--machine-type=n1-standard-8",
        "--max-workers=20",
        "--num-workers=2",
        "--service-account=worker@my-project.iam.gserviceaccount.com",
        "--network=inner",
        "--label=team=content",
    ]
    commands = {
        "submitted": ([*COMMAND, *EXTRACT, *asked, "--", f"--dataflow_endpoint={api.endpoint}", "--no_use_public_ips"], online),
        "failed": ([*COMMAND, *EXTRACT, "--wait", "--", f"--dataflow_endpoint={failing.endpoint}"], online),
        "dry": ([*alone(), *COMMAND, *EXTRACT, "--dry-run"], offline),
    }
    if not alone():
        del commands["dry"]
    running = {
        name: subprocess.Popen(command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for name, (command, env) in commands.items()
    }
    ended = {name: outcome(process) for name, process in running.items()}
    yield Jobs(ended["submitted"], ended["failed"], ended.get("dry"), api, emulator.objects(), online)
    api.close()
    failing.close()


def outcome(process: subprocess.Popen[str]) -> Outcome:
    out, err = process.communicate(timeout=300)
    return Outcome(process.returncode, out, err)


def alone() -> list[str]:
    """A command prefix that takes the network away, or nothing where that is not permitted."""
    for prefix in (["unshare", "-n"], ["unshare", "-rn"]):
        if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
            return prefix
    return []


def test_a_dry_run_without_network_prints_steps_options_and_container(jobs: Jobs) -> None:
    if jobs.dry is None:
        pytest.skip("this machine does not let a test take the network away (unshare)")
    assert jobs.dry.code == 0, jobs.dry.err
    document = jobs.dry.document
    assert [step for step in document["steps"] if step in STEPS] == STEPS
    assert document["options"]["project"] == "my-project"
    assert document["options"]["region"] == "europe-west1"
    assert Path(document["options"]["setup_file"]).is_absolute()
    assert document["container"].endswith(f"beam_python{sys.version_info.major}.{sys.version_info.minor}_sdk:2.77.0")
    assert document["staged"] == ["workflow.tar.gz"]
    assert document["dry_run"] is True and "job_id" not in document
    assert any("no model weights" in check["sentence"] for check in document["checks"] if check["state"] == "warning")
    assert jobs.dry.err == ""


def test_a_submission_returns_at_once_with_the_job_and_how_to_follow_it(jobs: Jobs) -> None:
    assert jobs.submitted.code == 0, jobs.submitted.err
    document = jobs.submitted.document
    (job_id,) = jobs.api.jobs
    assert document["job_id"] == job_id
    assert document["console_url"] == f"https://console.cloud.google.com/dataflow/jobs/europe-west1/{job_id}?project=my-project"
    assert document["follow"] == f"gcloud dataflow jobs describe {job_id} --region europe-west1 --project my-project"
    assert [check["state"] for check in document["checks"] if check["name"] == "credentials"] == ["ok"]
    polls = [request for request in jobs.api.requests if request.method == "GET"]
    assert len(polls) <= 1, "the command waited for the job"


def test_the_job_is_what_was_asked_for(jobs: Jobs) -> None:
    created = next(request for request in jobs.api.requests if request.method == "POST" and request.path.endswith("/jobs"))
    assert created.path == "/v1b3/projects/my-project/locations/europe-west1/jobs"
    assert created.authorization.startswith("Bearer ")
    assert jobs.job["name"] == jobs.submitted.document["job_name"]
    assert jobs.job["name"].startswith("vidattr-extract-2")
    assert jobs.job["labels"] == {
        "vidattr-stage": "extract",
        "vidattr-run": jobs.job["name"].removeprefix("vidattr-extract-"),
        "team": "content",
    }
    assert jobs.pool["machineType"] == "n1-standard-8"
    assert jobs.pool["numWorkers"] == 2
    assert jobs.pool["autoscalingSettings"]["maxNumWorkers"] == 20
    assert jobs.pool["network"] == "inner"
    assert jobs.pool["ipConfiguration"] in (2, "WORKER_IP_PRIVATE")
    assert [image["containerImage"] for image in jobs.pool["sdkHarnessContainerImages"]] == [CONTAINER]
    assert jobs.job["environment"]["serviceAccountEmail"] == "worker@my-project.iam.gserviceaccount.com"
    sent = jobs.job["environment"]["sdkPipelineOptions"]["options"]
    assert (sent["project"], sent["region"], sent["machine_type"]) == ("my-project", "europe-west1", "n1-standard-8")
    assert sent["temp_location"].startswith(f"gs://{BUCKET}/vidattr-dataflow/temp")


def test_the_staged_graph_has_the_steps_of_the_stage(jobs: Jobs) -> None:
    from apache_beam.portability.api import beam_runner_api_pb2 as api

    graph = api.Pipeline.FromString(jobs.staged("pipeline.pb"))
    (root,) = (graph.components.transforms[root] for root in graph.root_transform_ids)
    steps = [graph.components.transforms[child].unique_name for child in root.subtransforms]
    assert [step for step in steps if step in STEPS] == STEPS
    if jobs.dry is not None:
        assert steps == jobs.dry.document["steps"]


def test_a_worker_does_the_job_with_nothing_but_what_was_staged(
    jobs: Jobs, emulator: Emulator, weights_folder: Path, tmp_path: Path
) -> None:
    """The manifest names three videos that cannot be used; every one of them is accounted for."""
    (tmp_path / "pipeline.pb").write_bytes(jobs.staged("pipeline.pb"))
    with tarfile.open(fileobj=io.BytesIO(jobs.staged("workflow.tar.gz"))) as archive:
        archive.extractall(tmp_path / "package", filter="data")
    (package,) = (tmp_path / "package").iterdir()
    environment = {**jobs.environment, "PYTHONPATH": str(package), "VIDATTR_WEIGHTS": str(weights_folder)}
    command = [sys.executable, ROOT / "tests" / "pipelines" / "dataflow_api" / "worker.py", "pipeline.pb"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["state"] == "DONE"
    assert Path(said["code"]).is_relative_to(package)
    objects, run_id = emulator.objects(), jobs.submitted.document["run_id"]
    record = RunRecord.from_json(objects[f"vidattr/runs/{run_id}.json"])
    assert (record.counts.into, record.counts.dead_lettered, record.counts.annotated) == (3, 3, 0)
    assert record.arguments["job_name"] == jobs.job["name"]
    (failures,) = record.files["failures"]
    assert f"vidattr/{failures}" in objects


def test_the_staged_package_is_the_source_whole_and_nothing_else(jobs: Jobs) -> None:
    assert [package["name"] for package in jobs.pool["packages"]] == ["workflow.tar.gz"]
    with tarfile.open(fileobj=io.BytesIO(jobs.staged("workflow.tar.gz"))) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers() if member.isfile()}
        texts = {name: archive.extractfile(member).read() for name, member in members.items() if name.endswith(".py")}  # type: ignore[union-attr]
    wanted = {
        path.relative_to(ROOT).as_posix(): path
        for room in ("features", "pipelines")
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sorted(wanted.keys() - members.keys()) == []
    assert "setup.py" in members and "pyproject.toml" in members
    assert not [name for name in members if name.startswith(("tests/", "benchmarks/", "feature_repo/"))]
    assert texts["pipelines/launch.py"] == wanted["pipelines/launch.py"].read_bytes()


def test_no_secret_and_no_home_folder_travels(jobs: Jobs) -> None:
    """Beam would send all its options, and a list of this machine's packages and paths."""
    bodies = [request.body for request in jobs.api.requests if request.path != "/token"]
    everything = [*bodies, *jobs.objects.values()]
    assert everything
    for content in everything:
        assert CANARY.encode() not in content
        assert b"PRIVATE KEY" not in content
    sent = json.dumps(jobs.job)
    assert str(ROOT) not in sent and str(Path.home()) + "/" not in sent
    assert not [path for path in jobs.objects if path.endswith(("submission_environment_dependencies.txt", "pickled_main_session"))]


def test_building_the_package_leaves_the_source_as_it_was(jobs: Jobs) -> None:
    assert jobs.submitted.code == 0
    written = [path for path in ROOT.glob("*.egg-info/SOURCES.txt") if "vidattr-launch" in path.read_text()]
    assert not written and not (ROOT / "dist").exists()


def test_a_failed_job_ends_the_waiting_with_1_and_the_reason(jobs: Jobs) -> None:
    assert jobs.failed.code == 1
    assert jobs.failed.err.startswith("vidattr: job ")
    error = jobs.failed.document["error"]
    assert "Workers ran out of memory." in error["message"]
    assert "https://console.cloud.google.com/dataflow/jobs/europe-west1/" in error["message"]


@dataclass
class Ended:
    """A job handle whose job is done."""

    state: str = "DONE"

    def wait_until_finish(self) -> str:
        return self.state


def test_a_job_that_is_done_counts_by_its_run_record_only(tmp_path: Path) -> None:
    from pipelines.launch import LaunchedJob, wait

    workspace = Workspace(str(tmp_path))
    job = LaunchedJob("id-1", "name", "20261125T000000.000000Z-abc123", "https://console", "follow", Ended())
    with pytest.raises(Permanent, match=r"is done, but .*abc123\.json is missing"):
        wait(job, workspace)
    workspace.commit(
        RunRecord(
            job.run_id,
            "extract",
            datetime.fromtimestamp(0, UTC),
            datetime.fromtimestamp(0, UTC),
            counts=Counts(into=3, annotated=2, dead_lettered=1),
        )
    )
    assert wait(job, workspace).counts.into == 3


def config(**changes: Any) -> LaunchConfig:
    good = {
        "stage": "extract",
        "project": "my-project",
        "region": "europe-west1",
        "bucket": "gs://some-bucket",
        "videos": "gs://some-bucket/manifest.jsonl",
    }
    return LaunchConfig(**{**good, **changes})


def failed(**changes: Any) -> list[str]:
    return [check.name for check in checks(config(**changes)) if check.state == "failed"]


def test_a_good_launch_passes_every_check() -> None:
    assert failed() == []
    assert failed(container=CONTAINER, num_workers=3, labels=("team=a",), beam_args=("--no_use_public_ips",)) == []
    assert [check.state for check in checks(config(container=CONTAINER)) if check.name == "container"] == ["ok"]


@pytest.mark.parametrize(
    ("changes", "name", "remedy"),
    [
        ({"project": "My Project"}, "project", "--project"),
        ({"project": "123456"}, "project", "not its name or number"),
        ({"project": ""}, "project", "--project"),
        ({"region": "europe-west1-b"}, "region", "europe-west1"),
        ({"bucket": "gs://some-bucket/folder", "workspace": "gs://some-bucket/w"}, "bucket", "without a folder"),
        ({"bucket": "", "workspace": "gs://some-bucket/w"}, "bucket", "--bucket"),
        ({"workspace": "workspace"}, "workspace", "gs://BUCKET/FOLDER"),
        ({"videos": "manifest.jsonl"}, "videos", "copy them to the bucket"),
        ({"videos": ""}, "videos", "--videos"),
        ({"roots": ("/data",)}, "root", "--root gs://"),
        ({"machine_type": "big one"}, "machine type", "e2-standard-4"),
        ({"max_workers": 0}, "workers", "--max-workers"),
        ({"num_workers": 11}, "workers", "--num-workers"),
        ({"job_name": "-x"}, "job name", "a letter"),
        ({"labels": ("Team=A",)}, "label", "name=value"),
        ({"stage": "annotate", "container": CONTAINER}, "stage", "vidattr annotate --workspace"),
        ({"stage": "distill"}, "stage", "vidattr distill --workspace"),
        ({"stage": "materialize"}, "stage", "vidattr materialize --workspace"),
        ({"stage": "extrakt"}, "stage", "extract"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(changes: dict[str, Any], name: str, remedy: str) -> None:
    assert failed(**changes) == [name]
    with pytest.raises(InvalidInput) as caught:
        require(checks(config(**changes)))
    assert remedy in str(caught.value)


@pytest.mark.parametrize(
    "flag",
    [
        f"--api_key={CANARY}",
        f"--openai-token={CANARY}",
        f"--s3_secret_access_key={CANARY}",
        f"--password={CANARY}",
        f"--labels=token={CANARY}",
        f"--experiments=api_key={CANARY}",
        f"--user_agent=AIza{CANARY * 3}",
        "--user_agent=-----BEGIN PRIVATE KEY-----",
    ],
)
def test_a_secret_is_refused_and_not_repeated(flag: str) -> None:
    with pytest.raises(InvalidInput, match="secrets travel by name") as caught:
        require(checks(config(beam_args=(flag,))))
    assert CANARY not in str(caught.value)


def test_a_key_that_is_a_resources_name_is_no_secret() -> None:
    assert failed(beam_args=("--dataflow_kms_key=projects/p/locations/l/keyRings/r/cryptoKeys/k",)) == []


@pytest.mark.parametrize(
    "flag", ["--dry_run=False", "--dry-run", "--runner=DirectRunner", "--setup_file=x", "--template_location=gs://b/t"]
)
def test_what_launch_sets_itself_is_refused_after_the_dashes(flag: str) -> None:
    assert failed(beam_args=(flag,)) == ["beam option"]


def test_a_word_that_is_no_option_is_refused() -> None:
    assert failed(beam_args=("True",)) == ["beam option"]


def test_an_option_that_beam_does_not_know_is_refused_with_the_nearest_one() -> None:
    from pipelines.launch import build_graph

    with pytest.raises(InvalidInput, match="--disk_sizes_gb; did you mean --disk_size_gb"):
        build_graph(config(beam_args=("--disk_sizes_gb=50",)))
    with pytest.raises(InvalidInput, match="Beam refuses the options after --: --disk_size_gb=much"):
        build_graph(config(beam_args=("--disk_size_gb=much",)))


def test_a_wheel_install_needs_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_plan, "SOURCE", tmp_path)
    assert failed() == ["code"]
    assert failed(container=CONTAINER) == []
    assert not [flag for flag in options(config(container=CONTAINER)) if flag.startswith("--setup_file")]


def test_the_users_flags_come_last_and_threads_are_theirs_to_set() -> None:
    flags = options(config(beam_args=("--number_of_worker_harness_threads=4",)))
    assert [flag for flag in flags if "harness_threads" in flag] == ["--number_of_worker_harness_threads=4"]
    assert "--number_of_worker_harness_threads=1" in options(config())


def test_the_plan_names_every_place_and_the_most_it_can_use() -> None:
    asked = config(container=CONTAINER, max_workers=5, machine_type="n1-standard-8")
    words = plan(asked)
    text = " ".join(words.sentences)
    for name in ("my-project", "europe-west1", "n1-standard-8", "40 vCPUs", CONTAINER, *words.reads, *words.writes):
        assert name in text
    assert f"gs://some-bucket/vidattr/runs/{asked.run_id}.json" in words.writes
    assert "deploy/Dockerfile" in " ".join(plan(config()).sentences)


def test_missing_credentials_are_told_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "gone.json"))
    (check,) = launch_plan.access(config())
    assert check.state == "failed" and "gone.json, which is no file" in check.sentence
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    (check,) = launch_plan.access(config())
    assert check.state == "failed" and "gcloud auth application-default login" in check.remedy


@given(
    st.text(alphabet="abcdefghijklmnopqrstuvwxyz", max_size=8),
    st.sampled_from(["key", "TOKEN", "Secret", "passwd", "credentials"]),
)
def test_no_spelling_of_a_secrets_name_slips_through(around: str, word: str) -> None:
    for separator in ("", "_", "-"):
        flag = f"--{around}{separator}{word}={CANARY}"
        assert "beam option" in failed(beam_args=(flag,))


def test_a_bucket_that_is_not_there_is_told_before_anything_is_sent(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    api = DataflowApi()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator.url)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(credentials_file(tmp_path / "a.json", f"{api.endpoint}/token")))
    (check,) = launch_plan.access(config(bucket="gs://no-such-bucket"))
    assert check.state == "failed" and check.sentence == "there is no bucket gs://no-such-bucket"
    assert {check.state for check in launch_plan.access(config(bucket=BUCKET))} == {"ok"}
    api.close()


def test_a_config_is_a_value() -> None:
    asked = config()
    assert dataclasses.replace(asked) == asked
    assert asked.bucket == "some-bucket" and asked.workspace == "gs://some-bucket/vidattr"
    assert len(asked.job_name) <= 63
