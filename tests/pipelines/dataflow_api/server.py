"""A Dataflow service on loopback that takes jobs, plays a script of states, and records every request.

It speaks the part of the REST API v1b3 that Beam's client uses (create and get a job, its messages and metrics), and the OAuth
token endpoint of the throwaway credentials that `credentials_file` writes. Beam speaks REST only to an endpoint with the word
`localhost` in it.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

JOBS = re.compile(r"/v1b3/projects/([^/]+)/locations/([^/]+)/jobs")
JOB = re.compile(r"/v1b3/projects/([^/]+)/locations/([^/]+)/jobs/([^/]+?)(/messages|/metrics)?")


@dataclass(frozen=True)
class Request:
    """One request as it came in."""

    method: str
    path: str
    authorization: str
    body: bytes


@dataclass
class DataflowApi:
    """Serves until `close`.

    Attributes:
        state: what a job is in once it was asked for, such as JOB_STATE_DONE.
        error: text of the one error message of a job, if any.
        jobs: every job by id, as it was sent.
        requests: every request, in order.
    """

    state: str = "JOB_STATE_RUNNING"
    error: str = ""
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                return

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.partition("?")[0]
                api.requests.append(Request(self.command, path, self.headers.get("Authorization", ""), body))
                status, document = api.respond(self.command, path, body)
                content = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://localhost:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def respond(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and document for one request."""
        if path == "/token":
            return 200, {"access_token": "loopback", "expires_in": 3600, "token_type": "Bearer"}
        if method == "POST" and (found := JOBS.fullmatch(path)):
            job_id = f"2026-11-25_00_00_00-{len(self.jobs) + 1}"
            self.jobs[job_id] = json.loads(body)
            return 200, self._job(job_id, found[1], found[2], "JOB_STATE_PENDING")
        found = JOB.fullmatch(path)
        if found is None or found[3] not in self.jobs:
            return 404, {"error": {"code": 404, "message": f"nothing at {path}", "status": "NOT_FOUND"}}
        if found[4] == "/messages":
            message = {
                "id": "1",
                "time": "2026-11-25T00:00:01Z",
                "messageImportance": "JOB_MESSAGE_ERROR",
                "messageText": self.error,
            }
            return 200, {"jobMessages": [message] if self.error else []}
        if found[4] == "/metrics":
            return 200, {"metrics": []}
        return 200, self._job(found[3], found[1], found[2], self.state)

    def _job(self, job_id: str, project: str, location: str, state: str) -> dict[str, Any]:
        sent = self.jobs[job_id]
        return {"id": job_id, "projectId": project, "location": location, "currentState": state, "name": sent["name"]}


def credentials_file(path: Path, token_uri: str) -> Path:
    """A throwaway service account that google.auth finds at once; only `token_uri` is ever asked for a token."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    account = {
        "type": "service_account",
        "project_id": "loopback",
        "private_key_id": "1",
        "private_key": key.decode(),
        "client_email": "tester@loopback.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": token_uri,
    }
    path.write_text(json.dumps(account))
    return path
