"""What may work if asked again is asked again, and nothing else."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.annotators.retry import BASE_S, Retried, retryable, wait_before
from features.errors import BudgetSpent, InvalidInput, Permanent, Stopped, Transient, Unavailable
from tests.features.annotators.wrapping import ANSWERED, Scripted, control, now, request, virtually

BROKEN = Transient("broken pipe")
BUSY = Transient("too many", rejected=True)


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (Transient("time-out"), True),
        (Transient("429", 3.0, rejected=True), True),
        (Permanent("no"), False),
        (Unavailable("key revoked"), False),
        (BudgetSpent("cap"), False),
        (Stopped("stop"), False),
        (InvalidInput("row"), False),
        (ValueError("a bug"), False),
        (TimeoutError(), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_only_transient_is_retried(error: BaseException, wanted: bool) -> None:
    assert retryable(error) is wanted

    async def main() -> Scripted:
        inner = Scripted(error, ANSWERED)
        try:
            reply = await Retried(inner, 3, 60, control(), random.Random(0).random).annotate(request())
        except BaseException as raised:
            assert raised is error and not wanted
        else:
            assert reply is ANSWERED and wanted
        return inner

    if not isinstance(error, KeyboardInterrupt):
        assert len(virtually(main).asked) == 1 + wanted


@given(st.integers(1, 100), st.floats(0.01, 3600), st.none() | st.floats(0, 1), st.floats(0, 1))
def test_the_wait_lies_within_its_bounds(tried: int, longest_s: float, share: float | None, drawn: float) -> None:
    asked = None if share is None else share * longest_s
    wait_s = wait_before(tried, longest_s, asked, lambda: drawn)
    assert (asked or 0) <= wait_s <= longest_s
    assert wait_s <= (asked or 0) + BASE_S * 2.0 ** (tried - 1)


def test_the_jitter_is_full() -> None:
    """Independent: the mean of random(0, min(cap, base * 2^n)) is half of that."""
    rng = random.Random(1)
    for tried, top in ((1, 0.5), (4, 4.0), (9, 60.0)):
        drawn = [wait_before(tried, 60, None, rng.random) for _ in range(4000)]
        assert sum(drawn) / 4000 == pytest.approx(top / 2, rel=0.05) and min(drawn) < 0.01 * top and max(drawn) > 0.99 * top


def outcome(*does: Any, attempts: int = 5, longest_s: float = 60.0) -> tuple[Any, list[float]]:
    async def main() -> tuple[Any, list[float]]:
        inner, begins = Scripted(*does), now()
        try:
            result: Any = await Retried(inner, attempts, longest_s, control(), lambda: 0.5).annotate(request())
        except Transient as error:
            result = error
        return result, [at - begins for at in inner.at]

    return virtually(main)


def test_it_gives_up_after_so_many_attempts_and_says_so() -> None:
    result, at = outcome(BROKEN)
    assert len(at) == 5 and at == pytest.approx([0, 0.25, 0.75, 1.75, 3.75])
    assert "broken pipe (tried 5 times; it stays pending)" in str(result)
    assert len(outcome(BROKEN, attempts=1)[1]) == len(outcome(BUSY, attempts=1)[1]) == 1


def test_retry_after_is_a_lower_bound() -> None:
    _, at = outcome(Transient("429", 7.0, rejected=True), ANSWERED)
    assert at[1] == pytest.approx(7.25)


def test_a_server_that_asks_for_longer_than_we_wait_is_not_asked_again() -> None:
    result, at = outcome(Transient("429", 61.0, rejected=True))
    assert len(at) == 1 and "asks to wait 61 s, longer than longest_wait_s (60)" in str(result)
    assert result.retry_after_s == 61.0 and result.rejected


def test_a_storm_of_rejections_is_outlived_for_a_while_and_ends() -> None:
    """Fault 5: the remainder is pending."""
    reply, at = outcome(*[BUSY] * 15, ANSWERED)
    assert reply is ANSWERED and len(at) == 16
    result, at = outcome(BUSY, longest_s=10.0)
    assert isinstance(result, Transient) and result.rejected and len(at) == 20
    assert at[-1] < 20 * 10


def test_a_stop_ends_the_wait_at_once() -> None:
    async def main() -> float:
        begins = now()
        retried = Retried(Scripted(BROKEN), 20, 3600, control(stopping=lambda: now() > begins + 30), lambda: 1.0)
        with pytest.raises(Stopped):
            await retried.annotate(request())
        return now() - begins

    assert 30 <= virtually(main) <= 30.5


def test_after_a_stop_nothing_is_sent() -> None:
    async def main() -> list[str]:
        inner = Scripted(ANSWERED)
        with pytest.raises(Stopped):
            await Retried(inner, 5, 60, control(stopping=lambda: True)).annotate(request())
        return inner.asked

    assert virtually(main) == []
