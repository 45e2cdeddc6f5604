"""What the page about a run says, read from the workspace file by file and never more than a bounded part of it."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from features import storage
from features.attributes.definition import AttributeDefinition
from features.errors import Permanent
from features.records import Annotation, Failure, Frame, Moment, RunRecord, Source, VideoFeatures, from_table
from features.serving.resolution import believed, checked_number, outdated
from features.workspace import Workspace, trusted_seconds

MAX_CARDS = 60
MAX_STATISTICS_VIDEOS = 10_000
"""Distributions are computed on at most so many videos, drawn by a hash of their ids: shares are right to about a point."""
MAX_FAILURES = 200
MAX_POINTS = 300
FRAMES_SHOWN = 4
SOURCES: tuple[str, ...] = get_args(Source)
FRAME_SIDE = 256
MOMENT_SIDE = 160
BINS = 10
_BATCH = 4096
_STATISTICS_COLUMNS = (
    "video_id", "attribute", "definition_hash", "value", "probability", "source", "annotator", "answer_key", "teacher",
    "content_key", "annotated_at",
)  # fmt: skip
_CARD_COLUMNS = (
    "video_id", "title", "description", "hashtags", "creator_id", "duration_s", "width", "height", "transcript",
    "transcript_source", "visual_tags", "frames", "content_hash", "content_key", "extractor_version", "extracted_at",
)  # fmt: skip

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class ShownMoment:
    """Seconds that carry a verdict, with the small still that lies nearest to their middle, if there is one."""

    start_s: float
    end_s: float
    frame: Frame | None


@dataclass(frozen=True)
class Opinion:
    """What one source says about one attribute of one video.

    Attributes:
        number: as `AttributeDefinition.number` gives it.
        bar: how long its bar is, 0 to 1; None where a bar says nothing (a category).
        present: boolean: at or above the serving threshold; else None.
        moments: where to look.
    """

    attribute: str
    title: str
    value: str
    number: float
    probability: float | None
    bar: float | None
    present: bool | None
    source: str
    teacher: str
    annotator: str
    rationale: str
    stale: bool
    moments: tuple[ShownMoment, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Who is believed about one attribute, and what the others say."""

    said: Opinion
    others: tuple[Opinion, ...] = ()


@dataclass(frozen=True)
class VideoCard:
    """One video as the page shows it; `frames` are small JPEGs."""

    video_id: str
    title: str
    description: str
    hashtags: tuple[str, ...]
    creator_id: str
    duration_s: float
    width: int
    height: int
    transcript: str
    transcript_source: str
    tags: tuple[tuple[str, float], ...]
    frames: tuple[Frame, ...]
    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True)
class Distribution:
    """How the answers about one attribute are spread.

    Attributes:
        videos: with a believed answer.
        bins: for each bar its label and the videos in it by source. Boolean: probability in tenths; score: its range in tenths;
            category: one bar a label.
        present: boolean: videos at or above `threshold`.
        by_source: videos by who is believed.
    """

    attribute: str
    title: str
    value_type: Literal["boolean", "category", "score"]
    threshold: float
    videos: int
    bins: tuple[tuple[str, dict[str, int]], ...]
    present: int
    by_source: dict[str, int]

    @property
    def highest(self) -> int:
        """Videos in the tallest bar, at least 1."""
        return max([1, *(sum(bin_.values()) for _, bin_ in self.bins)])


@dataclass(frozen=True)
class TeacherStudent:
    """A student against its teacher on the videos that both answered, the student's training videos among them.

    Attributes:
        pairs: videos that both answered.
        agreement: share of equal decisions (boolean: same side of the threshold; category: same label); None for a score.
        mean_difference: mean absolute difference of the two numbers; None for a category.
        points: teacher's and student's number on a 0 to 1 scale, at most MAX_POINTS.
        held_out: the student's own figures from the distill run, empty when there are none.
    """

    attribute: str
    title: str
    teacher: str
    pairs: int
    agreement: float | None
    mean_difference: float | None
    points: tuple[tuple[float, float], ...]
    held_out: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunReport:
    """All that the page says.

    Attributes:
        stages: in the order they ran.
        videos: at most MAX_CARDS cards.
        videos_in_workspace: with features.
        statistics_share: on which share of the workspace's answered videos the distributions stand, 0 to 1.
        failures: at most MAX_FAILURES of this run's `failures_total` dead letters, `failure_kinds` counting all of them.
        notes: sentences for a person.
    """

    run: RunRecord
    workspace: str
    stages: tuple[RunRecord, ...]
    videos: tuple[VideoCard, ...] = ()
    videos_in_workspace: int = 0
    distributions: tuple[Distribution, ...] = ()
    statistics_share: float = 1.0
    teacher_student: tuple[TeacherStudent, ...] = ()
    failures: tuple[Failure, ...] = ()
    failures_total: int = 0
    failure_kinds: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    next_command: str = ""


def collect(
    workspace: Workspace,
    run: RunRecord,
    stages: Sequence[RunRecord],
    definitions: Sequence[AttributeDefinition],
    limit: int = MAX_CARDS,
    next_command: str = "",
) -> RunReport:
    """Reads what the page of a run needs. A pure reader: it writes nothing, and memory stays bounded.

    Args:
        run: the run the page is about; it need not be committed yet.
        stages: the records of its stages.
        definitions: the attributes to show, in this order.
        limit: cards at most.
        next_command: what to type next.
    """
    answers, share = _sampled_answers(workspace, definitions)
    keys = _content_keys(workspace, answers)
    chosen, videos = _choose(workspace, answers, limit)
    failures, kinds = _failures(workspace, (run, *stages))
    held_out = {name: value for stage in stages for name, value in _held_out(stage).items()}
    return RunReport(
        run=run,
        workspace=workspace.root,
        stages=tuple(stages),
        videos=_cards(workspace, chosen, definitions),
        videos_in_workspace=videos,
        distributions=tuple(_distribution(answers, definition, keys) for definition in definitions),
        statistics_share=share,
        teacher_student=tuple(
            _teacher_student(answers, definition, keys, held_out.get(definition.name, {})) for definition in definitions
        ),
        failures=tuple(failures),
        failures_total=sum(kinds.values()),
        failure_kinds=dict(sorted(kinds.items())),
        notes=_notes(run, stages),
        next_command=next_command,
    )


def _notes(run: RunRecord, stages: Sequence[RunRecord]) -> tuple[str, ...]:
    found = [str(note) for record in (run, *stages) for note in record.details.get("notes", ())]
    return tuple(dict.fromkeys(found))


def _held_out(stage: RunRecord) -> dict[str, dict[str, Any]]:
    metrics = stage.details.get("metrics")
    figures = metrics.get("attributes") if isinstance(metrics, dict) else None
    return {name: value for name, value in figures.items() if isinstance(value, dict)} if isinstance(figures, dict) else {}


def _batches(path: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    source = io.BytesIO(storage.read_bytes(path)) if storage.is_gcs(path) else path
    with pq.ParquetFile(source) as file:
        yield from file.iter_batches(_BATCH if "frames" not in columns else 32, columns=list(columns))


def _hashes(batch: pa.RecordBatch) -> Hashes:
    """A number for each video id, the same on every machine and unrelated to anything about the video."""
    ids = batch.column("video_id").to_numpy(zero_copy_only=False)
    return np.asarray(pd.util.hash_array(np.asarray(ids, dtype=object), categorize=False), np.uint64)


Answers = dict[str, list[Annotation]]


def _sampled_answers(workspace: Workspace, definitions: Sequence[AttributeDefinition]) -> tuple[Answers, float]:
    """Every answer about at most MAX_STATISTICS_VIDEOS videos, those of the lowest hashes, and which share of all that is."""
    names = pa.array([definition.name for definition in definitions], pa.string())
    ceiling, full = np.uint64(2**64 - 1), float(2**64)
    kept: Answers = {}
    hash_of: dict[str, np.uint64] = {}
    for file in workspace.files("annotations"):
        for batch in _batches(file.path, _STATISTICS_COLUMNS):
            hashes = _hashes(batch)
            wanted = (hashes <= ceiling) & pc.is_in(batch.column("attribute"), names).to_numpy(zero_copy_only=False)
            rows = batch.filter(pa.array(wanted))
            rows = rows.append_column("rationale", pa.array([""] * rows.num_rows, pa.string()))
            for row, number in zip(from_table(rows, Annotation), hashes[wanted], strict=True):
                kept.setdefault(row.video_id, []).append(row)
                hash_of[row.video_id] = number
            if len(kept) > MAX_STATISTICS_VIDEOS:
                ceiling = np.uint64(np.sort(np.fromiter(hash_of.values(), np.uint64))[MAX_STATISTICS_VIDEOS // 2])
                for video_id in [video_id for video_id, number in hash_of.items() if number > ceiling]:
                    del kept[video_id], hash_of[video_id]
    return kept, (float(ceiling) + 1) / full if ceiling < 2**64 - 1 else 1.0


def _choose(workspace: Workspace, answers: Answers, limit: int) -> tuple[list[str], int]:
    """Which videos get a card (answered ones first, then by hash), and how many have features at all."""
    known: Hashes = np.empty(0, np.uint64)
    best: dict[str, tuple[bool, int]] = {}
    for file in workspace.files("features"):
        hashes_of_file = [known]
        for batch in _batches(file.path, ("video_id",)):
            hashes = _hashes(batch)
            hashes_of_file.append(hashes)
            for video_id, number in zip(batch.column("video_id").to_pylist(), hashes.tolist(), strict=True):
                best[video_id] = (video_id not in answers, number)
            if len(best) > limit:
                best = dict(sorted(best.items(), key=lambda item: item[1])[:limit])
        known = np.unique(np.concatenate(hashes_of_file))
    return sorted(best), len(known)


def _only(
    workspace: Workspace, table: Literal["features", "annotations"], columns: Sequence[str], ids: pa.Array
) -> Iterator[pa.RecordBatch]:
    for file in workspace.files(table):
        for batch in _batches(file.path, columns):
            rows = batch.filter(pc.is_in(batch.column("video_id"), ids))
            if rows.num_rows:
                yield rows


def _cards(workspace: Workspace, chosen: list[str], definitions: Sequence[AttributeDefinition]) -> tuple[VideoCard, ...]:
    ids = pa.array(chosen, pa.string())
    answers: Answers = {}
    for batch in _only(workspace, "annotations", Annotation.SCHEMA.names, ids):
        for answer in from_table(batch, Annotation):
            answers.setdefault(answer.video_id, []).append(answer)
    cards: dict[str, VideoCard] = {}
    newest: dict[str, float] = {}
    for batch in _only(workspace, "features", _CARD_COLUMNS, ids):
        for row in from_table(batch, VideoFeatures):
            when = trusted_seconds(row.extracted_at)
            if when < newest.setdefault(row.video_id, when):
                continue
            newest[row.video_id] = when
            cards[row.video_id] = VideoCard(
                video_id=row.video_id,
                title=row.title,
                description=row.description,
                hashtags=row.hashtags,
                creator_id=row.creator_id,
                duration_s=row.duration_s,
                width=row.width,
                height=row.height,
                transcript=row.transcript,
                transcript_source=row.transcript_source,
                tags=tuple((tag.name, tag.probability) for tag in row.visual_tags[:6]),
                frames=_small(row.frames),
                verdicts=_verdicts(answers.get(row.video_id, []), definitions, row.content_key, row.frames),
            )
    return tuple(cards[video_id] for video_id in chosen if video_id in cards)


def _small(frames: Sequence[Frame]) -> tuple[Frame, ...]:
    """A few frames across the clip, made small enough for a page; one that does not decode is left out."""
    places = np.linspace(0, len(frames) - 1, min(len(frames), FRAMES_SHOWN)).round().astype(int).tolist()
    shown = (_smaller(frames[place], FRAME_SIDE) for place in places)
    return tuple(frame for frame in shown if frame is not None)


def _smaller(frame: Frame, side: int) -> Frame | None:
    """A frame of at most `side` pixels; None when it does not decode."""
    try:
        with Image.open(io.BytesIO(frame.jpeg), formats=("JPEG",)) as picture:
            picture.draft("RGB", (side, side))
            picture.thumbnail((side, side))
            buffer = io.BytesIO()
            picture.convert("RGB").save(buffer, "JPEG", quality=74)
            return Frame(frame.timestamp_s, picture.width, picture.height, buffer.getvalue())
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _moments(moments: Sequence[Moment], frames: Sequence[Frame]) -> tuple[ShownMoment, ...]:
    shown = []
    for moment in moments:
        middle = (moment.start_s + moment.end_s) / 2
        nearest = min(frames, key=lambda frame: abs(frame.timestamp_s - middle), default=None)
        shown.append(ShownMoment(moment.start_s, moment.end_s, nearest and _smaller(nearest, MOMENT_SIDE)))
    return tuple(shown)


def _valid(answers: Sequence[Annotation], definition: AttributeDefinition, content_key: str) -> Iterator[tuple[Annotation, float]]:
    """Valid opinions about one attribute with their numbers, the one to believe first. `content_key`: of the newest features."""
    known = [answer for answer in answers if answer.attribute == definition.name and answer.source in SOURCES]
    for answer in believed(known, definition, content_key):
        try:
            yield answer, checked_number(definition, answer)
        except Permanent:
            continue  # a refused opinion is a dead letter of the materialize stage and is listed as one


def _scaled(definition: AttributeDefinition, number: float) -> float:
    """A number on a scale from 0 to 1."""
    if definition.value_type == "score":
        assert definition.score_range is not None
        low, high = definition.score_range
        return (number - low) / (high - low) if high > low else 0.0
    return number / max(len(definition.labels) - 1, 1) if definition.value_type == "category" else number


def _opinion(answer: Annotation, number: float, definition: AttributeDefinition, frames: Sequence[Frame] = ()) -> Opinion:
    boolean = definition.value_type == "boolean"
    return Opinion(
        attribute=definition.name,
        title=definition.title or definition.name,
        value=answer.value or "",
        number=number,
        probability=answer.probability,
        bar=None if definition.value_type == "category" else _scaled(definition, number),
        present=number >= definition.serving_threshold if boolean else None,
        source=answer.source,
        teacher=answer.teacher,
        annotator=f"{answer.annotator}, asked about {answer.carried_from}" if answer.carried_from else answer.annotator,
        rationale=answer.rationale,
        stale=answer.definition_hash != definition.definition_hash,
        moments=_moments(answer.moments, frames),
    )


def _verdicts(
    answers: Sequence[Annotation], definitions: Sequence[AttributeDefinition], content_key: str, frames: Sequence[Frame] = ()
) -> tuple[Verdict, ...]:
    found = []
    for definition in definitions:
        opinions = [_opinion(answer, number, definition, frames) for answer, number in _valid(answers, definition, content_key)]
        if opinions:
            found.append(Verdict(opinions[0], tuple(opinions[1:])))
    return tuple(sorted(found, key=lambda verdict: (verdict.said.present is False, -(verdict.said.bar or 0.0))))


def _content_keys(workspace: Workspace, wanted: Answers) -> dict[str, str]:
    """The content key of the newest features of each video in `wanted` that has any."""
    newest: dict[str, tuple[float, str]] = {}
    for file in workspace.files("features"):
        for batch in _batches(file.path, ("video_id", "content_key", "extracted_at")):
            for row in batch.to_pylist():
                if row["video_id"] in wanted:
                    found = trusted_seconds(row["extracted_at"]), row["content_key"]
                    newest[row["video_id"]] = max(found, newest.get(row["video_id"], found))
    return {video_id: key for video_id, (_, key) in newest.items()}


def _distribution(answers: Answers, definition: AttributeDefinition, keys: Mapping[str, str]) -> Distribution:
    bins: list[Counter[str]]
    if definition.value_type == "category":
        names = list(definition.labels)
    else:
        low, high = definition.score_range or (0.0, 1.0)
        edges = np.linspace(low, high, BINS + 1)
        names = [f"{begin:.3g} to {end:.3g}" for begin, end in pairwise(edges)]
    bins = [Counter() for _ in names]
    present, by_source = 0, Counter[str]()
    for video_id, rows in answers.items():
        answer, number = next(_valid(rows, definition, keys.get(video_id, "")), (None, 0.0))
        if answer is None:
            continue
        place = (
            int(number) if definition.value_type == "category" else min(int(_scaled(definition, number) * BINS + 1e-6), BINS - 1)
        )  # 0.7 is stored as 0.69999999
        bins[place][answer.source] += 1
        by_source[answer.source] += 1
        present += definition.value_type == "boolean" and number >= definition.serving_threshold
    return Distribution(
        attribute=definition.name,
        title=definition.title or definition.name,
        value_type=definition.value_type,
        threshold=definition.serving_threshold,
        videos=sum(by_source.values()),
        bins=tuple((name, dict(counted)) for name, counted in zip(names, bins, strict=True)),
        present=present,
        by_source=dict(by_source),
    )


def _teacher_student(
    answers: Answers, definition: AttributeDefinition, keys: Mapping[str, str], held_out: dict[str, Any]
) -> TeacherStudent:
    pairs: list[tuple[float, float]] = []
    teachers: Counter[str] = Counter()
    for video_id, rows in sorted(answers.items()):
        key = keys.get(video_id, "")
        opinions = [pair for pair in _valid(rows, definition, key) if not outdated(pair[0], definition, key)]
        student = next(((answer, number) for answer, number in opinions if answer.source == "student"), None)
        if student is None:
            continue
        taught = next((number for answer, number in opinions if answer.source == student[0].teacher), None)
        if taught is not None:
            teachers[student[0].teacher] += 1
            pairs.append((taught, student[1]))
    agreement = difference = None
    if pairs:
        teacher, said = np.array(pairs).T
        if definition.value_type == "boolean":
            agreement = float(((teacher >= definition.serving_threshold) == (said >= definition.serving_threshold)).mean())
        elif definition.value_type == "category":
            agreement = float((teacher == said).mean())
        if definition.value_type != "category":
            difference = float(np.abs(teacher - said).mean())
    step = max(len(pairs) // MAX_POINTS, 1)
    points = tuple((_scaled(definition, taught), _scaled(definition, said_)) for taught, said_ in pairs[::step][:MAX_POINTS])
    return TeacherStudent(
        attribute=definition.name,
        title=definition.title or definition.name,
        teacher=" and ".join(sorted(teachers)),
        pairs=len(pairs),
        agreement=agreement,
        mean_difference=difference,
        points=points,
        held_out=held_out,
    )


def _failures(workspace: Workspace, records: Sequence[RunRecord]) -> tuple[list[Failure], Counter[str]]:
    """The first dead letters of these runs, and how many there are of each stage and kind."""
    paths = dict.fromkeys(workspace.path(relative) for record in records for relative in record.files.get("failures", ()))
    shown: list[Failure] = []
    kinds: Counter[str] = Counter()
    for path in paths:
        for batch in _batches(path, Failure.SCHEMA.names):
            for stage, kind in zip(batch.column("stage").to_pylist(), batch.column("kind").to_pylist(), strict=True):
                kinds[f"{stage}: {kind}"] += 1
            shown += from_table(batch.slice(0, max(MAX_FAILURES - len(shown), 0)), Failure)
    return shown, kinds
