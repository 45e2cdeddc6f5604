"""Chat completions: OpenAI, and every server that speaks its protocol (vLLM, SGLang, llama.cpp, and many more).

`body`, `completion` and `problem` are pure, and batch files use them too. `OpenAIClient` carries them over HTTP with aiohttp alone,
at a fraction of what the official SDK takes of the processor; the tests send the same bodies through the SDK.
"""

from __future__ import annotations

import base64
import math
import os
import re
from collections.abc import Mapping
from typing import Any

from features.annotators.exchange import Clip, Completion, Finish, Part, Picture, Prompt, Text, Token
from features.annotators.http_posts import Posts
from features.annotators.http_replies import Service, checked_address, document_of, retry_after_s
from features.annotators.protocol import Usage
from features.annotators.secrets import Secret, api_key, redacted
from features.annotators.settings import ModelSettings
from features.errors import InvalidInput, Permanent, Transient, Unavailable, VidattrError

PROVIDER = "https://api.openai.com/v1"
KEY_VARIABLES = ("OPENAI_API_KEY",)
BASE_URL_VARIABLE = "OPENAI_BASE_URL"
SCHEMA_NAME = "vidattr_reply"
"""Stable: OpenAI caches compiled schemas, and the name is a part of the prompt."""

MOST_LOGPROBS = 20
JSON_LOGPROBS = 5
"""For JSON replies unless set: each token of the reply carries its alternatives, and 20 of them make a reply of 300 tokens half a
megabyte. llama.cpp gives log-probabilities from before its grammar, where 20 (`logprobs`) may be worth their price."""

BLOCKED = "blocked"
"""`Permanent.kind` of a request that the provider's content filter turned away with an error instead of a reply."""

_REASONING = re.compile(r"(?:^|/)(?:o\d|gpt-5)(?!.*chat)")
"""OpenAI's reasoning models refuse a temperature and log-probabilities."""
_NO_MONEY = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_NO_MODEL = frozenset({"model_not_found", "model_deprecated"})
_NO_PICTURES = re.compile(
    r"image input is not supported"  # llama.cpp, with status 500
    r"|is not a multimodal model"  # vLLM 0.8-0.10, 400
    r"|at most 0 image"  # vLLM since 0.11, 400
    r"|unsupported content part type"  # llama.cpp before it knew pictures, 500
    r"|(?:does|do) not support (?:image|vision|multimodal)"  # OpenAI, SGLang
    r"|image[_ ](?:url|inputs?) (?:is|are) (?:only supported by certain models|not supported)"  # OpenAI
    r"|no endpoints found that support image"  # OpenRouter, 404
    r"|mmproj",
    re.IGNORECASE,
)
_TOO_MANY_PICTURES = re.compile(r"at most (\d+) image", re.IGNORECASE)  # vLLM --limit-mm-per-prompt
_TOO_LONG = re.compile(
    r"context_length_exceeded|exceed_context_size|maximum context length|exceeds the (?:available|model's) context|"
    r"longer than the (?:maximum )?model|input is too (?:long|large)|string_above_max_length|is too large to process",
    re.IGNORECASE,
)
_FILTERED = frozenset({"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"})
_SETTING_OF: Mapping[str, str] = {
    "temperature": "set temperature to what the model takes, often 1",
    "logprobs": "set logprobs to 0",
    "top_logprobs": "set logprobs to 0",
    "response_format": "set structured to false",
    "max_completion_tokens": "set max_output_tokens to what the model can write",
    "max_tokens": "set max_output_tokens to what the model can write",
    "seed": "use a model that takes a seed, or one sample",
}


def body(prompt: Prompt, settings: ModelSettings) -> dict[str, Any]:
    """The request's JSON: what is not set is left out, and equal arguments give equal bytes.

    `max_completion_tokens` and not `max_tokens`: OpenAI's newer models refuse the latter, and vLLM, SGLang and llama.cpp take both.

    Raises:
        InvalidInput: the prompt holds a clip that the provider would have to fetch.
    """
    messages: list[dict[str, Any]] = [{"role": "system", "content": prompt.system}] if prompt.system else []
    for turn in prompt.turns:
        messages.append({"role": "assistant" if turn.role == "model" else "user", "content": _content(turn.parts)})
    reasons = bool(_REASONING.search(settings.name.lower()))
    document: dict[str, Any] = {"model": settings.name, "messages": messages, "max_completion_tokens": prompt.max_output_tokens}
    if settings.temperature >= 0 or not reasons:
        document["temperature"] = prompt.temperature
    if prompt.seed is not None:
        document["seed"] = prompt.seed
    if prompt.schema is not None and settings.structured:
        named = {"name": SCHEMA_NAME, "strict": True, "schema": prompt.schema}
        document["response_format"] = {"type": "json_schema", "json_schema": named}
    top = settings.logprobs
    if top < 0:
        top = 0 if reasons else wanted_logprobs(prompt)
    if top:
        document |= {"logprobs": True, "top_logprobs": top}
    return document


def wanted_logprobs(prompt: Prompt) -> int:
    """As many alternatives as the shape of the reply needs: a reply of one word is short, and any permitted word may rank low."""
    return MOST_LOGPROBS if prompt.choices else JSON_LOGPROBS


def _content(parts: tuple[Part, ...]) -> str | list[dict[str, Any]]:
    if len(parts) == 1 and isinstance(parts[0], Text):
        return parts[0].text
    return [_part(part) for part in parts]


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Picture):
        return {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64," + base64.b64encode(part.jpeg).decode()}}
    assert isinstance(part, Clip)
    raise InvalidInput("clips are fetched by Gemini only; leave --clips out, so that the openai annotator is sent frames")


def completion(document: Mapping[str, Any]) -> Completion:
    """What a reply says; never raises on a JSON object, however odd."""
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = choice.get("message")
    message = message if isinstance(message, dict) else {}
    text = _text(message.get("content"))
    finish, detail = _finish(choice, message, text)
    if not choice:
        error = document.get("error")
        detail = _words(error if isinstance(error, dict) else {}, document) or "the reply holds no choice"
    return Completion(
        text=text,
        finish=finish,
        detail=redacted(detail),
        usage=_usage(document.get("usage")),
        model=_string(document.get("model")),
        tokens=_tokens(choice.get("logprobs")),
    )


def _finish(choice: Mapping[str, Any], message: Mapping[str, Any], text: str) -> tuple[Finish, str]:
    reason, refusal = choice.get("finish_reason"), _string(message.get("refusal"))
    if reason == "content_filter":
        return "blocked", _filtered(choice) or "content_filter"
    if refusal:
        return "refused", refusal
    if reason == "length":
        return "length", "the reply was cut off at the token limit"
    if not choice or (not text and reason in ("stop", None)):
        return "empty", "the reply is empty"
    return ("stop", "") if reason == "stop" else ("other", f"finish_reason {reason!r}")


def _filtered(choice: Mapping[str, Any]) -> str:
    """Azure says which categories its filter saw."""
    results = choice.get("content_filter_results")
    if not isinstance(results, dict):
        return ""
    return ", ".join(sorted(str(name) for name, each in results.items() if isinstance(each, dict) and each.get("filtered")))


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(_string(part.get("text")) for part in content if isinstance(part, dict) and part.get("type") == "text")
    return _string(content)


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object) -> int:
    return max(0, value) if isinstance(value, int) and not isinstance(value, bool) else 0


def _usage(usage: object) -> Usage:
    given = usage if isinstance(usage, dict) else {}
    details = given.get("prompt_tokens_details")
    cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    prompt = _count(given.get("prompt_tokens"))
    return Usage(1, prompt, min(cached, prompt), _count(given.get("completion_tokens")))


def _tokens(logprobs: object) -> tuple[Token, ...]:
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        return ()
    try:
        return tuple(Token(*_token(each), tuple(_token(top) for top in each["top_logprobs"])) for each in content)
    except (KeyError, TypeError, ValueError):
        return ()  # half of them would be misread as all


def _token(token: Mapping[str, Any]) -> tuple[str, float]:
    text, logprob = token["token"], float(token["logprob"])
    if not isinstance(text, str) or not logprob < math.inf:
        raise ValueError("no token")
    return text, logprob


def _error_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The error in a body: under "error" (OpenAI, vLLM, llama.cpp), or the body itself (older vLLM, SGLang)."""
    error = document.get("error", document)
    return error if isinstance(error, Mapping) else {"message": error}


def _words(error: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    for words in (error.get("message"), document.get("detail"), document.get("message")):
        if isinstance(words, str) and words.strip():
            return words
    return ""


def problem(
    status: int,
    headers: Mapping[str, str],
    body: object,
    service: Service | None = None,
    now: float | None = None,
) -> VidattrError:
    """What a reply that is not 200 means for the run. See `ModelClient` for the kinds.

    A request that would be refused for every video (a model without eyes, a parameter that the model does not take, no money left)
    is Unavailable whatever its status, so that the run stops instead of dead-lettering a video after the other.

    Args:
        status: of the reply.
        headers: of the reply; Retry-After and retry-after-ms are read.
        body: bytes or text of the reply, or its JSON document.
        service: whom it is about, for the message.
        now: seconds since 1970, for a Retry-After that is a date.
    """
    about = service or Service("the model server")
    document = document_of(body)
    error = _error_of(document)
    words = _words(error, document)
    code, kind, parameter = (_string(error.get(name)) for name in ("code", "type", "param"))
    said = about.said(status, words, body)
    if _FILTERED & {code, kind} or "content management policy" in words:
        return Permanent(said, BLOCKED)
    if _NO_MONEY & {code, kind} or status == 402:
        return Unavailable(f"{said}. The account has no money or no quota left: top it up, then run the same command again")
    if status not in (401, 413, 429) and _NO_PICTURES.search(words):
        return Unavailable(
            f"{said}. The model {about.model!r} cannot see: pass --evidence text, or serve one with eyes (llama.cpp: --mmproj FILE)"
        )
    if status == 413 or (400 <= status < 600 and status != 429 and _TOO_LONG.search(f"{code} {kind} {words}")):
        return Permanent(f"{said}. Send fewer frames, fewer examples or fewer videos a request", "too_large")
    many = _TOO_MANY_PICTURES.search(words)
    if many and status in (400, 422):
        return Unavailable(f"{said}. Pass --frames {many[1]}, or raise the server's limit (vLLM: --limit-mm-per-prompt)")
    wait = retry_after_s(headers, now)
    if status == 429:
        return Transient(said, wait, rejected=True)
    if _NO_MODEL & {code, kind} or status in (404, 405, 410):
        return Unavailable(f"{said}. {_no_model(about)}")
    setting = parameter.split(".")[0]
    if setting in _SETTING_OF and status in (400, 403, 422):
        return Unavailable(f"{said}. Every request would be refused: {_SETTING_OF[setting]}")
    if status in (401, 403):
        return Unavailable(f"{said}. {about.key_remedy[0].upper()}{about.key_remedy[1:]}")
    if 300 <= status < 400:
        return Unavailable(f"{said}. The server is elsewhere: set --base-url to its own address, usually ending in /v1")
    if status == 501:
        return Unavailable(f"{said}. The server cannot do this at all")
    if status in (408, 409, 425, 499) or status >= 500:
        return Transient(said, wait)
    return Permanent(said, "invalid_request")


def _no_model(about: Service) -> str:
    where = about.address or PROVIDER
    key = "" if not about.key_from else ' -H "Authorization: Bearer $KEY"'
    return (
        f"The server has no model {about.model!r}, or is not at this address: list its models with `curl{key} {where}/models`, and "
        "set --model and --base-url"
    )


class OpenAIClient:
    """Carries prompts to a server of chat completions, over `features.annotators.http_posts`.

    The address is the settings', else OPENAI_BASE_URL, else OpenAI's. Only OpenAI's own needs a key; any other is sent one where
    one is found (`api_key_file`, `api_key_env`, OPENAI_API_KEY) and none otherwise. It is picklable while it is closed, and used
    from one event loop between `open` and `close`.

    Args:
        settings: which model, where, and how.

    Raises:
        InvalidInput: no model, or an address that is none.
    """

    def __init__(self, settings: ModelSettings) -> None:
        if not settings.name:
            raise InvalidInput("the openai annotator needs a model: pass --model NAME, as the server knows it")
        if settings.clips:
            raise InvalidInput("--clips is for the gemini annotator: an OpenAI-compatible server is sent frames")
        if settings.base_url:
            checked_address(settings.base_url)
        self.settings = settings
        self._posts: Posts | None = None

    def open(self) -> None:
        """Reads the key. Raises InvalidInput naming where it was looked for."""
        settings = self.settings
        address = checked_address(settings.base_url or os.environ.get(BASE_URL_VARIABLE, "") or PROVIDER)
        asked_for = settings.api_key_file or settings.api_key_env
        key_from = ""
        secrets: tuple[Secret, ...] = ()
        headers: dict[str, str | Secret] = {}
        if asked_for or address == PROVIDER or any(os.environ.get(name, "").strip() for name in KEY_VARIABLES):
            key, key_from = api_key(settings, KEY_VARIABLES)
            secrets, headers = (key,), {"Authorization": Secret(f"Bearer {key.reveal()}")}
        self._posts = Posts(Service("the model server", address, settings.name, key_from, secrets), settings.timeout_s, headers)

    async def complete(self, prompt: Prompt) -> Completion:
        """See `ModelClient`."""
        posts = self._posts
        if posts is None:
            raise RuntimeError("open the client first")
        status, headers, content = await posts.send("/chat/completions", body(prompt, self.settings))
        if status != 200:
            raised = problem(status, headers, content, posts.service)
            if isinstance(raised, Permanent) and raised.kind == BLOCKED:
                return Completion("", "blocked", str(raised), Usage(requests=1), self.settings.name)
            raise raised
        document = posts.read(content)
        error = document.get("error")
        if error and not document.get("choices"):  # a gateway that reports its backend's error under 200
            code = error.get("code") if isinstance(error, dict) else None
            raise problem(code if isinstance(code, int) and 400 <= code < 600 else 502, {}, document, posts.service)
        return completion(document)

    async def close(self) -> None:
        """Closes the connections and forgets the key."""
        posts, self._posts = self._posts, None
        if posts is not None:
            await posts.close()

    def __repr__(self) -> str:
        return f"OpenAIClient({self.settings.name!r})"

    def __getstate__(self) -> dict[str, Any]:
        if self._posts is not None:
            raise TypeError("an open client is not pickled: pickle it before open, or after close")
        return {"settings": self.settings, "_posts": None}
