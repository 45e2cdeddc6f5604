"""`vidattr videos` and `vidattr sample`: what comes in."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.commands.options import Json, Roots

app = typer.Typer(no_args_is_help=True, help="Manifests of videos.")


@app.command()
def check(
    videos: Annotated[str, typer.Argument(help="Manifest (.jsonl, .csv, .parquet), a folder, or a glob; local or gs://.")],
    root: Roots = None,
    as_json: Json = False,
) -> None:
    """Read a manifest through and say what is wrong with it: the row, the field, the remedy. Opens no video."""
    from features.videos.manifest import check_manifest
    from pipelines import terminal

    report = check_manifest(videos, tuple(root or ()))
    wrong = bool(report.problems or report.duplicates)
    if as_json:
        terminal.emit(
            {
                "rows": report.rows,
                "usable": len(report.videos),
                "problems": list(report.problems),
                "duplicates": list(report.duplicates),
                "notes": list(report.notes),
            }
        )
    else:
        for sentence in (*report.problems, *report.duplicates, *report.notes):
            terminal.say(sentence)
        terminal.say(f"{len(report.videos)} of {report.rows} rows can be used.")
        if not wrong:
            terminal.next_command(terminal.command("run", videos=videos))
    raise typer.Exit(2 if wrong else 0)


def sample(
    folder: Annotated[str, typer.Argument(help="A new folder, or one that holds an earlier sample.")],
    count: Annotated[int, typer.Option(min=60, max=5000, help="How many videos.")] = 64,
    seed: Annotated[int, typer.Option(help="The same seed gives the same corpus.")] = 0,
    as_json: Json = False,
) -> None:
    """Write a corpus of short videos made by code, with titles, sound, captions, and the truth of what was put in."""
    from features.videos.sample import write_sample
    from pipelines import terminal

    done = {"annotated": 0}

    def advance(number: int, total: int) -> None:
        done["annotated"] = number

    with terminal.progress("sample", count, lambda: done, as_json):
        report = write_sample(folder, count, seed, advance)
    if as_json:
        terminal.emit(vars(report))
    else:
        terminal.say(f"{report.count} videos in {report.folder}, the truth about them in {report.truth}")
        terminal.next_command(terminal.command("run", videos=report.manifest))
