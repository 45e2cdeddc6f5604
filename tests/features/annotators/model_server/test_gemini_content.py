from __future__ import annotations

import json
import math
from typing import Any

import pytest
from google import genai
from google.genai import errors, types
from google.oauth2.credentials import Credentials

from tests.features.annotators.model_server.asking_servers import ATTRIBUTES, generate, picture, schema, shown


def test_a_reply_has_the_shape_of_the_schema_and_says_what_openai_s_says(shared):
    response = shared.gemini.models.generate_content(**generate())
    reply = json.loads(response.text)
    assert list(reply["attributes"]) == list(ATTRIBUTES)
    assert response.candidates[0].finish_reason is types.FinishReason.STOP and response.model_version == "gemini-2.5-flash"
    usage = response.usage_metadata
    assert usage.total_token_count == usage.prompt_token_count + usage.candidates_token_count > 100
    assert response.parsed == reply


def test_google_s_own_schema_dialect_is_read_in_both_spellings(shared):
    answer = types.Schema(
        type="OBJECT",
        properties={"value": types.Schema(type="BOOLEAN"), "rationale": types.Schema(type="STRING", max_length=5)},
        required=["value"],
        property_ordering=["rationale", "value"],
    )
    own = types.Schema(type="OBJECT", properties={"calming": answer})
    response = shared.gemini.models.generate_content(**generate(response_json_schema=None, response_schema=own))
    reply = json.loads(response.text)
    assert list(reply["calming"]) == ["rationale", "value"] and len(reply["calming"]["rationale"]) == 5


def test_log_probabilities_and_hidden_reasoning(serving):
    served = serving(thinking_tokens=300)
    response = served.gemini.models.generate_content(**generate(response_logprobs=True, logprobs=4))
    result = response.candidates[0].logprobs_result
    assert "".join(each.token for each in result.chosen_candidates) == response.text
    value = json.dumps(json.loads(response.text)["attributes"]["calming"]["value"])
    place = next(number for number, each in enumerate(result.chosen_candidates) if each.token == value)
    top = {each.token: math.exp(each.log_probability) for each in result.top_candidates[place].candidates}
    assert top["true"] + top["false"] == pytest.approx(1) and len(top) == 4
    assert response.usage_metadata.thoughts_token_count == 300
    none = served.gemini.models.generate_content(**generate(thinking_config=types.ThinkingConfig(thinking_budget=0)))
    assert not none.usage_metadata.thoughts_token_count
    short = served.gemini.models.generate_content(**generate(max_output_tokens=200))
    assert short.candidates[0].finish_reason is types.FinishReason.MAX_TOKENS and not short.text


def test_pictures_are_billed_by_tiles_and_films_by_seconds(shared):
    def tokens(*parts: types.Part, **more: Any) -> int:
        contents = [types.Content(role="user", parts=[types.Part(text="Look."), *parts])]
        arguments = generate(response_mime_type=None, response_json_schema=None, **more) | {"contents": contents}
        return shared.gemini.models.generate_content(**arguments).usage_metadata.prompt_token_count

    def still(*size: int) -> types.Part:
        return types.Part.from_bytes(data=picture(size=size), mime_type="image/jpeg")

    none = tokens()
    assert tokens(still(384, 384)) - none == 258 and tokens(still(1000, 700)) - none == 2 * 258
    assert tokens(still(1000, 700), media_resolution="MEDIA_RESOLUTION_LOW") - none == 64
    assert tokens(types.Part.from_uri(file_uri="gs://bucket/a.mp4", mime_type="video/mp4")) - none == 2900
    assert shared.gemini.models.count_tokens(model="gemini-2.5-flash", contents="four words are here").total_tokens < 10
    assert "models/gemini-2.5-flash" in [model.name for model in shared.gemini.models.list()]


def test_vertex_ai_speaks_the_same_under_its_own_path(serving):
    served = serving(key="token")
    options = types.HttpOptions(base_url=served.server.gemini_url, timeout=10_000)
    for token, works in (("token", True), ("other", False)):
        client = genai.Client(vertexai=True, project="p", location="l", credentials=Credentials(token=token), http_options=options)
        film = types.Part.from_uri(file_uri="gs://bucket/a.mp4", mime_type="video/mp4")
        arguments = generate() | {"contents": [types.Content(role="user", parts=[film, types.Part(text="Now answer.")])]}
        if works:
            assert json.loads(client.models.generate_content(**arguments).text)["id"] == "v1"
        else:
            with pytest.raises(errors.ClientError) as raised:
                client.models.generate_content(**arguments)
            assert (raised.value.code, raised.value.status) == (401, "UNAUTHENTICATED")
        client.close()


def test_a_wrong_key_and_a_missing_one(serving):
    served = serving("wrong", key="right")
    with pytest.raises(errors.ClientError) as raised:
        served.gemini.models.generate_content(**generate())
    assert raised.value.code == 400 and raised.value.details["error"]["details"][0]["reason"] == "API_KEY_INVALID"
    url = f"{served.server.gemini_url}/v1beta/models/gemini-2.5-flash:generateContent"
    assert served.openai._client.post(url, json={}).status_code == 403
    assert served.openai._client.post(url, json={}, headers={"x-goog-api-key": "right"}).status_code == 400


PART = {"text": "x"}
TURN = {"role": "user", "parts": [PART]}


def body(**generation: Any) -> dict[str, Any]:
    return {"contents": [TURN], "generationConfig": generation}


def own(**more: Any) -> dict[str, Any]:
    return body(
        responseMimeType="application/json", responseSchema={"type": "OBJECT", "properties": {"a": {"type": "STRING"}}} | more
    )


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"contents": [TURN], "prompt": "x"}, 'Unknown name "prompt"'),
        (body(topQ=1), "Unknown name \"topQ\" at 'generation_config'"),
        ({"contents": [TURN], "tools": []}, "not served"),
        ({}, "contents is not specified"),
        ({"contents": []}, "contents is not specified"),
        ({"contents": [{"role": "user", "parts": []}]}, "must not be empty"),
        ({"contents": [{"role": "assistant", "parts": [PART]}]}, "valid role: user, model"),
        ({"contents": [TURN, {"role": "model", "parts": [PART]}]}, "end with a user role"),
        ({"contents": [{"role": "user", "parts": [{"text": ""}]}]}, "oneof field 'data'"),
        ({"contents": [{"role": "user", "parts": [{"text": "x", "inlineData": {}}]}]}, "oneof field 'data'"),
        ({"contents": [{"parts": [{"inlineData": {"mimeType": "image/gif", "data": ""}}]}]}, "Unsupported MIME type"),
        ({"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "!"}}]}]}, "Base64 decoding failed"),
        ({"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "aGk="}}]}]}, "Unable to process input image"),
        ({"contents": [{"parts": [{"fileData": {"fileUri": "file:///etc/passwd"}}]}]}, "file uri"),
        (body(temperature=3), "<= 2"),
        (body(maxOutputTokens=0), ">= 1"),
        (body(logprobs=3), "response_logprobs is not"),
        (body(responseLogprobs=True, logprobs=21), "<= 20"),
        (body(thinkingConfig={"thinkingBudget": 40_000}), "<= 32768"),
        (body(responseSchema={"type": "STRING"}), "response_mime_type"),
        (body(responseMimeType="text/html"), "allowed mimetypes"),
        (own(additionalProperties=False), 'Unknown name "additionalProperties"'),
        (own(properties={}), "should be non-empty for OBJECT type"),
        (own(required=["b"]), "property is not defined"),
        (own(properties={"a": {"type": "NUMBER", "enum": ["1"]}}), "only allowed for STRING type"),
        (own(properties={"a": {"type": "TEXT"}}), "Invalid value"),
        (own(properties={"a": {"type": "ARRAY"}}), "missing field"),
        (own(properties={"a": {}}), "must be specified"),
        (own(properties={"a": {"type": "STRING", "format": "email"}}), "not supported"),
        (body(responseMimeType="application/json", responseJsonSchema=schema() | {"not": {}}), "'not' is not supported"),
        ({"contents": [TURN], "safetySettings": [{"category": "RUDE", "threshold": "OFF"}]}, "supported values"),
    ],
)
def test_what_google_refuses_is_refused(shared, document, said):
    url = f"{shared.server.gemini_url}/v1beta/models/gemini-2.5-flash:generateContent"
    reply = shared.openai._client.post(url, json=document, headers={"x-goog-api-key": "any"})
    error = reply.json()["error"]
    assert reply.status_code == 400 and error["status"] == "INVALID_ARGUMENT" and error["code"] == 400
    assert said in error["message"]


def test_unknown_and_retired_models(shared):
    for model in ("gemini-99", "gemini-1.0-pro"):
        with pytest.raises(errors.ClientError) as raised:
            shared.gemini.models.generate_content(**(generate() | {"model": model}))
        assert (raised.value.code, raised.value.status) == (404, "NOT_FOUND")


def test_system_and_safety_and_three_turns_are_taken(shared):
    said = [("user", shown("A lake")), ("model", "{}"), ("user", "That reply can not be used. Again.")]
    contents = [types.Content(role=role, parts=[types.Part(text=text)]) for role, text in said]
    safety = [types.SafetySetting(category="HARM_CATEGORY_HARASSMENT", threshold="BLOCK_ONLY_HIGH")]
    arguments = generate(safety_settings=safety, seed=4) | {"contents": contents}
    assert json.loads(shared.gemini.models.generate_content(**arguments).text)["id"] == "v1"
