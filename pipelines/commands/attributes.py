"""`vidattr attributes`: definitions, before they are asked."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import typer

from pipelines.commands.model_options import OF_TRIALS, with_model_options
from pipelines.commands.options import DEFAULT_FEATURE_REPO, AnnotatorKind, FeatureRepo, Json, Roots, Videos

app = typer.Typer(no_args_is_help=True, help="Definitions of attributes: check, start, look at, try out.")


@app.command()
def check(feature_repo: FeatureRepo = DEFAULT_FEATURE_REPO, as_json: Json = False) -> None:
    """Read every definition and the Golden Set, and say what is wrong with which line."""
    from pipelines import terminal
    from pipelines.project import Project

    project = Project("", feature_repo=feature_repo)
    definitions, golden = project.definitions, project.golden
    labels = {definition.name: sum(row.attribute == definition.name for row in golden) for definition in definitions}
    if as_json:
        terminal.emit({"attributes": [_document(definition) for definition in definitions], "golden": labels})
        return
    terminal.table(
        "",
        ["attribute", "type", "stage", "owner", "golden labels", "definition"],
        [[d.name, d.value_signature, d.stage, d.owner, labels[d.name], d.definition_hash[:8]] for d in definitions],
        right=[4],
    )
    terminal.next_command(terminal.command("register", feature_repo=_other(feature_repo)))


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Lower-case letters, digits and _, such as `nostalgic`.")],
    feature_repo: FeatureRepo = DEFAULT_FEATURE_REPO,
    as_json: Json = False,
) -> None:
    """Write a definition to start from, with comments that explain each field."""
    import os

    from features import storage
    from features.attributes.loading import template
    from features.errors import InvalidInput
    from pipelines import terminal

    text = template(name)
    path = os.path.join(feature_repo, "attributes", f"{name}.yaml")
    if os.path.exists(path):
        raise InvalidInput(f"{path} is there already: edit it, or choose another name")
    storage.write_bytes(os.path.abspath(path), text.encode())
    if as_json:
        terminal.emit({"path": path})
        return
    terminal.say(f"Wrote {path}: open it and say what counts and what does not.")
    terminal.next_command(terminal.command("attributes try", path, videos="MANIFEST"))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="An attribute of the repository.")],
    feature_repo: FeatureRepo = DEFAULT_FEATURE_REPO,
    as_json: Json = False,
) -> None:
    """One definition, as annotators see it."""
    from pipelines import terminal
    from pipelines.project import Project

    (definition,) = Project("", feature_repo=feature_repo, attributes=(name,)).asked
    if as_json:
        terminal.emit(_document(definition))
        return
    terminal.say(f"{definition.title} ({definition.name}, {definition.value_signature}, {definition.stage}, {definition.owner})")
    terminal.say(f"\n{definition.question}\n\n{definition.definition}")
    for heading, sentences in (("Counts", definition.includes), ("Does not count", definition.excludes)):
        terminal.say(f"\n{heading}:")
        for sentence in sentences:
            terminal.say(f"  - {sentence}")
    terminal.say("\nExamples:")
    for example in definition.examples:
        terminal.say(f"  - {example.video} -> {example.value}: {example.reason}")
    terminal.say(f"\nShown: {', '.join(definition.evidence)}. Hash {definition.definition_hash}.")


@app.command("try")
@functools.partial(with_model_options, only=OF_TRIALS)
def try_out(
    file: Annotated[str, typer.Argument(metavar="FILE.yaml", help="A definition, registered or not.")],
    videos: Videos,
    root: Roots = None,
    count: Annotated[int, typer.Option(min=1, max=50, help="How many videos.")] = 5,
    report: Annotated[str, typer.Option(help="Where the page with frames goes; default: beside the definition's name here.")] = "",
    annotator: AnnotatorKind = None,
    as_json: Json = False,
    model_flags: Any = None,
) -> None:
    """Ask about a few videos and show frames and reasons. Nothing is stored but the page you look at."""
    import os

    from pipelines import terminal
    from pipelines.configuration import Configuration, with_flags
    from pipelines.trial import try_definition

    page = os.path.abspath(report or f"{os.path.splitext(os.path.basename(file))[0]}-trial.html")
    settings = with_flags(Configuration(), {"annotator": annotator, **model_flags})
    trial = try_definition(file, videos, tuple(root or ()), count, page, settings)
    if as_json:
        terminal.emit(trial)
        return
    terminal.table(
        "",
        ["video", "answer", "probability", "reason"],
        [
            [
                row["video_id"],
                row["value"] or row["problem"],
                "" if row["probability"] is None else f"{row['probability']:.2f}",
                row["rationale"],
            ]
            for row in trial["answers"]
        ],
        right=[2],
    )
    terminal.say(f"\nFrames and reasons: {trial['report']}")
    terminal.next_command("vidattr register && vidattr annotate")


def _other(feature_repo: str) -> str:
    """A feature repository that the next command must be told; empty for the one it looks for itself."""
    return "" if feature_repo == DEFAULT_FEATURE_REPO else feature_repo


def _document(definition: object) -> dict[str, object]:
    import dataclasses

    assert dataclasses.is_dataclass(definition) and not isinstance(definition, type)
    return {**dataclasses.asdict(definition), "definition_hash": definition.definition_hash}  # type: ignore[attr-defined]
