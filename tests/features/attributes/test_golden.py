from __future__ import annotations

import csv
import dataclasses
import pathlib
from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.attributes.definition import AttributeDefinition
from features.attributes.golden import Rating, aggregate, golden_annotations, read_ratings
from features.errors import InvalidInput

NOW = datetime(2026, 11, 25, tzinfo=UTC)
CALM = AttributeDefinition("calm", "Calm", "Is it calm?", "Calm is calm.")
MOOD = AttributeDefinition("mood", "Mood", "Which mood?", "A mood.", value_type="category", labels=("Calm", "lively"))
WARMTH = AttributeDefinition("warmth", "Warmth", "How warm?", "Warm.", value_type="score", score_range=(1.0, 5.0))
ALL = (CALM, MOOD, WARMTH)
HEADER = "video_id, attribute, rater_id, value\n"


def write(folder: pathlib.Path, rows: str, name: str = "ratings.csv", header: str = HEADER) -> str:
    (folder / name).write_text(header + rows)
    return str(folder)


def test_each_kind_of_value_is_summed_up_in_its_own_way(tmp_path: pathlib.Path) -> None:
    folder = write(
        tmp_path,
        "v1,calm,ann,true\nv1,calm,ben,YES\nv1,calm,cy,0\nv1,calm,di,1\nv1,calm,ed,true\n"
        "v2,calm,ann,false\nv2,calm,ben,no\nv2,calm,cy,true\n"
        "v3,calm,ann,true\nv3,calm,ben,false\n"
        "v1,mood,ann,calm\nv1,mood,ben,Calm\nv1,mood,cy,lively\n"
        "v2,mood,ann,Calm\nv2,mood,ben,lively\n",
    )
    write(tmp_path, "v1,warmth,ann,4\nv1,warmth,ben,4.5\n\nv1,warmth,cy,2\n", "more.csv")
    found = {(each.video_id, each.attribute): each for each in golden_annotations(folder, ALL, NOW)}
    assert set(found) == {("v1", "calm"), ("v2", "calm"), ("v1", "mood"), ("v1", "warmth")}, "ties are left out"
    calm, not_calm, mood, warmth = (found[key] for key in (("v1", "calm"), ("v2", "calm"), ("v1", "mood"), ("v1", "warmth")))
    assert (calm.value, calm.probability, calm.rationale) == ("true", 0.8, "4 of 5 raters said true")
    assert (not_calm.value, not_calm.probability) == ("false", pytest.approx(1 / 3))
    assert (mood.value, mood.probability) == ("Calm", pytest.approx(2 / 3))
    assert (warmth.value, warmth.probability) == ("3.5", None)
    assert {each.source for each in found.values()} == {"gold"} and calm.annotator == "raters(5)"
    assert calm.definition_hash == CALM.definition_hash and calm.annotated_at == NOW


def test_no_folder_and_an_empty_one_hold_no_ratings(tmp_path: pathlib.Path) -> None:
    assert golden_annotations(str(tmp_path / "none"), ALL, NOW) == []
    assert golden_annotations(str(tmp_path), ALL, NOW) == []


def test_columns_in_any_order_quoted_and_with_notes(tmp_path: pathlib.Path) -> None:
    folder = write(tmp_path, '"a, b",true,x,"said ""yes""",calm\n', header="\ufeffvideo_id,value,rater_id,note,attribute\n")
    assert read_ratings(folder, ALL) == [Rating("a, b", "calm", "x", "true")]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("v1,clam,ann,true", "row 2, attribute: 'clam' is not defined; known are calm, mood, warmth"),
        ("v1,calm,ann,maybe", "row 2, value: 'maybe' is neither true nor false"),
        ("v1,mood,ann,sad", "row 2, value: 'sad' is not a label of 'mood'; known are Calm, lively"),
        ("v1,warmth,ann,6", "row 2, value: '6' is not a number within 1 to 5"),
        ("v1,warmth,ann,nan", "row 2, value: 'nan'"),
        ("v1,warmth,ann,warm", "row 2, value: 'warm'"),
        (",calm,ann,true", "row 2, video_id: is empty"),
        ("v1,calm,,true", "row 2, rater_id: is empty"),
        ("v1,calm,ann", "row 2: 3 fields, the first row has 4"),
        ("v1,calm,ann,true\nv1,calm,ann,false", "row 3, rater_id: 'ann' rated 'calm' of 'v1' already"),
        ('v1,calm,"ann"x,true', "is not CSV"),
        ('v1,calm,"ann,true', "is not CSV"),
    ],
)
def test_a_rating_that_cannot_be_read_is_named(row: str, said: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_ratings(write(tmp_path, row + "\n"), ALL)
    assert "ratings.csv, " in str(caught.value) and said in str(caught.value)


def test_a_rater_may_not_rate_twice_in_two_files(tmp_path: pathlib.Path) -> None:
    write(tmp_path, "v1,calm,ann,true\n", "a.csv")
    with pytest.raises(InvalidInput, match=r"b.csv, row 2, rater_id: .* already \(.*a.csv, row 2\)"):
        read_ratings(write(tmp_path, "v1,calm,ann,true\n", "b.csv"), ALL)


def test_many_problems_are_counted_and_not_all_printed(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_ratings(write(tmp_path, "v,calm,a,perhaps\n" * 50), ALL)
    assert len(str(caught.value).splitlines()) == 21 and str(caught.value).endswith("... and 30 more")


def test_a_file_without_the_columns_or_without_text(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.csv").write_text("video,attribute,rater_id,value\n")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00v")
    (tmp_path / "c.csv").write_text("")
    with pytest.raises(InvalidInput) as caught:
        read_ratings(str(tmp_path), ALL)
    first, second, third = str(caught.value).splitlines()
    assert "row 1: the column 'video_id'" in first and "UTF-8" in second and "'video_id'" in third


ratings = st.lists(
    st.tuples(st.sampled_from(["v1", "v2"]), st.integers(0, 9), st.sampled_from(["true", "false"])),
    unique_by=lambda row: row[:2],
).map(lambda rows: [Rating(video, "calm", str(rater), value) for video, rater, value in rows])


@given(ratings, st.randoms())
def test_the_majority_speaks_whatever_the_order(rows: list[Rating], random: object) -> None:
    found = aggregate(rows, ALL, NOW)
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert aggregate(shuffled, ALL, NOW) == found, "the answer key included"
    for video in ("v1", "v2"):
        counts = Counter(row.value for row in rows if row.video_id == video)
        said = [each for each in found if each.video_id == video]
        if counts["true"] == counts["false"]:
            assert said == []
        else:
            assert said[0].value == max(counts, key=lambda value: counts[value])
            assert said[0].probability == pytest.approx(counts["true"] / counts.total())


def test_a_changed_mind_changes_the_key() -> None:
    one = aggregate([Rating("v", "calm", "a", "true"), Rating("v", "calm", "b", "true")], ALL, NOW)
    other = aggregate([Rating("v", "calm", "a", "true"), Rating("v", "calm", "c", "true")], ALL, NOW)
    assert one[0].answer_key != other[0].answer_key


def test_real_ratings_of_adverts(shared_data: pathlib.Path, tmp_path: pathlib.Path) -> None:
    funny = AttributeDefinition("funny", "Funny", "Is it funny?", "Funny is funny.")
    with open(shared_data / "golden_ads" / "ratings.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["attribute"] == "funny"]
    folder = write(tmp_path, "".join(f"{row['video_id']},funny,{row['rater_slot']},{row['value']}\n" for row in rows))
    found = golden_annotations(folder, (funny,), NOW)
    share = {
        video: Counter(row["value"] for row in rows if row["video_id"] == video) for video in (found[0].video_id, found[9].video_id)
    }
    for each in (found[0], found[9]):
        assert each.probability == pytest.approx(share[each.video_id]["1"] / share[each.video_id].total())
    assert 2700 < len(found) <= 2776


def test_an_edited_definition_gives_gold_a_new_key_so_that_it_is_written_again() -> None:
    other = dataclasses.replace(CALM, definition="Calm is very calm.")
    (before,), (after,) = (aggregate([Rating("v", "calm", "r", "true")], [definition], NOW) for definition in (CALM, other))
    assert before.answer_key != after.answer_key and after.definition_hash == other.definition_hash
