"""Batch jobs of the Gemini API: a JSONL file of keyed requests, and a file of keyed responses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

import httpx
from google import genai
from google.genai import errors, types

from features.annotators import gemini
from features.annotators.batch_jobs.job import BatchJob, Limits, Outcome, State
from features.annotators.batch_jobs.provider import ProviderBatches, by_name, json_line, json_object, reply_in
from features.annotators.exchange import Prompt
from features.annotators.secrets import api_key
from features.annotators.settings import ModelSettings
from features.errors import InvalidInput, Permanent, Transient

LIMITS = Limits(requests=50_000, size=2_000_000_000)
"""Input files hold up to 2 GB by the Gemini API's documentation (batch mode); the number of requests is our own bound."""
STATES: dict[str, State] = {
    "JOB_STATE_UNSPECIFIED": "waiting",
    "JOB_STATE_QUEUED": "waiting",
    "JOB_STATE_PENDING": "waiting",
    "JOB_STATE_PAUSED": "waiting",
    "JOB_STATE_RUNNING": "running",
    "JOB_STATE_UPDATING": "running",
    "JOB_STATE_CANCELLING": "running",
    "JOB_STATE_SUCCEEDED": "done",
    "JOB_STATE_PARTIALLY_SUCCEEDED": "done",
    "JOB_STATE_FAILED": "failed",
    "JOB_STATE_CANCELLED": "cancelled",
    "JOB_STATE_EXPIRED": "expired",
}
HTTP_OF_RPC = {1: 499, 3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 13: 500, 14: 503, 16: 401}
"""Status of HTTP for one of google.rpc.Code, from its definition."""
ABOUT_EVERYBODY = frozenset({401, 403, 404})
"""Of one item they say nothing about the others, which came back."""


class GeminiBatches(ProviderBatches):
    """See `Batches`. With an API key; Vertex AI takes and gives its files in buckets, which is not built.

    Args:
        settings: model, address, key and time-out.

    Raises:
        InvalidInput: no key, or settings for Vertex AI.
    """

    provider = "gemini"
    limits = LIMITS

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        if settings.project:
            raise InvalidInput("batch jobs need the Gemini API with a key: leave out --project, or leave out --batch-jobs")
        self._client = genai.Client(
            api_key=api_key(settings, gemini.KEY_VARIABLES)[0].reveal(),
            vertexai=False,
            http_options=types.HttpOptions(base_url=settings.base_url or None, timeout=round(1000 * self._timeout_s)),
        )

    def line(self, custom_id: str, prompt: Prompt) -> bytes:
        """See `Batches`."""
        return json_line({"key": custom_id, "request": gemini.body(prompt, self.settings)})

    def submit(self, requests: BinaryIO, name: str) -> BatchJob:
        """See `Batches`."""
        with _explained():
            try:
                file = self._client.files.upload(
                    file=cast(Any, requests), config=types.UploadFileConfig(display_name=name, mime_type="jsonl")
                )
            except (KeyError, ValueError) as error:  # how the SDK says that an upload was cut short
                raise Transient(f"the request file did not arrive ({error}); run it again") from error
            batch = self._client.batches.create(
                model=self.settings.name, src=file.name or "", config=types.CreateBatchJobConfig(display_name=name)
            )
        return self._job(batch, file.name or "")

    def listed(self) -> dict[str, list[BatchJob]]:
        """See `Batches`."""
        with _explained():
            return by_name(self._job(batch) for batch in self._client.batches.list(config={"page_size": 100}))

    def status(self, job: BatchJob) -> BatchJob:
        """See `Batches`."""
        with _explained(job.id):
            return self._job(self._client.batches.get(name=job.id), job.request_file)

    def cancel(self, job: BatchJob) -> BatchJob:
        """See `Batches`."""
        with _explained(job.id):
            self._client.batches.cancel(name=job.id)
        return self.status(job)

    def fetch(self, job: BatchJob, into: BinaryIO) -> None:
        """See `Batches`."""
        for file in job.result_files:
            with _explained(file):
                self._client.files.download(file=file, destination=cast(Any, into))
            into.write(b"\n")

    def read(self, line: bytes) -> tuple[str, Outcome]:
        """See `Batches`."""
        document = json_object(line)
        key = document.get("key")
        if not isinstance(key, str):
            raise ValueError("a result line without key")
        if isinstance(document.get("response"), dict):
            return key, reply_in(gemini.completion, document["response"])
        error = document.get("error") or document.get("status")
        error = error if isinstance(error, dict) else {}
        code = error.get("code")
        status = HTTP_OF_RPC.get(code, code) if isinstance(code, int) else 500
        if status in ABOUT_EVERYBODY:
            return key, Permanent(f"the batch job failed here: {str(error.get('message', ''))[:300]} ({code})", "batch_item")
        return key, gemini.problem(status, {}, {"error": error})

    def close(self) -> None:
        """See `Batches`."""
        self._client.close()

    def _job(self, batch: types.BatchJob, request_file: str = "") -> BatchJob:
        results = batch.dest.file_name if batch.dest else None
        stats, error = batch.completion_stats, batch.error
        done, failed = (stats.successful_count or 0, stats.failed_count or 0) if stats else (0, 0)
        return BatchJob(
            id=batch.name or "",
            provider=self.provider,
            model=(batch.model or self.settings.name).removeprefix("models/"),
            name=batch.display_name or "",
            created_at=batch.create_time.timestamp() if batch.create_time else 0.0,
            state=STATES.get(batch.state.name if batch.state else "", "running"),
            request_file=request_file,
            result_files=(results,) if results else (),
            total=done + failed + max(0, stats.incomplete_count or 0) if stats else 0,
            done=done,
            failed=failed,
            detail=f"{error.message} ({error.code})"[:500] if error else "",
        )


@contextmanager
def _explained(what: str = "") -> Iterator[None]:
    """The SDK's errors in our words; 404 about `what` is about it alone."""
    try:
        yield
    except errors.APIError as error:
        if error.code == 404 and what:
            raise Permanent(f"Gemini knows no {what} any more", "not_found") from error
        headers = dict(getattr(error.response, "headers", None) or {})
        raise gemini.problem(error.code, headers, error.details) from error
    except httpx.HTTPError as error:
        raise Transient(f"the server of batch jobs did not answer ({type(error).__name__}); run it again") from error
