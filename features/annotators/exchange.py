"""One exchange with a model: what is sent and what comes back, in no provider's words.

`features.annotators.prompt` writes a `Prompt`, a `ModelClient` (gemini, openai_compatible) carries it over and brings back a
`Completion`, and `features.annotators.reply` reads that. Provider batch jobs use the same three without the client's socket.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from features.annotators.protocol import Usage


@dataclass(frozen=True)
class Text:
    """Words of a turn."""

    text: str


@dataclass(frozen=True)
class Picture:
    """A still of a turn: JPEG bytes, `width` x `height` pixels."""

    jpeg: bytes
    width: int
    height: int


@dataclass(frozen=True)
class Clip:
    """A whole video that the provider fetches itself: a gs:// address and its media type, such as video/mp4."""

    uri: str
    media_type: str
    duration_s: float


Part = Text | Picture | Clip


@dataclass(frozen=True)
class Turn:
    """What one side says."""

    role: Literal["user", "model"]
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Prompt:
    """All that is sent.

    Attributes:
        system: what comes first; byte-stable over a run for the same definitions.
        turns: the conversation, a user's turn first and last. A repair has three: the first is byte-equal to the one it mends.
        shared_parts: how many leading parts of the first turn are the same for all requests of the run with these definitions
            (ask together: 0), or of this video (ask each: all but the question).
        schema: JSON schema of the reply (the dialect that both providers take); None: the reply is one of `choices`, as text.
        choices: for `--ask each`: (what the model writes, the value it stands for), such as ("Yes", "true").
        ids: (id echoed in the reply, video_id), in order; one pair unless several videos are packed.
        max_output_tokens: where the reply is cut off.
        temperature: 0 and up.
        seed: tells repeated answers to the same question apart; None: not sent.
    """

    system: str
    turns: tuple[Turn, ...]
    shared_parts: int
    schema: Mapping[str, Any] | None
    choices: tuple[tuple[str, str], ...]
    ids: tuple[tuple[str, str], ...]
    max_output_tokens: int
    temperature: float = 0.0
    seed: int | None = None


@dataclass(frozen=True)
class Token:
    """One token of a reply: its text, its log-probability, and the likeliest tokens at its place (itself among them or not)."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...]


Finish = Literal["stop", "length", "refused", "blocked", "empty", "other"]
"""Why a reply ended: by itself; at the token limit; the model declined; the provider's safety system blocked prompt or reply; no
candidate at all; anything else. Only `stop` may be accepted."""


@dataclass(frozen=True)
class Completion:
    """What came back.

    Attributes:
        text: the reply, hidden reasoning left out.
        finish: why it ended.
        detail: the provider's own words about that, for a person: a safety category, a refusal's sentence.
        usage: tokens as billed, `requests` 1, `cost_usd` 0 (spend is computed by `features.annotators.spend`).
        model: the version that answered, as the server says.
        tokens: log-probabilities token by token; empty where the server gives none.
    """

    text: str
    finish: Finish
    detail: str
    usage: Usage
    model: str
    tokens: tuple[Token, ...] = ()


class ModelClient(Protocol):
    """Carries a prompt to a model server and back. One call is one HTTP request: nothing is retried in here.

    `complete` raises Transient (time-out, 408, 409, 429 with `rejected`, 5xx, a broken connection; with `retry_after_s` where the
    server says), Permanent (this very request is refused: 400, 413, 422; kind `invalid_request`, or `too_large`) or Unavailable
    (everybody is refused: 401, 403, 404). A safety block or a refusal is a Completion, never an exception.
    """

    def open(self) -> None: ...

    async def complete(self, prompt: Prompt) -> Completion: ...

    async def close(self) -> None: ...
