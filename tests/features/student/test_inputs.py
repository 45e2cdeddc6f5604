"""What a student sees of a video, and which rows it refuses to look at."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from features.records import Tag, VideoFeatures, to_table
from features.student.inputs import FLOAT_INPUTS, LIGHT_COLUMNS, LONGEST_WORD, MOST_WORDS, InputSpec, infer_spec, prepare
from tests.features.student import planted

SPEC = InputSpec(3, 2)
GOOD = VideoFeatures(
    "v1",
    "hash",
    "key",
    "1",
    duration_s=4.0,
    has_audio=True,
    language="en",
    hashtags=("sea",),
    visual_stats=(0.5,) * 8,
    sound_stats=(0.1,) * 7,
    text_embedding=(1.0, 0.0, 0.0),
    visual_embedding=(0.5, 0.5),
    visual_tags=(Tag("dog", 0.9),),
)


def light(*videos: VideoFeatures) -> pa.RecordBatch:
    table = to_table(videos, VideoFeatures).select(list(LIGHT_COLUMNS))
    return table.combine_chunks().to_batches()[0] if videos else pa.RecordBatch.from_pylist([], schema=table.schema)


def but(**changes: object) -> VideoFeatures:
    return dataclasses.replace(GOOD, **changes)  # type: ignore[arg-type]


def test_missing_embeddings_become_zeros_and_missing_statistics_nan() -> None:
    batch = prepare(light(but(text_embedding=(), visual_embedding=(), visual_stats=(), sound_stats=())), SPEC).batch
    assert batch.column("text_embedding").to_pylist() == [[0.0, 0.0, 0.0]]
    assert batch.column("visual_embedding").to_pylist() == [[0.0, 0.0]]
    assert np.isnan(batch.column("visual_stats").to_pylist()[0]).all() and len(batch.column("sound_stats")[0]) == 7


def test_rows_it_cannot_take_are_named_with_a_reason_and_the_others_stay_in_order() -> None:
    nan, inf = float("nan"), float("inf")
    prepared = prepare(
        light(
            GOOD,
            but(text_embedding=(1.0, 2.0)),
            but(visual_embedding=(0.1, nan)),
            but(visual_stats=(0.5,) * 7 + (inf,)),
            but(duration_s=nan),
            but(sound_stats=(0.1,) * 6),
            but(sound_stats=(nan,) * 7),
            but(text_embedding=(), visual_embedding=(-inf, 1.0)),
        ),
        SPEC,
    )
    assert [(problem.row, problem.kind) for problem in prepared.problems] == [
        (1, "embedding_dimension"),
        (2, "not_a_number"),
        (3, "not_a_number"),
        (4, "not_a_number"),
        (5, "stats_dimension"),
        (7, "not_a_number"),
    ]
    assert "has 2 numbers where the student learned from 3" in prepared.problems[0].message
    assert prepared.rows.tolist() == [0, 6] and prepared.batch.num_rows == 2


def test_words_are_trimmed_bounded_and_empty_ones_left_out() -> None:
    many = tuple(f"tag{number}" for number in range(100))
    batch = prepare(
        light(but(hashtags=("", "  ", " sea ", "x" * 500)), but(hashtags=many, language="", visual_tags=())), SPEC
    ).batch
    assert batch.column("hashtags").to_pylist()[0] == [b"sea", b"x" * LONGEST_WORD]
    assert len(batch.column("hashtags")[1]) == MOST_WORDS
    assert batch.column("language").to_pylist() == [[b"en"], []] and batch.column("visual_tags").to_pylist() == [[b"dog"], []]


def test_no_rows_at_all() -> None:
    prepared = prepare(light(), SPEC)
    assert prepared.batch.num_rows == 0 and not prepared.problems


def test_the_dimension_is_the_commonest_one() -> None:
    batch = light(
        GOOD, but(text_embedding=()), but(text_embedding=(1.0,)), but(text_embedding=(1.0, 2.0, 3.0), visual_embedding=())
    )
    assert infer_spec([batch]) == SPEC
    assert infer_spec([light(but(text_embedding=(), visual_embedding=()))]) == InputSpec(0, 0)


def test_an_embedding_that_training_never_saw_is_refused_and_its_absence_is_not() -> None:
    prepared = prepare(light(but(visual_embedding=()), GOOD), InputSpec(3, 0))
    assert [problem.kind for problem in prepared.problems] == ["embedding_dimension"]
    assert prepared.batch.column("visual_embedding").to_pylist() == [[0.0]]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.text(max_size=4), max_size=4), st.sampled_from([(), (1.0, 2.0, 3.0), (1.0,)]), st.floats(width=32)),
        max_size=6,
    ),
    st.integers(0, 5),
)
def test_a_row_is_prepared_the_same_alone_and_in_any_batch(
    rows: list[tuple[list[str], tuple[float, ...], float]], start: int
) -> None:
    videos = [but(hashtags=tuple(tags), text_embedding=text, duration_s=duration) for tags, text, duration in rows]
    batch = light(*videos)
    whole = prepare(batch, SPEC)
    for place, row in enumerate(whole.rows.tolist()):
        alone = prepare(batch.slice(row, 1), SPEC)
        assert alone.batch.num_rows == 1
        for name in alone.batch.schema.names:
            assert repr(alone.batch.column(name)[0].as_py()) == repr(whole.batch.column(name)[place].as_py())
    assert sorted([*whole.rows.tolist(), *(problem.row for problem in whole.problems)]) == list(range(len(videos)))


def test_a_slice_of_a_larger_batch_is_read_from_its_own_place() -> None:
    rng = np.random.default_rng(5)
    batch = light(*(planted.features(number, rng) for number in range(20)))
    spec = infer_spec([batch])
    part, whole = prepare(batch.slice(7, 6), spec).batch, prepare(batch, spec).batch
    for name in FLOAT_INPUTS:
        assert repr(part.column(name).to_pylist()) == repr(whole.column(name).to_pylist()[7:13])
    assert part.column("hashtags").to_pylist() == whole.column("hashtags").to_pylist()[7:13]
