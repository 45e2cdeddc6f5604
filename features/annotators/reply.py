"""Reads a model's reply, and believes none of it before it is checked: why it ended, JSON, ids, names, labels, ranges, seconds.

What is good for one attribute is kept when its neighbour is bad. What is bad becomes a `Refusal` of one of these kinds:

    kind              meaning                                                     what the system does next
    cut_off           the token limit ended it, even where its JSON had closed    mends it without quoting it; halves a pack
    invalid_reply     not JSON, not the shape asked for, not a permitted value    mends it, quoting it and why; halves a pack
    unmatched         of a pack: the video's id is missing, or there twice        asks about that video alone
    refused           the model declined                                          halves a pack; never asks again about one video
    blocked           the provider's safety system blocked prompt or reply        as refused
    empty_reply       no candidate, or nothing in it                              as refused
    unfinished        it ended for another reason, such as a recitation           as refused
    unreadable_reply  reading it failed in a way nobody foresaw                   as refused; it is a defect to report

"Mends" is one more request (`features.annotators.repair`), "halves" asks about each half of a pack's open videos. What is then
still bad is a dead letter of its kind.

An annotator's `Permanent` error (`invalid_request`, `too_large`, `no_evidence`) becomes a refusal of its own kind.

The shape of a reply about one video, which several videos have as the items of `{"videos": [...]}`:

    {"id": "v1", "attributes": {NAME: {"rationale": TEXT, "value": VALUE, "moments": [{"start_s": 0.0, "end_s": 1.5}]}}}

How it is read, `features.annotators.strict_json` says. A boolean is true or false, and the texts "true" and "false" are taken
for it; a label is taken as it is written in the definition; a score is a number in its range. Names that were not asked about
and fields that are not in the shape are left alone: they assign nothing to anybody. A rationale or a moment that is wrong is
dropped, and the verdict stays.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from features.annotators.exchange import Completion, Finish, Prompt
from features.annotators.protocol import AnnotationReply, AnnotationRequest, Answer, Refusal, Repair, Usage
from features.annotators.shares import share
from features.annotators.strict_json import LONGEST, LONGEST_QUOTE, Malformed, Repeated, parse, quote, repeats
from features.annotators.untrusted import bound, clean
from features.annotators.verdict import (
    SURROUNDINGS,
    Path,
    choice_probability,
    json_probability,
    likeliest_choice,
    place_tokens,
    value_spans,
)
from features.attributes.definition import AttributeDefinition
from features.records import Moment, digest

MENDABLE = frozenset({"cut_off", "invalid_reply"})
"""Kinds for which the model is asked once more."""
SINGLY = frozenset({"unmatched"})
"""Kinds for which a video is asked alone at once."""

LONGEST_RATIONALE = 500
LONGEST_REPAIR = 20_000
MOST_MOMENTS = 3
OVERSHOOT_S = 0.5
"""A moment may end this much after the video does, as models round: it is clipped."""

_ENDINGS: Mapping[Finish, tuple[str, str]] = {
    "length": ("cut_off", "the reply was cut off at its token limit: it has to be complete, and shorter"),
    "refused": ("refused", "the model declined to answer"),
    "blocked": ("blocked", "the provider's safety system blocked it"),
    "empty": ("empty_reply", "the reply is empty"),
    "other": ("unfinished", "the reply did not come to its end"),
}


@dataclass(frozen=True)
class _Verdict:
    value: str
    probability: float | None = None
    rationale: str = ""
    moments: tuple[Moment, ...] = ()


@dataclass(frozen=True)
class _Fault:
    """Why there is no verdict; `quoted`: the model is shown its reply when it is asked to mend it."""

    kind: str
    problem: str
    quoted: bool = True


_Outcome = _Verdict | _Fault


def read(
    request: AnnotationRequest,
    prompt: Prompt,
    completion: Completion,
    cost: Callable[[Usage], float],
    clock: Callable[[], float],
    by_first_token: bool = False,
) -> AnnotationReply:
    """The answers and refusals in one reply: exactly one of both for each (video, attribute) of the exchange.

    Args:
        request: what was asked.
        prompt: what was sent for it.
        completion: what came back.
        cost: US dollars of the tokens that were billed.
        clock: seconds since 1970.
        by_first_token: where one word is asked for and the reply is another text or is cut off, the verdict is the choice that is
            likeliest at the reply's first token, if log-probabilities tell; what the text says is not looked at. For small models.

    Returns:
        `spent` is the whole exchange; each answer carries an equal share of it, pairs without an answer counted.
    """
    spent = dataclasses.replace(completion.usage, cost_usd=cost(completion.usage))
    pairs = [(video_id, definition) for _, video_id in prompt.ids for definition in request.definitions]
    outcomes = _outcomes(request, prompt, completion, by_first_token)
    now = clock()
    answers: list[Answer] = []
    refusals: list[Refusal] = []
    reply_digest = ""
    for (video_id, definition), part in zip(pairs, share(spent, len(pairs)), strict=True):
        outcome = outcomes[video_id, definition.name]
        if isinstance(outcome, _Verdict):
            answers.append(
                Answer(
                    attribute=definition.name,
                    value=outcome.value,
                    probability=outcome.probability,
                    rationale=outcome.rationale,
                    input_tokens=part.input_tokens,
                    cached_input_tokens=part.cached_input_tokens,
                    output_tokens=part.output_tokens,
                    cost_usd=part.cost_usd,
                    answered_at=now,
                    video_id=video_id,
                    moments=outcome.moments,
                    model=completion.model,
                )
            )
            continue
        if completion.text and not reply_digest:
            reply_digest = digest(completion.text.encode("utf-8", "replace"))
        message = f"{definition.name!r} of {video_id!r}: {outcome.problem}"
        refusals.append(Refusal(definition.name, outcome.kind, message, reply_digest, video_id, _repair(outcome, completion.text)))
    return AnnotationReply(tuple(answers), tuple(refusals), spent)


def _repair(fault: _Fault, text: str) -> Repair | None:
    if fault.kind not in MENDABLE:
        return None
    quoted = text[:LONGEST_REPAIR].encode("utf-8", "replace").decode() if fault.quoted else ""
    return Repair(quoted, fault.problem)


def _outcomes(
    request: AnnotationRequest, prompt: Prompt, completion: Completion, by_first_token: bool
) -> dict[tuple[str, str], _Outcome]:
    """By (video_id, attribute)."""
    video_ids = [video_id for _, video_id in prompt.ids]
    ended = _ended(completion)
    if prompt.schema is None:
        if len(video_ids) != 1 or len(request.definitions) != 1:
            raise ValueError("a reply in one word answers one question about one video")
        definition = request.definitions[0]
        outcome = ended or _chosen(prompt.choices, completion)
        if by_first_token and isinstance(outcome, _Fault) and outcome.kind in MENDABLE:
            outcome = _at_first_token(prompt.choices, completion) or outcome
        return {(video_ids[0], definition.name): outcome}
    if ended is not None:
        return {(video_id, definition.name): ended for video_id in video_ids for definition in request.definitions}
    durations = {video.video_id: video.duration_s for video in request.videos}
    try:
        document, begin = parse(completion.text)
    except Malformed as error:
        fault = _Fault("invalid_reply", f"the reply is not JSON: {error}", quoted=len(completion.text) <= LONGEST)
        return {(video_id, definition.name): fault for video_id in video_ids for definition in request.definitions}
    outcomes: dict[tuple[str, str], _Outcome] = {}
    paths: dict[tuple[str, str], Path] = {}
    for video_id, (item, path) in _items(document, prompt.ids).items():
        attributes = item if isinstance(item, _Fault) else _attributes(item, path)
        for definition in request.definitions:
            pair = video_id, definition.name
            if isinstance(attributes, _Fault):
                outcomes[pair] = attributes
            else:
                outcomes[pair] = _verdict(definition, attributes, path, durations.get(video_id, 0.0))
                paths[pair] = (*path, "attributes", definition.name, "value")
    if completion.tokens:
        _add_probabilities(outcomes, paths, request.definitions, completion, begin)
    return outcomes


def _ended(completion: Completion) -> _Fault | None:
    """Why the reply may not be looked at, whatever it says."""
    if completion.finish == "stop":
        return None if completion.text.strip() else _Fault("empty_reply", _ENDINGS["empty"][1])
    kind, problem = _ENDINGS.get(completion.finish, _ENDINGS["other"])
    if kind != "cut_off" and completion.detail:
        problem += f" ({bound(clean(completion.detail), LONGEST_QUOTE)})"
    return _Fault(kind, problem, quoted=False)


def _chosen(choices: tuple[tuple[str, str], ...], completion: Completion) -> _Outcome:
    """A reply in one word, whatever its case and the punctuation around it."""
    said = completion.text.strip()
    bare = said.strip(SURROUNDINGS).casefold()
    for written, value in choices:
        if said.casefold() == written.strip().casefold() or (bare and bare == written.strip(SURROUNDINGS).casefold()):
            placed = place_tokens(completion.tokens, completion.text)
            return _Verdict(value, choice_probability(placed, completion.text, choices, value))
    permitted = ", ".join(written for written, _ in choices)
    return _Fault("invalid_reply", f"the reply is {quote(said)}; permitted is one of {permitted}")


def _at_first_token(choices: tuple[tuple[str, str], ...], completion: Completion) -> _Outcome | None:
    likeliest = likeliest_choice(place_tokens(completion.tokens, completion.text), completion.text, choices)
    return None if likeliest is None else _Verdict(*likeliest)


def _items(document: Any, ids: tuple[tuple[str, str], ...]) -> dict[str, tuple[dict[str, Any] | _Fault, Path]]:
    """What is said of each video (by video_id), and its path in the document."""
    if len(ids) == 1:
        name, video_id = ids[0]
        return {video_id: (_only(document, name), ())}
    faulty: _Fault | None = None
    if not isinstance(document, dict) or not isinstance(document.get("videos"), list):
        faulty = _Fault("invalid_reply", f'the reply is {quote(document)}; permitted is an object with the list "videos"')
    elif repeats(document, "videos"):
        faulty = _Fault("invalid_reply", "videos: stands there more than once")
    if faulty is not None:
        return {video_id: (faulty, ()) for _, video_id in ids}
    claims: dict[str, list[int]] = {}
    for place, item in enumerate(document["videos"]):
        if isinstance(item, dict):
            claimed = [value for key, value in item.pairs if key == "id"] if isinstance(item, Repeated) else [item.get("id")]
            for claim in claimed:
                if isinstance(claim, str):
                    # An entry with two ids says nothing of either.
                    claims.setdefault(claim, []).extend([place] * len(claimed))
    found: dict[str, tuple[dict[str, Any] | _Fault, Path]] = {}
    for name, video_id in ids:
        places = claims.get(name, [])
        if len(places) == 1:
            found[video_id] = (document["videos"][places[0]], ("videos", places[0]))
        else:
            times = f"stands there {len(places)} times" if places else "is not there"
            found[video_id] = (_Fault("unmatched", f"its id {name!r} {times} in the reply about {len(ids)} videos"), ())
    return found


def _only(document: Any, name: str) -> dict[str, Any] | _Fault:
    if not isinstance(document, dict):
        return _Fault("invalid_reply", f"the reply is {quote(document)}; permitted is an object with id and attributes")
    if repeats(document, "id"):
        return _Fault("invalid_reply", "id: stands there more than once")
    if document.get("id") != name:
        return _Fault("invalid_reply", f"id: is {quote(document.get('id'))}; permitted is {name!r}")
    return document


def _attributes(item: dict[str, Any], path: Path) -> dict[str, Any] | _Fault:
    where = _written((*path, "attributes"))
    if repeats(item, "attributes"):
        return _Fault("invalid_reply", f"{where}: stands there more than once")
    attributes = item.get("attributes")
    if not isinstance(attributes, dict):
        return _Fault("invalid_reply", f"{where}: is {quote(attributes)}; permitted is an object of verdicts by name")
    return attributes


def _verdict(definition: AttributeDefinition, attributes: dict[str, Any], path: Path, duration_s: float) -> _Outcome:
    name = definition.name
    where = _written((*path, "attributes", name))
    if repeats(attributes, name):
        return _Fault("invalid_reply", f"{where}: stands there more than once")
    if name not in attributes:
        return _Fault("invalid_reply", f"{where}: is missing")
    entry = attributes[name]
    if not isinstance(entry, dict):
        return _Fault("invalid_reply", f"{where}: is {quote(entry)}; permitted is an object with value")
    if isinstance(entry, Repeated):
        return _Fault("invalid_reply", f"{where}.{min(entry.names)}: stands there more than once")
    if "value" not in entry:
        return _Fault("invalid_reply", f"{where}.value: is missing; permitted is {_permitted(definition)}")
    value = _value(definition, entry["value"])
    if value is None:
        return _Fault("invalid_reply", f"{where}.value: is {quote(entry['value'])}; permitted is {_permitted(definition)}")
    rationale = entry.get("rationale")
    said = bound(clean(rationale), LONGEST_RATIONALE) if isinstance(rationale, str) else ""
    return _Verdict(value, None, said, _moments(entry.get("moments"), duration_s))


def _value(definition: AttributeDefinition, value: Any) -> str | None:
    """The annotation's text for a JSON value; None where it is not permitted."""
    if definition.value_type == "boolean":
        if value is True or value == "true":
            return "true"
        return "false" if value is False or value == "false" else None
    if definition.value_type == "category":
        return str(value) if isinstance(value, str) and value in definition.labels else None
    number = _finite(value)
    if number is None:
        return None
    text = str(int(number)) if number == int(number) and abs(number) < 1e15 else repr(number)
    try:
        definition.number(text, None)
    except ValueError:
        return None
    return text


def _finite(value: Any) -> float | None:
    if type(value) not in (int, float):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return None
    return number if math.isfinite(number) else None


def _permitted(definition: AttributeDefinition) -> str:
    if definition.value_type == "boolean":
        return "true or false"
    if definition.value_type == "category":
        return bound("one of " + ", ".join(map(json.dumps, definition.labels)), 400)
    assert definition.score_range is not None
    return f"a number from {definition.score_range[0]:g} to {definition.score_range[1]:g}"


def _moments(said: Any, duration_s: float) -> tuple[Moment, ...]:
    """The first `MOST_MOMENTS` that lie within the video, in order of time."""
    if not isinstance(said, list) or not duration_s > 0.0:
        return ()
    found: list[Moment] = []
    for moment in said:
        if not isinstance(moment, dict) or isinstance(moment, Repeated):
            continue
        start, end = _finite(moment.get("start_s")), _finite(moment.get("end_s"))
        if start is None or end is None or end >= duration_s + OVERSHOOT_S:
            continue
        end = min(end, duration_s)
        if 0.0 <= start <= end and Moment(start, end) not in found:
            found.append(Moment(start, end))
            if len(found) == MOST_MOMENTS:
                break
    return tuple(sorted(found, key=lambda moment: (moment.start_s, moment.end_s)))


def _add_probabilities(
    outcomes: dict[tuple[str, str], _Outcome],
    paths: Mapping[tuple[str, str], Path],
    definitions: tuple[AttributeDefinition, ...],
    completion: Completion,
    begin: int,
) -> None:
    spans = value_spans(completion.text, begin)
    placed = place_tokens(completion.tokens, completion.text)
    by_name = {definition.name: definition for definition in definitions}
    for pair, path in paths.items():
        outcome = outcomes[pair]
        if isinstance(outcome, _Verdict) and path in spans:
            probability = json_probability(placed, completion.text, spans[path], by_name[pair[1]], outcome.value)
            outcomes[pair] = dataclasses.replace(outcome, probability=probability)


def _written(path: Path) -> str:
    """A path as people write it: videos[2].attributes.funny"""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
