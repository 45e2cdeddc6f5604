"""first-result: a fresh clone in a new folder, the package cache empty: `make demo` until attributes come out of the online store.

The parts are reported beside the whole. A second run finds everything done.
"""

from __future__ import annotations

import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOAL_FIRST_S, GOAL_SECOND_S, GOAL_MEMORY_GIB, GOAL_HELP_S = 180, 45, 4, 0.5


def run() -> list[dict[str, Any]]:
    """Clones, runs `make demo` twice with caches of its own, and reads an attribute."""
    with tempfile.TemporaryDirectory(prefix="vidattr-first-") as folder:
        clone = os.path.join(folder, "clone")
        subprocess.run(["git", "clone", "--quiet", str(ROOT), clone], check=True)
        environment = {
            **os.environ,
            "UV_CACHE_DIR": os.path.join(folder, "uv"),
            "PIP_CACHE_DIR": os.path.join(folder, "pip"),
            "VIDATTR_WEIGHTS": os.path.join(folder, "weights"),
        }
        parts = {
            "install": _timed(["make", "env"], clone, environment),
            "weights": _timed([".venv/bin/vidattr", "weights", "install"], clone, environment),
            "sample and run": _timed(["make", "demo"], clone, environment),
        }
        second = _timed(["make", "demo"], clone, environment)
        help_s = statistics.median(_timed([".venv/bin/vidattr", "--help"], clone, environment) for _ in range(5))
        runs = [json.loads(path.read_text()) for path in sorted(pathlib.Path(clone, "demo/workspace/runs").glob("*.json"))]
        whole = [record for record in runs if record["stage"] == "run"]
        online = subprocess.run(
            [".venv/bin/vidattr", "get", "--json", "--workspace", "demo/workspace", _first_video(clone)],
            cwd=clone,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        (cells,) = json.loads(online.stdout)["videos"].values()
        assert any(cell["present"] for cell in cells.values()), "nothing came out of the online store"
        assert all(record["counts"]["pending"] == 0 for record in whole), whole
    workload = f"{whole[0]['counts']['in']} sample videos, {len(cells)} attributes, empty caches"
    figures = [_figure("first run", "seconds", sum(parts.values()), GOAL_FIRST_S, workload)]
    figures += [_figure("first run", f"seconds: {name}", seconds, None, workload) for name, seconds in parts.items()]
    figures += [
        _figure("first run", f"seconds in run: {name}", seconds, None, workload) for name, seconds in whole[0]["timings"].items()
    ]
    figures.append(_figure("second run", "seconds", second, GOAL_SECOND_S, workload))
    figures.append(_figure("vidattr --help", "seconds, median of 5", help_s, GOAL_HELP_S, "after the demo"))
    peak = max(record["peak_memory_bytes"] for record in whole) / 2**30
    figures.append(_figure("both runs", "peak memory, GiB", peak, GOAL_MEMORY_GIB, workload))
    return figures


def _first_video(clone: str) -> str:
    with open(os.path.join(clone, "demo/videos/manifest.jsonl")) as file:
        return str(json.loads(file.readline())["video_id"])


def _timed(command: list[str], folder: str, environment: dict[str, str]) -> float:
    began = time.monotonic()
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def _figure(case: str, metric: str, value: float, goal: float | None, workload: str) -> dict[str, Any]:
    return {
        "case": case,
        "metric": metric,
        "value": round(value, 2),
        "goal": goal,
        "better": "lower",
        "ours": round(value, 2),
        "theirs": None,
        "workload": workload,
    }
