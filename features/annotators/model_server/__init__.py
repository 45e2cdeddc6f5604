"""A model server to test against: OpenAI's and Gemini's protocol on one port, strict, countable, scripted to fail.

    with running(ServerConfig(slots=8, latency_s=0.05)) as server:
        client = openai.OpenAI(base_url=server.openai_url, api_key="any")
        ...
        server.rules(Rule("status", status=429, retry_after_s=1, times=3))
        assert server.stats()["accepted"] == 10

It answers nothing that makes sense: verdicts follow from a digest of the video, and are the same every time.
"""

from __future__ import annotations

from features.annotators.model_server.asked import Asked
from features.annotators.model_server.configuration import FAULTS, Rule, ServerConfig
from features.annotators.model_server.judge import DigestJudge, by_digest
from features.annotators.model_server.model import latencies
from features.annotators.model_server.obedient import ObedientJudge
from features.annotators.model_server.questions import Decision, Judged, Question, Verdict
from features.annotators.model_server.running import RunningServer, running, serve

__all__ = [
    "FAULTS",
    "Asked",
    "Decision",
    "DigestJudge",
    "Judged",
    "ObedientJudge",
    "Question",
    "Rule",
    "RunningServer",
    "ServerConfig",
    "Verdict",
    "by_digest",
    "latencies",
    "running",
    "serve",
]
