"""The page a run leaves behind: it says every count, escapes what strangers wrote, and loads nothing."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from features.attributes.definition import AttributeDefinition
from features.errors import InvalidInput
from features.records import Annotation, Counts, Failure, Frame, Moment, RunRecord, Tag, VideoFeatures, to_table
from features.workspace import Workspace
from pipelines import report_contents
from pipelines.report import collect, render, write_report

NOW = datetime(2026, 11, 25, 2, 30, tzinfo=UTC)
COZY = AttributeDefinition("cozy", "Cozy", "Is it cozy?", "Warm and sheltered.")
MOOD = AttributeDefinition("mood", "Mood", "Which mood?", "The mood.", value_type="category", labels=("dark", "bright"))
PACE = AttributeDefinition("pace", "Pace", "How fast?", "The pace.", value_type="score", score_range=(0.0, 10.0))
HOSTILE = "<script>alert('x')</script><img src=http://evil.example/a.png onerror=1>"


def _jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (512, 288), (200, 120, 60)).save(buffer, "JPEG")
    return buffer.getvalue()


def _video(number: int, **changes: object) -> VideoFeatures:
    plain = VideoFeatures(
        f"v{number:03d}",
        "hash",
        "key",
        "1",
        title=f"Clip {number}",
        hashtags=("fire",),
        duration_s=4.2,
        width=512,
        height=288,
        frames=tuple(Frame(float(second), 512, 288, _jpeg()) for second in range(8)),
        visual_tags=(Tag("candle", 0.81),),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def _answer(
    number: int, definition: AttributeDefinition, source: str, value: str, probability: float | None, **changes: object
) -> Annotation:
    answer = Annotation(
        f"v{number:03d}",
        definition.name,
        definition.definition_hash,
        value,
        probability,
        f"because of {source}",
        source,  # type: ignore[arg-type]
        f"{source}-model",
        f"key-{source}",
        annotated_at=NOW,
    )
    return replace(answer, **changes)  # type: ignore[arg-type]


def _workspace(
    root: Path, videos: list[VideoFeatures], answers: list[Annotation], failures: list[Failure]
) -> tuple[Workspace, RunRecord, list[RunRecord]]:
    workspace = Workspace(str(root))
    extract = RunRecord(
        "20261125T023000Z-aaa",
        "extract",
        NOW,
        NOW + timedelta(seconds=75),
        counts=Counts(4321, 4300, 20, 1, 17),
        timings={"decode": 61.5, "total": 75.0},
        peak_memory_bytes=3 * 2**30,
        files={
            "features": [workspace.write_table("features", "a", to_table(videos, VideoFeatures))],
            "failures": [workspace.write_table("failures", "a", to_table(failures, Failure))],
        },
    )
    annotate = RunRecord(
        "20261125T023200Z-bbb",
        "annotate",
        NOW,
        NOW + timedelta(hours=2),
        counts=Counts(4300, 4299, 0, 1),
        pair_counts=Counts(8600, 8555, 33, 12),
        input_tokens=1_234_567,
        cached_input_tokens=765_432,
        output_tokens=98_765,
        cost_usd=12.345,
        files={"annotations": [workspace.write_table("annotations", "b", to_table(answers, Annotation))]},
        details={"notes": ["Remember the milk."]},
    )
    for record in (extract, annotate):
        workspace.commit(record)
    run = RunRecord(
        "20261125T024000Z-ccc",
        "run",
        NOW,
        NOW + timedelta(hours=2),
        counts=Counts(4321, 4288, 20, 13),
        pair_counts=Counts(8642, 8555, 73, 14),
        input_tokens=1_234_567,
        cost_usd=12.345,
        versions={"code": "0.1.0"},
    )
    return workspace, run, [extract, annotate]


class _Page(HTMLParser):
    """Everything in a page that could load or run something, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> _Page:
    videos = [_video(1, title=HOSTILE, transcript=HOSTILE, transcript_source="speech", hashtags=(HOSTILE,), creator_id=HOSTILE)]
    videos += [_video(number) for number in range(2, 9)]
    videos[2] = _video(3, frames=(Frame(0.0, 9, 9, b"no picture"),))
    answers = [_answer(1, COZY, "baseline", "true", 0.9, rationale=HOSTILE), _answer(1, COZY, "gold", "false", 0.0)]
    for number in range(2, 9):
        answers.append(_answer(number, COZY, "baseline", "true", 0.1 * number))
        answers.append(_answer(number, COZY, "student", "true", 0.1 * number + 0.05, teacher="baseline"))
    answers += [
        _answer(2, MOOD, "llm", "bright", 0.7, moments=(Moment(2.6, 3.6), Moment(0.0, 0.4))),
        _answer(2, PACE, "llm", "7.5", None),
    ]
    answers += [_answer(4, PACE, "llm", "99", None), _answer(5, MOOD, "oracle", "bright", 1.0)]
    failures = [
        Failure("v099", "extract", "not_a_video", f"v099.mp4: {HOSTILE}; upload it again", attempts=2, failed_at=NOW),
        Failure("v098", "extract", "timed_out", "took more than 60 s", failed_at=NOW),
        Failure("v097", "extract", "timed_out", "took more than 60 s", failed_at=NOW),
    ]
    root = tmp_path_factory.mktemp("report")
    workspace, run, stages = _workspace(root, videos, answers, failures)
    path = root / "reports" / "run.html"
    write_report(str(path), collect(workspace, run, stages, (COZY, MOOD, PACE), next_command="vidattr get v001 && echo <ok>"))
    html = path.read_text(encoding="utf-8")
    assert HOSTILE not in html and "<script" not in html
    return _Page(html)


def test_strangers_words_are_only_text(page: _Page) -> None:
    assert HOSTILE in page.words
    assert "script" not in page.tags and not {name for _, name, _ in page.attributes if name.startswith("on")}


def test_the_page_loads_nothing(page: _Page) -> None:
    for _, name, value in page.attributes:
        if name in ("src", "href", "action", "data", "poster", "srcset"):
            assert value.startswith(("data:image/jpeg;base64,", "#")), value[:80]
        if name == "style":
            assert "url(" not in value
    assert not {"link", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    policy = next(value for tag, name, value in page.attributes if tag == "meta" and "default-src" in value)
    assert "default-src 'none'" in policy


def test_every_count_cost_and_time_is_on_the_page(page: _Page) -> None:
    for figure in (
        *("4,321", "4,288", "20", "13", "8,642", "8,555", "73", "14"),
        *("4,300", "17", "4,299", "8,600 pairs", "33 pairs", "12 pairs"),
        *("1,234,567", "98,765", "$12.35", "1 min 15 s", "decode 1 min 02 s", "2 h 00 min", "3.00 GiB"),
        *("Remember the milk.", "vidattr get v001 && echo <ok>", "20261125T024000Z-ccc", "0.1.0"),
    ):
        assert figure in page.words, figure


def test_dead_letters_are_listed_with_their_reason(page: _Page) -> None:
    for words in (
        "v099",
        "not_a_video",
        "upload it again",
        "(2 attempts)",
        "extract: timed_out 2",
        "3 dead letters were written",
    ):
        assert words in page.words


def test_the_more_trusted_answer_speaks_and_the_others_are_quoted(page: _Page) -> None:
    first = page.words[page.words.index("Videos All 8 videos") :]
    assert first.index("because of gold") < first.index("baseline-model")
    assert "taught by baseline" in first and "bright" in first and "7.5" in first and "candle 81 %" in first
    assert "no frames" in first
    images = [
        value for tag, name, value in page.attributes if tag == "img" and name == "alt" and not value.startswith("the frame at")
    ]
    assert len(images) == 7 * report_contents.FRAMES_SHOWN and all(images)


def test_the_seconds_that_carry_a_verdict_are_shown_with_the_nearest_frame(page: _Page) -> None:
    pictures = [value for tag, name, value in page.attributes if (tag, name) == ("img", "alt") and value.startswith("the frame at")]
    assert pictures == ["the frame at 3.0 seconds", "the frame at 0.0 seconds"]
    assert "2.6\u20133.6 s" in page.words and "0.0\u20130.4 s" in page.words


def test_figures_against_an_independent_count(tmp_path: Path) -> None:
    videos = [_video(number, frames=()) for number in range(10)]
    answers = []
    for number in range(10):
        answers.append(_answer(number, COZY, "llm", "true", number / 10))
        answers.append(_answer(number, COZY, "student", "true", (number + 2) / 12, teacher="llm"))
    answers.append(_answer(0, COZY, "gold", "true", 1.0))
    answers.append(_answer(1, COZY, "llm", "true", 0.95, definition_hash="older", annotated_at=NOW + timedelta(days=1)))
    workspace, run, stages = _workspace(tmp_path, videos, answers, [])
    document = collect(workspace, run, stages, (COZY,), limit=4)
    (spread,) = document.distributions
    believed = [1.0, *(number / 10 for number in range(1, 10))]
    assert spread.videos == 10 and spread.present == sum(value >= 0.5 for value in believed)
    assert spread.by_source == {"gold": 1, "llm": 9}
    assert [sum(counted.values()) for _, counted in spread.bins] == [0, 1, 1, 1, 1, 1, 1, 1, 1, 2]
    (pair,) = document.teacher_student
    pairs = [(number / 10, (number + 2) / 12) for number in range(10)]
    assert pair.pairs == 10 and pair.teacher == "llm"
    assert pair.agreement == pytest.approx(sum((a >= 0.5) == (b >= 0.5) for a, b in pairs) / 10)
    assert pair.mean_difference == pytest.approx(sum(abs(a - b) for a, b in pairs) / 10, abs=1e-6)
    assert len(document.videos) == 4 and document.videos_in_workspace == 10
    assert "4 of the 10 videos in the workspace" in _Page(render(document)).words
    assert document == collect(workspace, run, stages, (COZY,), limit=4)


def test_many_videos_are_sampled_and_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_contents, "MAX_STATISTICS_VIDEOS", 400)
    answers = [_answer(number, COZY, "llm", "true", float(number % 10 < 3)) for number in range(6000)]
    failures = [Failure(f"x{number}", "extract", "timed_out", "slow") for number in range(500)]
    workspace, run, stages = _workspace(tmp_path, [_video(1, frames=())], answers, failures)
    document = collect(workspace, run, stages, (COZY,))
    (spread,) = document.distributions
    assert 150 < spread.videos <= 400 and abs(spread.present / spread.videos - 0.3) < 0.1
    assert document.statistics_share == pytest.approx(spread.videos / 6000, rel=0.35)
    assert document.failures_total == 500 and len(document.failures) == report_contents.MAX_FAILURES
    words = _Page(render(document)).words
    assert "% of the answered videos" in words and "the first 200 are listed" in words


def test_nothing_at_all_still_makes_a_page(tmp_path: Path) -> None:
    run = RunRecord("20261125T024000Z-ddd", "run", NOW, NOW)
    path = tmp_path / "reports" / "empty.html"
    write_report(str(path), collect(Workspace(str(tmp_path)), run, [], ()))
    words = _Page(path.read_text(encoding="utf-8")).words
    for sentence in ("No stage ran.", "No video has features yet.", "No attribute was asked about.", "Dead letters None."):
        assert sentence in words
    write_report(str(path), collect(Workspace(str(tmp_path)), run, [run], (COZY,)))
    assert "No answers yet." in path.read_text(encoding="utf-8")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    run = RunRecord("20261125T024000Z-ddd", "run", NOW, NOW)
    with pytest.raises(InvalidInput, match="cannot be written"):
        write_report(str(tmp_path / "file" / "report.html"), collect(Workspace(str(tmp_path)), run, [], ()))
