"""The Golden Set: what human raters said, read from the CSV files under FEATURE_REPO/golden.

Raters are the measure of everything else, so nothing in these files is guessed at: a row that cannot be read stops the run
and is named by file, row and field.
"""

from __future__ import annotations

import csv
import io
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from features.attributes.definition import AttributeDefinition
from features.errors import InvalidInput
from features.records import Annotation, digest

FIELDS = ("video_id", "attribute", "rater_id", "value")
MAX_PROBLEMS = 20
"""So many problems are spelled out; the rest are counted."""
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


@dataclass(frozen=True)
class Rating:
    """What one rater said about one attribute of one video.

    Attributes:
        value: `true` or `false`, a label, or a number within the definition's range.
    """

    video_id: str
    attribute: str
    rater_id: str
    value: str


def read_ratings(folder: str, definitions: Sequence[AttributeDefinition]) -> list[Rating]:
    """Every rating in the folder's `*.csv` files, in the order of file names and rows.

    The columns are video_id, attribute, rater_id and value, in any order; further columns (a note, a date) are left alone.
    A boolean may be written true, 1, yes or false, 0, no, in any case.

    Args:
        folder: FEATURE_REPO/golden; an empty or missing one gives no ratings.
        definitions: all attributes that may be rated.

    Raises:
        InvalidInput: naming file, row, field and remedy of every problem.
    """
    known = {definition.name: definition for definition in definitions}
    ratings: list[Rating] = []
    problems: list[str] = []
    seen: dict[tuple[str, str, str], str] = {}
    for file in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        if file.endswith(".csv") and not file.startswith("."):
            _read_file(os.path.join(folder, file), known, ratings, problems, seen)
    if problems:
        more = [f"... and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
        raise InvalidInput("\n".join(problems[:MAX_PROBLEMS] + more))
    return ratings


def _read_file(
    path: str,
    known: dict[str, AttributeDefinition],
    ratings: list[Rating],
    problems: list[str],
    seen: dict[tuple[str, str, str], str],
) -> None:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(io.StringIO(file.read()), strict=True)
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{path}: cannot be read as UTF-8 text ({error}); save it as CSV in UTF-8")
        return
    try:
        header = [name.strip() for name in next(rows, [])]
        missing = [name for name in FIELDS if header.count(name) != 1]
        if missing:
            problems.append(f"{path}, row 1: the column {missing[0]!r} must be there once, beside {', '.join(FIELDS)}")
            return
        columns = [header.index(name) for name in FIELDS]
        for row in rows:
            place = f"{path}, row {rows.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                problems.append(f"{place}: {len(row)} fields, the first row has {len(header)}; quote a text with a comma in it")
                continue
            cells = dict(zip(FIELDS, (row[column].strip() for column in columns), strict=True))
            rating, problem = _rating(cells, known)
            if rating is None:
                problems.append(f"{place}, {problem}")
                continue
            key = (rating.video_id, rating.attribute, rating.rater_id)
            if key in seen:
                problems.append(
                    f"{place}, rater_id: {rating.rater_id!r} rated {rating.attribute!r} of {rating.video_id!r} already "
                    f"({seen[key]}); keep one of the two"
                )
                continue
            seen[key] = place
            ratings.append(rating)
    except csv.Error as error:
        problems.append(f"{path}, row {rows.line_num}: is not CSV ({error}); quote texts with commas and double a quote inside")


def _rating(cells: dict[str, str], known: dict[str, AttributeDefinition]) -> tuple[Rating | None, str]:
    for field in FIELDS:
        if not cells[field]:
            return None, f"{field}: is empty; fill it in, or remove the row"
    definition = known.get(cells["attribute"])
    if definition is None:
        names = ", ".join(known) or "none yet: write a definition first"
        return None, f"attribute: {cells['attribute']!r} is not defined; known are {names}"
    value, folded = cells["value"], cells["value"].casefold()
    if definition.value_type == "boolean":
        if folded not in _TRUE + _FALSE:
            return None, f"value: {value!r} is neither true nor false"
        value = "true" if folded in _TRUE else "false"
    elif definition.value_type == "category":
        spelled = {label.casefold(): label for label in definition.labels}
        if value not in definition.labels and folded not in spelled:
            return None, f"value: {value!r} is not a label of {definition.name!r}; known are {', '.join(definition.labels)}"
        value = value if value in definition.labels else spelled[folded]
    else:
        assert definition.score_range is not None
        low, high = definition.score_range
        try:
            within = low <= float(value) <= high
        except ValueError:
            within = False
        if not within:
            return None, f"value: {value!r} is not a number within {low:g} to {high:g}"
    return Rating(cells["video_id"], cells["attribute"], cells["rater_id"], value), ""


def golden_annotations(folder: str, definitions: Sequence[AttributeDefinition], now: datetime) -> list[Annotation]:
    """The Golden Set as annotations, one for each rated (video, attribute) that raters decided.

    A boolean gets the majority's answer and the share of `true` as probability; a category the label given most often and its
    share; a score the mean. Ties are left out: they are no answer.

    Args:
        folder, definitions: as in `read_ratings`.
        now: when the ratings were read, UTC.
    """
    return aggregate(read_ratings(folder, definitions), definitions, now)


def aggregate(ratings: Iterable[Rating], definitions: Sequence[AttributeDefinition], now: datetime) -> list[Annotation]:
    """The raters' common answers, sorted by video and attribute. See `golden_annotations`."""
    known = {definition.name: definition for definition in definitions}
    together: dict[tuple[str, str], list[Rating]] = defaultdict(list)
    for rating in ratings:
        together[rating.video_id, rating.attribute].append(rating)
    found = []
    for (video_id, attribute), rated in sorted(together.items()):
        definition = known[attribute]
        values = [rating.value for rating in rated]
        kind = definition.value_type
        answer = _mean(values, definition) if kind == "score" else _most(values, boolean=kind == "boolean")
        if answer is None:
            continue
        value, probability, rationale = answer
        key = [text for rating in sorted(rated, key=lambda rating: rating.rater_id) for text in (rating.rater_id, rating.value)]
        found.append(
            Annotation(
                video_id=video_id,
                attribute=attribute,
                definition_hash=definition.definition_hash,
                value=value,
                probability=probability,
                rationale=rationale,
                source="gold",
                annotator=f"raters({len(rated)})",
                answer_key=digest("golden", video_id, definition.definition_hash, *key),
                annotated_at=now,
            )
        )
    return found


def _mean(values: list[str], definition: AttributeDefinition) -> tuple[str, None, str]:
    assert definition.score_range is not None
    low, high = definition.score_range
    mean = min(max(round(statistics.fmean(map(float, values)), 6), low), high)
    return f"{mean:.15g}", None, f"mean of {len(values)} raters, {min(map(float, values)):g} to {max(map(float, values)):g}"


def _most(values: list[str], boolean: bool) -> tuple[str, float, str] | None:
    (value, votes), *others = Counter(values).most_common()
    if others and others[0][1] == votes:
        return None
    share = votes / len(values)
    probability = 1.0 - share if boolean and value == "false" else share
    return value, probability, f"{votes} of {len(values)} raters said {value}"
