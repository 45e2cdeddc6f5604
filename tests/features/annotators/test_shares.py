from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.annotators.protocol import Usage
from features.annotators.shares import share

tokens = st.integers(0, 10**9)
usages = st.builds(Usage, st.integers(0, 5), tokens, tokens, tokens, st.floats(0, 1e4))


@given(usages, st.integers(1, 200))
def test_the_parts_add_up_to_the_whole(whole: Usage, count: int) -> None:
    parts = share(whole, count)
    assert len(parts) == count
    for name in ("requests", "input_tokens", "cached_input_tokens", "output_tokens"):
        numbers = [getattr(part, name) for part in parts]
        assert sum(numbers) == getattr(whole, name)
        assert max(numbers) - min(numbers) <= 1
    assert sum(part.cost_usd for part in parts) == pytest.approx(whole.cost_usd, rel=1e-15, abs=0)
    if whole.cached_input_tokens <= whole.input_tokens:
        assert all(part.cached_input_tokens <= part.input_tokens for part in parts)
