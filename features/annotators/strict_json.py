"""JSON as a stranger writes it: read strictly, bounded in size and depth, and quoted in errors cleaned and short."""

from __future__ import annotations

import json
import re
from typing import Any

from features.annotators.untrusted import bound, clean

LONGEST = 1_000_000
"""Characters; a reply about 32 videos with 100 attributes and rationales needs half of it."""
DEEPEST = 16
LONGEST_QUOTE = 120

_SURELY_SHALLOW = 200
_NESTING = re.compile(r'"(?:[^"\\]|\\.)*"|[{\[]|[}\]]')
_FENCE = re.compile(r"```(?:json|JSON)?[ \t]*\r?\n")


class Malformed(ValueError):
    """The text is not strict JSON; the message says why, in words for the one who wrote it."""


class Repeated(dict[str, Any]):
    """A JSON object in which keys stand more than once: `names`. `pairs` are all its members as they came."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs
        seen: set[str] = set()
        self.names = frozenset(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]


def repeats(document: dict[str, Any], name: str) -> bool:
    """Whether a key stands more than once in an object."""
    return isinstance(document, Repeated) and name in document.names


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else Repeated(pairs)


def _constant(name: str) -> float:
    raise Malformed(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def parse(text: str) -> tuple[Any, int]:
    """The document, and the position in the text at which it begins.

    White space around it is allowed, and one code fence. Objects with repeated keys come as `Repeated`, so that only what stands
    in them is lost. Numbers may still be infinite (1e999).

    Raises:
        Malformed: not JSON, NaN or Infinity, longer than `LONGEST`, or deeper than `DEEPEST`.
    """
    if len(text) > LONGEST:
        raise Malformed(f"it has {len(text)} characters; permitted are {LONGEST}")
    body = text.strip()
    opened = _FENCE.match(body)
    if opened and body.endswith("```"):
        body = body[opened.end() : -3].strip()
    if body.count("{") + body.count("[") > _SURELY_SHALLOW and _depth(body) > DEEPEST:
        raise Malformed(f"it is nested more than {DEEPEST} deep")
    try:
        return _DECODER.decode(body), text.find(body)
    except json.JSONDecodeError as error:
        found = quote(body[error.pos : error.pos + 40])
        raise Malformed(f"{error.msg} at line {error.lineno} column {error.colno}, at {found}") from error
    except Malformed:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or deeper than this process may go
        raise Malformed(bound(clean(str(error)), LONGEST_QUOTE)) from error


def _depth(text: str) -> int:
    deepest = depth = 0
    for match in _NESTING.finditer(text):
        first = match[0][0]
        if first != '"':
            depth += 1 if first in "{[" else -1
            deepest = max(deepest, depth)
    return deepest


def quote(value: Any) -> str:
    """What a model wrote, as JSON, cleaned and at most `LONGEST_QUOTE` characters."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__} without end"
    return bound(clean(text), LONGEST_QUOTE)
