"""Stage 4: features and a student -> annotations, in bulk. Pairs whose newest answer is this student's already are left alone.

Only ids, keys and file names are shuffled. The light columns are read by the worker that scores them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import AsSingleton, TaggedOutput
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from features.attributes.definition import AttributeDefinition
from features.errors import InvalidInput
from features.records import Annotation, Failure, RunRecord, digest
from features.student.card import StudentCard, latest_student, read_card
from features.student.inputs import LIGHT_COLUMNS, LIGHT_SCHEMA, Integers, Mask, Problem
from features.student.labels import Head
from features.workspace import Workspace, read_parquet
from pipelines import stopping
from pipelines.counters import count
from pipelines.io import CommitRun, IndexFeatures, ReadColumns, WriteTable, at_bundle_end, finish, tallies, to_batch
from pipelines.options import RunHeader, check_place, make_pipeline

if TYPE_CHECKING:
    from features.student.scoring import Scores, Student

STAGE = "score"
ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class ScoreConfig:
    """What to score with whom.

    Attributes:
        workspace: where features are read, and annotations, failures and the run record go.
        student: a student's folder, local or gs://; empty: what the newest distill run made.
        definitions: the current ones: a head that learned another version of its definition is left out. Empty: all heads.
    """

    workspace: Workspace
    student: str = ""
    definitions: tuple[AttributeDefinition, ...] = ()
    header: RunHeader = field(default_factory=RunHeader)


def answer_key(content_key: str, student_id: str, attribute: str) -> str:
    """Law 2 for a student: the same content, student and attribute are never scored twice."""
    return digest(content_key, student_id, attribute)


def current_heads(card: StudentCard, definitions: Sequence[AttributeDefinition]) -> list[Head]:
    """The heads to score. Raises InvalidInput when none of them answers a current definition."""
    hashes = {definition.name: definition.definition_hash for definition in definitions}
    heads = [head for head in card.heads if not definitions or hashes.get(head.attribute) == head.definition_hash]
    if not heads:
        raise InvalidInput(f"student {card.student_id} knows no attribute as it is defined now: run `vidattr distill` again")
    return heads


def index_answers(_: str, batch: pa.RecordBatch) -> Iterator[tuple[str, str]]:
    """(video id, a student's known answers as JSON), one element a video of an annotations file."""
    known: dict[str, list[list[Any]]] = {}
    for row in batch.filter(pc.equal(batch.column("source"), "student")).to_pylist():
        known.setdefault(row["video_id"], []).append(
            [row["annotated_at"].timestamp(), row["attribute"], row["teacher"], row["answer_key"]]
        )
    for video_id, answers in known.items():
        yield video_id, json.dumps(answers)


class PlanFn(beam.DoFn):
    """Finds out what is not scored yet; main output: (features file, [video id, attributes, how many are reused] as JSON)."""

    def __init__(self, definitions: tuple[AttributeDefinition, ...]) -> None:
        self._definitions = definitions
        self._heads: dict[str, tuple[StudentCard, list[Head]]] = {}

    def process(self, element: tuple[str, dict[str, Iterable[str]]], folder: str) -> Iterator[Any]:
        if folder not in self._heads:
            card = read_card(folder)
            self._heads[folder] = card, current_heads(card, self._definitions)
        card, heads = self._heads[folder]
        video_id, groups = element
        places = [json.loads(text) for text in groups["features"]]
        if not places:
            return
        _, path, content_key = max(places)
        known = sorted(answer for text in groups["answers"] for answer in json.loads(text))
        newest = {(attribute, teacher): key for _, attribute, teacher, key in known}
        asked = [
            head.attribute
            for head in heads
            if newest.get((head.attribute, head.teacher)) != answer_key(content_key, card.student_id, head.attribute)
        ]
        reused = len(heads) - len(asked)
        count(STAGE, "reused", reused)
        yield from tallies({"video/in": 1, "pair/in": len(heads), "pair/reused": reused})
        if asked:
            yield path, json.dumps([video_id, asked, reused])
        else:
            yield TaggedOutput("tallies", ("video/reused", 1))


class ScoreFn(beam.DoFn):
    """Scores; main output: RecordBatches of Annotations. Tagged outputs: `failures` and `tallies`.

    Files are small where they hold pictures, so rows of several are scored together.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._shared = Shared()

    def start_bundle(self) -> None:
        self._waiting: list[pa.Table] = []
        self._wanted: list[tuple[list[str], int]] = []
        self._folder = ""

    def process(self, element: tuple[str, Iterable[str]], folder: str) -> Iterator[Any]:
        path, questions = element
        wanted = {video_id: (attributes, reused) for video_id, attributes, reused in map(json.loads, questions)}
        if stopping.requested():
            pairs = sum(len(attributes) for attributes, _ in wanted.values())
            count(STAGE, "pending", pairs)
            yield from tallies({"video/pending": len(wanted), "pair/pending": pairs})
            return
        self._folder = folder
        table = read_parquet(path, LIGHT_COLUMNS).select(list(LIGHT_COLUMNS)).cast(LIGHT_SCHEMA)
        rows = {video_id: row for row, video_id in enumerate(table["video_id"].to_pylist()) if video_id in wanted}
        self._waiting.append(table.take(pa.array(list(rows.values()), pa.int64())))
        self._wanted += [wanted[video_id] for video_id in rows]
        if len(self._wanted) >= ROWS_AT_ONCE:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield from at_bundle_end(self._flush())

    def _flush(self) -> Iterator[Any]:
        if not self._wanted:
            return
        self._student = student = self._shared.acquire(lambda: _load(self._folder), tag=self._folder)
        table = pa.concat_tables(self._waiting).combine_chunks()
        asked = np.array([[head.attribute in names for head in student.card.heads] for names, _ in self._wanted], np.bool_)
        reused = np.array([number for _, number in self._wanted])
        self._waiting, self._wanted = [], []
        done = 0
        for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
            part = slice(done, done + batch.num_rows)
            yield from self._score(student, batch, asked[part], reused[part])
            done += batch.num_rows

    def _score(self, student: Student, batch: pa.RecordBatch, asked: Mask, reused: Integers) -> Iterator[Any]:
        scores = student.score_rows(batch)
        now = datetime.now(UTC)
        bad = [problem.row for problem in scores.problems]
        if bad:
            yield TaggedOutput("failures", dead_letters(batch, scores.problems, now, self._run_id))
        dead_pairs = int(asked[bad].sum())
        asked[bad] = False
        annotations = to_annotations(student.card, scores, batch, asked, now, self._run_id)
        if annotations.num_rows:
            yield annotations
        pairs = {"annotated": annotations.num_rows, "dead_lettered": dead_pairs}
        for name, amount in pairs.items():
            count(STAGE, name, amount)
        yield from tallies({f"pair/{name}": amount for name, amount in pairs.items()})
        lost = int((reused[bad] == 0).sum())
        yield from tallies(
            {"video/annotated": batch.num_rows - len(bad), "video/dead_lettered": lost, "video/reused": len(bad) - lost}
        )
        for problem in scores.problems:
            yield TaggedOutput("tallies", (f"kind/{problem.kind}", 1))


def dead_letters(batch: pa.RecordBatch, problems: Sequence[Problem], now: datetime, run_id: str) -> pa.RecordBatch:
    """One Failure for each row that was not scored."""
    ids, keys = batch.column("video_id"), batch.column("content_key")
    return to_batch(
        [
            Failure(
                ids[problem.row].as_py(),
                STAGE,
                problem.kind,
                problem.message,
                content_key=keys[problem.row].as_py(),
                failed_at=now,
                run_id=run_id,
            )
            for problem in problems
        ],
        Failure,
    )  # fmt: skip


def to_annotations(
    card: StudentCard, scores: Scores, batch: pa.RecordBatch, asked: Mask, now: datetime, run_id: str
) -> pa.RecordBatch:
    """What a student said, as Annotations, column by column.

    Args:
        card: whose.
        scores: of `batch`.
        batch: N rows with `video_id` and `content_key`.
        asked: [N, heads], which pairs to write; no row with a problem among them.
        now: when.
        run_id: the run.
    """
    parts = []
    content_keys = batch.column("content_key").to_pylist()
    for number, head in enumerate(card.heads):
        rows = np.flatnonzero(asked[:, number])
        if not len(rows):
            continue
        value, probability = spoken(head, scores.values[head.attribute][rows])
        keys = [answer_key(content_keys[row], card.student_id, head.attribute) for row in rows.tolist()]
        columns: dict[str, pa.Array | pa.Scalar] = {
            "video_id": batch.column("video_id").take(pa.array(rows)),
            "value": value,
            "probability": probability,
            "answer_key": pa.array(keys, pa.string()),
            "content_key": batch.column("content_key").take(pa.array(rows)),
        }
        constants = {
            "attribute": head.attribute,
            "definition_hash": head.definition_hash,
            "source": "student",
            "annotator": card.annotator,
            "teacher": head.teacher,
            "annotated_at": now,
            "run_id": run_id,
        }
        parts.append(_table(columns, constants, len(rows)))
    if not parts:
        return to_batch([], Annotation)
    return pa.concat_tables(parts).combine_chunks().to_batches()[0]


def _table(columns: Mapping[str, pa.Array], constants: Mapping[str, Any], rows: int) -> pa.Table:
    arrays = []
    for column in Annotation.SCHEMA:
        if column.name in columns:
            arrays.append(columns[column.name])
        else:
            arrays.append(pa.repeat(pa.scalar(constants.get(column.name, _empty(column)), column.type), rows))
    return pa.Table.from_arrays(arrays, schema=Annotation.SCHEMA)


def _empty(column: pa.Field) -> Any:
    """What stands in a column about which a student says nothing."""
    if pa.types.is_list(column.type):
        return []
    return "" if pa.types.is_string(column.type) else None if column.nullable else 0


def spoken(head: Head, numbers: np.ndarray) -> tuple[pa.Array, pa.Array]:
    """(value, probability) columns of one head: `true` from one half, the likeliest label, or a number within the range."""
    if head.value_type == "category":
        best = numbers.argmax(axis=1)
        return pa.array(head.labels, pa.string()).take(pa.array(best)), pa.array(numbers[np.arange(len(best)), best], pa.float32())
    if head.value_type == "boolean":
        return pc.if_else(pa.array(numbers >= 0.5), "true", "false"), pa.array(numbers, pa.float32())
    assert head.score_range is not None
    return pa.array(np.clip(numbers, *head.score_range), pa.float32()).cast(pa.string()), pa.nulls(len(numbers), pa.float32())


def _load(folder: str) -> Student:
    from features.student.scoring import Student

    return Student.load(folder)


def build(pipeline: beam.Pipeline, config: ScoreConfig) -> None:
    """Wires the stage."""
    workspace, run_id, student = config.workspace, config.header.run_id, config.student
    folder = AsSingleton(
        pipeline
        | "NameStudent" >> beam.Create([student])
        | "ChooseStudent" >> beam.Map(lambda named: named or latest_student(workspace)).with_output_types(str)
    )
    features = pipeline | "IndexFeatures" >> IndexFeatures(workspace)
    answers = (
        pipeline
        | "ReadKnownAnswers"
        >> ReadColumns(workspace, "annotations", ("video_id", "annotated_at", "attribute", "source", "teacher", "answer_key"))
        | "KeyAnswers" >> beam.FlatMapTuple(index_answers).with_output_types(tuple[str, str])
    )
    planned = (
        {"features": features, "answers": answers}
        | "MatchKnown" >> beam.CoGroupByKey()
        | "PlanScores"
        >> beam.ParDo(PlanFn(config.definitions), folder)
        .with_outputs("tallies", main="questions")
        .with_output_types(tuple[str, str])
    )
    scored = (
        planned.questions
        | "GroupByFile" >> beam.GroupByKey()
        | "ScoreVideos"
        >> beam.ParDo(ScoreFn(run_id), folder)
        .with_outputs("failures", "tallies", main="annotations")
        .with_output_types(pa.RecordBatch)
    )
    written = (
        scored.annotations | "WriteAnnotations" >> WriteTable(workspace, "annotations", run_id, max_rows=500_000),
        scored.failures | "WriteFailures" >> WriteTable(workspace, "failures", run_id),
    )
    written | "CommitRun" >> CommitRun(workspace, STAGE, config.header, (planned.tallies, scored.tallies))


def run(config: ScoreConfig, beam_args: Sequence[str] = ()) -> RunRecord:
    """Scores here, to the end, and returns the run's record.

    Raises:
        InvalidInput: there is no student, or it knows no attribute as it is defined now.
    """
    check_place(config.workspace, ())
    current_heads(read_card(config.student or latest_student(config.workspace)), config.definitions)
    pipeline = make_pipeline(beam_args)
    build(pipeline, config)
    return finish(pipeline, config.workspace, config.header)
