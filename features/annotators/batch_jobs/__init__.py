"""Provider batch jobs: the same requests at half the price, answered within a day or so, or not at all.

A job is written down before it is handed over, named by a digest of its requests, and looked up by that name before it is paid
for. Whatever a job does not answer in time is asked directly.
"""

from __future__ import annotations

from features.annotators.batch_jobs.collecting import Collected, collect
from features.annotators.batch_jobs.folder import SubmittedJob, read_jobs
from features.annotators.batch_jobs.job import Batches, BatchJob, Limits
from features.annotators.batch_jobs.standing import Standing, standing
from features.annotators.batch_jobs.submitting import Submitted, submit
from features.annotators.batch_jobs.waiting import InBatch
from features.annotators.settings import ModelSettings
from features.errors import InvalidInput

__all__ = [
    "BatchJob",
    "Batches",
    "Collected",
    "InBatch",
    "Limits",
    "Standing",
    "Submitted",
    "SubmittedJob",
    "collect",
    "open_batches",
    "read_jobs",
    "standing",
    "submit",
]


def open_batches(kind: str, settings: ModelSettings) -> Batches:
    """The batch jobs of the provider behind an annotator; its SDK is imported here.

    Args:
        kind: the annotator's, openai or gemini.
        settings: of the model.

    Raises:
        InvalidInput: an annotator without batch jobs, or no key.
    """
    if kind == "openai":
        from features.annotators.batch_jobs.openai_batches import OpenAIBatches

        return OpenAIBatches(settings)
    if kind == "gemini":
        from features.annotators.batch_jobs.gemini_batches import GeminiBatches

        return GeminiBatches(settings)
    raise InvalidInput(f"the annotator {kind!r} has no batch jobs: choose openai or gemini, or leave out --batch-jobs")
