"""What one request costs of the processor, in this process, through our clients and through the official SDKs.

The model server runs in a process of its own and answers at once; what is counted is the processor time of the client's process,
garbage collection included, for prompts that are written already. The SDKs' own retries are off, and all clients share connections.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from features.annotators import gemini, openai_compatible
from features.annotators.exchange import Prompt
from features.annotators.model_server import ServerConfig, serve
from features.annotators.prompt import PromptWriter
from features.annotators.protocol import AnnotationRequest
from features.annotators.settings import ModelSettings, PromptSettings
from features.attributes.definition import AttributeDefinition
from features.records import Frame, VideoFeatures

Ask = Callable[[Prompt], Awaitable[Any]]
DEFINITIONS = tuple(
    AttributeDefinition(f"attribute_{number}", f"Attribute {number}", "Is it so?", "A viewer would say so.") for number in range(10)
)
GOAL_MS = 0.8
OPENAI, GEMINI = "gpt-4.1-mini", "gemini-2.5-flash-lite"


def _serve(ports: Any) -> None:
    serve(ServerConfig(slots=4096, keep_requests=0), ready=lambda server: ports.put(server.port))


@contextmanager
def _server() -> Iterator[int]:
    ports: Any = multiprocessing.Queue()
    process = multiprocessing.Process(target=_serve, args=(ports,), daemon=True)
    process.start()
    try:
        yield ports.get(timeout=60)
    finally:
        process.terminate()
        process.join()


def prompts(model: str, count: int, stills: int) -> list[Prompt]:
    """Requests about as many videos, ten attributes each; a still is 15 kB."""
    from io import BytesIO

    import numpy as np
    from PIL import Image

    data = BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (36, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((512, 288)).save(data, "JPEG", quality=70)
    frames = tuple(Frame(timestamp_s=float(place), jpeg=data.getvalue(), width=512, height=288) for place in range(stills))
    writer = PromptWriter(PromptSettings(), ModelSettings(name=model), definitions=DEFINITIONS)
    videos = (
        VideoFeatures(f"v{number}", "h", f"c{number}", "1", title=f"Clip {number}", duration_s=12.0, frames=frames)
        for number in range(count)
    )
    return [writer.write(AnnotationRequest(video, DEFINITIONS)) for video in videos]


async def _all(ask: Ask, given: list[Prompt], in_flight: int) -> None:
    waiting = iter(given)

    async def one() -> None:
        for prompt in waiting:
            await ask(prompt)

    await asyncio.gather(*(one() for _ in range(in_flight)))


async def _measured(ask: Ask, given: list[Prompt], in_flight: int) -> tuple[float, float]:
    """(milliseconds of the processor a request, requests a second)."""
    await _all(ask, given[: 4 * in_flight], in_flight)
    begun, used = time.perf_counter(), time.process_time()
    await _all(ask, given, in_flight)
    return 1000 * (time.process_time() - used) / len(given), len(given) / (time.perf_counter() - begun)


async def compared(port: int, count: int, in_flight: int, stills: int) -> dict[str, tuple[float, float]]:
    """Figures by name of the client."""
    import openai
    from google import genai
    from google.genai import types

    address = f"http://127.0.0.1:{port}"
    found: dict[str, tuple[float, float]] = {}

    # OpenAI's shape
    settings = ModelSettings(name=OPENAI, base_url=f"{address}/v1", logprobs=0)
    given = prompts(OPENAI, count, stills)
    ours = openai_compatible.OpenAIClient(settings)
    ours.open()
    found["openai, ours"] = await _measured(ours.complete, given, in_flight)
    await ours.close()
    async with openai.AsyncOpenAI(base_url=settings.base_url, api_key="any", max_retries=0) as sdk:
        found["openai, SDK"] = await _measured(
            lambda prompt: sdk.chat.completions.create(**openai_compatible.body(prompt, settings)), given, in_flight
        )

    # Gemini's
    settings = replace(settings, name=GEMINI, base_url=address)
    given = prompts(GEMINI, count, stills)
    gemini_client = gemini.GeminiClient(settings)
    gemini_client.open()
    found["gemini, ours"] = await _measured(gemini_client.complete, given, in_flight)
    await gemini_client.close()
    client = genai.Client(api_key="any", http_options=types.HttpOptions(base_url=address, timeout=60_000))

    async def low(prompt: Prompt) -> Any:
        path = f"models/{GEMINI}:generateContent"
        reply = await client._api_client.async_request("post", path, gemini.body(prompt, settings))
        return gemini.completion(json.loads(reply.body or "{}"))

    async def typed(prompt: Prompt) -> Any:
        document = gemini.body(prompt, settings)
        config = types.GenerateContentConfig(
            system_instruction=types.Content.model_validate(document["systemInstruction"]), **document["generationConfig"]
        )
        contents = [types.Content.model_validate(each) for each in document["contents"]]
        return await client.aio.models.generate_content(model=GEMINI, contents=contents, config=config)

    found["gemini, SDK without its types"] = await _measured(low, given, in_flight)
    found["gemini, SDK"] = await _measured(typed, given, in_flight)
    await client.aio.aclose()
    return found


def run(requests: int = 1000, in_flight: int = 32) -> list[dict[str, Any]]:
    """A figure for each protocol, without and with pictures."""
    figures = []
    with _server() as port:
        for stills in (0, 8):
            count = requests if not stills else max(requests // 4, 1)
            found = asyncio.run(compared(port, count, in_flight, stills))
            for protocol in ("openai", "gemini"):
                (ours, rate), (theirs, _) = found[f"{protocol}, ours"], found[f"{protocol}, SDK"]
                low = found.get(f"{protocol}, SDK without its types")
                figures.append(
                    {
                        "case": f"{protocol}, {stills} stills",
                        "metric": "processor ms a request",
                        "value": ours,
                        "goal": None if stills else GOAL_MS,
                        "better": "lower",
                        "ours": f"{ours:.2f} ms, {rate:.0f} requests/s with the server on the same machine",
                        "theirs": f"SDK {theirs:.2f} ms" + (f", without its types {low[0]:.2f} ms" if low else ""),
                        "workload": f"{count} requests, 10 attributes, {in_flight} in flight, {os.cpu_count()} cores",
                    }
                )
    return figures
