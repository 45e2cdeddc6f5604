"""JSON sent to one model server and its replies brought back, over pooled connections. Nothing is retried in here."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from features.annotators.http_replies import Service, excerpt, proxy_for
from features.annotators.secrets import Secret
from features.errors import Permanent, Transient

if TYPE_CHECKING:
    import aiohttp

LARGEST_REPLY = 64 * 1024 * 1024
"""Bytes, unpacked: twenty log-probabilities a token make ten megabytes of the longest reply there is."""

_SENT_AT_ONCE = 2**20
"""Bytes; larger bodies are handed over in pieces, so that the loop is not held up."""


def as_json(document: Mapping[str, Any]) -> bytes:
    """A document as compact JSON.

    Half a surrogate pair, as a text that was cut may hold, is sent as a question mark: servers refuse it, and orjson does.
    """
    import orjson

    try:
        return orjson.dumps(document)
    except TypeError:
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")


def from_json(content: bytes) -> Any:
    """What JSON says. A model's reply may hold what orjson refuses, such as half an emoji where it was cut off.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deep.
    """
    import orjson

    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return json.loads(content)


class Posts:
    """One session of connections, with no limit of its own on their number; used from one event loop.

    Proxies of the environment are used, but never for loopback, and .netrc is not read. Redirects are not followed. A time-out or a
    cancelled task closes its connection, so that the server can stop too.

    Args:
        service: whom to ask; requests go below its address.
        timeout_s: seconds for one exchange, from the first byte sent to the last one read.
        headers: of every request.
    """

    def __init__(self, service: Service, timeout_s: float, headers: Mapping[str, str | Secret]) -> None:
        self.service = service
        self.timeout_s = timeout_s
        self._headers: dict[str, str | Secret] = {"Content-Type": "application/json", "User-Agent": "vidattr", **headers}
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self, path: str, document: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of the reply to a document that is posted.

        Args:
            path: below the service's address, beginning with a slash, percent-encoded.
            document: made JSON.
            headers: beside those of every request.

        Raises:
            Transient: no whole reply came in time.
            Permanent: the reply is longer than any model's can be.
        """
        import aiohttp
        import yarl

        service = self.service
        sent = as_json(document)
        try:
            if self._session is None:
                self._session = aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=0),
                    timeout=aiohttp.ClientTimeout(total=self.timeout_s),
                    headers={name: value.reveal() if isinstance(value, Secret) else value for name, value in self._headers.items()},
                    proxy=proxy_for(service.address),
                )
            async with self._session.post(
                yarl.URL(service.address + path, encoded=True),
                data=sent if len(sent) <= _SENT_AT_ONCE else io.BytesIO(sent),
                headers=headers,
                allow_redirects=False,
            ) as reply:
                return reply.status, reply.headers, await self._whole(reply)
        except TimeoutError as error:
            raise Transient(f"{service.place} did not answer within {self.timeout_s:g} s; the request was cancelled") from error
        except (aiohttp.ClientError, OSError) as error:
            reason = excerpt(str(error), "", service.secrets)
            raise Transient(f"{service.place} cannot be reached ({type(error).__name__}: {reason})") from error

    async def _whole(self, reply: aiohttp.ClientResponse) -> bytes:
        pieces, size = [], 0
        async for piece in reply.content.iter_any():
            pieces.append(piece)
            size += len(piece)
            if size > LARGEST_REPLY:
                reply.close()
                raise Permanent(f"{self.service.place} answered with more than {LARGEST_REPLY:,} bytes", "reply_too_large")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read(self, content: bytes) -> dict[str, Any]:
        """The JSON object in a reply whose status is 200.

        Raises:
            Transient: it is none, as when a connection or a proxy broke.
        """
        service = self.service
        try:
            document = from_json(content)
        except (ValueError, RecursionError) as error:
            raise Transient(
                f"{service.place} answered 200 with what is not JSON: {excerpt('', content, service.secrets)}"
            ) from error
        if not isinstance(document, dict):
            raise Transient(f"{service.place} answered 200 with JSON that is no object: {excerpt('', content, service.secrets)}")
        return document

    async def close(self) -> None:
        """Closes the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
            await asyncio.sleep(0)  # lets the transports of plain connections end

    def __repr__(self) -> str:
        return f"Posts({self.service.place!r})"
