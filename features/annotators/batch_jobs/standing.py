"""What batch jobs mean for the questions of a run: which ones wait for a job, and which ones a job's model refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from features.annotators.batch_jobs.folder import SubmittedJob, read_entries, read_jobs, read_refused
from features.annotators.protocol import Refusal
from features.workspace import Workspace

PATIENCE_S = 24 * 3600.0
"""How long a job may take before its questions are asked directly: what both providers aim at."""
CANCEL_GRACE_S = 15 * 60.0
"""How long a job that is being cancelled may take to end and hand over what it has answered; OpenAI says up to ten minutes."""


@dataclass(frozen=True)
class Standing:
    """Attributes:
    waiting: answer keys of questions that are in a job now.
    why: a sentence about them, for pending pairs; empty when there are none.
    refused: by answer key, what a job's model will not answer.
    """

    waiting: frozenset[str] = frozenset()
    why: str = ""
    refused: Mapping[str, Refusal] = field(default_factory=dict)


def waits(job: SubmittedJob, now: float, patience_s: float) -> bool:
    """Whether a job's questions are to be left to it.

    A job that lasts longer than `patience_s` is waited for no more, except while it is being cancelled. One whose results lie here
    is waited for however old it is: reading them costs nothing.
    """
    if job.step == "closed":
        return False
    if job.step == "cancelling":
        return now - job.cancelled_at < CANCEL_GRACE_S
    return job.step == "fetched" or now - job.since < patience_s


def standing(workspace: Workspace, now: float, patience_s: float = PATIENCE_S) -> Standing:
    """Reads the books of a workspace; asks nobody.

    Args:
        workspace: whose.
        now: seconds since 1970.
        patience_s: how long a job may take.
    """
    jobs = read_jobs(workspace)
    waited = [job for job in jobs if waits(job, now, patience_s)]
    keys = frozenset(key for job in waited for entry in read_entries(workspace, job) for key in job.keys(entry))
    refused = {one.key: one.refusal for job in jobs if job.step == "closed" for one in read_refused(workspace, job)}
    why = ""
    if waited:
        left = max(0.0, patience_s - (now - min(job.since for job in waited)))
        many = "a batch job" if len(waited) == 1 else f"{len(waited)} batch jobs"
        until = f", the oldest asked directly in {hours(left)} at the latest" if left < math.inf else ""
        why = f"in {many}{until}; fetch what is done with `vidattr annotate --batch-jobs collect`"
    return Standing(keys, why, refused)


def hours(seconds: float) -> str:
    """A length of time for a person: 45 s, 12 min, 3.5 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
