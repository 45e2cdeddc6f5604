from __future__ import annotations

import json
import math
from typing import Any

import openai
import pytest

from tests.features.annotators.model_server.asking_servers import (
    ATTRIBUTES,
    chat,
    image_part,
    packed,
    picture,
    schema,
    shown,
    strict,
)


def reply_of(completion: Any) -> dict[str, Any]:
    return json.loads(completion.choices[0].message.content)


def test_a_reply_has_the_shape_of_the_schema_and_is_the_same_every_time(shared):
    first = shared.openai.chat.completions.create(**chat())
    reply = reply_of(first)
    assert reply["id"] == "v1" and list(reply["attributes"]) == list(ATTRIBUTES)
    calming, pace, polish = reply["attributes"].values()
    assert calming["value"] in (True, False) and pace["value"] in ("slow", "medium", "fast") and 1 <= polish["value"] <= 5
    assert all(0 <= moment["start_s"] < moment["end_s"] <= 12 for each in (calming, pace, polish) for moment in each["moments"])
    assert first.choices[0].finish_reason == "stop" and first.model == "gpt-4.1-mini"
    usage = first.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 100
    assert reply_of(shared.openai.chat.completions.create(**chat())) == reply
    values = [reply_of(shared.openai.chat.completions.create(**chat(f"Video {n}")))["attributes"] for n in range(20)]
    assert len({each["calming"]["value"] for each in values}) == 2 and len({each["pace"]["value"] for each in values}) == 3


def test_a_packed_reply_echoes_all_ids_and_says_what_each_video_gets_alone(shared):
    titles = ["A lake", "A race", "A cat"]
    videos = reply_of(shared.openai.chat.completions.create(**packed(*titles)))["videos"]
    assert [video["id"] for video in videos] == ["v1", "v2", "v3"]
    alone = [reply_of(shared.openai.chat.completions.create(**chat(title)))["attributes"] for title in titles]
    # The digest is of what stands between the marks, so that a neighbour changes nothing.
    assert [video["attributes"] for video in videos] == alone


def test_without_a_schema_the_questions_are_read_out_of_the_prompt(shared):
    reply = reply_of(shared.openai.chat.completions.create(**chat(response_format={"type": "json_object"})))
    assert list(reply["attributes"]) == list(ATTRIBUTES) and reply["attributes"]["pace"]["value"] in ("slow", "medium", "fast")


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("Is it calming?\nAnswer with one word, Yes or No.", {"Yes", "No"}),
        ('Where?\nA: "at home"\nB: "at work"\nAnswer with one letter, A or B.', {"A", "B"}),
        ("How fast?\nAnswer with exactly one of these: slow, medium, fast.", {"slow", "medium", "fast"}),
        ("How polished?\nAnswer with one whole number from 1 to 5, the more the higher.", set("12345")),
    ],
)
def test_a_question_in_plain_words_gets_a_permitted_word_with_log_probabilities(shared, question, words):
    parts = [{"type": "text", "text": shown("A lake")}, {"type": "text", "text": question}]
    messages = [{"role": "system", "content": "You answer."}, {"role": "user", "content": parts}]
    body = chat(messages=messages, response_format=None, logprobs=True, top_logprobs=20)
    choice = shared.openai.chat.completions.create(**body).choices[0]
    assert choice.message.content in words
    first = choice.logprobs.content[0]
    odds = {each.token: math.exp(each.logprob) for each in first.top_logprobs if each.token in words}
    assert set(odds) == words and sum(odds.values()) == pytest.approx(1) and len(first.top_logprobs) == 20
    assert first.token == choice.message.content == max(odds, key=odds.get)


def test_log_probabilities_stand_at_the_verdicts_of_a_json_reply(shared):
    choice = shared.openai.chat.completions.create(**chat(logprobs=True, top_logprobs=5)).choices[0]
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == choice.message.content
    value = json.loads(choice.message.content)["attributes"]["calming"]["value"]
    verdict = next(token for token in tokens if token.token == json.dumps(value))
    odds = {each.token: math.exp(each.logprob) for each in verdict.top_logprobs}
    assert odds["true"] + odds["false"] == pytest.approx(1) and (odds["true"] > 0.5) is value


def test_pictures_are_decoded_and_billed_by_the_model_s_rule(serving):
    served = serving(models=("gpt-4o", "gpt-4o-mini", "gpt-4.1-mini", "qwen"))

    def tokens(model: str, size: tuple[int, int], form: str = "JPEG", **more: str) -> int:
        def billed(*parts: Any) -> int:
            messages = [{"role": "user", "content": [{"type": "text", "text": "Look."}, *parts]}]
            return served.openai.chat.completions.create(**chat(model=model, messages=messages)).usage.prompt_tokens

        return billed(image_part(picture(form, size), f"image/{form.lower()}", **more)) - billed()

    assert (
        tokens("gpt-4o", (512, 512), detail="low") == 85 and tokens("gpt-4o", (512, 512)) == tokens("gpt-4o", (9, 9), "PNG") == 255
    )
    # The API's own example: 2048 x 4096 is fitted to 1024 x 2048, then to 768 x 1536, which is six tiles.
    assert tokens("gpt-4o", (2048, 4096)) == 1105 and tokens("gpt-4o-mini", (512, 512)) == 2833 + 5667
    assert tokens("gpt-4.1-mini", (1024, 1024)) == math.ceil(1024 * 1.62) and tokens("qwen", (280, 56)) == 20


def test_a_seed_draws_values_where_the_temperature_lets_it(shared):
    drawn = {
        reply_of(shared.openai.chat.completions.create(**chat(temperature=1, seed=seed)))["attributes"]["pace"]["value"]
        for seed in range(30)
    }
    assert len(drawn) > 1


def test_a_reply_is_cut_at_its_token_limit(shared):
    choice = shared.openai.chat.completions.create(**chat(max_completion_tokens=20)).choices[0]
    assert choice.finish_reason == "length" and len(choice.message.content) < 120


def bad_schema(**changes: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "r", "strict": True, "schema": schema() | changes}}}


def with_content(content: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}]}


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"top_k": 5}, 400, "Unknown parameter: 'top_k'"),
        ({"tools": []}, 400, "not served"),
        ({"stream": True}, 400, "not served"),
        ({"temperature": 2.1}, 400, "<= 2"),
        ({"temperature": "hot"}, 400, "expected a number"),
        ({"max_completion_tokens": 0}, 400, ">= 1"),
        ({"max_completion_tokens": 10**6}, 400, "too large"),
        ({"max_tokens": 5}, 400, "at the same time"),
        ({"top_logprobs": 3}, 400, "only allowed when 'logprobs'"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "<= 20"),
        ({"n": 2}, 400, "<= 1"),
        ({"model": "gpt-17"}, 404, "does not exist"),
        ({"model": "gpt-4-vision-preview"}, 404, "deprecated"),
        ({"messages": []}, 400, "empty array"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "Supported values"),
        ({"messages": [{"role": "user", "content": None}]}, 400, "got null"),
        ({"messages": [{"role": "user", "content": "x", "mood": 1}]}, 400, "Unknown parameter"),
        (with_content([]), 400, "empty array"),
        (with_content([{"type": "text", "text": ""}]), 400, "not empty"),
        (with_content([{"type": "image_url", "image_url": {"url": "http://example.com/a.jpg"}}]), 400, "data: URLs"),
        (with_content([image_part(b"no picture")]), 400, "does not decode"),
        (with_content([image_part(picture()[:300])]), 400, "does not decode"),
        (with_content([image_part(picture("PNG"))]), 400, "image/jpeg and is image/png"),
        (with_content([image_part(picture(), "image/gif")]), 400, "unsupported image"),
        (with_content([image_part(picture(size=(9000, 10)))]), 400, "9000 x 10"),
        ({"response_format": {"type": "xml"}}, 400, "Supported values"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}}, 400, "pattern"),
        (bad_schema(additionalProperties=True), 400, "'additionalProperties' is required to be supplied and to be false"),
        (bad_schema(required=["id"]), 400, "including every key"),
        (bad_schema(minProperties=1), 400, "'minProperties' is not permitted"),
        (bad_schema(properties={"id": {"type": "string", "maxLength": 3}}, required=["id"]), 400, "'maxLength' is not permitted"),
        (bad_schema(properties={"id": {"type": "list"}}, required=["id"]), 400, "not a type"),
        (bad_schema(type="array"), 400, "got 'type: \"array\"'"),
    ],
)
def test_what_openai_refuses_is_refused(shared, change, status, said):
    before = shared.server.stats()["accepted"]
    with pytest.raises(openai.APIStatusError) as raised:
        shared.openai.post("/chat/completions", body=chat() | change, cast_to=object)
    assert raised.value.status_code == status and said.lower() in str(raised.value).lower()
    assert raised.value.body["type"] == "invalid_request_error"
    assert shared.server.stats()["accepted"] == before


def test_a_schema_may_be_ten_levels_deep_and_no_more(shared):
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(11):
        deep = strict({"a": deep})
    with pytest.raises(openai.BadRequestError, match="levels of nesting"):
        shared.openai.post("/chat/completions", body=chat() | bad_schema(**deep), cast_to=object)


def test_key_size_context_and_sight(serving):
    served = serving("wrong", key="right", max_request_bytes=5000)
    with pytest.raises(openai.AuthenticationError) as denied:
        served.openai.chat.completions.create(**chat())
    assert denied.value.code == "invalid_api_key" and "wrong" not in str(denied.value)
    assert served.server.stats()["generations"] == 0
    right = served.openai.with_options(api_key="right")
    right.chat.completions.create(**chat())
    with pytest.raises(openai.APIStatusError) as raised:
        right.chat.completions.create(**chat("x" * 6000))
    assert raised.value.status_code == 413
    small = serving(context_tokens=500, sees=False, logprobs=False, extra_fields=("cache_prompt",))
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        small.openai.chat.completions.create(**chat("many words " * 400))
    with pytest.raises(openai.BadRequestError, match="does not support image"):
        small.openai.chat.completions.create(**chat(**with_content([image_part(picture())])))
    with pytest.raises(openai.PermissionDeniedError, match="logprobs"):
        small.openai.chat.completions.create(**chat(logprobs=True))
    small.openai.chat.completions.create(**chat(response_format=None), extra_body={"cache_prompt": True})


def test_numbers_that_are_no_json_and_bodies_that_are_none(shared):
    post = shared.openai._client.post
    for body in (b'{"model": NaN}', b"{", b"[1]", b"[" * 100_000, b"\xff"):
        reply = post(f"{shared.server.openai_url}/chat/completions", content=body)
        assert reply.status_code == 400 and reply.json()["error"]["type"] == "invalid_request_error"
    assert post(f"{shared.server.openai_url}/completions", json={}).status_code == 404
    assert next(iter(shared.openai.models.list())).id == "gpt-4.1-mini"
