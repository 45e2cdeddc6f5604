"""`vidattr annotate --batch-jobs`: what a project's settings mean for the batch jobs of its workspace."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from features.annotators.answers import Answers
from features.annotators.batch_jobs import Submitted, open_batches
from features.annotators.batch_jobs.job import Batches
from features.annotators.chain import ModelAsked
from features.annotators.protocol import AnnotationRequest, Usage
from features.attributes.definition import AttributeDefinition
from features.attributes.registry import exclusive
from features.errors import InvalidInput
from features.records import RunRecord
from features.workspace import trusted_seconds
from pipelines.annotate import paid_tallies
from pipelines.annotators import LOCK, AnnotatorConfig, Whose, answers_of, build_annotator, model_asked
from pipelines.batch_jobs import LOCK_TIMEOUT_S, JobStatus, collect_jobs, jobs_status, newest_videos, submit_jobs
from pipelines.copies import leads, newest
from pipelines.options import RunHeader, library_versions
from pipelines.planning import STAGE
from pipelines.project import Project

REFUSED = "refused"
"""Stands for a dead letter where a source stands for an answer."""


def _opened(project: Project) -> tuple[AnnotatorConfig, ModelAsked, Batches, Answers]:
    config = project.annotator_config
    if not config.asks_model:
        raise InvalidInput(f"the {config.kind} annotator has no batch jobs: pass --annotator openai or gemini")
    config = dataclasses.replace(config, golden=project.golden)
    asked = model_asked(config, project.workspace)
    return config, asked, open_batches(config.kind, asked.model), answers_of(config, project.workspace)


def submit(project: Project, retry_failed: bool = False) -> tuple[str, Submitted]:
    """Hands over every question that has no answer, is in no job, and was not refused; returns the run's id and what was done.

    Raises:
        InvalidInput: a cap, which a job that is handed over would not keep to.
        Transient: an annotation of this workspace is running, and asks the same questions.
    """
    config, asked, batches, answers = _opened(project)
    if config.pace.max_cost or config.pace.max_tokens:
        raise InvalidInput(
            "a batch job keeps to no --max-cost and no --max-tokens: see its price with --dry-run, and choose how much is handed "
            "over with --videos or --attribute"
        )
    header = RunHeader(versions=library_versions())
    whose = Whose.of(build_annotator(config, project.workspace, store=False))
    with exclusive(project.workspace.local_path(LOCK), LOCK_TIMEOUT_S, "annotation"):
        requests = _requests(project, whose, retry_failed)
        done = submit_jobs(
            project.workspace, requests, asked.writer, asked.identity, config.prompts, batches, answers, header.run_id
        )
    return header.run_id, done


def _requests(project: Project, whose: Whose, retry_failed: bool) -> Iterator[AnnotationRequest]:
    workspace = project.workspace
    contents = newest(workspace, "content_key")
    videos = set(contents)
    if project.videos:
        videos &= {video.video_id for video in project.manifest.videos}
    lead_of = leads(workspace) if project.configuration.duplicates else {}
    through: dict[str, list[str]] = {}
    for video_id in sorted(videos):
        through.setdefault(lead_of.get(video_id, video_id), []).append(video_id)
    settled: dict[tuple[str, ...], str] = {}
    if not retry_failed:
        columns = ["video_id", "stage", "attribute", "content_key", "failed_at"]
        for row in _by_time(workspace.read("failures", columns).to_pylist(), "failed_at"):
            if row["stage"] == STAGE:
                settled[row["video_id"], row["attribute"], REFUSED] = row["content_key"]
    if whose.second is not None or lead_of:  # what the fallback answered, or was asked about a copy, the lead's answers lack
        columns = ["video_id", "attribute", "source", "answer_key", "annotated_at", "value"]
        for row in _by_time(workspace.read("annotations", columns).to_pylist(), "annotated_at"):
            settled[row["video_id"], row["attribute"], row["source"]] = row["answer_key"] if row["value"] is not None else ""
    for video in newest_videos(workspace)(through):
        together = [(video_id, video.content_key, contents[video_id]) for video_id in through[video.video_id]]
        open_ = tuple(each for each in project.asked if not all(_settled(settled, whose, *one, each) for one in together))
        if open_:
            yield AnnotationRequest(video, open_)


def _by_time(rows: list[dict[str, Any]], column: str) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: trusted_seconds(row[column]))


def _settled(
    settled: Mapping[tuple[str, ...], str], whose: Whose, video_id: str, shown: str, own: str, definition: AttributeDefinition
) -> bool:
    """Whether a pair has a dead letter or an answer that stands: about the content that is shown, or an answer about its own."""
    pair = (video_id, definition.name)
    return settled.get((*pair, REFUSED)) == whose.refused_key(shown, definition.definition_hash) or any(
        settled.get((*pair, source)) == key
        for content_key in (shown, own)
        for source, key in whose.accepted(content_key, definition.definition_hash)
    )


def collect(project: Project, quiet: bool, patience_s: float, **how: Any) -> RunRecord:
    """Takes what jobs have answered, then annotates as usual: what waits for a job stays pending, the rest is asked directly."""
    _, asked, batches, answers = _opened(project)
    config = project.annotate_config(patience_s=patience_s, **how)

    def cost(usage: Usage) -> float:
        return asked.cost(usage, batch=True)

    came = collect_jobs(
        project.workspace, batches, asked.writer, asked.identity, cost, answers, config.header.run_id, patience_s=patience_s
    )
    arguments = {**config.header.arguments, "batch_jobs": json.loads(json.dumps(came.details(), default=str))}
    header = dataclasses.replace(config.header, arguments=arguments)
    return project.annotate(quiet, patience_s=patience_s, header=header, noted=paid_tallies(came.spent), **how)


def status(project: Project, patience_s: float) -> list[JobStatus]:
    """Every open job and the newest closed ones; the provider is asked where there is a key for it."""
    batches: Batches | None
    try:
        batches = _opened(project)[2]
    except InvalidInput:
        batches = None
    return jobs_status(project.workspace, batches, time.time(), patience_s)
