"""From a manifest to the online store against a model server with ample capacity: annotations a day on this machine.

The paper reports 10^7 annotations a day. The clips stand in the manifest many times under different ids, so that each copy is
decoded, encoded, asked about and published on its own; ten attributes a video, frames sent and decoded by the server, which runs on
the same cores.
"""

from __future__ import annotations

import json
import os
import pathlib
import tempfile
import time
from typing import Any

import yaml

from benchmarks.model_servers import DEFINITIONS, MODEL, served
from features.annotators.model_server import ServerConfig
from pipelines.project import Project
from pipelines.registration import register
from tests.conftest import DATA

COPIES = 8
PAPER_A_DAY = 1e7


def _manifest(folder: pathlib.Path, copies: int) -> tuple[pathlib.Path, int]:
    rows = [json.loads(line) for line in (DATA / "clips" / "manifest.jsonl").read_text().splitlines()]
    lines = [
        json.dumps(
            {
                **row,
                "video_id": f"{row['video_id']}-{copy}",
                "title": f"{row['title']} ({copy})",  # the same content would be asked about once
                "uri": str((DATA / "clips" / row["uri"]).resolve()),
            }
        )
        for copy in range(copies)
        for row in rows
    ]
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(lines))
    return path, len(lines)


def run(copies: int = COPIES, speech: bool = False) -> list[dict[str, Any]]:
    """Annotations a day of the whole, and seconds by stage."""
    config = ServerConfig(slots=512, keep_requests=0)
    with served(config) as server, tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        manifest, videos = _manifest(place, copies)
        repository = place / "repo" / "attributes"
        repository.mkdir(parents=True)
        for one in DEFINITIONS:
            fields = {"name": one.name, "title": one.title, "question": one.question, "definition": one.definition}
            (repository / f"{one.name}.yaml").write_text(yaml.safe_dump(fields))
        workspace = place / "workspace"
        workspace.mkdir()
        (workspace / "vidattr.yaml").write_text(yaml.safe_dump({"speech": speech}))
        os.environ.setdefault("OPENAI_API_KEY", "any")
        project = Project(
            str(workspace),
            str(place / "repo"),
            str(manifest),
            (str(DATA),),
            annotator="openai",
            model_flags={"model": {"name": MODEL, "base_url": server.openai_url}},
        )
        register(project.workspace, project.definitions, "sqlite", retire=False)
        seconds: dict[str, float] = {}
        for name, stage in (
            ("extract", lambda: project.extract(False, True)),
            ("annotate", lambda: project.annotate(True)),
            ("materialize", lambda: project.materialize(True)),
        ):
            began = time.monotonic()
            record = stage()
            seconds[name] = time.monotonic() - began
        assert record.counts.annotated == videos, record.counts
        books = server.stats()
        assert books["paid_pairs"] == videos * len(DEFINITIONS) and books["images"] > videos
    total = sum(seconds.values())
    day = videos * len(DEFINITIONS) / total * 86_400
    parts = ", ".join(f"{name} {one:.0f} s" for name, one in seconds.items())
    annotate = videos * len(DEFINITIONS) / seconds["annotate"] * 86_400
    shared = {"goal": 1.0, "better": "higher", "theirs": "10^7 annotations a day"}
    workload = f"{videos} videos ({copies} copies of the clips), 10 attributes, {books['images'] / videos:.1f} frames a request"
    return [
        {
            "case": "LLM path, manifest to online store",
            "metric": "times 10^7 annotations a day",
            "value": day / PAPER_A_DAY,
            "ours": parts,
            "workload": workload,
            **shared,
        },
        {
            "case": "LLM path, annotate alone",
            "metric": "times 10^7 annotations a day",
            "value": annotate / PAPER_A_DAY,
            "ours": f"{seconds['annotate']:.0f} s",
            "workload": workload,
            **shared,
        },
    ]
