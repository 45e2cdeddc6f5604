"""JSON schemas as forms that are filled in: a schema is read once, and then filled in for one request after the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from features.annotators.model_server.asked import Shown
from features.annotators.model_server.questions import BOOLEAN, Decide, Decision, Path, Question, Verdict

VALUES = frozenset({"value", "verdict", "answer", "label", "score"})
"""What the field is called that holds an attribute's value; fields called otherwise are attributes, or parts of the reply."""
REASONS = frozenset({"rationale", "reason", "evidence", "explanation", "why"})
IDS = frozenset({"id", "video", "video_id"})
STARTS = frozenset({"start", "start_s", "from"})
RANGE = re.compile(r"from (-?\d+(?:\.\d+)?) to (-?\d+(?:\.\d+)?)")

Form = Callable[["Writing", Path, str], Any]
"""(what is being written, where in the document, which video) -> a value that the schema permits."""
_Filled = Callable[["Writing", Path, str, Decision], Any]


class Writing:
    """One reply that is being written.

    Args:
        videos: what is shown of each.
        decide: one question.
        draw: see `Question`.
    """

    def __init__(self, videos: Mapping[str, Shown], decide: Decide, draw: str) -> None:
        self.videos, self.decide, self.draw = videos, decide, draw
        self.verdicts: list[Verdict] = []


def form_of(schema: Mapping[str, Any], scales: Mapping[str, str], key: str = "", top: bool = True) -> Form:
    """The form of a schema.

    Args:
        schema: plain JSON schema, with lower-case types.
        scales: what the system text says about the values of each attribute, for numbers without limits.
        key: the field that it describes.
        top: it describes the reply as a whole.
    """
    if "anyOf" in schema:
        return form_of(schema["anyOf"][0], scales, key, top)
    if "const" in schema:
        return _always(schema["const"])
    properties = schema.get("properties")
    if properties is not None:
        return _fields(properties, scales) if top or VALUES.isdisjoint(properties) else _answer(properties, scales, key)
    kind = _kind(schema)
    if kind == "array":
        return _list(schema, scales, key)
    if key in IDS and "enum" in schema:
        permitted = tuple(schema["enum"])
        return lambda writing, path, video: video if video in permitted else permitted[0]
    if kind in ("null", "object"):
        return lambda writing, path, video: None if kind == "null" else {}
    if kind == "string" and "enum" not in schema:
        return _always("As shown."[: schema.get("maxLength", 100)])
    value = _value(schema, scales, key)
    return lambda writing, path, video: value(writing, path, video)[0]


def _always(value: Any) -> Form:
    return lambda writing, path, video: value


def _fields(properties: Mapping[str, Any], scales: Mapping[str, str]) -> Form:
    forms = [(name, form_of(each, scales, name, False)) for name, each in properties.items()]
    return lambda writing, path, video: {name: form(writing, (*path, name), video) for name, form in forms}


def _answer(properties: Mapping[str, Any], scales: Mapping[str, str], key: str) -> Form:
    """An attribute's value with what goes with it, in the order of the schema."""
    name = next(each for each in properties if each in VALUES)
    value = _value(properties[name], scales, key)
    others: list[tuple[str, _Filled | None]] = [
        (each, None if each == name else _beside(schema, scales, each)) for each, schema in properties.items()
    ]

    def filled(writing: Writing, path: Path, video: str) -> dict[str, Any]:
        found, decision = value(writing, (*path, name), video)
        return {each: form(writing, path, video, decision) if form else found for each, form in others}

    return filled


def _beside(schema: Mapping[str, Any], scales: Mapping[str, str], key: str) -> _Filled:
    """What stands beside a value: a reason, how sure it is, moments, or whatever the schema wants."""
    items = schema.get("items", {}).get("properties", {})
    if key in REASONS:
        most = schema.get("maxLength", 10**6)
        return lambda writing, path, video, decision: decision.rationale[:most]
    if key in ("probability", "confidence"):
        return lambda writing, path, video, decision: round(decision.odds.get(decision.value, 1.0), 3)
    if not STARTS.isdisjoint(items):
        start, end = (next(each for each in items if (each in STARTS) is first) for first in (True, False))
        return lambda writing, path, video, decision: [{start: moment[0], end: moment[1]} for moment in decision.moments]
    form = form_of(schema, scales, key, False)
    return lambda writing, path, video, decision: form(writing, (*path, key), video)


def _list(schema: Mapping[str, Any], scales: Mapping[str, str], key: str) -> Form:
    """One item for each video where the items have ids; else as few as are permitted."""
    items = schema.get("items", {"type": "string"})
    form, least = form_of(items, scales, key, False), schema.get("minItems", 0)
    if not IDS.isdisjoint(items.get("properties", {})):
        return lambda writing, path, video: [form(writing, (*path, at), name) for at, name in enumerate(writing.videos)]
    return lambda writing, path, video: [form(writing, (*path, at), video) for at in range(least)]


def _value(
    schema: Mapping[str, Any], scales: Mapping[str, str], attribute: str
) -> Callable[[Writing, Path, str], tuple[Any, Decision]]:
    kind = _kind(schema)
    labels = BOOLEAN if kind == "boolean" else tuple(str(label) for label in schema.get("enum", ()))
    lowest, highest = schema.get("minimum"), schema.get("maximum")
    if not labels and (lowest is None or highest is None):
        found = RANGE.search(scales.get(attribute, ""))
        lowest, highest = (float(found[1]), float(found[2])) if found else (0.0, 1.0)
    least, most = float(lowest or 0), float(highest or 0)

    def filled(writing: Writing, path: Path, video: str) -> tuple[Any, Decision]:
        question = Question(attribute, video, writing.videos[video], labels, least, most, writing.draw)
        decision = writing.decide(question)
        said = decision.value
        writing.verdicts.append(Verdict(path, question, decision.odds or {said: 1.0}))
        if labels:
            return (said == "true" if labels is BOOLEAN else said), decision
        return (round(float(said)) if kind == "integer" else float(said)), decision

    return filled


def _kind(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    return str(kind[0] if isinstance(kind, list) else kind)
