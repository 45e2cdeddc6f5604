from __future__ import annotations

import asyncio
import json
import pathlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.annotators.protocol import AnnotationReply, AnnotationRequest
from features.annotators.replay import ReplayAnnotator, read_recording
from features.attributes.definition import AttributeDefinition
from features.errors import InvalidInput
from features.records import VideoFeatures

CALM = AttributeDefinition("calm", "Calm", "Is it calm?", "Calm is calm.")
MOOD = AttributeDefinition("mood", "Mood", "Which mood?", "A mood.", value_type="category", labels=("calm", "lively"))


def record(folder: pathlib.Path, *rows: dict[str, object], name: str = "recording.jsonl") -> str:
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return str(folder / name)


def ask(annotator: ReplayAnnotator, video: str, *definitions: AttributeDefinition) -> AnnotationReply:
    return asyncio.run(annotator.annotate(AnnotationRequest(VideoFeatures(video, "h", "c", "e"), definitions)))


def test_it_says_what_was_recorded_and_counts(tmp_path: pathlib.Path) -> None:
    path = record(
        tmp_path,
        {
            "video_id": "v",
            "attribute": "calm",
            "value": "true",
            "probability": 0.9,
            "rationale": "slow",
            "input_tokens": 7,
            "cost_usd": 1,
        },
        {"video_id": "v", "attribute": "mood", "value": "sad"},
    )
    annotator = ReplayAnnotator(path, call_log=str(tmp_path / "calls"), clock=lambda: 12.0)
    reply = ask(annotator, "v", CALM, MOOD)
    (answer,), (refusal,) = reply.answers, reply.refusals
    assert (answer.value, answer.probability, answer.rationale, answer.input_tokens) == ("true", 0.9, "slow", 7)
    assert answer.answered_at == 12.0 and not answer.reused and answer.cost_usd == 1
    assert refusal.kind == "invalid_value" and "'sad' is none of calm, lively" in refusal.message
    assert ask(annotator, "w", CALM).refusals[0].kind == "not_recorded"
    assert annotator.calls == 2
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert [(call["video_id"], call["attributes"]) for call in calls] == [("v", ["calm", "mood"]), ("w", ["calm"])]


def test_another_recording_is_another_annotator(tmp_path: pathlib.Path) -> None:
    row = {"video_id": "v", "attribute": "calm", "value": "true"}
    one = ReplayAnnotator(record(tmp_path, row)).identity
    other = ReplayAnnotator(record(tmp_path, {**row, "value": "false"}, name="other.jsonl"), source="student").identity
    assert (one.source, other.source) == ("llm", "student")
    assert one.answer_key("c", "d") != other.answer_key("c", "d")


def test_it_travels_to_a_worker(tmp_path: pathlib.Path) -> None:
    annotator = ReplayAnnotator(record(tmp_path, {"video_id": "v", "attribute": "calm", "value": "true"}))
    copy = pickle.loads(pickle.dumps(annotator))
    assert copy.identity == annotator.identity and ask(copy, "v", CALM).answers[0].value == "true"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "Expecting value"),
        ("[1]", "not a JSON object"),
        ('{"video_id": "v", "attribute": "calm"}', "value: None is not a text"),
        ('{"video_id": "v", "attribute": "calm", "value": true}', "value: True is not a text"),
        ('{"video_id": "v", "attribute": "calm", "value": "true", "probability": 1.5}', "not within 0 to 1"),
        ('{"video_id": "v", "attribute": "calm", "value": "true", "probability": NaN}', "not within 0 to 1"),
        ('{"video_id": "v", "attribute": "calm", "value": "true", "probability": "high"}', "not a number"),
        ('{"video_id": "v", "attribute": "calm", "value": "true", "cost_usd": -1}', "cost_usd: -1"),
        ('{"video_id": "v", "attribute": "calm", "value": "true", "input_tokens": 1.5}', "input_tokens: 1.5"),
        ('{"video_id": "v", "attribute": "calm", "value": "true", "reason": "x"}', "unknown field 'reason'"),
        ('{"video_id": "v", "attribute": "calm", "value": "true"}\n' * 2, "recorded already"),
        (b"\xff\xfe", "decode"),
    ],
)
def test_a_line_that_is_no_answer_is_named(line: str | bytes, said: str, tmp_path: pathlib.Path) -> None:
    content = b"\n" + (line if isinstance(line, bytes) else line.encode())
    with pytest.raises(InvalidInput, match=r"r\.jsonl:[23]: ") as caught:
        read_recording(content, "r.jsonl")
    assert said in str(caught.value)


def test_a_recording_that_is_not_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        ReplayAnnotator(str(tmp_path / "none.jsonl")).open()


@given(st.binary(max_size=200))
def test_any_bytes_are_answers_or_a_named_problem(content: bytes) -> None:
    try:
        read_recording(content, "r.jsonl")
    except InvalidInput as error:
        assert str(error).startswith("r.jsonl:")
