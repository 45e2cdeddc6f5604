"""Words of strangers: cleaned, bounded, fenced."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.annotators.untrusted import CUT, bound, clean, fence, fenced, plain

MARKS = st.sampled_from(
    [
        "<<end of video v1>>",
        "<|im_end|>",
        "</s>",
        "[INST]",
        "[/INST]",
        '"',
        "\\",
        "\\u003c",
        "\n",
        "\r\n",
        "\u2028",
        "\u202e",
        "\u200b",
        "\ud800",
    ]
)
ANYTHING = st.lists(st.one_of(st.text(st.characters(exclude_categories=())), MARKS)).map("".join)
SEEN_FORMATS = set("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2")
"""Format characters that have a shape: signs that enclose a number in Arabic and Syriac."""


@given(ANYTHING)
def test_the_fence_is_one_line_that_reads_back_as_the_cleaned_text(text: str) -> None:
    cleaned = clean(text)
    closed = fence(cleaned)
    assert json.loads(closed) == cleaned
    assert len(closed.splitlines()) == 1
    assert "<" not in closed and ">" not in closed and "[INST]" not in closed and "[/INST]" not in closed
    # Whatever is written after it, a reader of JSON stops where the fence ends.
    assert json.JSONDecoder().raw_decode(closed + text) == (cleaned, len(closed))
    closed.encode()  # no half of a surrogate pair, which no request could carry


@given(ANYTHING)
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    assert unicodedata.is_normalized("NFC", cleaned)


def test_no_character_that_is_not_seen_survives() -> None:
    for number in range(0x110000):
        character = chr(number)
        if unicodedata.category(character) in ("Cc", "Cf", "Cs") and character not in SEEN_FORMATS:
            assert clean(f"a{character}b") in ("ab", "a b"), hex(number)
        elif unicodedata.category(character)[0] in "LNPS" and number not in (0x115F, 0x1160, 0x2800, 0x3164, 0xFFA0, 0xFFFC):
            assert clean(character) == unicodedata.normalize("NFC", character), hex(number)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  a\t\nb\r\n\x00c ", "a b c"),
        ("calm\u202e lake\u202c", "calm lake"),
        ("t\u200br\u200bu\ufeffe", "true"),
        ("lake" + "".join(chr(0xE0000 + ord(letter)) for letter in "true"), "lake"),
        ("cafe\u0301", "caf\u00e9"),
        ("\ufb01ne \u2460 \uff21", "\ufb01ne \u2460 \uff21"),
        ("half \ud83d of a pair \ude00", "half of a pair"),
        ("\U0001f468\u200d\U0001f469 \u2764\ufe0f", "\U0001f468\U0001f469 \u2764"),
    ],
)
def test_cleaning_keeps_what_is_seen(text: str, expected: str) -> None:
    assert clean(text) == expected


@given(ANYTHING.map(clean), st.integers(32, 400), st.integers(0, 20))
def test_a_bounded_text_keeps_to_its_length_and_says_that_it_was_cut(text: str, most: int, tail: int) -> None:
    short = bound(text, most, tail)
    assert len(short) <= most
    if len(text) <= most:
        assert short == text
    else:
        place = max(place for place in range(len(short)) if short.startswith(CUT, place) and text.startswith(short[: place - 1]))
        assert text.endswith(short[place + len(CUT) :].lstrip(" "))


def test_a_text_is_cut_between_words_and_a_transcript_keeps_its_end() -> None:
    text = " ".join(f"word{number}" for number in range(100))
    assert bound(text, 40) == "word0 word1 word2 word3 word4 [cut]"
    assert bound(text, 60, 20) == "word0 word1 word2 word3 word4 [cut] word97 word98 word99"
    assert bound(text, 60, 18) == "word0 word1 word2 word3 word4 [cut] word98 word99"
    assert bound("x" * 100, 40) == "x" * 34 + " [cut]"
    assert bound(text, len(text)) == text


def test_an_empty_fence_is_no_fence() -> None:
    assert fenced("", 100) == fenced(" \u200b\n\ud800", 100) == ""
    assert fenced("a <b> [INST] [music]", 100) == '"a \\u003cb\\u003e \\u005bINST] [music]"'


@given(ANYTHING)
def test_our_own_words_hold_no_marks_either(text: str) -> None:
    words = plain(text)
    assert "<" not in words and "[INST]" not in words and len(words.splitlines()) <= 1
