"""Billed-equivalent input tokens: all attributes of a video in one request behind a cached prefix, against one request a pair.

A billed-equivalent token is what costs as much as one fresh input token in a direct call: a cached one counts as the price table
says, a batch job's half. Both sides send the same eight frames and the same texts, and both are counted by the model server.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.model_servers import DEFINITIONS, MODEL, served, write_texts
from features.annotators.chain import ModelAsked, asking
from features.annotators.control import Control
from features.annotators.model_server import ServerConfig
from features.annotators.protocol import AnnotationRequest, Usage
from features.annotators.settings import ModelSettings, PaceSettings, PromptSettings
from features.records import Frame, VideoFeatures
from features.workspace import Workspace

VIDEOS = 100
FRAMES = 8


def _videos(count: int) -> list[VideoFeatures]:
    import dataclasses

    rng = np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(folder)
        write_texts(workspace, count)
        rows = list(workspace.rows(VideoFeatures))
    found = []
    for row in rows:
        frames = []
        for number in range(FRAMES):
            picture = Image.fromarray(rng.integers(0, 255, (18, 32, 3), dtype=np.uint8)).resize((512, 288))
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=80)
            frames.append(Frame(float(number), 512, 288, buffer.getvalue()))
        found.append(dataclasses.replace(row, frames=tuple(frames)))
    return found


def _asked(url: str, prompts: PromptSettings, videos: list[VideoFeatures], each: bool) -> None:
    model = ModelAsked("openai", ModelSettings(name=MODEL, base_url=url, logprobs=0), prompts, definitions=DEFINITIONS)

    async def ask() -> None:
        pace = PaceSettings(in_flight=16)
        annotator = asking(model, pace, Control(base=pace))
        annotator.open()
        try:
            for video in videos:
                requests = [(one,) for one in DEFINITIONS] if each else [DEFINITIONS]
                replies = await asyncio.gather(*(annotator.annotate(AnnotationRequest(video, asked)) for asked in requests))
                assert sum(len(reply.answers) for reply in replies) == len(DEFINITIONS)
        finally:
            await annotator.close()

    asyncio.run(ask())


def run(videos: int = VIDEOS) -> list[dict[str, Any]]:
    """How many times fewer billed-equivalent input tokens, by direct calls and by batch jobs."""
    rows = _videos(videos)
    config = ServerConfig(keep_requests=0, decode_images=False)
    billed: dict[str, float] = {}
    price = ModelAsked("openai", ModelSettings(name=MODEL)).price
    assert price is not None
    with served(config) as server:
        for case, each in (("one request a pair", True), ("together", False)):
            server.control("reset")
            _asked(server.openai_url, PromptSettings(), rows, each)
            tokens = server.stats()["tokens"]
            usage = Usage(1, tokens["input"], tokens["cached"], 0)
            billed[case] = price.cost(usage) / price.input * 1e6
    shared = {"better": "higher", "goal": 10.0, "workload": f"{videos} videos, {FRAMES} frames, 10 attributes, prices of {MODEL}"}
    theirs = f"{billed['one request a pair'] / videos:.0f} a video"
    direct = billed["together"]
    return [
        {
            "case": case,
            "metric": "times fewer billed input tokens than a request a pair",
            "value": billed["one request a pair"] / (direct * discount),
            "ours": f"{direct * discount / videos:.0f} a video",
            "theirs": theirs,
            **shared,
        }
        for case, discount in (("together, direct calls", 1.0), ("together, batch jobs", price.batch))
    ]
