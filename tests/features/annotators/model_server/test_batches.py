from __future__ import annotations

import io
import json
import time
from typing import Any

import openai
import pytest
from google.genai import types

from features.annotators.model_server import Rule
from tests.features.annotators.model_server.asking_servers import SYSTEM, chat, generate, schema, shown

TITLES = ["A lake", "A race", "A cat", "A storm"]


def line(title: str, **more: Any) -> dict[str, Any]:
    return {"custom_id": title, "method": "POST", "url": "/v1/chat/completions", "body": chat(title)} | more


def submit(served: Any, lines: list[Any]) -> Any:
    data = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in lines).encode()
    file = served.openai.files.create(file=("requests.jsonl", io.BytesIO(data)), purpose="batch")
    return served.openai.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"run": "1"}
    )


def waited(get: Any, ended: Any) -> Any:
    until = time.monotonic() + 10
    while not ended(job := get()) and time.monotonic() < until:
        time.sleep(0.02)
    return job


def results(served: Any, id: str | None) -> list[dict[str, Any]]:
    return [json.loads(each) for each in served.openai.files.content(id).text.splitlines()] if id else []


def test_an_openai_batch_goes_through_its_states_and_answers_as_direct_calls_do(serving):
    served = serving(batch_delay_s=-1, rules=(Rule("status", status=400, contains="A cat"),))
    batch = submit(served, [line(title) for title in TITLES])
    assert batch.status == "validating" and batch.metadata == {"run": "1"} and batch.request_counts.total == 4
    states = []
    for _ in range(2):
        assert served.server.advance_batches() == 1
        batch = served.openai.batches.retrieve(batch.id)
        states.append(batch.status)
    assert states == ["in_progress", "completed"] and served.server.advance_batches() == 0
    assert (batch.request_counts.completed, batch.request_counts.failed) == (3, 1)
    found = {each["custom_id"]: each["response"]["body"] for each in results(served, batch.output_file_id)}
    assert list(found) == ["A lake", "A race", "A storm"]
    direct = served.openai.chat.completions.create(**chat("A race")).choices[0].message.content
    assert found["A race"]["choices"][0]["message"]["content"] == direct and found["A race"]["usage"]["prompt_tokens"] > 50
    (failed,) = results(served, batch.error_file_id)
    assert failed["custom_id"] == "A cat" and failed["response"]["status_code"] == 400 and failed["response"]["body"]["error"]
    stats = served.server.stats()
    assert stats["batch_items"] == 3 and stats["accepted"] == 4 and stats["images"] == 0
    assert [each.id for each in served.openai.batches.list(limit=1)] == [batch.id]
    assert served.openai.files.retrieve(batch.input_file_id).filename == "requests.jsonl"
    assert served.openai.files.delete(batch.input_file_id).deleted
    with pytest.raises(openai.NotFoundError):
        served.openai.files.content(batch.input_file_id)


def test_time_moves_a_batch_too(serving):
    served = serving(batch_delay_s=0.2, rules=(Rule("batch_stall", contains="A storm"),))
    batch, stalled = submit(served, [line("A lake")]), submit(served, [line("A storm")])
    done = waited(lambda: served.openai.batches.retrieve(batch.id), lambda job: job.status == "completed")
    assert done.completed_at and results(served, done.output_file_id)
    assert served.openai.batches.retrieve(stalled.id).status == "in_progress" and served.server.advance_batches() == 0


def test_batches_that_stall_expire_fail_and_are_cancelled(serving):
    served = serving(
        batch_delay_s=0,
        rules=(
            Rule("batch_stall", contains="A storm"),
            Rule("batch_expire", contains="A cat", part=0.5),
            Rule("batch_fail", contains="A race"),
        ),
    )
    stalled, expired, failed, good = (
        submit(served, [line("A lake"), line(title)]) for title in ("A storm", "A cat", "A race", "A bird")
    )
    get = served.openai.batches.retrieve
    assert get(stalled.id).status == "in_progress"
    assert served.openai.batches.cancel(stalled.id).status == "cancelled"
    assert {each["error"]["code"] for each in results(served, get(stalled.id).error_file_id)} == {"batch_cancelled"}
    job = get(expired.id)
    assert (
        job.status == "expired"
        and job.expired_at
        and [each["custom_id"] for each in results(served, job.output_file_id)] == ["A lake"]
    )
    assert [each["error"]["code"] for each in results(served, job.error_file_id)] == ["batch_expired"]
    job = get(failed.id)
    assert job.status == "failed" and job.errors.data and job.output_file_id is None
    assert get(good.id).status == "completed"
    with pytest.raises(openai.ConflictError):
        served.openai.batches.cancel(good.id)


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (["{"], "invalid_json_line"),
        ([line("a"), line("a")], "duplicate_custom_id"),
        ([line("a", url="/v1/embeddings")], "mismatched_endpoint"),
        ([line("a"), line("b", body=chat(model="gpt-4.1-nano"))], "mismatched_model"),
        ([{"custom_id": "a"}], "missing_required_parameter"),
        ([], "empty_file"),
    ],
)
def test_input_files_that_are_refused(serving, lines, code):
    served = serving(batch_delay_s=0)
    job = served.openai.batches.retrieve(submit(served, lines).id)
    assert job.status == "failed" and job.errors.data[0].code == code
    assert served.server.stats()["accepted"] == 0


def test_an_item_that_is_refused_fails_alone(serving):
    served = serving(batch_delay_s=0)
    job = served.openai.batches.retrieve(submit(served, [line("a"), line("b", body=chat(temperature=9))]).id)
    assert (job.request_counts.completed, job.request_counts.failed) == (1, 1)
    for wrong in ({"endpoint": "/v1/embeddings"}, {"completion_window": "1h"}, {"input_file_id": "file-none"}):
        arguments = {"input_file_id": job.input_file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"} | wrong
        with pytest.raises(openai.BadRequestError):
            served.openai.batches.create(**arguments)


def gemini_line(title: str) -> dict[str, Any]:
    return {
        "key": title,
        "request": {
            "contents": [{"role": "user", "parts": [{"text": shown(title)}, {"text": "Now answer."}]}],
            "system_instruction": {"parts": [{"text": SYSTEM}]},
            "generation_config": {"response_mime_type": "application/json", "response_json_schema": schema(), "temperature": 0},
        },
    }


def submit_gemini(served: Any, titles: list[str]) -> Any:
    data = io.BytesIO("\n".join(json.dumps(gemini_line(title)) for title in titles).encode())
    file = served.gemini.files.upload(file=data, config=types.UploadFileConfig(display_name="r", mime_type="jsonl"))
    assert file.size_bytes == len(data.getvalue()) and served.gemini.files.get(name=file.name).display_name == "r"
    return served.gemini.batches.create(model="gemini-2.5-flash", src=file.name, config={"display_name": "run"})


def test_a_gemini_batch_over_files(serving):
    served = serving(batch_delay_s=-1, rules=(Rule("status", status=400, contains="A cat"), Rule("safety", contains="A storm")))
    job = submit_gemini(served, TITLES)
    assert job.state is types.JobState.JOB_STATE_PENDING and job.display_name == "run"
    served.server.advance_batches()
    assert served.gemini.batches.get(name=job.name).state is types.JobState.JOB_STATE_RUNNING
    served.server.advance_batches()
    job = served.gemini.batches.get(name=job.name)
    assert job.state is types.JobState.JOB_STATE_SUCCEEDED and job.end_time
    lines = [json.loads(each) for each in served.gemini.files.download(file=job.dest.file_name).decode().splitlines()]
    assert [each["key"] for each in lines] == TITLES
    text = lines[1]["response"]["candidates"][0]["content"]["parts"][0]["text"]
    assert text == served.gemini.models.generate_content(**generate("A race")).text
    assert lines[2]["error"]["code"] == 3 and lines[3]["response"]["candidates"][0]["finishReason"] == "SAFETY"
    assert [each.name for each in served.gemini.batches.list()] == [job.name]
    assert served.server.stats()["batch_items"] == 3


def test_a_gemini_batch_whose_requests_are_posted(serving):
    served = serving(batch_delay_s=0)
    contents, config = generate("A lake")["contents"], generate()["config"]
    requests = [types.InlinedRequest(contents=contents, config=config, metadata={"key": str(n)}) for n in range(2)]
    job = served.gemini.batches.create(model="gemini-2.5-flash", src=requests)
    job = served.gemini.batches.get(name=job.name)
    found = job.dest.inlined_responses
    assert [each.metadata for each in found] == [{"key": "0"}, {"key": "1"}]
    assert json.loads(found[0].response.text)["id"] == "v1"


def test_gemini_batches_that_expire_fail_stall_and_are_cancelled(serving):
    served = serving(
        batch_delay_s=0,
        rules=(
            Rule("batch_stall", contains="A storm"),
            Rule("batch_expire", contains="A cat", part=0.5),
            Rule("batch_fail", contains="A race"),
        ),
    )
    stalled, expired, failed = (submit_gemini(served, ["A lake", title]) for title in ("A storm", "A cat", "A race"))
    get = served.gemini.batches.get
    assert get(name=stalled.name).state is types.JobState.JOB_STATE_RUNNING
    served.gemini.batches.cancel(name=stalled.name)
    assert get(name=stalled.name).state is types.JobState.JOB_STATE_CANCELLED
    job = get(name=expired.name)
    assert job.state is types.JobState.JOB_STATE_EXPIRED
    assert len(served.gemini.files.download(file=job.dest.file_name).splitlines()) == 1
    job = get(name=failed.name)
    assert job.state is types.JobState.JOB_STATE_FAILED and job.dest is None
