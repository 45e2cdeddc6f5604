"""What a provider's batch job is, in no provider's words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, Protocol

from features.annotators.exchange import Completion, Prompt
from features.errors import VidattrError

State = Literal["waiting", "running", "done", "expired", "failed", "cancelled"]
"""Waiting: accepted, not begun. Running: also while it is being cancelled. The others are final; `expired` and `cancelled` jobs
may have answered some of their requests."""

PREFIX = "vidattr-"
"""Names of our jobs begin with it."""

ENDED: frozenset[State] = frozenset({"done", "expired", "failed", "cancelled"})
ADOPTABLE: frozenset[State] = frozenset({"waiting", "running", "done", "expired"})
"""A job of the right name in one of these states is taken over instead of paying for another."""


@dataclass(frozen=True)
class BatchJob:
    """A job as its provider last described it.

    Attributes:
        id: the provider's.
        provider: openai or gemini.
        model: that answers it.
        name: ours; a digest of its request file, so that it is found again.
        created_at: seconds since 1970, by the provider's clock; 0 when it does not say.
        state: see `State`.
        request_file: the provider's id of the uploaded requests.
        result_files: the provider's ids of what can be fetched now.
        total, done, failed: requests; all 0 where the provider does not count them.
        detail: its own words about a failure, for a person.
    """

    id: str
    provider: str
    model: str
    name: str
    created_at: float
    state: State
    request_file: str = ""
    result_files: tuple[str, ...] = ()
    total: int = 0
    done: int = 0
    failed: int = 0
    detail: str = ""

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> BatchJob:
        """The inverse of `dataclasses.asdict`, through JSON. Raises TypeError on anything else."""
        return cls(**{**document, "result_files": tuple(document["result_files"])})


@dataclass(frozen=True)
class Limits:
    """What one request file may hold: `requests` lines and `size` bytes."""

    requests: int
    size: int


Outcome = Completion | VidattrError
"""Of one request: what the model said, or why it said nothing (Transient: it was never reached, or may work on its own)."""


class Batches(Protocol):
    """A provider's batch jobs. Every method is one or a few HTTP requests, and nothing is retried in here.

    All raise Transient, Permanent (this file or job; `not_found` for a job or file that is gone) or Unavailable (everybody).
    """

    limits: Limits

    @property
    def place(self) -> str:
        """Provider, address and model: where a job of ours can be looked up."""

    def line(self, custom_id: str, prompt: Prompt) -> bytes:
        """One line of a request file, its end included; the same bytes for the same prompt."""

    def submit(self, requests: BinaryIO, name: str) -> BatchJob:
        """Uploads a request file and starts a job of this name."""

    def listed(self) -> dict[str, list[BatchJob]]:
        """The jobs of ours that the provider knows, by name, newest first."""

    def status(self, job: BatchJob) -> BatchJob:
        """The job as it stands now."""

    def cancel(self, job: BatchJob) -> BatchJob:
        """Asks for the job's end, which may take a while; what it has answered stays. A job that has ended stays as it is."""

    def fetch(self, job: BatchJob, into: BinaryIO) -> None:
        """Writes every result line there is, in the provider's order, ends of lines included."""

    def read(self, line: bytes) -> tuple[str, Outcome]:
        """One result line: whose it is, and what came of it. Raises ValueError on anything else."""

    def results(self, job: BatchJob) -> Iterator[tuple[str, Outcome]]:
        """What came of each request, in the provider's order; lines that cannot be read are left out."""

    def close(self) -> None:
        """Closes the connections."""
