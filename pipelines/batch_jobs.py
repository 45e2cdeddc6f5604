"""`vidattr annotate --batch-jobs submit|collect|status`: provider batch jobs of a workspace, one process at a time.

    submit    plan -> `submit_jobs`
    collect   `collect_jobs` -> an ordinary run whose annotator stands inside `InBatch(..., *standing(...))`
    status    `jobs_status` -> `jobs_table`

No Beam in here: a job is planned, kept and read by `features.annotators.batch_jobs`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from features import storage
from features.annotators.answers import Answers
from features.annotators.batch_jobs import Batches, Collected, Limits, Submitted, SubmittedJob, collect, read_jobs, submit
from features.annotators.batch_jobs.collecting import CANCEL_WAIT_S
from features.annotators.batch_jobs.folder import FOLDER
from features.annotators.batch_jobs.job import ENDED, BatchJob
from features.annotators.batch_jobs.results import Videos
from features.annotators.batch_jobs.standing import PATIENCE_S, hours
from features.annotators.batch_jobs.submitting import Writer
from features.annotators.protocol import AnnotationRequest, AnnotatorIdentity, Usage
from features.annotators.settings import PromptSettings
from features.attributes.registry import exclusive
from features.errors import VidattrError
from features.records import VideoFeatures, from_table
from features.workspace import Workspace, read_parquet, trusted_seconds

_ROWS = 64
"""Rows with their frames that are in memory together."""
_CLOSED_SHOWN = 20
LOCK_TIMEOUT_S = 5.0


def newest_videos(workspace: Workspace) -> Videos:
    """Looks up features by id, file by file, frames included; of each video the row that was extracted last."""

    def look_up(wanted: Collection[str]) -> Iterator[VideoFeatures]:
        newest: dict[str, tuple[float, str, int]] = {}
        for file in workspace.files("features"):
            rows = read_parquet(file.path, ["video_id", "extracted_at"]).to_pylist()
            for number, row in enumerate(rows):
                when = trusted_seconds(row["extracted_at"])
                if row["video_id"] in wanted and when >= newest.get(row["video_id"], (0.0,))[0]:
                    newest[row["video_id"]] = when, file.path, number
        places: dict[str, set[int]] = {}
        for _, path, number in newest.values():
            places.setdefault(path, set()).add(number)
        for path, numbers in places.items():
            yield from _rows(path, numbers)

    return look_up


def _rows(path: str, numbers: Collection[int]) -> Iterator[VideoFeatures]:
    with storage.open_binary(path) as source, pq.ParquetFile(source) as file:
        begin = 0
        for batch in file.iter_batches(batch_size=_ROWS):
            kept = [number - begin for number in range(begin, begin + batch.num_rows) if number in numbers]
            begin += batch.num_rows
            if kept:
                yield from from_table(batch.take(pa.array(kept)), VideoFeatures)


def submit_jobs(
    workspace: Workspace,
    requests: Iterable[AnnotationRequest],
    writer: Writer,
    identity: AnnotatorIdentity,
    settings: PromptSettings,
    batches: Batches,
    answers: Answers,
    run_id: str,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    limits: Limits | None = None,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
) -> Submitted:
    """See `features.annotators.batch_jobs.submit`; also raises Transient while another process works on these jobs."""
    with exclusive(workspace.local_path(FOLDER, ".lock"), lock_timeout_s, "process with batch jobs"):
        return submit(workspace, requests, writer, identity, settings, batches, answers, run_id, clock, sleep, limits)


def collect_jobs(
    workspace: Workspace,
    batches: Batches,
    writer: Writer,
    identity: AnnotatorIdentity,
    cost: Callable[[Usage], float],
    answers: Answers,
    run_id: str,
    patience_s: float = PATIENCE_S,
    clock: Callable[[], float] = time.time,
    sleep: Callable[[float], None] = time.sleep,
    cancel_wait_s: float = CANCEL_WAIT_S,
    lock_timeout_s: float = LOCK_TIMEOUT_S,
) -> Collected:
    """See `features.annotators.batch_jobs.collect`; also raises Transient while another process works on these jobs."""
    videos = newest_videos(workspace)
    with exclusive(workspace.local_path(FOLDER, ".lock"), lock_timeout_s, "process with batch jobs"):
        return collect(workspace, batches, videos, writer, identity, cost, answers, run_id, clock, sleep, patience_s, cancel_wait_s)


@dataclass(frozen=True)
class JobStatus:
    """A batch job for a person.

    Attributes:
        id: the provider's, or our name where it has none yet.
        model: that answers it.
        state: the provider's, or ours before and after.
        age_s: since it was handed over.
        done, failed, total: requests; `done` and `failed` are what the provider counts, if it does.
        next: what happens next.
        run_id: that submitted it.
    """

    id: str
    model: str
    state: str
    age_s: float
    done: int
    failed: int
    total: int
    next: str
    run_id: str

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return asdict(self)


def jobs_status(workspace: Workspace, batches: Batches | None, now: float, patience_s: float = PATIENCE_S) -> list[JobStatus]:
    """Every open job and the newest closed ones, oldest first. Nothing is written.

    Args:
        workspace: whose.
        batches: the provider, asked about its open jobs; None: only what is written down.
        now: seconds since 1970.
        patience_s: how long a job may take.
    """
    jobs = read_jobs(workspace)
    closed = [job for job in jobs if job.step == "closed"][-_CLOSED_SHOWN:]
    return [_status(job, batches, now, patience_s) for job in jobs if job.step != "closed" or job in closed]


def _status(job: SubmittedJob, batches: Batches | None, now: float, patience_s: float) -> JobStatus:
    theirs, trouble = job.job, ""
    if batches is not None and theirs is not None and job.step in ("submitted", "cancelling") and job.place == batches.place:
        try:
            theirs = batches.status(theirs)
        except VidattrError as error:
            trouble = f"; {error}"
    state = theirs.state if theirs is not None and job.step == "submitted" else job.state
    came = job.came_of_it
    done, failed = (theirs.done, theirs.failed) if theirs is not None else (0, 0)
    if job.step == "closed":
        done, failed = came.get("read", 0), job.requests - came.get("read", 0)
    name = theirs.id if theirs is not None else job.name
    what = _next(job, theirs, now, patience_s) + trouble
    return JobStatus(name, job.identity.model, state, max(0.0, now - job.since), done, failed, job.requests, what, job.run_id)


def _next(job: SubmittedJob, theirs: BatchJob | None, now: float, patience_s: float) -> str:
    if job.step == "closed":
        came = job.came_of_it
        return (
            job.detail
            or f"{came['answered']} of {came['pairs']} answered, {came['refused']} refused, {came['left']} asked directly"
        )
    if job.step == "submitting":
        return "the next submit hands it over"
    if job.step == "cancelling":
        return "the next collect takes what it answered before it was cancelled"
    if job.step == "fetched" or (theirs is not None and theirs.state in ENDED):
        return "the next collect takes its answers"
    left = patience_s - (now - job.since)
    return f"waits up to {hours(left)} more" if left > 0 else "the next collect cancels it and asks the rest directly"


def jobs_table(jobs: Iterable[JobStatus]) -> tuple[list[str], list[list[object]]]:
    """Columns and rows for `pipelines.terminal.table`."""
    columns = ["job", "model", "state", "age", "done", "failed", "requests", "next"]
    rows: list[list[object]] = [
        [job.id, job.model, job.state, hours(job.age_s), job.done, job.failed, job.total, job.next] for job in jobs
    ]
    return columns, rows
