"""What is asked about a video: one attribute, as a person wrote it down in `feature_repo/attributes/NAME.yaml`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from features.records import digest

ValueType = Literal["boolean", "category", "score"]
Evidence = Literal["frames", "title", "description", "hashtags", "transcript", "onscreen_text", "tags", "measurements"]
Stage = Literal["draft", "priority", "distilled", "full"]

NAME_RULE = re.compile(r"[a-z][a-z0-9_]{0,62}")
RESERVED_NAMES = frozenset({"video_id", "event_timestamp", "created", "packed"})
"""Columns that the feature store's views already have."""
RESERVED_ENDINGS = ("_source", "_label", "_annotated_at")
"""The feature store's views add a column of each of these to a name."""


def name_problem(name: str) -> str:
    """What is wrong with an attribute's name and how to mend it; an empty text when it is a good one."""
    if not NAME_RULE.fullmatch(name):
        return f"{name!r} is not a name; use a lower-case letter, then up to 62 of a-z, 0-9 and _, such as 'feel_good'"
    if name in RESERVED_NAMES:
        return f"{name!r} is a column of the feature store already; choose another name"
    for ending in RESERVED_ENDINGS:
        if name.endswith(ending):
            return f"{name!r} ends in {ending!r}, which the feature store adds to names; choose another name"
    return ""


@dataclass(frozen=True)
class Example:
    """A described video with its right answer and the reason, shown to annotators."""

    video: str
    value: str
    reason: str


@dataclass(frozen=True)
class AttributeDefinition:
    """One attribute. It travels by value: a pipeline gets the definitions it needs as constructor arguments.

    Attributes:
        name: lower-case identifier, unique, the column's name in the feature store.
        title: for people.
        question: what an annotator answers, one sentence ending in a question mark.
        definition: a paragraph that settles what counts.
        includes, excludes: one sentence each, what counts and what does not.
        examples: described videos with answers and reasons.
        value_type: boolean, category or score.
        labels: of a category, in a fixed order; empty otherwise.
        score_range: of a score, lowest and highest; None otherwise.
        evidence: the modalities an annotator is shown.
        owner: who answers for it.
        stage: draft, priority, distilled or full.
        serving_threshold: probability from which a boolean counts as present online, 0 to 1.
    """

    name: str
    title: str
    question: str
    definition: str
    includes: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    value_type: ValueType = "boolean"
    labels: tuple[str, ...] = ()
    score_range: tuple[float, float] | None = None
    evidence: tuple[Evidence, ...] = (
        "frames",
        "title",
        "description",
        "hashtags",
        "transcript",
        "onscreen_text",
        "tags",
        "measurements",
    )
    owner: str = ""
    stage: Stage = "draft"
    serving_threshold: float = 0.5

    @cached_property
    def definition_hash(self) -> str:
        """Digest of what an annotator can see of it, and of nothing else: 32 hex digits.

        Owner, title, stage and threshold may change without asking anybody again.
        """
        seen = {
            "name": self.name,
            "question": self.question,
            "definition": self.definition,
            "includes": self.includes,
            "excludes": self.excludes,
            "examples": [[example.video, example.value, example.reason] for example in self.examples],
            "value_type": self.value_type,
            "labels": self.labels,
            "score_range": self.score_range,
            "evidence": sorted(self.evidence),
        }
        return digest(json.dumps(seen, sort_keys=True))

    @property
    def value_signature(self) -> str:
        """What a stored number means: changing it under the same name would misread every number stored before."""
        if self.value_type == "category":
            return f"category({', '.join(self.labels)})"
        if self.value_type == "score":
            assert self.score_range is not None
            return f"score({self.score_range[0]:g} to {self.score_range[1]:g})"
        return "boolean"

    def number(self, value: str, probability: float | None) -> float:
        """The one number that is stored online and learned by a student.

        Boolean: the probability of `true` (1 or 0 where none is given). Category: the position of the label. Score: itself.
        Raises ValueError when `value` is not one of this attribute's.
        """
        if self.value_type == "boolean":
            if value not in ("true", "false"):
                raise ValueError(f"{self.name}: {value!r} is neither 'true' nor 'false'")
            return float(value == "true") if probability is None else float(probability)
        if self.value_type == "category":
            if value not in self.labels:
                raise ValueError(f"{self.name}: {value!r} is none of {', '.join(self.labels)}")
            return float(self.labels.index(value))
        assert self.score_range is not None
        number = float(value)
        if not self.score_range[0] <= number <= self.score_range[1]:
            raise ValueError(f"{self.name}: {value!r} is not within {self.score_range[0]:g} to {self.score_range[1]:g}")
        return number
