"""The command `vidattr`."""

from __future__ import annotations

import contextlib
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer
from typer import rich_utils

import features  # noqa: F401  (sets what must be set before tensorflow and onnxruntime are imported)
from features.errors import VidattrError
from pipelines import terminal
from pipelines.commands import (
    annotate,
    answers,
    attributes,
    dev,
    doctor,
    duplicates,
    launch,
    prompt,
    runs,
    serving,
    stages,
    videos,
    weights,
    whole,
)

app = typer.Typer(
    name="vidattr",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Nuanced attributes of short videos: define, annotate in bulk, distil, serve online.\n\n"
    "Start with [bold]vidattr sample DIR[/bold], then [bold]vidattr run --videos DIR/manifest.jsonl[/bold].",
)

UsageError: type[Any] = typer.BadParameter.__mro__[1]
"""Typer's base of all mistakes in a command line, which it exports under no name of its own."""
BEAM_STEP = re.compile(r" \[while running '[^']*'\]$")
"""What Beam appends to the message of an error that it hands on."""

DAILY, STAGES, LOOK = "What you do all day", "One stage at a time", "Look and check"
app.command("run", rich_help_panel=DAILY)(whole.run)
app.command("register", rich_help_panel=DAILY)(serving.register)
app.command("launch", rich_help_panel=DAILY)(launch.launch)
app.command("get", rich_help_panel=DAILY)(serving.get)
for stage in (stages.extract, annotate.annotate, stages.distill, stages.score, stages.materialize):
    app.command(stage.__name__, rich_help_panel=STAGES)(stage)
app.add_typer(duplicates.app, name="duplicates", rich_help_panel=STAGES)
app.add_typer(attributes.app, name="attributes", rich_help_panel=LOOK)
app.add_typer(videos.app, name="videos", rich_help_panel=LOOK)
app.add_typer(runs.app, name="runs", rich_help_panel=LOOK)
app.add_typer(weights.app, name="weights", rich_help_panel=LOOK)
app.add_typer(prompt.app, name="prompt", rich_help_panel=LOOK)
app.add_typer(answers.app, name="answers", rich_help_panel=LOOK)
app.add_typer(dev.app, name="dev", rich_help_panel=LOOK)
app.command("sample", rich_help_panel=LOOK)(videos.sample)
app.command("doctor", rich_help_panel=LOOK)(doctor.doctor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits: 2 with a sentence for the user's mistake, 1 with one for a failure, 130 after Ctrl-C.

    Args:
        arguments: without the program's name; those of the process by default.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in (words[: words.index("--")] if "--" in words else words)
    try:
        with terminal.chatter_aside() if arguments is None else contextlib.nullcontext():
            code = _invoke(words, as_json)
        sys.exit(code)
    except VidattrError as error:
        _tell(BEAM_STEP.sub("", str(error)), type(error).__name__, as_json)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _tell("interrupted; what was written stays, run the same command again to go on", "Interrupted", as_json)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except Exception as error:
        traceback.print_exc()
        what = f"{type(error).__name__}: {BEAM_STEP.sub('', str(error))}"
        _tell(f"{what}. This is a fault in vidattr, not in your input: please report it.", "Fault", as_json)
        sys.exit(1)


def _invoke(words: list[str], as_json: bool) -> int:
    """Runs a command and gives its exit code; a mistake in the command line itself is told here, with the usage."""
    command = typer.main.get_command(app)
    try:
        with command.make_context("vidattr", words) as context:
            command.invoke(context)
    except typer.Exit as ended:
        return int(ended.exit_code)
    except typer.Abort:
        _tell("aborted", "Aborted", as_json)
        return 1
    except UsageError as error:
        if as_json:
            terminal.emit({"error": {"kind": "InvalidInput", "message": error.format_message()}})
        rich_utils.rich_format_error(error)
        return int(error.exit_code)
    return 0


def _tell(message: str, kind: str, as_json: bool) -> None:
    if as_json:
        terminal.emit({"error": {"kind": kind, "message": message}})
    terminal.tell(f"vidattr: {message}")


if __name__ == "__main__":
    main()
