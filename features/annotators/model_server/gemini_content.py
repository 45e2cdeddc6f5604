"""`generateContent` of the Gemini API and of Vertex AI: reads requests as strictly as they do, and writes their replies.

Field names and ranges follow the API reference of `models.generateContent`, and what google-genai sends and parses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from orjson import Fragment

from features.annotators.model_server.asked import Asked, Film, Image, Said
from features.annotators.model_server.configuration import ServerConfig
from features.annotators.model_server.dialects import Accepted, camel
from features.annotators.model_server.encoding import encoded
from features.annotators.model_server.fields import Fields
from features.annotators.model_server.pictures import BadPicture, Pictures
from features.annotators.model_server.problems import Refused
from features.annotators.model_server.said import Token, Written

TAKEN = frozenset({"contents", "systemInstruction", "generationConfig", "safetySettings", "model", "serviceTier", "store"})
ELSEWHERE = frozenset({"tools", "toolConfig", "cachedContent", "labels", "continuationToken"})
_GENERATION = (
    "temperature topP topK candidateCount maxOutputTokens stopSequences responseLogprobs logprobs presencePenalty "
    "frequencyPenalty seed responseMimeType responseSchema responseJsonSchema thinkingConfig mediaResolution "
    "responseModalities"
)
GENERATION = frozenset(_GENERATION.split())
VERTEX_ONLY = frozenset({"audioTimestamp", "routingConfig", "modelConfig"})
HARMS = (
    "HARM_CATEGORY_HARASSMENT",
    "HARM_CATEGORY_HATE_SPEECH",
    "HARM_CATEGORY_SEXUALLY_EXPLICIT",
    "HARM_CATEGORY_DANGEROUS_CONTENT",
    "HARM_CATEGORY_CIVIC_INTEGRITY",
)
THRESHOLDS = ("BLOCK_NONE", "BLOCK_ONLY_HIGH", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_LOW_AND_ABOVE", "OFF")
MEDIA_TYPES = ("image/jpeg", "image/png")
FILMS = (
    "video/mp4",
    "video/mpeg",
    "video/quicktime",
    "video/avi",
    "video/x-flv",
    "video/mpg",
    "video/webm",
    "video/wmv",
    "video/3gpp",
)
FILM_SECONDS, FILM_TOKENS = 10, 290
"""How long a video that is not fetched is taken to be, and its tokens a second: 258 a frame and 32 of sound."""

_FINISH: Mapping[str, str] = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "blocked": "SAFETY",
    "recitation": "RECITATION",
    "refused": "STOP",
    "empty": "STOP",
}


@dataclass(frozen=True)
class Shape:
    """What decides how parts are read: the model, whose address it was asked under, and how pictures are looked at."""

    model: str
    vertex: bool
    low: bool
    pictures: Pictures


def read(document: dict[str, Any], model: str, config: ServerConfig, accepted: Accepted, vertex: bool = False) -> Asked:
    """A request to `model`.

    Raises:
        Refused: as Google refuses.
    """
    body = _fields(document, TAKEN, "")
    system = ""
    if body.get("systemInstruction") is not None:
        said = _content(body["systemInstruction"], "system_instruction", config, Shape(model, vertex, False, accepted.pictures))
        system = "\n".join(part for part in said.parts if isinstance(part, str))
    given = _object(body.get("generationConfig"), "generation_config")
    generation = _fields(given, GENERATION | (VERTEX_ONLY if vertex else frozenset()), "generation_config")
    fields = Fields(generation, _bad)
    temperature = fields.number("temperature", 0, 2, 1.0)
    fields.number("topP", 0, 1, 0.95)
    fields.number("topK", 1, 1000, 64)
    fields.integer("candidateCount", 1, 1, 1)
    limit = fields.integer("maxOutputTokens", 1, config.max_output_tokens, config.max_output_tokens)
    seed = fields.integer("seed", -(2**31), 2**31 - 1, 0) if generation.get("seed") is not None else None
    low = fields.one_of("mediaResolution", tuple(f"MEDIA_RESOLUTION_{each}" for each in ("LOW", "MEDIUM", "HIGH")))
    schema, key, tokens, as_json = _schema(generation, accepted)
    for place, setting in enumerate(body.get("safetySettings") or ()):
        inner = Fields(
            _fields(_object(setting, "safety_settings"), frozenset({"category", "threshold"}), f"safety_settings[{place}]"), _bad
        )
        if not inner.one_of("category", HARMS) or not inner.one_of("threshold", THRESHOLDS):
            raise invalid(f"safety_settings[{place}]", "category and threshold must be set")
    turns = _contents(body.get("contents"), config, Shape(model, vertex, low.endswith("LOW"), accepted.pictures))
    return Asked(
        "gemini",
        model,
        system,
        turns,
        schema,
        as_json,
        limit,
        temperature,
        seed,
        _alternatives(fields, model, config),
        _thinking(generation.get("thinkingConfig"), config),
        key,
        tokens,
        document,
    )


def known(model: str, config: ServerConfig, method: str) -> None:
    """Refuses a model that is not served.

    Raises:
        Refused: 404.
    """
    if model not in config.models or model in config.retired:
        what = f"models/{model} is not found for API version v1beta, or is not supported for {method}."
        raise Refused(404, f"{what} Call ListModels to see the list of available models and their supported methods.")


def invalid(where: str, what: str) -> Refused:
    """A 400 in Google's words."""
    return Refused(400, f"* GenerateContentRequest.{where}: {what}\n")


def _bad(name: str, what: str, code: str) -> Refused:
    return invalid(f"generation_config.{name}", what)


def _object(value: object, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refused(400, f"Invalid value at '{where}': expected an object")
    return value


def _fields(document: Mapping[str, Any], taken: frozenset[str], where: str) -> dict[str, Any]:
    """Fields under their camel-case names, as both spellings are taken.

    Raises:
        Refused: a field that the message does not have.
    """
    fields = {}
    for given, value in document.items():
        name = camel(given)
        if name not in taken:
            if not where and name in ELSEWHERE:
                raise Refused(400, f"{name} is not served by this test server.")
            at = f" at '{where}'" if where else ""
            message = f'Invalid JSON payload received. Unknown name "{given}"{at}: Cannot find field.'
            violation = {"field": where, "description": message}
            raise Refused(
                400, message, details=({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]},)
            )
        fields[name] = value
    return fields


def _schema(generation: Mapping[str, Any], accepted: Accepted) -> tuple[Mapping[str, Any] | None, bytes, int, bool]:
    kind = generation.get("responseMimeType") or "text/plain"
    if kind not in ("text/plain", "application/json", "text/x.enum"):
        raise invalid(
            "generation_config.response_mime_type", f"allowed mimetypes are `text/plain`, `application/json`, got {kind!r}"
        )
    plain, as_json = generation.get("responseSchema"), generation.get("responseJsonSchema")
    if plain is None and as_json is None:
        return None, b"", 0, kind == "application/json"
    if plain is not None and as_json is not None:
        raise invalid("generation_config", "only one of response_schema and response_json_schema can be set")
    if kind == "text/plain":
        raise Refused(400, "Function calling or JSON mode: response_schema needs response_mime_type 'application/json'")
    found = accepted.schema("gemini", plain) if plain is not None else accepted.schema("gemini-json", as_json)
    return *found, True


def _alternatives(fields: Fields, model: str, config: ServerConfig) -> int | None:
    wanted = fields.flag("responseLogprobs")
    most = fields.integer("logprobs", 0, 20, 0)
    if fields.document.get("logprobs") is not None and not wanted:
        raise Refused(400, "logprobs is set while response_logprobs is not: set response_logprobs to true")
    if wanted and not config.logprobs:
        raise Refused(400, f"Logprobs is not enabled for models/{model}")
    return most if wanted else None


def _thinking(given: object, config: ServerConfig) -> int:
    thinking = _fields(
        _object(given, "thinking_config"), frozenset({"thinkingBudget", "includeThoughts", "thinkingLevel"}), "thinking_config"
    )
    budget = Fields(thinking, _bad).integer("thinkingBudget", -1, 32_768, -1)
    return config.thinking_tokens if budget < 0 else min(budget, config.thinking_tokens)


def _contents(given: object, config: ServerConfig, shape: Shape) -> tuple[Said, ...]:
    if not isinstance(given, list) or not given:
        raise invalid("contents", "contents is not specified")
    turns = tuple(_content(each, f"contents[{place}]", config, shape) for place, each in enumerate(given))
    if turns[-1].role != "user":
        raise Refused(400, "Please ensure that multiturn requests end with a user role or a function response.")
    return turns


def _content(given: object, where: str, config: ServerConfig, shape: Shape) -> Said:
    content = _fields(_object(given, where), frozenset({"role", "parts"}), where)
    role = content.get("role") or "user"
    if role not in ("user", "model") and not where.startswith("system"):
        raise Refused(400, "Please use a valid role: user, model.")
    parts = content.get("parts")
    if not isinstance(parts, list) or not parts:
        raise invalid(f"{where}.parts", "contents.parts must not be empty.")
    return Said(role, tuple(_part(part, f"{where}.parts[{place}]", config, shape) for place, part in enumerate(parts)))


def _part(given: object, where: str, config: ServerConfig, shape: Shape) -> str | Image | Film:
    taken = frozenset({"text", "inlineData", "fileData", "videoMetadata", "mediaResolution", "thought"})
    part = _fields(_object(given, where), taken, where)
    data = [name for name in ("text", "inlineData", "fileData") if part.get(name) is not None]
    if len(data) != 1:
        raise invalid(f"{where}.data", "required oneof field 'data' must have one initialized field")
    if data == ["text"]:
        if not isinstance(part["text"], str):
            raise Refused(400, f"Invalid value at '{where}.text' (TYPE_STRING), {part['text']!r}")
        if not part["text"]:
            raise invalid(f"{where}.data", "required oneof field 'data' must have one initialized field")
        return part["text"]
    if not config.sees:
        raise Refused(400, "Image input modality is not enabled for this model")
    if data == ["fileData"]:
        return _film(part["fileData"], where, shape.vertex)
    blob = _fields(_object(part["inlineData"], where), frozenset({"mimeType", "data", "displayName"}), f"{where}.inline_data")
    kind, encoded = blob.get("mimeType"), blob.get("data")
    if kind not in MEDIA_TYPES:
        raise Refused(400, f"Unsupported MIME type: {kind}")
    if not isinstance(encoded, str):
        raise Refused(400, f"Invalid value at '{where}.inline_data.data' (TYPE_BYTES)")
    if "-" in encoded or "_" in encoded:
        encoded = encoded.replace("-", "+").replace("_", "/")
    try:
        return shape.pictures.checked(encoded, kind, shape.model, shape.low)
    except BadPicture as error:
        if "base64" in str(error):
            raise Refused(400, f"Invalid value at '{where}.inline_data.data' (TYPE_BYTES), Base64 decoding failed") from error
        raise Refused(400, f"Unable to process input image: {error}. ({where})") from error


def _film(given: object, where: str, vertex: bool) -> Film:
    data = _fields(_object(given, where), frozenset({"mimeType", "fileUri", "displayName"}), f"{where}.file_data")
    uri, kind = data.get("fileUri"), data.get("mimeType")
    if not isinstance(uri, str) or not uri.startswith(("gs://",) if vertex else ("gs://", "https://")):
        raise Refused(400, f"Invalid or unsupported file uri: {uri}")
    if kind not in FILMS:
        raise Refused(400, f"Unsupported MIME type: {kind}")
    return Film(uri, FILM_SECONDS * FILM_TOKENS)


def write(asked: Asked, written: Written, number: int, now: float) -> dict[str, Any]:
    """A GenerateContentResponse."""
    usage: dict[str, Any] = {
        "promptTokenCount": written.input_tokens,
        "totalTokenCount": written.input_tokens + written.output_tokens + written.thinking_tokens,
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": written.input_tokens}],
    }
    for name, value in (
        ("candidatesTokenCount", written.output_tokens),
        ("cachedContentTokenCount", written.cached_tokens),
        ("thoughtsTokenCount", written.thinking_tokens),
    ):
        if value:
            usage[name] = value
    reply = {"usageMetadata": usage, "modelVersion": asked.model, "responseId": f"r{number:012d}"}
    if written.finish == "prompt_blocked":
        ratings = [{"category": HARMS[3], "probability": "HIGH", "blocked": True}]
        return {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT", "safetyRatings": ratings}, **reply}
    if written.finish == "empty" and written.detail == "no choice":
        return reply
    candidate: dict[str, Any] = {"finishReason": _FINISH[written.finish], "index": 0}
    text = written.detail if written.finish == "refused" else written.text
    candidate["content"] = {"parts": [{"text": text}], "role": "model"} if text else {"role": "model"}
    if written.finish == "blocked":
        candidate["finishMessage"] = written.detail
        candidate["safetyRatings"] = [{"category": HARMS[3], "probability": "HIGH", "blocked": True}]
    if asked.top_logprobs is not None and written.tokens:
        candidate["avgLogprobs"] = sum(token.logprob for token in written.tokens) / len(written.tokens)
        candidate["logprobsResult"] = {
            "topCandidates": Fragment(b"[" + b",".join(map(_alternatives_of, written.tokens)) + b"]"),
            "chosenCandidates": [_candidate(token.text, token.logprob) for token in written.tokens],
        }
    return {"candidates": [candidate], **reply}


@lru_cache(maxsize=16_384)
def _alternatives_of(token: Token) -> bytes:
    return encoded({"candidates": [_candidate(*each) for each in token.top]})


def _candidate(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "tokenId": sum(text.encode("utf-8", "replace")), "logProbability": logprob}


__all__ = ["Token", "invalid", "known", "read", "write"]
