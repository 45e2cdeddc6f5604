from __future__ import annotations

import dataclasses
import json
import pathlib

import pyarrow.parquet as pq
import pytest

from features.annotators.answers_export import export
from features.annotators.protocol import AnnotatorIdentity
from features.annotators.replay import ReplayAnnotator, read_recording
from features.errors import InvalidInput
from tests.features.annotators.answer_stores import ANSWER, stored

ODD = dataclasses.replace(ANSWER, rationale='line\nbreak, "quoted", \u2028 😀', probability=None, moments=(), answered_at=0.0)
LEARNED = AnnotatorIdentity("baseline", "m", "p", "x", (("definition", "golden"),))
ROWS = [stored("a"), stored("b", ODD, LEARNED, video_id="v 2"), stored("c", dataclasses.replace(ANSWER, attribute="funny"))]


def test_a_recording_is_what_the_replay_annotator_reads(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "below" / "recording.jsonl")
    assert export(ROWS, path, "replay") == 3
    found = read_recording(pathlib.Path(path).read_bytes(), path)
    assert found.keys() == {("v1", "calm"), ("v 2", "calm"), ("v1", "funny")}
    plain = {"moments": (), "model": "", "answered_at": 0.0}
    assert found["v1", "calm"] == dataclasses.replace(ANSWER, **plain)
    assert found["v 2", "calm"] == dataclasses.replace(ODD, **plain)
    ReplayAnnotator(path).open()


def test_several_answers_to_a_question_are_no_recording(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "recording.jsonl"
    later = dataclasses.replace(ANSWER, value="false", answered_at=ANSWER.answered_at + 1)
    rows = [stored("d", later, AnnotatorIdentity("llm", "model-2")), *ROWS]
    with pytest.raises(InvalidInput, match=r"'calm' of 'v1' has several answers, of model-2 and model-1: .*--newest"):
        export(rows, str(path), "replay")
    assert list(tmp_path.iterdir()) == [], "nothing half-written"
    assert export(rows, str(path), "replay", newest=True) == 3
    assert read_recording(path.read_bytes(), str(path))["v1", "calm"].value == "false"


def test_every_field_is_exported_both_ways(tmp_path: pathlib.Path) -> None:
    assert export(ROWS, str(tmp_path / "a.jsonl")) == export(ROWS, str(tmp_path / "a.parquet")) == 3
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().split("\n") if line]
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [{**row, "answered_at": row["answered_at"] and row["answered_at"].isoformat()} for row in rows] == lines
    assert lines[0]["moments"] == [{"start_s": 0.5, "end_s": 2.25}, {"start_s": 7.1, "end_s": 7.1}]
    assert (lines[0]["model"], lines[0]["server_model"], lines[0]["answered_at"][:4]) == ("model-1", "model-1-0611", "2025")
    assert lines[1]["own_parameters"] == ["golden"] and lines[1]["rationale"] == ODD.rationale and lines[1]["answered_at"] is None


def test_many_rows_and_none(tmp_path: pathlib.Path) -> None:
    many = (stored(f"{number}") for number in range(25_000))
    assert export(many, str(tmp_path / "a.parquet")) == 25_000
    assert pq.read_table(tmp_path / "a.parquet", columns=["key"]).column("key").to_pylist()[-1] == "24999"
    assert export([], str(tmp_path / "a.parquet")) == 0 and pq.read_table(tmp_path / "a.parquet").num_rows == 0


@pytest.mark.parametrize("path", ["answers.csv", "answers", "gs://bucket/answers.jsonl"])
def test_another_kind_of_file_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput, match=r"FILE\.jsonl or FILE\.parquet"):
        export(ROWS, path)


def test_a_recording_is_jsonl_and_a_place_must_be_writable(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidInput, match="JSON lines"):
        export(ROWS, str(tmp_path / "a.parquet"), "replay")
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot be written"):
        export(ROWS, str(tmp_path / "file" / "a.jsonl"))
