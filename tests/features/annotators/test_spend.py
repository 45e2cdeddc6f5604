"""What tokens cost, and what a run is going to."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from features.annotators.protocol import Usage
from features.annotators.spend import EXAMPLE, Calibration, Price, Prices, calibrate, forecast
from features.annotators.tokens import family_of
from features.errors import InvalidInput

DAY = datetime.date(2026, 11, 25)
BUILT_IN = Prices.load(today=DAY)
FLASH = Price("flash", 0.30, 0.03, 2.50, 0.5, "2026-11-25")


def test_the_built_in_table_is_sound() -> None:
    assert BUILT_IN.taken == "2026-11-25" and len(BUILT_IN.models) > 20
    for name, price in BUILT_IN.models.items():
        assert 0 < price.cached_input <= price.input < price.output, name
        assert price.batch == 0.5 and price.taken == "2026-11-25" and "." in price.source
        assert price.pictures == family_of(name), f"{name}: the table and the counting of tokens agree"


@pytest.mark.parametrize(
    ("model", "known"),
    [
        ("gemini-2.5-flash", "gemini-2.5-flash"),
        ("gemini-2.5-flash-001", "gemini-2.5-flash"),
        ("gemini-2.5-flash-lite", "gemini-2.5-flash-lite"),
        ("gemini-2.5-flash-lite-preview-09-2025", "gemini-2.5-flash-lite"),
        ("models/gemini-3-flash-preview", "gemini-3-flash"),
        ("publishers/google/models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("gemini-2.5-flash@default", None),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("openai/gpt-5-mini", "gpt-5-mini"),
        ("gpt-5-pro", None),
        ("gpt-5.9", None),
        ("gpt-4o-audio-preview", None),
        ("gemini-2.5-flash-image", None),
        ("Qwen/Qwen2.5-VL-7B-Instruct", None),
        ("", None),
    ],
)
def test_a_model_is_priced_by_its_name_or_not_at_all(model: str, known: str | None) -> None:
    price = BUILT_IN.of(model)
    assert (price and price.model) == known
    if known is None:
        assert repr(model) in BUILT_IN.why_none(model) and "--prices" in BUILT_IN.why_none(model)


def test_a_price_with_a_date_changes_on_it() -> None:
    before, after = (Prices.load(today=datetime.date(*day)).of("gemini-3.8-flash") for day in ((2026, 12, 31), (2027, 1, 1)))
    assert before and after and (before.input, before.output) == (0.75, 3.75) and (after.input, after.output) == (1.5, 7.5)


@given(st.integers(0, 10**9), st.floats(0, 1), st.integers(0, 10**9))
def test_cost_is_what_it_says(tokens: int, share: float, output: int) -> None:
    usage = Usage(1, tokens, int(share * tokens), output)
    by_hand = ((tokens - usage.cached_input_tokens) * 0.30 + usage.cached_input_tokens * 0.03 + output * 2.5) / 1e6
    assert FLASH.cost(usage) == pytest.approx(by_hand)
    assert FLASH.cost(usage, batch=True) == pytest.approx(by_hand / 2)
    assert dataclasses.replace(FLASH, batch=1.0).cost(usage, batch=True) == FLASH.cost(usage)


def test_a_users_prices_win_field_by_field(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(
        "taken: 2026-12-01\nmodels:\n  mine: {input: 1, output: 2}\n  gemini-2.5-flash: {output: 2.0}\n  gpt-5: {input: 1.0}\n"
    )
    prices = Prices.load(str(path), DAY)
    mine, flash, gpt = prices.of("mine"), prices.of("gemini-2.5-flash-001"), prices.of("gpt-5")
    assert mine == Price("mine", 1.0, 1.0, 2.0, 1.0, "2026-12-01", str(path), "plain")
    assert flash and (flash.input, flash.cached_input, flash.output, flash.batch, flash.pictures) == (0.3, 0.03, 2.0, 0.5, "gemini")
    assert flash.taken == "2026-12-01"
    assert gpt and gpt.cached_input == 1.0, "a cheaper cache is not taken for granted at another price"
    assert prices.of("gpt-5-mini") == BUILT_IN.of("gpt-5-mini")
    path.write_text(EXAMPLE)
    assert Prices.load(str(path), DAY).of("my-model") is not None
    path.write_text("")
    assert Prices.load(str(path), DAY) == BUILT_IN


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("model: {}", "unknown key 'model'; did you mean 'models'?"),
        ("models: {m: {inptu: 1, output: 2}}", "model 'm': unknown key 'inptu'; did you mean 'input'?"),
        ("models: {m: {input: 1}}", "model 'm' has no output"),
        ("models: {m: {input: -1, output: 2}}", "input is -1; write a number from 0 up"),
        ("models: {m: {input: free, output: 2}}", "input is 'free'"),
        ("models: {m: {input: true, output: 2}}", "input is True"),
        ("models: {m: {input: .inf, output: 2}}", "input is inf"),
        ("models: {m: {input: 1, output: 2, batch: 50}}", "batch is 50.0; write what a batch job costs of the whole, 0 to 1"),
        ("models: {m: {input: 1, output: 2, pictures: tiles}}", "pictures is 'tiles'; choose one of gemini, "),
        ("models: {m: {input: 1, output: 2, then: {input: 2}}}", "then.from is None; write a date"),
        ("models: {m: 3}", "model 'm' is 3; write keys and values"),
        ("models: [m]", "models is ['m']"),
        ("- a", "the file is ['a']"),
        ("a: [", "is no YAML"),
    ],
)
def test_a_mistake_in_a_price_file_names_the_place_and_the_remedy(tmp_path: pathlib.Path, content: str, says: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(content)
    with pytest.raises(InvalidInput) as raised:
        Prices.load(str(path), DAY)
    assert str(raised.value).startswith(str(path)) and says in str(raised.value)
    with pytest.raises(InvalidInput, match="cannot be read"):
        Prices.load(str(tmp_path / "none.yaml"))


def video(rng: random.Random) -> Usage:
    tokens = int(rng.lognormvariate(8, 0.4))
    return Usage(1, tokens, tokens // 3, int(rng.lognormvariate(5, 0.3)))


def test_the_interval_is_that_of_an_independent_computation() -> None:
    rng = random.Random(3)
    sample = [video(rng) for _ in range(50)]
    found = forecast(sample, 1000, FLASH)
    costs = np.array([FLASH.cost(usage) for usage in sample])
    error = stats.sem(costs) * np.sqrt(1 - 50 / 1000)
    low, high = stats.t.interval(0.90, 49, loc=costs.mean(), scale=error)
    assert (found.cost_usd, found.low_usd, found.high_usd) == pytest.approx((1000 * costs.mean(), 1000 * low, 1000 * high))
    assert found.requests == 1000 and found.input_tokens == round(20 * sum(usage.input_tokens for usage in sample))
    assert found.basis == "estimates of 50 of 1,000 videos; prices of 2026-11-25"


@pytest.mark.parametrize("total", [60, 300, 20_000])
def test_the_interval_holds_the_truth_in_nine_samples_of_ten(total: int) -> None:
    rng = random.Random(total)
    videos = [video(rng) for _ in range(total)]
    truth = sum(FLASH.cost(usage) for usage in videos)
    found = [forecast(rng.sample(videos, 50), total, FLASH) for _ in range(600)]
    held = sum(one.low_usd <= truth <= one.high_usd for one in found) / 600
    assert 0.86 <= held <= 0.94
    assert sum(abs(one.cost_usd / truth - 1) < 0.15 for one in found) >= 590


def test_a_sample_of_everything_is_certain_and_one_of_nothing_is_refused() -> None:
    sample = [video(random.Random(i)) for i in range(20)]
    whole = forecast(sample, 20, FLASH)
    assert whole.low_usd == pytest.approx(whole.cost_usd) == pytest.approx(whole.high_usd) == sum(map(FLASH.cost, sample))
    assert forecast(sample, 5, FLASH) == whole, "there are at least as many as were sampled"
    assert forecast([], 0, FLASH).cost_usd == 0 and forecast(sample[:1], 9, FLASH).cost_usd == 9 * FLASH.cost(sample[0])
    with pytest.raises(InvalidInput, match="no video of 7"):
        forecast([], 7, FLASH)
    assert forecast(sample, 200, FLASH, batch=True).cost_usd == pytest.approx(forecast(sample, 200, FLASH).cost_usd / 2)
    unpriced = forecast(sample, 200, None)
    assert unpriced.cost_usd == unpriced.high_usd == 0 and unpriced.input_tokens > 0 and "no price is known" in unpriced.basis


def test_earlier_exchanges_correct_the_estimates() -> None:
    """Estimates that are a third too low, and twice too long replies: within 10 % after correction, as promised."""
    rng = random.Random(5)

    def actual(usage: Usage) -> Usage:
        tokens = int(usage.input_tokens * 1.5 * rng.uniform(0.9, 1.1))
        return Usage(1, tokens, int(usage.cached_input_tokens * 1.4), int(usage.output_tokens * rng.uniform(0.4, 0.6)))

    earlier = [(usage, actual(usage)) for usage in (video(rng) for _ in range(40))]
    history = calibrate(earlier)
    assert history is not None and history.n == 40
    assert (history.ratio_in, history.ratio_out) == pytest.approx((1.5, 0.5), rel=0.05)
    videos = [video(rng) for _ in range(300)]
    billed = sum(FLASH.cost(actual(usage)) for usage in videos)
    assert forecast(videos[:50], 300, FLASH, history=history).cost_usd == pytest.approx(billed, rel=0.10)
    assert "corrected by 40 earlier exchanges (x1.5" in forecast(videos[:50], 300, FLASH, history=history).basis
    assert abs(forecast(videos[:50], 300, FLASH).cost_usd / billed - 1) > 0.05, "which is what it was without"
    assert calibrate(earlier[:19]) is None
    few = Calibration(9.0, 9.0, 19)
    assert forecast(videos[:50], 300, FLASH, history=few) == forecast(videos[:50], 300, FLASH), "too few to go by"
