"""Files and batch jobs of the Gemini API, in the shapes that google-genai sends and parses."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from features.annotators.model_server import gemini_content
from features.annotators.model_server.asked import Asked
from features.annotators.model_server.configuration import ServerConfig
from features.annotators.model_server.dialects import Accepted
from features.annotators.model_server.encoding import compact, encoded, parsed
from features.annotators.model_server.fields import loaded
from features.annotators.model_server.jobs import ENDED, Files, Item, Job, Jobs, StoredFile
from features.annotators.model_server.problems import Refused

PREFIX = "files/"
_STATE = {
    "queued": "BATCH_STATE_PENDING",
    "running": "BATCH_STATE_RUNNING",
    "done": "BATCH_STATE_SUCCEEDED",
    "failed": "BATCH_STATE_FAILED",
    "expired": "BATCH_STATE_EXPIRED",
    "cancelled": "BATCH_STATE_CANCELLED",
}
_RPC_CODE = {400: 3, 401: 16, 403: 7, 404: 5, 429: 8, 499: 1, 500: 13, 503: 14, 504: 4}


class GeminiJobs:
    """Handlers of /upload/v1beta/files, /v1beta/files and /v1beta/batches.

    Args:
        config: of the server.
        accepted: schemas that were checked.
        files, jobs: where they are kept.
    """

    def __init__(self, config: ServerConfig, accepted: Accepted, files: Files, jobs: Jobs) -> None:
        self.config, self.accepted, self.files, self.jobs = config, accepted, files, jobs
        self._uploads: dict[str, tuple[dict[str, Any], str, bytearray]] = {}
        self._numbers = itertools.count(1)

    async def upload(self, request: web.Request) -> web.Response:
        """POST /upload/v1beta/files: begins a resumable upload, takes its pieces, ends it."""
        words = [word.strip() for word in request.headers.get("X-Goog-Upload-Command", "").split(",")]
        if words == ["start"]:
            document = loaded(await request.read() or b"{}", "gemini")
            file = document.get("file") or {}
            kind = request.headers.get("X-Goog-Upload-Header-Content-Type") or file.get("mimeType") or ""
            id = f"upload{next(self._numbers)}"
            self._uploads[id] = (file, str(kind), bytearray())
            url = str(request.url.with_query({"upload_id": id, "upload_protocol": "resumable"}))
            headers = {"X-Goog-Upload-URL": url, "X-Goog-Upload-Status": "active"}
            return web.json_response({}, headers=headers)
        upload = self._uploads.get(request.query.get("upload_id", ""))
        if upload is None or not words or not set(words) <= {"upload", "finalize"}:
            raise Refused(400, "Invalid upload command.")
        file, kind, data = upload
        if request.headers.get("X-Goog-Upload-Offset") != str(len(data)):
            raise Refused(400, f"Invalid upload offset, expected {len(data)}.")
        data += await request.read()
        if "finalize" not in words:
            return web.json_response({}, headers={"X-Goog-Upload-Status": "active"})
        del self._uploads[request.query["upload_id"]]
        name = str(file.get("displayName") or file.get("display_name") or "")
        stored = self.files.add(bytes(data), name, "upload", kind, PREFIX)
        return web.json_response({"file": _file(stored)}, headers={"X-Goog-Upload-Status": "final"})

    async def file(self, request: web.Request) -> dict[str, Any]:
        """GET /v1beta/files/ID"""
        return _file(self._file(request))

    async def download(self, request: web.Request) -> bytes:
        """GET /v1beta/files/ID:download"""
        file = self._file(request)
        if file.purpose == "upload":
            raise Refused(400, "Only generated files can be downloaded.")
        return file.data

    async def list_files(self, request: web.Request) -> dict[str, Any]:
        """GET /v1beta/files"""
        return _page([_file(file) for file in self.files.all(PREFIX)], "files", request)

    async def delete_file(self, request: web.Request) -> dict[str, Any]:
        """DELETE /v1beta/files/ID"""
        self.files.drop(self._file(request).id)
        return {}

    async def create(self, request: web.Request) -> dict[str, Any]:
        """POST /v1beta/models/MODEL:batchGenerateContent"""
        model = request.match_info["model"]
        gemini_content.known(model, self.config, "batchGenerateContent")
        batch = loaded(await request.read(), "gemini").get("batch")
        if not isinstance(batch, dict):
            raise Refused(400, "* BatchGenerateContentRequest.batch: must be specified\n")
        source = batch.get("inputConfig") or batch.get("input_config") or {}
        name = source.get("fileName") or source.get("file_name") or ""
        if name:
            file = self.files.get(name)
            if file is None:
                raise Refused(404, f"File {name} not found.")
            text = file.data.decode("utf-8", "replace")
            items, problems = _lines(text)
        else:
            posted = (source.get("requests") or {}).get("requests") or []
            text = compact(posted)
            items = [Item(str(place), each.get("request"), each.get("metadata")) for place, each in enumerate(posted)]
            problems = [] if items else [{"message": "The batch has no requests."}]
        if problems and not name:
            raise Refused(400, problems[0]["message"])

        def read(body: Any) -> Asked:
            if not isinstance(body, dict):
                raise Refused(400, "request must be an object")
            return gemini_content.read(body, model, self.config, self.accepted)

        job = self.jobs.add(
            "gemini",
            model,
            items,
            read,
            text,
            "batches/",
            name=str(batch.get("displayName") or batch.get("display_name") or ""),
            input_file=name,
            problems=problems,
        )
        return self._job(job)

    async def get(self, request: web.Request) -> dict[str, Any]:
        """GET /v1beta/batches/ID"""
        return self._job(await self._found(request))

    async def list_jobs(self, request: web.Request) -> dict[str, Any]:
        """GET /v1beta/batches"""
        return _page([self._job(job) for job in await self.jobs.all("gemini")], "operations", request)

    async def cancel(self, request: web.Request) -> dict[str, Any]:
        """POST /v1beta/batches/ID:cancel"""
        job = await self._found(request)
        if job.state in ENDED:
            raise Refused(400, f"The batch is in the state {_STATE[job.state]} and cannot be cancelled.")
        await self.jobs.cancel(job)
        return {}

    def _file(self, request: web.Request) -> StoredFile:
        name = PREFIX + request.match_info["id"]
        file = self.files.get(name)
        if file is None:
            raise Refused(403, f"You do not have permission to access the File {name} or it may not exist.")
        return file

    async def _found(self, request: web.Request) -> Job:
        name = f"batches/{request.match_info['id']}"
        job = await self.jobs.get(name)
        if job is None:
            raise Refused(404, f"Batch {name} not found.")
        return job

    def _job(self, job: Job) -> dict[str, Any]:
        """A long-running operation, whose metadata is the batch."""
        kind = "type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch"
        stats = {"requestCount": str(len(job.items)), "pendingRequestCount": str(len(job.items) - job.done - job.failed)}
        stats |= {"successfulRequestCount": str(job.done), "failedRequestCount": str(job.failed)}
        metadata: dict[str, Any] = {
            "@type": kind,
            "name": job.id,
            "model": f"models/{job.model}",
            "displayName": job.name,
            "createTime": _time(job.times["queued"]),
            "updateTime": _time(max(job.times.values())),
            "state": _STATE[job.state],
            "batchStats": stats,
        }
        if job.state in ENDED:
            metadata["endTime"] = _time(max(job.times.values()))
        operation: dict[str, Any] = {"name": job.id, "metadata": metadata, "done": job.state in ENDED}
        if job.state == "failed":
            message = "; ".join(problem["message"] for problem in job.problems[:3]) or "The batch failed."
            operation["error"] = {"code": 13, "message": message}
        elif any(outcome.status for outcome in job.outcomes):
            metadata["output"] = self._output(job)
            if job.state == "done":
                operation["response"] = {"@type": kind, **metadata["output"]}
        return operation

    def _output(self, job: Job) -> dict[str, Any]:
        results = []
        for outcome in job.outcomes:
            if not outcome.status:
                continue
            result: dict[str, Any] = {"key": outcome.item.key} if job.input_file else {}
            if outcome.item.extra is not None:
                result["metadata"] = outcome.item.extra
            if outcome.status == 200:
                result["response"] = outcome.document
            else:
                error = outcome.document["error"]
                result["error"] = {"code": _RPC_CODE.get(outcome.status, 13), "message": error["message"]}
            results.append(result)
        if not job.input_file:
            return {"inlinedResponses": {"inlinedResponses": results}}
        if "responses" not in job.output:
            data = b"".join(encoded(result) + b"\n" for result in results)
            file = self.files.add(data, "", "generated", "application/jsonl", f"{PREFIX}batch-")
            job.output["responses"] = file.id
        return {"responsesFile": job.output["responses"]}


def _lines(text: str) -> tuple[list[Item], list[dict[str, Any]]]:
    items, problems = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = parsed(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or not isinstance(entry.get("request"), dict):
            problems.append({"message": f"Line {number} of the input file is no request."})
        else:
            items.append(Item(str(entry.get("key", "")), entry["request"]))
    return items, problems if items or problems else [{"message": "The input file is empty."}]


def _file(file: StoredFile) -> dict[str, Any]:
    generated = file.purpose == "generated"
    document = {
        "name": file.id,
        "displayName": file.name,
        "mimeType": file.media_type,
        "sizeBytes": str(len(file.data)),
        "createTime": _time(file.created_at),
        "updateTime": _time(file.created_at),
        "state": "ACTIVE",
        "uri": f"https://generativelanguage.googleapis.com/v1beta/{file.id}",
        "source": "GENERATED" if generated else "UPLOADED",
    }
    if generated:
        document["downloadUri"] = f"{document['uri']}:download?alt=media"
    return document


def _page(found: list[dict[str, Any]], kind: str, request: web.Request) -> dict[str, Any]:
    try:
        size, start = int(request.query.get("pageSize", "50")), int(request.query.get("pageToken") or "0")
    except ValueError as error:
        raise Refused(400, "Invalid page size or page token.") from error
    page: dict[str, Any] = {kind: found[start : start + size]}
    if start + size < len(found):
        page["nextPageToken"] = str(start + size)
    return page


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def models(config: ServerConfig) -> dict[str, Any]:
    """GET /v1beta/models"""
    return {
        "models": [
            {
                "name": f"models/{name}",
                "version": "001",
                "displayName": name,
                "inputTokenLimit": config.context_tokens,
                "outputTokenLimit": config.max_output_tokens,
                "supportedGenerationMethods": ["generateContent", "countTokens", "batchGenerateContent"],
            }
            for name in config.models
        ]
    }
