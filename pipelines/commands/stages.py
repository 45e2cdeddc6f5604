"""The stages as commands of their own; `vidattr annotate` is in `pipelines.commands.annotate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.options import (
    DEFAULT_FEATURE_REPO,
    DEFAULT_WORKSPACE,
    BeamArgs,
    FeatureRepo,
    Json,
    Roots,
    Videos,
    WorkspacePath,
)

if TYPE_CHECKING:
    from features.records import RunRecord

RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Try dead letters again although nothing about them changed.")]
EachDuplicate = Annotated[
    bool, typer.Option("--each-duplicate", help="Ask about every video itself, instead of one for all of its near-duplicates.")
]
OnlyAttributes = Annotated[list[str] | None, typer.Option("--attribute", "-a", help="Only this attribute. Repeatable.")]


def extract(
    videos: Videos,
    workspace: WorkspacePath = DEFAULT_WORKSPACE,
    feature_repo: FeatureRepo = DEFAULT_FEATURE_REPO,
    root: Roots = None,
    retry_failed: RetryFailed = False,
    as_json: Json = False,
    beam_args: BeamArgs = None,
) -> None:
    """Decode videos into features: frames, sound, speech, on-screen text, embeddings, fingerprints.

    What is done already (same bytes, same title, same extractor) is not done again. A file that does not decode becomes a
    dead letter. The attributes of the feature repository matter only where vidattr.yaml says `parts: evidence`: then what none
    of them admits as evidence is not looked for.
    """
    from pipelines.project import Project

    project = Project(workspace, feature_repo, videos=videos, roots=tuple(root or ()), beam_args=tuple(beam_args or ()))
    end_stage(lambda quiet: project.extract(retry_failed, quiet), as_json, workspace, "annotate")


def distill(
    workspace: WorkspacePath = DEFAULT_WORKSPACE,
    feature_repo: FeatureRepo = DEFAULT_FEATURE_REPO,
    as_json: Json = False,
    beam_args: BeamArgs = None,
) -> None:
    """Train a small TensorFlow student on the Silver Set. The same Silver Set is not trained on twice."""
    from pipelines.project import Project

    project = Project(workspace, feature_repo=feature_repo, beam_args=tuple(beam_args or ()))
    end_stage(project.distill, as_json, workspace, "score")


def score(
    workspace: WorkspacePath = DEFAULT_WORKSPACE,
    feature_repo: FeatureRepo = DEFAULT_FEATURE_REPO,
    as_json: Json = False,
    beam_args: BeamArgs = None,
) -> None:
    """Let the newest student annotate every video with features."""
    from pipelines.project import Project

    project = Project(workspace, feature_repo=feature_repo, beam_args=tuple(beam_args or ()))
    end_stage(project.score, as_json, workspace, "materialize")


def materialize(
    workspace: WorkspacePath = DEFAULT_WORKSPACE,
    feature_repo: FeatureRepo = DEFAULT_FEATURE_REPO,
    online_store: Annotated[str | None, typer.Option("--online-store", help="sqlite, or redis://HOST:PORT.")] = None,
    as_json: Json = False,
    beam_args: BeamArgs = None,
) -> None:
    """Resolve who is trusted and write attributes to the feature store, offline and online. Only what changed is written."""
    from pipelines.project import Project

    project = Project(workspace, feature_repo=feature_repo, online_store=online_store, beam_args=tuple(beam_args or ()))
    end_stage(project.materialize, as_json, workspace, "get", "VIDEO_ID")


def end_stage(stage: Callable[[bool], RunRecord], as_json: bool, workspace: str, after: str, *places: str) -> None:
    """Runs a stage, shows what came of it and the command `after` it, and exits with its code."""
    from pipelines import stopping, terminal
    from pipelines.project import dead_letter_kinds, exit_code, pending_reasons, spent_and_forecast, where_the_time_went

    with stopping.on_interrupt():
        record = stage(as_json)
    if as_json:
        terminal.emit(record.as_dict())
    else:
        rows = [terminal.counts_line("videos", record.counts.as_dict())]
        if record.pair_counts is not None:
            rows.append(terminal.counts_line("pairs", record.pair_counts.as_dict()))
        terminal.table("", ["", "in", "done", "of which reused", "dead-lettered", "pending"], rows, right=range(1, 6))
        for kind, number in dead_letter_kinds(record).items():
            terminal.say(f"  dead letters of kind {kind}: {number}")
        for sentence in pending_reasons(record):
            terminal.say(f"  {sentence}")
        for sentence in spent_and_forecast(record):
            terminal.say(sentence)
        for sentence in where_the_time_went(record):
            terminal.say(sentence)
        terminal.say(f"run {record.run_id}, {record.timings.get('total', 0):.1f} s")
        if not record.counts.into:
            terminal.say("There was nothing to do.")
        if record.counts.pending and record.stage == "annotate" and exit_code(record) != 1:
            terminal.next_command("the same command again: it goes on from here")
            raise typer.Exit(exit_code(record))
        if exit_code(record) == 1:
            after, places = "runs show", (record.run_id,)
        terminal.next_command(terminal.command(after, *places, workspace=workspace))
    raise typer.Exit(exit_code(record))
