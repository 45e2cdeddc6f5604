"""A bounded choice out of a stream."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from features.videos.spread import Spread


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=300), st.integers(2, 40), st.floats(0, 5))
def test_any_times_keep_memory_bounded_and_order(times: list[float], capacity: int, step: float) -> None:
    spread: Spread[int] = Spread(capacity, step)
    for at, time in enumerate(sorted(times)):
        spread.add(time, at)
        assert 1 <= len(spread.all()) <= capacity
    kept = [time for time, _ in spread.all()]
    assert kept[0] == min(times) and all(later - earlier >= step - 1e-6 for earlier, later in itertools.pairwise(kept))


@given(st.integers(1, 3000), st.integers(16, 64))
def test_what_is_kept_is_about_equally_far_apart(count: int, capacity: int) -> None:
    spread: Spread[int] = Spread(capacity)
    for at in range(count):
        spread.add(at / 25, at)
    gaps = [later - earlier for (_, earlier), (_, later) in itertools.pairwise(spread.all())]
    assert max(gaps, default=0) <= max(1, 4 * count / capacity) and min(gaps, default=1) >= 1
