"""Lines of text read in several stills of a video, put together: each line once, spelt as most stills have it."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from features.videos.edit_distance import edit_distance

SCORE = 0.75
"""Mean score below which a line is texture and no text: windows, bricks and branches of the sample stay below it."""
SCORE_ONCE = 0.9
"""The same for a line that only one still shows."""
LEAST_ONCE = 3
LEAST_ONCE_IDEOGRAPHIC = 4
"""Letters and digits of a line that only one still shows; a grid of windows looks like three Chinese characters."""
LEAST = 2
"""Letters and digits of any line: what is read as a single one is most often a thing."""
SPACE_SHARE = 1 / 3
"""Of the stills that agree on the letters, how many must see a space. The recogniser misses one in eight and invents none."""
LETTERS_A_SLIP = 5
"""At the same place one letter in so many may differ between two readings of one line, and always one."""
LETTERS_A_SLIP_ELSEWHERE = 10
COMPARED = 80
"""Letters of a line that are compared; it bounds what 64 hostile lines cost to a second or two."""

_FIRST_IDEOGRAPH = "\u2e80"


@dataclass(frozen=True)
class Line:
    """One line as read in one still.

    Attributes:
        text: the words, untrusted.
        score: mean probability of its letters, 0 to 1.
        left, top, right, bottom: where it stands, pixels of the still.
    """

    text: str
    score: float
    left: float
    top: float
    right: float
    bottom: float

    @property
    def height(self) -> float:
        return self.bottom - self.top


@dataclass
class _Group:
    """Readings of one line: (number of the still, line)."""

    readings: list[tuple[int, Line]] = field(default_factory=list)
    known: dict[str, None] = field(default_factory=dict)

    def add(self, still: int, line: Line) -> None:
        self.readings.append((still, line))
        self.known[_key(line.text)] = None

    def fits(self, still: int, line: Line) -> bool:
        if self.readings[-1][0] == still:
            return False
        slip = LETTERS_A_SLIP if _same_place(self.readings[-1][1], line) else LETTERS_A_SLIP_ELSEWHERE
        return any(_alike(key, _key(line.text), slip) for key in self.known)


def _key(text: str) -> str:
    """What two readings of a line have in common: letters and signs in small case, without spaces and accents."""
    plain = unicodedata.normalize("NFD", "".join(text.split()).casefold())
    return "".join(letter for letter in plain if not unicodedata.combining(letter))[:COMPARED]


def _same_place(one: Line, other: Line) -> bool:
    shared = min(one.bottom, other.bottom) - max(one.top, other.top)
    return shared >= 0.5 * min(one.height, other.height) and one.left < other.right and other.left < one.right


def _alike(one: str, other: str, letters_a_slip: int) -> bool:
    """Whether two keys differ by slips of the recogniser only; where all digits were read, other digits are another text."""
    if one == other:
        return True
    digits, others = ("".join(filter(str.isdigit, key)) for key in (one, other))
    if digits != others and len(digits) == len(others):
        return False
    shorter = min(len(one), len(other))
    slips = max(1, shorter // letters_a_slip) if letters_a_slip == LETTERS_A_SLIP else shorter // letters_a_slip
    return (Counter(one) - Counter(other)).total() <= slips and edit_distance(one, other, slips) <= slips


def joined(lines: Iterable[Line]) -> list[Line]:
    """Pieces of one row put together, in reading order: the detector may cut a line between two words.

    Pieces belong together when they stand side by side, less than their height apart.
    """
    rows: list[Line] = []
    for line in sorted(lines, key=lambda line: line.left):
        for at, row in enumerate(rows):
            if _beside(row, line) and -0.5 * line.height <= line.left - row.right <= max(row.height, line.height):
                size, more = len(row.text), len(line.text)
                score = (row.score * size + line.score * more) / max(1, size + more)
                top, bottom = min(row.top, line.top), max(row.bottom, line.bottom)
                rows[at] = Line(f"{row.text} {line.text}", score, row.left, top, max(row.right, line.right), bottom)
                break
        else:
            rows.append(line)
    return _as_read(rows)


def _beside(one: Line, other: Line) -> bool:
    return min(one.bottom, other.bottom) - max(one.top, other.top) >= 0.6 * max(one.height, other.height)


def _as_read(lines: Iterable[Line]) -> list[Line]:
    """From top to bottom, and what stands side by side from left to right."""
    bands: list[list[Line]] = []
    for line in sorted(lines, key=lambda line: line.top + line.bottom):
        if bands and _beside(bands[-1][0], line):
            bands[-1].append(line)
        else:
            bands.append([line])
    return [line for band in bands for line in sorted(band, key=lambda line: line.left)]


def voted(stills: Sequence[Sequence[Line]]) -> list[str]:
    """The lines of a video, each once, in the order in which they first appear; see `joined` for the order within a still.

    A reading belongs to a line when their texts differ by a letter in five at the same place in the picture, a letter in ten at
    another one. The line is spelt as most stills have it, weighted by score. A line that only one still shows needs a high score.

    Args:
        stills: what was read in each, in time order; a still like the one before it stands here once.
    """
    groups: list[_Group] = []
    for still, lines in enumerate(stills):
        best: dict[str, Line] = {}
        for line in lines:
            key = _key(line.text)
            best[key] = max(best.get(key, line), line, key=lambda line: line.score)
        for line in best.values():
            group = next((group for group in groups if group.fits(still, line)), None)
            if group is None:
                groups.append(group := _Group())
            group.add(still, line)
    return [_spelling(group) for group in groups if _believed(group)]


def _believed(group: _Group) -> bool:
    score = sum(line.score for _, line in group.readings) / len(group.readings)
    signs = [letter for letter in _spelling(group) if letter.isalnum()]
    if len(group.readings) > 1:
        return score >= SCORE and len(signs) >= LEAST
    least = LEAST_ONCE_IDEOGRAPHIC if any(letter >= _FIRST_IDEOGRAPH for letter in signs) else LEAST_ONCE
    return score >= SCORE_ONCE and len(signs) >= least


def _spelling(group: _Group) -> str:
    """The letters closest to all readings, and a space where enough of those that have these letters see one."""
    weights: dict[str, float] = {}
    for _, line in group.readings:
        letters = "".join(line.text.split())
        weights[letters] = weights.get(letters, 0.0) + line.score
    spelt = min(weights, key=lambda one: sum(weight * _slips(one, other) for other, weight in weights.items()))
    spaces = [0.0] * (len(spelt) + 1)
    for _, line in group.readings:
        if "".join(line.text.split()) == spelt:
            end = 0
            for word in line.text.split()[:-1]:
                end += len(word)
                spaces[end] += line.score
    least = SPACE_SHARE * weights[spelt] - 1e-9
    return "".join(f" {letter}" if at and spaces[at] >= least else letter for at, letter in enumerate(spelt))


def _slips(one: str, other: str) -> int:
    return edit_distance(one[:COMPARED], other[:COMPARED])
