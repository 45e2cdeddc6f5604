"""What pace the annotate pipeline finds when a server loses slots in mid-run and turns away what is beyond them (429)."""

from __future__ import annotations

import tempfile
import threading
import time
from typing import Any

from benchmarks.model_servers import DEFINITIONS, MODEL, served, write_texts
from features.annotators.model_server import ServerConfig
from features.annotators.settings import ModelSettings, PaceSettings
from features.workspace import Workspace
from pipelines import annotate
from pipelines.annotators import AnnotatorConfig

BEFORE, AFTER = 128, 48
LATENCY_S, SIGMA = 0.5, 0.3
REQUESTS = 6_000
CHANGE_AFTER_S = 10.0
SETTLED_S = 3.0
"""Seconds after the start and after the change that are not looked at: nobody has been told yet."""


def run(requests: int = REQUESTS) -> list[dict[str, Any]]:
    """Goodput against capacity before and after the change, and the share of requests that were turned away."""
    config = ServerConfig(
        slots=BEFORE, overflow="reject", latency_s=LATENCY_S, sigma=SIGMA, retry_after_s=1.0, keep_requests=0, decode_images=False
    )
    with served(config) as server, tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(folder)
        write_texts(workspace, requests)
        changed: list[float] = []

        def change() -> None:
            while not server.stats()["accepted"]:
                time.sleep(0.05)
            time.sleep(CHANGE_AFTER_S)
            server.control("slots", slots=AFTER)
            changed.append(server.stats()["seconds"])

        watcher = threading.Thread(target=change, daemon=True)
        watcher.start()
        annotator = AnnotatorConfig(
            "openai",
            model=ModelSettings(name=MODEL, base_url=server.openai_url, logprobs=0),
            pace=PaceSettings(in_flight=1_024, attempts=20),
        )
        record = annotate.run(annotate.AnnotateConfig(workspace, DEFINITIONS, annotator))
        watcher.join()
        books = server.stats()
    assert record.pair_counts is not None and record.pair_counts.annotated == requests * len(DEFINITIONS), record.pair_counts
    latencies = books["latencies"]
    mean = sum(latencies) / len(latencies)
    timeline = {row["second"]: row["accepted"] for row in books["timeline"]}
    first, last, at = min(timeline), max(timeline), changed[0]
    figures = []
    for case, slots, begin, end in (
        (f"{BEFORE} slots", BEFORE, first + SETTLED_S, at - 1),
        (f"then {AFTER} slots", AFTER, at + SETTLED_S, last - 1),
    ):
        seconds = [second for second in timeline if begin <= second < end]
        goodput, capacity = sum(timeline[second] for second in seconds) / len(seconds), slots / mean
        figures.append(
            {
                "case": case,
                "metric": "share of capacity",
                "value": goodput / capacity,
                "goal": 0.9,
                "better": "higher",
                "ours": f"{goodput:.0f} requests/s",
                "theirs": f"{capacity:.0f} requests/s",
                "workload": f"{requests} requests, {LATENCY_S} s, sigma {SIGMA}, 429 beyond them, seconds {begin:.0f}-{end:.0f}",
            }
        )
    share = books["rejected"] / (books["rejected"] + books["accepted"])
    return [
        *figures,
        {
            "case": f"{BEFORE} -> {AFTER} slots",
            "metric": "share of requests turned away",
            "value": share,
            "goal": 0.01,
            "better": "lower",
            "ours": f"{books['rejected']} of {books['rejected'] + books['accepted']}",
            "theirs": "",
            "workload": "the whole run",
        },
    ]
