"""Shows what a model would be sent about a video, part by part, with tokens and price. Nothing is sent."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc

from features import storage
from features.annotators.exchange import Clip, Part, Picture, Prompt, Text
from features.annotators.prompt import PromptWriter
from features.annotators.protocol import AnnotationRequest, Usage
from features.annotators.settings import ModelSettings
from features.annotators.tokens import clip_tokens, picture_tokens, text_tokens
from features.attributes.definition import AttributeDefinition
from features.errors import InvalidInput
from features.records import VideoFeatures, from_table
from features.workspace import Workspace, latest, read_parquet

_LONG = 120
_SHOWN = 48


@dataclass(frozen=True)
class Shown:
    """A prompt and what it is likely to cost.

    Attributes:
        request, prompt: what is asked, and what is sent for it.
        likely: with the server's prefix cache warm.
        most: what a budget reserves for it.
        cost_usd, first_cost_usd, most_cost_usd: of `likely`, of the same with nothing cached, of `most`; None for a model without
            a price.
    """

    request: AnnotationRequest
    prompt: Prompt
    likely: Usage
    most: Usage
    cost_usd: float | None
    first_cost_usd: float | None
    most_cost_usd: float | None


def find_videos(workspace: Workspace, video_ids: Sequence[str]) -> tuple[VideoFeatures, ...]:
    """The newest features of these videos, frames included, in the order asked for.

    Raises:
        InvalidInput: the workspace has no features of one of them.
    """
    wanted = list(video_ids)
    rows: list[VideoFeatures] = []
    for file in workspace.files("features"):
        if set(read_parquet(file.path, ["video_id"])["video_id"].to_pylist()) & set(wanted):
            table = read_parquet(file.path)
            rows += from_table(table.filter(pc.field("video_id").isin(wanted)), VideoFeatures)
    found = latest(rows)
    for video_id in wanted:
        if video_id not in found:
            raise InvalidInput(f"{video_id!r} has no features in {workspace.path('')}: extract it first, or check the id")
    return tuple(found[video_id] for video_id in wanted)


def requests_for(
    writer: PromptWriter, videos: Sequence[VideoFeatures], definitions: Sequence[AttributeDefinition]
) -> Iterator[AnnotationRequest]:
    """The requests that a run would make of these videos: all attributes together, packed if so set, or each alone."""
    if writer.settings.ask == "each":
        for video in videos:
            for definition in definitions:
                yield AnnotationRequest(video, (definition,))
        return
    size = writer.settings.videos_per_request
    for start in range(0, len(videos), size):
        yield AnnotationRequest(videos[start], tuple(definitions), tuple(videos[start + 1 : start + size]))


def shown(
    writer: PromptWriter, videos: Sequence[VideoFeatures], definitions: Sequence[AttributeDefinition], prices: str = ""
) -> tuple[Shown, ...]:
    """Every prompt for these videos. Raises Permanent (`no_evidence`) where nothing of a video may be shown."""
    from features.annotators.spend import Prices

    price = Prices.load(prices).of(writer.model.name)
    found = []
    for request in requests_for(writer, videos, definitions):
        likely, most = writer.estimate(request), writer.ceiling(request)
        cold = Usage(1, likely.input_tokens, 0, likely.output_tokens)
        costs = [None if price is None else price.cost(usage) for usage in (likely, cold, most)]
        found.append(Shown(request, writer.write(request), likely, most, *costs))
    return tuple(found)


def part_tokens(part: Part, writer: PromptWriter) -> int:
    """An estimate of what one part is worth."""
    if isinstance(part, Text):
        return text_tokens(part.text)
    if isinstance(part, Picture):
        return picture_tokens(part.width, part.height, writer.family)
    return clip_tokens(part.duration_s, writer.family)


def part_said(part: Part, number: int, seconds: str) -> str:
    """A part as a person reads it: its words, or a line in brackets for what is no text.

    Args:
        part: the part.
        number: which still it is, from 1.
        seconds: the line before it, which says when.
    """
    if isinstance(part, Text):
        return part.text
    if isinstance(part, Clip):
        return f"[the whole video {part.uri}, {part.media_type}, {part.duration_s:.1f} s]"
    at = seconds.rpartition(", at ")[2].rstrip(":")
    return f"[frame {number} at {at}, {part.width}x{part.height} JPEG, {len(part.jpeg):,} bytes]"


def said(prompt: Prompt, writer: PromptWriter) -> Iterator[tuple[str, str, int, bool]]:
    """(role, what is sent, tokens, whether it is text) of the system text and of every part of every turn, in order."""
    yield "system", prompt.system, text_tokens(prompt.system), True
    for turn in prompt.turns:
        number, before = 0, ""
        for part in turn.parts:
            number += isinstance(part, Picture)
            yield turn.role, part_said(part, number, before), part_tokens(part, writer), isinstance(part, Text)
            if isinstance(part, Text):
                number = 0 if "frame 1 of" in part.text else number
                before = part.text


def document(each: Shown, writer: PromptWriter) -> dict[str, Any]:
    """A prompt for `--json`; pictures are described, not held."""
    prompt = each.prompt
    return {
        "videos": dict(prompt.ids),
        "attributes": [definition.name for definition in each.request.definitions],
        "parts": [{"role": role, "text" if text else "what": words, "tokens": n} for role, words, n, text in said(prompt, writer)],
        "shared_parts": prompt.shared_parts,
        "schema": prompt.schema,
        "choices": dict(prompt.choices),
        "temperature": prompt.temperature,
        "seed": prompt.seed,
        "max_output_tokens": prompt.max_output_tokens,
        "tokens": {
            "input": each.likely.input_tokens,
            "cached_input": each.likely.cached_input_tokens,
            "output": each.likely.output_tokens,
            "most_input": each.most.input_tokens,
            "most_output": each.most.output_tokens,
        },
        "cost_usd": each.cost_usd,
        "first_cost_usd": each.first_cost_usd,
        "most_cost_usd": each.most_cost_usd,
    }


def request_body(prompt: Prompt, annotator: str, settings: ModelSettings) -> Any:
    """The body of the HTTP request, in the provider's words, with pictures shortened.

    Raises:
        InvalidInput: `annotator` is no model server's.
    """
    if annotator == "gemini":
        from features.annotators import gemini as provider
    elif annotator == "openai":
        from features.annotators import openai_compatible as provider  # type: ignore[no-redef]
    else:
        raise InvalidInput(f"{annotator!r} sends no request: choose --annotator gemini or openai")
    return shortened(provider.body(prompt, settings))


def shortened(value: Any) -> Any:
    """`value` with every base64 text, data address and byte string cut to its beginning and its length."""
    if isinstance(value, Mapping):
        return {
            name: _short(item) if name in ("data", "url") and isinstance(item, str | bytes) else shortened(item)
            for name, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [shortened(item) for item in value]
    return _short(value) if isinstance(value, bytes) else value


def _short(value: str | bytes) -> str:
    text = value if isinstance(value, str) else repr(value[:_SHOWN])
    return text if isinstance(value, str) and len(value) <= _LONG else f"{text[:_SHOWN]}... ({len(value):,} in all)"


def save_frames(prompts: Sequence[Prompt], folder: str) -> list[str]:
    """Writes the stills of the prompts as JPEG files, each once, and gives their paths."""
    paths: list[str] = []
    kept: set[bytes] = set()
    for number, prompt in enumerate(prompts, 1):
        pictures = [part for turn in prompt.turns for part in turn.parts if isinstance(part, Picture)]
        for place, picture in enumerate(pictures, 1):
            if picture.jpeg not in kept:
                kept.add(picture.jpeg)
                paths.append(os.path.join(folder, f"request-{number}-frame-{place}.jpg"))
                storage.write_bytes(paths[-1], picture.jpeg)
    return paths
