from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.annotators.strict_json import LONGEST, LONGEST_QUOTE, Malformed, Repeated, parse, quote, repeats

documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(documents, st.sampled_from(["{}", "\n {}\t\n", "```json\n{}\n```", "```\n{}```", "\n```JSON \r\n{}\r\n```\n"]))
def test_reads_what_json_reads_with_white_space_and_one_fence(document: object, around: str) -> None:
    text = around.replace("{}", json.dumps(document))
    found, begin = parse(text)
    assert found == document
    assert text[begin:].startswith(json.dumps(document))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"a": 1} trailing', "Extra data"),
        ('Here you are: {"a": 1}', "line 1 column 1"),
        ("{'a': 1}", "property name"),
        ('{"a": "line\nbreak"}', "control character"),
        ('{"a": ' + "9" * 5000 + "}", "4300"),
        ("[" * 17 + "1" + "]" * 17 + " " * 3 + "[]" * 200, "nested"),
        ("[" * 100_000, "nested"),
        ('```json\n```json\n{"a": 1}\n```\n```', "line 1"),
        ('"' + "x" * LONGEST + '"', "characters"),
        ('{"a": "cut of', "Unterminated"),
    ],
)
def test_refuses_what_is_not_strict_json(text: str, why: str) -> None:
    with pytest.raises(Malformed, match=why) as refused:
        parse(text)
    assert len(str(refused.value)) < 300


def test_brackets_in_texts_are_no_depth() -> None:
    assert parse(json.dumps(["[" * 500])) == (["[" * 500], 0)


def test_repeated_keys_are_told() -> None:
    document, _ = parse('{"a": 1, "b": {"c": 1, "c": 2, "d": 3}, "a": 2}')
    assert repeats(document, "a") and not repeats(document, "b")
    assert isinstance(document["b"], Repeated) and document["b"].names == {"c"}
    assert document.pairs[0] == ("a", 1)


@given(documents)
def test_quotes_are_short_and_printable(document: object) -> None:
    assert len(quote(document)) <= LONGEST_QUOTE
    assert not any(character in quote(document) for character in "\n\r\x00\x1b\u202e\ud800")
