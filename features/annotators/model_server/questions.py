"""What a judge is asked and what it decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

from features.annotators.model_server.asked import Shown

Path = tuple[str | int, ...]
"""Keys and positions from a document's root to a value in it."""
BOOLEAN = ("true", "false")
"""Labels of a yes-or-no question."""


class Question(NamedTuple):
    """One thing that is asked about one video.

    Attributes:
        attribute: its name; where it is asked in plain words, what `ServerConfig.questions` says, else the question itself.
        video: what the video is called in the request.
        shown: what the model is shown of it.
        labels: permitted values; (`true`, `false`) of a boolean; empty for a number.
        lowest, highest: of a number.
        draw: tells repeated answers apart; empty where the likeliest is asked for.
    """

    attribute: str
    video: str
    shown: Shown
    labels: tuple[str, ...]
    lowest: float = 0.0
    highest: float = 1.0
    draw: str = ""

    @property
    def boolean(self) -> bool:
        return self.labels == BOOLEAN


class Decision(NamedTuple):
    """An answer.

    Attributes:
        value: one of the labels, or a number as text.
        odds: the probability of each value that might have been given, which becomes log-probabilities; empty: the value's is 1.
        rationale: a sentence.
        moments: (start, end) in seconds.
    """

    value: str
    odds: Mapping[str, float] = MappingProxyType({})
    rationale: str = ""
    moments: tuple[tuple[float, float], ...] = ()


Decide = Callable[[Question], Decision]


class Verdict(NamedTuple):
    """Where a decision stands in a reply.

    Attributes:
        path: keys and positions from the document's root to the value; empty for a reply of one word.
        question: what was asked.
        written: the odds of what could stand in its place, as it would be written.
    """

    path: Path
    question: Question
    written: Mapping[str, float]


@dataclass
class Judged:
    """A reply before anything goes wrong with it.

    Attributes:
        text: as it is sent.
        document: what `text` is the JSON of; None for a plain word.
        verdicts: in the order in which they stand.
    """

    text: str
    document: Any = None
    verdicts: list[Verdict] = field(default_factory=list)
