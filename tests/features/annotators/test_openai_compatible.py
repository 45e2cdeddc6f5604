from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import openai
import pytest

from features.annotators.exchange import Clip, Completion, Picture, Prompt, Text, Token, Turn
from features.annotators.http_replies import Service
from features.annotators.model_server import Rule, RunningServer, ServerConfig, running
from features.annotators.openai_compatible import SCHEMA_NAME, OpenAIClient, body, completion, problem
from features.annotators.protocol import Usage
from features.annotators.settings import ModelSettings
from features.errors import InvalidInput, Permanent, Transient, Unavailable, VidattrError
from tests.features.annotators.asking_models import ask, ask_one, prompt, settings_for

MODEL = ModelSettings(name="gpt-4.1-mini")
SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"], "additionalProperties": False}
TURNS = (
    Turn("user", (Text("Look."), Picture(b"\xff\xd8jpeg", 2, 1))),
    Turn("model", (Text("{}"),)),
    Turn("user", (Text("Again."),)),
)
PROMPT = Prompt("You judge.", TURNS, 0, SCHEMA, (), (("v1", "x"),), 500, 0.4, 7)


@pytest.fixture(autouse=True)
def no_key_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def shared() -> Iterator[RunningServer]:
    with running(ServerConfig(cache_minimum_tokens=0)) as server:
        yield server


@pytest.fixture
def server(shared: RunningServer) -> RunningServer:
    shared.rules()
    shared.reset()
    return shared


# What is sent


def test_the_whole_shape_of_a_request() -> None:
    assert body(PROMPT, replace(MODEL, logprobs=3)) == {
        "model": "gpt-4.1-mini",
        "messages": [
            {"role": "system", "content": "You judge."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Look."},
                    {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9hqcGVn"}},
                ],
            },
            {"role": "assistant", "content": "{}"},
            {"role": "user", "content": "Again."},
        ],
        "max_completion_tokens": 500,
        "temperature": 0.4,
        "seed": 7,
        "response_format": {"type": "json_schema", "json_schema": {"name": SCHEMA_NAME, "strict": True, "schema": SCHEMA}},
        "logprobs": True,
        "top_logprobs": 3,
    }


def test_what_is_not_set_is_left_out() -> None:
    bare = Prompt("", TURNS[2:], 0, None, (("Yes", "true"),), (("v1", "x"),), 5)
    sent = body(bare, replace(MODEL, logprobs=0))
    assert set(sent) == {"model", "messages", "max_completion_tokens", "temperature"}
    assert sent["messages"] == [{"role": "user", "content": "Again."}]
    assert "response_format" not in body(PROMPT, replace(MODEL, structured=False))
    assert (body(bare, MODEL)["top_logprobs"], body(PROMPT, MODEL)["top_logprobs"]) == (20, 5)


@pytest.mark.parametrize(
    ("name", "reasons"), [("o3-mini", True), ("openai/gpt-5-nano", True), ("gpt-5-chat-latest", False), ("gpt-4o", False)]
)
def test_reasoning_models_are_not_sent_what_they_refuse(name: str, reasons: bool) -> None:
    sent = body(PROMPT, replace(MODEL, name=name))
    assert ("temperature" not in sent) == ("logprobs" not in sent) == reasons
    assert body(PROMPT, replace(MODEL, name=name, temperature=1.0, logprobs=2))["top_logprobs"] == 2


def test_clips_are_for_gemini() -> None:
    with pytest.raises(InvalidInput, match="--clips"):
        body(replace(PROMPT, turns=(Turn("user", (Clip("gs://b/a.mp4", "video/mp4", 3.0),)),)), MODEL)


def test_equal_prompts_give_equal_bytes() -> None:
    assert json.dumps(body(prompt(), MODEL)) == json.dumps(body(prompt(), MODEL))


# What comes back


def reply(content: Any = "{}", more: dict[str, Any] | None = None, **choice: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": content, "refusal": None} | (more or {})
    usage = {"prompt_tokens": 100, "completion_tokens": 37, "prompt_tokens_details": {"cached_tokens": 60}}
    return {
        "choices": [{"index": 0, "message": said, "finish_reason": "stop", "logprobs": None} | choice],
        "usage": usage,
        "model": "gpt-4.1-mini-2025-04-14",
    }


def test_a_reply_and_its_bill() -> None:
    assert completion(reply()) == Completion("{}", "stop", "", Usage(1, 100, 60, 37), "gpt-4.1-mini-2025-04-14")
    parts = [{"type": "text", "text": "{"}, {"type": "reasoning", "text": "hidden"}, {"type": "text", "text": "}"}]
    assert completion(reply(parts)).text == "{}"


@pytest.mark.parametrize(
    ("document", "finish", "says"),
    [
        ({}, "empty", "no choice"),
        ({"choices": []}, "empty", "no choice"),
        ({"choices": [None]}, "empty", "no choice"),
        ({"choices": [], "error": {"message": "the backend is gone"}}, "empty", "the backend is gone"),
        (reply(""), "empty", "empty"),
        (reply(None), "empty", "empty"),
        (reply("{}", finish_reason=None), "other", "None"),
        (reply("{}", finish_reason="tool_calls"), "other", "tool_calls"),
        (reply('{"done": true}', finish_reason="length"), "length", "token limit"),
        (reply(None, {"refusal": "I cannot help with that."}), "refused", "I cannot help with that."),
        (reply(None, {"refusal": "I cannot"}, finish_reason="content_filter"), "blocked", "content_filter"),
        (
            reply(
                None,
                finish_reason="content_filter",
                content_filter_results={"violence": {"filtered": True}, "hate": {"filtered": False}},
            ),
            "blocked",
            "violence",
        ),
        (reply(None, {"refusal": "the key sk-abcdefghijk is odd"}), "refused", "the key *** is odd"),
    ],
)
def test_why_it_ended_is_looked_at_first(document: dict[str, Any], finish: str, says: str) -> None:
    found = completion(document)
    assert found.finish == finish and says in found.detail and found.usage.requests == 1


def test_tokens_all_or_none() -> None:
    tops = [{"token": "{", "logprob": -0.1, "bytes": [1]}, {"token": "[", "logprob": -3}]
    good = {"token": "{", "logprob": -0.1, "bytes": None, "top_logprobs": tops}
    assert completion(reply(logprobs={"content": [good]})).tokens == (Token("{", -0.1, (("{", -0.1), ("[", -3.0))),)
    for odd in (
        None,
        {},
        {"token": "}"},
        {**good, "logprob": "x"},
        {**good, "logprob": float("nan")},
        {**good, "token": 5},
        {**good, "top_logprobs": None},
    ):
        assert completion(reply(logprobs={"content": [good, odd]})).tokens == ()


@pytest.mark.parametrize("odd", [1, "x", None, [], [1], {"content": 3}, {"prompt_tokens_details": 3, "prompt_tokens": -1}])
def test_odd_documents_never_raise(odd: Any) -> None:
    for name in ("choices", "usage", "model", "error"):
        assert completion({name: odd}).usage.requests == 1
    for name in ("message", "finish_reason", "logprobs", "content_filter_results"):
        assert completion(reply(**{name: odd})).usage.requests == 1


def test_a_bill_that_makes_no_sense_is_bounded() -> None:
    odd = reply() | {"usage": {"prompt_tokens": 5, "completion_tokens": True, "prompt_tokens_details": {"cached_tokens": 60}}}
    assert completion(odd).usage == Usage(1, 5, 5, 0)


# What refusals mean


def error(message: str = "no", code: Any = None, param: str | None = None, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


ABOUT = Service("the model server", "http://host/v1", "gpt-x", "the environment variable MY_KEY")
ABOUT_EVERYBODY: list[tuple[int, Any, str]] = [
    (401, error("Incorrect API key provided: sk-abcd***wxyz.", "invalid_api_key"), "MY_KEY"),
    (403, error("You do not have access to the organization."), "MY_KEY"),
    (403, error("Country not supported", "unsupported_country_region_territory"), "MY_KEY"),
    (404, error("The model does not exist", "model_not_found"), "curl -H"),
    (400, error("deprecated", "model_deprecated"), "--model"),
    (404, {"object": "error", "message": "The model `x` does not exist.", "code": 404}, "--model"),
    (404, {"detail": "Not Found"}, "--base-url"),
    (405, "Method Not Allowed", "--base-url"),
    (429, error("You exceeded your current quota", "insufficient_quota", kind="insufficient_quota"), "no money"),
    (400, error("Billing hard limit has been reached", "billing_hard_limit_reached"), "no money"),
    (402, {}, "no money"),
    (
        500,
        error("image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"),
        "--evidence text",
    ),
    (400, error("smollm is not a multimodal model"), "--evidence text"),
    (400, error("At most 0 image(s) may be provided in one prompt."), "--evidence text"),
    (404, error("No endpoints found that support image input"), "--evidence text"),
    (400, error("At most 4 image(s) may be provided in one prompt."), "--frames 4"),
    (400, error("Unsupported value: 'temperature' does not support 0", "unsupported_value", "temperature"), "temperature"),
    (403, error("You are not allowed to request logprobs from this model", None, "top_logprobs"), "logprobs to 0"),
    (400, error("Invalid schema for response_format", None, "response_format.json_schema"), "structured to false"),
    (400, error("max_tokens is too large", None, "max_completion_tokens"), "max_output_tokens"),
    (301, {}, "--base-url"),
    (501, {}, "at all"),
]


@pytest.mark.parametrize(("status", "document", "says"), ABOUT_EVERYBODY)
def test_what_is_refused_to_everybody_stops_the_run(status: int, document: Any, says: str) -> None:
    for given in (document, json.dumps(document).encode()) if isinstance(document, dict) else (document,):
        found = problem(status, {}, given, ABOUT)
        assert type(found) is Unavailable and says in str(found) and f"http://host/v1 answered {status}" in str(found)


@pytest.mark.parametrize(
    ("status", "document", "kind"),
    [
        (400, error("Invalid image."), "invalid_request"),
        (422, {"detail": [{"loc": ["body"], "msg": "wrong"}]}, "invalid_request"),
        (413, "Payload Too Large", "too_large"),
        (400, error("too long", "context_length_exceeded"), "too_large"),
        (400, error("This model's maximum context length is 4096 tokens."), "too_large"),
        (400, error("the request exceeds the available context size", 400, kind="exceed_context_size_error"), "too_large"),
        (500, error("input is too large to process. increase the physical batch size"), "too_large"),
        (400, error("The response was filtered", "content_filter"), "blocked"),
        (400, error("triggering Azure OpenAI's content management policy"), "blocked"),
    ],
)
def test_what_is_refused_of_one_request(status: int, document: Any, kind: str) -> None:
    found = problem(status, {}, document)
    assert type(found) is Permanent and found.kind == kind


@pytest.mark.parametrize(
    ("status", "headers", "document", "wait", "rejected"),
    [
        (429, {}, error("Rate limit reached", "rate_limit_exceeded", kind="tokens"), None, True),
        (429, {"Retry-After": "5"}, {}, 5.0, True),
        (429, {"retry-after-ms": "250", "Retry-After": "5"}, {}, 0.25, True),
        (503, {"Retry-After": "9"}, error("Loading model", 503, kind="unavailable_error"), 9.0, False),
        (500, {}, b"<html>", None, False),
        (529, {}, None, None, False),
        (408, {}, "", None, False),
        (409, {}, {}, None, False),
        (425, {}, {}, None, False),
    ],
)
def test_what_may_work_later(status: int, headers: dict[str, str], document: Any, wait: float | None, rejected: bool) -> None:
    found = problem(status, headers, document)
    assert type(found) is Transient and (found.retry_after_s, found.rejected) == (wait, rejected)


def test_a_filter_that_answers_with_an_error_has_blocked_the_video(httpserver: Any) -> None:
    document = error("The response was filtered due to the prompt triggering the content management policy", "content_filter")
    httpserver.expect_request("/v1/chat/completions").respond_with_json(document, status=400)
    found = ask_one(OpenAIClient(replace(MODEL, base_url=httpserver.url_for("/v1"))), prompt())
    assert found.finish == "blocked" and "filtered" in found.detail and found.usage == Usage(requests=1)


def test_no_key_is_sent_to_a_server_that_needs_none(httpserver: Any) -> None:
    httpserver.expect_request("/v1/chat/completions").respond_with_json(reply())
    ask_one(OpenAIClient(replace(MODEL, base_url=httpserver.url_for("/v1"))), prompt())
    ((request, _),) = httpserver.log
    assert "Authorization" not in request.headers and request.headers["User-Agent"] == "vidattr"


# The official SDK


def sdk(server: RunningServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.openai_url, api_key="any", max_retries=0, timeout=10)


@pytest.mark.parametrize("shape", [{}, {"ask": "each"}, {"rationale": False}])
def test_openai_s_sdk_gets_the_same_from_the_same_body(server: RunningServer, shape: dict[str, Any]) -> None:
    settings = settings_for(server, "openai")
    asked = prompt(**shape)
    ours = ask_one(OpenAIClient(settings), asked)
    server.reset()  # and the prefix cache with it
    theirs = completion(sdk(server).chat.completions.create(**body(asked, settings)).model_dump(mode="json"))
    assert ours == theirs and ours.tokens and ours.usage.input_tokens > 100
    server.reset()
    ask_one(OpenAIClient(settings), asked)
    sdk(server).chat.completions.create(**body(asked, settings))
    assert server.requests[0]["document"] == server.requests[1]["document"]


def test_the_sdk_s_errors_mean_the_same(server: RunningServer) -> None:
    settings = settings_for(server, "openai")
    for rule in (Rule("status", status=429, retry_after_s=7), Rule("status", status=503), Rule("status", status=403)):
        server.rules(rule)
        (ours,) = ask(OpenAIClient(settings), prompt())
        with pytest.raises(openai.APIStatusError) as raised:
            sdk(server).chat.completions.create(**body(prompt(), settings))
        theirs = problem(raised.value.status_code, raised.value.response.headers, {"error": raised.value.body})
        assert isinstance(ours, VidattrError) and type(theirs) is type(ours)
        assert getattr(theirs, "retry_after_s", 0) == getattr(ours, "retry_after_s", 0)
