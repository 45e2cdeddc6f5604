"""Handing questions over as batch jobs, so that none is lost and none is paid for twice, wherever the process dies."""

from __future__ import annotations

import dataclasses
import hashlib
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import BinaryIO, Protocol

from features import storage
from features.annotators.answers import Answers
from features.annotators.batch_jobs.folder import (
    Entry,
    SubmittedJob,
    keep_stream,
    read_entries,
    read_jobs,
    write_entries,
    write_job,
)
from features.annotators.batch_jobs.job import ADOPTABLE, PREFIX, Batches, BatchJob, Limits
from features.annotators.batch_jobs.patiently import Sleep, patiently
from features.annotators.exchange import Prompt
from features.annotators.protocol import AnnotationRequest, AnnotatorIdentity
from features.annotators.settings import PromptSettings
from features.attributes.definition import AttributeDefinition
from features.errors import InvalidInput, Permanent, Transient
from features.records import digest
from features.workspace import Workspace

_LOOKED_UP = 64
"""Requests whose answers are looked up together; frames included, they are held in memory."""


class Writer(Protocol):
    """What of a `PromptWriter` is needed here."""

    def unseen(self, request: AnnotationRequest) -> tuple[str, ...]: ...

    def write(self, request: AnnotationRequest) -> Prompt: ...


@dataclass(frozen=True)
class Submitted:
    """What a submit did.

    Attributes:
        jobs: handed over now, or found with the provider and taken over, in order.
        adopted: how many of them were found there: they cost nothing again.
        requests, pairs: in these jobs.
        in_jobs, answered: pairs that were left out because a job has them, or because the answers store has.
        unwritable, too_large: pairs that no job can carry: they are asked directly.
        not_handed_over: jobs that are written down but could not be handed over; the next submit does it.
        problem: why, empty when there are none.
    """

    jobs: tuple[SubmittedJob, ...] = ()
    adopted: int = 0
    requests: int = 0
    pairs: int = 0
    in_jobs: int = 0
    answered: int = 0
    unwritable: int = 0
    too_large: int = 0
    not_handed_over: int = 0
    problem: str = ""

    def details(self) -> dict[str, object]:
        """For a run record and `--json`: counts, and each job's id and state."""
        counts = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if item.name != "jobs"}
        return {**counts, "jobs": [described(job) for job in self.jobs]}


def described(job: SubmittedJob) -> dict[str, object]:
    """A job in a run record."""
    return {
        "id": job.job.id if job.job else "",
        "name": job.name,
        "state": job.state,
        "requests": job.requests,
        "pairs": job.pairs,
        "detail": job.detail or (job.job.detail if job.job else ""),
    }


def check_shape(settings: PromptSettings) -> None:
    """Raises InvalidInput for prompts that batch jobs do not carry."""
    if settings.videos_per_request > 1:
        raise InvalidInput("batch jobs hold one video a request: leave out --videos-per-request, or --batch-jobs")
    if settings.first_token:
        raise InvalidInput("batch jobs take whole replies: leave out --first-token, or --batch-jobs")
    if settings.samples > 1:
        raise InvalidInput("batch jobs ask each question once: leave out --samples, or --batch-jobs")


@dataclass
class _Part:
    """A request file in the making."""

    limits: Limits
    lines: BinaryIO
    entries: list[Entry] = field(default_factory=list)
    definitions: dict[str, AttributeDefinition] = field(default_factory=dict)
    size: int = 0
    state: hashlib._Hash = field(default_factory=hashlib.sha256)

    def has_room(self, line: bytes) -> bool:
        return len(self.entries) < self.limits.requests and self.size + len(line) <= self.limits.size

    def add(self, request: AnnotationRequest, custom_id: str, line: bytes) -> None:
        for definition in request.definitions:
            self.definitions.setdefault(definition.definition_hash, definition)
        places = {found: place for place, found in enumerate(self.definitions)}
        asked = tuple(places[definition.definition_hash] for definition in request.definitions)
        video = request.video
        self.entries.append(Entry(custom_id, video.video_id, video.content_key, asked, digest(line)))
        self.lines.write(line)
        self.size += len(line)
        self.state.update(line)


class _Submission:
    """One submit: what is left out, what is written down, and what is handed over."""

    def __init__(
        self,
        workspace: Workspace,
        requests: Iterator[AnnotationRequest],
        writer: Writer,
        identity: AnnotatorIdentity,
        settings: PromptSettings,
        batches: Batches,
        answers: Answers,
        run_id: str,
        clock: Callable[[], float],
        sleep: Sleep,
        limits: Limits,
    ) -> None:
        self.workspace, self.requests, self.writer, self.identity = workspace, requests, writer, identity
        self.settings, self.batches, self.answers, self.run_id = settings, batches, answers, run_id
        self.clock, self.sleep, self.limits = clock, sleep, limits
        self.books = read_jobs(workspace)
        open_jobs = [job for job in self.books if job.step != "closed"]
        self.taken = {key for job in open_jobs for entry in read_entries(workspace, job) for key in job.keys(entry)}
        self.closed_ids = {job.job.id for job in self.books if job.job and job.step == "closed"}
        self.done: list[SubmittedJob] = []
        self.counts = {"adopted": 0, "in_jobs": 0, "answered": 0, "unwritable": 0, "too_large": 0}
        self.waiting: list[SubmittedJob] = []
        self.listed: dict[str, list[BatchJob]] | None = None

    def go(self) -> Submitted:
        problem = ""
        try:
            for job in self.books:
                if job.step == "submitting" and job.place == self.batches.place:
                    self.waiting.append(job)
            for job in list(self.waiting):
                self.hand_over(job)
            lines = self.lines()
            ahead = next(lines, None)
            while ahead is not None:
                job, ahead = self.write_down(len(self.done), ahead, lines)
                self.waiting.append(job)
                self.hand_over(job)
        except Transient as error:
            problem = str(error)
        return Submitted(
            tuple(self.done),
            requests=sum(job.requests for job in self.done),
            pairs=sum(job.pairs for job in self.done),
            not_handed_over=len(self.waiting),
            problem=problem,
            **self.counts,
        )

    def lines(self) -> Iterator[tuple[AnnotationRequest, str, bytes]]:
        """Every request to be handed over: with its id and its line."""
        while some := list(islice(self.requests, _LOOKED_UP)):
            keys = [self.key(request, definition) for request in some for definition in request.definitions]
            stored = self.answers.get_many(key for key in keys if key not in self.taken)
            for request in some:
                for small in self.split(self.unanswered(request, stored)):
                    yield from self.line(self.seen(small))

    def key(self, request: AnnotationRequest, definition: AttributeDefinition) -> str:
        return self.identity.answer_key(request.video.content_key, definition.definition_hash)

    def unanswered(self, request: AnnotationRequest, stored: Collection[str]) -> AnnotationRequest:
        left = []
        for definition in request.definitions:
            key = self.key(request, definition)
            if key in self.taken:
                self.counts["in_jobs"] += 1
            elif key in stored:
                self.counts["answered"] += 1
            else:
                self.taken.add(key)
                left.append(definition)
        return dataclasses.replace(request, definitions=tuple(left))

    def split(self, request: AnnotationRequest) -> Iterator[AnnotationRequest]:
        """One question a request with ask each, one request a video otherwise; none where nothing is left to ask."""
        if self.settings.ask == "each":
            for definition in request.definitions:
                yield dataclasses.replace(request, definitions=(definition,))
        elif request.definitions:
            yield request

    def seen(self, request: AnnotationRequest) -> AnnotationRequest:
        """Without the questions that may see nothing of this video."""
        blind = self.writer.unseen(request)
        self.counts["unwritable"] += len(blind)
        seen = tuple(definition for definition in request.definitions if definition.name not in blind)
        return dataclasses.replace(request, definitions=seen)

    def line(self, request: AnnotationRequest) -> Iterator[tuple[AnnotationRequest, str, bytes]]:
        if not request.definitions:
            return
        keys = [self.key(request, definition) for definition in request.definitions]
        custom_id = digest(request.video.video_id, *keys)
        try:
            line = self.batches.line(custom_id, self.writer.write(request))
        except Permanent:
            self.counts["unwritable"] += len(keys)
            return
        if len(line) > self.limits.size:
            self.counts["too_large"] += len(keys)
            return
        yield request, custom_id, line

    def write_down(
        self, number: int, first: tuple[AnnotationRequest, str, bytes], rest: Iterator[tuple[AnnotationRequest, str, bytes]]
    ) -> tuple[SubmittedJob, tuple[AnnotationRequest, str, bytes] | None]:
        """Fills one request file, writes the job down, and says which line begins the next one."""
        draft = SubmittedJob(self.run_id, number, "", self.batches.place, self.identity, (), 0, 0, self.clock())
        ahead: tuple[AnnotationRequest, str, bytes] | None = first
        part = _Part(self.limits, io.BytesIO())

        def fill(file: BinaryIO) -> None:
            nonlocal ahead
            part.lines = file
            while ahead is not None and part.has_room(ahead[2]):
                part.add(*ahead)
                ahead = next(rest, None)

        keep_stream(self.workspace, draft.file("requests"), fill)
        job = dataclasses.replace(
            draft,
            # Of the place too: the same lines at another address, or for another model, are another job.
            name=f"{PREFIX}{digest(part.state.hexdigest(), self.batches.place)}",
            definitions=tuple(part.definitions.values()),
            requests=len(part.entries),
            pairs=sum(len(entry.asked) for entry in part.entries),
        )
        write_entries(self.workspace, job, part.entries)
        return write_job(self.workspace, job), ahead

    def hand_over(self, job: SubmittedJob) -> None:
        """Takes over the provider's job of this name, or makes one."""
        if self.listed is None:
            self.listed = patiently(self.batches.listed, self.sleep)
        try:
            theirs, adopted = patiently(lambda: self.attempt(job), self.sleep)
        except Permanent as error:
            self.waiting.remove(job)
            write_job(self.workspace, dataclasses.replace(job, step="closed", detail=str(error)))
            raise
        self.waiting.remove(job)
        self.counts["adopted"] += adopted
        self.done.append(submitted(self.workspace, job, theirs, self.clock(), adopted))

    def attempt(self, job: SubmittedJob) -> tuple[BatchJob, bool]:
        """The provider's job, and whether it was there already."""
        if self.listed is None:
            self.listed = self.batches.listed()
        theirs = adoptable(self.listed.get(job.name, ()), self.closed_ids)
        if theirs is not None:
            return theirs, True
        with storage.open_binary(self.workspace.path(job.file("requests"))) as file:
            try:
                return self.batches.submit(file, job.name), False
            except Transient:
                self.listed = None  # it may have made the job and lost the reply: look before the next try
                raise


def submit(
    workspace: Workspace,
    requests: Iterable[AnnotationRequest],
    writer: Writer,
    identity: AnnotatorIdentity,
    settings: PromptSettings,
    batches: Batches,
    answers: Answers,
    run_id: str,
    clock: Callable[[], float],
    sleep: Sleep,
    limits: Limits | None = None,
) -> Submitted:
    """Hands over everything that has no answer and is in no job yet.

    A job is written down before it is uploaded, and looked for by its name before it is made, so that a process that dies at any
    point leaves nothing that the next submit does not find. What that cannot cover: a provider that has made a job and does not
    list it yet when it is asked again.

    Args:
        workspace: where the books are kept.
        requests: the questions without an answer, one request a video, in a stable order.
        writer: of the prompts.
        identity: whose the answers will be.
        settings: of the prompts.
        batches: the provider.
        answers: what is answered already.
        run_id: names the folder of new jobs.
        clock: seconds since 1970.
        sleep: waits between two tries.
        limits: lower than the provider's own, for smaller jobs.

    Raises:
        InvalidInput: prompts that batch jobs do not carry, or the disk is full.
        Permanent: the provider refuses this request file; its questions are asked directly.
        Unavailable: the provider refuses everybody; nothing is lost, and the next submit goes on from there.
    """
    check_shape(settings)
    narrow = batches.limits
    if limits is not None:
        narrow = Limits(min(limits.requests, narrow.requests), min(limits.size, narrow.size))
    return _Submission(workspace, iter(requests), writer, identity, settings, batches, answers, run_id, clock, sleep, narrow).go()


def submitted(workspace: Workspace, job: SubmittedJob, theirs: BatchJob, now: float, adopted: bool) -> SubmittedJob:
    """Writes down that the provider has a job. Its age counts from now; of one that was there already, from when it was made."""
    since = min(now, theirs.created_at) if adopted and theirs.created_at else now
    return write_job(workspace, dataclasses.replace(job, step="submitted", job=theirs, since=since))


def adoptable(jobs: Sequence[BatchJob], closed_ids: Collection[str]) -> BatchJob | None:
    """The newest of a provider's jobs of one name that may be taken over, expired ones last.

    Args:
        jobs: newest first.
        closed_ids: ids of jobs that have given all they have.
    """
    good = [job for job in jobs if job.state in ADOPTABLE and job.id not in closed_ids]
    return min(good, key=lambda job: job.state == "expired", default=None)
