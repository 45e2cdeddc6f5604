"""What all model servers share: when to come back, what was said in an error, and where requests go."""

from __future__ import annotations

import ipaddress
import json
import math
import time
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from features.annotators.secrets import Secret, redacted
from features.errors import InvalidInput

LONGEST_EXCERPT = 300
"""Characters of a server's own words that go into a message."""


def retry_after_s(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that a server asks to wait; None where it does not say so in a way that can be read.

    `retry-after-ms` (OpenAI) counts before `Retry-After`, which is a number of seconds or a date (RFC 9110, section 10.2.3).

    Args:
        headers: of the reply, in any case.
        now: seconds since 1970, for dates; None: now.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    milliseconds = _number(lower.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    given = lower.get("retry-after")
    seconds = _number(given)
    if seconds is not None or not given:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - (time.time() if now is None else now))
    except (ValueError, OverflowError):
        return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return max(0.0, number) if math.isfinite(number) else None


def document_of(body: object) -> dict[str, Any]:
    """The JSON object in a body (bytes, text, or a document already); an empty one where there is none."""
    if isinstance(body, bytes | bytearray | str):
        try:
            body = json.loads(body)
        except (ValueError, RecursionError):
            return {}
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    return dict(body) if isinstance(body, Mapping) else {}


def excerpt(words: object, body: object, secrets: Iterable[Secret] = ()) -> str:
    """What a server said, for a message: one bounded line without secrets.

    Args:
        words: its message, where one was found.
        body: the whole reply, which is quoted where there is no message.
        secrets: to be cut out, besides what looks like a key.
    """
    if isinstance(words, str) and words.strip():
        text = words
    elif isinstance(body, bytes | bytearray):
        text = body[: 4 * LONGEST_EXCERPT].decode("utf-8", "replace")
    elif isinstance(body, str):
        text = body[: 4 * LONGEST_EXCERPT]
    else:
        text = json.dumps(body, default=str)[: 4 * LONGEST_EXCERPT] if body else ""
    # Before it is cut: half a key is no longer recognised.
    line = " ".join("".join(character if character.isprintable() else " " for character in redacted(text, secrets)).split())
    if not line:
        return "it gave no reason"
    return line if len(line) <= LONGEST_EXCERPT else line[: LONGEST_EXCERPT - 3] + "..."


def checked_address(base_url: str) -> str:
    """A base URL without the slash at its end. Raises InvalidInput for one that is not http or https, or that holds a password."""
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
        _ = parts.port
    except ValueError:
        usable = False
    if not usable:
        raise InvalidInput(f"base_url is {redacted(base_url)!r}; write an address such as http://127.0.0.1:8000/v1")
    if "@" in parts.netloc:
        raise InvalidInput("base_url holds a user name or a password; leave them out and pass the key with --api-key-file FILE")
    return base_url.rstrip("/")


def proxy_for(base_url: str) -> str | None:
    """The proxy of the environment (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY) for an address; None on loopback, always."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    if is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


@dataclass(frozen=True)
class Service:
    """Whom an error is about, for the words of a message.

    Attributes:
        name: of the service, such as Gemini.
        address: its base URL, empty where it is not known.
        model: id of the model that was asked.
        key_from: where the key came from, see `features.annotators.secrets.api_key`; empty: none was sent.
        secrets: to be cut out of what it says.
    """

    name: str
    address: str = ""
    model: str = ""
    key_from: str = ""
    secrets: tuple[Secret, ...] = ()

    @property
    def place(self) -> str:
        return self.address or self.name

    @property
    def key_remedy(self) -> str:
        """What to do about a key that is refused."""
        if not self.key_from:
            return "it may want a key: set the environment variable that --api-key-env names, or pass --api-key-file FILE"
        return f"the key came from {self.key_from}: check it, and that it may use the model {self.model!r}"

    def said(self, status: int, words: object, body: object) -> str:
        """The beginning of a message: who answered what."""
        return f"{self.place} answered {status}: {excerpt(words, body, self.secrets)}".rstrip(".")
