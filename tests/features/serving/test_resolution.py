"""Law 5: who is believed."""

from __future__ import annotations

import itertools
import random
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import Permanent
from features.records import Annotation
from features.serving.resolution import Resolved, checked_number, rank, resolve
from tests.features.serving.stores import FUNNY, PACE, TONE, at, define, say

OLDER = define("funny", question="Would one laugh?")
ORDER = [("gold", ""), ("adjudicated", ""), ("llm", ""), ("student", "llm"), ("baseline", ""), ("student", "baseline")]


def one(annotations: list[Annotation]) -> tuple[str | None, str]:
    (row,) = resolve(annotations, [FUNNY]).rows
    return row.value, row.source


def test_the_more_trusted_source_wins_whoever_is_later() -> None:
    for (above, above_of), (below, below_of) in itertools.combinations(ORDER, 2):
        annotations = [
            say("v", FUNNY, "true", above, 0, teacher=above_of, annotator="above"),
            say("v", FUNNY, "false", below, 100, teacher=below_of, annotator="below"),
        ]
        for order in itertools.permutations(annotations):
            (row,) = resolve(order, [FUNNY]).rows
            assert (row.value, row.annotator) == ("true", "above"), (above, below)


def test_a_student_of_nobody_known_comes_last() -> None:
    assert one([say("v", FUNNY, "true", "student", 9), say("v", FUNNY, "false", "student", 0, teacher="baseline")]) == (
        "false",
        "student",
    )
    assert rank("student", "student") > rank("student", "baseline") > rank("baseline")


def test_within_a_source_the_latest_speaks() -> None:
    assert one([say("v", FUNNY, "false", seconds=5), say("v", FUNNY, "true", seconds=6), say("v", FUNNY, "false", seconds=4)]) == (
        "true",
        "llm",
    )


def test_a_retraction_silences_its_source_up_to_then() -> None:
    baseline = say("v", FUNNY, "false", "baseline")
    gold, retraction = say("v", FUNNY, "true", "gold", 1), say("v", FUNNY, None, "gold", 2)
    assert one([gold, baseline]) == ("true", "gold")
    assert one([gold, retraction, baseline]) == ("false", "baseline")
    assert one([gold, retraction, baseline, say("v", FUNNY, "true", "gold", 3)]) == ("true", "gold")
    (row,) = resolve([gold, retraction], [FUNNY]).rows
    assert (row.value, row.number, row.source) == (None, None, "absent")


def test_a_retraction_of_the_very_answer_wins_over_it() -> None:
    answer = say("v", FUNNY, "true", "gold", 1, answer_key="k")
    assert one([answer, say("v", FUNNY, None, "gold", 1, answer_key="k")]) == (None, "absent")


def test_the_current_definition_comes_first_and_an_older_answer_is_stale() -> None:
    old_gold = say("v", OLDER, "true", "gold", 9)
    (row,) = resolve([old_gold], [FUNNY]).rows
    assert (row.value, row.stale) == ("true", True)
    (row,) = resolve([old_gold, say("v", FUNNY, "false", "baseline", 0)], [FUNNY]).rows
    assert (row.value, row.source, row.stale) == ("false", "baseline", False)


def test_an_answer_about_older_content_is_stale_and_behind_every_current_one() -> None:
    old = say("v", FUNNY, "true", "llm", 9, content_key="old")
    current = {"v": "new"}
    (row,) = resolve([old], [FUNNY], None, current).rows
    assert (row.value, row.stale) == ("true", True)
    for other in ({}, {"v": "old"}, {"w": "new"}):
        assert not resolve([old], [FUNNY], None, other).rows[0].stale
    student = say("v", FUNNY, "false", "student", 0, content_key="new", teacher="llm")
    (row,) = resolve([old, student], [FUNNY], None, current).rows
    assert (row.value, row.source, row.stale) == ("false", "student", False)
    gold = say("v", FUNNY, "true", "gold", 0)
    (row,) = resolve([old, student, gold], [FUNNY], None, current).rows
    assert (row.source, row.stale) == ("gold", False), "without a content key it is about whatever the content is now"
    (row,) = resolve([old, say("v", FUNNY, None, "llm", 10)], [FUNNY], None, current).rows
    assert row.source == "absent", "a retraction covers older content too"


def test_a_retraction_covers_older_definitions_too() -> None:
    assert one([say("v", OLDER, "true", "llm", 1), say("v", FUNNY, None, "llm", 2)]) == (None, "absent")


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["v1", "v2"]),
            st.sampled_from([FUNNY, OLDER, PACE]),
            st.sampled_from(["true", "false", "3", "nan", None]),
            st.sampled_from(ORDER),
            st.integers(0, 3),
            st.sampled_from(["a", "b"]),
            st.sampled_from([None, 0.25, float("nan")]),
        ),
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
def test_the_order_of_writing_does_not_matter(opinions: list[tuple], random: random.Random) -> None:
    annotations = [
        say(video, definition, value, source, seconds, probability, teacher=teacher, answer_key=key)
        for video, definition, value, (source, teacher), seconds, key, probability in opinions
    ]
    first = resolve(annotations, [FUNNY, PACE])
    random.shuffle(annotations)
    assert repr(resolve(annotations, [PACE, FUNNY])) == repr(first)
    assert repr(resolve(annotations + annotations, [PACE, FUNNY]).rows) == repr(first.rows)
    assert all(row.number is None or 0 <= row.number <= 5 for row in first.rows)


@pytest.mark.parametrize(
    ("definition", "value", "probability", "kind"),
    [
        (FUNNY, "true", float("nan"), "not_a_number"),
        (FUNNY, "true", float("inf"), "not_a_number"),
        (FUNNY, "true", -0.1, "not_a_number"),
        (FUNNY, "true", 1.1, "not_a_number"),
        (PACE, "nan", None, "not_a_number"),
        (PACE, "-inf", None, "not_a_number"),
        (PACE, "6", None, "bad_value"),
        (PACE, "fast", None, "bad_value"),
        (TONE, "shrill", None, "bad_value"),
        (FUNNY, "yes", None, "bad_value"),
    ],
)
def test_what_is_no_value_is_refused_and_the_next_speaks(definition, value, probability, kind) -> None:
    good = {"funny": "false", "pace": "2", "tone": "loud"}[definition.name]
    bad = say("v", definition, value, "gold", 5, probability)
    with pytest.raises(Permanent) as raised:
        checked_number(definition, bad)
    assert raised.value.kind == kind
    resolved = resolve([bad, say("v", definition, good, "llm")], [definition])
    assert [(row.value, row.source) for row in resolved.rows] == [(good, "llm")]
    assert [(failure.video_id, failure.attribute, failure.kind) for failure in resolved.failures] == [("v", definition.name, kind)]
    assert [row.source for row in resolve([bad], [definition]).rows] == ["absent"]


def test_numbers() -> None:
    rows = resolve(
        [say("v", FUNNY, "true", probability=0.75), say("v", TONE, "loud"), say("v", PACE, "2.5")], [FUNNY, TONE, PACE]
    ).rows
    assert {row.attribute: row.number for row in rows} == {"funny": 0.75, "tone": 2.0, "pace": 2.5}


def test_an_answer_from_the_future_is_refused() -> None:
    """It would outlast every correction."""
    resolved = resolve([say("v", FUNNY, "true", seconds=3600), say("v", FUNNY, "false", seconds=1)], [FUNNY], at(60))
    assert [row.value for row in resolved.rows] == ["false"] and [failure.kind for failure in resolved.failures] == [
        "from_the_future"
    ]
    assert resolve([say("v", FUNNY, "true", seconds=1)], [FUNNY], at(0) - timedelta(seconds=10)).failures == ()


def test_an_unknown_source_is_refused_and_an_unknown_attribute_left_out() -> None:
    assert [failure.kind for failure in resolve([say("v", FUNNY, "true", "rumour")], [FUNNY]).failures] == ["unknown_source"]
    assert resolve([say("v", PACE, "3")], [FUNNY]) == Resolved((), ())
