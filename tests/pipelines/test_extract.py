from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import datetime

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.records import Counts, Failure, Video, VideoFeatures
from features.videos.probe import Limits
from features.videos.sample import write_sample
from features.workspace import Workspace, latest
from pipelines import extract, stopping
from pipelines.encoders import DECODING_ALONE
from pipelines.extract import ExtractConfig, reusable, video_from_json, video_to_json

SCRIPT = """
import sys
from features.workspace import Workspace
from pipelines import extract
from pipelines.encoders import DECODING_ALONE
extract.run(extract.ExtractConfig(Workspace(sys.argv[1]), sys.argv[2], encoders=DECODING_ALONE))
"""


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Six short real videos with a manifest."""
    folder = tmp_path_factory.mktemp("sample") / "videos"
    write_sample(str(folder), 6, 0)
    return folder


@pytest.fixture
def corpus(sample: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy that a test may spoil."""
    shutil.copytree(sample, tmp_path / "videos")
    return tmp_path / "videos"


def config(workspace: Workspace, videos: object, **changes) -> ExtractConfig:
    return ExtractConfig(workspace, str(videos), **{"encoders": DECODING_ALONE, **changes})


def add_row(corpus: pathlib.Path, **row: object) -> None:
    with (corpus / "manifest.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def letters(workspace: Workspace) -> dict[str, str]:
    return {row.video_id: row.kind for row in workspace.rows(Failure)}


def test_videos_become_features_once(corpus: pathlib.Path, tmp_path: pathlib.Path) -> None:
    workspace = Workspace(str(tmp_path / "w"))
    first = extract.run(config(workspace, corpus / "manifest.jsonl"))
    again = extract.run(config(workspace, corpus / "manifest.jsonl"))
    rows = list(workspace.rows(VideoFeatures))
    assert first.counts == Counts(6, 6, 0, 0) and again.counts == Counts(6, 6, 0, 0, 6) and len(rows) == 6
    assert all(row.run_id == first.run_id and 1 <= len(row.frames) <= 8 and row.title for row in rows)
    assert {"busy: fetch", "busy: decode", "busy: open", "busy: frames"} <= set(first.timings) and first.timings["busy: decode"] > 0
    assert set(again.timings) == {"total", "busy: fetch"}, "what is known is not decoded"
    assert any(name.startswith("detail/decoder: ") for name in first.details), "what a hostile file could have reached is told"


def test_bad_files_are_one_dead_letter_each_and_the_rest_goes_on(corpus: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (corpus / "empty.mp4").write_bytes(b"")
    (corpus / "text.mp4").write_text("this is no video")
    whole = (corpus / json.loads((corpus / "manifest.jsonl").read_text().splitlines()[0])["uri"]).read_bytes()
    (corpus / "cut.mp4").write_bytes(whole[:300])
    (corpus / "folder.mp4").mkdir()
    for name in ("empty", "text", "cut", "folder", "gone"):
        add_row(corpus, video_id=name, uri=f"{name}.mp4")
    add_row(corpus, video_id="outside", uri="../../../etc/passwd")
    add_row(corpus, video_id="url", uri="http://127.0.0.1:9/a.mp4")
    with (corpus / "manifest.jsonl").open("a") as file:
        file.write("{ no json\n")
    workspace = Workspace(str(tmp_path / "w"))
    record = extract.run(config(workspace, corpus / "manifest.jsonl"))
    assert record.counts == Counts(14, 6, 8, 0)
    found = letters(workspace)
    assert {name: found[name] for name in ("empty", "folder", "gone", "outside", "url")} == {
        "empty": "empty",
        "folder": "is_a_directory",
        "gone": "missing",
        "outside": "invalid_row",
        "url": "invalid_row",
    }
    assert found["text"] == "not_a_video" and found["cut"] in ("not_a_video", "no_frames", "no_video")
    assert "row 14" in found
    assert all(row.message and row.run_id == record.run_id for row in workspace.rows(Failure))


def test_what_failed_is_not_tried_again_unless_asked_or_mended(corpus: pathlib.Path, tmp_path: pathlib.Path) -> None:
    workspace, video = Workspace(str(tmp_path / "w")), corpus / "text.mp4"
    video.write_text("this is no video")
    add_row(corpus, video_id="text", uri="text.mp4")
    manifest = corpus / "manifest.jsonl"
    for changes in ({}, {}, {"retry_failed": True}, {"limits": Limits(max_pixels=100_000_000)}):
        assert extract.run(config(workspace, manifest, **changes)).counts.dead_lettered == 1
    tried = [row.attempts for row in workspace.rows(Failure)]
    assert tried == [1, 0, 1, 1], "the second run carried the letter over and decoded nothing"
    shutil.copy(corpus / json.loads(manifest.read_text().splitlines()[0])["uri"], video)
    assert extract.run(config(workspace, manifest)).counts.dead_lettered == 0


def test_a_video_deleted_during_the_run_is_one_dead_letter(corpus: pathlib.Path, tmp_path: pathlib.Path) -> None:
    manifest = corpus / "manifest.jsonl"
    victim = corpus / json.loads(manifest.read_text().splitlines()[-1])["uri"]
    report = extract.manifest_rows(str(manifest), ())
    assert len(list(report)) == 6
    victim.unlink()
    workspace = Workspace(str(tmp_path / "w"))
    assert extract.run(config(workspace, manifest)).counts == Counts(6, 5, 1, 0)
    assert list(letters(workspace).values()) == ["missing"]


def test_a_new_title_and_a_new_file_are_extracted_again_and_going_back_too(corpus: pathlib.Path, tmp_path: pathlib.Path) -> None:
    workspace, manifest = Workspace(str(tmp_path / "w")), corpus / "manifest.jsonl"
    original = manifest.read_text()
    row = json.loads(original.splitlines()[0])
    changed = original.replace(json.dumps(row["title"]), json.dumps("another title"))
    assert changed != original
    for text, reused in ((original, 0), (changed, 5), (changed, 6), (original, 5), (original, 6)):
        manifest.write_text(text)
        assert extract.run(config(workspace, manifest)).counts.reused == reused
        newest = latest(workspace.rows(VideoFeatures))[row["video_id"]]
        assert newest.title == ("another title" if text is changed else row["title"])


def test_duplicate_ids_on_a_worker_are_one_dead_letter(corpus: pathlib.Path, tmp_path: pathlib.Path) -> None:
    row = json.loads((corpus / "manifest.jsonl").read_text().splitlines()[0])
    add_row(corpus, **row)
    workspace = Workspace(str(tmp_path / "w"))
    assert extract.run(config(workspace, corpus / "manifest.jsonl")).counts == Counts(6, 5, 1, 0)
    assert letters(workspace) == {row["video_id"]: "duplicate_id"}


def test_a_stop_leaves_the_rest_pending(corpus: pathlib.Path, tmp_path: pathlib.Path) -> None:
    workspace = Workspace(str(tmp_path / "w"))
    stopping.request()
    try:
        assert extract.run(config(workspace, corpus / "manifest.jsonl")).counts == Counts(6, 0, 0, 6)
    finally:
        stopping._requested.clear()
    assert extract.run(config(workspace, corpus / "manifest.jsonl")).counts == Counts(6, 6, 0, 0)


def test_a_replayed_bundle_gives_the_same_rows(corpus: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Fault 1: every bundle runs twice."""
    workspace = Workspace(str(tmp_path / "w"))
    record = extract.run(config(workspace, corpus / "manifest.jsonl"), ["--direct_runner_bundle_repeat=1"])
    assert record.counts == Counts(6, 6, 0, 0)
    assert len({row.video_id for row in workspace.rows(VideoFeatures)}) == len(list(workspace.rows(VideoFeatures))) == 6


def test_what_a_killed_run_had_finished_is_adopted(sample: pathlib.Path, repo_root: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Fault 2: `kill -9` half-way through a larger corpus; the next run decodes only the rest."""
    corpus = tmp_path / "many"
    corpus.mkdir()
    (original,) = [json.loads((sample / "manifest.jsonl").read_text().splitlines()[0])]
    rows = []
    for number in range(40):
        name = f"copy-{number:02}.mp4"
        os.link(sample / original["uri"], corpus / name)
        rows.append({"video_id": f"v{number}", "uri": name, "title": f"title {number}"})
    (corpus / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    workspace = Workspace(str(tmp_path / "w"))
    command = [sys.executable, "-c", SCRIPT, workspace.root, str(corpus / "manifest.jsonl")]
    environment = {**os.environ, "PYTHONPATH": str(repo_root)}
    child = subprocess.Popen(command, env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while not workspace.orphans("features") and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert child.poll() is None, "the run was over before it could be killed"
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    orphans = workspace.orphans("features")
    assert orphans and workspace.runs() == [] and list(workspace.rows(VideoFeatures)) == []

    record = extract.run(config(workspace, corpus / "manifest.jsonl"))
    found = list(workspace.rows(VideoFeatures))
    assert record.counts.into == record.counts.annotated == 40 and record.counts.reused >= 16
    assert sorted(row.video_id for row in found) == sorted(f"v{number}" for number in range(40))


@given(
    st.builds(
        Video,
        st.text(min_size=1),
        st.text(),
        title=st.text(),
        hashtags=st.lists(st.text()).map(tuple),
        published_at=st.none() | st.datetimes(min_value=datetime(1990, 1, 1)),
        transcript=st.none() | st.text(),
        embedding=st.none() | st.lists(st.floats(allow_nan=False, allow_infinity=False)).map(tuple),
        frame_embeddings=st.lists(st.tuples(st.floats(allow_nan=False))).map(tuple),
    )
)
def test_rows_survive_the_shuffle(video: Video) -> None:
    assert video_from_json(video_to_json(video)) == video


def known(seconds: float, key: str, version: str = "v", own: bool = False, orphan: bool = False) -> str:
    return json.dumps([seconds, key, version, "row", own, f"path-{seconds:g}", orphan])


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], None),
        ([known(1, "k")], 1),
        ([known(1, "k"), known(2, "other")], None),
        ([known(1, "k", "old")], None),
        ([known(1, "other"), known(2, "k", orphan=True)], 2),
        ([known(2, "other"), known(1, "k", orphan=True)], None),
        ([known(1, "k", orphan=True), known(2, "k", orphan=True)], 2),
        ([known(1, "k", own=True)], None),
    ],
)
def test_only_the_newest_row_saves_work(rows: list[str], expected: float | None) -> None:
    found = reusable(rows, Video("v", "u"), "k", "v")
    assert (found and found.seconds) == expected


def test_what_nobody_is_shown_is_brought_up_to_date_without_decoding(corpus: pathlib.Path, tmp_path: pathlib.Path) -> None:
    workspace, manifest = Workspace(str(tmp_path / "w")), corpus / "manifest.jsonl"
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    extract.run(config(workspace, manifest))
    before = latest(workspace.rows(VideoFeatures))[rows[0]["video_id"]]
    rows[0] |= {"creator_id": "somebody else", "views": 12, "embedding": [0.5, 0.25]}
    for _ in range(2):
        manifest.write_text("\n".join(map(json.dumps, rows)))
        assert extract.run(config(workspace, manifest)).counts.reused == 6
    after = latest(workspace.rows(VideoFeatures))[rows[0]["video_id"]]
    assert (after.creator_id, json.loads(after.extra)["views"], after.visual_embedding) == ("somebody else", 12, (0.5, 0.25))
    assert (after.content_key, after.frames) == (before.content_key, before.frames)
    assert len(list(workspace.rows(VideoFeatures))) == 7, "the second time nothing changed"
    del rows[0]["embedding"]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    assert extract.run(config(workspace, manifest)).counts.reused == 5, "the built-in embedding has to be made again"


def test_a_killed_runs_rows_that_nobody_wants_any_more_stay_out(corpus: pathlib.Path, tmp_path: pathlib.Path) -> None:
    workspace, manifest = Workspace(str(tmp_path / "w")), corpus / "manifest.jsonl"
    old = manifest.read_text()
    rows = [json.loads(line) for line in old.splitlines()]
    extract.run(config(workspace, manifest))
    manifest.write_text("\n".join(json.dumps({**row, "title": "new"}) for row in rows))
    killed = extract.run(config(workspace, manifest))
    (tmp_path / "w" / "runs" / f"{killed.run_id}.json").unlink()
    manifest.write_text("\n".join(json.dumps({**row, "title": "new"} if row is rows[0] else row) for row in rows))
    assert extract.run(config(workspace, manifest)).counts.reused == 6
    titles = {name: row.title for name, row in latest(workspace.rows(VideoFeatures)).items()}
    assert titles == {row["video_id"]: "new" if row is rows[0] else row["title"] for row in rows}


@pytest.mark.soak
def test_memory_is_flat_over_two_thousand_videos(sample: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """This process and its children, decoding and encoding pictures: no more in the last quarter of the run than in the second."""
    rows = [json.loads(line) for line in (sample / "manifest.jsonl").read_text().splitlines()]
    with (sample / "many.jsonl").open("w") as file:
        for at in range(2_000):
            file.write(json.dumps({**rows[at % len(rows)], "video_id": f"v{at:04}"}) + "\n")
    used: list[int] = []
    done = threading.Event()

    def watch() -> None:
        me = psutil.Process()
        while not done.wait(0.5):
            total = me.memory_info().rss
            for child in me.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += child.memory_info().rss
            used.append(total >> 20)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        encoders = replace(DECODING_ALONE, visual=True)
        record = extract.run(config(Workspace(str(tmp_path / "w")), sample / "many.jsonl", encoders=encoders))
    finally:
        done.set()
        watcher.join()
    quarter = len(used) // 4
    second, last = (statistics.median(part) for part in (used[quarter : 2 * quarter], used[-quarter:]))
    print(f"2,000 videos in {record.timings['total']:.0f} s, MiB in the second quarter {second:.0f}, in the last {last:.0f}")
    assert record.counts == Counts(2_000, 2_000, 0, 0)
    assert last < second * 1.05 + 32, used[:: max(1, len(used) // 40)]
