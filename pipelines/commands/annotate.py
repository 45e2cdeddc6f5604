"""`vidattr annotate`: asks about every pair that has no answer yet, directly or by batch jobs, or says what that would take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.commands.model_options import with_model_options
from pipelines.commands.options import (
    DEFAULT_FEATURE_REPO,
    DEFAULT_WORKSPACE,
    AnnotatorKind,
    BeamArgs,
    CallLog,
    FeatureRepo,
    Golden,
    Json,
    Recording,
    Roots,
    WorkspacePath,
)
from pipelines.commands.stages import EachDuplicate, OnlyAttributes, RetryFailed, end_stage

if TYPE_CHECKING:
    from pipelines.project import Project

MODES = ("submit", "collect", "status")


@with_model_options
def annotate(
    workspace: WorkspacePath = DEFAULT_WORKSPACE,
    feature_repo: FeatureRepo = DEFAULT_FEATURE_REPO,
    videos: Annotated[
        str, typer.Option("--videos", "-v", help="Only the videos of this manifest; default: all with features.")
    ] = "",
    root: Roots = None,
    attribute: OnlyAttributes = None,
    annotator: AnnotatorKind = None,
    recording: Recording = "",
    retry_failed: RetryFailed = False,
    only_failed: Annotated[
        bool, typer.Option("--only-failed", help="Ask again what is a dead letter, and nothing else; an answer closes the letter.")
    ] = False,
    kind: Annotated[
        list[str] | None,
        typer.Option("--kind", help="With --only-failed: only dead letters of this kind, such as refused. Repeatable."),
    ] = None,
    each_duplicate: EachDuplicate = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Ask nobody: forecast requests, tokens and cost from 50 of the videos.")
    ] = False,
    batch_jobs: Annotated[
        str, typer.Option("--batch-jobs", help="Provider batch jobs at half the price: submit, collect or status.")
    ] = "",
    patience: Annotated[
        float, typer.Option("--patience", min=0.0, help="Hours after which a batch job's questions are asked directly.")
    ] = 24.0,
    call_log: CallLog = "",
    golden: Golden = "",
    as_json: Json = False,
    beam_args: BeamArgs = None,
    model_flags: Any = None,
) -> None:
    """Ask about every (video, attribute) pair that has no answer yet. Golden Set labels are written beside the answers.

    Nothing is asked or paid twice: run it again at any time. Ctrl-C stops new requests and keeps every answer. While it runs,
    WORKSPACE/control.yaml may pause it (paused: true), stop it, or change in_flight, max_cost and the other limits.

    Begin with --dry-run, then a few --videos. A key comes from the environment (OPENAI_API_KEY, GEMINI_API_KEY) or a file.
    """
    from features.errors import InvalidInput
    from pipelines.project import Project

    if batch_jobs and batch_jobs not in MODES:
        raise InvalidInput(f"--batch-jobs is {batch_jobs!r}; choose one of {', '.join(MODES)}")
    if dry_run and batch_jobs in ("collect", "status"):
        raise InvalidInput(f"--dry-run forecasts what is asked; leave it out with --batch-jobs {batch_jobs}")
    project = Project(
        workspace,
        feature_repo=feature_repo,
        videos=videos,
        roots=tuple(root or ()),
        attributes=tuple(attribute or ()),
        annotator=annotator,
        recording=recording,
        call_log=call_log,
        golden_folder=golden,
        each_duplicate=each_duplicate,
        model_flags=model_flags,
        beam_args=tuple(beam_args or ()),
    )
    if batch_jobs == "submit" and (only_failed or kind):
        raise InvalidInput(
            "--only-failed asks directly: leave it out with --batch-jobs submit (--retry-failed takes dead letters in)"
        )
    how: dict[str, Any] = {"retry_failed": retry_failed, "only_failed": only_failed, "kinds": tuple(kind or ())}
    if dry_run:
        _forecast(project, bool(batch_jobs), as_json, how)
    elif batch_jobs == "submit":
        _submit(project, retry_failed, as_json)
    elif batch_jobs == "status":
        _status(project, 3600 * patience, as_json)
    elif batch_jobs == "collect":
        from pipelines.batch_run import collect

        end_stage(lambda quiet: collect(project, quiet, 3600 * patience, **how), as_json, workspace, "distill")
    else:
        if only_failed and not as_json:
            from pipelines import terminal

            terminal.say("Asking dead letters again" + (f" of kind {', '.join(kind)}" if kind else "") + ".")
        end_stage(lambda quiet: project.annotate(quiet, **how), as_json, workspace, "distill")


def _forecast(project: Project, batch: bool, as_json: bool, how: dict[str, Any]) -> None:
    from pipelines import terminal

    document = project.forecast(batch, **how)
    if as_json:
        terminal.emit({"forecast": document})
        return
    terminal.say(
        f"{document['pairs']:,} questions about {document['videos']:,} videos; {document['reused']:,} are answered already, "
        f"{document['dead']:,} were refused before."
    )
    if document["carried"]:
        terminal.say(f"Their answers are carried over to {document['carried']:,} more questions, about near-duplicates.")
    rows = [
        ["requests", f"{document['requests']:,}"],
        ["input tokens", f"{document['input_tokens']:,}"],
        ["of which cached", f"{document['cached_input_tokens']:,}"],
        ["output tokens", f"{document['output_tokens']:,}"],
        ["cost", f"${document['cost_usd']:,.4f}"],
        ["90 % interval", f"${document['low_usd']:,.4f} to ${document['high_usd']:,.4f}"],
    ]
    terminal.table("", ["forecast", ""], rows, right=(1,))
    terminal.say(f"From {document['basis']}. Nobody was asked.")
    if document["pairs"]:
        terminal.next_command("the same command without --dry-run, with --max-cost if you want a cap")


def _submit(project: Project, retry_failed: bool, as_json: bool) -> None:
    from pipelines import terminal
    from pipelines.batch_run import submit

    run_id, done = submit(project, retry_failed)
    if as_json:
        terminal.emit({"run_id": run_id, **done.details()})
    else:
        jobs = "1 job" if len(done.jobs) == 1 else f"{len(done.jobs)} jobs"
        terminal.say(f"{done.pairs:,} questions in {done.requests:,} requests, {jobs} ({done.adopted} found with the provider).")
        terminal.say(f"Left out: {done.answered:,} answered already, {done.in_jobs:,} in a job already.")
        if done.unwritable or done.too_large:
            terminal.say(f"{done.unwritable + done.too_large:,} questions fit no job and are asked directly at the next collect.")
        if done.problem:
            terminal.say(f"{done.not_handed_over} jobs could not be handed over: {done.problem}. Submit again later.")
        config = project.annotator_config
        line = {"annotator": config.kind, "model": config.model.name, "workspace": project.workspace_path}
        terminal.next_command(terminal.command("annotate", **line, batch_jobs="status"))
    raise typer.Exit(int(bool(done.problem)))


def _status(project: Project, patience_s: float, as_json: bool) -> None:
    from pipelines import terminal
    from pipelines.batch_jobs import jobs_table
    from pipelines.batch_run import status

    jobs = status(project, patience_s)
    if as_json:
        terminal.emit({"jobs": [job.as_dict() for job in jobs]})
        return
    if not jobs:
        terminal.say(f"No batch job in {project.workspace_path}.")
        return
    terminal.table("", *jobs_table(jobs))
