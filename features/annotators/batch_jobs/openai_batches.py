"""Batch jobs of OpenAI's shape: a JSONL file of chat completions, and files of results and of errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Literal

import openai

from features.annotators import openai_compatible
from features.annotators.batch_jobs.job import BatchJob, Limits, Outcome, State
from features.annotators.batch_jobs.provider import ProviderBatches, by_name, json_line, json_object, reply_in
from features.annotators.exchange import Prompt
from features.annotators.secrets import api_key
from features.annotators.settings import ModelSettings
from features.errors import Permanent, Transient

ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
NAME = "vidattr"
"""Of the metadata field that holds a job's name."""
LIMITS = Limits(requests=50_000, size=200_000_000)
"""From the SDK's `BatchCreateParams`: 50,000 requests and 200 MB."""
STATES: dict[str, State] = {
    "validating": "waiting",
    "in_progress": "running",
    "finalizing": "running",
    "cancelling": "running",
    "completed": "done",
    "failed": "failed",
    "expired": "expired",
    "cancelled": "cancelled",
}
UNREACHED = frozenset({"batch_expired", "batch_cancelled"})
"""Codes of requests that the job did not get to."""


class OpenAIBatches(ProviderBatches):
    """See `Batches`. Works with every server that has OpenAI's files and batches.

    Args:
        settings: model, address, key and time-out.

    Raises:
        InvalidInput: no key.
    """

    provider = "openai"
    limits = LIMITS

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__(settings)
        self._client = openai.OpenAI(
            api_key=api_key(settings, openai_compatible.KEY_VARIABLES)[0].reveal(),
            base_url=settings.base_url or None,
            timeout=self._timeout_s,
            max_retries=0,
        )

    def line(self, custom_id: str, prompt: Prompt) -> bytes:
        """See `Batches`."""
        body = openai_compatible.body(prompt, self.settings)
        return json_line({"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body})

    def submit(self, requests: BinaryIO, name: str) -> BatchJob:
        """See `Batches`."""
        with _explained():
            file = self._client.files.create(file=(f"{name}.jsonl", requests), purpose="batch")
            batch = self._client.batches.create(
                input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h", metadata={NAME: name}
            )
        return self._job(batch)

    def listed(self) -> dict[str, list[BatchJob]]:
        """See `Batches`."""
        with _explained():
            return by_name(self._job(batch) for batch in self._client.batches.list(limit=100))

    def status(self, job: BatchJob) -> BatchJob:
        """See `Batches`."""
        with _explained(job.id):
            return self._job(self._client.batches.retrieve(job.id))

    def cancel(self, job: BatchJob) -> BatchJob:
        """See `Batches`."""
        with _explained(job.id):
            return self._job(self._client.batches.cancel(job.id))

    def fetch(self, job: BatchJob, into: BinaryIO) -> None:
        """See `Batches`."""
        for file in job.result_files:
            with _explained(file), self._client.files.with_streaming_response.content(file) as response:
                last = b"\n"
                for chunk in response.iter_bytes():
                    into.write(chunk)
                    last = chunk[-1:] or last
                if last != b"\n":
                    into.write(b"\n")

    def read(self, line: bytes) -> tuple[str, Outcome]:
        """See `Batches`."""
        document = json_object(line)
        custom_id = document.get("custom_id")
        if not isinstance(custom_id, str):
            raise ValueError("a result line without custom_id")
        response, error = document.get("response"), document.get("error")
        if isinstance(response, dict) and isinstance(response.get("body"), dict):
            status, body = response.get("status_code"), response["body"]
            if status == 200:
                return custom_id, reply_in(openai_compatible.completion, body)
            return custom_id, openai_compatible.problem(int(status or 500), {}, body)
        error = error if isinstance(error, dict) else {}
        code, message = str(error.get("code") or "unknown"), str(error.get("message") or "no reason given")
        if code in UNREACHED:
            return custom_id, Transient(f"the batch job did not get to it ({code})")
        return custom_id, Permanent(f"the batch job failed here: {message[:300]} ({code})", "batch_item")

    def close(self) -> None:
        """See `Batches`."""
        self._client.close()

    def _job(self, batch: Any) -> BatchJob:
        counts, errors = batch.request_counts, (batch.errors.data or []) if batch.errors else []
        return BatchJob(
            id=batch.id,
            provider=self.provider,
            model=batch.model or self.settings.name,
            name=(batch.metadata or {}).get(NAME, ""),
            created_at=float(batch.created_at or 0),
            state=STATES.get(batch.status, "running"),
            request_file=batch.input_file_id,
            result_files=tuple(file for file in (batch.output_file_id, batch.error_file_id) if file),
            total=counts.total if counts else 0,
            done=counts.completed if counts else 0,
            failed=counts.failed if counts else 0,
            detail="; ".join(f"{error.message} ({error.code})" for error in errors[:3])[:500],
        )


@contextmanager
def _explained(what: str = "") -> Iterator[None]:
    """The SDK's errors in our words; 404 about `what` is about it alone."""
    try:
        yield
    except openai.APIStatusError as error:
        if error.status_code == 404 and what:
            raise Permanent(f"OpenAI knows no {what} any more", "not_found") from error
        # The SDK hands on what stands under "error"; lines of a result file have the whole document.
        body = {"error": error.body} if isinstance(error.body, dict) else error.body
        raise openai_compatible.problem(error.status_code, dict(error.response.headers), body) from error
    except (openai.APIConnectionError, openai.APIResponseValidationError) as error:
        raise Transient(f"the server of batch jobs did not answer ({type(error).__name__}); run it again") from error
