"""A provider of batch jobs on loopback, in both shapes, whose jobs do exactly what a test says. Nothing happens by itself."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "test-model-001"


@dataclass
class Job:
    """A job as the provider has it; `results` are the lines of its result file, `errors` (OpenAI) those of its error file."""

    id: str
    name: str
    model: str
    requests: list[dict[str, Any]]
    created_at: int
    state: str = "waiting"
    results: list[dict[str, Any] | str] | None = None
    errors: list[dict[str, Any]] | None = None
    detail: str = ""
    cancels_at_once: bool = True


@dataclass
class Provider:
    """What is on the server.

    Attributes:
        files, jobs: by id.
        calls: (method, path) of everything that was asked.
        faults: (what the path begins with or contains, what to do): `drop` makes the job and breaks the connection, a number is a
            status; each is used once.
        on_unknown: called when somebody asks for a job that is not there.
        clock: seconds since 1970.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    calls: list[tuple[str, str]] = field(default_factory=list)
    faults: list[tuple[str, str | int]] = field(default_factory=list)
    openai_url: str = ""
    gemini_url: str = ""
    clock: Callable[[], float] = time.time
    on_unknown: Callable[[], object] = lambda: None

    def made(self) -> int:
        """Jobs that are paid for."""
        return len(self.jobs)

    def only(self) -> Job:
        (job,) = self.jobs.values()
        return job

    def create(self, name: str, model: str, file: str) -> Job:
        requests = [json.loads(line) for line in self.files[file].splitlines()]
        job = Job(f"job-{len(self.jobs)}", name, model, requests, int(self.clock()))
        self.jobs[job.id] = job
        return job

    def fault(self, path: str) -> str | int:
        for number, (part, what) in enumerate(self.faults):
            if part in path:
                del self.faults[number]
                return what
        return ""


Answerer = Callable[[dict[str, Any]], dict[str, Any]]


def openai_result(request: dict[str, Any], text: str, refusal: str | None = None, finish: str = "stop") -> dict[str, Any]:
    """A result line of OpenAI's shape."""
    message = {"role": "assistant", "content": None if refusal else text, "refusal": refusal}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
    }
    response = {"status_code": 200, "request_id": "r", "body": body}
    return {"id": "batch_req_1", "custom_id": request["custom_id"], "response": response, "error": None}


def openai_error(request: dict[str, Any], code: str, status: int | None = None) -> dict[str, Any]:
    """An error line of OpenAI's shape: of a request that was refused with a status, or that was never reached."""
    error = {"code": code, "message": f"said {code}"}
    response = None
    if status is not None:
        response = {"status_code": status, "request_id": "r", "body": {"error": {**error, "type": "t", "param": None}}}
    return {"id": "batch_req_1", "custom_id": request["custom_id"], "response": response, "error": None if status else error}


def gemini_result(request: dict[str, Any], text: str, refusal: str | None = None, finish: str = "STOP") -> dict[str, Any]:
    """A result line of Gemini's shape."""
    usage = {"promptTokenCount": 1000, "candidatesTokenCount": 100, "totalTokenCount": 1100}
    if refusal:
        usage = {"promptTokenCount": 1000, "totalTokenCount": 1000}
        response = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": usage, "modelVersion": MODEL}
    else:
        content = {"role": "model", "parts": [{"text": text}]}
        candidate = {"content": content, "finishReason": finish, "index": 0}
        response = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": MODEL}
    return {"key": request["key"], "response": response}


def gemini_error(request: dict[str, Any], code: str, status: int | None = None) -> dict[str, Any]:
    """An error line of Gemini's shape."""
    return {"key": request["key"], "error": {"code": status or 13, "message": f"said {code}"}}


OPENAI_STATES = {"waiting": "validating", "running": "in_progress", "done": "completed"}
GEMINI_STATES = {"waiting": "PENDING", "running": "RUNNING", "cancelling": "RUNNING", "done": "SUCCEEDED"}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    provider: Provider

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _json(self, document: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._bytes(json.dumps(document).encode(), status, "application/json", headers)

    def _bytes(self, body: bytes, status: int = 200, kind: str = "application/octet-stream", headers: Any = None) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        path = self.path
        self.provider.calls.append((self.command, path.split("?")[0]))
        fault = self.provider.fault(f"{self.command} {path}")
        if isinstance(fault, int):
            self._json({"error": {"message": f"fault {fault}", "code": fault, "status": "X"}}, fault, {"retry-after": "0"})
            return
        if path.startswith("/v1/"):
            self._openai(path[3:].split("?")[0], body, fault)
        else:
            self._gemini(path.split("?")[0], body, fault)

    def _broken(self, fault: str | int) -> bool:
        if fault == "drop":
            self.close_connection = True
            self.connection.close()
        return fault == "drop"

    # OpenAI

    def _openai(self, path: str, body: bytes, fault: str | int) -> None:
        provider = self.provider
        if self.headers.get("authorization") != "Bearer secret-key":
            return self._json({"error": {"message": "bad key", "code": "invalid_api_key"}}, 401)
        if path == "/files":
            boundary = re.search(r"boundary=(\S+)", self.headers["content-type"])
            assert boundary
            parts = body.split(b"--" + boundary.group(1).encode())
            (content,) = [part for part in parts if b"filename=" in part]
            assert any(b'name="purpose"\r\n\r\nbatch' in part for part in parts)
            file = f"file-{len(provider.files)}"
            provider.files[file] = content.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
            size = len(provider.files[file])
            document = {"id": file, "bytes": size, "created_at": 1, "filename": "f", "object": "file", "purpose": "batch"}
            return self._json({**document, "status": "processed"})
        if path == "/batches" and self.command == "POST":
            asked = json.loads(body)
            assert asked["endpoint"] == "/v1/chat/completions" and asked["completion_window"] == "24h"
            job = provider.create(asked["metadata"]["vidattr"], MODEL, asked["input_file_id"])
            assert all(set(line) == {"custom_id", "method", "url", "body"} for line in job.requests)
            return None if self._broken(fault) else self._json(self._openai_job(job))
        if path == "/batches":
            jobs = [self._openai_job(job) for job in reversed(provider.jobs.values())]
            other = {**self._openai_job(Job("not-ours", "", MODEL, [], 5)), "metadata": None}
            return self._json({"object": "list", "data": [other, *jobs], "has_more": False})
        found = re.fullmatch(r"/batches/([^/]+)(/cancel)?", path)
        if found and found[1] in provider.jobs:
            job = provider.jobs[found[1]]
            if found[2]:
                self._cancel(job)
            return self._json(self._openai_job(job))
        found = re.fullmatch(r"/files/([^/]+)-(results|errors)/content", path)
        if found and found[1] in provider.jobs:
            return self._bytes(_lines(getattr(provider.jobs[found[1]], found[2])))
        provider.on_unknown()
        self._json({"error": {"message": "no such thing", "code": "not_found"}}, 404)
        return None

    def _cancel(self, job: Job) -> None:
        if job.state in ("waiting", "running"):
            job.state = "cancelled" if job.cancels_at_once else "cancelling"

    def _openai_job(self, job: Job) -> dict[str, Any]:
        counts = {"total": len(job.requests), "completed": len(job.results or ()), "failed": len(job.errors or ())}
        errors = {"object": "list", "data": [{"code": "bad", "message": job.detail, "line": 1}]} if job.detail else None
        return {
            "id": job.id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "errors": errors,
            "input_file_id": "file-0",
            "completion_window": "24h",
            "status": OPENAI_STATES.get(job.state, job.state),
            "output_file_id": f"{job.id}-results" if job.results is not None else None,
            "error_file_id": f"{job.id}-errors" if job.errors is not None else None,
            "created_at": job.created_at,
            "request_counts": counts,
            "metadata": {"vidattr": job.name},
            "model": job.model,
        }

    # Gemini

    def _gemini(self, path: str, body: bytes, fault: str | int) -> None:
        provider = self.provider
        if path.startswith("/upload/") and self.headers.get("x-goog-upload-command") == "start":
            url = f"{provider.gemini_url}/upload/sent/file-{len(provider.files)}"
            return self._json({}, headers={"x-goog-upload-url": url, "x-goog-upload-status": "active"})
        if path.startswith("/upload/sent/"):
            file = path.rsplit("/", 1)[1]
            provider.files[f"files/{file}"] = provider.files.get(f"files/{file}", b"") + body
            final = "finalize" in self.headers["x-goog-upload-command"]
            document = {"file": {"name": f"files/{file}", "uri": "u", "state": "ACTIVE"}}
            return self._json(document, headers={"x-goog-upload-status": "final" if final else "active"})
        if self.headers.get("x-goog-api-key") != "secret-key":
            return self._json({"error": {"message": "bad key", "code": 401, "status": "UNAUTHENTICATED"}}, 401)
        found = re.fullmatch(r"/v1beta/models/([^/]+):batchGenerateContent", path)
        if found:
            batch = json.loads(body)["batch"]
            job = provider.create(batch["displayName"], found[1], batch["inputConfig"]["fileName"])
            assert all(set(line) == {"key", "request"} for line in job.requests)
            return None if self._broken(fault) else self._json(self._gemini_job(job))
        if path == "/v1beta/batches":
            return self._json({"operations": [self._gemini_job(job) for job in provider.jobs.values()]})
        found = re.fullmatch(r"/v1beta/batches/([^/:]+)(:cancel)?", path)
        if found and found[1] in provider.jobs:
            job = provider.jobs[found[1]]
            if found[2]:
                self._cancel(job)
                return self._json({})
            return self._json(self._gemini_job(job))
        found = re.fullmatch(r"/v1beta/files/([^/:]+)-results:download", path.replace("/download/", "/"))
        if found and found[1] in provider.jobs:
            return self._bytes(_lines(provider.jobs[found[1]].results))
        self._json({"error": {"message": "no such thing", "code": 404, "status": "NOT_FOUND"}}, 404)
        return None

    def _gemini_job(self, job: Job) -> dict[str, Any]:
        state = GEMINI_STATES.get(job.state, job.state.upper())
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(job.created_at))
        metadata: dict[str, Any] = {"displayName": job.name, "state": f"BATCH_STATE_{state}", "createTime": when}
        metadata["model"] = f"models/{job.model}"
        if job.results is not None:
            metadata["output"] = {"responsesFile": f"files/{job.id}-results"}
        return {"name": f"batches/{job.id}", "metadata": metadata}


def _lines(documents: list[Any] | None) -> bytes:
    lines = [document if isinstance(document, str) else json.dumps(document) for document in documents or ()]
    return "\n".join(lines).encode()


@contextlib.contextmanager
def running() -> Iterator[Provider]:
    """A provider on a free port of 127.0.0.1."""
    provider = Provider()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"provider": provider}))
    server.daemon_threads = True
    provider.gemini_url = f"http://127.0.0.1:{server.server_port}"
    provider.openai_url = f"{provider.gemini_url}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
