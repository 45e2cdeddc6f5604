"""How a model server behaves: what it accepts, how fast it is, and what goes wrong in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from features.annotators.model_server.judge import DigestJudge, Judge
from features.errors import InvalidInput

Protocol = Literal["openai", "gemini"]

BEFORE = ("status", "hang", "close")
"""Faults in which no reply is made, so that nothing is billed."""
CARRIAGE = ("drip", "cut_body", "malformed_body")
"""Faults of the way back: the reply was made and billed."""
ENDINGS = ("truncated", "closed_but_length", "whitespace", "refusal", "safety", "prompt_blocked", "empty", "recitation")
"""Faults of how a reply ends."""
WRITING = (
    "drop_id",
    "swap_order",
    "duplicate_id",
    "invent_id",
    "unknown_label",
    "wrong_type",
    "out_of_range",
    "nan",
    "value",
    "duplicate_key",
    "extra_attribute",
    "missing_attribute",
    "bad_moments",
    "prose",
    "not_json",
    "text",
)
"""Faults in what a reply says."""
JOBS = ("batch_stall", "batch_expire", "batch_fail")
"""Faults of a whole batch job."""
FAULTS = (*BEFORE, *CARRIAGE, *ENDINGS, *WRITING, *JOBS)


@dataclass(frozen=True)
class Rule:
    """A scripted fault. Of the rules that match a request the first one decides; all conditions that are set must hold.

    Attributes:
        do: one of FAULTS.
        contains: a text of the conversation (not of the system text). In a pack, only the videos that hold it are tampered with;
            for a batch job, a text of its request file.
        nth: the request's number since the start or the last reset, from 1; 0: any.
        after: only requests with a higher number.
        model, protocol: only these.
        turn: `first`: no repair requests; `repair`: only these.
        where: only `direct` requests, or only `batch` items.
        share: probability that a request that matches is chosen, by the server's seed.
        times: how often the rule is used; 0: always.
        status: for `status`: 400 to 599.
        retry_after_s: for `status`: a Retry-After header (and for Gemini a RetryInfo); -1: none.
        as_date: Retry-After is written as a date.
        headers, message: for `status`.
        seconds: for `drip`: how long the body takes; for `hang`: after which the server answers after all, 0: never.
        part: how much is left of a reply that is `truncated` or `not_json`, of a body (`cut_body`), or of the items of a job that
            is done when it expires; 0 to 1.
        attribute: tampers with this one only.
        value: for `value`: any JSON.
        text: for `text`: what the model says; for `refusal` and `safety`: why.
    """

    do: str
    contains: str = ""
    nth: int = 0
    after: int = 0
    model: str = ""
    protocol: str = ""
    turn: Literal["", "first", "repair"] = ""
    where: Literal["", "direct", "batch"] = ""
    share: float = 1.0
    times: int = 0
    status: int = 500
    retry_after_s: float = -1.0
    as_date: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    message: str = ""
    seconds: float = 0.0
    part: float = 0.6
    attribute: str = ""
    value: Any = None
    text: str = ""

    def __post_init__(self) -> None:
        """Raises InvalidInput for an unknown fault or condition."""
        if self.do not in FAULTS:
            raise InvalidInput(f"a rule's do is {self.do!r}; choose one of {', '.join(FAULTS)}")
        for name, choices in (("protocol", ("", "openai", "gemini")), ("turn", ("", "first", "repair"))):
            if getattr(self, name) not in choices:
                raise InvalidInput(f"a rule's {name} is {getattr(self, name)!r}; choose one of {', '.join(choices[1:])}")
        if self.where not in ("", "direct", "batch"):
            raise InvalidInput(f"a rule's where is {self.where!r}; choose direct or batch")
        if not 400 <= self.status <= 599:
            raise InvalidInput(f"a rule's status is {self.status!r}; write a number from 400 to 599")
        if not (0 <= self.part <= 1 and 0 <= self.share <= 1):
            raise InvalidInput(f"a rule's part and share are {self.part!r} and {self.share!r}; write numbers from 0 to 1")

    @classmethod
    def of(cls, document: object) -> Rule:
        """A rule from its JSON form.

        Raises:
            InvalidInput: not an object, or a field that a rule does not have.
        """
        if not isinstance(document, Mapping):
            raise InvalidInput(f"a rule is a JSON object, not {document!r}")
        known = {each.name for each in fields(cls)}
        unknown = sorted(set(document) - known)
        if unknown or "do" not in document:
            raise InvalidInput(f"a rule has a do and may have {', '.join(sorted(known - {'do'}))}; found {', '.join(document)}")
        return cls(**document)

    def document(self) -> dict[str, Any]:
        """Its JSON form."""
        return asdict(self)


@dataclass(frozen=True)
class ServerConfig:
    """What a model server accepts, and how it behaves.

    Attributes:
        models: names that are served, under both protocols.
        retired: names that were served once.
        key: the only one that is accepted; empty: any, or none.
        judge: who answers.
        slots: requests served at the same time.
        overflow: what becomes of requests beyond: they wait (`queue`) or are turned away with 429 (`reject`).
        retry_after_s: what a request that finds no slot is told to wait; 0: nothing.
        latency_s, sigma: of one request in a slot: lognormal with this median, and this standard deviation of its logarithm.
        seed: of latencies and of rules with a share.
        requests_per_minute, tokens_per_minute: quotas, 0: none; beyond them 429. Tokens are input and output.
        quota_window_s: the minute of the quotas.
        rules: scripted faults.
        decode_images: decode pictures in full, instead of their headers alone.
        max_picture_side: pixels.
        max_request_bytes: of a body.
        context_tokens, max_output_tokens: of the models.
        count_schema: whether the reply's schema is read, and billed, as a part of the prompt.
        logprobs: whether log-probabilities are offered.
        sees: whether pictures are.
        thinking_tokens: of hidden reasoning, billed as output, where a model's default budget is asked for (Gemini).
        cache_minimum_tokens: a shorter prefix is not read from the cache.
        cache_block_bytes: prefixes are compared in blocks of so many bytes.
        cache_blocks: how many blocks are remembered, the least recently used forgotten first.
        marker: a regular expression; what its first group finds in a video's part of the prompt names the video in `stats`.
            Where it finds nothing, and where it is empty, a digest of that part does.
        questions: (a text of the question, attribute), to name attributes that are asked one by one in plain words.
        extra_fields: names that are taken at the top level of a chat request although OpenAI has none of them, such as vLLM's.
        batch_delay_s: from the creation of a batch job to its end; -1: only when told to advance.
        control: whether /_control/... exists.
        keep_requests: how many of the last requests are kept for looking at.
    """

    models: tuple[str, ...] = ("gpt-4.1-mini", "gpt-4.1-nano", "gpt-4o-mini", "gemini-2.5-flash", "gemini-2.5-flash-lite")
    retired: tuple[str, ...] = ("gpt-4-vision-preview", "gemini-1.0-pro")
    key: str = field(default="", repr=False)
    judge: Judge = field(default_factory=DigestJudge)
    slots: int = 64
    overflow: Literal["queue", "reject"] = "queue"
    retry_after_s: float = 1.0
    latency_s: float = 0.0
    sigma: float = 0.0
    seed: int = 0
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    quota_window_s: float = 60.0
    rules: tuple[Rule, ...] = ()
    decode_images: bool = True
    max_picture_side: int = 8192
    max_request_bytes: int = 20 * 1024 * 1024
    context_tokens: int = 1_000_000
    max_output_tokens: int = 65_536
    count_schema: bool = True
    logprobs: bool = True
    sees: bool = True
    thinking_tokens: int = 0
    cache_minimum_tokens: int = 1024
    cache_block_bytes: int = 512
    cache_blocks: int = 200_000
    marker: str = ""
    questions: tuple[tuple[str, str], ...] = ()
    extra_fields: tuple[str, ...] = ()
    batch_delay_s: float = 0.2
    control: bool = False
    keep_requests: int = 256

    def __post_init__(self) -> None:
        """Raises InvalidInput naming a setting that is out of its range."""
        if not self.models:
            raise InvalidInput("models is empty; name at least one")
        if self.overflow not in ("queue", "reject"):
            raise InvalidInput(f"overflow is {self.overflow!r}; choose queue or reject")
        for name, least in (("slots", 1), ("max_output_tokens", 1), ("cache_block_bytes", 1), ("cache_blocks", 1)):
            if getattr(self, name) < least:
                raise InvalidInput(f"{name} is {getattr(self, name)!r}; write a number from {least} up")
        for name in ("retry_after_s", "latency_s", "sigma", "requests_per_minute", "tokens_per_minute", "keep_requests"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InvalidInput(f"{name} is {getattr(self, name)!r}; write a number from 0 up")
        try:
            re.compile(self.marker)
        except re.error as error:
            raise InvalidInput(f"marker is {self.marker!r}, which is no regular expression: {error}") from error
