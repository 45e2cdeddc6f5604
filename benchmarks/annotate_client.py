"""The annotate pipeline against a model server with slots and lognormal latencies: how much of the server it keeps busy.

Against the list-scheduling bound of the very latencies that the server drew, and against the stock pattern of Beam's handlers for
remote models: a client and a gather for each batch of 64. Text only, ten attributes a video, one request a video.
"""

from __future__ import annotations

import asyncio
import resource
import tempfile
from typing import Any

import apache_beam as beam

from benchmarks.model_servers import DEFINITIONS, MODEL, Served, list_schedule_s, served, write_texts
from features.annotators.chain import ModelAsked
from features.annotators.model_server import ServerConfig
from features.annotators.openai_compatible import body
from features.annotators.protocol import AnnotationRequest
from features.annotators.settings import ModelSettings, PaceSettings, PromptSettings
from features.records import VideoFeatures
from features.workspace import Workspace
from pipelines import annotate
from pipelines.annotators import AnnotatorConfig
from pipelines.options import make_pipeline

CASES = ((64, 0.1, 6_400), (512, 1.0, 51_200))
"""Slots, median seconds, and requests."""
SIGMA = 0.5
TWO_PROCESSES = ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
STOCK_BATCHES = 12
STOCK_BATCH = 64


class Stock(beam.DoFn):
    """A client and an event loop a batch, as Beam's remote handlers have it."""

    def __init__(self, base_url: str, bodies: list[dict[str, Any]]) -> None:
        self._base_url, self._bodies = base_url, bodies

    def process(self, batch: list[int]) -> list[int]:
        import openai

        async def asked() -> int:
            async with openai.AsyncOpenAI(base_url=self._base_url, api_key="any", max_retries=0) as client:
                calls = [client.chat.completions.create(**self._bodies[number]) for number in batch]
                return len(await asyncio.gather(*calls))

        return [asyncio.run(asked())]


def _ours(server: Served, slots: int, requests: int, beam_args: tuple[str, ...] = ()) -> tuple[float, float, dict[str, Any]]:
    """Answered requests a second as the server saw it, CPU seconds of ours a request, and the server's books."""
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(folder)
        write_texts(workspace, requests, per_file=max(200, requests // 16))
        annotator = AnnotatorConfig(
            "openai",
            model=ModelSettings(name=MODEL, base_url=server.openai_url, logprobs=0),
            prompts=PromptSettings(),
            pace=PaceSettings(in_flight=2 * slots),
        )
        before = resource.getrusage(resource.RUSAGE_SELF)
        record = annotate.run(annotate.AnnotateConfig(workspace, DEFINITIONS, annotator), beam_args)
        after = resource.getrusage(resource.RUSAGE_SELF)
    assert record.pair_counts is not None
    assert record.pair_counts.annotated == requests * len(DEFINITIONS), f"something was lost: {record.pair_counts}"
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    books = server.stats()
    assert books["paid_pairs"] == requests * len(DEFINITIONS), f"something was paid twice: {books['paid_pairs']}"
    return requests / books["busy_s"], cpu / requests, books


def _stock(server: Served) -> float:
    """Answered requests a second of the stock pattern."""
    asked = ModelAsked("openai", ModelSettings(name=MODEL, logprobs=0), definitions=DEFINITIONS)
    texts = {"title": "a title", "description": "words " * 14, "transcript": "words " * 60}
    count = STOCK_BATCH * STOCK_BATCHES
    videos = [VideoFeatures(f"v{number}", "", f"k{number}", "1", duration_s=15.0, **texts) for number in range(count)]
    bodies = [body(asked.writer.write(AnnotationRequest(video, DEFINITIONS)), asked.model) for video in videos]
    batches = [list(range(start, start + STOCK_BATCH)) for start in range(0, count, STOCK_BATCH)]
    pipeline = make_pipeline()
    _ = pipeline | beam.Create(batches, reshuffle=False) | beam.ParDo(Stock(server.openai_url, bodies))
    pipeline.run().wait_until_finish()
    books = server.stats()
    assert books["accepted"] == count
    return count / float(books["busy_s"])


def run(cases: tuple[tuple[int, float, int], ...] = CASES) -> list[dict[str, Any]]:
    """Figures for each case."""
    figures = []
    for slots, latency_s, requests in cases:
        config = ServerConfig(slots=slots, latency_s=latency_s, sigma=SIGMA, keep_requests=0, decode_images=False)
        case = f"{slots} slots, {latency_s:g} s"
        with served(config) as server:
            ours, cpu, books = _ours(server, slots, requests)
            bound = requests / list_schedule_s(books["latencies"], slots)
            server.control("reset")
            two, _, books = _ours(server, slots, requests, TWO_PROCESSES)
            bound_of_two = requests / list_schedule_s(books["latencies"], slots)
            server.control("reset")
            stock = _stock(server)
        shared = {
            "better": "higher",
            "ours": f"{ours:.0f} requests/s",
            "workload": f"{requests} requests, 10 attributes, sigma {SIGMA}",
        }
        figures += [
            {"case": case, "metric": "share of the list-scheduling bound", "value": ours / bound, "goal": 0.95, **shared}
            | {"theirs": f"{bound:.0f} requests/s"},
            {"case": f"{case}, two worker processes", "metric": "share of the list-scheduling bound", "value": two / bound_of_two}
            | {"goal": 0.95, **shared, "ours": f"{two:.0f} requests/s", "theirs": f"{bound_of_two:.0f} requests/s"},
            {"case": case, "metric": "speed vs stock Beam handler", "value": ours / stock, "goal": 6.0, **shared}
            | {"theirs": f"{stock:.0f} requests/s"},
            {"case": case, "metric": "CPU of ours a request, ms", "value": 1e3 * cpu, "goal": None, **shared, "better": "lower"},
        ]
    return figures
