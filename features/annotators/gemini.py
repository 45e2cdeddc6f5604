"""Gemini: the Gemini API with a key, or Vertex AI with the machine's credentials.

`body` and `completion` are pure, and batch files use them too. `GeminiClient` carries them over HTTP with aiohttp alone, at a
fraction of what the official SDK takes of the processor; the tests send the same prompts through the SDK.

Field names and meanings follow the API reference of `models.generateContent` and the types of google-genai.
"""

from __future__ import annotations

import base64
import math
import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from features.annotators.exchange import Completion, Finish, Part, Picture, Prompt, Text, Token
from features.annotators.gemini_problems import problem
from features.annotators.google_credentials import AccessTokens
from features.annotators.http_posts import Posts
from features.annotators.http_replies import Service, checked_address
from features.annotators.protocol import Usage
from features.annotators.secrets import Secret, api_key, redacted
from features.annotators.settings import ModelSettings
from features.errors import InvalidInput

PROVIDER = "https://generativelanguage.googleapis.com"
KEY_VARIABLES = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
BASE_URL_VARIABLE = "GOOGLE_GEMINI_BASE_URL"
VERTEX_BASE_URL_VARIABLE = "GOOGLE_VERTEX_BASE_URL"
DEFAULT_LOCATION = "global"
"""Of Vertex AI: it goes wherever there is room."""

HARMS = (
    "HARM_CATEGORY_HARASSMENT",
    "HARM_CATEGORY_HATE_SPEECH",
    "HARM_CATEGORY_SEXUALLY_EXPLICIT",
    "HARM_CATEGORY_DANGEROUS_CONTENT",
)
"""All categories of text that can be set; the one about elections is not supported any more."""
THRESHOLDS = ("BLOCK_LOW_AND_ABOVE", "BLOCK_MEDIUM_AND_ABOVE", "BLOCK_ONLY_HIGH", "BLOCK_NONE", "OFF")

MOST_LOGPROBS = 20
JSON_LOGPROBS = 5

_MULTI_REGIONS = ("us", "eu")
_FINISH: Mapping[str, Finish] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    **dict.fromkeys(("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR", "JAILBREAK"), "blocked"),
    **dict.fromkeys(("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"), "blocked"),
}
"""All others are `other`: LANGUAGE, OTHER, the ones about tools, and those that do not exist yet."""

_SCHEMAS_KEPT = 64
_schemas: OrderedDict[int, tuple[Mapping[str, Any], dict[str, Any]]] = OrderedDict()
"""By the identity of a prompt's schema, which a run has one or a few of: (the schema, so that it stays, its translation)."""


def body(prompt: Prompt, settings: ModelSettings) -> dict[str, Any]:
    """The request's JSON without the model, which is in its address: what is not set is left out, and equal arguments give equal
    bytes.

    Log-probabilities are asked for where the settings say so, and by default on Vertex AI only: most models of the Gemini API
    refuse them.
    """
    document: dict[str, Any] = {}
    if prompt.system:
        document["systemInstruction"] = {"parts": [{"text": prompt.system}]}
    document["contents"] = [{"role": turn.role, "parts": [_part(part) for part in turn.parts]} for turn in prompt.turns]
    if settings.safety:
        document["safetySettings"] = [{"category": harm, "threshold": settings.safety} for harm in HARMS]
    generation: dict[str, Any] = {"temperature": prompt.temperature, "maxOutputTokens": prompt.max_output_tokens}
    if prompt.seed is not None:
        generation["seed"] = prompt.seed
    if prompt.schema is not None and settings.structured:
        generation |= {"responseMimeType": "application/json", "responseSchema": _translated(prompt.schema)}
    top = settings.logprobs
    if top < 0:
        top = (MOST_LOGPROBS if prompt.choices else JSON_LOGPROBS) if settings.project else 0
    if top:
        generation |= {"responseLogprobs": True, "logprobs": top}
    if settings.thinking_budget >= 0:
        generation["thinkingConfig"] = {"thinkingBudget": settings.thinking_budget}
    document["generationConfig"] = generation
    return document


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"text": part.text}
    if isinstance(part, Picture):
        return {"inlineData": {"mimeType": "image/jpeg", "data": base64.b64encode(part.jpeg).decode()}}
    return {"fileData": {"fileUri": part.uri, "mimeType": part.media_type}}


def _translated(schema: Mapping[str, Any]) -> dict[str, Any]:
    kept = _schemas.get(id(schema))
    if kept is None or kept[0] is not schema:
        kept = _schemas[id(schema)] = (schema, response_schema(schema))
        while len(_schemas) > _SCHEMAS_KEPT:
            _schemas.popitem(last=False)
    return kept[1]


def response_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON schema in the words of Gemini's message Schema.

    `propertyOrdering` keeps what is to be written first first: the API would sort the keys, and the verdict would come before its
    reasons. `additionalProperties` is left out, which the message does not have: Gemini writes nothing else anyway.
    """
    translated: dict[str, Any] = {name: value for name, value in schema.items() if name != "additionalProperties"}
    if isinstance(translated.get("type"), str):
        translated["type"] = translated["type"].upper()
    if "properties" in translated:
        translated["properties"] = {name: response_schema(each) for name, each in translated["properties"].items()}
        translated["propertyOrdering"] = list(translated["properties"])
    if "items" in translated:
        translated["items"] = response_schema(translated["items"])
    return translated


def completion(document: Mapping[str, Any]) -> Completion:
    """What a GenerateContentResponse says; never raises on a JSON object, however odd."""
    candidates = document.get("candidates")
    candidate = _object(candidates[0]) if isinstance(candidates, list) and candidates else {}
    text = _text(candidate)
    finish, detail = _finish(document, candidate, text)
    return Completion(
        text=text,
        finish=finish,
        detail=redacted(detail),
        usage=_usage(_object(document.get("usageMetadata"))),
        model=_string(document.get("modelVersion")),
        tokens=_tokens(_object(candidate.get("logprobsResult"))),
    )


def _finish(document: Mapping[str, Any], candidate: Mapping[str, Any], text: str) -> tuple[Finish, str]:
    feedback = _object(document.get("promptFeedback"))
    if feedback.get("blockReason"):
        return "blocked", _because(feedback["blockReason"], feedback.get("blockReasonMessage"), feedback.get("safetyRatings"))
    if not candidate:
        return "empty", "the reply holds no candidate"
    reason = candidate.get("finishReason")
    finish = _FINISH.get(reason, "other") if isinstance(reason, str) else "other"
    if finish == "blocked":
        return "blocked", _because(reason, candidate.get("finishMessage"), candidate.get("safetyRatings"))
    if finish == "length":
        return "length", "the reply was cut off at the token limit"
    if finish == "other":
        return "other", f"finishReason {reason!r}" + (f": {candidate['finishMessage']}" if candidate.get("finishMessage") else "")
    return ("stop", "") if text else ("empty", "the reply is empty")


def _because(reason: object, message: object, ratings: object) -> str:
    """Why something was blocked: the reason, the provider's sentence, the categories."""
    categories = sorted(
        _string(each.get("category")).removeprefix("HARM_CATEGORY_").lower()
        for each in (ratings if isinstance(ratings, list) else ())
        if isinstance(each, dict) and (each.get("blocked") or each.get("probability") in ("MEDIUM", "HIGH"))
    )
    return ": ".join(part for part in (str(reason), _string(message), ", ".join(categories)) if part)


def _text(candidate: Mapping[str, Any]) -> str:
    """What is said, thoughts left out."""
    parts = _object(candidate.get("content")).get("parts")
    return "".join(
        _string(part.get("text"))
        for part in (parts if isinstance(parts, list) else ())
        if isinstance(part, dict) and not part.get("thought")
    )


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _usage(usage: Mapping[str, Any]) -> Usage:
    """Thoughts are billed as output."""

    def count(name: str) -> int:
        value = usage.get(name)
        return max(0, value) if isinstance(value, int) and not isinstance(value, bool) else 0

    prompt = count("promptTokenCount") + count("toolUsePromptTokenCount")
    output = count("candidatesTokenCount") + count("thoughtsTokenCount")
    return Usage(1, prompt, min(count("cachedContentTokenCount"), prompt), output)


def _tokens(result: Mapping[str, Any]) -> tuple[Token, ...]:
    chosen, tops = result.get("chosenCandidates"), result.get("topCandidates")
    if not isinstance(chosen, list) or not isinstance(tops, list) or len(chosen) != len(tops):
        return ()
    try:
        return tuple(
            Token(*_token(each), tuple(_token(one) for one in top.get("candidates", ())))
            for each, top in zip(chosen, tops, strict=True)
        )
    except (AttributeError, TypeError, ValueError):
        return ()  # half of them would be misread as all


def _token(candidate: Mapping[str, Any]) -> tuple[str, float]:
    """JSON of protocol buffers leaves out what is zero or empty."""
    token, logprob = candidate.get("token", ""), float(candidate.get("logProbability", 0.0))
    if not isinstance(token, str) or not logprob < math.inf:
        raise ValueError("no token")
    return token, logprob


class GeminiClient:
    """Carries prompts to Gemini, over `features.annotators.http_posts`.

    With `settings.project` it asks Vertex AI with the machine's credentials, and the Gemini API with a key otherwise. The address
    is the settings', else that of the SDK's environment variables, else Google's. Only Google's own needs a key; any other is sent
    one where one is found (`api_key_file`, `api_key_env`, GEMINI_API_KEY, GOOGLE_API_KEY) and none otherwise. It is picklable while
    it is closed, and used from one event loop between `open` and `close`.

    Args:
        settings: which model, where, and how.

    Raises:
        InvalidInput: no model, a model's name that is none, an unknown threshold, or an address that is none.
    """

    def __init__(self, settings: ModelSettings) -> None:
        if not settings.name:
            raise InvalidInput("the gemini annotator needs a model: pass --model NAME, such as gemini-2.5-flash")
        if settings.safety and settings.safety not in THRESHOLDS:
            raise InvalidInput(f"safety is {settings.safety!r}; choose one of {', '.join(THRESHOLDS)}")
        if settings.base_url:
            checked_address(settings.base_url)
        for name, marks in (("project", "-.:"), ("location", "-")):
            given = getattr(settings, name)
            if not (given.isascii() and all(character.isalnum() or character in marks for character in given)):
                raise InvalidInput(f"{name} is {given!r}; write its id as the Google Cloud console shows it")
        self.settings = settings
        self._path = f"{_path(settings)}:generateContent"
        self._posts: Posts | None = None
        self._tokens: AccessTokens | None = None

    def open(self) -> None:
        """Reads the key, or the machine's credentials. Raises InvalidInput naming where they were looked for."""
        settings = self.settings
        variable = VERTEX_BASE_URL_VARIABLE if settings.project else BASE_URL_VARIABLE
        standard = _vertex_address(settings.location or DEFAULT_LOCATION) if settings.project else PROVIDER
        address = checked_address(settings.base_url or os.environ.get(variable, "") or standard)
        # What the SDK sends as well, so that the server stops when nobody waits any more.
        headers: dict[str, str | Secret] = {"X-Server-Timeout": str(math.ceil(settings.timeout_s))}
        key_from = ""
        secrets: tuple[Secret, ...] = ()
        if settings.project:
            self._tokens, key_from = AccessTokens(settings.timeout_s), "the machine's Google credentials"
        elif (
            settings.api_key_file
            or settings.api_key_env
            or address == PROVIDER
            or any(os.environ.get(name, "").strip() for name in KEY_VARIABLES)
        ):
            key, key_from = api_key(settings, KEY_VARIABLES)
            secrets = (key,)
            headers["x-goog-api-key"] = key
        name = "Vertex AI" if settings.project else "Gemini"
        self._posts = Posts(Service(name, address, settings.name, key_from, secrets), settings.timeout_s, headers)

    async def complete(self, prompt: Prompt) -> Completion:
        """See `ModelClient`."""
        posts = self._posts
        if posts is None:
            raise RuntimeError("open the client first")
        token = None if self._tokens is None else await self._tokens.headers()
        status, answered, content = await posts.send(self._path, body(prompt, self.settings), token)
        if status != 200:
            raise problem(status, answered, content, posts.service)
        document = posts.read(content)
        error = document.get("error")
        if error and not document.get("candidates"):  # a gateway that reports its backend's error under 200
            code = error.get("code") if isinstance(error, dict) else None
            raise problem(code if isinstance(code, int) and 400 <= code < 600 else 502, {}, document, posts.service)
        return completion(document)

    async def close(self) -> None:
        """Closes the connections and forgets the key."""
        posts, self._posts, self._tokens = self._posts, None, None
        if posts is not None:
            await posts.close()

    def __repr__(self) -> str:
        return f"GeminiClient({self.settings.name!r})"

    def __getstate__(self) -> dict[str, Any]:
        if self._posts is not None:
            raise TypeError("an open client is not pickled: pickle it before open, or after close")
        return {"settings": self.settings, "_path": self._path, "_posts": None, "_tokens": None}


def _vertex_address(location: str) -> str:
    if location == "global":
        return "https://aiplatform.googleapis.com"
    if location in _MULTI_REGIONS:
        return f"https://aiplatform.{location}.rep.googleapis.com"
    return f"https://{location}-aiplatform.googleapis.com"


def _path(settings: ModelSettings) -> str:
    """Of the model below the address, by the rules of the SDK's `t_model`."""
    name = settings.name
    if ".." in name or any(not character.isprintable() or character in " ?&#%\\" for character in name):
        raise InvalidInput(f"the model is {name!r}; write its name as Google does, such as gemini-2.5-flash")
    if not settings.project:
        resource = name if name.startswith(("models/", "tunedModels/")) else f"models/{name}"
        return "/v1beta/" + quote(resource, safe="/-._~@")
    if name.startswith("projects/"):
        return "/v1beta1/" + quote(name, safe="/-._~@")
    if not name.startswith(("publishers/", "models/")):
        publisher, _, model = name.rpartition("/")
        name = f"publishers/{publisher or 'google'}/models/{model}"
    location = settings.location or DEFAULT_LOCATION
    return f"/v1beta1/projects/{settings.project}/locations/{location}/" + quote(name, safe="/-._~@")


__all__ = ["GeminiClient", "body", "completion", "problem", "response_schema"]
