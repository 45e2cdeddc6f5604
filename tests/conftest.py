"""What every test may use: the data beside the project, and a guard against real model requests."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings

# A shared machine is slow at times: examples are bounded in number and not in time, and the same in every run.
settings.register_profile("steady", deadline=None, max_examples=50, derandomize=True, database=None)
settings.load_profile("steady")

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = pathlib.Path(os.environ.get("VIDATTR_TEST_DATA") or ROOT.parent / "shared" / "data")

FRAMES_ONLY = "speech: false\nonscreen: false\ntempo: false\n"
"""Of `vidattr.yaml`, where it does not matter what videos say."""


@pytest.fixture(scope="session")
def repo_root() -> pathlib.Path:
    """The folder with setup.py."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Real clips, ratings and logs; a test that needs them skips where they are not."""
    if not DATA.is_dir():
        pytest.skip(f"no test data at {DATA}: set VIDATTR_TEST_DATA")
    return DATA


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="run the long fuzzes and loads, and nothing else")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "soak: long; only with --soak (make soak)")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts what it puts into the background so, and all children would ignore the Ctrl-C that tests send them.
        signal.signal(signal.SIGINT, signal.default_int_handler)


LONGEST_FIRST = ("tests/test_main_job.py", "tests/docs/", "tests/pipelines/", "tests/faults/")
"""Files that take minutes, before those that take seconds: else one worker ends alone with the longest file."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: next((rank for name, rank in ranks.items() if item.nodeid.startswith(name)), len(ranks)))
    wanted = config.getoption("--soak")
    skip = pytest.mark.skip(reason="make soak runs it" if not wanted else "make test runs it")
    for item in items:
        if bool(item.get_closest_marker("soak")) != bool(wanted):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def weights_folder() -> pathlib.Path:
    """The weights folder of this machine with all sets in it, installed on need; skips where pip cannot download."""
    from features import weights
    from features.errors import Transient

    try:
        return weights.install()
    except Transient as error:
        pytest.skip(f"model weights are not installed and cannot be downloaded: {error}")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a storage emulator on loopback."""
    from features import storage

    emulator = pathlib.Path(sys.executable).parent / "gcp-storage-emulator"
    if not emulator.exists():
        pytest.skip("gcp-storage-emulator is not installed: pip install 'vidattr[dev]'")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [str(emulator), "start", "--host=127.0.0.1", f"--port={address.partition(':')[2]}", "--in-memory"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"http://{address}/storage/v1/b?project=p", b'{"name":"abc-bucket"}', headers)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("STORAGE_EMULATOR_HOST", f"http://{address}")
        storage._client.cache_clear()
        try:
            for _ in range(200):
                try:
                    urllib.request.urlopen(request)
                    break
                except OSError:
                    time.sleep(0.05)
            yield "gs://abc-bucket"
        finally:
            process.terminate()
            process.wait()
            storage._client.cache_clear()


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and what it printed."""

    exit_code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document of a `--json` run."""
        return json.loads(self.out)


def run_vidattr(*arguments: object) -> Outcome:
    """Runs `vidattr ARGUMENTS` in this process, which has paid for the imports."""
    from pipelines.cli import main

    out, err = io.StringIO(), io.StringIO()
    level = logging.getLogger().level  # a command may quieten its process, which here goes on
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        finally:
            logging.getLogger().setLevel(level)
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def vidattr() -> Callable[..., Outcome]:
    """The command, in this process."""
    return run_vidattr
