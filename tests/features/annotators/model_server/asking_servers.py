"""Prompts, pictures and SDK clients for a real model server on loopback."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cached_property
from typing import Any

import openai
import pytest
from google import genai
from google.genai import types
from PIL import Image

from features.annotators.model_server import RunningServer, ServerConfig, running

SYSTEM = (
    "You judge short videos.\n\n## calming\nQuestion: Is it calming?\nValue: true or false\n\n"
    '## pace\nQuestion: How fast is it?\nValue: exactly one of "slow", "medium", "fast"\n\n'
    "## polish\nQuestion: How polished is it?\nValue: a number from 1 to 5, the more the higher"
)
ATTRIBUTES = ("calming", "pace", "polish")


def answer(value: dict[str, Any]) -> dict[str, Any]:
    moment = strict({"start_s": {"type": "number"}, "end_s": {"type": "number"}})
    return strict({"rationale": {"type": "string"}, "value": value, "moments": {"type": "array", "items": moment}})


def strict(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def schema(*names: str) -> dict[str, Any]:
    """The reply's schema for videos called `names`; `v1` without."""
    values = ({"type": "boolean"}, {"type": "string", "enum": ["slow", "medium", "fast"]}, {"type": "number"})
    attributes = strict({name: answer(value) for name, value in zip(ATTRIBUTES, values, strict=True)})
    one = strict({"id": {"type": "string", "enum": list(names or ("v1",))}, "attributes": attributes})
    return one if len(names) < 2 else strict({"videos": {"type": "array", "items": one}})


def shown(title: str, name: str = "v1") -> str:
    """A video's part of a prompt."""
    return f'<<video {name}>>\nduration: 12.0 s\ntitle: "{title}"\n<<end of video {name}>>'


def picture(form: str = "JPEG", size: tuple[int, int] = (64, 36)) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", size, (200, 90, 20)).save(data, form)
    return data.getvalue()


def image_part(data: bytes, media_type: str = "image/jpeg", **more: str) -> dict[str, Any]:
    url = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url, **more}}


def chat(title: str = "A quiet lake", **more: Any) -> dict[str, Any]:
    """Arguments of `chat.completions.create`, or a body."""
    body: dict[str, Any] = {
        "model": "gpt-4.1-mini",
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": [{"type": "text", "text": shown(title)}, {"type": "text", "text": "Now answer."}]},
        ],
        "response_format": {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": schema()}},
        "temperature": 0,
        "max_completion_tokens": 900,
    }
    return {name: value for name, value in (body | more).items() if value is not None}


def packed(*titles: str, **more: Any) -> dict[str, Any]:
    """As `chat`, about several videos."""
    names = [f"v{number}" for number in range(1, len(titles) + 1)]
    parts = [{"type": "text", "text": shown(title, name)} for title, name in zip(titles, names, strict=True)]
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": [*parts, {"type": "text", "text": "Answer."}]}]
    form = {"type": "json_schema", "json_schema": {"name": "reply", "strict": True, "schema": schema(*names)}}
    return chat(messages=messages, response_format=form, **more)


def generate(title: str = "A quiet lake", **more: Any) -> dict[str, Any]:
    """Arguments of `models.generate_content`; `more` goes into its configuration."""
    config: dict[str, Any] = {
        "system_instruction": SYSTEM,
        "temperature": 0,
        "max_output_tokens": 900,
        "response_mime_type": "application/json",
        "response_json_schema": schema(),
    }
    parts = [types.Part(text=shown(title)), types.Part(text="Now answer.")]
    return {
        "model": "gemini-2.5-flash",
        "contents": [types.Content(role="user", parts=parts)],
        "config": types.GenerateContentConfig(**(config | more)),
    }


class Served:
    """A running server with a client of each SDK, which do not retry."""

    def __init__(self, server: RunningServer, key: str) -> None:
        self.server, self._key = server, key

    @cached_property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.server.openai_url, api_key=self._key, max_retries=0, timeout=10)

    @cached_property
    def gemini(self) -> genai.Client:
        options = types.HttpOptions(base_url=self.server.gemini_url, timeout=10_000)
        return genai.Client(api_key=self._key, http_options=options)

    def close(self) -> None:
        for name in ("openai", "gemini"):
            if name in self.__dict__:
                getattr(self, name).close()


@pytest.fixture
def serving() -> Iterator[Callable[..., Served]]:
    """Starts servers: `serving(slots=2)`; they end with the test."""
    with ExitStack() as stack:

        def start(client_key: str = "any", **settings: Any) -> Served:
            server = stack.enter_context(running(ServerConfig(**settings)))
            served = Served(server, client_key)
            stack.callback(served.close)
            return served

        yield start


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    """One server for tests that do not change it."""
    with running(ServerConfig(cache_minimum_tokens=0)) as server:
        served = Served(server, "any")
        yield served
        served.close()
