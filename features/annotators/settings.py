"""What a person may set about a model, its prompt and its pace. They travel to workers by value and hold no secret."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from features.errors import InvalidInput

ASK = ("together", "each")
THINKING = (-1, 32_768)
TEXT_ONLY = "text"


@dataclass(frozen=True)
class ModelSettings:
    """Which model, where, and how it is called.

    Attributes:
        name: model id as the server knows it, such as gemini-2.5-flash.
        base_url: of the server; empty: the provider's own, or the SDK's environment variable.
        api_key_env: name of the environment variable that holds the key; empty: the provider's usual one.
        api_key_file: a file that holds the key, used before the environment.
        project, location: of Vertex AI; a project makes `gemini` use Vertex AI with the machine's credentials instead of a key.
        temperature: 0 to 2; 0 gives the likeliest reply. Empty (-1): 0, or 0.7 where several samples are asked for.
        max_output_tokens: where a reply is cut off; 0: chosen from the number of questions.
        thinking_budget: tokens of hidden reasoning (Gemini); -1: the model's default, 0: none.
        timeout_s: for one exchange, after which it is cancelled.
        structured: whether the server is sent the reply's JSON schema.
        logprobs: the likeliest tokens to ask for at each place, 0 to 20; 0: none. -1: as many as the prompt's shape needs.
        clips: let the provider fetch gs:// videos itself instead of sending frames (Gemini).
        safety: threshold for every harm category (Gemini), such as BLOCK_ONLY_HIGH or OFF; empty: the provider's default.
    """

    name: str = ""
    base_url: str = ""
    api_key_env: str = ""
    api_key_file: str = ""
    project: str = ""
    location: str = ""
    temperature: float = -1.0
    max_output_tokens: int = 0
    thinking_budget: int = -1
    timeout_s: float = 60.0
    structured: bool = True
    logprobs: int = -1
    clips: bool = False
    safety: str = ""

    def __post_init__(self) -> None:
        """Raises InvalidInput naming a setting that is out of its range."""
        _within("temperature", self.temperature, 0, 2, unset=-1)
        _within("max_output_tokens", self.max_output_tokens, 0, 65_536)
        _within("thinking_budget", self.thinking_budget, *THINKING)
        _within("timeout_s", self.timeout_s, 0.1, 3_600)
        _within("logprobs", self.logprobs, 0, 20, unset=-1)


@dataclass(frozen=True)
class PromptSettings:
    """What is asked, and what of a video is shown.

    Attributes:
        ask: `together`: all attributes of a video in one request, answered as JSON; `each`: one request an attribute, the video
            first, answered in one word.
        videos_per_request: videos in one request (with `together`), 1 to 32.
        evidence: a comma-separated choice of what may be shown (frames, title, description, hashtags, transcript, onscreen_text,
            tags, measurements), `text` for all but frames, empty for all. A definition's own evidence still narrows it.
        frames: the most stills a video, 0 to 16.
        rationale: whether a reason is asked for, before the verdict.
        moments: whether the seconds that carry the verdict are asked for.
        examples: Golden Set examples an attribute that are shown in the prefix, 0 to 32.
        samples: answers to the same question whose vote share becomes the probability, 1 to 32.
        first_token: with `each`, where a model's words are none of the permitted ones, the likeliest of those at its first token is
            its answer (small local models, which like to go on talking).
    """

    ask: Literal["together", "each"] = "together"
    videos_per_request: int = 1
    evidence: str = ""
    frames: int = 8
    rationale: bool = True
    moments: bool = True
    examples: int = 0
    samples: int = 1
    first_token: bool = False

    def __post_init__(self) -> None:
        """Raises InvalidInput naming a setting that is out of its range, or two that do not go together."""
        if self.ask not in ASK:
            raise InvalidInput(f"ask is {self.ask!r}; choose together or each")
        _within("videos_per_request", self.videos_per_request, 1, 32)
        _within("frames", self.frames, 0, 16)
        _within("examples", self.examples, 0, 32)
        _within("samples", self.samples, 1, 32)
        if self.ask == "each" and self.videos_per_request > 1:
            raise InvalidInput("videos_per_request needs ask together: with ask each a request holds one video and one question")
        if self.first_token and self.ask != "each":
            raise InvalidInput("first_token needs ask each: only there the first token is the verdict")


@dataclass(frozen=True)
class PaceSettings:
    """How fast and how much. Quotas and caps are for the whole run: each of `workers` processes takes its share.

    Attributes:
        in_flight: the most requests at the same time in a process, 1 to 4096; the pace finds out how many the server can take.
        max_requests_per_minute, max_tokens_per_minute: the provider's quota; 0: none.
        max_cost: US dollars for this run; 0: no cap.
        max_tokens: input and output tokens for this run; 0: no cap.
        attempts: tries of one exchange, 1 to 20.
        longest_wait_s: the most that is waited between two tries.
        outage_patience_s: how long a server may be down before the rest of the run is left pending.
        workers: processes that share the quotas and caps.
    """

    in_flight: int = 64
    max_requests_per_minute: int = 0
    max_tokens_per_minute: int = 0
    max_cost: float = 0.0
    max_tokens: int = 0
    attempts: int = 5
    longest_wait_s: float = 60.0
    outage_patience_s: float = 600.0
    workers: int = 1

    def __post_init__(self) -> None:
        """Raises InvalidInput naming a setting that is out of its range."""
        _within("in_flight", self.in_flight, 1, 4_096)
        for name in ("max_requests_per_minute", "max_tokens_per_minute", "max_tokens"):
            _within(name, getattr(self, name), 0, 10**15)
        _within("max_cost", self.max_cost, 0, 10**9)
        _within("attempts", self.attempts, 1, 20)
        _within("longest_wait_s", self.longest_wait_s, 0.01, 3_600)
        _within("outage_patience_s", self.outage_patience_s, 0, 10**6)
        _within("workers", self.workers, 1, 10_000)


def _within(name: str, value: float, least: float, most: float, unset: float | None = None) -> None:
    if value != unset and not least <= value <= most:  # nan is in no range
        raise InvalidInput(f"{name} is {value!r}; write a number from {least:g} to {most:g}")
