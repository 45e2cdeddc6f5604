"""`vidattr launch`: a stage as a Dataflow job."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.commands.options import DEFAULT_FEATURE_REPO, BeamArgs, Json, Roots

if TYPE_CHECKING:
    from pipelines.launch import Graph
    from pipelines.launch_plan import Check, Plan


def launch(
    stage: Annotated[str, typer.Argument(help="extract or score; the other stages stay on one machine.")],
    on: Annotated[str, typer.Option("--on", help="Where: dataflow.")] = "dataflow",
    project: Annotated[str, typer.Option("--project", help="Id of the Google Cloud project.")] = "",
    region: Annotated[str, typer.Option("--region", help="Such as europe-west1; the bucket's own, if you can.")] = "",
    bucket: Annotated[str, typer.Option("--bucket", help="gs://NAME for staging, temporary files and the workspace.")] = "",
    videos: Annotated[str, typer.Option("--videos", "-v", help="Manifest, folder or glob on gs://, for extract.")] = "",
    root: Roots = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try dead letters again although nothing about them changed.")
    ] = False,
    feature_repo: Annotated[
        str, typer.Option("--feature-repo", envvar="VIDATTR_FEATURE_REPO", help="Folder with attributes/*.yaml, for score.")
    ] = DEFAULT_FEATURE_REPO,
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
) -> None:
    """Run a stage on Dataflow: checks, a plan in words, then the job. It goes on when this command has ended.

    Example: vidattr launch extract --project P --region europe-west1 --bucket gs://B --videos gs://B/manifest.jsonl --dry-run
    """
    from dataclasses import asdict, replace

    from features.errors import InvalidInput
    from features.workspace import Workspace
    from pipelines import launch_plan, terminal

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
    found = launch_plan.checks(config)
    launch_plan.require(found)
    if stage == "score":
        from features.attributes.loading import load_definitions

        config = replace(config, definitions=load_definitions(os.path.join(feature_repo, "attributes")))
    logging.getLogger().setLevel(logging.ERROR)  # Beam warns of everything it guesses; what matters is raised.
    logging.getLogger("apache_beam.runners.dataflow").setLevel(logging.CRITICAL + 1)  # It logs what it raises, too.
    if not dry_run:
        access = launch_plan.access(config)
        launch_plan.require(access)
        from pipelines.configuration import load_configuration

        config = replace(config, settings=load_configuration(Workspace(config.workspace)))
        found = [*launch_plan.checks(config), *access]
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
