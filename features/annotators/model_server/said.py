"""What a reply consists of before it is put into a provider's shape, its tokens and their log-probabilities among it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from features.annotators.model_server.counting import cut
from features.annotators.model_server.encoding import compact
from features.annotators.model_server.questions import Judged, Path

Finish = Literal["stop", "length", "refused", "blocked", "prompt_blocked", "empty", "recitation"]

_SURE = -0.002
_FILLERS = (
    " the",
    " a",
    "\n",
    ".",
    ",",
    " of",
    " and",
    '"',
    " in",
    " to",
    "I",
    "It",
    "As",
    " is",
    "A",
    "<",
    "#",
    "-",
    "*",
    " or",
    "/",
)


class Token(NamedTuple):
    """A token of the reply with the likeliest ones at its place."""

    text: str
    logprob: float
    top: tuple[tuple[str, float], ...]


@dataclass
class Written:
    """A reply.

    Attributes:
        text: what the model says.
        finish: why it ends.
        detail: a refusal's sentence, or a reason; `no choice` for an empty reply without any candidate.
        input_tokens, cached_tokens, output_tokens: as billed; output without hidden reasoning.
        thinking_tokens: hidden reasoning, billed as output.
        tokens: with log-probabilities, where they were asked for.
    """

    text: str
    finish: Finish = "stop"
    detail: str = ""
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    tokens: list[Token] = field(default_factory=list)


def with_odds(judged: Judged, text: str, alternatives: int) -> list[Token]:
    """The tokens of `text`, with log-probabilities at the verdicts where it still is what was judged.

    A verdict of several tokens is told apart where the permitted values differ: at each of its tokens stand those that go on from
    what was written before, renormalised.

    Args:
        judged: the reply as it was judged.
        text: the reply as it is sent, perhaps cut.
        alternatives: how many likeliest tokens are given at each place.
    """
    tokens: list[Token] = []
    start = 0
    if text and judged.text.startswith(text):
        for (begin, end), odds in spans(judged):
            if end > len(text):
                break
            tokens += [_plain(token, alternatives) for token in cut(text[start:begin])]
            tokens += _verdict(text[begin:end], odds, alternatives)
            start = end
    return tokens + [_plain(token, alternatives) for token in cut(text[start:])]


def spans(judged: Judged) -> list[tuple[tuple[int, int], Mapping[str, float]]]:
    """Where each verdict stands in the text (without quotes), in order, and its odds as written."""
    if judged.document is None:
        return [((0, len(judged.text)), verdict.written) for verdict in judged.verdicts[:1]]
    places: dict[Path, tuple[int, int]] = {}
    wanted = {verdict.path for verdict in judged.verdicts}
    _locate(judged.document, (), 0, wanted, places)
    found = [(places[verdict.path], verdict.written) for verdict in judged.verdicts if verdict.path in places]
    return sorted(found, key=lambda each: each[0])


def _locate(node: Any, path: Path, at: int, wanted: set[Path], places: dict[Path, tuple[int, int]]) -> int:
    """Walks a document as `compact` writes it; returns where it ends."""
    if isinstance(node, dict):
        at += 1
        for number, (key, value) in enumerate(node.items()):
            at += bool(number) + _length(key) + 1
            at = _locate(value, (*path, key), at, wanted, places)
        return at + 1
    if isinstance(node, list):
        at += 1
        for number, value in enumerate(node):
            at = _locate(value, (*path, number), at + bool(number), wanted, places)
        return at + 1
    length = _length(node)
    if path in wanted:
        quote = isinstance(node, str)
        places[path] = (at + quote, at + length - quote)
    return at + length


def _length(scalar: Any) -> int:
    if isinstance(scalar, str) and scalar.isascii() and scalar.isprintable():
        return len(scalar) + 2 + scalar.count('"') + scalar.count("\\")
    return len(compact(scalar)) if scalar == scalar else len("NaN")


def _verdict(text: str, odds: Mapping[str, float], alternatives: int) -> list[Token]:
    rivals = [(cut(value), probability) for value, probability in odds.items() if probability > 0]
    tokens = []
    chosen = cut(text)
    for place, token in enumerate(chosen):
        going = [(words, each) for words, each in rivals if words[:place] == chosen[:place]]
        total = sum(each for _, each in going) or 1.0
        here: dict[str, float] = {}
        for words, each in going:
            # A value that is a beginning of another one ends here: with the quote that closes it.
            word = words[place] if place < len(words) else '"'
            here[word] = here.get(word, 0.0) + each / total
        here.setdefault(token, 1e-9)
        ranked = sorted(((word, math.log(max(each, 1e-12))) for word, each in here.items()), key=lambda each: -each[1])
        tokens.append(Token(token, math.log(max(here[token], 1e-12)), _filled(ranked, alternatives)))
    return tokens


@lru_cache(maxsize=16_384)
def _plain(token: str, alternatives: int) -> Token:
    return Token(token, _SURE, _filled([(token, _SURE)], alternatives))


def _filled(ranked: Sequence[tuple[str, float]], alternatives: int) -> tuple[tuple[str, float], ...]:
    known = {word for word, _ in ranked}
    lowest = min(ranked[-1][1], -8.0) if ranked else -8.0
    fill = [(word, lowest - 0.5 * place) for place, word in enumerate(_FILLERS, 1) if word not in known]
    return tuple([*ranked, *fill][:alternatives])
