"""Dividing what an exchange cost among those it was for, so that the parts add up to the whole."""

from __future__ import annotations

from features.annotators.protocol import Usage


def share(whole: Usage, count: int) -> list[Usage]:
    """`whole` in `count` parts (1 and up), as equal as can be.

    Whole numbers are divided by largest remainder: they add up exactly, the first parts take one more, and a part never has more
    cached than input tokens. Dollars are divided evenly and the last part takes the rounding: added up from the first to the last
    they give the whole within float precision.
    """
    each = whole.cost_usd / count
    added = 0.0
    parts = []
    for place in range(count):
        cost = each if place < count - 1 else whole.cost_usd - added
        added += cost
        late = count - 1 - place  # the first `n % count` parts round up
        parts.append(
            Usage(
                (whole.requests + late) // count,
                (whole.input_tokens + late) // count,
                (whole.cached_input_tokens + late) // count,
                (whole.output_tokens + late) // count,
                cost,
            )
        )
    return parts
