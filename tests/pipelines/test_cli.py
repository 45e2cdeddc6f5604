"""What a person reads, and what a script gets, before anything runs."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import FRAMES_ONLY

Run = Callable[..., Any]
COMMANDS = [
    *("run", "register", "launch", "get", "extract", "annotate", "distill", "score", "materialize", "sample", "doctor"),
    *("attributes check", "attributes new", "attributes show", "attributes try", "videos check", "runs list", "runs show"),
    *("duplicates", "duplicates find", "duplicates list", "duplicates split"),
    *("weights install", "weights list", "weights verify"),
]


@pytest.fixture
def manifest(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "a.mp4").write_bytes(b"x")
    path = tmp_path / "manifest.jsonl"
    path.write_text('{"video_id": "a", "uri": "a.mp4"}\n')
    return path


@pytest.fixture
def repo(repo_root: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    shutil.copytree(repo_root / "feature_repo", tmp_path / "repo", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "repo"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_and_speaks_json(vidattr: Run, command: str) -> None:
    outcome = vidattr(*command.split(), "--help")
    assert outcome.exit_code == 0 and "--json" in outcome.out
    assert len(outcome.out.split("Usage:")[1].strip().splitlines()) > 3


def test_help_needs_nothing_heavy(repo_root: pathlib.Path) -> None:
    heavy = ["apache_beam", "tensorflow", "feast", "pyarrow", "numpy", "cv2", "av", "onnxruntime", "yaml"]
    script = f"import sys, pipelines.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=repo_root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("run", "--videos", "no/such.jsonl"), r"no/such\.jsonl"),
        (("extract", "--videos", "{folder}"), "media"),
        (("run", "--videos", "{twice}"), "'a'"),
        (("run", "--videos", "{manifest}", "--attribute", "funy"), "'funy' is no attribute.*known are.*funny"),
        (
            ("annotate", "--annotator", "oracle", "--workspace", "{folder}/w"),
            "'oracle' is no annotator: choose one of baseline, gemini, openai, replay",
        ),
        (("annotate", "--annotator", "replay", "--workspace", "{folder}/w"), "--recording"),
        (("extract", "--videos", "{manifest}", "--workspace", "{manifest}/w"), "cannot be written.*--workspace"),
        (("run", "--videos", "{manifest}", "--workspace", "gs://bucket/w"), "needs a local workspace"),
        (("run", "--videos", "{manifest}", "--workspace", "{folder}/w", "--", "fast"), "'fast' is no Beam option"),
        (("get", "a", "--workspace", "{folder}/nothing"), "no feature store here; run `vidattr run"),
        (("runs", "show", "zzz", "--workspace", "{folder}/nothing"), "names no run"),
        (("attributes", "show", "funy"), "'funy' is no attribute"),
        (("attributes", "check", "--feature-repo", "{folder}/nothing"), "nothing"),
        (("attributes", "new", "Bad Name"), "Bad Name"),
        (("attributes", "new", "funny"), "there already"),
        (("attributes", "try", "{folder}/none.yaml", "--videos", "{manifest}"), r"none\.yaml"),
        (("score", "--workspace", "{folder}/nothing"), "vidattr distill"),
        (("distill", "--workspace", "{folder}/nothing"), "vidattr extract"),
        (("run", "--videos", "{manifest}", "--", "--nonsense=3"), "no option --nonsense"),
        (("extract", "--videos", "{manifest}", "--", "--direct_num_worker=3"), "did you mean --direct_num_workers"),
        (("materialize", "--workspace", "{folder}/nothing"), "vidattr register"),
    ],
)
def test_a_mistake_is_a_sentence_and_exit_code_2(
    vidattr: Run,
    manifest: pathlib.Path,
    repo: pathlib.Path,
    arguments: tuple[str, ...],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = manifest.parent / "empty"
    folder.mkdir()
    twice = manifest.with_name("twice.jsonl")
    twice.write_text(manifest.read_text() * 2)
    monkeypatch.setenv("VIDATTR_FEATURE_REPO", str(repo))
    monkeypatch.setenv("VIDATTR_WORKSPACE", str(manifest.parent / "w"))
    words = [word.format(folder=folder, manifest=manifest, twice=twice) for word in arguments]
    import re

    outcome = vidattr(*words)
    assert outcome.exit_code == 2, outcome
    assert re.search(sentence, outcome.err.replace("\n", " ")), outcome.err
    assert "Traceback" not in outcome.err + outcome.out
    at = words.index("--") if "--" in words else len(words)
    document = vidattr(*words[:at], "--json", *words[at:]).document
    assert set(document) == {"error"} and re.search(sentence, document["error"]["message"].replace("\n", " "))


def test_bad_yaml_is_named_by_file_and_line(vidattr: Run, repo: pathlib.Path, manifest: pathlib.Path) -> None:
    path = repo / "attributes" / "funny.yaml"
    lines = path.read_text().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("value_type"))
    lines[at] = "value_type: bool"
    path.write_text("\n".join(lines))
    outcome = vidattr("run", "--videos", manifest, "--workspace", manifest.parent / "w", "--feature-repo", repo)
    assert outcome.exit_code == 2 and f"funny.yaml:{at + 1}:" in outcome.err and "boolean" in outcome.err
    assert not (manifest.parent / "w").exists() or not list((manifest.parent / "w").rglob("*.parquet"))


def test_videos_check_names_row_field_and_remedy(vidattr: Run, manifest: pathlib.Path) -> None:
    with manifest.open("a") as file:
        file.write('{"video_id": "b", "uri": "../../etc/passwd"}\n{"video_id": "c"}\nnonsense\n')
    outcome = vidattr("videos", "check", manifest, "--json")
    assert outcome.exit_code == 2
    document = outcome.document
    assert (document["rows"], document["usable"], len(document["problems"])) == (4, 1, 3)
    outside, missing, broken = document["problems"]
    assert "2" in outside and "uri" in outside and "../../etc/passwd" in outside
    assert "3" in missing and "uri" in missing
    assert "4" in broken
    good = manifest.with_name("good.jsonl")
    good.write_text('{"video_id": "a", "uri": "a.mp4"}\n')
    assert vidattr("videos", "check", good).exit_code == 0


def test_new_show_and_check(vidattr: Run, repo: pathlib.Path) -> None:
    place = ("--feature-repo", repo)
    assert vidattr("attributes", "new", "nostalgic", *place).exit_code == 0
    names = [attribute["name"] for attribute in vidattr("attributes", "check", *place, "--json").document["attributes"]]
    assert names == ["authentic", "calming", "cozy", "energetic", "funny", "inspiring", "nostalgic"]
    shown = vidattr("attributes", "show", "funny", *place)
    assert "Counts:" in shown.out and "Does not count:" in shown.out and "Hash" in shown.out


def test_a_type_change_of_a_registered_attribute_is_refused_with_its_remedy(
    vidattr: Run, repo: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    place = ("--feature-repo", repo, "--workspace", tmp_path / "w")
    assert vidattr("register", *place, "--dry-run", "--json").document["applied"] is False
    assert vidattr("register", *place, "--json").document["added"] == [
        "authentic",
        "calming",
        "cozy",
        "energetic",
        "funny",
        "inspiring",
    ]
    path = repo / "attributes" / "funny.yaml"
    text = path.read_text()
    path.write_text(
        text.replace("value_type: boolean", "value_type: score\nrange: [1, 5]")
        .replace("value: true", "value: 5")
        .replace("value: false", "value: 1")
    )
    outcome = vidattr("register", *place)
    assert outcome.exit_code == 2 and "funny_v2" in outcome.err
    path.unlink()
    assert "--retire" in vidattr("register", *place).err
    assert vidattr("register", *place, "--retire", "--json").document["retired"] == ["funny"]


def test_doctor_finds_this_machine_fit(vidattr: Run, tmp_path: pathlib.Path, weights_folder: pathlib.Path) -> None:
    outcome = vidattr("doctor", "--workspace", tmp_path / "w", "--json")
    states = {finding["what"]: finding["state"] for finding in outcome.document["findings"]}
    assert outcome.exit_code == 0, [f for f in outcome.document["findings"] if f["state"] == "missing"]
    assert {"Python", "tensorflow", "feast", "memory", "workspace", "sealed room"} <= set(states)


def test_a_wrong_flag_is_said_without_a_trace(vidattr: Run) -> None:
    outcome = vidattr("run", "--vidoes", "x")
    assert outcome.exit_code == 2 and "--videos" in outcome.err and "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("run", "--json"), "Missing option '--videos'"),
        (("get", "--json"), "Missing argument 'VIDEO_ID...'"),
        (("runs", "show", "--json"), "Missing argument"),
        (("run", "--json", "--vidoes", "x"), "No such option: --vidoes"),
        (("frobnicate", "--json"), "No such command 'frobnicate'"),
        (("sample", "x", "--count", "many", "--json"), "Invalid value for '--count'"),
        (("--json",), "No such option: --json"),
    ],
)
def test_a_mistake_in_the_command_line_is_one_json_document(vidattr: Run, words: tuple[str, ...], sentence: str) -> None:
    outcome = vidattr(*words)
    assert outcome.exit_code == 2 and sentence in outcome.document["error"]["message"]
    assert "Usage: vidattr" in outcome.err and "Traceback" not in outcome.err
    assert vidattr(*(word for word in words if word != "--json")).out == "" or words == ("--json",)


@pytest.mark.parametrize(
    ("words", "shown"), [((), "vidattr sample DIR"), (("runs",), "One run: arguments"), (("run", "--help"), "--videos")]
)
def test_a_command_without_arguments_explains_itself(vidattr: Run, words: tuple[str, ...], shown: str) -> None:
    outcome = vidattr(*words)
    assert outcome.exit_code == (0 if "--help" in words else 2) and outcome.err == ""
    assert "Usage: vidattr" in outcome.out and shown in " ".join(outcome.out.split())


def test_a_path_is_quoted_in_the_next_command(vidattr: Run, manifest: pathlib.Path) -> None:
    import shlex

    hostile = manifest.with_name("x;$(touch PWNED) y.jsonl")
    manifest.rename(hostile)
    outcome = vidattr("videos", "check", hostile)
    assert shlex.split(outcome.out.split("Next: ")[1]) == ["vidattr", "run", "--videos", str(hostile)]
    place = manifest.parent / "w $(id)"
    outcome = vidattr("runs", "list", "-w", place)
    assert shlex.split(outcome.out.split("Next: ")[1]) == ["vidattr", "run", "--videos", "MANIFEST", "--workspace", str(place)]


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupted_run_keeps_what_it_has_and_goes_on(repo_root: pathlib.Path, tmp_path: pathlib.Path, vidattr: Run) -> None:
    import signal
    import time

    from features.videos.sample import write_sample

    write_sample(str(tmp_path / "videos"), 8, 0)
    rows = [json.loads(line) for line in (tmp_path / "videos" / "manifest.jsonl").read_text().splitlines()]
    many = [{**row, "video_id": f"{row['video_id']}-{turn}"} for turn in range(4) for row in rows]
    path = tmp_path / "videos" / "many.jsonl"
    path.write_text("\n".join(map(json.dumps, many)))
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "vidattr.yaml").write_text(FRAMES_ONLY)
    command = [
        sys.executable,
        "-m",
        "pipelines.cli",
        "extract",
        "--json",
        "--videos",
        str(path),
        "--workspace",
        str(tmp_path / "w"),
    ]
    child = subprocess.Popen(command, cwd=repo_root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "w").rglob("*.parquet")) and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=120)
    counts = json.loads(out)["counts"]
    assert child.returncode == 130 and "stays pending" in err and "Traceback" not in err
    assert (
        counts["in"] == len(many) == counts["annotated"] + counts["pending"] and counts["pending"] > 0 and counts["annotated"] > 0
    )
    again = vidattr("extract", "--json", "--videos", path, "--workspace", tmp_path / "w").document["counts"]
    assert again["annotated"] == len(many) and again["reused"] == counts["annotated"]
