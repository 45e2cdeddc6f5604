"""The HTTP application: both protocols on one port, and the control of the server beside them."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from features.annotators.model_server import gemini_content, gemini_jobs, openai_chat, openai_jobs
from features.annotators.model_server.asked import Asked
from features.annotators.model_server.configuration import Rule, ServerConfig
from features.annotators.model_server.dialects import Accepted
from features.annotators.model_server.encoding import encoded
from features.annotators.model_server.fields import loaded
from features.annotators.model_server.jobs import Files, Jobs
from features.annotators.model_server.ledger import Ledger
from features.annotators.model_server.model import Model, Reply, seeded
from features.annotators.model_server.pictures import Pictures
from features.annotators.model_server.problems import GOOGLE_API_KEY_INVALID, Refused
from features.annotators.model_server.rulebook import Rulebook
from features.annotators.model_server.slots import Quota, Slots
from features.errors import InvalidInput

Work = Callable[[web.Request], Awaitable[Any]]

_UPLOADS = 512 * 1024 * 1024
_DRIPS = 20


class Application:
    """A model server without its socket.

    Args:
        config: how it behaves.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.ledger = Ledger(config.marker, config.keep_requests, time.monotonic)
        self.rules = Rulebook(config.rules, seeded(config))
        self.model = Model(config, self.ledger, self.rules)
        self.accepted = Accepted(config.count_schema, Pictures(config.decode_images, config.max_picture_side))
        self.slots = Slots(
            config.slots,
            config.overflow == "queue",
            config.latency_s,
            config.sigma,
            seeded(config),
            time.monotonic,
            config.retry_after_s,
        )
        self.quota = Quota(config.requests_per_minute, config.tokens_per_minute, config.quota_window_s, time.monotonic)
        self.files = Files()
        self.jobs = Jobs(self.model, config.batch_delay_s)
        self._numbers = itertools.count(1)

    def routes(self) -> web.Application:
        """The aiohttp application."""
        app = web.Application(client_max_size=_UPLOADS)
        chat = openai_jobs.OpenAIJobs(self.config, self.accepted, self.files, self.jobs)
        google = gemini_jobs.GeminiJobs(self.config, self.accepted, self.files, self.jobs)
        models, beta = "/{version:v1|v1beta|v1beta1}/models", "/{version:v1|v1beta|v1beta1}"
        # Several dots are in a model's name, and one colon ends it.
        vertex = "/{version:v1|v1beta1}/{where:(?:projects/[^/]+/locations/[^/]+/)?}publishers/google/models/{model}:{method}"
        tables: list[tuple[str, str, str, Work]] = [
            ("POST", "/v1/chat/completions", "openai", self._chat),
            ("GET", "/v1/models", "", self._models),
            ("POST", "/v1/files", "openai", chat.upload),
            ("GET", "/v1/files", "openai", chat.list_files),
            ("GET", "/v1/files/{id}", "openai", chat.file),
            ("DELETE", "/v1/files/{id}", "openai", chat.delete_file),
            ("GET", "/v1/files/{id}/content", "openai", chat.content),
            ("POST", "/v1/batches", "openai", chat.create),
            ("GET", "/v1/batches", "openai", chat.list_jobs),
            ("GET", "/v1/batches/{id}", "openai", chat.get),
            ("POST", "/v1/batches/{id}/cancel", "openai", chat.cancel),
            ("POST", models + "/{model}:{method:generateContent}", "gemini", self._generate),
            ("POST", models + "/{model}:{method:countTokens}", "gemini", self._count),
            ("POST", models + "/{model}:{method:batchGenerateContent}", "gemini", google.create),
            ("POST", vertex.replace("{method}", "{method:generateContent}"), "vertex", self._generate),
            ("POST", vertex.replace("{method}", "{method:countTokens}"), "vertex", self._count),
            ("GET", "/{version:v1beta|v1beta1}/models", "gemini", self._models),
            ("POST", "/upload" + beta + "/files", "gemini", google.upload),
            ("GET", "/{version:v1beta}/files", "gemini", google.list_files),
            ("GET", "/{version:v1beta}/files/{id:[^/:]+}", "gemini", google.file),
            ("GET", "/{version:v1beta}/files/{id:[^/:]+}:download", "gemini", google.download),
            ("DELETE", "/{version:v1beta}/files/{id:[^/:]+}", "gemini", google.delete_file),
            ("GET", "/{version:v1beta}/batches", "gemini", google.list_jobs),
            ("GET", "/{version:v1beta}/batches/{id:[^/:]+}", "gemini", google.get),
            ("POST", "/{version:v1beta}/batches/{id:[^/:]+}:cancel", "gemini", google.cancel),
        ]
        if self.config.control:
            tables += [
                ("GET", "/_control/stats", "control", self._stats),
                ("GET", "/_control/requests", "control", self._requests),
                ("POST", "/_control/rules", "control", self._rules),
                ("POST", "/_control/slots", "control", self._slots),
                ("POST", "/_control/reset", "control", self._reset),
                ("POST", "/_control/batches/advance", "control", self._advance),
            ]
        for method, path, protocol, work in tables:
            app.router.add_route(method, path, self._handler(protocol, work))
        app.router.add_route("*", "/{path:.*}", self._handler("", self._nowhere))
        return app

    # What surrounds every request

    def _handler(self, protocol: str, work: Work) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def handle(request: web.Request) -> web.StreamResponse:
            words = protocol or ("gemini" if "x-goog-api-key" in request.headers else "openai")
            path = _path(request)
            ledger = self.ledger
            counted = words != "control"
            ledger.in_flight += counted
            ledger.most_in_flight = max(ledger.most_in_flight, ledger.in_flight)
            try:
                self._authorised(request, words)
                found = await work(request)
                response = found if isinstance(found, web.StreamResponse) else _response(found, 200)
            except Refused as error:
                if error.status == 429:
                    ledger.rejection()
                shape = "gemini" if words in ("gemini", "vertex") else "openai"
                response = _response(error.document(shape), error.status, error.headers)
            except asyncio.CancelledError:
                ledger.cancelled += 1
                ledger.answered(path, 499)
                raise
            finally:
                ledger.in_flight -= counted
            if counted:
                ledger.answered(path, response.status)
            if not response.prepared:
                response.headers["x-request-id"] = f"req_{next(self._numbers):012d}"
            return response

        return handle

    def _authorised(self, request: web.Request, protocol: str) -> None:
        """Raises Refused where the key is not the one that is expected."""
        # Who is on this machine already controls it.
        if not self.config.key or (protocol == "control" and is_loopback(request.remote or "")):
            return
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        given = (
            bearer if protocol in ("openai", "vertex") else request.headers.get("x-goog-api-key") or request.query.get("key", "")
        )
        if protocol == "control":
            given = bearer
        if hmac.compare_digest(given.encode(), self.config.key.encode()):
            return
        if protocol == "gemini":
            if not given:
                raise Refused(
                    403, "Method doesn't allow unregistered callers. Please use API Key or other form of API consumer identity."
                )
            raise Refused(400, "API key not valid. Please pass a valid API key.", details=(GOOGLE_API_KEY_INVALID,))
        if protocol == "vertex":
            raise Refused(401, "Request had invalid authentication credentials.")
        if not given:
            raise Refused(401, "You didn't provide an API key.")
        raise Refused(401, f"Incorrect API key provided: {given[:3]}***.", "invalid_api_key")

    async def _nowhere(self, request: web.Request) -> Any:
        raise Refused(404, f"Unknown request URL: {request.method} {request.path}.", "unknown_url")

    # Generation

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        data = await self._body(request, "openai")
        return await self._answered(request, openai_chat.read(loaded(data, "openai"), self.config, self.accepted))

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        model = request.match_info["model"]
        gemini_content.known(model, self.config, "generateContent")
        document = loaded(await self._body(request, "gemini"), "gemini")
        vertex = "publishers" in request.path
        return await self._answered(request, gemini_content.read(document, model, self.config, self.accepted, vertex))

    async def _count(self, request: web.Request) -> dict[str, Any]:
        model = request.match_info["model"]
        gemini_content.known(model, self.config, "countTokens")
        document = loaded(await self._body(request, "gemini"), "gemini")
        inner = document.pop("generateContentRequest", None)
        document = inner if isinstance(inner, dict) else document
        asked = gemini_content.read(document, model, self.config, self.accepted, "publishers" in request.path)
        return {"totalTokens": asked.input_tokens}

    async def _body(self, request: web.Request, protocol: str) -> bytes:
        most = self.config.max_request_bytes
        data = await request.read()
        if len(data) > most:
            if protocol == "gemini":
                raise Refused(413, f"Request payload size exceeds the limit: {most} bytes.")
            raise Refused(413, f"Request body too large: {len(data)} bytes. The limit is {most} bytes.", "request_too_large")
        return data

    async def _answered(self, request: web.Request, asked: Asked) -> web.StreamResponse:
        """Takes an accepted request through faults, quotas and slots to its answer."""
        rule = self.model.met(asked)
        name, path = rule.do if rule else "", _path(request)
        status, text = 499, ""
        try:
            if rule is not None and rule.do == "hang":
                await (asyncio.sleep(rule.seconds) if rule.seconds else asyncio.Event().wait())
            if rule is not None and rule.do == "close":
                return await _broken_off(request)
            if rule is not None and rule.do == "status":
                self.model.reply(asked, rule, time.time())
            self.quota.take(asked.protocol, asked.input_tokens)
            async with self.slots.served(asked.protocol):
                reply = self.model.reply(asked, rule, time.time())
            status, text = 200, reply.text
            self.quota.used(max(len(reply.text) // 4, 1))
            return await _sent(request, reply)
        except Refused as error:
            status = error.status
            raise
        finally:
            self.ledger.keep(asked, path, status, text, name)

    async def _models(self, request: web.Request) -> dict[str, Any]:
        google = "x-goog-api-key" in request.headers or not request.path.startswith("/v1/")
        return gemini_jobs.models(self.config) if google else openai_jobs.models(self.config)

    # Control

    def stats(self) -> dict[str, Any]:
        """All counts, as JSON."""
        slots = self.slots
        return {
            **self.ledger.document(),
            "slots": {
                "count": slots.count,
                "taken": slots.taken,
                "most_taken": slots.most_taken,
                "most_waiting": slots.most_waiting,
            },
            "latencies": list(slots.latencies),
            "busy_s": slots.busy_s,
        }

    def reset(self) -> None:
        """See `RunningServer.reset`."""
        self.ledger.reset()
        self.slots.reset(seeded(self.config))
        self.rules = self.model.rules = Rulebook(self.config.rules, seeded(self.config))
        self.model.cache = type(self.model.cache)(
            self.config.cache_block_bytes, self.config.cache_blocks, self.config.cache_minimum_tokens
        )

    async def _stats(self, request: web.Request) -> dict[str, Any]:
        return self.stats()

    async def _requests(self, request: web.Request) -> dict[str, Any]:
        return {"requests": list(self.ledger.requests)}

    async def _rules(self, request: web.Request) -> dict[str, Any]:
        """Body: {"rules": [...], "replace": false}."""
        document = loaded(await request.read(), "openai")
        try:
            rules = [Rule.of(each) for each in document.get("rules", ())]
        except InvalidInput as error:
            raise Refused(400, str(error)) from error
        (self.rules.replace if document.get("replace") else self.rules.add)(rules)
        return {"rules": len(rules)}

    async def _slots(self, request: web.Request) -> dict[str, Any]:
        """Body: {"slots": 48}."""
        count = loaded(await request.read(), "openai").get("slots")
        if not isinstance(count, int) or count < 1:
            raise Refused(400, f"slots is {count!r}; write a number from 1 up")
        self.slots.resize(count)
        return {"slots": count}

    async def _reset(self, request: web.Request) -> dict[str, Any]:
        self.reset()
        return {}

    async def _advance(self, request: web.Request) -> dict[str, Any]:
        return {"moved": await self.jobs.advance()}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach, or be, the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _path(request: web.Request) -> str:
    method = request.match_info.get("method")
    if method:
        return f"{request.method} {method}"
    resource = request.match_info.route.resource
    return f"{request.method} {resource.canonical if resource else request.path}"


def _response(found: Any, status: int, headers: Any = None) -> web.Response:
    if isinstance(found, bytes):
        return web.Response(body=found, status=status, headers=headers, content_type="application/octet-stream")
    body = encoded(found)
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


async def _broken_off(request: web.Request) -> web.StreamResponse:
    """Closes the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=499)


async def _sent(request: web.Request, reply: Reply) -> web.StreamResponse:
    """The answer, with what goes wrong on its way."""
    rule = reply.rule
    if rule is None:
        return _response(reply.document, 200)
    body = encoded(reply.document)
    if rule.do == "malformed_body":
        return web.Response(body=body[: int(rule.part * len(body))], content_type="application/json")
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
    await response.prepare(request)
    if rule.do == "cut_body":
        await response.write(body[: int(rule.part * len(body))])
        if request.transport is not None:
            request.transport.close()
        return response
    step = max(1, -(-len(body) // _DRIPS))
    for start in range(0, len(body), step):
        await response.write(body[start : start + step])
        await asyncio.sleep(rule.seconds / _DRIPS)
    await response.write_eof()
    return response
