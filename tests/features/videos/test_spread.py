"""A bounded choice out of a stream."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from features.videos.spread import Spread


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=300), st.integers(2, 40), st.just(0.0) | st.floats(0.01, 5))
def test_any_times_keep_memory_bounded_and_order(times: list[float], capacity: int, step: float) -> None:
    spread: Spread[int] = Spread(capacity, step)
    for at, time in enumerate(sorted(times)):
        spread.add(time, at)
        assert 1 <= len(spread.all()) <= capacity
    kept = [time for time, _ in spread.all()]
    assert kept[0] == min(times) and kept == sorted(kept)
    assert all(later - earlier >= step * (1 - 1e-5) for earlier, later in zip(kept, kept[2:], strict=False)), "one in each step"


@given(st.sampled_from([23.976, 24, 25, 29.97, 30, 50, 60]), st.sampled_from([0.2, 0.25, 1.0]))
def test_the_first_of_each_step_is_kept(fps: float, step: float) -> None:
    spread: Spread[int] = Spread(1000, step)
    for at in range(round(20 * fps)):
        spread.add(at / fps, at)
    whole = [math.ceil(number * step * fps - 1e-3) for number in range(round(20 / step))]
    assert [at for _, at in spread.all()] == whole


@given(st.integers(1, 3000), st.integers(16, 64))
def test_what_is_kept_is_about_equally_far_apart(count: int, capacity: int) -> None:
    spread: Spread[int] = Spread(capacity)
    for at in range(count):
        spread.add(at / 25, at)
    gaps = [later - earlier for (_, earlier), (_, later) in itertools.pairwise(spread.all())]
    assert max(gaps, default=0) <= max(1, 4 * count / capacity) and min(gaps, default=1) >= 1
