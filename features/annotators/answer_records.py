"""What an answers store holds, and what is asked of it as a whole: the records that all kinds of stores share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from features.annotators.protocol import AnnotatorIdentity, Answer, Usage
from features.records import Moment

NANO = 1_000_000_000
"""Spend is added up in whole billionths of a dollar, so that no order of additions changes it."""
SPEND = ("requests", "input_tokens", "cached_input_tokens", "output_tokens", "cost_nano_usd")
"""The columns of a spend journal, all whole numbers."""
NO_MOMENTS = "[]"


@dataclass(frozen=True)
class StoredAnswer:
    """An answer with everything that says whose it is.

    Attributes:
        key: `AnnotatorIdentity.answer_key`.
        answer: `reused`, `video_id` and `by` are not stored.
        identity: who was asked. One that comes back from a store holds the parameters of this definition only.
        video_id: the video it was first asked about; others of the same content share the answer.
        content_key, definition_hash: what was asked about, and what.
    """

    key: str
    answer: Answer
    identity: AnnotatorIdentity
    video_id: str
    content_key: str
    definition_hash: str

    @property
    def own_parameters(self) -> tuple[str, ...]:
        """Of `identity.parameters_by_definition` those of this definition."""
        return tuple(text for definition, text in self.identity.parameters_by_definition if definition == self.definition_hash)


@dataclass(frozen=True)
class Selection:
    """Which answers of a store are meant; what is empty does not narrow it.

    Attributes:
        model: `AnnotatorIdentity.model`.
        attribute: a definition's name.
        before: answered before this second since 1970; answers of an unknown time are then left out. 0: whenever.
    """

    model: str = ""
    attribute: str = ""
    before: float = 0.0

    def admits(self, stored: StoredAnswer) -> bool:
        return (
            self.model in ("", stored.identity.model)
            and self.attribute in ("", stored.answer.attribute)
            and (not self.before or 0 < stored.answer.answered_at < self.before)
        )


ALL = Selection()


@dataclass(frozen=True)
class Group:
    """Answers of one model and prompt to one attribute.

    Attributes:
        model, prompt, attribute: what they have in common.
        answers: how many.
        usage: what they cost when they were given, `requests` left 0.
        since, until: when the first and the last was given, seconds since 1970; 0: unknown.
    """

    model: str
    prompt: str
    attribute: str
    answers: int
    usage: Usage
    since: float
    until: float


@dataclass(frozen=True)
class Stats:
    """A store as a whole.

    Attributes:
        groups: its answers by model, prompt and attribute, in this order.
        spent: everything that each run paid for through this store, rejected replies and refusals included.
        size_bytes: of the file; of Redis, the memory of the whole server.
        notes: a sentence for everything about it that may lose answers, and so pay for them twice.
    """

    groups: tuple[Group, ...]
    spent: Mapping[str, Usage]
    size_bytes: int
    notes: tuple[str, ...] = ()


def grouped(rows: Iterable[StoredAnswer]) -> tuple[Group, ...]:
    """Adds rows up."""
    sums: dict[tuple[str, str, str], tuple[int, Usage, float, float]] = {}
    for row in rows:
        answer, place = row.answer, (row.identity.model, row.identity.prompt, row.answer.attribute)
        count, usage, since, until = sums.get(place, (0, Usage(), 0.0, 0.0))
        cost = Usage(0, answer.input_tokens, answer.cached_input_tokens, answer.output_tokens, answer.cost_usd)
        first = min(since, answer.answered_at) if since and answer.answered_at else since or answer.answered_at
        sums[place] = count + 1, usage + cost, first, max(until, answer.answered_at)
    return tuple(
        Group(model, prompt, attribute, count, usage, since, until)
        for (model, prompt, attribute), (count, usage, since, until) in sorted(sums.items(), key=lambda item: item[0])
    )


def changed(given: Iterable[StoredAnswer], standing: Mapping[str, Answer]) -> dict[str, Answer]:
    """Of answers that stood already, those that say something else than what was given."""
    found = {}
    for stored in given:
        stands = standing.get(stored.key)
        if stands is not None and (
            (stands.value, stands.probability, stands.rationale, stands.answered_at, stands.moments, stands.model)
            != (
                stored.answer.value,
                stored.answer.probability,
                stored.answer.rationale,
                stored.answer.answered_at,
                stored.answer.moments,
                stored.answer.model,
            )
        ):
            found[stored.key] = stands
    return found


def in_whole(usage: Usage) -> tuple[int, ...]:
    """Usage in the columns of `SPEND`."""
    cost = round(usage.cost_usd * NANO)
    return usage.requests, usage.input_tokens, usage.cached_input_tokens, usage.output_tokens, cost


def from_whole(amounts: Sequence[int]) -> Usage:
    """Usage from the columns of `SPEND`."""
    requests, read, cached, written, nano = amounts
    return Usage(requests, read, cached, written, nano / NANO)


def moments_text(moments: tuple[Moment, ...]) -> str:
    """Moments as JSON: [[start_s, end_s], ...]."""
    return f"[{', '.join(f'[{moment.start_s!r}, {moment.end_s!r}]' for moment in moments)}]" if moments else NO_MOMENTS


def moments_from(text: str) -> tuple[Moment, ...]:
    """What `moments_text` wrote."""
    return () if text == NO_MOMENTS else tuple(Moment(float(start), float(end)) for start, end in json.loads(text))


def answer_of(fields: Sequence[Any], moments: tuple[Moment, ...], reused: bool = False) -> Answer:
    """An answer from what a store keeps of it, in this order.

    Args:
        fields: attribute, value, probability, rationale, three counts of tokens (input, cached, output), cost in US dollars, and
            when it was answered; what follows the tenth, the moments, is the model that the server named.
        moments: of the tenth field.
        reused: it is handed out in place of a new one.
    """
    attribute, value, probability, rationale, read, cached, written, cost, answered_at, _, model = fields
    return Answer(
        attribute,
        value,
        probability,
        rationale,
        read,
        cached,
        written,
        cost,
        answered_at,
        reused,
        moments=moments,
        model=model,
    )
