from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.annotators.exchange import Token
from features.annotators.verdict import (
    choice_probability,
    json_probability,
    label_probabilities,
    place_tokens,
    value_spans,
)
from features.attributes.definition import AttributeDefinition

FUNNY = AttributeDefinition("funny", "Funny", "Is it funny?", "It makes people laugh.")
YES_NO = (("Yes", "true"), ("No", "false"))


def category(*labels: str) -> AttributeDefinition:
    return AttributeDefinition("mood", "Mood", "Which mood?", "How it feels.", value_type="category", labels=labels)


def token(text: str, probability: float, **others: float) -> Token:
    """A token and its alternatives; `_` in a name stands for a leading space."""
    top = [(text, math.log(probability)), *((name.replace("_", " "), math.log(value)) for name, value in others.items())]
    return Token(text, math.log(probability), tuple(top))


def sure(*texts: str) -> list[Token]:
    return [Token(text, 0.0, ((text, 0.0),)) for text in texts]


def probability(tokens: Sequence[Token], definition: AttributeDefinition, value: str) -> float | None:
    text = "".join(each.text for each in tokens)
    span = value_spans(text)["value",]
    return json_probability(place_tokens(tokens, text), text, span, definition, value)


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(documents, st.sampled_from([None, 2]))
def test_spans_hold_what_stands_at_their_path(document: object, indent: int | None) -> None:
    text = json.dumps(document, indent=indent)

    def scalars(value: object, path: tuple[str | int, ...]) -> dict[tuple[str | int, ...], object]:
        steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
        if steps is None:
            return {path: value}
        return {where: found for step, inner in steps for where, found in scalars(inner, (*path, step)).items()}

    spans = value_spans("x" * 3 + text, 3)
    assert {path: json.loads(("x" * 3 + text)[a:b]) for path, (a, b) in spans.items()} == scalars(document, ())


class TestWhereTokensStand:
    @given(st.text(st.characters(exclude_characters="<|im_end>"), max_size=40), st.data())
    def test_in_a_text_that_they_spell_exactly(self, text: str, data: st.DataObject) -> None:
        cuts = sorted({0, len(text), *data.draw(st.lists(st.integers(0, len(text)), max_size=8))})
        before = data.draw(st.sampled_from([(), ("thinking", " of ")]))
        pieces = [text[a:b] for a, b in pairwise(cuts)]
        placed = place_tokens(sure(*before, *pieces, "<|im_end|>"), text)
        assert [text[a:b] for a, b in zip(placed.starts, placed.ends, strict=True)] == pieces
        assert [each.text for each in placed.tokens] == pieces

    def test_a_letter_in_the_end_mark_is_not_the_reply(self) -> None:
        placed = place_tokens(sure("hm", "E", "<|END|>"), "E")
        assert placed.starts == (0,) and placed.tokens[0].text == "E"

    def test_a_draft_in_hidden_reasoning_is_not_the_reply(self) -> None:
        placed = place_tokens(sure('{"value": ', "false", "}", "so: ", '{"value": ', "true", "}"), '{"value": true}')
        assert [each.text for each in placed.tokens] == ['{"value": ', "true", "}"]

    def test_around_a_character_cut_into_pieces(self) -> None:
        text = '{"rationale": "so 😀 cute", "value": true}'
        tokens = sure('{"rationale": "so ', "\ufffd", "\ufffd", "\ufffd", ' cute", "value"', ": ", "true", "}")
        placed = place_tokens(tokens, text)
        at = placed.at(text.index("true"))
        assert at is not None and placed.tokens[at].text == "true" and placed.starts[at] == text.index("true")

    @given(st.text(max_size=30), st.lists(st.text(max_size=5), max_size=12))
    def test_never_where_the_text_says_something_else(self, text: str, pieces: list[str]) -> None:
        placed = place_tokens(sure(*pieces), text)
        for begin, end, each in zip(placed.starts, placed.ends, placed.tokens, strict=True):
            assert text[begin:end] == each.text[: len(text) - begin]


class TestBooleans:
    def test_renormalised_over_true_and_false(self) -> None:
        tokens = [*sure('{"value":'), token(" true", 0.06, _false=0.02, The=0.9), *sure("}")]
        assert probability(tokens, FUNNY, "true") == pytest.approx(0.75)

    def test_of_true_where_false_is_given(self) -> None:
        tokens = [*sure('{"value": '), token("false", 0.3, true=0.1), *sure("}")]
        assert probability(tokens, FUNNY, "false") == pytest.approx(0.25)

    def test_a_verdict_cut_in_two_whose_own_token_is_unlikely(self) -> None:
        """The case that makes the verdict's own token useless: the grammar chose `n`, which the model gave e^-6."""
        own = Token("f", -6.0, (("true", -7.0), ("Sure", -0.1)))
        tokens = [*sure('{"value": '), own, *sure("alse", "}")]
        expected = math.exp(-7) / (math.exp(-7) + math.exp(-6))
        assert probability(tokens, FUNNY, "false") == pytest.approx(expected)

    def test_tokens_that_straddle_the_punctuation_on_both_sides(self) -> None:
        first = Token(
            '": true}', math.log(0.6), (('": false', math.log(0.2)), ('":  false}', math.log(0.2)), ('", ', math.log(0.1)))
        )
        assert probability([*sure('{"value'), first], FUNNY, "true") == pytest.approx(0.6)

    def test_quoted(self) -> None:
        tokens = [*sure('{"value": "'), token("true", 0.5, **{'false"': 0.25, "maybe": 0.25}), *sure('"}')]
        assert probability(tokens, FUNNY, "true") == pytest.approx(2 / 3)

    def test_what_nobody_listed_gets_the_most_that_it_can_have(self) -> None:
        tokens = [*sure('{"value": '), token("true", 0.9, The=0.06, Well=0.01), *sure("}")]
        assert probability(tokens, FUNNY, "true") == pytest.approx(0.9 / 0.91)

    def test_nothing_is_claimed_where_the_other_label_may_be_likelier(self) -> None:
        assert probability([*sure('{"value": '), Token("true", -6.0, ()), *sure("}")], FUNNY, "true") is None
        assert probability([*sure('{"value": '), token("true", 0.3, The=0.2), *sure("}")], FUNNY, "true") is None

    def test_a_token_of_its_own_suffices_where_it_leaves_next_to_nothing(self) -> None:
        assert probability([*sure('{"value": '), Token("true", math.log(0.99), ()), *sure("}")], FUNNY, "true") == pytest.approx(
            0.99
        )

    @pytest.mark.parametrize("logprob", [math.nan, -math.inf, -9999.0])
    def test_no_figure_from_no_figures(self, logprob: float) -> None:
        own = Token("true", logprob, (("false", logprob),))
        assert probability([*sure('{"value": '), own, *sure("}")], FUNNY, "true") is None

    def test_scores_have_none(self) -> None:
        score = AttributeDefinition("pace", "Pace", "How fast?", "Pace.", value_type="score", score_range=(0, 10))
        assert probability([*sure('{"value": '), *sure("7", "}")], score, "7") is None


class TestCategories:
    def test_labels_that_begin_alike(self) -> None:
        tokens = [*sure('{"value": "'), token("c", 0.9, sad=0.1), token("alm", 0.25, ute=0.75), *sure('"}')]
        assert probability(tokens, category("calm", "cute", "sad"), "calm") == pytest.approx(0.225)

    def test_a_label_that_begins_another(self) -> None:
        tokens = [*sure('{"value": "'), token("warm", 0.8, cold=0.2), token('"', 0.5, er=0.5), *sure("}")]
        assert probability(tokens, category("warm", "warmer", "cold"), "warm") == pytest.approx(0.4)

    def test_written_in_escapes(self) -> None:
        tokens = [
            *sure('{"value": "'),
            Token("h\\u00e4", math.log(0.5), (("hä", math.log(0.25)), ("nett", math.log(0.25)))),
            *sure('sslich"}'),
        ]
        assert probability(tokens, category("hässlich", "nett"), "hässlich") == pytest.approx(0.75)

    def test_that_the_tokens_leave_open_has_none(self) -> None:
        tokens = [*sure('{"value": "'), token("c", 0.9, sad=0.1)]
        text = '{"value": "calm"}'
        placed = place_tokens([*tokens, *sure("\ufffd")], text)
        assert json_probability(placed, text, value_spans(text)["value",], category("calm", "cute", "sad"), "calm") is None


class TestChoices:
    def test_case_and_leading_spaces_are_one(self) -> None:
        tokens = [token("Yes", 0.3, _yes=0.2, YES=0.1, No=0.1, _no=0.1, Maybe=0.2)]
        assert choice_probability(place_tokens(tokens, "Yes"), "Yes", YES_NO, "true") == pytest.approx(0.75)

    def test_of_yes_where_the_model_said_no(self) -> None:
        tokens = [*sure("**"), token("No", 0.8, Yes=0.2), *sure(".**")]
        assert choice_probability(place_tokens(tokens, "**No.**"), "**No.**", YES_NO, "false") == pytest.approx(0.2)

    def test_yesterday_is_not_yes(self) -> None:
        tokens = [token("Yes", 0.4, No=0.1, Yesterday=0.4, **{"Yes.": 0.1})]
        assert choice_probability(place_tokens(tokens, "Yes"), "Yes", YES_NO, "true") == pytest.approx(5 / 6)

    def test_of_the_given_label(self) -> None:
        choices = (("A", "calm"), ("B", "wild"), ("C", "sad"))
        tokens = [token("B", 0.5, A=0.25, _C=0.25)]
        assert choice_probability(place_tokens(tokens, "B"), "B", choices, "wild") == pytest.approx(0.5)

    def test_ten_is_not_one(self) -> None:
        choices = tuple((str(number), str(number)) for number in (1, 2, 10))
        tokens = [token("1", 0.5, **{"2": 0.2, "10": 0.3})]
        assert choice_probability(place_tokens(tokens, "1"), "1", choices, "1") == pytest.approx(0.5)

    def test_without_tokens_there_is_none(self) -> None:
        assert choice_probability(place_tokens([], "Yes"), "Yes", YES_NO, "true") is None


# A tiny language model whose every sequence can be listed: letters a and b, a stop, and some longer tokens.

LABELS = ("a", "ab", "bb", "bab", "aab")
VOCABULARY = ("a", "b", "ab", "ba", '"', 'b"')
weights = st.lists(st.floats(0.05, 1.0), min_size=len(LABELS), max_size=len(LABELS))
cutting = st.lists(st.floats(0.05, 1.0), min_size=len(VOCABULARY), max_size=len(VOCABULARY))


def ways(rest: str, cut: Sequence[float]) -> dict[tuple[str, ...], float]:
    """Every way to cut `rest` into tokens, with its probability: at each place in proportion to the token's weight."""
    if not rest:
        return {(): 1.0}
    fitting = {text: weight for text, weight in zip(VOCABULARY, cut, strict=True) if rest.startswith(text)}
    return {
        (first, *others): weight / sum(fitting.values()) * chance
        for first, weight in fitting.items()
        for others, chance in ways(rest[len(first) :], cut).items()
    }


def sequences(prior: Sequence[float], cut: Sequence[float]) -> dict[tuple[str, ...], float]:
    """The probability of every token sequence; 0.2 of all is prose, outside the labels."""
    total = sum(prior)
    return {
        path: 0.8 * weight / total * chance
        for label, weight in zip(LABELS, prior, strict=True)
        for path, chance in ways(label + '"', cut).items()
    }


def walked(path: tuple[str, ...], model: dict[tuple[str, ...], float]) -> list[Token]:
    """What a server reports along one sequence: at each place all next tokens, given those before."""
    tokens = []
    for place, text in enumerate(path):
        before = path[:place]
        reach = sum(chance for each, chance in model.items() if each[:place] == before) + (0.2 if place == 0 else 0.0)
        top: dict[str, float] = {"prose": 0.2} if place == 0 else {}
        for each, chance in model.items():
            if each[:place] == before and len(each) > place:
                top[each[place]] = top.get(each[place], 0.0) + chance / reach
        tokens.append(Token(text, math.log(top[text]), tuple((other, math.log(chance)) for other, chance in top.items())))
    return tokens


@given(weights, cutting, st.data())
def test_against_every_sequence_of_a_tiny_model(prior: list[float], cut: list[float], data: st.DataObject) -> None:
    """An independent count: of all sequences, those whose probability the walk may know, by the label that they spell.

    The walk knows of a sequence what leaves its own path at a token that leads to one label only; what leaves it at a token that
    leads to several stays unknown, and is left out of the count by hand.
    """
    model = sequences(prior, cut)
    path = data.draw(st.sampled_from(sorted(model)))
    expected = dict.fromkeys(LABELS, 0.0)
    for other, chance in model.items():
        label = "".join(other).removesuffix('"')
        common = next((place for place, (a, b) in enumerate(zip(path, other, strict=False)) if a != b), None)
        if common is not None:
            left = "".join(other[: common + 1])
            if sum((each + '"').startswith(left) for each in LABELS) > 1:
                continue
        expected[label] += chance
    total = sum(expected.values())
    given_label = "".join(path).removesuffix('"')
    spellings = {label: [label + '"'] for label in LABELS}
    shares = label_probabilities(walked(path, model), spellings, given_label, lambda text: text, lambda _, __: True)
    assert shares is not None
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares == pytest.approx({label: chance / total for label, chance in expected.items()}, abs=1e-9)


@given(st.floats(0.02, 0.98), st.lists(st.integers(1, 4), max_size=3), st.booleans())
def test_how_a_verdict_is_cut_makes_no_difference(chance: float, cuts: list[int], says: bool) -> None:
    """P(true) stays the same whether `true` and `false` are a token or several, with or without the space before."""
    value, other = ("true", "false") if says else ("false", "true")
    own = chance if says else 1 - chance
    marks = sorted({0, len(value), *cuts})
    pieces = [value[a:b] for a, b in pairwise(marks)]
    first = Token(pieces[0], math.log(own), ((pieces[0], math.log(own)), (other[: len(pieces[0])], math.log(1 - own))))
    assert probability([*sure('{"value": '), first, *sure(*pieces[1:], "}")], FUNNY, value) == pytest.approx(chance)
    spaced = Token(" " + first.text, first.logprob, tuple((" " + text, logprob) for text, logprob in first.top))
    assert probability([*sure('{"value":'), spaced, *sure(*pieces[1:], "}")], FUNNY, value) == pytest.approx(chance)


@given(
    st.lists(
        st.builds(
            Token,
            st.sampled_from(['"', "calm", "c", "ute", "wild", ' "', "", "x", '",']),
            st.floats(-20, 1) | st.just(math.nan),
            st.lists(st.tuples(st.sampled_from(["calm", "c", "wi", '"', ' "wild"', ""]), st.floats(-20, 1)), max_size=4).map(tuple),
        ),
        max_size=6,
    )
)
def test_any_list_of_tokens_gives_shares_or_none(tokens: list[Token]) -> None:
    spellings = {label: [f'"{label}"'] for label in ("calm", "cute", "wild")}
    shares = label_probabilities(tokens, spellings, "calm", lambda text: text.lstrip(), lambda _, __: True)
    assert shares is None or (sum(shares.values()) == pytest.approx(1.0) and all(0 <= each <= 1 for each in shares.values()))
