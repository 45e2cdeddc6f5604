"""Which JSON schemas the two providers take."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from features.annotators.model_server.counting import count
from features.annotators.model_server.encoding import encoded
from features.annotators.model_server.pictures import Pictures
from features.annotators.model_server.problems import Refused

OPENAI_TYPES = frozenset({"string", "number", "boolean", "integer", "object", "array", "null"})
OPENAI_ANYWHERE = frozenset({"type", "title", "description", "enum", "const", "anyOf", "$ref", "$defs", "definitions"})
OPENAI_BY_TYPE: Mapping[str, frozenset[str]] = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "string": frozenset({"pattern", "format"}),
    "number": frozenset({"multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "integer": frozenset({"multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}),
    "boolean": frozenset(),
    "null": frozenset(),
}
"""OpenAI's guide to structured outputs, "Supported schemas"."""
OPENAI_LEVELS, OPENAI_PROPERTIES, OPENAI_ENUM_VALUES, OPENAI_CHARACTERS = 10, 5_000, 1_000, 120_000
"""As there, under "Objects have limitations on nesting depth and size"."""

GEMINI_TYPES = frozenset({"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"})
_GEMINI_WORDS = (
    "type format title description nullable enum maxItems minItems properties required minProperties maxProperties minLength "
    "maxLength pattern example anyOf propertyOrdering default items minimum maximum"
)
GEMINI_WORDS = frozenset(_GEMINI_WORDS.split())
"""Fields of the message Schema of the Gemini API, which `responseSchema` is."""
GEMINI_FORMATS: Mapping[str, frozenset[str]] = {
    "STRING": frozenset({"enum", "date-time"}),
    "NUMBER": frozenset({"float", "double"}),
    "INTEGER": frozenset({"int32", "int64"}),
}
_GEMINI_JSON_WORDS = (
    "$id $defs $ref $anchor type format title description enum items prefixItems minItems maxItems minimum maximum anyOf oneOf "
    "properties additionalProperties required propertyOrdering"
)
GEMINI_JSON_WORDS = frozenset(_GEMINI_JSON_WORDS.split())
"""What the Gemini API documents for `responseJsonSchema`."""


def openai_strict(schema: object, name: str) -> None:
    """Checks a schema for OpenAI's strict mode.

    Raises:
        Refused: what the dialect does not have, with the place.
    """
    counts = {"properties": 0, "enum": 0, "characters": 0}

    def bad(where: tuple[str, ...], what: str) -> Refused:
        context = "(" + ", ".join(f"'{each}'" for each in where) + ")"
        return Refused(400, f"Invalid schema for response_format '{name}': In context={context}, {what}.", None, "response_format")

    def check(node: object, where: tuple[str, ...], level: int) -> None:
        if not isinstance(node, dict):
            raise bad(where, f"{node!r} is not of type 'object'")
        if "$ref" in node:
            if set(node) - {"$ref", "description"}:
                raise bad(where, "$ref cannot have keywords beside it")
            return
        kinds = node.get("type")
        if kinds is None and not node.keys() & {"anyOf", "enum", "const"}:
            raise bad(where, "schema must have a 'type' key")
        kinds = [kinds] if isinstance(kinds, str) else kinds or []
        known = set(OPENAI_ANYWHERE)
        for kind in kinds:
            if kind not in OPENAI_TYPES:
                raise bad(where, f"{kind!r} is not a type")
            known |= OPENAI_BY_TYPE[kind]
        for word in node:
            if word not in known:
                raise bad(where, f"'{word}' is not permitted")
        counts["enum"] += len(node.get("enum", ()))
        counts["characters"] += sum(len(value) for value in node.get("enum", ()) if isinstance(value, str))
        if "object" in kinds:
            if level > OPENAI_LEVELS:
                raise bad(where, f"{level} levels of nesting exceeds limit of {OPENAI_LEVELS}")
            if node.get("additionalProperties") is not False:
                raise bad(where, "'additionalProperties' is required to be supplied and to be false")
            properties, required = node.get("properties", {}), node.get("required")
            if not isinstance(required, list) or set(required) != set(properties):
                raise bad(where, "'required' is required to be supplied and to be an array including every key in properties")
            counts["properties"] += len(properties)
            counts["characters"] += sum(map(len, properties))
            for key, each in properties.items():
                check(each, (*where, "properties", key), level + 1)
        if "array" in kinds:
            if "items" not in node:
                raise bad(where, "array schema missing items")
            check(node["items"], (*where, "items"), level)
        for place, each in enumerate(node.get("anyOf", ())):
            check(each, (*where, "anyOf", str(place)), level + 1)
        for word in ("$defs", "definitions"):
            for key, each in node.get(word, {}).items():
                check(each, (*where, word, key), level)

    if not isinstance(schema, dict) or schema.get("type") != "object" or "anyOf" in schema:
        kind = schema.get("type") if isinstance(schema, dict) else None
        raise bad((), f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{kind}\"'")
    check(schema, (), 1)
    limits = {"properties": OPENAI_PROPERTIES, "enum": OPENAI_ENUM_VALUES, "characters": OPENAI_CHARACTERS}
    for what, most in limits.items():
        if counts[what] > most:
            raise bad((), f"{counts[what]} {what} exceed the limit of {most}")


def gemini_schema(schema: object, where: str = "generation_config.response_schema") -> dict[str, Any]:
    """A `responseSchema` as plain JSON schema, with lower-case types.

    Raises:
        Refused: a field that the message Schema does not have, a type or a format that does not exist, an empty object.
    """
    if not isinstance(schema, dict):
        raise _invalid(where, f"expected an object, found {schema!r}")
    plain: dict[str, Any] = {}
    for given, value in schema.items():
        word = camel(given)
        if word not in GEMINI_WORDS:
            message = f"Invalid JSON payload received. Unknown name \"{given}\" at '{where}': Cannot find field."
            violation = {"field": where, "description": message}
            raise Refused(
                400, message, details=({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]},)
            )
        plain[word] = value
    kind = plain.get("type")
    if kind is None and "anyOf" not in plain:
        raise _invalid(f"{where}.type", "must be specified")
    if kind is not None:
        if not isinstance(kind, str) or kind.upper() not in GEMINI_TYPES:
            raise _invalid(f"{where}.type", f"Invalid value (type.googleapis.com/google.ai.generativelanguage.Type), {kind!r}")
        kind = kind.upper()
        plain["type"] = kind.lower()
    if "enum" in plain and (kind != "STRING" or not plain["enum"] or not all(isinstance(v, str) and v for v in plain["enum"])):
        raise _invalid(f"{where}.enum", "only allowed for STRING type, and its values cannot be empty")
    if "format" in plain and plain["format"] not in GEMINI_FORMATS.get(kind or "", frozenset()):
        raise _invalid(f"{where}.format", f"{plain['format']!r} is not supported for {kind} type")
    if kind == "OBJECT":
        properties = plain.get("properties")
        if not properties:
            raise _invalid(f"{where}.properties", "should be non-empty for OBJECT type")
        plain["properties"] = {key: gemini_schema(each, f"{where}.properties[{key}]") for key, each in properties.items()}
        for listed in ("required", "propertyOrdering"):
            for place, key in enumerate(plain.get(listed, ())):
                if key not in properties:
                    raise _invalid(f"{where}.{listed}[{place}]", "property is not defined")
        # Without an order of its own, Google writes the keys of an object sorted.
        order = plain.get("propertyOrdering") or sorted(plain["properties"])
        plain["properties"] = {key: plain["properties"][key] for key in order}
    elif "properties" in plain:
        raise _invalid(f"{where}.properties", "only allowed for OBJECT type")
    if kind == "ARRAY":
        if "items" not in plain:
            raise _invalid(f"{where}.items", "missing field")
        plain["items"] = gemini_schema(plain["items"], f"{where}.items")
    if "anyOf" in plain:
        plain["anyOf"] = [gemini_schema(each, f"{where}.any_of[{place}]") for place, each in enumerate(plain["anyOf"])]
    return plain


def gemini_json_schema(schema: object, where: str = "generation_config.response_json_schema") -> dict[str, Any]:
    """A `responseJsonSchema`, checked against what the Gemini API documents.

    Raises:
        Refused: a keyword beyond that.
    """
    if not isinstance(schema, dict):
        raise _invalid(where, f"expected an object, found {schema!r}")
    for word in schema:
        if word not in GEMINI_JSON_WORDS:
            raise _invalid(where, f"the keyword {word!r} is not supported")
    for key, each in {**schema.get("properties", {}), **schema.get("$defs", {})}.items():
        gemini_json_schema(each, f"{where}.{key}")
    for word in ("anyOf", "oneOf", "prefixItems"):
        for place, each in enumerate(schema.get(word, ())):
            gemini_json_schema(each, f"{where}.{word}[{place}]")
    if "items" in schema:
        gemini_json_schema(schema["items"], f"{where}.items")
    return schema


@lru_cache(maxsize=1024)
def camel(name: str) -> str:
    """`max_items` -> `maxItems`: Google's JSON takes both spellings of a field."""
    first, *rest = name.split("_")
    return first + "".join(each.title() for each in rest) if first else name


class Accepted:
    """Remembers what was found good, so that a run's schema and a picture are checked once.

    Args:
        counted: whether schemas are billed.
        pictures: looks at them.
    """

    MOST = 512

    def __init__(self, counted: bool, pictures: Pictures) -> None:
        self.counted, self.pictures = counted, pictures
        self._known: dict[tuple[str, bytes], tuple[Mapping[str, Any], bytes, int]] = {}

    def schema(self, kind: str, schema: object, name: str = "") -> tuple[Mapping[str, Any], bytes, int]:
        """(plain schema, its digest, what it is billed as).

        Args:
            kind: `openai` strict, `gemini`, `gemini-json`, or `any` for one that is only a hint.
            schema: as it came.
            name: of an OpenAI schema.

        Raises:
            Refused: see the checks above.
        """
        text = encoded(schema)
        key = blake2b(text, digest_size=16).digest()
        found = self._known.get((kind, key))
        if found is None:
            plain = schema if isinstance(schema, dict) else {}
            if kind == "openai":
                openai_strict(schema, name)
            elif kind == "gemini":
                plain = gemini_schema(schema)
            elif kind == "gemini-json":
                plain = gemini_json_schema(schema)
            if len(self._known) >= self.MOST:
                self._known.clear()
            found = self._known[kind, key] = (plain, key, count(text.decode()) if self.counted else 0)
        return found


def _invalid(where: str, what: str) -> Refused:
    return Refused(400, f"* GenerateContentRequest.{where}: {what}\n")
