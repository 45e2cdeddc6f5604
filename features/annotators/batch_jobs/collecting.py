"""Taking what batch jobs have answered, and ending those that take too long."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from features import storage
from features.annotators.answers import Answers
from features.annotators.batch_jobs.folder import SubmittedJob, keep_stream, read_jobs, write_job
from features.annotators.batch_jobs.job import ENDED, Batches, BatchJob
from features.annotators.batch_jobs.patiently import Sleep, patiently
from features.annotators.batch_jobs.results import CAME_OF_IT, Videos, take_results
from features.annotators.batch_jobs.standing import CANCEL_GRACE_S, PATIENCE_S, hours
from features.annotators.batch_jobs.submitting import Writer, adoptable, described, submitted
from features.annotators.protocol import AnnotatorIdentity, Usage
from features.errors import Permanent, Transient
from features.workspace import Workspace

CANCEL_WAIT_S = 30.0
"""How long a collect waits for a job that it cancels; what takes longer is taken by the next one."""
_POLL_S = 2.0
_ODD_LINES = {
    "unknown": "with ids that are not of this job",
    "repeated": "with ids that had one already",
    "unreadable": "that are none",
}


@dataclass(frozen=True)
class Collected:
    """What a collect did.

    Attributes:
        jobs: that were open before, as they stand now, in order.
        spent: for results that were not taken before, refused and unusable ones included, at batch prices.
        counts: of requests and pairs; see `features.annotators.batch_jobs.results.CAME_OF_IT`.
        foreign: open jobs of another model, provider, address or prompt, which were left alone.
        notes: for a person.
    """

    jobs: tuple[SubmittedJob, ...] = ()
    spent: Usage = field(default_factory=Usage)
    counts: dict[str, int] = field(default_factory=dict)
    foreign: int = 0
    notes: tuple[str, ...] = ()

    def details(self) -> dict[str, object]:
        """For a run record and `--json`: counts, notes, and each job's id and state."""
        return {
            **self.counts,
            "foreign": self.foreign,
            "spent": dataclasses.asdict(self.spent),
            "notes": list(self.notes),
            "jobs": [described(job) for job in self.jobs],
        }


@dataclass
class _Collection:
    """One collect."""

    workspace: Workspace
    batches: Batches
    videos: Videos
    writer: Writer
    identity: AnnotatorIdentity
    cost: Callable[[Usage], float]
    answers: Answers
    run_id: str
    patience_s: float
    clock: Callable[[], float]
    sleep: Sleep
    cancel_wait_s: float
    spent: Usage = field(default_factory=Usage)
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    closed_ids: set[str] = field(default_factory=set)
    listed: dict[str, list[BatchJob]] | None = None

    def go(self) -> Collected:
        books = read_jobs(self.workspace)
        self.closed_ids = {job.job.id for job in books if job.job and job.step == "closed"}
        opened = [job for job in books if job.step != "closed"]
        ours = [job for job in opened if self.is_ours(job)]
        now: list[SubmittedJob] = []
        for number, job in enumerate(ours):
            try:
                now.append(self.move_on(job))
            except Transient as error:
                # Without the provider the others cannot be seen to either: patience decides about them.
                self.notes.append(str(error))
                now += ours[number:]
                break
        foreign = len(opened) - len(ours)
        if foreign:
            whose = sorted({f"{job.place}, prompt {job.identity.prompt}" for job in opened if not self.is_ours(job)})
            self.notes.append(
                f"{foreign} open jobs belong to another model, address or prompt: collect them with the options that they were "
                f"submitted with ({'; '.join(whose)})"
            )
        counts = {name: self.counts[name] for name in CAME_OF_IT}
        return Collected(tuple(now), self.spent, counts, foreign, tuple(self.notes))

    def is_ours(self, job: SubmittedJob) -> bool:
        """Whether its replies can be read against the prompts of now: they are paid for, and not to be thrown away for a flag."""
        theirs, ours = job.identity, self.identity
        return job.place == self.batches.place and (theirs.prompt, theirs.parameters) == (ours.prompt, ours.parameters)

    def move_on(self, job: SubmittedJob) -> SubmittedJob:
        """Takes one job as far as it goes now."""
        if job.step == "submitting":
            job = self.find(job)
        if job.step in ("submitted", "cancelling") and storage.exists(self.workspace.path(job.file("results"))):
            job = self.fetched(job)  # a collect died right after it had fetched them
        if job.step in ("submitted", "cancelling"):
            job = self.look(job)
        if job.step in ("submitted", "cancelling") and job.job and job.job.state in ENDED:
            job = self.fetch(job)
        if job.step == "fetched":
            job = self.take(job)
        return job

    def find(self, job: SubmittedJob) -> SubmittedJob:
        """A job that may or may not have been handed over before its process died."""
        if self.listed is None:
            self.listed = patiently(self.batches.listed, self.sleep)
        theirs = adoptable(self.listed.get(job.name, ()), self.closed_ids)
        if theirs is not None:
            return submitted(self.workspace, job, theirs, self.clock(), adopted=True)
        if self.clock() - job.since < self.patience_s:
            self.notes.append(f"{job.name} is written down and not handed over: `vidattr annotate --batch-jobs submit` does that")
            return job
        return self.close(job, f"was never handed over within {hours(self.patience_s)}")

    def look(self, job: SubmittedJob) -> SubmittedJob:
        """Asks how a job is, and ends it when it takes too long."""
        assert job.job is not None
        try:
            theirs = self.now(job.job)
        except Permanent as error:
            return self.close(job, str(error))
        job = write_job(self.workspace, dataclasses.replace(job, job=theirs))
        now = self.clock()
        if theirs.state in ENDED:
            return job
        if job.step == "cancelling":
            if now - job.cancelled_at >= CANCEL_GRACE_S:
                self.notes.append(f"{theirs.id} has not ended {hours(now - job.cancelled_at)} after it was cancelled")
            return job
        return self.cancel(job, theirs) if now - job.since >= self.patience_s else job

    def cancel(self, job: SubmittedJob, theirs: BatchJob) -> SubmittedJob:
        """Ends a job, and waits a little for what it has answered."""
        began = self.clock()
        self.notes.append(
            f"{theirs.id} is {hours(began - job.since)} old and {theirs.state}: cancelled; the rest is asked directly"
        )
        job = write_job(self.workspace, dataclasses.replace(job, step="cancelling", cancelled_at=began))
        try:
            try:
                theirs = self.batches.cancel(theirs)
            except (Permanent, Transient) as error:  # it may have ended in this very moment: its state says
                self.notes.append(str(error))
                theirs = self.now(theirs)
            waited = 0.0
            while theirs.state not in ENDED and waited < self.cancel_wait_s:
                self.sleep(_POLL_S)
                waited += _POLL_S
                theirs = self.now(theirs)
        except Permanent as error:
            return self.close(job, str(error))
        return write_job(self.workspace, dataclasses.replace(job, job=theirs))

    def now(self, theirs: BatchJob) -> BatchJob:
        return patiently(lambda: self.batches.status(theirs), self.sleep)

    def fetch(self, job: SubmittedJob) -> SubmittedJob:
        """Brings home what a job has answered, before anything of it is read."""
        assert job.job is not None
        theirs = job.job
        if theirs.state == "failed" and not theirs.result_files:
            return self.close(job, theirs.detail or "failed")
        relative = job.file("results")
        try:
            patiently(lambda: keep_stream(self.workspace, relative, lambda file: self.batches.fetch(theirs, file)), self.sleep)
        except Permanent as error:
            return self.close(job, str(error))
        return self.fetched(job)

    def fetched(self, job: SubmittedJob) -> SubmittedJob:
        return write_job(self.workspace, dataclasses.replace(job, step="fetched", fetched_at=self.clock()))

    def take(self, job: SubmittedJob) -> SubmittedJob:
        """Reads what came home, and stores the answers."""
        came, spent = take_results(
            self.workspace, job, self.batches, self.videos, self.writer, self.cost, self.answers, self.run_id
        )
        self.counts.update(came)
        self.spent += spent
        name = job.job.id if job.job else job.name
        for count, what in _ODD_LINES.items():
            if came[count]:
                self.notes.append(f"{name}: {came[count]} result lines {what}, ignored")
        return self.close(job, job.detail, dict(came))

    def close(self, job: SubmittedJob, detail: str, came_of_it: dict[str, int] | None = None) -> SubmittedJob:
        if came_of_it is None:
            self.notes.append(f"{job.job.id if job.job else job.name}: {detail}; its questions are asked directly")
            missed = Counter(requests=job.requests, missing=job.requests, pairs=job.pairs, left=job.pairs)
            came_of_it = {name: missed[name] for name in CAME_OF_IT}
            self.counts.update(missed)
        job = write_job(self.workspace, dataclasses.replace(job, step="closed", detail=detail, came_of_it=came_of_it))
        storage.delete(self.workspace.path(job.file("requests")))
        return job


def collect(
    workspace: Workspace,
    batches: Batches,
    videos: Videos,
    writer: Writer,
    identity: AnnotatorIdentity,
    cost: Callable[[Usage], float],
    answers: Answers,
    run_id: str,
    clock: Callable[[], float],
    sleep: Sleep,
    patience_s: float = PATIENCE_S,
    cancel_wait_s: float = CANCEL_WAIT_S,
) -> Collected:
    """Looks after every open job: stores what is answered, and cancels what takes longer than `patience_s`.

    Run it as often as you like. Killed at any point, the next one goes on: results are kept before they are read, reading them
    again stores nothing twice, and a job is closed last.

    Args:
        workspace: where the books are kept.
        batches: the provider; jobs of another one are left alone.
        videos: the newest features of the named videos.
        writer: of the prompts, set as it was when they were submitted; jobs with other prompts are left alone.
        identity: that goes with the writer.
        cost: US dollars of an exchange at batch prices.
        answers: where answers go.
        run_id: under which spend is noted.
        clock: seconds since 1970.
        sleep: waits between two tries.
        patience_s: how long a job may take.
        cancel_wait_s: how long to wait for a job that is being cancelled.

    Raises:
        InvalidInput: books that cannot be read, or a full disk.
        Unavailable: the provider refuses everybody; nothing is lost.
    """
    return _Collection(
        workspace, batches, videos, writer, identity, cost, answers, run_id, patience_s, clock, sleep, cancel_wait_s
    ).go()
