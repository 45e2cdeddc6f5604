"""`vidattr doctor`: what this machine has and lacks."""

from __future__ import annotations

import typer

from pipelines.commands.options import DEFAULT_WORKSPACE, Json, WorkspacePath


def doctor(workspace: WorkspacePath = DEFAULT_WORKSPACE, as_json: Json = False) -> None:
    """Say what this machine has and lacks for vidattr, with the remedy. Exit code 1 when something needed is missing."""
    from pipelines import terminal
    from pipelines.examination import examine

    findings = examine(workspace)
    if as_json:
        terminal.emit({"findings": [vars(finding) for finding in findings]})
    else:
        marks = {"ok": "ok", "missing": "MISSING", "optional": "not there"}
        rows = [[marks[finding.state], finding.what, finding.found, finding.remedy] for finding in findings]
        terminal.table("", ["", "what", "found", "remedy"], rows)
        if all(finding.state != "missing" for finding in findings):
            terminal.next_command("vidattr sample sample/videos")
    raise typer.Exit(int(any(finding.state == "missing" for finding in findings)))
