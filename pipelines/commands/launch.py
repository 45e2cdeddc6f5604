"""`vidattr launch`: a stage as a Dataflow job."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.commands.model_options import PROMPT_ONLY, with_model_options
from pipelines.commands.options import DEFAULT_FEATURE_REPO, AnnotatorKind, BeamArgs, Golden, Json, Roots
from pipelines.commands.stages import EachDuplicate, OnlyAttributes

if TYPE_CHECKING:
    from pipelines.launch import Graph
    from pipelines.launch_check import Check
    from pipelines.launch_plan import LaunchConfig, Plan

OF_A_JOB = PROMPT_ONLY | {
    *("name", "base_url", "api_key_env", "api_key_file", "location", "timeout_s", "temperature", "max_output_tokens"),
    *("thinking_budget", "structured", "logprobs", "clips", "safety"),
    *("in_flight", "max_requests_per_minute", "max_tokens_per_minute", "max_cost", "max_tokens", "attempts", "outage_patience_s"),
    *("prices", "answers", "fallback_annotator", "fallback_name", "fallback_base_url", "fallback_api_key_env", "options"),
}
"""All model options but --project, which names the job's own; with --location it is Vertex AI's too."""


def _launch(
    stage: Annotated[str, typer.Argument(help="extract, annotate or score; the other stages stay on one machine.")],
    on: Annotated[str, typer.Option("--on", help="Where: dataflow.")] = "dataflow",
    project: Annotated[str, typer.Option("--project", help="Id of the Google Cloud project.")] = "",
    region: Annotated[str, typer.Option("--region", help="Such as europe-west1; the bucket's own, if you can.")] = "",
    bucket: Annotated[str, typer.Option("--bucket", help="gs://NAME for staging, temporary files and the workspace.")] = "",
    videos: Annotated[str, typer.Option("--videos", "-v", help="Manifest, folder or glob on gs://; annotate: only these.")] = "",
    root: Roots = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try dead letters again although nothing about them changed.")
    ] = False,
    feature_repo: Annotated[
        str, typer.Option("--feature-repo", envvar="VIDATTR_FEATURE_REPO", help="Folder with attributes/*.yaml and golden/*.csv.")
    ] = DEFAULT_FEATURE_REPO,
    attribute: OnlyAttributes = None,
    each_duplicate: EachDuplicate = False,
    annotator: AnnotatorKind = None,
    golden: Golden = "",
    workspace: Annotated[str, typer.Option("--workspace", "-w", help="gs://BUCKET/FOLDER; default: vidattr in the bucket.")] = "",
    container: Annotated[str, typer.Option("--container", help="Worker image built from deploy/Dockerfile.")] = "",
    machine_type: Annotated[str, typer.Option("--machine-type", help="Of a worker.")] = "e2-standard-4",
    max_workers: Annotated[int, typer.Option("--max-workers", help="Most workers at the same time.")] = 10,
    num_workers: Annotated[int, typer.Option("--num-workers", help="Workers to begin with; 0: Dataflow decides.")] = 0,
    service_account: Annotated[str, typer.Option("--service-account", help="E-mail of the account that the workers act as.")] = "",
    network: Annotated[str, typer.Option("--network", help="Network of the workers.")] = "",
    subnetwork: Annotated[str, typer.Option("--subnetwork", help="Subnetwork of the workers.")] = "",
    job_name: Annotated[str, typer.Option("--job-name", help="Default: vidattr-STAGE-RUN.")] = "",
    label: Annotated[list[str] | None, typer.Option("--label", help="name=value, for billing reports. Repeatable.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Stop once the job graph is built; needs no network.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the job's end; exit with 1 when it fails.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before starting.")] = False,
    as_json: Json = False,
    beam_args: BeamArgs = None,
    model_flags: Any = None,
) -> None:
    """Run a stage on Dataflow: checks, a plan in words, then the job. It goes on when this command has ended.

    Example: vidattr launch extract --project P --region europe-west1 --bucket gs://B --videos gs://B/manifest.jsonl --dry-run

    annotate needs answers in Redis (--answers redis://HOST:PORT), an image (--container) and a key that workers can read
    (--api-key-file gs://..., or --location for Vertex AI in --project). The options about a model are for annotate alone.
    """
    from features.errors import InvalidInput
    from features.workspace import Workspace
    from pipelines import launch_plan, terminal
    from pipelines.launch_annotate import answers_check

    if on != "dataflow":
        raise InvalidInput(f"--on {on!r} is not supported: write --on dataflow, or see docs/flink.md for Beam's other runners")
    config = launch_plan.LaunchConfig(
        stage=stage,  # type: ignore[arg-type]
        project=project,
        region=region,
        bucket=bucket,
        videos=videos,
        roots=tuple(root or ()),
        retry_failed=retry_failed,
        workspace=workspace,
        container=container,
        machine_type=machine_type,
        max_workers=max_workers,
        num_workers=num_workers,
        service_account=service_account,
        network=network,
        subnetwork=subnetwork,
        job_name=job_name,
        labels=tuple(label or ()),
        beam_args=tuple(beam_args or ()),
    )
    asks = stage == "annotate"
    if not asks:
        given = {"annotator": annotator, "golden": golden, "attribute": attribute, "each-duplicate": each_duplicate}
        _refuse_model_options(stage, {**model_flags, **given})
    flags = {"annotator": annotator, "golden_folder": golden, "attributes": tuple(attribute or ()), "model_flags": model_flags}
    flags["each_duplicate"] = each_duplicate
    if asks and dry_run:
        with tempfile.TemporaryDirectory() as nothing:  # its settings are the defaults: the workspace's own are not read
            config = _asking(config, nothing, feature_repo, flags)
    if asks and not dry_run:  # the workspace's settings say who is asked, once it may be read
        found = launch_plan.place_checks(config)
        if model_flags.get("answers"):
            found.append(answers_check(model_flags["answers"]))
    else:
        found = launch_plan.checks(config)
    launch_plan.require(found)
    if stage == "score":
        config = _with_definitions(config, feature_repo)
    logging.getLogger().setLevel(logging.ERROR)  # Beam warns of everything it guesses; what matters is raised.
    logging.getLogger("apache_beam.runners.dataflow").setLevel(logging.CRITICAL + 1)  # It logs what it raises, too.
    if not dry_run:
        access = launch_plan.access(config)
        launch_plan.require(access)
        if asks:
            config = _asking(config, config.workspace, feature_repo, flags)
        else:
            from pipelines.configuration import load_configuration

            config = replace(config, settings=load_configuration(Workspace(config.workspace)))
            if stage == "extract" and config.settings and config.settings.parts == "evidence":
                config = _with_definitions(config, feature_repo)
        found = [*launch_plan.checks(config), *access]
        launch_plan.require(found)
    words = launch_plan.plan(config)
    document: dict[str, Any] = {
        "stage": stage,
        "job_name": config.job_name,
        "run_id": config.run_id,
        "project": config.project,
        "region": config.region,
        "bucket": f"gs://{config.bucket}",
        "workspace": config.workspace,
        "dry_run": dry_run,
        "checks": [asdict(check) for check in found],
        "plan": list(words.sentences),
        "reads": list(words.reads),
        "writes": list(words.writes),
    }
    if not as_json:
        _show(found, words)
    from pipelines import launch as launching

    if dry_run:
        graph = launching.build_graph(config)
        if as_json:
            terminal.emit({**document, **asdict(graph)})
        else:
            _show_graph(graph)
        return
    if not as_json and not yes and sys.stdin.isatty() and not typer.confirm("Start the job?"):
        terminal.say("Not started.")
        raise typer.Exit(1)
    job = launching.submit(config)
    document |= {"job_id": job.job_id, "console_url": job.console_url, "follow": job.follow}
    if not as_json:
        terminal.say(f"\nJob {job.job_id} is started and goes on without this machine: {job.console_url}")
    code, show_run = 0, terminal.command("runs show", config.run_id, workspace=config.workspace)
    if wait:
        from pipelines.project import exit_code

        try:
            record = launching.wait(job, Workspace(config.workspace))
            document["record"], code = record.as_dict(), exit_code(record)
        except KeyboardInterrupt:
            terminal.tell(f"vidattr: no longer waiting; job {job.job_id} goes on")
            document["interrupted"], code = True, 130
    if as_json:
        terminal.emit(document)
    elif "record" in document:
        counts = terminal.counts_line("videos", document["record"]["counts"])
        terminal.table("", ["", "in", "done", "of which reused", "dead-lettered", "pending"], [counts], right=range(1, 6))
        terminal.next_command(show_run)
    else:
        terminal.say(f"When it is done: {show_run}")
        terminal.next_command(job.follow)
    raise typer.Exit(code)


launch = with_model_options(_launch, OF_A_JOB)


def _refuse_model_options(stage: str, given: Mapping[str, Any]) -> None:
    from features.errors import InvalidInput

    named = sorted(name for name, value in given.items() if value)
    if named:
        raise InvalidInput(f"{stage} asks no annotator: leave out the options about {', '.join(named)}, which are for annotate")


def _with_definitions(config: LaunchConfig, feature_repo: str) -> LaunchConfig:
    from features.attributes.loading import load_definitions

    return replace(config, definitions=load_definitions(os.path.join(feature_repo, "attributes")))


def _asking(config: LaunchConfig, settings: str, feature_repo: str, flags: Mapping[str, Any]) -> LaunchConfig:
    """With who is asked, and what about: by the flags, and the vidattr.yaml in a folder."""
    from pipelines.project import Project

    project = Project(settings, feature_repo, **flags)
    asked = {"definitions": project.asked, "golden": project.golden, "annotator": project.annotator_config}
    return replace(config, settings=project.configuration, **asked)


def _show(found: list[Check], words: Plan) -> None:
    from pipelines import terminal

    marks = {"ok": "ok", "warning": "!", "failed": "x"}
    terminal.table("", ["", "checked"], [[marks[check.state], check.sentence] for check in found])
    for check in found:
        if check.remedy:
            terminal.say(f"! {check.sentence}: {check.remedy}")
    terminal.say("\nPlan")
    for sentence in words.sentences:
        terminal.say(f"  {sentence}")


def _show_graph(graph: Graph) -> None:
    from pipelines import terminal

    terminal.table("\nOptions", ["", ""], list(graph.options.items()))
    terminal.say(f"\nContainer {graph.container}; staged: {', '.join(graph.staged) or 'nothing'}")
    terminal.say(f"Steps: {', '.join(graph.steps)}")
    terminal.say("Nothing was started. The same command without --dry-run starts the job.")
