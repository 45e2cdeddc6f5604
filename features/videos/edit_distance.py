"""How far two texts, or two lists of words, are from being the same."""

from __future__ import annotations

from collections.abc import Sequence


def edit_distance(first: Sequence[object], second: Sequence[object], most: int | None = None) -> int:
    """The fewest insertions, deletions and replacements that turn one sequence into the other (Levenshtein, 1966).

    Args:
        first, second: strings are compared letter by letter, lists item by item.
        most: no matter beyond this; then the search stops early.

    Returns:
        0 to the longer one's length, `most + 1` for any distance above `most`.
    """
    if len(first) < len(second):
        first, second = second, first
    bound = len(first) if most is None else most
    if len(first) - len(second) > bound:
        return bound + 1
    row = [min(at, bound + 1) for at in range(len(second) + 1)]
    for place, item in enumerate(first, 1):
        # Further from the diagonal than `bound`, everything is beyond it.
        start, end = max(1, place - bound), min(len(second), place + bound)
        diagonal = row[start - 1]
        row[start - 1] = place if start == 1 else bound + 1
        for at in range(start, end + 1):
            replaced = diagonal + (item != second[at - 1])
            diagonal = row[at]
            row[at] = min(replaced, diagonal + 1, row[at - 1] + 1, bound + 1)
        if min(row[start - 1 : end + 1]) > bound:
            return bound + 1
    return row[-1]
