"""What it means when Gemini refuses: whether to ask again, to leave this video, or to stop the run, and what a person can do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from features.annotators.http_replies import Service, document_of, retry_after_s
from features.errors import Permanent, Transient, Unavailable, VidattrError

_KEY = "get a key at https://aistudio.google.com/apikey"
_REMEDY_OF_REASON: Mapping[str, str] = {
    "API_KEY_INVALID": "",
    "API_KEY_EXPIRED": "",
    "API_KEY_SERVICE_BLOCKED": "The key may not be used for this service: change its restrictions, or use another one",
    "API_KEY_HTTP_REFERRER_BLOCKED": "The key is restricted to web pages: change its restrictions, or use another one",
    "API_KEY_IP_ADDRESS_BLOCKED": "The key is restricted to other addresses: change its restrictions, or use another one",
    "SERVICE_DISABLED": "Enable the service in the project, wait a few minutes, then run the same command again",
    "BILLING_DISABLED": "Enable billing in the project, then run the same command again",
    "CONSUMER_INVALID": "Check the project's name",
    "CONSUMER_SUSPENDED": "The project is suspended",
    "ACCESS_TOKEN_SCOPE_INSUFFICIENT": "Run `gcloud auth application-default login`, or give the machine the scope cloud-platform",
}
"""By google.rpc.ErrorInfo.reason; empty: what is said about keys."""

_REMEDY_OF_WORDS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), remedy)
    for pattern, remedy in (
        (r"API[ _]?key (?:not valid|not found|expired)|key.* was reported as leaked|pass a valid API key", ""),
        (r"location is not supported|not available in your country", "Use Vertex AI: pass --project and --location"),
        (r"enable billing|billing account|prepayment|credits? (?:are|is) depleted", "Mend the account's billing"),
        (
            r"input modality is not (?:enabled|supported)|does not support (?:image|video|multimodal)",
            "The model cannot see: pass --evidence text, or take a model that can",
        ),
        (r"log_?probs?", "Set logprobs to 0, or take a model that gives log-probabilities"),
        (r"thinking|\bbudget\b", "Set thinking_budget to what the model takes; -1 leaves it to the model"),
        (r"safety_?settings|harm_?category|harm_?block", "Set safety to a threshold that the model takes, or leave it empty"),
        (
            r"response_?schema|too many states|response_?mime_?type|json mode",
            "Ask for fewer attributes a request, or set structured to false",
        ),
        (r"max_?output_?tokens", "Set max_output_tokens to what the model can write"),
        (r"generation_?config", "Take the setting it names out, or take a model that knows it"),
        (r"system_?instruction|developer instruction", "Take a model that knows system instructions"),
    )
)
"""What is refused of one request and would be of every other."""

_TOO_LONG = re.compile(
    r"token count.{0,40} exceeds|exceeds the maximum number of tokens|payload size exceeds|request.{0,20} too large|"
    r"input .{0,20}too long|too many (?:images|videos|pictures)",
    re.IGNORECASE,
)
_NO_QUOTA = re.compile(r"\blimit: 0\b")
_A_DAY = re.compile(r"PerDay", re.IGNORECASE)
_CLIP = re.compile(r"gs://|file[ _]?uri|file_data|fetch content|process input (?:image|video)|inline_data", re.IGNORECASE)
"""Words about one video's own bytes."""


def problem(
    status: int,
    headers: Mapping[str, str],
    body: object,
    service: Service | None = None,
    now: float | None = None,
) -> VidattrError:
    """What a reply that is not 200 means for the run. See `ModelClient` for the kinds.

    A request that would be refused for every video is Unavailable whatever its status, so that the run stops instead of
    dead-lettering a video after the other: Gemini says 400 about a wrong key, and 429 about a quota of nothing.

    Args:
        status: of the reply.
        headers: of the reply; Retry-After counts before RetryInfo in the body.
        body: the whole of it: `{"error": ...}`, also in a list as Vertex AI does, as a document, text or bytes; None: none.
        service: whom it is about, for the message.
        now: seconds since 1970, for a Retry-After that is a date.
    """
    about = service or Service("Gemini")
    error = document_of(body).get("error")
    error = error if isinstance(error, Mapping) else {"message": error}
    words = error.get("message")
    words = words if isinstance(words, str) else ""
    said = about.said(status, words, body)
    if status == 429:
        return _quota(said, words, error, retry_after_s(headers, now))
    if status >= 500 or status in (408, 409, 425, 499):
        if status == 501:
            return Unavailable(f"{said}. The server cannot do this at all")
        wait = retry_after_s(headers, now)
        return Transient(said, _retry_delay_s(error) if wait is None else wait)
    if status == 413 or _TOO_LONG.search(words):
        return Permanent(f"{said}. Send fewer frames, fewer examples or fewer videos a request", "too_large")
    for reason in _reasons(error):
        if reason in _REMEDY_OF_REASON:
            return Unavailable(f"{said}. {_REMEDY_OF_REASON[reason] or _key(about)}")
    own = bool(_CLIP.search(words))
    if status in (400, 404, 422) and own:
        return Permanent(said, "invalid_request")
    if status in (400, 403, 422):
        for pattern, remedy in _REMEDY_OF_WORDS:
            if pattern.search(words) or any(pattern.search(field) for field in _fields(error)):
                return Unavailable(f"{said}. {remedy or _key(about)}")
    if status == 402:
        return Unavailable(f"{said}. Mend the account's billing")
    if status in (401, 403):
        return Unavailable(f"{said}. {_key(about)}")
    if status in (404, 405, 410):
        return Unavailable(
            f"{said}. There is no model {about.model!r} here, or no more: see https://ai.google.dev/gemini-api/docs/models and set "
            "--model; with --project, not every location has every model: set --location"
        )
    if 300 <= status < 400:
        return Unavailable(f"{said}. The server is elsewhere: set --base-url to its own address")
    if status == 400 and error.get("status") == "FAILED_PRECONDITION":
        return Unavailable(f"{said}. The account or the project is not ready for this model")
    return Permanent(said, "invalid_request")


def _key(about: Service) -> str:
    remedy = about.key_remedy
    return f"{remedy[0].upper()}{remedy[1:]}; {_KEY}" if about.key_from or not about.address else f"{remedy[0].upper()}{remedy[1:]}"


def _quota(said: str, words: str, error: Mapping[str, Any], wait: float | None) -> VidattrError:
    quotas = " ".join(str(each.get("quotaId", "")) for each in _details(error, "QuotaFailure", "violations"))
    if _NO_QUOTA.search(words):
        return Unavailable(f"{said}. The account has no quota for this model at all: enable billing, or set another --model")
    if _A_DAY.search(quotas):
        return Unavailable(
            f"{said}. The day's quota is used up: run the same command again tomorrow (it begins at midnight, Pacific time), or "
            "have the quota raised"
        )
    return Transient(said, _retry_delay_s(error) if wait is None else wait, rejected=True)


def _retry_delay_s(error: Mapping[str, Any]) -> float | None:
    """Seconds of google.rpc.RetryInfo, which JSON writes as `39.5s`."""
    for detail in _of_type(error, "RetryInfo"):
        delay = detail.get("retryDelay")
        found = re.fullmatch(r"(\d+(?:\.\d+)?)s", delay) if isinstance(delay, str) else None
        if found:
            return float(found[1])
    return None


def _reasons(error: Mapping[str, Any]) -> Iterator[str]:
    for detail in _of_type(error, "ErrorInfo"):
        yield str(detail.get("reason"))


def _fields(error: Mapping[str, Any]) -> Iterator[str]:
    for each in _details(error, "BadRequest", "fieldViolations"):
        yield str(each.get("field"))


def _of_type(error: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    details = error.get("details")
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, Mapping) and str(detail.get("@type", "")).endswith(f".{name}"):
            yield detail


def _details(error: Mapping[str, Any], name: str, below: str) -> Iterator[Mapping[str, Any]]:
    for detail in _of_type(error, name):
        each = detail.get(below)
        yield from (one for one in (each if isinstance(each, list) else ()) if isinstance(one, Mapping))
