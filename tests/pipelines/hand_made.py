"""Workspaces with features made by hand, for stages that do not decode."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from datetime import UTC, datetime

from features.attributes.definition import AttributeDefinition
from features.records import Counts, RunRecord, Video, VideoFeatures, to_table
from features.workspace import Workspace, new_run_id


def definition(name: str, **changes: object) -> AttributeDefinition:
    """A boolean attribute of this name."""
    fields: dict[str, object] = {"title": name, "question": f"Is it {name}?", "definition": f"{name} means {name}."}
    return AttributeDefinition(name, **{**fields, **changes})  # type: ignore[arg-type]


def write_features(
    workspace: Workspace, ids: Sequence[str], per_file: int = 4, title: str = "", when: datetime | None = None
) -> None:
    """Commits a run whose features say nothing but ids and titles."""
    run_id, now = new_run_id(when), when or datetime.now(UTC)
    rows = []
    for video_id in ids:
        key = Video(video_id, "", title or f"title of {video_id}").content_key(video_id)
        rows.append(
            VideoFeatures(video_id, video_id, key, "hand-1", title=title or f"title of {video_id}", extracted_at=now, run_id=run_id)
        )
    files = [
        workspace.write_table("features", run_id, to_table(rows[start : start + per_file], VideoFeatures))
        for start in range(0, len(rows), per_file)
    ]
    workspace.commit(RunRecord(run_id, "extract", now, now, counts=Counts(len(ids), len(ids), 0, 0), files={"features": files}))


def write_recording(path: pathlib.Path, answers: dict[tuple[str, str], str]) -> str:
    """A recording of what `replay` shall say."""
    lines = [json.dumps({"video_id": v, "attribute": a, "value": value, "probability": 0.9}) for (v, a), value in answers.items()]
    path.write_text("\n".join(lines))
    return str(path)
