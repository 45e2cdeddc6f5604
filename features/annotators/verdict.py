"""How sure a model is of a verdict, from the log-probabilities of its reply's tokens.

The probability of the verdict's own token is not it: servers report log-probabilities from before the reply's schema narrows them,
so that a verdict can stand at -6 because the model would rather have written prose, and it may be cut in two ("n", "o"). What
counts is how the permitted labels compare with each other:

1. Find the token in which the verdict begins.
2. Walk along the reply. At each place every listed token (`top_logprobs`, and the token itself) either leads to exactly one
   permitted label, as its beginning, the whole of it, or the whole of it and what follows: then the probability of getting there is
   that label's. Or it leads to several: then the walk goes on along the reply, with that probability as a factor. Or to none: then
   it is left out.
3. Divide by the sum over the labels.

What can not be known from the lists: a listed token that leads to several labels and is not the reply's own is left out, which is
right where labels are cut into tokens alike. A label that appears nowhere is given the most that it can have, the smallest listed
probability, and no more than what is missing to 1. Where these unseen labels would have more than `MOST_UNSEEN` of the whole, there
is no probability: None.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from features.annotators.exchange import Token
from features.attributes.definition import AttributeDefinition

MOST_UNSEEN = 0.1
"""Share of the permitted probability that may rest on labels nobody listed."""

SURROUNDINGS = " \t\r\n\"'`\u201c\u201d\u2018\u2019\xab\xbb*_.,;:!?()[]{}<>#"
"""What may stand around a one-word verdict. Signs of numbers are not among it."""

Path = tuple[str | int, ...]
Span = tuple[int, int]

_LEXEMES = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')
_SKIPPED_TOKENS = 32
_PROBE = 12


@dataclass(frozen=True)
class PlacedTokens:
    """Tokens and where in the reply each one stands: `ends[i]` is the character after token i, `starts[i]` its first."""

    tokens: tuple[Token, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]

    def at(self, position: int) -> int | None:
        """Which token holds the character at `position`; None where no token could be placed."""
        place = bisect_right(self.ends, position)
        return place if place < len(self.starts) and self.starts[place] <= position else None


def place_tokens(tokens: Sequence[Token], text: str) -> PlacedTokens:
    """Finds the reply's tokens in its text. Tokens before it (hidden reasoning), after it (end marks) and pieces of characters are
    left out; where the rest does not fit together, there are fewer tokens, and never wrong ones."""
    starts: list[int] = []
    ends: list[int] = []
    placed: list[Token] = []
    begin = _beginning([token.text for token in tokens], text)
    position = -begin if begin >= 0 else 0
    number = 0
    while number < len(tokens):
        token = tokens[number]
        end = position + len(token.text)
        if begin >= 0 or text.startswith(token.text, position):
            if end > position and end > 0 and position < len(text):
                starts.append(max(position, 0))
                ends.append(end)
                placed.append(token if position >= 0 else _without_beginning(token, -position))
            position, number = end, number + 1
            continue
        resumed = _resume(tokens, number, text, position)
        if resumed is None:
            break
        number, position = resumed
    return PlacedTokens(tuple(placed), tuple(starts), tuple(ends))


def _beginning(pieces: Sequence[str], text: str) -> int:
    """Where `text` begins in the pieces put together, -1 for nowhere: its last place that begins a piece, else its last one.

    The last, because hidden reasoning comes first and may hold a draft; one that begins a piece, because a short reply may be found
    within an end mark.
    """
    whole = "".join(pieces)
    found = last = whole.rfind(text)
    if last > 0 and text:
        starts = {0, *accumulate(map(len, pieces))}
        while found >= 0 and found not in starts:
            found = whole.rfind(text, 0, found + len(text) - 1)
    return found if found >= 0 else last


def _resume(tokens: Sequence[Token], number: int, text: str, position: int) -> tuple[int, int] | None:
    """The next token that can be placed after one that is half a character, and its position."""
    for skipped in range(1, _SKIPPED_TOKENS):
        probe = ""
        for token in tokens[number + skipped : number + skipped + _PROBE]:
            probe += token.text
            if len(probe) >= _PROBE:
                break
        if len(probe) < 2:
            return None
        found = text.find(probe, position, position + len(probe) + 4 * skipped)
        if found >= 0:
            return number + skipped, found
    return None


def _without_beginning(token: Token, count: int) -> Token:
    """A token whose first characters belong to what came before the reply."""
    lead = token.text[:count]
    top = tuple((text[count:], logprob) for text, logprob in token.top if text.startswith(lead))
    return Token(token.text[count:], token.logprob, top)


def value_spans(text: str, begin: int = 0) -> dict[Path, Span]:
    """Where each scalar of a valid JSON text stands, by its path of keys and places; the text begins at `begin`.

    >>> value_spans('{"a": [true, "x"]}')
    {('a', 0): (7, 11), ('a', 1): (13, 16)}
    """
    spans: dict[Path, Span] = {}
    path: list[str | int | None] = []
    for match in _LEXEMES.finditer(text, begin):
        first = match[0][0]
        if first in "{[":
            path.append(None if first == "{" else 0)
        elif first in "}]":
            path.pop()
        elif first == ",":
            place = path[-1]
            path[-1] = place + 1 if isinstance(place, int) else None
        elif first != ":":
            if path and path[-1] is None:
                path[-1] = str(json.loads(match[0]))
            else:
                spans[tuple(step for step in path if step is not None)] = match.span()
        if not path:
            break
    return spans


def json_probability(placed: PlacedTokens, text: str, span: Span, definition: AttributeDefinition, value: str) -> float | None:
    """Of `true` for a boolean, of the given label for a category; None for a score, and where the log-probabilities do not tell.

    Args:
        placed: the tokens of `text`.
        text: the reply.
        span: where the verdict stands in it, its quotes included.
        definition: what was asked.
        value: what was answered, one of the definition's.
    """
    if definition.value_type == "score":
        return None
    values = ("true", "false") if definition.value_type == "boolean" else definition.labels
    if text[span[0]] == '"':
        spellings = {each: {json.dumps(each), json.dumps(each, ensure_ascii=False)} for each in values}
    else:
        spellings = {each: {each} for each in values}
    first = placed.at(span[0])
    if first is None:
        return None
    before = text[placed.starts[first] : span[0]]
    tokens = _contiguous(placed, first)
    shares = label_probabilities(tokens, spellings, value, lambda token: _after(token, before), _ends_in_json)
    return None if shares is None else shares["true" if definition.value_type == "boolean" else value]


def choice_probability(placed: PlacedTokens, text: str, choices: Iterable[tuple[str, str]], value: str) -> float | None:
    """The probability of `true` where that is among the values, else of the given one; None where the tokens do not tell.

    Upper and lower case, leading spaces and surrounding punctuation make no difference.

    Args:
        placed: the tokens of `text`.
        text: the reply, one of the choices.
        choices: (what the model writes, the value it stands for).
        value: the value of the reply.
    """
    shares = _choice_probabilities(placed, text, choices, value)
    return None if shares is None else shares["true" if "true" in shares else value]


def likeliest_choice(placed: PlacedTokens, text: str, choices: Iterable[tuple[str, str]]) -> tuple[str, float] | None:
    """What the model would have said had it begun with one of the choices: the likeliest value, and a probability as above.

    Small models tend to write a sentence around their verdict. What they give to the choices at the first place still tells videos
    apart, though it need not agree with what the sentence would say (Wang et al., "My Answer is C", 2024): calibrate it.

    Args:
        placed: the tokens of `text`.
        text: the reply, none of the choices.
        choices: (what the model writes, the value it stands for).
    """
    shares = _choice_probabilities(placed, text, choices, None)
    if shares is None:
        return None
    value = max(shares, key=lambda each: shares[each])
    return value, shares["true" if "true" in shares else value]


def _choice_probabilities(
    placed: PlacedTokens, text: str, choices: Iterable[tuple[str, str]], given: str | None
) -> dict[str, float] | None:
    spellings: dict[str, set[str]] = {}
    for written, meant in choices:
        spellings.setdefault(meant, set()).add(written.strip(SURROUNDINGS).casefold() or written.strip().casefold())
    first = placed.at(len(text) - len(text.lstrip(SURROUNDINGS)))
    if first is None:
        return None
    tokens = map(_merged_case, _contiguous(placed, first))
    return label_probabilities(tokens, spellings, given, lambda token: token.lstrip(SURROUNDINGS), _ends_in_words)


def label_probabilities(
    tokens: Iterable[Token],
    spellings: Mapping[str, Collection[str]],
    given: str | None,
    verdict_of: Callable[[str], str],
    ends: Callable[[str, str], bool],
) -> dict[str, float] | None:
    """The probability of each permitted label; they add up to 1. None where the lists say too little. See the module.

    Args:
        tokens: the reply from the token on in which the verdict begins.
        spellings: the ways each label may be written.
        given: the label that was written; None: none was, and only the first place is looked at.
        verdict_of: what a token at the first place says of the verdict, empty when nothing.
        ends: whether a label (first argument) is over when it is followed by this text.
    """
    written = [(label, spelling) for label, ways in spellings.items() for spelling in ways]
    mass = dict.fromkeys(spellings, 0.0)
    most = dict.fromkeys(spellings, 0.0)
    unlisted = 0.0
    so_far, reached = "", 1.0
    for place, token in enumerate(tokens):
        listed = _listed(token)
        missing = max(0.0, 1.0 - sum(listed.values()))
        smallest = min((math.exp(min(logprob, 0.0)) for _, logprob in token.top if not math.isnan(logprob)), default=missing)
        unlisted += reached * missing
        for label in {label for label, spelling in written if spelling.startswith(so_far)}:
            most[label] += reached * min(smallest, missing)
        for text, probability in listed.items():
            rest = text if place else verdict_of(text)
            fitting = _fitting(so_far + rest, written, ends) if rest else set()
            if given is None and len(fitting) > 1:
                fitting = {label for label in fitting if rest in spellings[label]}
            if len(fitting) == 1:
                mass[next(iter(fitting))] += reached * probability
        if given is None:
            break
        own = token.text if place else verdict_of(token.text)
        so_far += own
        fitting = _fitting(so_far, written, ends)
        if not fitting:
            return None
        if len(fitting) == 1:
            break
        reached *= listed[token.text]
    else:
        if given is None or so_far not in spellings[given]:
            return None
        mass[given] += reached  # the reply ended here
    unseen = {label: bound for label, bound in most.items() if mass[label] == 0.0}
    bounded = sum(unseen.values())
    if bounded > unlisted > 0.0:
        unseen = {label: bound * unlisted / bounded for label, bound in unseen.items()}
    everything = sum(mass.values()) + sum(unseen.values())
    if not everything > 0.0 or sum(unseen.values()) > MOST_UNSEEN * everything:
        return None
    return {label: min(1.0, unseen.get(label, mass[label]) / everything) for label in spellings}


def _listed(token: Token) -> dict[str, float]:
    listed: dict[str, float] = {}
    for text, logprob in (*token.top, (token.text, token.logprob)):
        if not math.isnan(logprob):
            listed[text] = max(listed.get(text, 0.0), math.exp(min(logprob, 0.0)))
    listed.setdefault(token.text, 0.0)
    return listed


def _merged_case(token: Token) -> Token:
    """Yes and YES are one way to write it: their probabilities are added."""
    added: dict[str, float] = {}
    for text, probability in _listed(token).items():
        added[text.casefold()] = added.get(text.casefold(), 0.0) + probability
    logprobs = {text: math.log(probability) if probability > 0.0 else -math.inf for text, probability in added.items()}
    in_top = {text.casefold() for text, _ in token.top}
    own = token.text.casefold()
    return Token(own, logprobs[own], tuple((text, logprob) for text, logprob in logprobs.items() if text in in_top))


def _fitting(text: str, written: Iterable[tuple[str, str]], ends: Callable[[str, str], bool]) -> set[str]:
    """The labels to which `text` can lead, or which it has already spelled."""
    return {
        label
        for label, spelling in written
        if spelling.startswith(text) or (text.startswith(spelling) and ends(spelling, text[len(spelling) :]))
    }


def _ends_in_json(label: str, following: str) -> bool:
    return label.endswith('"') or following[0] in ",}] \t\r\n"


def _ends_in_words(_: str, following: str) -> bool:
    return not following[0].isalnum()


def _after(token: str, before: str) -> str:
    """What a token says after the same punctuation that stands before the verdict in the reply, whatever the white space."""
    for character in "".join(before.split()):
        token = token.lstrip()
        if not token.startswith(character):
            return ""
        token = token[1:]
    return token.lstrip()


def _contiguous(placed: PlacedTokens, first: int) -> Iterator[Token]:
    """The tokens from `first` on, up to the first gap."""
    for place in range(first, len(placed.tokens)):
        if place > first and placed.starts[place] != placed.ends[place - 1]:
            return
        yield placed.tokens[place]
