"""Batch jobs and the files they are made of, in neither provider's words."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from features.annotators.model_server.asked import Asked
from features.annotators.model_server.configuration import BEFORE, Rule
from features.annotators.model_server.model import Model
from features.annotators.model_server.problems import Refused

State = Literal["queued", "running", "done", "failed", "expired", "cancelled"]
ENDED = frozenset({"done", "failed", "expired", "cancelled"})
_YIELD_AFTER = 32


@dataclass
class StoredFile:
    """A file that was uploaded, or that a job wrote."""

    id: str
    name: str
    purpose: str
    media_type: str
    data: bytes
    created_at: float


class Files:
    """Files in memory.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock, self._numbers = clock, itertools.count(1)
        self._files: dict[str, StoredFile] = {}

    def add(self, data: bytes, name: str, purpose: str, media_type: str = "", prefix: str = "file-") -> StoredFile:
        """Keeps a file under a new id."""
        file = StoredFile(f"{prefix}{next(self._numbers):08d}", name, purpose, media_type, data, self._clock())
        self._files[file.id] = file
        return file

    def get(self, id: str) -> StoredFile | None:
        return self._files.get(id)

    def drop(self, id: str) -> bool:
        """Whether there was one."""
        return self._files.pop(id, None) is not None

    def all(self, prefix: str) -> list[StoredFile]:
        """Those whose id begins with `prefix`, newest first."""
        return [file for file in reversed(self._files.values()) if file.id.startswith(prefix)]


@dataclass(frozen=True)
class Item:
    """One request of a job.

    Attributes:
        key: the client's id for it.
        body: as it would be posted.
        extra: what the result repeats.
    """

    key: str
    body: Any
    extra: Any = None


@dataclass(frozen=True)
class Outcome:
    """What came of an item: a reply with status 200, a refusal with another one, or none (status 0: not got to)."""

    item: Item
    status: int
    document: Mapping[str, Any]


@dataclass
class Job:
    """A batch job.

    Attributes:
        id, protocol, model: whose.
        items: in order.
        read: turns a body into a request; raises Refused.
        rule: the fault it meets.
        name: for people; or the input file.
        input_file: id of it, empty for a job whose requests were posted.
        fields: whatever else the provider's document repeats.
        state, times: when it came into each state, seconds since 1970.
        outcomes: once it has ended.
        output: ids of the files written for it, by kind; filled by whoever describes it.
        problems: why it failed.
    """

    id: str
    protocol: str
    model: str
    items: list[Item]
    read: Callable[[Any], Asked]
    rule: Rule | None
    name: str = ""
    input_file: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)
    state: State = "queued"
    times: dict[str, float] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)
    output: dict[str, str] = field(default_factory=dict)
    problems: list[dict[str, Any]] = field(default_factory=list)

    @property
    def done(self) -> int:
        return sum(outcome.status == 200 for outcome in self.outcomes)

    @property
    def failed(self) -> int:
        return sum(outcome.status != 200 for outcome in self.outcomes)


class Jobs:
    """Runs jobs when somebody looks at them.

    Args:
        model: who answers.
        delay_s: from a job's creation to its end; -1: only `advance` moves jobs.
        clock: seconds since 1970.
    """

    def __init__(self, model: Model, delay_s: float, clock: Callable[[], float] = time.time) -> None:
        self._model, self._delay_s, self._clock = model, delay_s, clock
        self._numbers = itertools.count(1)
        self._jobs: dict[str, Job] = {}
        self._lock = asyncio.Lock()

    def add(
        self,
        protocol: str,
        model: str,
        items: list[Item],
        read: Callable[[Any], Asked],
        text: str,
        prefix: str,
        **more: Any,
    ) -> Job:
        """A new job.

        Args:
            protocol, model: whose.
            items: its requests.
            read: see `Job`.
            text: the request file, for rules.
            prefix: of its id.
            more: further attributes of `Job`.
        """
        rule = self._model.rules.of_job(protocol, model, text)
        if rule is not None:
            self._model.ledger.faults[rule.do] += 1
        job = Job(f"{prefix}{next(self._numbers):08d}", protocol, model, items, read, rule, **more)
        job.times["queued"] = self._clock()
        self._jobs[job.id] = job
        return job

    async def get(self, id: str) -> Job | None:
        """A job as it stands by now."""
        job = self._jobs.get(id)
        if job is not None:
            await self._moved(job)
        return job

    async def all(self, protocol: str) -> list[Job]:
        """Of one provider, newest first."""
        found = [job for job in reversed(self._jobs.values()) if job.protocol == protocol]
        for job in found:
            await self._moved(job)
        return found

    async def cancel(self, job: Job) -> None:
        """Ends a job that has not ended; what it has not answered is not answered."""
        async with self._lock:
            if job.state not in ENDED:
                job.outcomes = [Outcome(item, 0, {}) for item in job.items]
                self._enter(job, "cancelled")

    async def advance(self) -> int:
        """Moves each job that has not ended on by one state, stalled ones excepted; returns how many moved."""
        moved = 0
        for job in list(self._jobs.values()):
            if job.state in ENDED or (job.state == "running" and job.rule and job.rule.do == "batch_stall"):
                continue
            moved += 1
            if job.state == "queued":
                self._enter(job, "running")
            else:
                await self._end(job)
        return moved

    async def _moved(self, job: Job) -> None:
        age = self._clock() - job.times["queued"]
        if job.state in ENDED or self._delay_s < 0 or age < self._delay_s / 2:
            return
        if job.state == "queued":
            self._enter(job, "running")
        if age >= self._delay_s and not (job.rule and job.rule.do == "batch_stall"):
            await self._end(job)

    async def _end(self, job: Job) -> None:
        async with self._lock:
            if job.state in ENDED:
                return
            if job.problems or (job.rule and job.rule.do == "batch_fail"):
                self._enter(job, "failed")
                return
            expires = job.rule if job.rule and job.rule.do == "batch_expire" else None
            got_to = int(expires.part * len(job.items)) if expires else len(job.items)
            outcomes = []
            for place, item in enumerate(job.items):
                outcomes.append(self._outcome(job, item) if place < got_to else Outcome(item, 0, {}))
                if place % _YIELD_AFTER == _YIELD_AFTER - 1:
                    await asyncio.sleep(0)
            job.outcomes = outcomes
            self._enter(job, "expired" if expires else "done")

    def _outcome(self, job: Job, item: Item) -> Outcome:
        model = self._model
        try:
            asked = job.read(item.body)
            rule = model.met(asked, batch=True)
            if rule is not None and rule.do in BEFORE and rule.do != "status":
                raise Refused(500, "The server had an error while processing your request.")
            return Outcome(item, 200, model.reply(asked, rule, self._clock(), batch=True).document)
        except Refused as error:
            return Outcome(item, error.status, error.document(job.protocol))

    def _enter(self, job: Job, state: State) -> None:
        job.state = state
        job.times[state] = self._clock()
