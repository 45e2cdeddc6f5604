"""Fault 16: NaN, infinities and unknown vocabulary in features: rejected as dead letters, never served as a number."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import shutil
from collections import Counter
from datetime import timedelta

from features.records import Annotation, Failure, Tag
from features.workspace import Workspace
from tests.features.student import planted


def test_scoring_rejects_what_is_not_a_number_and_answers_the_rest(tmp_path: pathlib.Path) -> None:
    """Fault 16: score them through the whole stage; the law of counts holds and no number comes of them."""
    from features.records import RunRecord, VideoFeatures, to_table
    from features.workspace import new_run_id
    from pipelines.score import ScoreConfig, run

    made = planted.student()
    shutil.copytree(made.workspace.root, tmp_path / "workspace")
    workspace = Workspace(str(tmp_path / "workspace"))
    later = planted.NOW + timedelta(days=1)
    nan, inf = float("nan"), float("inf")
    dim = planted.TEXT_DIM
    bad = {
        0: {"text_embedding": (nan,) * dim},
        1: {"text_embedding": (inf,) + (0.0,) * (dim - 1)},
        2: {"visual_embedding": (-inf,) * planted.VISUAL_DIM},
        3: {"duration_s": nan},
        4: {"duration_s": inf},
        5: {"visual_stats": (inf,) * 8},
        6: {"text_embedding": (0.5,) * (dim - 1)},
    }
    odd = {
        7: {"sound_stats": (nan,) * 7, "has_audio": False},
        8: {"hashtags": ("quagga", "\u202eevil", "x" * 5000), "language": "tlh", "visual_tags": (Tag("unseen", 0.9),)},
        9: {"hashtags": (), "visual_tags": (), "language": "", "text_embedding": (), "visual_embedding": ()},
    }
    rows = [
        dataclasses.replace(made.videos[number], extracted_at=later, **changes)  # type: ignore[arg-type]
        for number, changes in {**bad, **odd}.items()
    ]
    run_id = new_run_id()
    path = workspace.write_table("features", run_id, to_table(rows, VideoFeatures))
    workspace.commit(RunRecord(run_id, "extract", later, later, files={"features": [path]}))

    record = run(ScoreConfig(workspace, student=made.folder))

    assert record.pair_counts is not None
    videos, pairs = record.counts, record.pair_counts
    assert (videos.into, videos.annotated, videos.dead_lettered, videos.pending) == (160, 153, 7, 0)
    assert (pairs.into, pairs.annotated, pairs.dead_lettered, pairs.pending) == (480, 459, 21, 0)
    failures = list(workspace.rows(Failure))
    ids = {number: f"v{number:04d}" for number in range(10)}
    assert {(row.video_id, row.kind) for row in failures} == {
        (ids[number], "embedding_dimension" if number == 6 else "not_a_number") for number in bad
    }
    assert Counter({"kind/not_a_number": 6, "kind/embedding_dimension": 1}) == {
        name: number for name, number in record.details.items() if name.startswith("kind/")
    }
    said = [row for row in workspace.rows(Annotation) if row.source == "student"]
    assert not {row.video_id for row in said} & {row.video_id for row in failures}
    assert {ids[number] for number in odd} <= {row.video_id for row in said}
    for row in said:
        assert row.probability is None or 0.0 <= row.probability <= 1.0
        if row.attribute == "energy":
            assert math.isfinite(float(row.value or "nan")) and 1.0 <= float(row.value or "nan") <= 5.0
        else:
            assert row.value in ("true", "false", "happy", "sad", "angry")
