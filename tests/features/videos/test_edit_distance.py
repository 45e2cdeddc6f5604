"""The distance against its definition, written down naively."""

from __future__ import annotations

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from features.videos.edit_distance import edit_distance


def naive(first: str, second: str) -> int:
    @cache
    def left(at: int, other: int) -> int:
        if at == len(first) or other == len(second):
            return len(first) - at + len(second) - other
        if first[at] == second[other]:
            return left(at + 1, other + 1)
        return 1 + min(left(at + 1, other), left(at, other + 1), left(at + 1, other + 1))

    return left(0, 0)


@settings(max_examples=300)
@given(st.text("abc", max_size=9), st.text("abc", max_size=9), st.integers(0, 10))
def test_distance_is_as_defined(first: str, second: str, most: int) -> None:
    known = naive(first, second)
    assert edit_distance(first, second) == edit_distance(list(second), list(first)) == known
    assert edit_distance(first, second, most) == min(known, most + 1)


def test_words_by_hand() -> None:
    assert edit_distance("kitten", "sitting") == 3
    assert edit_distance(["so", "close", "sir"], ["soclose", "sir"]) == 2
    assert edit_distance("", "") == 0 and edit_distance([], ["a", "b"]) == 2
