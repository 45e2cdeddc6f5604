"""A model server in a process of its own, and a corpus of texts to ask it about."""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from features.annotators.model_server import ServerConfig
from features.attributes.definition import AttributeDefinition
from features.records import Counts, RunRecord, Video, VideoFeatures, to_table
from features.workspace import Workspace, new_run_id

MODEL = "gpt-4.1-mini"
_SERVING = (
    "import json, sys; from features.annotators.model_server import ServerConfig, serve; "
    "serve(ServerConfig(**json.loads(sys.argv[1])), ready=lambda s: print(s.openai_url, s.gemini_url, flush=True))"
)
_NAMES = ("funny", "cozy", "calming", "inspiring", "energetic", "authentic", "nostalgic", "surprising", "informative", "romantic")
DEFINITIONS = tuple(
    AttributeDefinition(
        name,
        name.title(),
        f"Would most viewers call this video {name}?",
        f"A video is {name} when what is seen, said and heard in it makes most viewers call it {name}, whatever its title claims. "
        "Judge the whole of it, not a single moment.",
    )
    for name in _NAMES
)
"""Ten attributes."""
_WORDS = (
    "a cat jumps over the sleeping dog while rain falls on the tin roof and somebody laughs behind the camera because the kettle "
    "whistles in the kitchen before we walk along the river to see the lights of the fair and eat warm bread with salted butter"
)


@dataclasses.dataclass(frozen=True)
class Served:
    """A model server that runs: its addresses, and what its books say."""

    openai_url: str
    gemini_url: str

    def stats(self) -> dict[str, Any]:
        """See `features.annotators.model_server.ledger`."""
        document: dict[str, Any] = json.loads(self._said("stats"))
        return document

    def control(self, what: str, **document: Any) -> None:
        """Posts to the server's control: reset, slots, rules."""
        self._said(what, json.dumps(document).encode())

    def _said(self, what: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"{self.gemini_url}/_control/{what}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as reply:
            return bytes(reply.read())


@contextlib.contextmanager
def served(config: ServerConfig) -> Iterator[Served]:
    """A model server in a process of its own, for as long as the block lasts."""
    plain = {
        field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.name not in ("judge", "rules")
    }
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVING, json.dumps({**plain, "control": True})], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        openai_url, gemini_url = process.stdout.readline().split()
        yield Served(openai_url, gemini_url)
    finally:
        process.terminate()
        process.wait()


def write_texts(workspace: Workspace, videos: int, per_file: int = 2_000, seed: int = 7) -> None:
    """Features of videos that have a title, a description and a transcript of about 60 words, and no frames."""
    rng = np.random.default_rng(seed)
    run_id, now = new_run_id(), datetime.now(UTC)
    files = []
    for start in range(0, videos, per_file):
        rows = []
        for number in range(start, min(start + per_file, videos)):
            words = rng.choice(_WORDS.split(), 80).tolist()
            texts = {"title": " ".join(words[:6]), "description": " ".join(words[6:20]), "transcript": " ".join(words[20:])}
            video_id = f"video-{number:06}"
            key = Video(video_id, "", **texts).content_key(video_id)
            rows.append(
                VideoFeatures(video_id, video_id, key, "bench-1", duration_s=15.0, extracted_at=now, run_id=run_id, **texts)
            )
        files.append(workspace.write_table("features", run_id, to_table(rows, VideoFeatures)))
    workspace.commit(RunRecord(run_id, "extract", now, now, counts=Counts(videos, videos, 0, 0), files={"features": files}))


def list_schedule_s(latencies: Sequence[float], slots: int) -> float:
    """Seconds that jobs of these lengths take on that many slots, each given to the first slot that is free (Graham, 1966)."""
    free = [0.0] * min(slots, len(latencies))
    for latency in latencies:
        heapq.heapreplace(free, free[0] + latency)
    return max(free)
