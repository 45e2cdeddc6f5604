"""What both providers' batch jobs have in common: result lines in a temporary file, and jobs by their names."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, BinaryIO, cast

from features.annotators.batch_jobs.job import PREFIX, BatchJob, Outcome
from features.annotators.exchange import Completion
from features.annotators.settings import ModelSettings
from features.errors import Permanent, VidattrError

LISTED = 5_000
"""The most jobs of an account that are looked through for a name."""
LEAST_TIMEOUT_S = 300.0
"""For one step of a transfer: request files are large."""


class ProviderBatches:
    """Base of `OpenAIBatches` and `GeminiBatches`.

    Args:
        settings: model, address, key and time-out.
    """

    provider = ""

    def __init__(self, settings: ModelSettings) -> None:
        self.settings = settings

    @property
    def place(self) -> str:
        """See `Batches`."""
        return " ".join([self.provider, self.settings.base_url or "default", self.settings.name])

    @property
    def _timeout_s(self) -> float:
        return max(self.settings.timeout_s, LEAST_TIMEOUT_S)

    def fetch(self, job: BatchJob, into: BinaryIO) -> None:
        """See `Batches`."""
        raise NotImplementedError

    def read(self, line: bytes) -> tuple[str, Outcome]:
        """See `Batches`."""
        raise NotImplementedError

    def results(self, job: BatchJob) -> Iterator[tuple[str, Outcome]]:
        """See `Batches`."""
        with tempfile.TemporaryFile() as file:
            self.fetch(job, cast(BinaryIO, file))
            file.seek(0)
            for line in file:
                try:
                    yield self.read(line)
                except ValueError:
                    continue


def reply_in(completion: Callable[[dict[str, Any]], Completion], document: dict[str, Any]) -> Outcome:
    """The completion in a provider's document; Permanent where it has another shape than the provider's."""
    try:
        return completion(document)
    except VidattrError as error:
        return error
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        return Permanent(f"the batch job gave no reply here ({type(error).__name__})", "batch_item")


def json_line(document: Mapping[str, Any]) -> bytes:
    """One line of JSONL: the same bytes for the same document."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace") + b"\n"


def json_object(line: bytes) -> dict[str, Any]:
    """A line that must hold a JSON object. Raises ValueError on anything else."""
    document = json.loads(line)
    if not isinstance(document, dict):
        raise ValueError("a result line that is no JSON object")
    return document


def by_name(jobs: Iterable[BatchJob]) -> dict[str, list[BatchJob]]:
    """Those of the first `LISTED` jobs that are ours, newest first."""
    found: dict[str, list[BatchJob]] = {}
    for job in islice(jobs, LISTED):
        if job.name.startswith(PREFIX):
            found.setdefault(job.name, []).append(job)
    for same in found.values():
        same.sort(key=lambda job: job.created_at, reverse=True)
    return found
