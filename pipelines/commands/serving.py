"""`vidattr register` and `vidattr get`: into the feature store, and out of it."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.commands.options import DEFAULT_FEATURE_REPO, DEFAULT_WORKSPACE, FeatureRepo, Json, WorkspacePath

OnlineStore = Annotated[str | None, typer.Option("--online-store", help="sqlite, or redis://HOST:PORT.")]


def register(
    workspace: WorkspacePath = DEFAULT_WORKSPACE,
    feature_repo: FeatureRepo = DEFAULT_FEATURE_REPO,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")] = False,
    retire: Annotated[bool, typer.Option("--retire", help="Also retire attributes whose definition is gone.")] = False,
    online_store: OnlineStore = None,
    as_json: Json = False,
) -> None:
    """Bring the feature store in line with attributes/*.yaml: shows what is added, changed, retired and asked again, then does it.

    A change of what a stored number means (boolean to score, other labels, another range) is refused: add it under a new name.
    """
    from pipelines import registration, terminal
    from pipelines.project import Project

    project = Project(workspace, feature_repo=feature_repo, online_store=online_store)
    plan = registration.register(project.workspace, project.definitions, project.configuration.online_store, retire, dry_run)
    if as_json:
        terminal.emit(registration.plan_document(plan, dry_run))
        return
    for sentence in plan.sentences():
        terminal.say(sentence)
    if dry_run:
        terminal.say("Nothing was changed (--dry-run).")
        terminal.next_command(terminal.command("register", workspace=workspace))
    else:
        terminal.next_command(terminal.command("annotate", workspace=workspace))


def get(
    video_ids: Annotated[list[str], typer.Argument(metavar="VIDEO_ID...", help="One or more video ids.")],
    workspace: WorkspacePath = DEFAULT_WORKSPACE,
    online_store: OnlineStore = None,
    as_json: Json = False,
) -> None:
    """Fetch attributes from the online store, each with its source: gold, adjudicated, llm, baseline or student."""
    from datetime import timedelta

    from features import storage
    from features.errors import InvalidInput
    from features.serving.online import OnlineAttributes
    from pipelines import terminal
    from pipelines.lookup import described, row_of
    from pipelines.project import Project

    project = Project(workspace, online_store=online_store)
    if not storage.exists(project.workspace.local_path("feast", "registry.db")):
        first = terminal.command("run", videos="MANIFEST", workspace=workspace)
        raise InvalidInput(f"{workspace}: no feature store here; run `{first}` first")
    settings = project.configuration
    age = timedelta(days=settings.max_age_days) if settings.max_age_days else None
    online = OnlineAttributes(project.workspace, age, settings.online_store)
    found = described(online.get(video_ids), online.registration)
    if as_json:
        terminal.emit({"videos": found})
    else:
        rows = [row_of(video_id, name, cell) for video_id, cells in found.items() for name, cell in cells.items()]
        terminal.table("", ["video", "attribute", "value", "", "source", "annotated (UTC)", ""], rows, right=[2])
        runs = terminal.command("runs list", workspace=workspace)
        for video_id, cells in found.items():
            if not any(cell["present"] for cell in cells.values()):
                terminal.say(f"{video_id}: nothing online; was it in a run of this workspace? See `{runs}`.")
    raise typer.Exit(0 if all(any(cell["present"] for cell in cells.values()) for cells in found.values()) else 1)
