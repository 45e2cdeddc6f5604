"""Training equals serving, in values: the network on Beam's transformed rows against the SavedModel, here and elsewhere."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from features.errors import InvalidInput
from features.records import Tag
from tests.features.student import planted

NAN = float("nan")


@pytest.fixture(scope="module")
def made() -> Any:
    return planted.student()


@pytest.fixture(scope="module")
def student(made: Any) -> Any:
    from features.student.scoring import Student

    return Student.load(made.folder)


@pytest.fixture(scope="module")
def served(made: Any, student: Any) -> dict[str, np.ndarray]:
    values: dict[str, np.ndarray] = student.score(planted.light(*made.videos))
    return values


def test_the_saved_model_says_what_the_network_said_of_beams_rows(made: Any, served: dict[str, np.ndarray]) -> None:
    from features.student.model import activations

    trained = activations(made.network(made.transformed, training=False), made.heads)
    assert set(served) == {"calm", "mood", "energy"}
    for name, values in served.items():
        assert np.abs(values - np.asarray(trained[name])).max() < 1e-6
    empty = np.array([not video.hashtags for video in made.videos])
    silent = np.array([not video.has_audio for video in made.videos])
    assert 0 < empty.sum() < len(empty) and 0 < silent.sum() < len(silent), "the rows that show skews are among them"


def test_a_row_is_scored_the_same_alone(made: Any, student: Any, served: dict[str, np.ndarray]) -> None:
    bare = next(row for row, video in enumerate(made.videos) if not video.hashtags and not video.visual_tags and not video.language)
    mute = next(row for row, video in enumerate(made.videos) if not video.text_embedding)
    for row in (0, bare, mute):
        alone = student.score(planted.light(made.videos[row]))
        for name, values in served.items():
            assert np.abs(alone[name][0] - values[row]).max() < 1e-6
            assert np.isfinite(alone[name]).all()


def test_it_learned_what_was_planted(made: Any, served: dict[str, np.ndarray]) -> None:
    texts = np.array([video.text_embedding[:5] or (NAN,) * 5 for video in made.videos])
    there = ~np.isnan(texts[:, 0])
    assert np.corrcoef(served["calm"][there], texts[there, 0])[0, 1] > 0.5
    assert np.corrcoef(served["energy"][there], texts[there, 4])[0, 1] > 0.5
    assert served["mood"].shape == (160, 3) and np.allclose(served["mood"].sum(axis=1), 1.0, atol=1e-5)
    assert ((served["energy"] >= 1) & (served["energy"] <= 5)).all()


def test_unknown_words_are_all_the_same_to_it_and_case_does_not_matter(made: Any, student: Any) -> None:
    video = made.videos[0]
    tags = [("never", "seen"), ("other",), ("fun",), ("FUN",), ("Ünï",), ("ünï",)]
    said = student.score(planted.light(*(dataclasses.replace(video, hashtags=each) for each in tags)))["calm"]
    assert said[0] == pytest.approx(said[1], abs=1e-6)
    assert said[2] == pytest.approx(said[3], abs=1e-6) and said[4] == pytest.approx(said[5], abs=1e-6)
    assert abs(said[0] - said[2]) > 1e-6 and np.isfinite(said).all()
    strange = dataclasses.replace(video, language="xx-unknown", visual_tags=(Tag("quagga", 0.9),) * 50)
    assert np.isfinite(student.score(planted.light(strange))["calm"]).all()


def test_rows_with_a_problem_are_nan_and_their_neighbours_untouched(made: Any, student: Any, served: dict[str, np.ndarray]) -> None:
    bad = dataclasses.replace(made.videos[1], text_embedding=(float("inf"),) + (0.0,) * (planted.TEXT_DIM - 1))
    short = dataclasses.replace(made.videos[1], text_embedding=(0.5,))
    scores = student.score_rows(planted.light(made.videos[0], bad, made.videos[1], short))
    assert [(problem.row, problem.kind) for problem in scores.problems] == [(1, "not_a_number"), (3, "embedding_dimension")]
    for name, values in scores.values.items():
        assert np.isnan(values[[1, 3]]).all() and np.abs(values[[0, 2]] - served[name][:2]).max() < 1e-6


def test_the_signature_itself_never_gives_a_number_for_what_is_not_one(made: Any) -> None:
    import tensorflow as tf

    from features.student.inputs import prepare
    from features.student.scoring import tensors

    spec = made.card.spec
    inputs = tensors(prepare(planted.light(made.videos[0], made.videos[1]), spec).batch, spec.shapes)
    serve = tf.saved_model.load(made.folder).signatures["serving_default"]
    clean = serve(**inputs)
    for name in ("text_embedding", "visual_embedding", "duration_s"):
        for odd in (NAN, float("inf")):
            broken = inputs[name].numpy().copy()
            broken.reshape(2, -1)[1, 0] = odd
            said = serve(**{**inputs, name: tf.constant(broken)})
            for head, values in said.items():
                assert np.isnan(values.numpy()[1]).all(), (name, odd, head)
                assert np.abs(values.numpy()[0] - clean[head].numpy()[0]).max() < 1e-6


def test_no_rows(made: Any, student: Any) -> None:
    none = student.score(planted.light(made.videos[0]).slice(0, 0))
    assert none["calm"].shape == (0,) and none["mood"].shape == (0, 3)


FRESH = """
import json, os, sys
for name in ("tensorflow_transform", "tfx_bsl", "tf_keras", "keras", "apache_beam"):
    sys.modules[name] = None  # whoever imports it gets an ImportError
import pyarrow.parquet as pq
from features.student.scoring import Student
student = Student.load(sys.argv[1])
batch = pq.read_table(sys.argv[2]).combine_chunks().to_batches()[0]
said = {name: values.tolist() for name, values in student.score(batch).items()}
print(json.dumps([student.card.student_id, said]))
"""


def test_a_fresh_process_scores_a_copy_without_anything_of_training(
    made: Any, served: dict[str, np.ndarray], repo_root: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    shutil.copytree(made.folder, tmp_path / "elsewhere")
    pq.write_table(pa.Table.from_batches([planted.light(*made.videos)]), tmp_path / "rows.parquet")
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path / "elsewhere"), str(tmp_path / "rows.parquet")],
        env={**os.environ, "PYTHONPATH": str(repo_root)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    student_id, said = json.loads(done.stdout.splitlines()[-1])
    assert student_id == made.card.student_id == pathlib.Path(made.folder).name
    for name, values in served.items():
        assert np.abs(np.array(said[name]) - values).max() < 1e-6


def test_a_student_that_was_tampered_with_or_torn_is_refused(made: Any, tmp_path: pathlib.Path) -> None:
    from features.student.scoring import Student

    copy = tmp_path / "copy"
    shutil.copytree(made.folder, copy)
    card = json.loads((copy / "student.json").read_text())
    (copy / "student.json").write_text(json.dumps({**card, "student_id": "another"}))
    with pytest.raises(InvalidInput, match="the card says student another"):
        Student.load(str(copy))
    shutil.copy(os.path.join(made.folder, "student.json"), copy)
    words = next((copy / "assets").iterdir())
    words.write_text("changed")
    with pytest.raises(InvalidInput, match=f"assets/{words.name} is missing or differs"):
        Student.load(str(copy))
