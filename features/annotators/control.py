"""What a person says to a run that is going on: stop, pause, slower, no more than so much.

A running job reads `control.yaml` of its workspace every few seconds; so does the process of `vidattr` that shows its progress.
"""

from __future__ import annotations

import asyncio
import dataclasses
import difflib
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml

from features import storage
from features.annotators.settings import PaceSettings
from features.errors import InvalidInput, Permanent, Stopped, Transient

T = TypeVar("T")

STOPPED = "the run was stopped before this was asked; the next run goes on from here"
POLL_S = 0.2
"""How often those who wait look whether they still should."""

EXAMPLE = """\
# control.yaml in the workspace: a running job reads it every few seconds. Leave out what should stay as it was started;
# remove the file to go back to that altogether. Caps and quotas are for the whole run, all workers together.
paused: true                    # nothing new is sent until this is false or gone; what is in flight is finished and kept
# stopped: true                 # nothing new is sent in this run any more; the rest is pending, and so is a run started later
# in_flight: 16                 # the most requests at the same time in each process
# max_requests_per_minute: 600
# max_tokens_per_minute: 400000
# max_cost: 25.00               # US dollars
# max_tokens: 50000000          # input and output
note: the quota is needed elsewhere until noon
"""
_SWITCHES = ("paused", "stopped")
_WHOLE = ("in_flight", "max_requests_per_minute", "max_tokens_per_minute", "max_tokens")
KEYS = (*_SWITCHES, *_WHOLE, "max_cost", "note")


@dataclass(frozen=True)
class Orders:
    """What holds now: the settings of the run with the file's changes.

    Attributes:
        paused: nothing new is sent for now.
        stopped: nothing new is sent in this run.
        in_flight, max_requests_per_minute, max_tokens_per_minute, max_cost, max_tokens: as in `PaceSettings`.
        note: why, for people.
    """

    paused: bool = False
    stopped: bool = False
    in_flight: int = 64
    max_requests_per_minute: int = 0
    max_tokens_per_minute: int = 0
    max_cost: float = 0.0
    max_tokens: int = 0
    note: str = ""


def never() -> bool:
    """Nobody stops the run."""
    return False


def read_orders(content: bytes, path: str, base: PaceSettings) -> Orders:
    """The orders in a control file. Raises InvalidInput naming the file, the key (and the nearest known one) and the remedy."""
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidInput(
            f"{path}: is no YAML ({' '.join(str(error).split())[:200]}); write lines such as `paused: true`"
        ) from error
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise InvalidInput(f"{path}: holds {type(document).__name__} and not keys; write lines such as `paused: true`")
    given: dict[str, Any] = {}
    for key, value in document.items():
        if key not in KEYS:
            near = difflib.get_close_matches(str(key).lower(), KEYS, 1, 0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KEYS)}"
            raise InvalidInput(f"{path}: unknown key {key!r}; {hint}")
        if value is not None:
            given[key] = _checked(path, key, value)
    pace = {key: given.pop(key) for key in (*_WHOLE, "max_cost") if key in given}
    try:
        settings = dataclasses.replace(base, **pace)
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error
    return _orders(settings, **given)


def _checked(path: str, key: str, value: object) -> object:
    if key in _SWITCHES:
        if not isinstance(value, bool):
            raise InvalidInput(f"{path}: {key} is {value!r}; write true or false")
        return value
    if key == "note":
        return " ".join(str(value).split())[:200]
    number = isinstance(value, int) if key in _WHOLE else isinstance(value, int | float)
    if not number or isinstance(value, bool):
        raise InvalidInput(f"{path}: {key} is {value!r}; write a {'whole number' if key in _WHOLE else 'number'}")
    return value


def _orders(base: PaceSettings, **given: Any) -> Orders:
    names = (*_WHOLE, "max_cost")
    return Orders(**{name: getattr(base, name) for name in names}, **given)


class Control:
    """The orders of a run in this process, and the way to wait that heeds a stop.

    `orders` costs next to nothing and never waits: when the file was last read more than `every_s` ago, a thread reads it again.
    A file with a mistake changes nothing, and `problem` says what is wrong with it; a file that is gone brings back the base.

    Args:
        path: of the control file, local or gs://; empty: there is none.
        stopping: whether a person wants the run to stop (Ctrl-C).
        base: what holds without a file.
        clock: seconds, never going back.
        sleep: as `asyncio.sleep`.
        every_s: how old what was read may be.

    Attributes:
        problem: a sentence about a control file that could not be read or understood; empty: all is well.
    """

    def __init__(
        self,
        path: str = "",
        stopping: Callable[[], bool] = never,
        base: PaceSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        every_s: float = 2.0,
    ) -> None:
        self.path, self.sleep, self.problem = path, sleep, ""
        self._stopping, self._base, self._clock, self._every_s = stopping, base or PaceSettings(), clock, every_s
        self._orders = _orders(self._base)
        self._halt = dataclasses.replace(self._orders, stopped=True)
        self._content: bytes | None = None
        self._read_at: float | None = None
        self._reading = threading.Lock()
        self._known = False
        self._waiting: set[asyncio.Future[Any]] = set()
        self._watch: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Reads the file now if it was never read, so that a run that was paused before it began sends nothing."""
        if self.path and not self._known:
            self.read()

    def orders(self) -> Orders:
        """What holds now; cheap enough for every request."""
        if self._stopping():
            return self._halt
        if self.path and (self._read_at is None or self._clock() - self._read_at >= self._every_s) and self._reading.acquire(False):
            self._read_at = self._clock()  # a store that hangs is not asked again before it has answered
            threading.Thread(target=self._read, name="control", daemon=True).start()
        return self._orders

    def read(self) -> None:
        """Reads the file, waiting for it. Never raises: see `problem`."""
        self._reading.acquire()
        self._read_at = self._clock()
        self._read()

    def _read(self) -> None:
        """Holding the lock, which is given back."""
        try:
            content: bytes | None = storage.read_bytes(self.path)
            if content != self._content:
                self._orders = read_orders(content or b"", self.path, self._base)
                self._halt = dataclasses.replace(self._orders, stopped=True)
            self._content, self.problem = content, ""
        except FileNotFoundError:
            self._orders, self._content, self.problem = _orders(self._base), None, ""
            self._halt = dataclasses.replace(self._orders, stopped=True)
        except (InvalidInput, Permanent, Transient, OSError) as error:
            said = str(error) if str(error).startswith(self.path) else f"{self.path}: cannot be read ({error})"
            self.problem = f"{said}; what was ordered before still holds"
        finally:
            self._known = True
            self._reading.release()

    def check(self) -> None:
        """Raises Stopped when nothing new is to be sent in this run."""
        if self.orders().stopped:
            raise self.stopped()

    def stopped(self) -> Stopped:
        """What to raise once `orders` says so: who stopped the run, and what to do."""
        if self._stopping() or not self.path:
            return Stopped(STOPPED)
        note = f" ({self._orders.note})" if self._orders.note else ""
        return Stopped(f"{self.path} says stopped{note}; take that line out and run again: it goes on from here")

    async def wait(self, future: asyncio.Future[T]) -> T:
        """The result of a future of the caller's own, which is cancelled when the caller is. Raises Stopped soon after a stop."""
        self.check()
        self._waiting.add(future)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.get_running_loop().create_task(self._look())
        try:
            return await future
        finally:
            self._waiting.discard(future)

    async def wait_s(self, seconds: float) -> None:
        """Waits that long. Raises Stopped within POLL_S of a stop."""
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def alarm() -> None:
            await self.sleep(seconds)
            if not over.done():
                over.set_result(None)

        task = asyncio.ensure_future(alarm())
        try:
            await self.wait(over)
        finally:
            task.cancel()

    async def _look(self) -> None:
        while self._waiting:
            await self.sleep(POLL_S)
            if self.orders().stopped:
                for future in list(self._waiting):
                    if not future.done():
                        future.set_exception(self.stopped())
