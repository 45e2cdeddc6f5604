"""The books of batch jobs in a workspace: what was handed over, to whom, and how far it is.

    batches/RUN_ID/requests-00000.jsonl   what is uploaded; removed once the job is closed
    batches/RUN_ID/index-00000.jsonl      an `Entry` a line: whose each request is
    batches/RUN_ID/job-00000.json         a `SubmittedJob`; written before the upload, and after every step
    batches/RUN_ID/results-00000.jsonl    what came back, byte for byte
    batches/RUN_ID/refused-00000.jsonl    a `Refused` a line: what the model will not answer

Every file is written whole or not at all. A job without a `job-*.json` was never handed over, and its other files do not count.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, cast

from features import storage
from features.annotators.batch_jobs.job import BatchJob
from features.annotators.protocol import AnnotatorIdentity, Refusal
from features.attributes.definition import AttributeDefinition, Example
from features.errors import InvalidInput
from features.workspace import Workspace

FOLDER = "batches"
Step = Literal["submitting", "submitted", "cancelling", "fetched", "closed"]
"""Submitting: written down, perhaps handed over. Submitted: the provider has it. Cancelling: it took too long. Fetched: its results
lie in the workspace. Closed: its answers are stored, or it is given up."""
_JOB_FILE = re.compile(r"/job-\d{5}\.json$")


@dataclass(frozen=True)
class Entry:
    """One request of a job.

    Attributes:
        custom_id: echoed by the provider; a digest of whose it is.
        video_id, content_key: of the video that is asked about.
        asked: positions in `SubmittedJob.definitions`.
        line_digest: of the request's line, to see whether it can be written again byte for byte.
    """

    custom_id: str
    video_id: str
    content_key: str
    asked: tuple[int, ...]
    line_digest: str


@dataclass(frozen=True)
class Refused:
    """A question that the model will not answer however often it is asked."""

    key: str
    video_id: str
    refusal: Refusal


@dataclass(frozen=True)
class SubmittedJob:
    """A batch job as the workspace knows it.

    Attributes:
        run_id, number: where its files lie.
        name: a digest of its requests, by which the provider is asked for it.
        place: `Batches.place` of whom it was handed to.
        identity: whose answers these are.
        definitions: what is asked, as it was when it was asked.
        requests, pairs: how many.
        since: seconds since 1970, when it was handed over, or written down; its age counts from here.
        step: see `Step`.
        job: as last seen; None until it is handed over.
        cancelled_at, fetched_at: seconds since 1970, 0: not.
        detail: for a person, why it was given up.
        came_of_it: counts of a closed job.
    """

    run_id: str
    number: int
    name: str
    place: str
    identity: AnnotatorIdentity
    definitions: tuple[AttributeDefinition, ...]
    requests: int
    pairs: int
    since: float
    step: Step = "submitting"
    job: BatchJob | None = None
    cancelled_at: float = 0.0
    fetched_at: float = 0.0
    detail: str = ""
    came_of_it: dict[str, int] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """For a person: the provider's state, or our step where that says more."""
        if self.step in ("submitted", "fetched") and self.job is not None:
            return self.job.state
        return self.step

    def file(self, what: str) -> str:
        """Of `requests`, `index`, `job`, `results` and `refused`: relative to the workspace."""
        return f"{FOLDER}/{self.run_id}/{what}-{self.number:05}.{'json' if what == 'job' else 'jsonl'}"

    def keys(self, entry: Entry) -> list[str]:
        """The answer keys of a request's questions."""
        return [self.identity.answer_key(entry.content_key, self.definitions[place].definition_hash) for place in entry.asked]

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> SubmittedJob:
        """The inverse of `to_json`. Raises ValueError, TypeError or KeyError on anything else."""
        plain = json.loads(text)
        own = plain["identity"].pop("parameters_by_definition")
        plain["identity"] = AnnotatorIdentity(**plain["identity"], parameters_by_definition=tuple(map(tuple, own)))
        plain["definitions"] = tuple(map(_definition, plain["definitions"]))
        plain["job"] = plain["job"] and BatchJob.from_dict(plain["job"])
        return cls(**plain)


def _definition(plain: dict[str, Any]) -> AttributeDefinition:
    fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
    fields["examples"] = tuple(Example(**example) for example in plain["examples"])
    return AttributeDefinition(**fields)


def read_jobs(workspace: Workspace) -> list[SubmittedJob]:
    """Every job of a workspace, oldest first. Raises InvalidInput on a file that cannot be read."""
    found = []
    for name in storage.list_names(workspace.path(FOLDER)):
        if _JOB_FILE.search(name):
            try:
                found.append(SubmittedJob.from_json(storage.read_bytes(name)))
            except (ValueError, TypeError, KeyError) as error:
                raise InvalidInput(
                    f"{name}: not a batch job ({error}); restore it, or move it away to ask its questions directly"
                ) from error
    return found


def write_job(workspace: Workspace, job: SubmittedJob) -> SubmittedJob:
    """Writes a job down, and returns it."""
    storage.write_bytes(workspace.path(job.file("job")), job.to_json().encode())
    return job


def write_entries(workspace: Workspace, job: SubmittedJob, entries: Iterable[Entry]) -> None:
    """Writes the index of a job."""
    lines = (json.dumps(dataclasses.asdict(entry), separators=(",", ":")) for entry in entries)
    storage.write_bytes(workspace.path(job.file("index")), "".join(f"{line}\n" for line in lines).encode())


def read_entries(workspace: Workspace, job: SubmittedJob) -> Iterator[Entry]:
    """The index of a job. Raises InvalidInput when it is gone or damaged."""
    name = workspace.path(job.file("index"))
    try:
        for line in storage.read_bytes(name).splitlines():
            plain = json.loads(line)
            yield Entry(**{**plain, "asked": tuple(plain["asked"])})
    except (FileNotFoundError, ValueError, TypeError, KeyError) as error:
        raise InvalidInput(
            f"{name}: the index of a batch job cannot be read ({error}); restore it, or move {job.file('job')} away to ask "
            "its questions directly"
        ) from error


def write_refused(workspace: Workspace, job: SubmittedJob, refused: Iterable[Refused]) -> None:
    """Writes what the model will not answer; nothing where there is none."""
    lines = [
        json.dumps({**dataclasses.asdict(dataclasses.replace(one.refusal, repair=None)), "key": one.key, "of": one.video_id})
        for one in refused
    ]
    if lines:
        storage.write_bytes(workspace.path(job.file("refused")), "".join(f"{line}\n" for line in lines).encode())


def read_refused(workspace: Workspace, job: SubmittedJob) -> Iterator[Refused]:
    """What the model will not answer, of one job."""
    name = workspace.path(job.file("refused"))
    if storage.exists(name):
        for line in storage.read_bytes(name).splitlines():
            plain = json.loads(line)
            yield Refused(plain.pop("key"), plain.pop("of"), Refusal(**plain))


def keep_stream(workspace: Workspace, relative: str, fill: Callable[[BinaryIO], None]) -> None:
    """Lets `fill` write a file of the workspace, which appears whole or not at all. A local one never lies in memory.

    Raises:
        InvalidInput: the place cannot be written, or its disk is full.
    """
    name = workspace.path(relative)
    if storage.is_gcs(name):
        with tempfile.TemporaryFile() as spool:
            fill(cast(BinaryIO, spool))
            spool.seek(0)
            storage.write_bytes(name, spool.read())
        return
    partial = ""
    try:
        os.makedirs(os.path.dirname(name), exist_ok=True)
        descriptor, partial = tempfile.mkstemp(prefix=".partial-", dir=os.path.dirname(name))
        with os.fdopen(descriptor, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, name)
    except BaseException as error:
        if partial and os.path.exists(partial):
            os.unlink(partial)
        if isinstance(error, OSError):
            raise storage.unwritable(name, error) from error
        raise
