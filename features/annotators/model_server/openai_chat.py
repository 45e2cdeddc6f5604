"""Chat completions of the OpenAI API: reads requests as strictly as it does, and writes its replies.

Field names, ranges and words of refusals follow the OpenAI API reference, "Create chat completion".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from orjson import Fragment

from features.annotators.model_server.asked import Asked, Image, Said
from features.annotators.model_server.configuration import ServerConfig
from features.annotators.model_server.dialects import Accepted
from features.annotators.model_server.encoding import encoded
from features.annotators.model_server.fields import Fields
from features.annotators.model_server.pictures import BadPicture, Pictures
from features.annotators.model_server.problems import Refused
from features.annotators.model_server.said import Token, Written

_TAKEN = (
    "messages model frequency_penalty logprobs max_completion_tokens max_tokens metadata n presence_penalty prompt_cache_key "
    "prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier stop store stream temperature "
    "top_logprobs top_p user verbosity"
)
TAKEN = frozenset(_TAKEN.split())
_ELSEWHERE = (
    "audio function_call functions logit_bias modalities moderation parallel_tool_calls prediction prompt_cache_options "
    "stream_options tool_choice tools web_search_options"
)
ELSEWHERE = frozenset(_ELSEWHERE.split())
"""Fields that OpenAI has and this server does not serve."""
MEDIA_TYPES = ("image/jpeg", "image/png")

_DATA_URL = re.compile(r"data:([a-z]+/[a-z0-9.+-]+);base64,")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_FINISH: Mapping[str, str] = {"stop": "stop", "length": "length", "refused": "stop", "blocked": "content_filter", "empty": "stop"}


def read(document: dict[str, Any], config: ServerConfig, accepted: Accepted) -> Asked:
    """A request.

    Raises:
        Refused: as OpenAI refuses.
    """
    for name in document:
        if name not in TAKEN and name not in config.extra_fields:
            if name in ELSEWHERE:
                raise Refused(400, f"'{name}' is not served by this test server.", "unsupported_parameter", name)
            raise Refused(400, f"Unknown parameter: '{name}'.", "unknown_parameter", name)
    fields = Fields(document, _bad)
    model = named(document, config)
    if fields.flag("stream"):
        raise Refused(400, "'stream' is not served by this test server.", "unsupported_value", "stream")
    temperature = fields.number("temperature", 0, 2, 1.0)
    fields.number("top_p", 0, 1, 1.0)
    for penalty in ("frequency_penalty", "presence_penalty"):
        fields.number(penalty, -2, 2, 0.0)
    fields.integer("n", 1, 1, 1)
    fields.one_of("reasoning_effort", ("none", "minimal", "low", "medium", "high", "xhigh"))
    fields.one_of("service_tier", ("auto", "default", "flex", "scale", "priority", "fast"))
    fields.one_of("verbosity", ("low", "medium", "high"))
    seed = fields.integer("seed", -(2**63), 2**63 - 1, 0) if document.get("seed") is not None else None
    limit = _limit(fields, config)
    schema, key, tokens, as_json = _response_format(document.get("response_format"), accepted)
    system, turns = _messages(document.get("messages"), model, config, accepted.pictures)
    return Asked(
        "openai",
        model,
        system,
        turns,
        schema,
        as_json,
        limit,
        temperature,
        seed,
        _alternatives(fields, config),
        0,
        key,
        tokens,
        document,
    )


def named(document: Mapping[str, Any], config: ServerConfig) -> str:
    """The model that is asked for.

    Raises:
        Refused: 400 where none is named, 404 where it is unknown or retired.
    """
    model = document.get("model")
    if not isinstance(model, str) or not model:
        raise Refused(400, "you must provide a model parameter")
    if model in config.retired:
        raise Refused(404, f"The model `{model}` has been deprecated.", "model_not_found")
    if model not in config.models:
        raise Refused(404, f"The model `{model}` does not exist or you do not have access to it.", "model_not_found")
    return model


def _bad(name: str, what: str, code: str) -> Refused:
    return Refused(400, f"Invalid value for '{name}': {what}.", code, name)


def _limit(fields: Fields, config: ServerConfig) -> int:
    found = [name for name in ("max_tokens", "max_completion_tokens") if fields.document.get(name) is not None]
    if len(found) == 2:
        raise Refused(
            400,
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
            "invalid_parameter_combination",
        )
    most = config.max_output_tokens
    if not found:
        return most
    value = fields.integer(found[0], 1, 2**31, most)
    if value > most:
        raise Refused(
            400,
            f"{found[0]} is too large: {value}. This model supports at most {most} completion tokens.",
            "invalid_value",
            found[0],
        )
    return value


def _alternatives(fields: Fields, config: ServerConfig) -> int | None:
    wanted = fields.flag("logprobs")
    given = fields.document.get("top_logprobs") is not None
    most = fields.integer("top_logprobs", 0, 20, 0)
    if given and not wanted:
        raise Refused(
            400,
            "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.",
            "invalid_parameter_combination",
            "top_logprobs",
        )
    if wanted and not config.logprobs:
        raise Refused(403, "You are not allowed to request logprobs from this model", None, "logprobs")
    return most if wanted else None


def _response_format(given: object, accepted: Accepted) -> tuple[Mapping[str, Any] | None, bytes, int, bool]:
    if given is None:
        return None, b"", 0, False
    kind = given.get("type") if isinstance(given, dict) else None
    if not isinstance(given, dict) or kind not in ("text", "json_object", "json_schema"):
        what = f"supported values are: 'json_object', 'json_schema', and 'text', but got {kind!r} instead"
        raise Refused(400, f"Invalid value: {what}.", "invalid_value", "response_format.type")
    if kind != "json_schema":
        _only(given, {"type"}, "response_format")
        return None, b"", 0, kind == "json_object"
    _only(given, {"type", "json_schema"}, "response_format")
    inner = given.get("json_schema")
    if not isinstance(inner, dict):
        raise Refused(
            400, "Missing required parameter: 'response_format.json_schema'.", "missing_required_parameter", "response_format"
        )
    _only(inner, {"name", "description", "schema", "strict"}, "response_format.json_schema")
    name = inner.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        what = "expected a string that matches the pattern '^[a-zA-Z0-9_-]+$' of at most 64 characters"
        raise Refused(
            400, f"Invalid 'response_format.json_schema.name': {what}.", "invalid_value", "response_format.json_schema.name"
        )
    strict = inner.get("strict")
    if strict is not None and not isinstance(strict, bool):
        raise _bad("response_format.json_schema.strict", f"expected a boolean, but got {strict!r} instead", "invalid_type")
    schema = inner.get("schema", {})
    if not isinstance(schema, dict):
        raise _bad("response_format.json_schema.schema", f"expected an object, but got {schema!r} instead", "invalid_type")
    return *accepted.schema("openai" if strict else "any", schema, name), True


def _only(document: Mapping[str, Any], known: set[str], where: str) -> None:
    for name in document:
        if name not in known:
            raise Refused(400, f"Unknown parameter: '{where}.{name}'.", "unknown_parameter", f"{where}.{name}")


def _messages(given: object, model: str, config: ServerConfig, pictures: Pictures) -> tuple[str, tuple[Said, ...]]:
    if given is None:
        raise Refused(400, "Missing required parameter: 'messages'.", "missing_required_parameter", "messages")
    if not isinstance(given, list):
        raise _bad("messages", "expected an array of objects", "invalid_type")
    if not given:
        what = "empty array. Expected an array with minimum length 1, but got an empty array instead"
        raise Refused(400, f"Invalid 'messages': {what}.", "empty_array", "messages")
    system: list[str] = []
    turns: list[Said] = []
    for place, message in enumerate(given):
        where = f"messages[{place}]"
        if not isinstance(message, dict):
            raise _bad(where, "expected an object", "invalid_type")
        role = message.get("role")
        if role not in ("system", "developer", "user", "assistant"):
            listed = "'system', 'assistant', 'user', 'function', 'tool', and 'developer'"
            raise Refused(400, f"Invalid value: {role!r}. Supported values are: {listed}.", "invalid_value", f"{where}.role")
        _only(message, {"role", "content", "name", *(("refusal",) if role == "assistant" else ())}, where)
        parts = _content(message.get("content"), f"{where}.content", role, model, config, pictures)
        if role in ("system", "developer"):
            system += [part for part in parts if isinstance(part, str)]
        else:
            turns.append(Said("model" if role == "assistant" else "user", parts))
    if not turns or turns[-1].role != "user":
        raise Refused(400, "This test server wants the user to have the last word.", "invalid_value", "messages")
    return "\n".join(system), tuple(turns)


def _content(given: object, where: str, role: str, model: str, config: ServerConfig, pictures: Pictures) -> tuple[str | Image, ...]:
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, list):
        got = "null" if given is None else type(given).__name__
        raise Refused(400, f"Invalid value for 'content': expected a string or an array, got {got}.", "invalid_type", where)
    if not given:
        raise Refused(400, f"Invalid '{where}': empty array.", "empty_array", where)
    return tuple(_part(part, f"{where}[{place}]", role, model, config, pictures) for place, part in enumerate(given))


def _part(part: object, where: str, role: str, model: str, config: ServerConfig, pictures: Pictures) -> str | Image:
    kind = part.get("type") if isinstance(part, dict) else None
    kinds = ("text", "image_url") if role == "user" else ("text",)
    if not isinstance(part, dict) or kind not in kinds:
        listed = " and ".join(f"'{each}'" for each in kinds)
        raise Refused(400, f"Invalid value: {kind!r}. Supported values are: {listed}.", "invalid_value", f"{where}.type")
    _only(part, {"type", str(kind)}, where)
    if kind == "text":
        text = part.get("text")
        if not isinstance(text, str) or not text:
            raise Refused(400, f"Invalid '{where}.text': expected a text that is not empty.", "invalid_type", f"{where}.text")
        return text
    if not config.sees:
        raise Refused(400, "This model does not support image inputs.", "unsupported_content", where)
    inner = part.get("image_url")
    if not isinstance(inner, dict):
        raise Refused(400, f"Invalid type for '{where}.image_url': expected an object.", "invalid_type", f"{where}.image_url")
    _only(inner, {"url", "detail"}, f"{where}.image_url")
    detail = Fields(inner, _bad).one_of("detail", ("auto", "low", "high", "original"))
    url = inner.get("url")
    found = _DATA_URL.match(url) if isinstance(url, str) else None
    if not isinstance(url, str) or not found:
        raise Refused(
            400, "Invalid image URL: this test server takes data: URLs with base64 only.", "invalid_image_url", f"{where}.image_url"
        )
    if found[1] not in MEDIA_TYPES:
        formats = "Please make sure your image is one of the following formats: ['png', 'jpeg']."
        raise Refused(400, f"You uploaded an unsupported image. {formats}", "invalid_image_format")
    try:
        return pictures.checked(url[found.end() :], found[1], model, detail == "low")
    except BadPicture as error:
        raise Refused(400, f"Invalid image at {where}: {error}.", "invalid_image") from error


def write(asked: Asked, written: Written, number: int, now: float) -> dict[str, Any]:
    """A chat completion."""
    refusal = written.detail if written.finish == "refused" else None
    content = written.text if refusal is None else None
    choices: list[dict[str, Any]] = []
    if not (written.finish == "empty" and not written.text and written.detail == "no choice"):
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": refusal, "annotations": []}
        logprobs = None
        if asked.top_logprobs is not None:
            logprobs = {"content": Fragment(b"[" + b",".join(map(_token, written.tokens)) + b"]"), "refusal": None}
        finish = _FINISH.get(written.finish, "stop")
        choices = [{"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish}]
    return {
        "id": f"chatcmpl-{number:012d}",
        "object": "chat.completion",
        "created": int(now),
        "model": asked.model,
        "choices": choices,
        "usage": {
            "prompt_tokens": written.input_tokens,
            "completion_tokens": written.output_tokens,
            "total_tokens": written.input_tokens + written.output_tokens,
            "prompt_tokens_details": {"cached_tokens": written.cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": "fp_test",
    }


@lru_cache(maxsize=16_384)
def _token(token: Token) -> bytes:
    def one(text: str, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}

    return encoded({**one(token.text, token.logprob), "top_logprobs": [one(*each) for each in token.top]})
