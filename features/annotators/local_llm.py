"""A language model on this machine: llama.cpp's own server (package xllamacpp) over any GGUF file, in a process of its own.

It speaks OpenAI's protocol, so that `features.annotators.openai_compatible` asks it like any other server. The process is apart
because llama.cpp ends its process where a file is damaged in the wrong place, and because it gives its memory back that way.

    with LocalLlm(model_file("smollm"), alias="smollm") as llm:
        settings = ModelSettings(name="smollm", base_url=llm.base_url)
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from features import weights
from features.annotators.http_replies import is_loopback
from features.errors import InvalidInput, Transient

MODELS = ("smollm", "qwen2.5-1.5b")
"""Names of the optional sets of `features.weights` that hold a GGUF file."""
LOOPBACK = "127.0.0.1"
CONTEXT = 4096
"""Tokens that a prompt and its reply may have together, unless set: a video's text, its definitions and eight examples fit."""
CACHE_MIB = 1024
"""Memory for prompts that a slot had to leave: when a video's next question comes, its tokens are fetched from there."""

_ROOT = str(Path(__file__).resolve().parents[2])
_BOOT = "import sys; sys.path.append(sys.argv[1]); from features.annotators.local_llm import _serve; _serve()"
_MAGIC = b"GGUF"
_LOG_CHARACTERS, _LOG_LINES = 4_000, 3
_END_S = 5.0


def model_file(name: str, folder: Path | None = None) -> Path:
    """The GGUF file of one of `MODELS`, compared with its digest the first time in a process.

    Args:
        name: of the set.
        folder: the weights folder unless given.

    Raises:
        InvalidInput: an unknown name, or it is not installed; says which command installs it.
        Permanent: kind `wrong_digest`.
    """
    if name not in MODELS:
        raise InvalidInput(f"no local model is called {name!r}: choose among {', '.join(MODELS)}, or name a file with --gguf FILE")
    (file,) = weights.locate(name, folder=folder).glob("*.gguf")
    return file


class LocalLlm:
    """Serves a model while it is entered, and is gone afterwards, whatever happens to this process.

    Args:
        gguf: the model.
        mmproj: its eyes, a GGUF file too; without one frames are refused.
        slots: requests at the same time; others wait in line.
        context: tokens that a prompt and its reply may have together, in each slot.
        threads: processor threads; 0: as many as this process may use.
        port: to listen on; 0: a free one.
        alias: what the model is called; empty: the file's name without its ending.
        host: address to listen on. Others than loopback need a token.
        token: API key that requests must carry; empty: none is asked for.
        cache_mib: memory for prompts that are in no slot at the moment, MiB; 0: none.

    Raises:
        InvalidInput: xllamacpp is not installed, a file is missing or no GGUF file, or a number is out of its range.
    """

    def __init__(
        self,
        gguf: Path | str,
        mmproj: Path | str | None = None,
        slots: int = 2,
        context: int = CONTEXT,
        threads: int = 0,
        port: int = 0,
        alias: str = "",
        host: str = LOOPBACK,
        token: str = "",
        cache_mib: int = CACHE_MIB,
    ) -> None:
        for name, value, least, most in (
            ("slots", slots, 1, 256),
            ("context", context, 256, 1_048_576),
            ("threads", threads, 0, 1_024),
            ("port", port, 0, 65_535),
            ("cache_mib", cache_mib, 0, 1_048_576),
        ):
            if not least <= value <= most:
                raise InvalidInput(f"{name} is {value!r}; write a number from {least} to {most}")
        if not is_loopback(host) and not token:
            raise InvalidInput(
                f"host is {host}, which other machines can reach: set a token that they must send, or use {LOOPBACK}"
            )
        if importlib.util.find_spec("xllamacpp") is None:
            raise InvalidInput("a local model needs the package xllamacpp: pip install 'vidattr[llm]'")
        self.gguf = _checked(gguf, "the model")
        self.mmproj = None if mmproj is None else _checked(mmproj, "mmproj")
        self.alias = alias or self.gguf.stem
        self.host = host
        self.slots = slots
        self._orders: dict[str, Any] = {
            "gguf": str(self.gguf),
            "mmproj": "" if self.mmproj is None else str(self.mmproj),
            "slots": slots,
            "context": context,
            "threads": threads or len(os.sched_getaffinity(0)),
            "port": port,
            "alias": self.alias,
            "host": host,
            "token": token,
            "cache_mib": cache_mib,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._address = ""

    @property
    def base_url(self) -> str:
        """Where it is while it runs, such as http://127.0.0.1:40000/v1."""
        if not self._address:
            raise RuntimeError("the local model is not running: enter it first")
        return f"{self._address}/v1"

    def __enter__(self) -> LocalLlm:
        """Loads the model, which takes from a second to minutes, and listens.

        Raises:
            InvalidInput: the port is taken, or llama.cpp cannot load the file; with its words.
        """
        self._check_port()
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, _ROOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C is for this process, which then ends that one
        )
        try:
            self._address = self._started(self._process)
        except BaseException:
            self.close()
            raise
        return self

    def _started(self, process: subprocess.Popen[bytes]) -> str:
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it is gone: its log says why
            process.stdin.write(json.dumps(self._orders).encode() + b"\n")
            process.stdin.flush()
        said = process.stdout.readline()
        if not said:
            process.wait()
            raise InvalidInput(
                f"llama.cpp cannot serve {self.gguf}: {self._words()}. Try another file, or fewer slots or less context"
            )
        return str(json.loads(said)["address"])

    def _check_port(self) -> None:
        port = self._orders["port"]
        if not port:
            return
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(self.host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind, protocol) as tried:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tried.bind(address)
        except OSError as error:
            raise InvalidInput(f"cannot listen on {self.host}:{port} ({error.strerror or error}); choose another --port") from error

    def _words(self) -> str:
        """How llama.cpp began to say what is wrong, on one line."""
        if self._log is None:
            return "it gave no reason"
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LOG_CHARACTERS))
        lines = self._log.read().decode("utf-8", "replace").splitlines()
        said = [line.split(" E ", 1)[1].strip() for line in lines if " E " in line]
        said = said or [line.strip() for line in lines if line.strip()][-1:]
        return "; ".join(list(dict.fromkeys(said))[:_LOG_LINES]) or "it gave no reason"

    def wait(self) -> None:
        """Until the server ends, which it does by itself only where something is wrong. Raises Transient then."""
        if self._process is None:
            raise RuntimeError("the local model is not running: enter it first")
        code = self._process.wait()
        raise Transient(
            f"the server of {self.gguf} ended with code {code}: {self._words()}. Start it again; it may need more memory"
        )

    def close(self) -> None:
        """Ends the server. Doing so twice does no harm."""
        process, log = self._process, self._log
        self._process = self._log = None
        self._address = ""
        if process is not None:
            assert process.stdin is not None and process.stdout is not None
            process.terminate()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        if log is not None:
            log.close()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"LocalLlm({str(self.gguf)!r})"


def _checked(path: Path | str, what: str) -> Path:
    """An absolute path to a GGUF file."""
    file = Path(path).expanduser().absolute()
    try:
        with file.open("rb") as opened:
            magic = opened.read(len(_MAGIC))
    except OSError as error:
        raise InvalidInput(f"{what}: {str(path)!r} cannot be read ({error.strerror}); name a GGUF file") from error
    if magic != _MAGIC:
        raise InvalidInput(f"{what}: {str(path)!r} is no GGUF file, the format of llama.cpp; convert it, or name another")
    return file


def _serve() -> None:
    """The other process: reads its orders, says its address, and lasts until its input ends, as it does when its parent dies."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the library prints is no answer
    orders = json.loads(sys.stdin.readline())
    import xllamacpp

    asked = xllamacpp.CommonParams()
    asked.model.path = orders["gguf"]
    if orders["mmproj"]:
        asked.mmproj.path = orders["mmproj"]
    asked.model_alias = {orders["alias"]}
    asked.n_parallel = orders["slots"]
    asked.n_ctx = orders["slots"] * orders["context"]
    asked.cpuparams.n_threads = asked.cpuparams_batch.n_threads = orders["threads"]
    asked.hostnames = [orders["host"]]
    asked.port = orders["port"]
    if orders["token"]:
        asked.api_keys = [orders["token"]]
    asked.cache_ram_mib = orders["cache_mib"]
    asked.enable_reasoning = 0  # a verdict is wanted at once; the reply's limit has no room for thoughts
    asked.fit_params = False  # what was asked for, or an error; and it would load the model twice
    asked.offline = True
    asked.ui = False
    asked.cors_origins = ""  # no page in a browser reads what is said here
    asked.endpoint_slots = False  # they show others' prompts
    asked.verbosity = 1
    server = xllamacpp.Server(asked)
    print(json.dumps({"address": server.listening_address}), file=answers, flush=True)
    sys.stdin.read()
    os._exit(0)
