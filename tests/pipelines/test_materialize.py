"""The materialise stage: from annotations of all runs to the online store, the history and the resolved table."""

from __future__ import annotations

import os
import pathlib
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from features.attributes import registry, views
from features.errors import InvalidInput, Transient
from features.records import Counts, Failure, ResolvedAttribute, RunRecord, Video
from features.serving.online import OnlineAttributes
from features.serving.publish import Publisher, packed_rows
from features.serving.resolution import by_video, resolve
from features.workspace import Workspace
from pipelines.counters import live
from pipelines.materialize import MaterializeConfig, differs, run
from pipelines.options import RunHeader
from tests.features.serving.stores import FUNNY, PACE, TONE, define, register, registered_store, say, wide, write_annotations
from tests.pipelines.hand_made import write_features

DEFINITIONS = (FUNNY, PACE, TONE)


def start(tmp_path: pathlib.Path) -> tuple[object, Workspace]:
    return registered_store(tmp_path, DEFINITIONS), Workspace(str(tmp_path / "workspace"))


def materialize(workspace: Workspace, definitions=DEFINITIONS, **changes) -> RunRecord:
    return run(MaterializeConfig(workspace, tuple(definitions), **changes))


def beliefs(workspace: Workspace) -> dict[tuple[str, str], ResolvedAttribute]:
    return {(row.video_id, row.attribute): row for row in workspace.rows(ResolvedAttribute)}


def test_a_first_run_a_second_without_news_and_a_third_with_some(tmp_path: pathlib.Path) -> None:
    store, workspace = start(tmp_path)
    likely, baseline = say("a", FUNNY, "true", probability=0.7), say("c", FUNNY, "true", "baseline")
    write_annotations(workspace, [likely, say("b", TONE, "loud"), baseline])
    no_number = say("d", FUNNY, "true", probability=float("nan"))
    write_annotations(workspace, [say("a", PACE, "2"), say("c", FUNNY, "false", "gold"), no_number])
    write_annotations(workspace, [say("z", define("withdrawn"), "true")])
    first = materialize(workspace)
    assert first.counts == Counts(into=4, annotated=3, dead_lettered=1)
    assert first.pair_counts == Counts(into=5, annotated=4, dead_lettered=1)
    assert wide(store, ["a", "b", "c", "d"], "funny", "tone_label", "pace", "funny_source") == {
        "video_id": ["a", "b", "c", "d"],
        "funny": [pytest.approx(0.7), None, 0.0, None],
        "tone_label": [None, "loud", None, None],
        "pace": [2.0, None, None, None],
        "funny_source": ["llm", "absent", "gold", None],
    }
    believed = beliefs(workspace)
    assert believed["c", "funny"].source == "gold" and believed["a", "funny"].number == pytest.approx(0.7)
    assert believed["d", "funny"].source == "absent" and all(row.run_id == first.run_id for row in believed.values())
    (failure,) = workspace.rows(Failure)
    assert (failure.video_id, failure.attribute, failure.kind, failure.stage) == ("d", "funny", "not_a_number", "materialize")
    assert first.details["kind/not_a_number"] == 1

    second = materialize(workspace)
    assert second.counts == Counts(into=4, annotated=3, dead_lettered=1, reused=3) and "resolved" not in second.files

    write_annotations(workspace, [say("b", TONE, None, seconds=5), say("a", FUNNY, "false", seconds=5)])
    third = materialize(workspace)
    assert third.counts == Counts(into=4, annotated=3, dead_lettered=1, reused=1)
    assert third.pair_counts == Counts(into=5, annotated=4, dead_lettered=1, reused=2)
    believed = beliefs(workspace)
    assert believed["b", "tone"].source == "absent" and believed["b", "tone"].number is None
    assert believed["a", "funny"].number == 0
    table = OnlineAttributes(store).get(["a", "b", "c", "d"])
    assert np.array_equal(table.values[:, 0], [0, np.nan, 0, np.nan], equal_nan=True) and not table.present[1].any()
    assert os.listdir(views.offline_folder(str(store.repo_path))) == [registry.OFFLINE_BASE]

    for suffix in ("", "-wal", "-shm"):  # the online store is lost
        pathlib.Path(store.config.online_store.path + suffix).unlink(missing_ok=True)
    fourth = materialize(workspace)
    assert fourth.counts == Counts(into=4, annotated=3, dead_lettered=1, reused=1), "only what says nothing needs no work"
    assert "resolved" not in fourth.files
    assert np.array_equal(OnlineAttributes(store).get(["a", "b", "c", "d"]).values, table.values, equal_nan=True)


def test_definitions_that_are_not_registered_stop_before_anything(tmp_path: pathlib.Path) -> None:
    store, workspace = start(tmp_path)
    write_annotations(workspace, [say("a", FUNNY, "true")])
    for definitions in (
        [FUNNY, PACE, TONE, define("cozy")],
        [FUNNY, PACE],
        [define("funny", question="Would one laugh?"), PACE, TONE],
        [define("funny", value_type="score", score_range=(0.0, 1.0)), PACE, TONE],
    ):
        with pytest.raises(InvalidInput, match="run `vidattr register` first"):
            materialize(workspace, definitions)
    assert workspace.runs("materialize") == [] and not OnlineAttributes(store).get(["a"]).present.any()


def test_an_edited_definition_makes_its_answers_stale_until_it_is_answered(tmp_path: pathlib.Path) -> None:
    store, workspace = start(tmp_path)
    write_annotations(workspace, [say("a", FUNNY, "true")])
    materialize(workspace)
    edited = define("funny", question="Would one laugh?")
    register(store, [edited, PACE, TONE])
    assert materialize(workspace, [edited, PACE, TONE]).pair_counts == Counts(into=1, annotated=1)
    assert beliefs(workspace)["a", "funny"].stale
    table = OnlineAttributes(store).get(["a"])
    assert table.present[0, 0] and table.stale[0, 0]
    write_annotations(workspace, [say("a", edited, "false", seconds=1)])
    materialize(workspace, [edited, PACE, TONE])
    assert not beliefs(workspace)["a", "funny"].stale and OnlineAttributes(store).get(["a"]).fresh[0, 0]


def test_answers_about_content_that_changed_are_stale_until_it_is_answered(tmp_path: pathlib.Path) -> None:
    store, workspace = start(tmp_path)
    old, new = (Video("a", "", title).content_key("a") for title in ("old", "new"))
    ahead = datetime.now(UTC)
    write_features(workspace, ["a", "b", "c"], title="old", when=ahead - timedelta(hours=1))
    about = {"b": Video("b", "", "old").content_key("b"), "a": old}
    write_annotations(workspace, [say(video_id, FUNNY, "true", content_key=key) for video_id, key in about.items()])
    write_annotations(workspace, [say("a", TONE, "loud", "gold")])
    first = materialize(workspace)
    assert first.counts == Counts(into=2, annotated=2) and first.pair_counts == Counts(into=3, annotated=3)
    assert OnlineAttributes(store).get(["a", "b"]).fresh[:, 0].all()

    write_features(workspace, ["a"], title="new", when=ahead)
    second = materialize(workspace)
    assert second.pair_counts == Counts(into=3, annotated=3, reused=2), "a change of freshness is news"
    assert beliefs(workspace)["a", "funny"].stale and not beliefs(workspace)["a", "tone"].stale
    table = OnlineAttributes(store).get(["a", "b"], ["funny", "tone"])
    assert table.present.tolist() == [[True, True], [True, False]] and table.stale.tolist() == [[True, False], [False, False]]
    assert materialize(workspace).counts == Counts(into=2, annotated=2, reused=2)

    write_annotations(workspace, [say("a", FUNNY, "false", "baseline", content_key=new)])
    materialize(workspace)
    row = beliefs(workspace)["a", "funny"]
    assert (row.value, row.source, row.stale) == ("false", "baseline", False)
    assert OnlineAttributes(store).get(["a"]).fresh[0, 0] and wide(store, ["a"], "funny_source")["funny_source"] == ["baseline"]


def test_what_a_run_reads_is_as_new_as_the_moment_it_holds_the_lock(tmp_path: pathlib.Path) -> None:
    """It was started before the row online was written, and had to wait for the lock."""
    store, workspace = start(tmp_path)
    started = RunHeader(started_at=datetime.now(UTC) - timedelta(minutes=1))
    annotations = [say("a", FUNNY, "true")]
    publisher = Publisher(store)
    rows = by_video(resolve(annotations, DEFINITIONS).rows)
    publisher.publish(*packed_rows(publisher.layout, rows, datetime.now(UTC)), "another")
    write_annotations(workspace, [*annotations, say("a", FUNNY, "false", seconds=1)])
    assert materialize(workspace, header=started).counts == Counts(into=1, annotated=1)
    assert OnlineAttributes(store).get(["a"]).row("a") == {"funny": 0.0}


@pytest.mark.parametrize(
    ("ahead", "counts"),
    [(timedelta(days=365), Counts(into=1, annotated=1)), (timedelta(minutes=2), Counts(into=1, pending=1))],
)
def test_a_row_from_the_future_never_passes_for_done(tmp_path: pathlib.Path, ahead: timedelta, counts: Counts) -> None:
    store, workspace = start(tmp_path)
    publisher = Publisher(store)
    rows = by_video(resolve([say("a", FUNNY, "true")], DEFINITIONS).rows)
    publisher.publish(*packed_rows(publisher.layout, rows, datetime.now(UTC) + ahead), "ahead")
    write_annotations(workspace, [say("a", FUNNY, "false", seconds=1)])
    live.clear("materialize")
    record = materialize(workspace)
    assert record.counts == counts and record.pair_counts == counts
    assert OnlineAttributes(store).get(["a"]).row("a") == {"funny": 0.0 if counts.annotated else 1.0}
    assert live.of("materialize") == {"pending" if counts.pending else "annotated": 1}, "what the progress line adds up"
    assert bool(counts.pending) == any("clock a little ahead" in name for name in record.details)


def test_one_materialisation_at_a_time(tmp_path: pathlib.Path) -> None:
    store, workspace = start(tmp_path)
    with registry.exclusive(os.path.join(str(store.repo_path), ".materialize.lock"), 1, "materialisation"):
        with pytest.raises(Transient, match="another materialisation"):
            materialize(workspace, lock_timeout_s=0.1)


def test_an_empty_workspace_is_no_error(tmp_path: pathlib.Path) -> None:
    _, workspace = start(tmp_path)
    assert materialize(workspace).counts == Counts()


def test_differences_are_seen_in_stored_precision() -> None:
    row = ResolvedAttribute("a", "funny", 0.1, "true", "llm", 0.1, "h", None, False, "m", "run1")
    read_back = ResolvedAttribute(
        "a", "funny", float(np.float32(0.1)), "true", "llm", float(np.float32(0.1)), "h", None, False, "m"
    )
    assert not differs(read_back, row) and differs(None, row)
    assert differs(ResolvedAttribute("a", "funny", 0.2, "true", "llm", 0.1, "h", None, False, "m"), row)
