"""`vidattr answers`: what was ever answered and paid for."""

from __future__ import annotations

import itertools
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.commands.options import DEFAULT_FEATURE_REPO, DEFAULT_WORKSPACE, FeatureRepo, Json, WorkspacePath

if TYPE_CHECKING:
    from features.annotators.protocol import Usage

app = typer.Typer(no_args_is_help=True, help="The answers store: every answer that was ever paid for, and what runs have spent.")

Location = Annotated[
    str,
    typer.Option(
        "--answers",
        help="An sqlite file, or redis://HOST:PORT/DB?prefix=PREFIX (the last two may be left out); its password goes into "
        "VIDATTR_REDIS_PASSWORD. "
        "Default: answers.sqlite of the workspace.",
    ),
]
Model = Annotated[str, typer.Option("--model", help="Only answers of this model, as `answers stats` spells it.")]
Attribute = Annotated[str, typer.Option("--attribute", "-a", help="Only answers to this attribute.")]


@app.command()
def stats(
    workspace: WorkspacePath = DEFAULT_WORKSPACE,
    answers: Location = "",
    model: Model = "",
    attribute: Attribute = "",
    as_json: Json = False,
) -> None:
    """Answers by model, prompt and attribute, what they cost and when they were given, and what each run has paid."""
    from features.annotators.answers import Selection
    from features.workspace import Workspace
    from pipelines import terminal
    from pipelines.answers import Watched, answers_at

    store = answers_at(Workspace(workspace), answers)
    if store is None:
        _none(workspace, as_json)
        return
    with Watched("adding up", quiet=as_json).told():
        found = store.stats(Selection(model, attribute))
    number, cost = sum(group.answers for group in found.groups), sum(group.usage.cost_usd for group in found.groups)
    paid = sum(usage.cost_usd for usage in found.spent.values())
    if as_json:
        terminal.emit(
            {
                "location": store.location,
                "answers": number,
                "cost_usd": cost,
                "spent_usd": paid,
                "size_bytes": found.size_bytes,
                "groups": [
                    {
                        "model": group.model,
                        "prompt": group.prompt,
                        "attribute": group.attribute,
                        "answers": group.answers,
                        **_tokens(group.usage),
                        "since": _time(group.since),
                        "until": _time(group.until),
                    }
                    for group in found.groups
                ],
                "runs": [{"run_id": run_id, "requests": usage.requests, **_tokens(usage)} for run_id, usage in found.spent.items()],
                "notes": list(found.notes),
            }
        )
        return
    terminal.table(
        f"Answers in {store.location}",
        ["model", "prompt", "attribute", "answers", "input tokens", "cached", "output", "$", "since", "until"],
        [
            [group.model, group.prompt, group.attribute, group.answers, *_cells(group.usage), _day(group.since), _day(group.until)]
            for group in found.groups
        ],
        right=range(3, 8),
    )
    if found.spent:
        terminal.table(
            "\nWhat runs have paid, rejected replies and refusals included",
            ["run", "requests", "input tokens", "cached", "output", "$"],
            [[run_id or "(no run)", usage.requests, *_cells(usage)] for run_id, usage in found.spent.items()],
            right=range(1, 6),
        )
    terminal.say(
        f"\n{number:,} answers that cost ${cost:,.4f}; runs have paid ${paid:,.4f}; {found.size_bytes / 1e6:,.1f} MB"
        + (" of memory in use by Redis." if "://" in store.location else " on disk.")
    )
    for sentence in found.notes:
        terminal.say(f"Note: {sentence}.")
    terminal.next_command(
        terminal.command("answers export", "answers.jsonl", workspace=workspace, answers=answers and store.location)
    )


@app.command()
def export(
    file: Annotated[str, typer.Argument(help="FILE.jsonl or FILE.parquet; what is there is replaced.")],
    workspace: WorkspacePath = DEFAULT_WORKSPACE,
    answers: Location = "",
    model: Model = "",
    attribute: Attribute = "",
    form: Annotated[
        str, typer.Option("--format", help="full: every field; replay: a recording for --annotator replay, one answer a pair.")
    ] = "full",
    newest: Annotated[bool, typer.Option("--newest", help="Of several answers to a video and attribute only the last.")] = False,
    as_json: Json = False,
) -> None:
    """Write answers to a file, as JSON lines or Parquet.

    A recording (--format replay) answers again without a model: --annotator replay. Videos of the same content share an answer;
    it carries the id of the one that was asked about first.
    """
    from features.annotators.answers import Selection
    from features.annotators.answers_export import check_export
    from features.annotators.answers_export import export as write
    from features.errors import InvalidInput
    from features.workspace import Workspace
    from pipelines import terminal
    from pipelines.answers import Watched, answers_at, unknown

    if form not in ("full", "replay"):
        raise InvalidInput(f"--format {form!r}: choose full or replay")
    check_export(file, form)  # type: ignore[arg-type]
    store = answers_at(Workspace(workspace), answers)
    if store is None:
        raise InvalidInput(f"no answers in {workspace} yet: run `vidattr annotate` first, or name them with --answers")
    selection = Selection(model, attribute)
    countable = "://" not in store.location and not (model or attribute)  # elsewhere counting takes as long as exporting
    watched = Watched("exporting", len(store) if countable else 0, as_json)
    with watched.told():
        rows = watched.each(store.rows(selection))
        first = list(itertools.islice(rows, 1))
        if not first:
            raise InvalidInput(unknown(store, selection))
        number = write(itertools.chain(first, rows), file, form, newest)  # type: ignore[arg-type]
    if as_json:
        terminal.emit({"file": file, "format": form, "answers": number})
        return
    terminal.say(f"{number:,} answers are in {file}.")
    if form == "replay":
        terminal.next_command(terminal.command("annotate", annotator="replay", recording=file, workspace=workspace))


@app.command()
def prune(
    workspace: WorkspacePath = DEFAULT_WORKSPACE,
    feature_repo: FeatureRepo = DEFAULT_FEATURE_REPO,
    answers: Location = "",
    model: Model = "",
    attribute: Attribute = "",
    before: Annotated[str, typer.Option("--before", metavar="DATE", help="Only answers given before it, UTC: 2026-03-31.")] = "",
    orphaned: Annotated[
        bool,
        typer.Option(
            "--orphaned",
            help="Only answers that nobody asks for any more: to a definition that was edited or removed, or about a video whose "
            "bytes or text changed. Not for a store that other workspaces share.",
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without it nothing is changed.")] = False,
    as_json: Json = False,
) -> None:
    """Forget answers: what is asked again later is paid for again. Says how many and what they had cost, and does it with --yes."""
    from features.annotators.answers import Selection
    from features.attributes.loading import load_definitions
    from features.errors import InvalidInput
    from features.workspace import Workspace
    from pipelines import terminal
    from pipelines.answers import Asked, Watched, answers_at, unknown
    from pipelines.answers import prune as forget

    if not (model or attribute or before or orphaned):
        raise InvalidInput("say which answers to forget: --model, --attribute, --before or --orphaned")
    selection = Selection(model, attribute, _seconds(before))
    place = Workspace(workspace)
    store = answers_at(place, answers)
    if store is None:
        _none(workspace, as_json)
        return
    watched = Watched("looked at", quiet=as_json)
    with watched.told():
        asked = Asked(place, load_definitions(os.path.join(feature_repo, "attributes"))) if orphaned else None
        number, paid = forget(store, selection, asked, yes, watched.seen)
    if not watched.count and (model or attribute):
        raise InvalidInput(unknown(store, selection))
    if as_json:
        terminal.emit({"location": store.location, "answers": number, **_tokens(paid), "deleted": yes})
        return
    cost = f"{number:,} answers that had cost ${paid.cost_usd:,.4f} and {paid.input_tokens + paid.output_tokens:,} tokens"
    if yes:
        terminal.say(f"Forgot {cost}. The space is used for new answers.")
        return
    terminal.say(f"Would forget {cost}. Nothing was changed.")
    if number:
        shown = answers and store.location  # without its password
        options = {"model": model, "attribute": attribute, "before": before, "workspace": workspace, "answers": shown}
        flags = " --orphaned" if orphaned else ""
        repo = feature_repo if orphaned and feature_repo != DEFAULT_FEATURE_REPO else ""
        terminal.next_command(terminal.command("answers prune", **options, feature_repo=repo) + f"{flags} --yes")


def _none(workspace: str, as_json: bool) -> None:
    from pipelines import terminal

    if as_json:
        terminal.emit({"location": None, "answers": 0})
        return
    terminal.say(f"No answers in {workspace} yet.")
    terminal.next_command(terminal.command("annotate", workspace=workspace))


def _seconds(date: str) -> float:
    """Seconds since 1970 of a date or a time, UTC unless it says otherwise; 0 for none."""
    from features.errors import InvalidInput

    if not date:
        return 0.0
    try:
        moment = datetime.fromisoformat(date)
    except ValueError as error:
        raise InvalidInput(f"--before {date!r} is no date: write it as 2026-03-31, or 2026-03-31T18:00") from error
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if seconds <= 0:
        raise InvalidInput(f"--before {date!r} is before all answers: write a date after 1970-01-01")
    return seconds


def _time(seconds: float) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds else None


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}" if seconds else "-"


def _tokens(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
        "cost_usd": usage.cost_usd,
    }


def _cells(usage: Usage) -> list[object]:
    counts = (usage.input_tokens, usage.cached_input_tokens, usage.output_tokens)
    return [*(f"{count:,}" for count in counts), f"{usage.cost_usd:.4f}"]
