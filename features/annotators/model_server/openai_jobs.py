"""Files and batches of the OpenAI API."""

from __future__ import annotations

import time
from typing import Any

from aiohttp import web

from features.annotators.model_server import openai_chat
from features.annotators.model_server.configuration import ServerConfig
from features.annotators.model_server.dialects import Accepted
from features.annotators.model_server.encoding import encoded, parsed
from features.annotators.model_server.fields import loaded
from features.annotators.model_server.jobs import Files, Item, Job, Jobs, StoredFile
from features.annotators.model_server.problems import Refused

ENDPOINT = "/v1/chat/completions"
MOST_REQUESTS, MOST_BYTES = 50_000, 200 * 1024 * 1024
"""OpenAI's guide to the Batch API, "Batch API limits"."""

_STATUS = {"queued": "validating", "running": "in_progress", "done": "completed"}


class OpenAIJobs:
    """Handlers of /v1/files and /v1/batches.

    Args:
        config: of the server.
        accepted: schemas that were checked.
        files, jobs: where they are kept.
    """

    def __init__(self, config: ServerConfig, accepted: Accepted, files: Files, jobs: Jobs) -> None:
        self.config, self.accepted, self.files, self.jobs = config, accepted, files, jobs

    async def upload(self, request: web.Request) -> dict[str, Any]:
        """POST /v1/files"""
        if not request.content_type.startswith("multipart/"):
            raise Refused(400, "Expected multipart/form-data.", param="file")
        form = await request.post()
        unknown = [name for name in form if name not in ("file", "purpose") and not name.startswith("expires_after")]
        if unknown:
            raise Refused(400, f"Unknown parameter: '{unknown[0]}'.", "unknown_parameter", unknown[0])
        file, purpose = form.get("file"), form.get("purpose")
        if not isinstance(file, web.FileField):
            raise Refused(400, "'file' is a required property", param="file")
        if purpose not in ("batch", "assistants", "fine-tune", "vision", "user_data", "evals"):
            raise Refused(400, f"{purpose!r} is not one of the purposes", "invalid_value", "purpose")
        data = file.file.read()
        if purpose == "batch":
            if not file.filename.endswith(".jsonl"):
                raise Refused(400, "Invalid file format for Batch API. Must be .jsonl", param="file")
            if len(data) > MOST_BYTES:
                raise Refused(413, f"File is too large: {len(data)} bytes. The limit is {MOST_BYTES} bytes.")
        return _file(self.files.add(data, file.filename, str(purpose)))

    async def file(self, request: web.Request) -> dict[str, Any]:
        """GET /v1/files/ID"""
        return _file(self._file(request))

    async def content(self, request: web.Request) -> bytes:
        """GET /v1/files/ID/content"""
        return self._file(request).data

    async def list_files(self, request: web.Request) -> dict[str, Any]:
        """GET /v1/files"""
        return _page([_file(file) for file in self.files.all("file-")], request)

    async def delete_file(self, request: web.Request) -> dict[str, Any]:
        """DELETE /v1/files/ID"""
        file = self._file(request)
        return {"id": file.id, "object": "file", "deleted": self.files.drop(file.id)}

    async def create(self, request: web.Request) -> dict[str, Any]:
        """POST /v1/batches"""
        document = loaded(await request.read(), "openai")
        for name in document:
            if name not in ("input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"):
                raise Refused(400, f"Unknown parameter: '{name}'.", "unknown_parameter", name)
        if document.get("endpoint") != ENDPOINT:
            raise Refused(400, f"Invalid value: {document.get('endpoint')!r}.", "invalid_value", "endpoint")
        if document.get("completion_window") != "24h":
            raise Refused(400, "Invalid value for 'completion_window': supported is '24h'.", "invalid_value", "completion_window")
        metadata = document.get("metadata") or {}
        fits = isinstance(metadata, dict) and len(metadata) <= 16
        if not fits or not all(isinstance(v, str) and len(k) <= 64 and len(v) <= 512 for k, v in metadata.items()):
            raise Refused(400, "Invalid 'metadata': up to 16 texts of at most 512 characters.", "invalid_type", "metadata")
        file = self.files.get(str(document.get("input_file_id")))
        if file is None or file.purpose != "batch":
            raise Refused(400, f"Invalid 'input_file_id': no batch file {document.get('input_file_id')!r}.", param="input_file_id")
        items, problems = _items(file.data)
        model = str(items[0].body.get("model", "")) if items else ""
        job = self.jobs.add(
            "openai",
            model,
            items,
            self._read,
            file.data.decode("utf-8", "replace"),
            "batch_",
            input_file=file.id,
            fields={"metadata": metadata or None},
            problems=problems,
        )
        return self._job(job)

    async def get(self, request: web.Request) -> dict[str, Any]:
        """GET /v1/batches/ID"""
        return self._job(await self._found(request))

    async def list_jobs(self, request: web.Request) -> dict[str, Any]:
        """GET /v1/batches"""
        return _page([self._job(job) for job in await self.jobs.all("openai")], request)

    async def cancel(self, request: web.Request) -> dict[str, Any]:
        """POST /v1/batches/ID/cancel"""
        job = await self._found(request)
        if job.state in ("done", "failed", "expired"):
            raise Refused(409, f"Cannot cancel a batch with status '{_STATUS.get(job.state, job.state)}'.")
        await self.jobs.cancel(job)
        return self._job(job)

    def _read(self, body: Any) -> Any:
        return openai_chat.read(body, self.config, self.accepted)

    def _file(self, request: web.Request) -> StoredFile:
        id = request.match_info["id"]
        file = self.files.get(id)
        if file is None:
            raise Refused(404, f"No such File object: {id}", param="id")
        return file

    async def _found(self, request: web.Request) -> Job:
        id = request.match_info["id"]
        job = await self.jobs.get(id)
        if job is None or job.protocol != "openai":
            raise Refused(404, f"No batch found with id '{id}'.")
        return job

    def _job(self, job: Job) -> dict[str, Any]:
        self._write_results(job)
        at = {state: int(when) for state, when in job.times.items()}
        errors = {"object": "list", "data": job.problems} if job.state == "failed" else None
        if errors is not None and not errors["data"]:
            errors["data"] = [{"code": "internal_error", "message": "The batch failed.", "line": None, "param": None}]
        return {
            "id": job.id,
            "object": "batch",
            "endpoint": ENDPOINT,
            "model": job.model,
            "errors": errors,
            "input_file_id": job.input_file,
            "completion_window": "24h",
            "status": _STATUS.get(job.state, job.state),
            "output_file_id": job.output.get("output"),
            "error_file_id": job.output.get("error"),
            "created_at": at["queued"],
            "in_progress_at": at.get("running"),
            "expires_at": at["queued"] + 86_400,
            "finalizing_at": at.get("done"),
            "completed_at": at.get("done"),
            "failed_at": at.get("failed"),
            "expired_at": at.get("expired"),
            "cancelling_at": at.get("cancelled"),
            "cancelled_at": at.get("cancelled"),
            "request_counts": {"total": len(job.items), "completed": job.done, "failed": job.failed},
            **job.fields,
        }

    def _write_results(self, job: Job) -> None:
        if job.output or not job.outcomes:
            return
        missed = {
            "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
            "cancelled": ("batch_cancelled", "This request was cancelled."),
        }
        lines: dict[str, list[bytes]] = {"output": [], "error": []}
        for number, outcome in enumerate(job.outcomes, 1):
            line: dict[str, Any] = {"id": f"batch_req_{job.id[-8:]}{number:06d}", "custom_id": outcome.item.key}
            if outcome.status:
                line["response"] = {"status_code": outcome.status, "request_id": f"req_{number:06d}", "body": outcome.document}
                line["error"] = None
            else:
                code, message = missed[job.state]
                line |= {"response": None, "error": {"code": code, "message": message}}
            lines["output" if outcome.status == 200 else "error"].append(encoded(line))
        for kind, found in lines.items():
            if found:
                data = b"\n".join(found) + b"\n"
                job.output[kind] = self.files.add(data, f"{job.id}_{kind}.jsonl", "batch_output").id


def _items(data: bytes) -> tuple[list[Item], list[dict[str, Any]]]:
    """(requests, what is wrong with the file): the job fails where anything is."""
    items: list[Item] = []
    problems: list[dict[str, Any]] = []
    keys: set[str] = set()

    def wrong(line: int, code: str, message: str, param: str | None = None) -> None:
        problems.append({"code": code, "message": message, "line": line, "param": param})

    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entry = parsed(line)
        except ValueError:
            wrong(number, "invalid_json_line", "This line is not parseable as valid JSON.")
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get("body"), dict):
            wrong(number, "missing_required_parameter", "Missing required parameter: 'body'.", "body")
            continue
        key = entry.get("custom_id")
        if not isinstance(key, str) or not key:
            wrong(number, "missing_required_parameter", "Missing required parameter: 'custom_id'.", "custom_id")
        elif key in keys:
            wrong(number, "duplicate_custom_id", f"The custom_id '{key}' is used by another line.", "custom_id")
        elif entry.get("method") != "POST" or entry.get("url") != ENDPOINT:
            wrong(number, "mismatched_endpoint", "method and url have to be those of the batch.", "url")
        elif items and entry["body"].get("model") != items[0].body.get("model"):
            wrong(number, "mismatched_model", "All requests of a batch have to name the same model.", "body.model")
        else:
            keys.add(key)
            items.append(Item(key, entry["body"]))
    if not items and not problems:
        wrong(1, "empty_file", "The input file is empty.")
    if len(items) > MOST_REQUESTS:
        wrong(MOST_REQUESTS + 1, "too_many_tasks", f"A batch holds at most {MOST_REQUESTS} requests.")
    return items, problems


def _file(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": len(file.data),
        "created_at": int(file.created_at),
        "filename": file.name,
        "purpose": file.purpose,
        "status": "processed",
        "expires_at": None,
    }


def _page(found: list[dict[str, Any]], request: web.Request) -> dict[str, Any]:
    """A page of a list, after the id of the query."""
    try:
        limit = int(request.query.get("limit", "20" if "batches" in request.path else "10000"))
    except ValueError as error:
        raise Refused(400, "Invalid 'limit': expected an integer.", "invalid_type", "limit") from error
    ids = [each["id"] for each in found]
    after = request.query.get("after")
    start = ids.index(after) + 1 if after in ids else 0
    page = found[start : start + limit]
    ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
    return {"object": "list", "data": page, "has_more": start + limit < len(found), **ends}


def models(config: ServerConfig) -> dict[str, Any]:
    """GET /v1/models"""
    created = int(time.time())
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": created, "owned_by": "test"} for name in config.models],
    }
