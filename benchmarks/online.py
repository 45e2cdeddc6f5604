"""Reading all attributes of many videos: `OnlineAttributes.get` against Feast's `get_online_features` on the wide view.

Both read the same store, ten attributes; ours also returns who speaks, when, and what is stale. Feast is asked for the ten
numbers only. Blocks of calls alternate, so that a busy machine slows both; the values are compared after each.
"""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

import numpy as np

from benchmarks.materialize import NAMES, SEED, random_rows, redis_server, registered_store
from features.attributes.registry import JOIN_KEY, WIDE_VIEW
from features.serving.online import OnlineAttributes
from features.serving.publish import Publisher

VIDEOS = 20_000
SIZES = {1: 400, 100: 200, 1000: 40}
"""Videos a call, and calls of each side."""
BLOCK = 10
"""Calls of one side before it is the other's turn."""
GOAL = 10.0


def _measure(store: Any, video_ids: list[str], size: int, calls: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of each call, ours and Feast's, on random videos, the same for both."""
    rng = np.random.default_rng(SEED)
    attributes, columns = OnlineAttributes(store), [f"{WIDE_VIEW}:{name}" for name in NAMES]
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(-1, calls // BLOCK):
        asked = [[video_ids[at] for at in rng.choice(len(video_ids), size, replace=False)] for _ in range(BLOCK)]
        rows = [[{JOIN_KEY: video_id} for video_id in ids] for ids in asked]
        moments = [time.perf_counter()]
        for ids in asked:
            table = attributes.get(ids)
            moments.append(time.perf_counter())
        ours += np.diff(moments).tolist()
        moments = [time.perf_counter()]
        for entity_rows in rows:
            wide = store.get_online_features(columns, entity_rows).to_dict()
            moments.append(time.perf_counter())
        theirs += np.diff(moments).tolist()
        numbers = np.array([wide[name] for name in table.attributes], dtype=np.float32).T
        assert wide[JOIN_KEY] == asked[-1] and np.array_equal(numbers, table.values, equal_nan=True), "values differ"
    return np.array(ours[BLOCK:]), np.array(theirs[BLOCK:])  # the first block opens connections and fills caches


def run(videos: int = VIDEOS, sizes: dict[int, int] | None = None) -> list[dict[str, Any]]:
    """Figures for sqlite and, where there is a redis-server, Redis: the ratio of medians, and p50 and p99 of both sides."""
    figures = []
    video_ids, rows = random_rows(videos)
    with redis_server() as redis_url:
        for case, online in (("sqlite", "sqlite"), ("redis", redis_url)):
            if online is None:
                continue
            with tempfile.TemporaryDirectory() as folder:
                store = registered_store(os.path.join(folder, "workspace"), online)
                publisher = Publisher(store)
                publisher.publish(video_ids, rows, "benchmark", history=False)
                publisher.close()
                for size, calls in (sizes or SIZES).items():
                    ours, theirs = _measure(store, video_ids, size, calls)
                    milliseconds = [
                        f"p50 {np.median(side) * 1e3:.2f} ms, p99 {np.quantile(side, 0.99) * 1e3:.2f} ms" for side in (ours, theirs)
                    ]
                    figures.append(
                        {
                            "name": "online",
                            "case": f"{case}, {size} videos",
                            "metric": "speed vs Feast get_online_features (median)",
                            "value": float(np.median(theirs) / np.median(ours)),
                            "goal": GOAL if size == 100 else None,
                            "better": "higher",
                            "ours": milliseconds[0],
                            "theirs": milliseconds[1],
                            "workload": f"{videos} videos, {len(NAMES)} attributes, {calls} calls in turn, seed {SEED}",
                        }
                    )
    return figures
