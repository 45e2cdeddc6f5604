from __future__ import annotations

import dataclasses
import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.records import (
    Annotation,
    Counts,
    Failure,
    Frame,
    RunRecord,
    Segment,
    Tag,
    Video,
    VideoFeatures,
    digest,
    from_table,
    named_stats,
    to_table,
)

text = st.text(max_size=40)
times = st.datetimes(min_value=datetime(1990, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC))
small = st.floats(0, 1, width=32)


@given(
    st.builds(
        VideoFeatures,
        *[text] * 4,
        hashtags=st.lists(text, max_size=3).map(tuple),
        published_at=st.none() | times,
        frames=st.lists(st.builds(Frame, small, st.integers(1, 512), st.integers(1, 512), st.binary()), max_size=3).map(tuple),
        visual_stats=st.lists(small, max_size=8).map(tuple),
        visual_tags=st.lists(st.builds(Tag, text, small), max_size=3).map(tuple),
        fingerprints=st.lists(st.binary(min_size=8, max_size=8), max_size=3).map(tuple),
        frame_embeddings=st.lists(st.tuples(small, small), max_size=2).map(tuple),
        speech_segments=st.lists(st.builds(Segment, small, small, text), max_size=2).map(tuple),
        tempo_bpm=st.none() | small,
    )
)
def test_features_survive_a_table(features: VideoFeatures) -> None:
    (read,) = from_table(to_table([features], VideoFeatures), VideoFeatures)
    assert read == features


def test_every_record_has_a_schema_for_exactly_its_fields_and_a_doc_for_each() -> None:
    for kind in (Video, VideoFeatures, Annotation, Failure):
        assert kind.SCHEMA.names == [field.name for field in dataclasses.fields(kind)]
        assert all(field.metadata[b"doc"] for field in kind.SCHEMA)


def test_a_retraction_and_a_missing_number_survive_a_table() -> None:
    row = Annotation("v", "funny", "h", None, None, "", "gold", "raters", "k")
    assert next(from_table(to_table([row], Annotation), Annotation)) == row
    nan = VideoFeatures("v", "h", "k", "x", sound_stats=(math.nan,) * 7)
    (read,) = from_table(to_table([nan], VideoFeatures), VideoFeatures)
    assert all(math.isnan(value) for value in read.sound_stats)


def test_a_required_field_is_refused_when_missing() -> None:
    row = Failure("v", "extract", "kind", None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"Failure\.message is None"):
        to_table([row], Failure)


@given(st.lists(text, max_size=4), st.lists(text, max_size=4))
def test_digests_differ_when_parts_differ(one: list[str], other: list[str]) -> None:
    assert (digest(*one) == digest(*other)) == (one == other)


@given(text, text, text)
def test_content_key_covers_what_is_seen_and_not_where_it_lies(title: str, uri: str, other_uri: str) -> None:
    assert Video("v", uri, title).content_key("h") == Video("w", other_uri, title).content_key("h")
    assert Video("v", uri, title).content_key("h") != Video("v", uri, title + "!").content_key("h")
    assert Video("v", uri, transcript="").text_digest != Video("v", uri, transcript=None).text_digest


@given(*[st.integers(0, 9)] * 5)
def test_counts_that_break_the_law_cannot_be_made(into: int, annotated: int, dead: int, pending: int, reused: int) -> None:
    if into == annotated + dead + pending and reused <= annotated:
        counts = Counts(into, annotated, dead, pending, reused)
        assert Counts.from_dict(counts.as_dict()) == counts
        assert counts.as_dict()["in"] == into
    else:
        with pytest.raises(ValueError, match="law of counts"):
            Counts(into, annotated, dead, pending, reused)


def test_a_run_record_survives_json() -> None:
    now = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    record = RunRecord(
        "r", "extract", now, now, counts=Counts(3, 1, 1, 1), pair_counts=Counts(1, 1, 0, 0, 1), files={"features": ["a"]}
    )
    assert RunRecord.from_json(record.to_json()) == record


def test_stats_get_their_names() -> None:
    assert named_stats(("a", "b"), (1.0, 2.0)) == {"a": 1.0, "b": 2.0}
    assert named_stats(("a", "b"), ()) == {}
    with pytest.raises(ValueError):
        named_stats(("a", "b"), (1.0,))
