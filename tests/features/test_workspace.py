from __future__ import annotations

import os
import pathlib
from datetime import UTC, datetime, timedelta

import pytest

from features.errors import InvalidInput
from features.records import Counts, RunRecord, VideoFeatures, to_table
from features.workspace import Workspace, latest, new_run_id

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def table(*ids: str, when: datetime = NOW):
    return to_table([VideoFeatures(video_id, "h", "k", "v", extracted_at=when) for video_id in ids], VideoFeatures)


def commit(workspace: Workspace, run_id: str, *files: str) -> None:
    workspace.commit(RunRecord(run_id, "extract", NOW, NOW, counts=Counts(), files={"features": list(files)}))


def ids(workspace: Workspace) -> list[str]:
    return [row.video_id for row in workspace.rows(VideoFeatures)]


def test_files_count_once_their_run_has_a_record(tmp_path: pathlib.Path) -> None:
    workspace = Workspace(str(tmp_path / "w"))
    assert ids(workspace) == [] and workspace.runs() == []
    path = workspace.write_table("features", "run-1", table("a"))
    assert ids(workspace) == [] and workspace.orphans("features") == [path]
    commit(workspace, "run-1", path)
    assert ids(workspace) == ["a"] and workspace.orphans("features") == []


def test_only_listed_files_of_a_run_count(tmp_path: pathlib.Path) -> None:
    workspace = Workspace(str(tmp_path))
    kept, replayed = (workspace.write_table("features", "run-1", table(name)) for name in ("a", "b"))
    commit(workspace, "run-1", kept)
    assert ids(workspace) == ["a"] and workspace.orphans("features") == [replayed]


def test_runs_come_oldest_first_whatever_their_files_are_called(tmp_path: pathlib.Path) -> None:
    workspace = Workspace(str(tmp_path))
    early, late = new_run_id(NOW), new_run_id(NOW + timedelta(seconds=1))
    for run_id, name in ((late, "late"), (early, "early")):
        commit(workspace, run_id, workspace.write_table("features", run_id, table(name)))
    assert ids(workspace) == ["early", "late"]


def test_the_same_content_is_the_same_file(tmp_path: pathlib.Path) -> None:
    workspace = Workspace(str(tmp_path))
    assert workspace.write_table("features", "r", table("a")) == workspace.write_table("features", "r", table("a"))
    assert len(list(tmp_path.rglob("*.parquet"))) == 1


def test_the_newest_row_wins_by_its_own_time() -> None:
    old, new = (
        VideoFeatures("a", "h", key, "v", extracted_at=NOW + timedelta(hours=hours)) for key, hours in (("old", 0), ("new", 1))
    )
    assert latest([new, old])["a"].content_key == latest([old, new])["a"].content_key == "new"


def test_one_run_is_read_by_its_id_and_a_missing_one_is_said(tmp_path: pathlib.Path) -> None:
    workspace = Workspace(str(tmp_path))
    commit(workspace, "r")
    assert workspace.run("r") == workspace.runs()[0]
    with pytest.raises(FileNotFoundError):
        workspace.run("killed")


def test_a_damaged_record_is_loud(tmp_path: pathlib.Path) -> None:
    workspace = Workspace(str(tmp_path))
    commit(workspace, "r")
    (tmp_path / "runs" / "r.json").write_text("{")
    with pytest.raises(InvalidInput, match=r"r\.json: not a run record"):
        workspace.runs()


@pytest.mark.parametrize("parts", [("..", "x"), ("features", "../../x"), ("/etc/passwd",)])
def test_nothing_lies_outside(tmp_path: pathlib.Path, parts: tuple[str, ...]) -> None:
    for root in (str(tmp_path), "gs://bucket/prefix"):
        if root.startswith("gs://") and parts[0].startswith("/"):
            continue
        with pytest.raises(InvalidInput, match="outside"):
            Workspace(root).path(*parts)


def test_what_needs_a_disk_says_so() -> None:
    with pytest.raises(InvalidInput, match=r"answers\.sqlite needs a local workspace.*--workspace"):
        Workspace("gs://bucket/w").local_path("answers.sqlite")


def test_an_unwritable_place_is_found_out_first(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot be written.*--workspace"):
        Workspace(str(tmp_path / "file" / "below")).check_writable()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_disk_leaves_nothing_half_written(tmp_path: pathlib.Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if os.system(f"mount -t tmpfs -o size=256k tmpfs {small} 2>/dev/null"):
        pytest.skip("this sandbox does not allow mounting")
    try:
        workspace = Workspace(str(small))
        workspace.check_writable()
        before = workspace.write_table("features", "r", table("a"))
        rows = [VideoFeatures("b", "h", "k", "v", uri=os.urandom(400_000).hex())]
        with pytest.raises(InvalidInput, match="disk is full"):
            workspace.write_table("features", "r", to_table(rows, VideoFeatures))
        assert [str(path.relative_to(small)) for path in small.rglob("*") if path.is_file()] == [before]
    finally:
        os.system(f"umount {small}")
