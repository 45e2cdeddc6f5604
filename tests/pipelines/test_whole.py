"""All stages after one another: what adds up, what is left out, and what is said about it."""

from __future__ import annotations

import json
import pathlib
import shlex
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import InvalidInput, NothingToLearn
from features.records import Counts, Failure, RunRecord
from features.videos.sample import write_sample
from features.workspace import Workspace
from pipelines import stopping
from pipelines.project import Project, exit_code
from pipelines.whole import combined_counts, run_all
from tests.conftest import FRAMES_ONLY
from tests.pipelines.hand_made import write_recording

Run = Callable[..., Any]
NOW = datetime(2026, 11, 25, tzinfo=UTC)
HOSTILE = "x;$(touch PWNED)"


def record(stage: str, counts: Counts, pairs: Counts | None = None, **changes: Any) -> RunRecord:
    return RunRecord("r", stage, NOW, NOW, counts=counts, pair_counts=pairs, **changes)


class Corpus:
    """Three videos, too few to train a student, answers to one attribute about them, and the arguments of a run over them."""

    def __init__(self, place: pathlib.Path) -> None:
        write_sample(str(place / "videos"), 3, 0)
        self.place, self.manifest = place, place / "videos" / "manifest.jsonl"
        rows = [json.loads(line) for line in self.manifest.read_text().splitlines()]
        rows[1]["video_id"] = HOSTILE
        self.manifest.write_text("\n".join(map(json.dumps, rows)))
        self.ids = [row["video_id"] for row in rows]
        self.files = [self.manifest.parent / row["uri"] for row in rows]
        write_recording(place / "answers.jsonl", {(video_id, "cozy"): "true" for video_id in self.ids})

    def workspace(self, name: str, settings: str = "") -> pathlib.Path:
        place = self.place / name
        place.mkdir()
        (place / "vidattr.yaml").write_text(FRAMES_ONLY + settings)
        return place

    def arguments(self, workspace: pathlib.Path, repo: pathlib.Path) -> tuple[object, ...]:
        (self.place / "no-labels").mkdir(exist_ok=True)
        answers = ("--annotator", "replay", "--recording", self.place / "answers.jsonl", "--golden", self.place / "no-labels")
        return ("run", "--videos", self.manifest, "-w", workspace, "--feature-repo", repo / "feature_repo", "-a", "cozy", *answers)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory, weights_folder: pathlib.Path) -> Corpus:
    return Corpus(tmp_path_factory.mktemp("whole"))


def test_a_video_that_is_lost_between_two_runs_is_a_dead_letter_of_the_second(
    corpus: Corpus, vidattr: Run, repo_root: pathlib.Path
) -> None:
    place = corpus.workspace("w")
    arguments = corpus.arguments(place, repo_root)
    first = vidattr(*arguments)
    assert first.exit_code == 0, first.err
    assert "No student was trained" in first.out and "score" not in first.out.split("stage", 1)[1]
    held = corpus.files[0].read_bytes()
    corpus.files[0].unlink()
    try:
        outcome = vidattr(*arguments, "--json")
    finally:
        corpus.files[0].write_bytes(held)
    assert outcome.exit_code == 0, outcome.err
    document = outcome.document
    counts = {"in": 3, "annotated": 2, "dead_lettered": 1, "pending": 0, "reused": 2}
    assert document["counts"] == document["pair_counts"] == counts
    workspace = Workspace(str(place))
    assert document["run_id"] in {run.run_id for run in workspace.runs("run")}
    assert pathlib.Path(document["report"]).is_file()
    assert document["details"]["kind/missing"] == 1 and document["details"]["notes"]

    # What is copied into a shell names the next video that is there, and nothing more.
    assert shlex.split(document["next"]) == ["vidattr", "get", HOSTILE, "--workspace", str(place)]
    page = pathlib.Path(document["report"]).read_text()
    assert "get &#39;x;$(touch PWNED)&#39; --workspace" in page
    assert vidattr("get", HOSTILE, "-w", place).exit_code == 0

    # The run over all stages began before them and ended after them: it is the last one.
    shown = vidattr("runs", "show", "last", "-w", place, "--json").document
    assert (shown["stage"], shown["run_id"]) == ("run", document["run_id"])
    assert [letter["video_id"] for letter in shown["dead_letters"]] == [corpus.ids[0]]
    assert f"vidattr runs show {document['run_id']} --workspace" in vidattr("runs", "list", "-w", place).out

    # Dead letters of other runs are not read: one whose file is gone does not matter.
    first_run = workspace.runs("run")[0].run_id
    for path in workspace.files("failures"):
        pathlib.Path(path.path).unlink()
    assert vidattr("runs", "show", first_run, "-w", place).exit_code == 0


def test_an_online_store_that_is_away_is_a_failure_and_said(corpus: Corpus, vidattr: Run, repo_root: pathlib.Path) -> None:
    with socket.socket() as taken:  # bound and not listening: nobody answers there
        taken.bind(("127.0.0.1", 0))
        place = corpus.workspace("away", f"online_store: redis://127.0.0.1:{taken.getsockname()[1]}\n")
        outcome = vidattr(*corpus.arguments(place, repo_root))
    assert outcome.exit_code == 1, outcome
    assert "3 videos are not in the online store yet" in outcome.out
    assert "materialize: 3 pending: " in outcome.out
    assert outcome.out.split("stage", 1)[1].split("materialize")[1].split()[:6][1:] == ["3", "0", "0", "0", "3"]
    assert f"Next: vidattr materialize --workspace {place}" in outcome.out


def test_beyond_the_priority_corpus_nobody_is_asked(corpus: Corpus, vidattr: Run, repo_root: pathlib.Path) -> None:
    place, calls = corpus.workspace("priority"), corpus.place / "calls.jsonl"
    priority = corpus.manifest.parent / "priority.jsonl"
    priority.write_text(corpus.manifest.read_text().splitlines()[2])
    arguments = (*corpus.arguments(place, repo_root), "--priority", priority, "--call-log", calls, "--json")
    outcome = vidattr(*arguments)
    assert calls.exists(), outcome
    document = outcome.document
    assert [json.loads(line)["video_id"] for line in calls.read_text().splitlines()] == [corpus.ids[2]]
    assert document["stages"]["extract"]["counts"]["annotated"] == 3
    assert document["counts"] == {"in": 3, "annotated": 1, "dead_lettered": 0, "pending": 2, "reused": 0}, "too few for a student"
    scored = record("score", Counts(3, 3, 0, 0), Counts(3, 3, 0, 0))
    counts, pairs = combined_counts(record("extract", Counts(3, 3, 0, 0)), scored, 1)
    assert (counts.annotated, counts.pending, pairs.annotated) == (3, 0, 3), "the student covers the rest"


def test_a_run_that_does_nothing_fails(corpus: Corpus, vidattr: Run, repo_root: pathlib.Path) -> None:
    place = corpus.workspace("nothing")
    arguments = [str(word) for word in corpus.arguments(place, repo_root)]
    gone = corpus.place / "gone.jsonl"
    gone.write_text('{"video_id": "a", "uri": "videos/none.mp4"}\n')
    arguments[arguments.index("--videos") + 1] = str(gone)
    outcome = vidattr(*arguments, "--json")
    assert outcome.exit_code == 1
    document = outcome.document
    assert document["counts"] == {"in": 1, "annotated": 0, "dead_lettered": 1, "pending": 0, "reused": 0}
    assert document["next"] == f"vidattr runs show {document['run_id']} --workspace {place}"
    alone = vidattr("extract", "--videos", gone, "-w", place)
    assert alone.exit_code == 1 and "Next: vidattr runs show" in alone.out


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--annotator", "oracle"), "'oracle' is no annotator"),
        (("--annotator", "replay", "--recording", ""), "needs a recording"),
        (("--recording", "{place}/none.jsonl"), "none.jsonl: the recording cannot be read"),
        (("--recording", "{place}/broken.jsonl"), "broken.jsonl:1"),
        (("--golden", "{place}/none"), "is no folder"),
        (("--golden", "{place}/bad"), "ratings.csv"),
        (("--", "--nonsense=3"), "Beam has no option --nonsense"),
        (("--", "--direct_num_worker=3"), "did you mean --direct_num_workers"),
        (("--", "--s3_secret_access_key=CANARY"), "looks like a secret"),
    ],
)
def test_a_mistake_is_told_before_anything_is_done(
    corpus: Corpus, vidattr: Run, repo_root: pathlib.Path, tmp_path: pathlib.Path, flags: tuple[str, ...], sentence: str
) -> None:
    (tmp_path / "broken.jsonl").write_text("{\n")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "ratings.csv").write_text("a,b\n1,2\n")
    outcome = vidattr(*corpus.arguments(tmp_path / "w", repo_root), *(flag.format(place=tmp_path) for flag in flags))
    assert outcome.exit_code == 2 and sentence in outcome.err and "CANARY" not in outcome.err, outcome.err
    assert "Traceback" not in outcome.err and not list(tmp_path.glob("w/*"))


def test_no_stage_takes_a_secret_or_an_unknown_beam_option(corpus: Corpus, vidattr: Run, tmp_path: pathlib.Path) -> None:
    stages = [
        ("extract", "--videos", corpus.manifest),
        ("duplicates", "find"),
        ("annotate",),
        ("distill",),
        ("score",),
        ("materialize",),
    ]
    for stage in stages:
        for flag, sentence in (("--s3_secret_access_key=CANARY", "looks like a secret"), ("--nonsense=3", "no option --nonsense")):
            outcome = vidattr(*stage, "-w", tmp_path / "w", "--", flag)
            assert outcome.exit_code == 2 and sentence in outcome.err and "CANARY" not in outcome.err, outcome
    assert not list(tmp_path.rglob("*.json"))


class Recorded(Project):
    """A project whose stages only note that they were asked for; `at` is the one during which somebody presses Ctrl-C."""

    at, problem = "", None

    def _did(self, stage: str, *_: Any) -> RunRecord:
        self.__dict__.setdefault("did", []).append(stage)
        if stage == self.at:
            stopping.request()
        if stage == "distill" and self.problem is not None:
            raise self.problem
        return record(stage, Counts(6, 6), Counts(6, 6))

    def extract(self, *given: Any, **named: Any) -> RunRecord:
        return self._did("extract")

    def find_duplicates(self, *given: Any) -> RunRecord:
        return self._did("duplicates")

    def annotate(self, *given: Any, **named: Any) -> RunRecord:
        return self._did("annotate")

    def distill(self, *given: Any) -> RunRecord:
        return self._did("distill")

    def score(self, *given: Any) -> RunRecord:
        return self._did("score")

    def materialize(self, *given: Any) -> RunRecord:
        return self._did("materialize")


def recorded(corpus: Corpus, workspace: pathlib.Path, repo: pathlib.Path) -> Recorded:
    return Recorded(str(workspace), str(repo / "feature_repo"), str(corpus.manifest), attributes=("cozy",))


STAGES = ["extract", "duplicates", "annotate", "distill", "score", "materialize"]


@pytest.mark.parametrize("at", [*STAGES, ""])
def test_after_a_stop_no_further_stage_begins(corpus: Corpus, repo_root: pathlib.Path, tmp_path: pathlib.Path, at: str) -> None:
    project = recorded(corpus, tmp_path, repo_root)
    object.__setattr__(project, "at", at)
    stopping._requested.clear()
    try:
        whole = run_all(project, False, True, lambda sentence: None)
        assert project.__dict__["did"] == (STAGES[: STAGES.index(at) + 1] if at else STAGES)
        assert whole.exit_code == (130 if at else 0)
        assert whole.next_command.startswith("vidattr run --videos" if at else "vidattr get sample-0-000 --workspace")
    finally:
        stopping._requested.clear()


def test_only_a_lack_of_answers_lets_a_run_go_on_without_a_student(
    corpus: Corpus, repo_root: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    project = recorded(corpus, tmp_path, repo_root)
    object.__setattr__(project, "problem", NothingToLearn("too few answers"))
    whole = run_all(project, False, True, lambda sentence: None)
    assert project.__dict__["did"] == ["extract", "duplicates", "annotate", "distill", "materialize"] and whole.exit_code == 0
    assert whole.record.details["notes"] == ["No student was trained: too few answers"]
    object.__setattr__(project, "problem", InvalidInput("w: the disk is full"))
    with pytest.raises(InvalidInput, match="disk is full"):
        run_all(project, False, True, lambda sentence: None)


def split(into: int, parts: list[int]) -> Counts:
    """`into` shared out at two cuts."""
    low, high = sorted(part % (into + 1) for part in parts)
    return Counts(into, low, high - low, into - high, low // 2)


cuts = st.lists(st.integers(0, 40), min_size=2, max_size=2)


@given(st.integers(0, 20), cuts, st.none() | st.integers(0, 20), cuts, cuts, st.integers(1, 6))
def test_the_law_of_counts_holds_whatever_annotate_saw(
    into: int, extracted: list[int], seen: int | None, of_videos: list[int], of_pairs: list[int], attributes: int
) -> None:
    extract = record("extract", split(into, extracted))
    asked = None
    if seen is not None:
        asked = record("annotate", split(seen, of_videos), split(seen * attributes, of_pairs) if seen else None)
    videos, pairs = combined_counts(extract, asked, attributes)
    assert videos.into == max(into, seen or 0) and pairs.into == videos.into * attributes
    if asked:
        assert videos.annotated == asked.counts.annotated
    if asked is None or asked.counts.into == extract.counts.annotated:
        assert videos.dead_lettered == extract.counts.dead_lettered + (asked.counts.dead_lettered if asked else 0)


@pytest.mark.parametrize(
    ("stage", "counts", "code"),
    [
        ("extract", Counts(3, 0, 3, 0), 1),
        ("annotate", Counts(3, 0, 1, 2), 1),
        ("materialize", Counts(3, 2, 0, 1), 1),
        ("annotate", Counts(3, 1, 1, 1), 0),
        ("annotate", Counts(3, 3, 0, 0, 3), 0),
        ("score", Counts(), 0),
    ],
)
def test_nothing_done_is_a_failure(stage: str, counts: Counts, code: int) -> None:
    stopping._requested.clear()
    assert exit_code(record(stage, counts)) == code


def test_dead_letters_are_those_of_the_run(tmp_path: pathlib.Path) -> None:
    from features.records import to_table
    from pipelines.project import dead_letters

    workspace = Workspace(str(tmp_path))
    files = {}
    for run_id in ("a", "b"):
        letter = Failure(f"of-{run_id}", "extract", "missing", "gone", run_id=run_id)
        files[run_id] = [workspace.write_table("failures", run_id, to_table([letter], Failure))]
    of_a = record("extract", Counts(), files={"failures": files["a"]})
    assert [letter.video_id for letter in dead_letters(workspace, [of_a])] == ["of-a"]
