"""What a student learns from answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.attributes.definition import AttributeDefinition
from features.student.labels import Head, Label, decide, silver_set, slices, soft_target, validation_mask

CALM = AttributeDefinition("calm", "", "?", "")
MOOD = AttributeDefinition("mood", "", "?", "", value_type="category", labels=("happy", "sad", "angry"))
ENERGY = AttributeDefinition("energy", "", "?", "", value_type="score", score_range=(1.0, 5.0))
IDS = [f"v{number}" for number in range(6)]


def label(
    video_id: str, definition: AttributeDefinition, value: str, probability: float | None = None, source: str = "llm"
) -> Label:
    return Label(video_id, definition.name, value, probability, source, "key")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("definition", "value", "probability", "target"),
    [
        (CALM, "true", 0.8, [0.8]),
        (CALM, "false", 0.1, [0.1]),
        (CALM, "true", None, [1.0]),
        (MOOD, "sad", 0.6, [0.2, 0.6, 0.2]),
        (MOOD, "sad", None, [0.0, 1.0, 0.0]),
        (ENERGY, "2.0", None, [0.25]),
        (ENERGY, "5", 0.3, [1.0]),
    ],
)
def test_soft_targets(definition: AttributeDefinition, value: str, probability: float | None, target: list[float]) -> None:
    assert soft_target(definition, label("v", definition, value, probability)) == pytest.approx(target)


@given(st.floats(0, 1, width=32), st.sampled_from(["happy", "sad", "angry"]))
def test_a_category_target_is_a_distribution(probability: float, value: str) -> None:
    assert sum(soft_target(MOOD, label("v", MOOD, value, probability))) == pytest.approx(1.0)


def test_pairs_without_a_label_are_masked_and_small_attributes_left_out() -> None:
    labels = [
        label(video_id, CALM, "true" if number % 2 else "false", 0.5 + 0.4 * (number % 2)) for number, video_id in enumerate(IDS)
    ]
    labels += [label(video_id, ENERGY, "3") for video_id in IDS[:4]] + [label(IDS[0], MOOD, "sad")]
    silver = silver_set((CALM, MOOD, ENERGY), labels, IDS)
    assert [(head.attribute, head.labelled) for head in silver.heads] == [("calm", 6), ("energy", 4)]
    assert silver.mask.sum(axis=0).tolist() == [6, 4] and silver.targets.shape == (6, 2)
    assert any(note.startswith("mood is left out: 1 labelled videos") for note in silver.notes)
    assert any(note.startswith("energy: all 4 labels say the same") for note in silver.notes)


def test_bad_labels_are_named_and_not_learned() -> None:
    labels = [label(video_id, CALM, "true") for video_id in IDS[:4]]
    labels += [label(IDS[4], CALM, "perhaps"), label(IDS[5], CALM, "true", float("nan"))]
    silver = silver_set((CALM,), labels, IDS)
    assert [(bad.video_id, bad.kind) for bad in silver.bad] == [("v4", "unknown_value"), ("v5", "not_a_number")]
    assert silver.mask[:, 0].tolist() == [True] * 4 + [False] * 2


def test_the_teacher_is_the_least_trusted_source_and_a_student_never_teaches() -> None:
    labels = [label(video_id, CALM, "true", source="gold") for video_id in IDS[:3]]
    labels += [label(IDS[3], CALM, "false", source="baseline"), label(IDS[4], CALM, "false", source="student")]
    (head,) = silver_set((CALM,), labels, IDS).heads
    assert (head.teacher, head.labelled) == ("baseline", 4)
    assert Head.from_dict(head.as_dict()) == head


def test_heads_share_the_numbers_without_gaps() -> None:
    labels = [
        label(video_id, definition, "sad" if definition is MOOD else "true") for definition in (CALM, MOOD) for video_id in IDS
    ]
    assert slices(silver_set((CALM, MOOD), labels, IDS).heads) == [slice(0, 1), slice(1, 4)]
    head = silver_set((CALM, MOOD), labels, IDS).heads[1]
    assert decide(head, np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]], np.float32)).tolist() == [1.0, 0.0]


def test_the_split_depends_on_the_ids_alone_and_hardly_moves_in_a_growing_corpus() -> None:
    ids = [f"video-{number}" for number in range(2000)]
    mask = validation_mask(ids)
    assert mask.sum() == 400 and validation_mask(ids[:20]).sum() == 4
    assert (validation_mask(ids[::-1])[::-1] == mask).all()
    assert (validation_mask(ids[:1900]) == mask[:1900]).mean() > 0.98
    assert not validation_mask(ids[:19]).any()
