"""Who answers: reads the questions out of the schema, or out of the prompt's words, and decides by a digest of the video."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from features.annotators.model_server.asked import Asked, Shown
from features.annotators.model_server.encoding import compact
from features.annotators.model_server.forms import RANGE, Form, Writing, form_of
from features.annotators.model_server.questions import BOOLEAN, Decide, Decision, Judged, Question, Verdict

_BLOCK = re.compile(r"^## (\S+)\nQuestion: .*\nValue: (.*)$", re.MULTILINE)
_BITS = 2**64 - 1
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')

Judge = Callable[[Asked, Sequence[tuple[str, str]]], Judged]
"""Answers a request; the second argument is `ServerConfig.questions`."""


def unit(*parts: bytes | str) -> float:
    """A number from 0 to below 1 that depends on nothing but `parts`."""
    joined = b"".join([_sized(part) if isinstance(part, str) else len(part).to_bytes(4, "big") + part for part in parts])
    return int.from_bytes(blake2b(joined, digest_size=8).digest(), "big") / 2**64


def mixed(one: int, other: int) -> float:
    """A number from 0 to below 1 out of two of 64 bits, spread as SplitMix64 spreads them (Steele, Lea and Flood, 2014)."""
    found = (one ^ other) * 0xBF58476D1CE4E5B9 & _BITS
    found = (found ^ found >> 27) * 0x94D049BB133111EB & _BITS
    return (found ^ found >> 31) / 2**64


@lru_cache(maxsize=4096)
def _key(attribute: str) -> int:
    return int(unit("key", attribute) * 2**64)


@lru_cache(maxsize=4096)
def _sized(word: str) -> bytes:
    data = word.encode("utf-8", "surrogatepass")
    return len(data).to_bytes(4, "big") + data


def by_digest(question: Question) -> Decision:
    """Decides by a digest of what is shown and of the attribute's name: always the same, whoever else is in the request.

    Each attribute has a level of its own between 0.2 and 0.8, about which its probabilities are spread. With a `draw` the value
    is drawn by its probability instead of being the likeliest.
    """
    attribute, _, shown, labels, lowest, highest, drawn = question
    at = mixed(shown.number, _key(attribute))
    draw = unit(shown.content, attribute, drawn) if drawn else -1.0
    reason = f"What is shown decides it ({int(4096 * at):03x})."
    if not labels:
        value = lowest + (highest - lowest) * (at if draw < 0 else (3 * at + draw) / 4)
        return Decision(f"{value:.4g}", {}, reason, _moment(shown, at))
    if labels == BOOLEAN:
        probability = 1.0 / (1.0 + math.exp(-6.0 * (at - 1.0 + _level(attribute))))
        odds = {"true": probability, "false": 1.0 - probability}
        said = "true" if probability > (0.5 if draw < 0 else draw) else "false"
        return Decision(said, odds, reason, _moment(shown, at))
    # Each label at a place of its own on a circle that the video turns.
    weights = [math.exp(4.0 * ((at + place) % 1.0)) for place in _places(attribute, labels)]
    whole = sum(weights)
    odds = {label: weight / whole for label, weight in zip(labels, weights, strict=True)}
    return Decision(_pick(odds, draw), odds, reason, _moment(shown, at))


def _pick(odds: Mapping[str, float], draw: float) -> str:
    if draw < 0:
        return max(odds, key=odds.__getitem__)
    for label, probability in odds.items():
        draw -= probability
        if draw < 0:
            return label
    return label


@lru_cache(maxsize=1024)
def _level(attribute: str) -> float:
    return 0.2 + 0.6 * unit("level", attribute)


@lru_cache(maxsize=4096)
def _places(attribute: str, labels: tuple[str, ...]) -> tuple[float, ...]:
    return tuple([unit("place", attribute, label) for label in labels])


def _moment(shown: Shown, at: float) -> tuple[tuple[float, float], ...]:
    tenths = int(10 * shown.duration_s)
    start = int(0.5 * tenths * (97 * at % 1))
    end = min(start + tenths // 4 + 1, tenths)
    return ((start / 10, end / 10),) if end > start else ()


class DigestJudge:
    """Answers by the schema, or by the words of the prompt where none is sent.

    Args:
        decide: one question.
    """

    MOST = 512

    def __init__(self, decide: Decide = by_digest) -> None:
        self.decide = decide
        self._forms: dict[tuple[bytes, str], Form] = {}

    def __call__(self, asked: Asked, questions: Sequence[tuple[str, str]] = ()) -> Judged:
        schema, scales = asked.schema, described(asked.system)
        if schema is None and not scales:
            return self._word(asked, questions)
        if schema is None:
            schema = _schema_of(scales, list(asked.videos))
        key = (asked.schema_key or compact(schema).encode(), asked.system)
        form = self._forms.get(key)
        if form is None:
            if len(self._forms) >= self.MOST:
                self._forms.clear()
            form = self._forms[key] = form_of(schema, scales)
        writing = Writing(asked.videos, self.decide, _draw(asked))
        document = form(writing, (), next(iter(asked.videos)))
        return Judged(compact(document), document, writing.verdicts)

    def _word(self, asked: Asked, questions: Sequence[tuple[str, str]]) -> Judged:
        """One word out of those that the question permits."""
        words = permitted(asked.question) or permitted(asked.turns[-1].parts[-1]) or ("Yes", "No")
        name, shown = next(iter(asked.videos.items()))
        attribute = next((named for text, named in questions if text in asked.question), asked.question.split("\n")[0])
        boolean = words == ("Yes", "No")
        question = Question(attribute, name, shown, BOOLEAN if boolean else words, draw=_draw(asked))
        decision = self.decide(question)
        said = {"true": "Yes", "false": "No"} if boolean else {}
        odds = decision.odds or {decision.value: 1.0}
        written = {said.get(value, value): probability for value, probability in odds.items()}
        return Judged(said.get(decision.value, decision.value), None, [Verdict((), question, written)])


@lru_cache(maxsize=256)
def described(system: str) -> Mapping[str, str]:
    """What a system text says about values: `true or false`, a list of quoted labels, a range, by attribute."""
    return dict(_BLOCK.findall(system))


@lru_cache(maxsize=4096)
def permitted(question: object) -> tuple[str, ...]:
    """The words that a question in plain words permits, from its last line; empty where it names none.

    Understood are: `Answer with one word, Yes or No.`, `one letter, A, B or C.`, `exactly one of these: a, b, c.`, `Reply with one
    of a, b and nothing else.`, and `one whole number from 1 to 5`.
    """
    if not isinstance(question, str):
        return ()
    line = question.rstrip().rsplit("\n", 1)[-1]
    if found := RANGE.search(line):
        return tuple(str(number) for number in range(int(float(found[1])), int(float(found[2])) + 1))
    found = re.search(r"(?:one word,|one letter,|one of these:|one of) (.+?)(?: and nothing else)?\.?$", line)
    return tuple(word.strip(" \"'") for word in re.split(r", | or ", found[1])) if found else ()


def _schema_of(scales: Mapping[str, str], names: list[str]) -> dict[str, Any]:
    attributes = {}
    for attribute, scale in scales.items():
        value: dict[str, Any] = {"type": "boolean"} if scale == "true or false" else {"type": "number"}
        if labels := _QUOTED.findall(scale):
            value = {"type": "string", "enum": [json.loads(f'"{label}"') for label in labels]}
        attributes[attribute] = {"type": "object", "properties": {"rationale": {"type": "string"}, "value": value}}
    one = {"id": {"type": "string", "enum": names}, "attributes": {"type": "object", "properties": attributes}}
    if len(names) == 1:
        return {"type": "object", "properties": one}
    return {"type": "object", "properties": {"videos": {"type": "array", "items": {"type": "object", "properties": one}}}}


def _draw(asked: Asked) -> str:
    return str(asked.seed) if asked.temperature > 0 and asked.seed is not None else ""
