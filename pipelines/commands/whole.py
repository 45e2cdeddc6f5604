"""`vidattr run`: every stage in order."""

from __future__ import annotations

from typing import Annotated, Any

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
    Videos,
    WorkspacePath,
)
from pipelines.commands.stages import EachDuplicate, OnlyAttributes, RetryFailed


@with_model_options
def run(
    videos: Videos,
    workspace: WorkspacePath = DEFAULT_WORKSPACE,
    feature_repo: FeatureRepo = DEFAULT_FEATURE_REPO,
    root: Roots = None,
    priority: Annotated[
        str,
        typer.Option("--priority", help="Manifest of the videos that the annotator is asked about; the student covers the rest."),
    ] = "",
    attribute: OnlyAttributes = None,
    annotator: AnnotatorKind = None,
    recording: Recording = "",
    online_store: Annotated[str | None, typer.Option("--online-store", help="sqlite, or redis://HOST:PORT.")] = None,
    retry_failed: RetryFailed = False,
    each_duplicate: EachDuplicate = False,
    call_log: CallLog = "",
    golden: Golden = "",
    as_json: Json = False,
    beam_args: BeamArgs = None,
    model_flags: Any = None,
) -> None:
    """From videos to attributes online: register, extract, group near-duplicates, annotate, distil, score, materialise, report.

    Run it again at any time: what is done is not done again. Ctrl-C stops cleanly and leaves the rest pending.
    """
    from pipelines import stopping, terminal
    from pipelines.project import Project
    from pipelines.whole import run_all

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
        online_store=online_store,
        priority=priority,
        each_duplicate=each_duplicate,
        model_flags=model_flags,
        beam_args=tuple(beam_args or ()),
    )
    with stopping.on_interrupt():
        whole = run_all(project, retry_failed, as_json, (lambda sentence: None) if as_json else terminal.say)
    record = whole.record
    if as_json:
        terminal.emit(
            {
                **record.as_dict(),
                "stages": {stage.stage: stage.as_dict() for stage in whole.stages},
                "report": whole.report,
                "next": whole.next_command,
            }
        )
    else:
        assert record.pair_counts is not None
        terminal.say("")
        terminal.table(
            "",
            ["", "in", "annotated", "of which reused", "dead-lettered", "pending"],
            [
                terminal.counts_line("videos", record.counts.as_dict()),
                terminal.counts_line("(video, attribute) pairs", record.pair_counts.as_dict()),
            ],
            right=range(1, 6),
        )
        terminal.say("")
        terminal.table(
            "",
            ["stage", "seconds", "in", "done", "of which reused", "dead-lettered", "pending"],
            [
                [
                    stage.stage,
                    f"{record.timings[stage.stage]:.1f}",
                    stage.counts.into,
                    stage.counts.annotated,
                    stage.counts.reused,
                    stage.counts.dead_lettered,
                    stage.counts.pending,
                ]
                for stage in whole.stages
            ],
            right=range(1, 7),
        )
        memory = record.peak_memory_bytes / 2**30
        terminal.say(f"\n{record.timings['total']:.0f} s, peak memory {memory:.1f} GiB, cost ${record.cost_usd:.2f}")
        terminal.say(f"Report: {whole.report}")
        terminal.next_command(whole.next_command)
    raise typer.Exit(whole.exit_code)
