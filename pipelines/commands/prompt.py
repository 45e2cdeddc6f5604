"""`vidattr prompt`: what a model would be sent."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.commands.model_options import OF_PROMPTS, with_model_options
from pipelines.commands.options import DEFAULT_FEATURE_REPO, DEFAULT_WORKSPACE, FeatureRepo, Golden, Json, WorkspacePath

if TYPE_CHECKING:
    from collections.abc import Sequence

    from features.annotators.prompt import PromptWriter
    from pipelines.prompting import Shown

app = typer.Typer(no_args_is_help=True, help="Prompts of model annotators.")


@app.callback()
def prompts() -> None:
    """Prompts of model annotators."""


@app.command()
@functools.partial(with_model_options, only=OF_PROMPTS)
def show(
    video: Annotated[
        list[str], typer.Option("--video", "-v", help="Id of a video with features. Repeatable: --videos-per-request packs them.")
    ],
    workspace: WorkspacePath = DEFAULT_WORKSPACE,
    feature_repo: FeatureRepo = DEFAULT_FEATURE_REPO,
    attribute: Annotated[list[str] | None, typer.Option("--attribute", "-a", help="Only this attribute. Repeatable.")] = None,
    annotator: Annotated[str, typer.Option("--annotator", help="gemini or openai. Default: the configured one, else gemini.")] = "",
    golden: Golden = "",
    save_frames: Annotated[str, typer.Option("--save-frames", help="Write the stills that would be sent to this folder.")] = "",
    body: Annotated[bool, typer.Option("--body", help="Print the body of the HTTP request, pictures shortened.")] = False,
    as_json: Json = False,
    model_flags: Any = None,
) -> None:
    """Print exactly what would be sent about a video, with its tokens and price. Nothing is sent and no key is needed.

    What vidattr.yaml says about model and prompt holds here too. A price is shown for models of the price table; tokens are
    estimates.
    """
    from dataclasses import replace

    from features.annotators.chain import DEFAULT_MODEL, MODEL_KINDS
    from features.annotators.prompt import PromptWriter
    from features.errors import InvalidInput
    from pipelines import prompting, terminal
    from pipelines.project import Project

    project = Project(
        workspace,
        feature_repo,
        attributes=tuple(attribute or ()),
        annotator=annotator or None,
        golden_folder=golden,
        model_flags=model_flags,
    )
    configured = project.configuration
    if not annotator:
        annotator = configured.annotator if configured.annotator in MODEL_KINDS else "gemini"
    if annotator not in MODEL_KINDS:
        raise InvalidInput(f"--annotator {annotator!r} sends no prompt: choose one of {', '.join(MODEL_KINDS)}")
    rated: Sequence[object] = ()
    if configured.prompt.examples:
        from pipelines.annotators import golden_examples

        rated = golden_examples(project.workspace, project.golden)
    model_settings = replace(configured.model, name=configured.model.name or DEFAULT_MODEL[annotator])
    writer = PromptWriter(configured.prompt, model_settings, rated, project.asked)  # type: ignore[arg-type]
    found = prompting.shown(writer, prompting.find_videos(project.workspace, video), project.asked, configured.prices)
    paths = prompting.save_frames([each.prompt for each in found], save_frames) if save_frames else []
    bodies = [prompting.request_body(each.prompt, annotator, model_settings) for each in found] if body else []
    if as_json:
        terminal.emit(
            {
                "annotator": annotator,
                "model": model_settings.name,
                "prompt": writer.version,
                "parameters": writer.parameters,
                "requests": [prompting.document(each, writer) for each in found],
                "frames": paths,
                **({"bodies": bodies} if body else {}),
            }
        )
        return
    if body:
        import json

        for each in bodies:
            terminal.say(json.dumps(each, indent=1, ensure_ascii=False))
        return
    _tell(found, writer, model_settings.name)
    for path in paths:
        terminal.say(f"wrote {path}")


def _tell(found: Sequence[Shown], writer: PromptWriter, model: str) -> None:
    """Prints the prompts; what a request shares with the one before is printed once."""
    import json

    from pipelines import prompting, terminal

    before: list[str] = []
    for number, each in enumerate(found, 1):
        prompt = each.prompt
        names = ", ".join(f"{short} = {video_id}" for short, video_id in prompt.ids)
        asked = ", ".join(definition.name for definition in each.request.definitions)
        terminal.say(f"=== Request {number} of {len(found)}: {names}; {asked}")
        parts = list(prompting.said(prompt, writer))
        shared = 0
        while shared < min(len(before), len(parts)) and before[shared] == parts[shared][1]:
            shared += 1
        if shared:
            terminal.say(f"--- the first {shared} parts are those of the request before")
        for role, words, tokens, _ in parts[shared:]:
            terminal.say(f"--- {role}, about {tokens:,} tokens")
            terminal.say(words)
        before = [words for _, words, *_ in parts]
        if prompt.schema is not None:
            terminal.say("--- JSON schema of the reply")
            terminal.say(json.dumps(prompt.schema, ensure_ascii=False))
        else:
            terminal.say("--- permitted replies")
            terminal.say(", ".join(f"{written} ({meant})" for written, meant in prompt.choices))
        likely, most = each.likely, each.most
        terminal.say(
            f"--- about {likely.input_tokens:,} tokens in, {likely.cached_input_tokens:,} of them from the prefix cache after the "
            f"first request; about {likely.output_tokens:,} out, at most {most.output_tokens:,}"
        )
        if each.cost_usd is None:
            terminal.say(f"--- no price is known for {model or 'a model without a name'}")
        else:
            terminal.say(
                f"--- about ${each.cost_usd:.6f}; ${each.first_cost_usd:.6f} with nothing cached; at most ${each.most_cost_usd:.6f}"
            )
    terminal.say(f"=== prompt {writer.version}")
