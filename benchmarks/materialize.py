"""Filling an online store from the history: `Publisher.refill` against Feast's `materialize`, the same rows, both views.

Both sides read the same Parquet files and write the wide and the packed view of empty stores; ours also compares with what is
stored and reads back every row. The stores are then compared through Feast's own client and through ours. Figures are rows a
second of one over the other, measured in turn, the median of the rounds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from features.attributes import registry
from features.attributes.definition import AttributeDefinition
from features.serving.online import OnlineAttributes
from features.serving.packed import PackedRows, definition_code
from features.serving.publish import Publisher

VIDEOS = 100_000
ROUNDS = 2
GOAL = 2.5
NAMES = ("calm", "cozy", "dark", "epic", "funny", "gentle", "loud", "nostalgic", "sad", "tense")
SEED = 7


def definitions(names: tuple[str, ...] = NAMES) -> list[AttributeDefinition]:
    """Ten boolean attributes."""
    return [AttributeDefinition(name, name.title(), f"Is it {name}?", f"It feels {name}.") for name in names]


def random_rows(videos: int, names: tuple[str, ...] = NAMES, seed: int = SEED) -> tuple[list[str], PackedRows]:
    """Probabilities for all attributes of many videos, nine in ten present, sources drawn at random."""
    rng = np.random.default_rng(seed)
    shape = (videos, len(names))
    now = time.time()
    source = np.where(rng.random(shape) < 0.9, rng.integers(1, 6, shape), 0).astype(np.uint8)
    codes = [definition_code(each.definition_hash) for each in sorted(definitions(names), key=lambda each: each.name)]
    rows = PackedRows(
        rng.random(shape, np.float32),
        np.full(shape, int(now) - 3600, np.uint32),
        np.broadcast_to(np.array(codes, np.uint32), shape).copy(),
        source,
        np.full(videos, int(now * 1e6), np.int64),
    )
    return [f"v{number:08d}" for number in range(videos)], rows


def registered_store(workspace: str, online: str, names: tuple[str, ...] = NAMES) -> Any:
    """A store with the attributes registered."""
    store = registry.open_store(workspace, online)
    wanted = definitions(names)
    registry.apply(store, wanted, registry.plan(registry.registered_attributes(store), wanted))
    return store


@contextlib.contextmanager
def redis_server() -> Iterator[str | None]:
    """The address of a Redis server of our own without persistence, or None where there is no redis-server."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                break
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _empty(store: Any) -> None:
    """Empties the online store."""
    if store.config.online_store.type == "redis":
        store._get_provider().online_store._get_client(store.config.online_store).flushall()
        return
    import sqlite3

    with contextlib.closing(sqlite3.connect(store.config.online_store.path, isolation_level=None)) as connection:
        for view in (registry.WIDE_VIEW, registry.PACKED_VIEW):
            connection.execute(f'DELETE FROM "{registry.PROJECT}_{view}"')
        connection.execute("VACUUM")


def _sample(store: Any, video_ids: list[str]) -> tuple[Any, Any]:
    """What Feast's client says of some videos in the wide view, and what ours says."""
    columns = [f"{registry.WIDE_VIEW}:{column}" for name in NAMES for column in (name, f"{name}_source")]
    wide = store.get_online_features(columns, [{registry.JOIN_KEY: video_id} for video_id in video_ids]).to_dict()
    table = OnlineAttributes(store).get(video_ids)
    return wide, (table.values.tobytes(), table.sources.tobytes(), table.annotated_at.tobytes())


def _compare(store: Any, video_ids: list[str]) -> tuple[float, float]:
    """Median seconds of ours and of Feast's, after asserting that both fill the store with the same rows."""
    ours, theirs, seen = [], [], []
    for _ in range(ROUNDS):
        _empty(store)
        publisher = Publisher(store)
        start = time.perf_counter()
        written = publisher.refill().written
        ours.append(time.perf_counter() - start)
        publisher.close()
        assert len(written) == len(video_ids)
        seen.append(_sample(store, video_ids[:: max(1, len(video_ids) // 5000)]))
        _empty(store)
        start = time.perf_counter()
        store.materialize(datetime.now(UTC) - timedelta(days=1), datetime.now(UTC) + timedelta(minutes=1))
        theirs.append(time.perf_counter() - start)
        seen.append(_sample(store, video_ids[:: max(1, len(video_ids) // 5000)]))
    assert all(each == seen[0] for each in seen[1:]), "the two sides left different rows"
    return statistics.median(ours), statistics.median(theirs)


def run(videos: int = VIDEOS) -> list[dict[str, Any]]:
    """Figures for sqlite and, where there is a redis-server, Redis."""
    figures = []
    video_ids, rows = random_rows(videos)
    with redis_server() as redis_url:
        for case, online in (("sqlite", "sqlite"), ("redis", redis_url)):
            if online is None:
                continue
            with tempfile.TemporaryDirectory() as folder:
                store = registered_store(os.path.join(folder, "workspace"), online)
                publisher = Publisher(store, clock=lambda: time.time() - 60)
                publisher.publish(video_ids, rows, "benchmark")
                publisher.close()
                ours, theirs = _compare(store, video_ids)
            figures.append(
                {
                    "name": "materialize",
                    "case": case,
                    "metric": "speed vs Feast materialize",
                    "value": theirs / ours,
                    "goal": GOAL,
                    "better": "higher",
                    "ours": f"{ours:.2f} s",
                    "theirs": f"{theirs:.2f} s",
                    "workload": f"{videos} videos, {len(NAMES)} attributes, both views, {ROUNDS} rounds in turn, seed {SEED}",
                }
            )
    return figures
