"""Runs benchmarks and appends their figures to results.jsonl beside this file."""

from __future__ import annotations

import argparse
import importlib
import json
import pathlib
import platform
import sys
import time
from datetime import UTC, datetime
from importlib.metadata import version

import features  # noqa: F401  (environment variables before heavy imports)

NAMES = {
    "first-result": "first_result",
    "extract": "extract",
    "words": "words",
    "near-duplicates": "near_duplicates",
    "online": "online",
    "materialize": "materialize",
    "transform": "transform",
    "zero-shot": "zero_shot",
    "annotate-client": "annotate_client",
    "client-cpu": "client_cpu",
    "annotate-pace": "annotate_pace",
    "annotate-tokens": "annotate_tokens",
    "end-to-end": "end_to_end",
    "local-llm": "local_llm",
}
ONLY_BY_NAME = ("local-llm", "near-duplicates")
"""They take long, or need what is not installed by itself."""
RESULTS = pathlib.Path(__file__).with_name("results.jsonl")
VERSIONS = ("apache-beam", "tensorflow", "feast", "redis", "av")


def main() -> None:
    """Runs the named benchmarks, or all, in turn."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one or more of {', '.join(NAMES)}; default: all but {', '.join(ONLY_BY_NAME)}"
    )
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in NAMES:
            parser.error(f"{name!r} is no benchmark: choose from {', '.join(NAMES)}")
    for name in arguments.names or [name for name in NAMES if name not in ONLY_BY_NAME]:
        began = time.monotonic()
        figures = importlib.import_module(f"benchmarks.{NAMES[name]}").run()
        stamp = {
            "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {"python": platform.python_version(), **{package: version(package) for package in VERSIONS}},
        }
        with RESULTS.open("a") as file:
            for figure in figures:
                file.write(json.dumps({"name": name, **figure, **stamp}) + "\n")
                goal = "" if figure.get("goal") is None else f"  (goal {figure['goal']})"
                print(f"{name:14} {figure['case']:34} {figure['metric']:38} {figure['value']:.4g}{goal}")
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
