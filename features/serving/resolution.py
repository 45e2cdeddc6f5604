"""Who is believed (law 5): the more trusted opinion wins, whatever the order in which opinions were written.

Gold, then adjudicated, llm, baseline; a student right below its teacher. Pure functions over records, no I/O: what they return
is written to every store, so no store has to decide anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from features.attributes.definition import AttributeDefinition
from features.errors import Permanent
from features.records import Annotation, Failure, ResolvedAttribute

TRUST: tuple[str, ...] = ("gold", "adjudicated", "llm", "baseline")
"""Most trusted first."""

ABSENT = "absent"
CLOCK_SLACK = timedelta(minutes=5)
"""An answer from further in the future is refused: it would outlast every correction."""

_EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Resolved:
    """Beliefs about every (video, attribute) that anybody ever said something about, and the opinions that were refused.

    Attributes:
        rows: sorted by video and attribute.
        failures: one for each opinion that would have been believed but is no valid value.
    """

    rows: tuple[ResolvedAttribute, ...]
    failures: tuple[Failure, ...]


def rank(source: str, teacher: str = "") -> float:
    """How little a source is trusted: 0 is gold. A student stands half a step below its teacher, an unknown one last.

    Raises Permanent of kind `unknown_source` for a source that does not exist.
    """
    if source in TRUST:
        return float(TRUST.index(source))
    if source == "student":
        return TRUST.index(teacher) + 0.5 if teacher in TRUST else float(len(TRUST))
    raise Permanent(f"source {source!r}: write one of {', '.join(TRUST)} or student", "unknown_source")


def checked_number(definition: AttributeDefinition, annotation: Annotation) -> float:
    """The number that an annotation stands for.

    Raises:
        Permanent: kind `not_a_number` for NaN, infinities and probabilities outside 0 to 1, `bad_value` for a value that is
            none of the attribute's.
    """
    assert annotation.value is not None
    place = f"{annotation.video_id}, {definition.name}, {annotation.source} ({annotation.annotator})"
    probability = annotation.probability
    if probability is not None and not 0.0 <= probability <= 1.0:
        raise Permanent(f"{place}: probability {probability} is not within 0 to 1; ask again", "not_a_number")
    try:
        number = definition.number(annotation.value, probability)
    except ValueError as error:
        kind = "not_a_number" if annotation.value.strip().lower().lstrip("+-") in ("nan", "inf", "infinity") else "bad_value"
        raise Permanent(f"{place}: {error}; ask again", kind) from error
    if not math.isfinite(number):
        raise Permanent(f"{place}: {annotation.value!r} is not a finite number; ask again", "not_a_number")
    return number


def _when(annotation: Annotation) -> tuple[datetime, str]:
    return annotation.annotated_at or _EARLIEST, annotation.answer_key


def _tie(annotation: Annotation) -> tuple[str, ...]:
    """Decides between rows of one moment and one answer key, which differ only if something went wrong."""
    probability = "" if annotation.probability is None else repr(annotation.probability)
    return annotation.value or "", probability, annotation.annotator, annotation.definition_hash, annotation.run_id


def outdated(annotation: Annotation, definition: AttributeDefinition, content_key: str = "") -> bool:
    """Whether an opinion answers another version of the definition, or is about content that the video no longer has.

    Args:
        annotation: without a content key of its own (gold, adjudicated) it is about whatever the content is now.
        definition: the current one.
        content_key: of the video's newest features; empty where nobody knows, and then no content is older.
    """
    if annotation.definition_hash != definition.definition_hash:
        return True
    return bool(annotation.content_key and content_key) and annotation.content_key != content_key


def believed(annotations: Sequence[Annotation], definition: AttributeDefinition, content_key: str = "") -> list[Annotation]:
    """The opinions about one attribute of one video, the one to believe first, one for each source, outdated ones apart.

    Within a source the latest speaks; a retraction silences what its source said up to then. What answers the current
    definition about the current content comes before whatever is `outdated`.
    """
    silent_until: dict[float, tuple[datetime, str]] = {}
    for each in annotations:
        if each.value is None:
            trust = rank(each.source, each.teacher)
            silent_until[trust] = max(silent_until.get(trust, _when(each)), _when(each))
    latest: dict[tuple[bool, float], Annotation] = {}
    for each in annotations:
        trust = rank(each.source, each.teacher)
        if each.value is None or (trust in silent_until and _when(each) <= silent_until[trust]):
            continue
        key = (outdated(each, definition, content_key), trust)
        if key not in latest or (_when(each), _tie(each)) > (_when(latest[key]), _tie(latest[key])):
            latest[key] = each
    return [latest[key] for key in sorted(latest)]


def resolve(
    annotations: Iterable[Annotation],
    definitions: Iterable[AttributeDefinition],
    now: datetime | None = None,
    content_keys: Mapping[str, str] | None = None,
) -> Resolved:
    """What to believe about every (video, attribute) in `annotations`; what is said about other attributes is left out.

    Args:
        annotations: in any order, of any number of videos.
        definitions: the current ones.
        now: answers from later than this (and some slack) are refused; None accepts all.
        content_keys: `Video.content_key` of each video's newest features; an answer about other content is stale, and counts
            only while nothing current speaks.
    """
    wanted = {definition.name: definition for definition in definitions}
    groups: dict[tuple[str, str], list[Annotation]] = {}
    failures: list[Failure] = []
    for each in annotations:
        if each.attribute not in wanted:
            continue
        group = groups.setdefault((each.video_id, each.attribute), [])
        try:
            rank(each.source, each.teacher)
            if now is not None and each.annotated_at is not None and each.annotated_at > now + CLOCK_SLACK:
                place = f"{each.video_id}, {each.attribute}"
                raise Permanent(f"{place}: answered at {each.annotated_at}, which is yet to come", "from_the_future")
            group.append(each)
        except Permanent as error:
            failures.append(_failure(each, error, now))
    rows = []
    for (video_id, attribute), group in sorted(groups.items()):
        row, refused = _resolve_one(video_id, wanted[attribute], group, now, (content_keys or {}).get(video_id, ""))
        rows.append(row)
        failures += refused
    failures.sort(key=lambda failure: (failure.video_id, failure.attribute, failure.kind, failure.message))
    return Resolved(tuple(rows), tuple(failures))


def _resolve_one(
    video_id: str, definition: AttributeDefinition, group: Sequence[Annotation], now: datetime | None, content_key: str
) -> tuple[ResolvedAttribute, list[Failure]]:
    failures = []
    for each in believed(group, definition, content_key):
        try:
            number = checked_number(definition, each)
        except Permanent as error:
            failures.append(_failure(each, error, now))
            continue
        return (
            ResolvedAttribute(
                video_id=video_id,
                attribute=definition.name,
                number=number,
                value=each.value,
                source=each.source,
                probability=each.probability,
                definition_hash=each.definition_hash,
                annotated_at=each.annotated_at,
                stale=outdated(each, definition, content_key),
                annotator=each.annotator,
            ),
            failures,
        )
    return ResolvedAttribute(video_id, definition.name, None, None, ABSENT, None, "", None, False, ""), failures


def _failure(annotation: Annotation, error: Permanent, now: datetime | None) -> Failure:
    return Failure(annotation.video_id, "materialize", error.kind, str(error), annotation.attribute, failed_at=now)


def by_video(rows: Iterable[ResolvedAttribute]) -> Mapping[str, dict[str, ResolvedAttribute]]:
    """The rows of each video, by attribute."""
    videos: dict[str, dict[str, ResolvedAttribute]] = {}
    for row in rows:
        videos.setdefault(row.video_id, {})[row.attribute] = row
    return videos
