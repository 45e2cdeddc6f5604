"""Estimates of tokens."""

from __future__ import annotations

import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.annotators.tokens import clip_tokens, family_of, picture_tokens, text_tokens


def test_estimates_are_close_to_a_real_tokenizer(weights_folder: pathlib.Path, repo_root: pathlib.Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(next(weights_folder.glob("text-*")) / "tokenizer.json"))
    tokenizer.no_truncation()
    for path in (repo_root / "feature_repo" / "attributes").glob("*.yaml"):
        text = path.read_text()
        real = len(tokenizer.encode(text, add_special_tokens=False).ids)
        assert 0.8 < text_tokens(text) / real < 1.25, path.name


# Counts of Qwen2.5's tokenizer.
@pytest.mark.parametrize(
    ("text", "real"),
    [
        ("A squirrel holds very still and nibbles while the woods go quiet.", 14),
        ('{"id": "v1", "attributes": {"calming": {"rationale": "slow waves", "value": true, "moments": []}}}', 33),
        ("今天我们去公园散步,天气非常好,孩子们在草地上奔跑,老人们在树下下棋。", 22),
        ("Сегодня мы гуляли по зимнему лесу и кормили белок орехами. Было очень тихо и спокойно.", 38),
        ("def bound(text: str, most: int, tail: int = 0) -> str:", 20),
        ("00:01:23.450 --> 00:01:27.900", 26),
    ],
)
def test_words_code_and_other_scripts(text: str, real: int) -> None:
    assert 0.7 < text_tokens(text) / real < 1.4


@given(st.text(st.characters(exclude_categories=())), st.text(st.characters(exclude_categories=())))
def test_more_text_is_never_fewer_tokens(one: str, other: str) -> None:
    assert text_tokens("") == 0
    assert max(text_tokens(one), text_tokens(other)) <= text_tokens(one + other) <= text_tokens(one) + text_tokens(other)


@pytest.mark.parametrize(
    ("width", "height", "family", "tokens"),
    [
        (384, 384, "gemini", 258),
        (512, 288, "gemini", 258),
        (1536, 768, "gemini", 516),
        (512, 288, "gemini-3", 1120),
        (1024, 1024, "openai", 765),  # the examples of the provider's own page
        (2048, 4096, "openai", 1105),
        (512, 288, "openai", 255),
        (1024, 1024, "openai-mini", 1659),
        (512, 288, "openai-nano", 355),
        (560, 280, "plain", 200),
        (0, 0, "plain", 1),
    ],
)
def test_pictures_are_counted_as_the_providers_say(width: int, height: int, family: str, tokens: int) -> None:
    assert picture_tokens(width, height, family) == tokens  # type: ignore[arg-type]


def test_clips_are_counted_by_the_second() -> None:
    assert clip_tokens(10.2) == 11 * 290
    assert clip_tokens(10.0, "gemini-3") == 10 * 102


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gemini-2.5-flash", "gemini"),
        ("models/gemini-3-pro-preview", "gemini-3"),
        ("gemini-3.5-flash", "gemini-3"),
        ("gemini-flash-latest", "gemini"),
        ("gpt-4o", "openai"),
        ("gpt-4o-mini", "openai"),
        ("gpt-4.1-mini", "openai-mini"),
        ("gpt-5-nano-2025-08-07", "openai-nano"),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "plain"),
        ("", "plain"),
    ],
)
def test_the_name_says_who_counts(model: str, family: str) -> None:
    assert family_of(model) == family
