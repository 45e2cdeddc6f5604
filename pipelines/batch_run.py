"""`vidattr annotate --batch-jobs`: what a project's settings mean for the batch jobs of its workspace."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from typing import Any

from features.annotators.answers import Answers
from features.annotators.batch_jobs import Submitted, open_batches
from features.annotators.batch_jobs.job import Batches
from features.annotators.chain import ModelAsked
from features.annotators.protocol import AnnotationRequest, Usage
from features.errors import InvalidInput
from features.records import RunRecord
from features.workspace import trusted_seconds
from pipelines.annotate import paid_tallies
from pipelines.annotators import AnnotatorConfig, Whose, answers_of, model_asked
from pipelines.batch_jobs import JobStatus, collect_jobs, jobs_status, newest_videos, submit_jobs
from pipelines.options import RunHeader, library_versions
from pipelines.planning import STAGE
from pipelines.project import Project


def _opened(project: Project) -> tuple[AnnotatorConfig, ModelAsked, Batches, Answers]:
    config = project.annotator_config
    if not config.asks_model:
        raise InvalidInput(f"the {config.kind} annotator has no batch jobs: pass --annotator openai or gemini")
    config = dataclasses.replace(config, golden=project.golden)
    asked = model_asked(config, project.workspace)
    return config, asked, open_batches(config.kind, asked.model), answers_of(config, project.workspace)


def submit(project: Project, retry_failed: bool = False) -> tuple[str, Submitted]:
    """Hands over every question that has no answer, is in no job, and was not refused; returns the run's id and what was done."""
    config, asked, batches, answers = _opened(project)
    header = RunHeader(versions=library_versions())
    requests = _requests(project, Whose(asked.identity), retry_failed)
    settings = config.prompts
    done = submit_jobs(project.workspace, requests, asked.writer, asked.identity, settings, batches, answers, header.run_id)
    return header.run_id, done


def _requests(project: Project, whose: Whose, retry_failed: bool) -> Iterator[AnnotationRequest]:
    workspace = project.workspace
    wanted = {video.video_id for video in project.manifest.videos} if project.videos else None
    refused: dict[tuple[str, str], str] = {}
    if not retry_failed:
        columns = ["video_id", "stage", "attribute", "content_key", "failed_at"]
        rows = workspace.read("failures", columns).to_pylist()
        for row in sorted(rows, key=lambda row: trusted_seconds(row["failed_at"])):
            if row["stage"] == STAGE:
                refused[row["video_id"], row["attribute"]] = row["content_key"]
    everything = {video_id for file in (workspace.read("features", ["video_id"]),) for video_id in file["video_id"].to_pylist()}
    for video in newest_videos(workspace)(everything if wanted is None else everything & wanted):
        open_ = tuple(
            definition
            for definition in project.asked
            if refused.get((video.video_id, definition.name)) != whose.refused_key(video.content_key, definition.definition_hash)
        )
        if open_:
            yield AnnotationRequest(video, open_)


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
