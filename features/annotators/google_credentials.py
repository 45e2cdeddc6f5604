"""Access tokens of Google Cloud for the machine's own credentials, renewed beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from features.annotators.secrets import redacted
from features.errors import InvalidInput, Transient, Unavailable

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
LOGIN = "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a service account's file"


class AccessTokens:
    """Headers that carry a valid access token.

    Args:
        timeout_s: seconds to wait for one.

    Raises:
        InvalidInput: the machine has no credentials.
    """

    def __init__(self, timeout_s: float) -> None:
        import google.auth
        import google.auth.exceptions

        try:
            self._credentials: Any = google.auth.default(scopes=[SCOPE])[0]
        except (google.auth.exceptions.GoogleAuthError, OSError, ValueError) as error:
            raise InvalidInput(f"this machine has no credentials for Vertex AI ({redacted(str(error))}): {LOGIN}") from error
        self._timeout_s = timeout_s
        self._renewal: asyncio.Task[None] | None = None

    async def headers(self) -> Mapping[str, str]:
        """Authorization, and the project that is billed where the credentials name one.

        Raises:
            Transient: the token server did not answer.
            Unavailable: it refused.
        """
        if not self._credentials.valid:
            if self._renewal is None or self._renewal.done():
                self._renewal = asyncio.create_task(asyncio.to_thread(self._renew))
                self._renewal.add_done_callback(lambda renewal: renewal.cancelled() or renewal.exception())
            # Shielded: one request that is cancelled leaves the others their token.
            try:
                await asyncio.wait_for(asyncio.shield(self._renewal), self._timeout_s)
            except TimeoutError as error:
                raise Transient(f"Google gave no access token within {self._timeout_s:g} s") from error
        headers = {"Authorization": f"Bearer {self._credentials.token}"}
        if self._credentials.quota_project_id:
            headers["x-goog-user-project"] = self._credentials.quota_project_id
        return headers

    def _renew(self) -> None:
        import google.auth.exceptions
        import google.auth.transport.requests

        try:
            self._credentials.refresh(google.auth.transport.requests.Request())
        except google.auth.exceptions.GoogleAuthError as error:
            said = f"Google gave no access token ({redacted(str(error))[:300]})"
            if isinstance(error, google.auth.exceptions.TransportError) or error.retryable:
                raise Transient(said) from error
            raise Unavailable(f"{said}: {LOGIN}") from error

    def __repr__(self) -> str:
        return "AccessTokens()"
