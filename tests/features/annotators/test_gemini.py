from __future__ import annotations

import asyncio
import json
import pathlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from google import genai
from google.genai import errors, types
from google.genai._transformers import t_model

from features.annotators.exchange import Clip, Completion, Picture, Prompt, Text, Token, Turn
from features.annotators.gemini import HARMS, GeminiClient, body, completion, problem, response_schema
from features.annotators.http_replies import Service
from features.annotators.model_server import Rule, RunningServer, ServerConfig, running
from features.annotators.protocol import Usage
from features.annotators.settings import ModelSettings
from features.errors import InvalidInput, Permanent, Transient, Unavailable, VidattrError
from tests.features.annotators.asking_models import ask, ask_one, prompt, settings_for

MODEL = ModelSettings(name="gemini-2.5-flash")
TOKEN = "ya29.a-token-that-nobody-may-see"


@pytest.fixture(autouse=True)
def no_key_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL", "GOOGLE_VERTEX_BASE_URL"):
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

TURNS = (
    Turn("user", (Text("Look."), Picture(b"\xff\xd8jpeg", 2, 1), Clip("gs://bucket/a.mp4", "video/mp4", 12.0))),
    Turn("model", (Text("{}"),)),
    Turn("user", (Text("Again."),)),
)
SCHEMA = {
    "type": "object",
    "properties": {
        "rationale": {"type": "string"},
        "answers": {
            "type": "array",
            "items": {"type": "object", "properties": {"b": {"type": "number"}, "a": {"type": "boolean"}}},
        },
    },
    "required": ["rationale"],
    "additionalProperties": False,
}
PROMPT = Prompt("You judge.", TURNS, 0, SCHEMA, (), (("v1", "x"),), 500, 0.4, 7)


def test_the_whole_shape_of_a_request() -> None:
    settings = replace(MODEL, safety="BLOCK_ONLY_HIGH", thinking_budget=0, logprobs=3)
    assert body(PROMPT, settings) == {
        "systemInstruction": {"parts": [{"text": "You judge."}]},
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"text": "Look."},
                    {"inlineData": {"mimeType": "image/jpeg", "data": "/9hqcGVn"}},
                    {"fileData": {"fileUri": "gs://bucket/a.mp4", "mimeType": "video/mp4"}},
                ],
            },
            {"role": "model", "parts": [{"text": "{}"}]},
            {"role": "user", "parts": [{"text": "Again."}]},
        ],
        "safetySettings": [{"category": harm, "threshold": "BLOCK_ONLY_HIGH"} for harm in HARMS],
        "generationConfig": {
            "temperature": 0.4,
            "maxOutputTokens": 500,
            "seed": 7,
            "responseMimeType": "application/json",
            "responseSchema": {
                "type": "OBJECT",
                "properties": {
                    "rationale": {"type": "STRING"},
                    "answers": {
                        "type": "ARRAY",
                        "items": {
                            "type": "OBJECT",
                            "properties": {"b": {"type": "NUMBER"}, "a": {"type": "BOOLEAN"}},
                            "propertyOrdering": ["b", "a"],
                        },
                    },
                },
                "required": ["rationale"],
                "propertyOrdering": ["rationale", "answers"],
            },
            "responseLogprobs": True,
            "logprobs": 3,
            "thinkingConfig": {"thinkingBudget": 0},
        },
    }
    assert set(HARMS) <= set(types.HarmCategory.__members__), "the SDK knows them"


def test_what_is_not_set_is_left_out() -> None:
    bare = Prompt("", TURNS[2:], 0, None, (("Yes", "true"),), (("v1", "x"),), 5)
    generation = {"temperature": 0.0, "maxOutputTokens": 5}
    assert body(bare, MODEL) == {"contents": [{"role": "user", "parts": [{"text": "Again."}]}], "generationConfig": generation}
    assert "responseSchema" not in body(PROMPT, replace(MODEL, structured=False))["generationConfig"]


def test_log_probabilities_by_default_where_they_are_offered() -> None:
    vertex = replace(MODEL, project="p")
    assert [body(prompt(ask=shape), vertex)["generationConfig"]["logprobs"] for shape in ("each", "together")] == [20, 5]
    assert "logprobs" not in body(prompt(ask="each"), MODEL)["generationConfig"]
    assert "logprobs" not in body(prompt(ask="each"), replace(vertex, logprobs=0))["generationConfig"]


def test_schemas_of_equal_prompts_are_equal_and_never_mixed_up() -> None:
    assert body(PROMPT, MODEL) == body(replace(PROMPT, schema=json.loads(json.dumps(SCHEMA))), MODEL)
    for number in range(200):
        schema = {"type": "object", "properties": {f"p{number}": {"type": "string"}}}
        sent = body(replace(PROMPT, schema=schema), MODEL)["generationConfig"]["responseSchema"]
        assert sent["propertyOrdering"] == [f"p{number}"] and schema["type"] == "object"
    assert response_schema(SCHEMA) == body(PROMPT, MODEL)["generationConfig"]["responseSchema"]


# What comes back


def reply(text: str = "{}", **candidate: Any) -> dict[str, Any]:
    content = {"role": "model", "parts": [{"text": "hidden", "thought": True}, {"text": text[:1]}, {"text": text[1:]}]}
    usage = {
        "promptTokenCount": 100,
        "cachedContentTokenCount": 60,
        "candidatesTokenCount": 7,
        "thoughtsTokenCount": 30,
        "totalTokenCount": 137,
    }
    return {
        "candidates": [{"content": content, "finishReason": "STOP", "index": 0} | candidate],
        "usageMetadata": usage,
        "modelVersion": "gemini-2.5-flash-001",
    }


def test_a_reply_without_its_thoughts_and_with_their_bill() -> None:
    assert completion(reply()) == Completion("{}", "stop", "", Usage(1, 100, 60, 37), "gemini-2.5-flash-001")


def test_a_bill_that_makes_no_sense_is_bounded() -> None:
    odd = reply() | {"usageMetadata": {"promptTokenCount": 5, "cachedContentTokenCount": 60, "candidatesTokenCount": -3}}
    assert completion(odd).usage == Usage(1, 5, 5, 0)


@pytest.mark.parametrize("reason", [each.value for each in types.FinishReason])
def test_every_reason_that_the_sdk_knows_is_told_apart(reason: str) -> None:
    blocked = {"SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"}
    blocked |= {"IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"}
    wanted = {"STOP": "stop", "MAX_TOKENS": "length", "CONTINUATION": "length"} | dict.fromkeys(blocked, "blocked")
    found = completion(reply(finishReason=reason, finishMessage="because"))
    assert found.finish == wanted.get(reason, "other")
    assert found.finish in ("stop", "length") or (reason in found.detail and "because" in found.detail)


@pytest.mark.parametrize(
    ("document", "finish", "says"),
    [
        ({}, "empty", "no candidate"),
        ({"candidates": []}, "empty", "no candidate"),
        ({"candidates": None}, "empty", "no candidate"),
        ({"candidates": ["x"]}, "empty", "no candidate"),
        (reply(""), "empty", "the reply is empty"),
        (reply(content={"role": "model"}), "empty", "the reply is empty"),
        (reply(content={"parts": [{"text": "only a thought", "thought": True}]}), "empty", "the reply is empty"),
        (reply(finishReason=None), "other", "None"),
        (reply(finishReason=["STOP"]), "other", "STOP"),
        (reply(finishReason="NEW_REASON"), "other", "NEW_REASON"),
        (reply('{"done": true}', finishReason="MAX_TOKENS"), "length", "token limit"),
        (
            {"promptFeedback": {"blockReason": "SAFETY", "safetyRatings": [{"category": HARMS[3], "probability": "HIGH"}]}},
            "blocked",
            "SAFETY: dangerous_content",
        ),
        (reply() | {"promptFeedback": {"blockReason": "OTHER", "blockReasonMessage": "no."}}, "blocked", "OTHER: no."),
        (reply(finishReason="SAFETY", safetyRatings=[{"category": HARMS[0], "blocked": True}]), "blocked", "SAFETY: harassment"),
        (reply() | {"promptFeedback": {}}, "stop", ""),
    ],
)
def test_why_it_ended_is_looked_at_first(document: dict[str, Any], finish: str, says: str) -> None:
    found = completion(document)
    assert found.finish == finish and says in found.detail and found.usage.requests == 1


def test_tokens_with_zeros_left_out_and_none_of_what_is_odd() -> None:
    tops = [{"candidates": [{"token": "{", "tokenId": 1}, {"token": "[", "logProbability": -3.5}]}, {}]
    chosen: list[Any] = [{"token": "{"}, {"token": "}", "logProbability": -0.5}]
    found = completion(reply(logprobsResult={"chosenCandidates": chosen, "topCandidates": tops}))
    assert found.tokens == (Token("{", 0.0, (("{", 0.0), ("[", -3.5))), Token("}", -0.5, ()))
    for odd in ({"token": 5}, {"token": "}", "logProbability": "x"}, {"token": "}", "logProbability": "nan"}, None):
        assert not completion(reply(logprobsResult={"chosenCandidates": [chosen[0], odd], "topCandidates": tops})).tokens
    assert not completion(reply(logprobsResult={"chosenCandidates": chosen, "topCandidates": tops[:1]})).tokens


@pytest.mark.parametrize("odd", [1, "x", None, [], [1], {"parts": 3}, {"parts": [None, 3, {"text": 5}]}])
def test_odd_documents_never_raise(odd: Any) -> None:
    for name in ("candidates", "usageMetadata", "promptFeedback", "modelVersion"):
        assert completion({name: odd}).usage.requests == 1
    for name in ("content", "finishReason", "logprobsResult", "safetyRatings", "finishMessage"):
        assert completion(reply(**{name: odd})).usage.requests == 1


# What refusals mean


def error(message: str = "no", *details: dict[str, Any], status: str = "INVALID_ARGUMENT") -> dict[str, Any]:
    return {"error": {"code": 0, "message": message, "status": status, "details": list(details)}}


def detail(kind: str, **fields: Any) -> dict[str, Any]:
    return {"@type": f"type.googleapis.com/google.rpc.{kind}", **fields}


def reason(word: str) -> dict[str, Any]:
    return detail("ErrorInfo", reason=word, domain="googleapis.com")


def quota(quota_id: str) -> dict[str, Any]:
    return detail("QuotaFailure", violations=[{"quotaMetric": "m", "quotaId": quota_id, "quotaValue": "250"}])


A_MINUTE, A_DAY = "GenerateContentInputTokensPerModelPerMinute-PaidTier", "GenerateRequestsPerDayPerProjectPerModel-FreeTier"
ABOUT_EVERYBODY: list[tuple[int, dict[str, Any], str]] = [
    (400, error("API key not valid. Please pass a valid API key.", reason("API_KEY_INVALID")), "MY_KEY"),
    (400, error("API key expired. Please renew the API key."), "MY_KEY"),
    (403, error("Your API key was reported as leaked. Please use another API key."), "MY_KEY"),
    (403, error("denied", reason("API_KEY_SERVICE_BLOCKED"), status="PERMISSION_DENIED"), "restrictions"),
    (403, error("disabled", reason("SERVICE_DISABLED"), status="PERMISSION_DENIED"), "Enable the service"),
    (403, error("billing", reason("BILLING_DISABLED"), status="PERMISSION_DENIED"), "Enable billing"),
    (400, error("User location is not supported for the API use.", status="FAILED_PRECONDITION"), "Vertex AI"),
    (400, error("Please enable billing on the project.", status="FAILED_PRECONDITION"), "billing"),
    (400, error("Not now.", status="FAILED_PRECONDITION"), "not ready"),
    (401, error("Request had invalid authentication credentials.", status="UNAUTHENTICATED"), "MY_KEY"),
    (402, error("pay"), "billing"),
    (403, error("The caller does not have permission", status="PERMISSION_DENIED"), "MY_KEY"),
    (404, error("models/gemini-1.0-pro is not found for API version v1beta", status="NOT_FOUND"), "--model"),
    (429, error("Quota exceeded for metric: free_tier_requests, limit: 0, model: gemini-2.5-pro"), "no quota"),
    (429, error("You exceeded your current quota", quota(A_DAY), detail("RetryInfo", retryDelay="30s")), "tomorrow"),
    (400, error("Image input modality is not enabled for models/x"), "--evidence text"),
    (400, error("Logprobs is not enabled for models/gemini-2.5-flash"), "logprobs to 0"),
    (400, error("Budget 0 is invalid. This model only works in thinking mode."), "thinking_budget"),
    (400, error("The specified schema produces a constraint that has too many states for serving."), "fewer attributes"),
    (400, error("bad", detail("BadRequest", fieldViolations=[{"field": "generation_config.response_schema"}])), "structured"),
    (400, error("Unknown name \"seed\" at 'generation_config': Cannot find field."), "setting"),
    (400, error("* GenerateContentRequest.safety_settings[0]: element predicate failed"), "safety"),
    (400, error("Developer instruction is not enabled for models/gemma"), "system instructions"),
    (307, {}, "--base-url"),
    (501, error("no"), "at all"),
]


@pytest.mark.parametrize(("status", "document", "says"), ABOUT_EVERYBODY)
def test_what_is_refused_to_everybody_stops_the_run(status: int, document: dict[str, Any], says: str) -> None:
    about = Service("Gemini", "https://host", "gemini-2.5-pro", "the environment variable MY_KEY")
    for given in (document, json.dumps(document), json.dumps([document]).encode()):
        found = problem(status, {}, given, about)
        assert type(found) is Unavailable and says in str(found) and str(found).startswith(f"https://host answered {status}")


@pytest.mark.parametrize(
    ("status", "document", "kind"),
    [
        (400, error("Request contains an invalid argument."), "invalid_request"),
        (422, error("no"), "invalid_request"),
        (400, error("Unable to process input image: not a JPEG. (contents[0].parts[1])"), "invalid_request"),
        (400, error("Cannot fetch content from the provided URL."), "invalid_request"),
        (404, error("gs://bucket/a.mp4 was not found", status="NOT_FOUND"), "invalid_request"),
        (400, error("Invalid or unsupported file uri: gs://x"), "invalid_request"),
        (413, error("too much"), "too_large"),
        (413, {}, "too_large"),
        (400, error("The input token count (1054016) exceeds the maximum number of tokens allowed (1048576)."), "too_large"),
        (400, error("Request payload size exceeds the limit: 20971520 bytes."), "too_large"),
    ],
)
def test_what_is_refused_of_one_request(status: int, document: dict[str, Any], kind: str) -> None:
    found = problem(status, {}, document)
    assert type(found) is Permanent and found.kind == kind


RETRY = detail("RetryInfo", retryDelay="39.5s")


@pytest.mark.parametrize(
    ("status", "headers", "document", "wait", "rejected"),
    [
        (429, {}, error("Resource has been exhausted (e.g. check quota)."), None, True),
        (429, {}, error("wait", quota(A_MINUTE), RETRY), 39.5, True),
        (429, {"Retry-After": "5"}, error("wait", RETRY), 5.0, True),
        (429, {}, error("limit: 05"), None, True),
        (429, {}, error("wait", detail("RetryInfo", retryDelay="soon")), None, True),
        (
            429,
            {},
            error("wait", detail("RetryInfo", retryDelay=5), "odd", None, detail("QuotaFailure", violations="x")),
            None,
            True,
        ),  # type: ignore[arg-type]
        (503, {}, error("The model is overloaded.", RETRY, status="UNAVAILABLE"), 39.5, False),
        (500, {}, b"<html>", None, False),
        (504, {}, None, None, False),
        (499, {}, error("CANCELLED"), None, False),
        (408, {}, "", None, False),
    ],
)
def test_what_may_work_later(status: int, headers: dict[str, str], document: Any, wait: float | None, rejected: bool) -> None:
    found = problem(status, headers, document)
    assert type(found) is Transient and (found.retry_after_s, found.rejected) == (wait, rejected)


def test_no_reply_that_says_what_was_wrong_is_silent() -> None:
    assert "it gave no reason" in str(problem(500, {}, None))
    assert "a plain text" in str(problem(500, {}, "a plain text")) and "odd" in str(problem(400, {}, {"error": "odd"}))


# The official SDK


def sdk(server: RunningServer, **more: Any) -> genai.Client:
    return genai.Client(**({"api_key": "any"} | more), http_options=types.HttpOptions(base_url=server.gemini_url, timeout=10_000))


def by_sdk(client: genai.Client, asked: Prompt, settings: ModelSettings) -> Completion:
    """The same body, read into the SDK's own types, sent by it, and its typed response read by `completion`."""
    sent = body(asked, settings)
    config = {**sent["generationConfig"], "systemInstruction": sent["systemInstruction"]}
    if "safetySettings" in sent:
        config["safetySettings"] = sent["safetySettings"]
    response = client.models.generate_content(
        model=settings.name,
        contents=[types.Content.model_validate(each) for each in sent["contents"]],
        config=types.GenerateContentConfig.model_validate(config),
    )
    return completion(response.model_dump(mode="json", by_alias=True, exclude_none=True))


FULL = {"safety": "BLOCK_ONLY_HIGH", "thinking_budget": 100, "logprobs": 4}


@pytest.mark.parametrize("shape", [{}, {"ask": "each"}, {"rationale": False}])
def test_google_s_sdk_gets_the_same_from_the_same_body(server: RunningServer, shape: dict[str, Any]) -> None:
    settings = settings_for(server, "gemini", **FULL)
    asked = prompt(**shape)
    ours = ask_one(GeminiClient(settings), asked)
    server.reset()  # and the prefix cache with it
    theirs = by_sdk(sdk(server), asked, settings)
    assert ours.tokens and ours.usage.input_tokens > 300
    # The SDK spells the schema's names otherwise, which the server bills as they come.
    assert theirs.usage.input_tokens == pytest.approx(ours.usage.input_tokens, rel=0.03)
    assert replace(theirs, usage=replace(theirs.usage, input_tokens=ours.usage.input_tokens)) == ours


def test_google_s_sdk_sends_the_same_bytes_of_meaning(server: RunningServer) -> None:
    settings = settings_for(server, "gemini", **FULL)
    ask_one(GeminiClient(settings), prompt())
    by_sdk(sdk(server), prompt(), settings)
    ours, theirs = (request["document"] for request in server.requests)
    # The SDK writes some names in their other spelling, and bytes in the alphabet of URLs.
    assert canonical(theirs) == canonical(ours)


def canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {"".join(name.replace("_", "").lower()): canonical(each) for name, each in value.items()}
    if isinstance(value, list):
        return [canonical(each) for each in value]
    return value.replace("-", "+").replace("_", "/") if isinstance(value, str) else value


def test_the_sdk_s_errors_mean_the_same(server: RunningServer) -> None:
    settings = settings_for(server, "gemini")
    for rule in (Rule("status", status=429, retry_after_s=7), Rule("status", status=503), Rule("status", status=403)):
        server.rules(rule)
        (ours,) = ask(GeminiClient(settings), prompt())
        with pytest.raises(errors.APIError) as raised:
            by_sdk(sdk(server), prompt(), settings)
        theirs = problem(raised.value.code, {}, raised.value.details)
        assert isinstance(ours, VidattrError) and type(theirs) is type(ours)
        assert getattr(theirs, "retry_after_s", 0) == getattr(ours, "retry_after_s", 0)


# Clips and Vertex AI


@pytest.fixture
def google(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Google's token server on loopback, and a service account that it knows."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    state: dict[str, Any] = {"status": 200, "calls": 0}

    class Tokens(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            state["calls"] += 1
            content = {"access_token": TOKEN, "expires_in": state.get("expires_in", 3600), "token_type": "Bearer"}
            if state["status"] != 200:
                content = {"error": "invalid_grant", "error_description": "Invalid JWT"}
            data = json.dumps(content).encode()
            self.send_response(state["status"])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Tokens) as tokens:
        threading.Thread(target=tokens.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        account = {
            "type": "service_account",
            "project_id": "p",
            "private_key_id": "1",
            "private_key": key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ).decode(),
            "client_email": "a@p.iam.gserviceaccount.com",
            "client_id": "1",
            "token_uri": f"http://127.0.0.1:{tokens.server_port}/token",
        }
        (tmp_path / "account.json").write_text(json.dumps(account))
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        yield state
        tokens.shutdown()


@pytest.fixture
def vertex() -> Iterator[RunningServer]:
    with running(ServerConfig(key=TOKEN)) as server:
        yield server


def test_vertex_ai_with_the_machine_s_credentials_and_whole_clips(google: dict[str, Any], vertex: RunningServer) -> None:
    settings = settings_for(vertex, "gemini", project="my-project", location="europe-west4", clips=True)
    asked = prompt(uri="gs://bucket/lake.mp4", model=settings)
    assert any(isinstance(part, Clip) for part in asked.turns[0].parts)
    found = ask(GeminiClient(settings), *[asked] * 20)
    assert [getattr(each, "finish", each) for each in found] == ["stop"] * 20
    assert google["calls"] == 1, "one token for all of them"
    (request, *_) = vertex.requests
    files = [part["fileData"] for part in request["document"]["contents"][0]["parts"] if "fileData" in part]
    assert files == [{"fileUri": "gs://bucket/lake.mp4", "mimeType": "video/mp4"}]
    assert isinstance(found[0], Completion) and found[0].tokens, "log-probabilities are asked for there"


def test_vertex_ai_that_refuses_the_credentials(google: dict[str, Any], server: RunningServer) -> None:
    settings = settings_for(server, "gemini", project="p")
    for status, kind in ((400, Unavailable), (503, Transient)):
        google["status"] = status
        (found,) = ask(GeminiClient(settings), prompt())
        assert type(found) is kind and "no access token" in str(found) and "PRIVATE KEY" not in str(found)
    assert server.stats()["requests"]["total"] == 0


def test_a_machine_without_credentials(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
    with pytest.raises(InvalidInput, match="gcloud auth application-default login"):
        GeminiClient(replace(MODEL, project="p")).open()


def test_the_token_is_nowhere_to_be_read(google: dict[str, Any], vertex: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    vertex.rules(Rule("status", status=403, message=f"the token {TOKEN} may not"))
    client = GeminiClient(settings_for(vertex, "gemini", project="p"))
    (found,) = ask(client, prompt())
    said = f"{found}{found!r}{client!r}{vars(client)}{caplog.text}"
    assert type(found) is Unavailable and TOKEN not in said and "may not" in said


def test_addresses_are_those_of_the_sdk(google: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [
        ({"location": place}, name) for place in ("", "global", "us", "europe-west4") for name in ("gemini-2.5-flash", "meta/llama")
    ]
    for more, name in cases:
        client = GeminiClient(ModelSettings(name=name, project="my-project", **more))
        client.open()
        assert client._posts is not None
        theirs = genai.Client(vertexai=True, project="my-project", location=more["location"] or "global")
        request = theirs._api_client._build_request("post", f"{t_model(theirs._api_client, name)}:generateContent", {})
        assert client._posts.service.address + client._path == request.url
    for name in ("gemini-2.5-flash", "models/gemini-2.5-flash", "tunedModels/mine-1"):
        monkeypatch.setenv("GEMINI_API_KEY", "any")
        client = GeminiClient(ModelSettings(name=name))
        client.open()
        assert client._posts is not None
        theirs = genai.Client(api_key="any")
        request = theirs._api_client._build_request("post", f"{t_model(theirs._api_client, name)}:generateContent", {})
        assert client._posts.service.address + client._path == request.url


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"name": "../../v1/files"}, "its name"),
        ({"name": "a?key=b"}, "its name"),
        ({"name": "a b"}, "its name"),
        ({"safety": "SOME"}, "BLOCK_ONLY_HIGH"),
        ({"project": "p/../x"}, "project"),
        ({"project": "p", "location": "evil.example/"}, "location"),
        ({"project": "p", "location": "evil.example:1"}, "location"),
    ],
)
def test_settings_that_would_lead_elsewhere(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        GeminiClient(ModelSettings(**({"name": "gemini-2.5-flash"} | wrong)))


def test_a_cancelled_question_leaves_the_others_their_token(google: dict[str, Any], vertex: RunningServer) -> None:
    client = GeminiClient(settings_for(vertex, "gemini", project="p"))

    async def run() -> str:
        client.open()
        first, second = (asyncio.create_task(client.complete(prompt())) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        found = await second
        await client.close()
        return found.finish

    assert asyncio.run(run()) == "stop" and google["calls"] == 1
