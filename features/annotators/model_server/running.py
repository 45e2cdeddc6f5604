"""Model servers on a socket: in a thread of this process, or as the process itself."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from aiohttp import web

from features.annotators.model_server.application import Application, is_loopback
from features.annotators.model_server.configuration import Rule, ServerConfig
from features.errors import InvalidInput

Result = TypeVar("Result")

LOOPBACK = "127.0.0.1"
_BACKLOG = 4096
_READY_S = 30.0


class RunningServer:
    """A server that runs; its methods may be called from any thread but its own.

    Attributes:
        openai_url: base URL for OpenAI's SDK.
        gemini_url: base URL for google-genai.
        config: how it was started.
    """

    def __init__(self, application: Application, port: int, loop: asyncio.AbstractEventLoop, host: str = LOOPBACK) -> None:
        self.config = application.config
        self.gemini_url = f"http://{host}:{port}"
        self.openai_url = f"{self.gemini_url}/v1"
        self.port = port
        self._application, self._loop = application, loop

    def stats(self) -> dict[str, Any]:
        """All counts, as `GET /_control/stats` gives them; see `features.annotators.model_server.ledger`."""
        return self._run(lambda: self._application.stats())

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The last requests that were accepted for generation, oldest first, with their replies and faults."""
        return self._run(lambda: list(self._application.ledger.requests))

    def rules(self, *rules: Rule, replace: bool = True) -> None:
        """Sets the scripted faults from now on: none without arguments.

        Args:
            rules: in order; the first that matches a request decides.
            replace: in place of those that are set, instead of after them.
        """
        self._run(lambda: (self._application.rules.replace if replace else self._application.rules.add)(rules))

    def reset(self) -> None:
        """As a server that has just started: no counts, an empty prefix cache, the configuration's rules, the first latency next.

        Files, batch jobs, quotas and what is being served stay.
        """
        self._run(self._application.reset)

    def set_slots(self, count: int) -> None:
        """Changes how many requests are served at a time."""
        self._run(lambda: self._application.slots.resize(count))

    def advance_batches(self) -> int:
        """Moves each batch job that has not ended on by one state; returns how many moved."""
        return self._await(self._application.jobs.advance())

    def _run(self, call: Callable[[], Result]) -> Result:
        async def called() -> Result:
            return call()

        return self._await(called())

    def _await(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_READY_S)


@contextlib.contextmanager
def running(config: ServerConfig | None = None, port: int = 0) -> Iterator[RunningServer]:
    """A server on 127.0.0.1 in a thread of its own, for as long as the block lasts.

    Args:
        config: how it behaves.
        port: 0: a free one.

    Raises:
        OSError: the port is taken.
    """
    ready: Future[RunningServer] = Future()
    stop: Future[asyncio.Event] = Future()

    async def serving() -> None:
        ended = asyncio.Event()
        stop.set_result(ended)
        async with _listening(config or ServerConfig(), LOOPBACK, port) as server:
            ready.set_result(server)
            await ended.wait()

    def main() -> None:
        try:
            asyncio.run(serving())
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=main, name="model-server", daemon=True)
    thread.start()
    server = ready.result(_READY_S)
    try:
        yield server
    finally:
        server._loop.call_soon_threadsafe(stop.result().set)
        thread.join(_READY_S)


def serve(
    config: ServerConfig,
    port: int = 0,
    host: str = LOOPBACK,
    ready: Callable[[RunningServer], None] | None = None,
) -> None:
    """Serves until it is interrupted.

    Args:
        config: how it behaves.
        port: 0: a free one.
        host: address to listen on.
        ready: called once requests are taken.

    Raises:
        InvalidInput: an address that others can reach, without a key that they must have; or a port that is taken.
    """
    if not is_loopback(host) and not config.key:
        raise InvalidInput(f"host is {host}, which other machines can reach: set a token that they must send, or use {LOOPBACK}")

    async def serving() -> None:
        try:
            async with _listening(config, host, port) as server:
                # What exists by now stays: the collector need not look at it again.
                gc.freeze()
                if ready is not None:
                    ready(server)
                await asyncio.Event().wait()
        except OSError as error:
            raise InvalidInput(f"cannot listen on {host}:{port} ({error.strerror or error}); choose another --port") from error

    asyncio.run(serving())


@contextlib.asynccontextmanager
async def _listening(config: ServerConfig, host: str, port: int) -> Any:
    application = Application(config)
    runner = web.AppRunner(application.routes(), access_log=None, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port, backlog=_BACKLOG)
        await site.start()
        yield RunningServer(application, runner.addresses[0][1], asyncio.get_running_loop(), host)
    finally:
        await runner.cleanup()
