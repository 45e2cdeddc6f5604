"""When two students are the same one, and what is written beside them."""

from __future__ import annotations

import pathlib
from dataclasses import replace

import numpy as np
import pytest

from features.errors import InvalidInput
from features.records import VideoFeatures, to_table
from features.student.card import StudentCard, compute_student_id, latest_student, read_card
from features.student.inputs import LIGHT_COLUMNS, InputSpec, infer_spec, prepare
from features.student.labels import Head, Label
from features.workspace import Workspace
from tests.features.student import planted


@pytest.fixture(scope="module")
def known() -> dict[str, object]:
    rng = np.random.default_rng(0)
    videos = [planted.features(number, rng) for number in range(6)]
    batch = to_table(videos, VideoFeatures).select(list(LIGHT_COLUMNS)).combine_chunks().to_batches()[0]
    return {
        "definitions": planted.DEFINITIONS,
        "labels": [Label(video.video_id, "calm", "true", 0.5, "llm", f"key-{video.video_id}") for video in videos],
        "content_keys": {video.video_id: video.content_key for video in videos},
        "inputs": prepare(batch, infer_spec([batch])).batch,
        "options": {"seed": 7},
    }


def test_equal_training_data_make_the_same_student_in_any_order(known: dict[str, object]) -> None:
    labels = list(known["labels"])  # type: ignore[call-overload]
    assert compute_student_id(**known) == compute_student_id(**{**known, "labels": labels[::-1]})  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["definition", "answer", "content", "input", "option"])
def test_whatever_decides_a_student_changes_its_id(known: dict[str, object], change: str) -> None:
    definitions, labels, keys = known["definitions"], known["labels"], known["content_keys"]
    changed = {
        "definition": {"definitions": (replace(definitions[0], question="Is it slow?"), *definitions[1:])},  # type: ignore[index]
        "answer": {"labels": [replace(labels[0], answer_key="another"), *labels[1:]]},  # type: ignore[index]
        "content": {"content_keys": {**keys, "v0000": "edited"}},  # type: ignore[dict-item]
        "input": {"inputs": known["inputs"].slice(1)},  # type: ignore[attr-defined]
        "option": {"options": {"seed": 8}},
    }[change]
    assert compute_student_id(**known) != compute_student_id(**{**known, **changed})  # type: ignore[arg-type]


def test_what_nobody_sees_does_not(known: dict[str, object]) -> None:
    definitions = tuple(replace(each, owner="somebody", serving_threshold=0.9) for each in known["definitions"])  # type: ignore[attr-defined]
    assert compute_student_id(**known) == compute_student_id(**{**known, "definitions": definitions})  # type: ignore[arg-type]


def test_a_card_survives_its_file(tmp_path: pathlib.Path) -> None:
    head = Head("energy", "score", (), (1.0, 5.0), "hash", "llm", 9)
    card = StudentCard("id", "1", (head,), InputSpec(3, 0), {"n": 1}, ("a note",), {"saved_model.pb": "x"})
    (tmp_path / "student.json").write_text(card.to_json())
    assert read_card(str(tmp_path)) == card and card.annotator == "student-id" and card.head("energy") is card.heads[0]


def test_no_student_and_a_torn_card_are_said_with_the_remedy(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidInput, match=r"no student here.*vidattr distill"):
        read_card(str(tmp_path))
    (tmp_path / "student.json").write_text('{"student_id":')
    with pytest.raises(InvalidInput, match=r"student.json: not a student's card"):
        read_card(str(tmp_path))
    with pytest.raises(InvalidInput, match="no student yet"):
        latest_student(Workspace(str(tmp_path)))
