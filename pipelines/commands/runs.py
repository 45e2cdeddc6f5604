"""`vidattr runs`: what was run, and what came of it."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.commands.options import DEFAULT_WORKSPACE, Json, WorkspacePath

app = typer.Typer(no_args_is_help=True, help="What was run in a workspace, and what came of it.")


@app.command("list")
def list_runs(workspace: WorkspacePath = DEFAULT_WORKSPACE, as_json: Json = False) -> None:
    """All runs, oldest first."""
    from features.workspace import Workspace
    from pipelines import terminal
    from pipelines.project import newest

    records = Workspace(workspace).runs()
    if as_json:
        terminal.emit({"runs": [record.as_dict() for record in records]})
        return
    if not records:
        terminal.say(f"No run in {workspace} yet.")
        terminal.next_command(terminal.command("run", videos="MANIFEST", workspace=workspace))
        return
    rows = []
    for record in records:
        counts = record.counts
        rows.append(
            [
                record.run_id,
                record.stage,
                f"{record.timings.get('total', 0):.1f}",
                counts.into,
                counts.annotated,
                counts.reused,
                counts.dead_lettered,
                counts.pending,
                f"{record.cost_usd:.2f}",
            ]
        )
    terminal.table(
        "", ["run", "stage", "seconds", "in", "done", "reused", "dead-lettered", "pending", "$"], rows, right=range(2, 9)
    )
    terminal.next_command(terminal.command("runs show", newest(records).run_id, workspace=workspace))


@app.command()
def show(
    run_id: Annotated[str, typer.Argument(help="An id from `vidattr runs list`, its beginning, or `last`.")],
    workspace: WorkspacePath = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """One run: arguments, versions, counts, timings, and its dead letters."""
    from features.errors import InvalidInput
    from features.workspace import Workspace
    from pipelines import terminal
    from pipelines.project import dead_letters, newest

    place = Workspace(workspace)
    records = place.runs()
    found = [record for record in records if record.run_id.startswith(run_id)]
    if run_id == "last" and records:
        found = [newest(records)]
    if len(found) != 1:
        see = terminal.command("runs list", workspace=workspace)
        raise InvalidInput(f"{run_id!r} names {len(found) or 'no'} run{'s' if len(found) != 1 else ''} in {workspace}: see `{see}`")
    record = found[0]
    mine = {record.run_id, *record.arguments.get("stages", ())}
    letters = list(dead_letters(place, [each for each in records if each.run_id in mine]))
    if as_json:
        terminal.emit({**record.as_dict(), "dead_letters": [vars(letter) for letter in letters]})
        return
    document = record.as_dict()
    simple = ("run_id", "stage", "started_at", "finished_at", "cost_usd", "input_tokens", "cached_input_tokens", "output_tokens")
    terminal.table("", ["", ""], [[name, document[name]] for name in simple])
    for name in ("arguments", "versions", "counts", "pair_counts", "timings", "forecast", "details"):
        if document[name]:
            terminal.table(f"\n{name}", ["", ""], list(document[name].items()))
    if letters:
        terminal.table(
            "\ndead letters",
            ["video", "stage", "attribute", "kind", "message"],
            [[letter.video_id, letter.stage, letter.attribute, letter.kind, letter.message] for letter in letters[:100]],
        )
        if len(letters) > 100:
            terminal.say(f"... and {len(letters) - 100} more: pass --json for all of them")
