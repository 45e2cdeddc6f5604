"""The main job on real clips: in a process of its own, without any network, and then looked at from every side."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from features.records import Annotation, Failure
from features.workspace import Workspace
from tests.conftest import FRAMES_ONLY

CLIPS = 26
ATTRIBUTES = ["authentic", "calming", "cozy", "energetic", "funny", "inspiring"]


@dataclass(frozen=True)
class MainJob:
    """A finished `vidattr run` over the clips."""

    workspace: str
    feature_repo: str
    document: dict[str, Any]
    left_behind: list[str]
    isolated: bool


def without_network() -> list[str]:
    """A prefix for a command that takes its network away; empty where this machine does not allow it."""
    prefix = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    try:
        allowed = subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        allowed = False
    return prefix if allowed else []


@pytest.fixture(scope="module")
def job(
    shared_data: pathlib.Path, repo_root: pathlib.Path, weights_folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> MainJob:
    """Runs the main job once; its home, temporary and working folders are new and empty."""
    place = tmp_path_factory.mktemp("main-job")
    for name in ("home", "tmp", "cwd"):
        (place / name).mkdir()
    repo = place / "feature_repo"
    shutil.copytree(repo_root / "feature_repo", repo, ignore=shutil.ignore_patterns("__pycache__"))
    prefix = without_network()
    command = [sys.executable, "-m", "pipelines.cli", "run", "--json", "--videos", str(shared_data / "clips" / "manifest.jsonl")]
    command += ["--workspace", str(place / "workspace"), "--feature-repo", str(repo)]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(repo_root),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(place / "home"),
        "TMPDIR": str(place / "tmp"),
        "VIDATTR_WEIGHTS": str(weights_folder),
    }
    done = subprocess.run([*prefix, *command], cwd=place / "cwd", env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    left = [str(path.relative_to(place)) for name in ("home", "tmp", "cwd") for path in (place / name).rglob("*")]
    return MainJob(str(place / "workspace"), str(repo), json.loads(done.stdout), left, bool(prefix))


def test_every_clip_is_annotated(job: MainJob) -> None:
    counts = {"in": CLIPS, "annotated": CLIPS, "dead_lettered": 0, "pending": 0, "reused": 0}
    assert job.document["counts"] == counts
    assert job.document["pair_counts"] == {**counts, "in": CLIPS * 6, "annotated": CLIPS * 6}
    assert list(job.document["stages"]) == ["extract", "duplicates", "annotate", "distill", "score", "materialize"]
    assert 0 < job.document["peak_memory_bytes"] < 4 * 2**30


def test_it_needed_no_network(job: MainJob) -> None:
    if not job.isolated:
        pytest.skip("this sandbox does not allow network namespaces")


def test_nothing_is_left_outside_the_workspace(job: MainJob) -> None:
    assert job.left_behind == []


def test_speech_was_understood(job: MainJob) -> None:
    (table,) = [
        rows
        for file in Workspace(job.workspace).files("features")
        for rows in [pq.read_table(file.path, filters=[("video_id", "=", "night-docking")])]
        if rows.num_rows
    ]
    assert re.search(r"Webb Space Telescope", table["transcript"][0].as_py())


def test_the_report_shows_every_clip(job: MainJob) -> None:
    page = pathlib.Path(job.document["report"]).read_text()
    manifest_ids = {row.video_id for row in Workspace(job.workspace).rows(Annotation)}
    assert len(manifest_ids) == CLIPS and all(video_id in page for video_id in manifest_ids)
    assert page.count("data:image/jpeg;base64,") >= CLIPS


def test_get_and_feast_say_the_same(job: MainJob, vidattr: Callable[..., Any]) -> None:
    cells = vidattr("get", "squirrel-on-rail", "--workspace", job.workspace, "--json").document["videos"]["squirrel-on-rail"]
    assert sorted(cells) == ATTRIBUTES
    assert {cell["source"] for cell in cells.values()} <= {"gold", "llm", "baseline", "student"}
    assert all(cell["present"] and not cell["stale"] and 0 <= cell["value"] <= 1 for cell in cells.values())

    from feast import FeatureStore

    store = FeatureStore(repo_path=os.path.join(job.workspace, "feast"))
    names = [f"video_attributes:{name}{suffix}" for name in ATTRIBUTES for suffix in ("", "_source")]
    row = store.get_online_features(names, [{"video_id": "squirrel-on-rail"}]).to_dict()
    for name in ATTRIBUTES:
        assert np.float32(row[name][0]) == np.float32(cells[name]["value"])
        assert row[f"{name}_source"][0] == cells[name]["source"]


def test_an_unknown_video_is_absent_and_said(job: MainJob, vidattr: Callable[..., Any]) -> None:
    outcome = vidattr("get", "nobody", "--workspace", job.workspace, "--json")
    assert outcome.exit_code == 1
    assert all(not cell["present"] and cell["value"] is None for cell in outcome.document["videos"]["nobody"].values())
    assert "nothing online" in vidattr("get", "nobody", "--workspace", job.workspace).out


def test_the_student_scores_the_same_in_a_fresh_process_without_its_training_folder(
    job: MainJob, repo_root: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (student,) = (pathlib.Path(job.workspace) / "students").iterdir()
    moved = tmp_path / "only-the-student"
    shutil.copytree(student, moved)
    script = tmp_path / "fresh.py"
    script.write_text(
        "import sys, json, glob\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'tensorflow_transform', 'tfx_bsl', 'apache_beam'}:\n"
        "            raise ImportError('blocked ' + name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import pyarrow.parquet as pq\n"
        "from features.student.scoring import Student\n"
        "from features.student.inputs import LIGHT_COLUMNS\n"
        "student = Student.load(sys.argv[1])\n"
        "out = {}\n"
        "for path in sys.argv[2:]:\n"
        "    (batch,) = pq.read_table(path, columns=list(LIGHT_COLUMNS)).combine_chunks().to_batches()\n"
        "    scores = student.score(batch)\n"
        "    for row, video_id in enumerate(batch.column('video_id').to_pylist()):\n"
        "        out[video_id] = {name: float(scores[name][row]) for name in scores}\n"
        "assert not {'tensorflow_transform', 'tfx_bsl', 'apache_beam'} & set(sys.modules)\n"
        "print(json.dumps(out))\n"
    )
    files = [file.path for file in Workspace(job.workspace).files("features")]
    environment = {**os.environ, "PYTHONPATH": str(repo_root)}
    done = subprocess.run(
        [sys.executable, str(script), str(moved), *files], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    fresh = json.loads(done.stdout.splitlines()[-1])
    pipeline = {
        (row.video_id, row.attribute): row.probability
        for row in Workspace(job.workspace).rows(Annotation)
        if row.source == "student"
    }
    assert len(pipeline) == CLIPS * 6
    for (video_id, attribute), probability in pipeline.items():
        assert probability == pytest.approx(fresh[video_id][attribute], abs=1e-6)


def test_a_second_run_does_nothing_twice(job: MainJob, shared_data: pathlib.Path, vidattr: Callable[..., Any]) -> None:
    before = online_rows(job.workspace)
    files = {table: Workspace(job.workspace).files(table) for table in ("features", "annotations")}
    again = vidattr(
        "run",
        "--json",
        "--videos",
        shared_data / "clips" / "manifest.jsonl",
        "--workspace",
        job.workspace,
        "--feature-repo",
        job.feature_repo,
    ).document
    assert again["counts"]["reused"] == CLIPS and again["pair_counts"]["reused"] == CLIPS * 6
    assert online_rows(job.workspace) == before
    assert {table: Workspace(job.workspace).files(table) for table in files} == files


def test_a_seventh_attribute_asks_only_for_itself_and_leaves_the_rest_alone(job: MainJob, vidattr: Callable[..., Any]) -> None:
    repo = pathlib.Path(job.feature_repo)
    text = (repo / "attributes" / "cozy.yaml").read_text()
    (repo / "attributes" / "wistful.yaml").write_text(text.replace("name: cozy", "name: wistful"))
    before = feast_rows(job.workspace, ATTRIBUTES)
    annotated = {(row.video_id, row.attribute): row for row in Workspace(job.workspace).rows(Annotation) if row.source != "student"}
    place = ("--workspace", job.workspace, "--feature-repo", job.feature_repo, "--json")
    assert vidattr("register", *place).document["added"] == ["wistful"]
    record = vidattr("annotate", *place).document
    assert record["pair_counts"] == {"in": CLIPS * 7, "annotated": CLIPS * 7, "dead_lettered": 0, "pending": 0, "reused": CLIPS * 6}
    new = [row for row in Workspace(job.workspace).rows(Annotation) if row.run_id == record["run_id"]]
    assert {row.attribute for row in new} == {"wistful"} and len(new) == CLIPS
    vidattr("materialize", *place)
    assert feast_rows(job.workspace, ATTRIBUTES) == before
    after = {(row.video_id, row.attribute): row for row in Workspace(job.workspace).rows(Annotation) if row.source != "student"}
    assert {key: after[key] for key in annotated} == annotated
    cells = vidattr("get", "bee-on-thistle", "--workspace", job.workspace, "--json").document["videos"]["bee-on-thistle"]
    assert cells["wistful"]["source"] == "baseline" and cells["wistful"]["present"]


def online_rows(workspace: str) -> list[tuple[Any, ...]]:
    """Every row of the sqlite online store, as it lies there."""
    import sqlite3

    with sqlite3.connect(os.path.join(workspace, "feast", "online.db")) as connection:
        tables = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table' order by name")]
        return [(table, *row) for table in tables for row in sorted(connection.execute(f'select * from "{table}"'), key=repr)]


def feast_rows(workspace: str, names: list[str]) -> dict[str, Any]:
    """All columns of some attributes of all clips through Feast's own client."""
    from feast import FeatureStore

    ids = sorted({row.video_id for row in Workspace(workspace).rows(Annotation)})
    columns = [f"video_attributes:{name}{suffix}" for name in names for suffix in ("", "_source")]
    store = FeatureStore(repo_path=os.path.join(workspace, "feast"))
    return store.get_online_features(columns, [{"video_id": video_id} for video_id in ids]).to_dict()


def test_odd_files_end_with_the_law_of_counts_and_nothing_is_done_twice(
    shared_data: pathlib.Path,
    repo_root: pathlib.Path,
    weights_folder: pathlib.Path,
    vidattr: Callable[..., Any],
    tmp_path: pathlib.Path,
) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "vidattr.yaml").write_text(FRAMES_ONLY)
    arguments = ("run", "--json", "--videos", shared_data / "odd_clips", "--workspace", tmp_path / "w")
    arguments += ("--feature-repo", repo_root / "feature_repo")
    first, again = (vidattr(*arguments) for _ in range(2))
    assert first.exit_code == again.exit_code == 0
    for document in (first.document, again.document):
        for counts, each in ((document["counts"], 1), (document["pair_counts"], len(ATTRIBUTES))):
            assert counts["in"] == 17 * each == counts["annotated"] + counts["dead_lettered"] + counts["pending"]
            assert counts["dead_lettered"] == 6 * each and counts["pending"] == 0
    assert again.document["counts"]["reused"] == 11 and again.document["pair_counts"]["reused"] == 11 * len(ATTRIBUTES)
    workspace = Workspace(str(tmp_path / "w"))
    rows = [(row.video_id, row.attribute, row.source) for row in workspace.rows(Annotation)]
    assert len(rows) == len(set(rows)) == 11 * len(ATTRIBUTES) * 2, "a teacher's and a student's answer for each pair, once"
    letters = [(row.video_id, row.attempts) for row in workspace.rows(Failure)]
    again = {video_id: attempts for video_id, attempts in letters if not attempts} | {"empty": 1}
    assert len(letters) == 12 and len(again) == 6, "carried over, not decoded again; what could not even be read is looked at"
    assert vidattr("get", "audio-only", "--workspace", tmp_path / "w").exit_code == 1
