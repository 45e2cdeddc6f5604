"""Refusals, in the shapes in which the two providers write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

RPC_STATUS: Mapping[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    410: "NOT_FOUND",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
"""Names of google.rpc.Code by the HTTP status they travel under."""

GOOGLE_API_KEY_INVALID: Mapping[str, Any] = {
    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
    "reason": "API_KEY_INVALID",
    "domain": "googleapis.com",
    "metadata": {"service": "generativelanguage.googleapis.com"},
}


@dataclass
class Refused(Exception):
    """A request that gets no reply.

    Attributes:
        status: of HTTP.
        message: for a person.
        code, param: OpenAI's word for it, and the field that is wrong.
        kind: OpenAI's type; empty: by the status.
        details: Gemini's typed details.
        headers: of the answer.
    """

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    kind: str = ""
    details: Sequence[Mapping[str, Any]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)

    def document(self, protocol: str) -> dict[str, Any]:
        """The body of the answer."""
        if protocol == "gemini":
            error: dict[str, Any] = {
                "code": self.status,
                "message": self.message,
                "status": RPC_STATUS.get(self.status, "INTERNAL" if self.status >= 500 else "FAILED_PRECONDITION"),
            }
            if self.details:
                error["details"] = list(self.details)
            return {"error": error}
        kind = self.kind or ("server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def too_many(protocol: str, what: str, wait_s: float) -> Refused:
    """A 429 that says how long to wait, if it is to.

    Args:
        protocol: whose words.
        what: `requests` or `tokens`, whatever ran out.
        wait_s: seconds; 0: it does not say.
    """
    if not wait_s:
        return Refused(429, f"Too many {what}.", "rate_limit_exceeded", kind=what)
    if protocol == "gemini":
        retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{wait_s:.3f}s"}
        return Refused(
            429,
            f"You exceeded your current quota of {what}. Please retry in {wait_s:.3f}s.",
            details=(retry,),
            headers={"Retry-After": f"{wait_s:.3g}"},
        )
    return Refused(
        429,
        f"Rate limit reached on {what}. Please try again in {wait_s:.3f}s.",
        "rate_limit_exceeded",
        kind=what,
        headers={"Retry-After": f"{wait_s:.3g}", "retry-after-ms": f"{1000 * wait_s:.0f}"},
    )
