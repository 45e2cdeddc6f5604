"""What the tests of model clients share: prompts as the annotators write them, and one question from a loop of its own."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from typing import Any

from PIL import Image

from features.annotators.exchange import Completion, ModelClient, Prompt
from features.annotators.gemini import GeminiClient
from features.annotators.openai_compatible import OpenAIClient
from features.annotators.prompt import PromptWriter
from features.annotators.protocol import AnnotationRequest
from features.annotators.settings import ModelSettings, PromptSettings
from features.attributes.definition import AttributeDefinition
from features.errors import VidattrError
from features.records import Frame, VideoFeatures

DEFINITIONS = (
    AttributeDefinition("calming", "Calming", "Is it calming?", "It lets viewers breathe out."),
    AttributeDefinition("pace", "Pace", "How fast?", "The cutting.", value_type="category", labels=("slow", "medium", "fast")),
    AttributeDefinition("polish", "Polish", "How polished?", "All of it.", value_type="score", score_range=(1.0, 5.0)),
)
CLIENTS: dict[str, Callable[[ModelSettings], ModelClient]] = {"openai": OpenAIClient, "gemini": GeminiClient}
MODELS = {"openai": "gpt-4.1-mini", "gemini": "gemini-2.5-flash"}
KEY = "Qj7-very-secret-0123456789"
"""Like nobody's keys, so that nothing but knowing it keeps it out of messages."""


def jpeg() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (64, 36), (200, 90, 20)).save(data, "JPEG")
    return data.getvalue()


def video(title: str = "A quiet lake", uri: str = "/lake.mp4") -> VideoFeatures:
    frame = Frame(timestamp_s=2.0, jpeg=jpeg(), width=64, height=36)
    return VideoFeatures("lake", "h", "c", "1", uri=uri, title=title, duration_s=12.0, frames=(frame,))


def prompt(title: str = "A quiet lake", uri: str = "/lake.mp4", model: ModelSettings | None = None, **settings: Any) -> Prompt:
    """About one video: all attributes together, or the first one alone with `ask="each"`."""
    writer = PromptWriter(PromptSettings(**settings), model or ModelSettings(name="m"), definitions=DEFINITIONS)
    asked = DEFINITIONS[:1] if settings.get("ask") == "each" else DEFINITIONS
    return writer.write(AnnotationRequest(video(title, uri), asked))


def settings_for(server: Any, protocol: str, **more: Any) -> ModelSettings:
    url = server.openai_url if protocol == "openai" else server.gemini_url
    return ModelSettings(**({"name": MODELS[protocol], "base_url": url} | more))


def ask(client: ModelClient, *prompts: Prompt) -> list[Completion | VidattrError]:
    """Replies to prompts that are sent together, or what was raised in our own words."""

    async def one(each: Prompt) -> Completion | VidattrError:
        try:
            return await client.complete(each)
        except VidattrError as error:
            return error

    async def run() -> list[Completion | VidattrError]:
        client.open()
        try:
            async with asyncio.timeout(30):
                return await asyncio.gather(*(one(each) for each in prompts))
        finally:
            await client.close()

    return asyncio.run(run())


def ask_one(client: ModelClient, each: Prompt) -> Completion:
    (found,) = ask(client, each)
    if isinstance(found, VidattrError):
        raise found
    return found
