from __future__ import annotations

import dataclasses

import pytest

from features.attributes.definition import AttributeDefinition, Example, name_problem

DEFINITION = AttributeDefinition("calm", "Calm", "Is it calm?", "Calm is calm.", includes=("waves",), excludes=("shouting",))
MOOD = dataclasses.replace(DEFINITION, name="mood", value_type="category", labels=("calm", "lively"))
WARMTH = dataclasses.replace(DEFINITION, name="warmth", value_type="score", score_range=(1.0, 5.0))


@pytest.mark.parametrize(
    "change",
    [
        {"name": "calmer"},
        {"question": "Is it quiet?"},
        {"definition": "Something else."},
        {"includes": ("waves", "rain")},
        {"excludes": ()},
        {"examples": (Example("a lake", "true", "quiet"),)},
        {"value_type": "score", "score_range": (1.0, 5.0)},
        {"evidence": ("title",)},
    ],
)
def test_what_an_annotator_sees_changes_the_hash(change: dict[str, object]) -> None:
    assert dataclasses.replace(DEFINITION, **change).definition_hash != DEFINITION.definition_hash


@pytest.mark.parametrize("change", [{"owner": "me"}, {"title": "Very calm"}, {"stage": "full"}, {"serving_threshold": 0.9}])
def test_what_an_annotator_does_not_see_asks_nobody_again(change: dict[str, object]) -> None:
    assert dataclasses.replace(DEFINITION, **change).definition_hash == DEFINITION.definition_hash


def test_the_order_of_evidence_does_not_matter() -> None:
    turned = dataclasses.replace(DEFINITION, evidence=tuple(reversed(DEFINITION.evidence)))
    assert turned.definition_hash == DEFINITION.definition_hash


def test_the_one_number_of_each_value_type() -> None:
    assert DEFINITION.number("true", None) == 1.0
    assert DEFINITION.number("false", 0.2) == 0.2
    assert MOOD.number("lively", 0.6) == 1.0
    assert WARMTH.number("4.5", None) == 4.5


@pytest.mark.parametrize(
    ("definition", "value"), [(DEFINITION, "maybe"), (MOOD, "sad"), (WARMTH, "6"), (WARMTH, "nan"), (WARMTH, "much")]
)
def test_a_value_that_is_not_the_attributes_is_refused(definition: AttributeDefinition, value: str) -> None:
    with pytest.raises(ValueError):
        definition.number(value, 0.5)


def test_the_signature_says_what_a_stored_number_means() -> None:
    signatures = {DEFINITION.value_signature, MOOD.value_signature, WARMTH.value_signature}
    assert signatures == {"boolean", "category(calm, lively)", "score(1 to 5)"}


@pytest.mark.parametrize("name", ["calm", "feel_good", "a", "x" * 63])
def test_good_names(name: str) -> None:
    assert name_problem(name) == ""


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Calm",
        "1st",
        "feel-good",
        "x" * 64,
        "calm_source",
        "calm_label",
        "calm_annotated_at",
        "video_id",
        "packed",
        "é",
        "a\n",
    ],
)
def test_bad_names_say_what_to_do(name: str) -> None:
    assert "choose another" in name_problem(name) or "use a lower-case letter" in name_problem(name)
