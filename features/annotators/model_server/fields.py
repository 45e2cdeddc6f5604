"""Checks of single fields, shared by both protocols; a function that is passed words what is wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from features.annotators.model_server.encoding import parsed
from features.annotators.model_server.problems import Refused

Bad = Callable[[str, str, str], Refused]
"""(field, what is wrong, OpenAI's word for it) -> the refusal."""


def loaded(data: bytes, protocol: str) -> dict[str, Any]:
    """A request body.

    Raises:
        Refused: not a JSON object; NaN and infinities are not JSON.
    """
    try:
        document = parsed(data)
    except ValueError as error:
        if protocol == "gemini":
            raise Refused(400, f"Invalid JSON payload received. {error}") from error
        raise Refused(400, f"We could not parse the JSON body of your request. ({error})") from error
    if not isinstance(document, dict):
        raise Refused(400, "Invalid JSON payload received. Expected an object.")
    return document


class Fields:
    """The fields of one object, with typed readers that refuse what is out of range.

    Args:
        document: the object.
        bad: words the refusals.
    """

    def __init__(self, document: dict[str, Any], bad: Bad) -> None:
        self.document, self.bad = document, bad

    def number(self, name: str, least: float, most: float, default: float) -> float:
        """A number of the range; `default` where it is missing or null."""
        value = self.document.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.bad(name, f"expected a number, but got {value!r} instead", "invalid_type")
        if value < least:
            raise self.bad(name, f"expected a value >= {least:g}, but got {value} instead", "decimal_below_min_value")
        if value > most:
            raise self.bad(name, f"expected a value <= {most:g}, but got {value} instead", "decimal_above_max_value")
        return float(value)

    def integer(self, name: str, least: int, most: int, default: int) -> int:
        """A whole number of the range; `default` where it is missing or null."""
        value = self.document.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.bad(name, f"expected an integer, but got {value!r} instead", "invalid_type")
        if value < least:
            raise self.bad(name, f"expected a value >= {least}, but got {value} instead", "integer_below_min_value")
        if value > most:
            raise self.bad(name, f"expected a value <= {most}, but got {value} instead", "integer_above_max_value")
        return value

    def flag(self, name: str) -> bool:
        """A boolean; False where it is missing or null."""
        value = self.document.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.bad(name, f"expected a boolean, but got {value!r} instead", "invalid_type")
        return bool(value)

    def one_of(self, name: str, permitted: tuple[str, ...]) -> str:
        """One of some words; empty where it is missing or null."""
        value = self.document.get(name)
        if value is None:
            return ""
        if value not in permitted:
            listed = ", ".join(f"'{word}'" for word in permitted)
            raise self.bad(name, f"supported values are: {listed}, but got {value!r} instead", "invalid_value")
        return str(value)
