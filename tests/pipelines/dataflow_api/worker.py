"""Runs a staged job graph the way a worker does, with the code of the staged package and none of the checkout's.

    PYTHONPATH=UNPACKED_PACKAGE python worker.py pipeline.pb

The graph's containers are replaced by this process, and nothing else. Prints one JSON document.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import python_urns
from apache_beam.portability.api import beam_runner_api_pb2 as api
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner


def main(path: str) -> None:
    graph = api.Pipeline.FromString(Path(path).read_bytes())
    for environment in graph.components.environments.values():
        environment.urn, environment.payload = python_urns.EMBEDDED_PYTHON, b""
        del environment.dependencies[:]
    state = FnApiRunner().run_via_runner_api(graph, PipelineOptions([])).wait_until_finish()
    print(json.dumps({"state": str(state), "code": sys.modules["pipelines"].__file__}))


if __name__ == "__main__":
    main(sys.argv[1])
