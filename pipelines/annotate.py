"""Stage 2: features -> annotations. Every (video, attribute) pair that has no answer yet is asked for.

Only ids, keys and file names are shuffled. The rows themselves, frames included, are read by the worker that asks about them.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import TaggedOutput
from apache_beam.utils.windowed_value import WindowedValue

from features.annotators.protocol import AnnotationReply, AnnotationRequest
from features.attributes.definition import AttributeDefinition
from features.attributes.registry import exclusive
from features.errors import BudgetSpent, InvalidInput, Permanent, Transient
from features.records import Annotation, Failure, RunRecord, VideoFeatures, from_table
from features.workspace import Workspace, latest, read_parquet, trusted_seconds
from pipelines import stopping
from pipelines.annotators import ANSWERS, AnnotatorConfig, build_annotator
from pipelines.asking import Window, event_loop
from pipelines.counters import count
from pipelines.extract import STAGE as EXTRACT
from pipelines.extract import manifest_rows
from pipelines.io import CommitRun, IndexFeatures, ReadColumns, WriteTable, at_bundle_end, finish, tallies, to_batch
from pipelines.options import RunHeader, check_place, make_pipeline

STAGE = "annotate"


@dataclass(frozen=True)
class AnnotateConfig:
    """What to ask whom.

    Attributes:
        workspace: where features are read, and annotations, failures, answers and the run record go.
        definitions: what is asked.
        annotator: who is asked.
        golden: the Golden Set's own labels, written beside the annotator's.
        videos: ask only about the videos of this manifest; empty: about all with features.
        roots: of that manifest.
        in_flight: requests at the same time in a process.
        retry_failed: ask again what was refused before although nothing about it changed.
        without_failures_of: leave out videos that this extract run did not get through, whatever features earlier runs left.
        lock_timeout_s: how long to wait for another annotation of this workspace.
    """

    workspace: Workspace
    definitions: tuple[AttributeDefinition, ...]
    annotator: AnnotatorConfig = field(default_factory=AnnotatorConfig)
    golden: tuple[Annotation, ...] = ()
    videos: str = ""
    roots: tuple[str, ...] = ()
    in_flight: int = 16
    retry_failed: bool = False
    without_failures_of: str = ""
    lock_timeout_s: float = 5.0
    header: RunHeader = field(default_factory=RunHeader)

    def __post_init__(self) -> None:
        if not self.definitions:
            raise InvalidInput("no attribute to ask about: add a definition to attributes/, or name another --feature-repo")


def index_annotations(_: str, batch: pa.RecordBatch) -> Iterator[tuple[str, str]]:
    """(video id, [seconds, attribute, source, answer key, whether it is a retraction] as JSON), students left out."""
    for row in batch.to_pylist():
        if row["source"] != "student":
            answer = [
                trusted_seconds(row["annotated_at"]),
                row["attribute"],
                row["source"],
                row["answer_key"],
                row["value"] is None,
            ]
            yield row["video_id"], json.dumps(answer)


def index_failures(_: str, batch: pa.RecordBatch) -> Iterator[tuple[str, str]]:
    """(video id, [seconds, stage, run, attribute, key, kind, message] as JSON) for dead letters of extract and of this stage."""
    for row in batch.to_pylist():
        if row["stage"] in (STAGE, EXTRACT):
            letter = [row[name] for name in ("stage", "run_id", "attribute", "content_key", "kind", "message")]
            yield row["video_id"], json.dumps([trusted_seconds(row["failed_at"]), *letter])


@dataclass(frozen=True)
class Question:
    """What is to be asked about one video.

    Attributes:
        video_id: whose.
        asked: attributes to ask about.
        reused: how many others are answered already.
        dead: how many others were refused before and are not asked again.
    """

    video_id: str
    asked: tuple[str, ...]
    reused: int
    dead: int

    def to_json(self) -> str:
        return json.dumps(list(vars(self).values()))

    @classmethod
    def from_json(cls, text: str) -> Question:
        """The inverse of `to_json`."""
        video_id, asked, reused, dead = json.loads(text)
        return cls(video_id, tuple(asked), reused, dead)

    def outcome(self, annotated: int, stored: int, pending: int) -> str:
        """Of the video: pending before dead-lettered before annotated."""
        if pending:
            return "pending"
        if not annotated + stored + self.reused:
            return "dead_lettered"
        return "annotated" if annotated else "reused"


class PlanFn(beam.DoFn):
    """Finds out what is not answered yet; main output: (features file, questions about one video as JSON).

    Tagged outputs: `gold` (RecordBatches of gold Annotations that are new, changed or withdrawn), `failures` (what was refused
    before and is not asked again) and `tallies`.
    """

    def __init__(self, config: AnnotateConfig) -> None:
        self._config = config

    def setup(self) -> None:
        self._identity = build_annotator(self._config.annotator, self._config.workspace).identity

    def process(self, element: tuple[str, dict[str, Iterable[str]]]) -> Iterator[Any]:
        video_id, groups = element
        known = sorted(json.loads(text) for text in groups["annotations"])
        yield from self._gold(video_id, [json.loads(text) for text in groups["gold"]], known)
        letters = sorted(json.loads(text) for text in groups["failures"])
        places = [json.loads(text) for text in groups["features"]]
        lost = any((stage, run) == (EXTRACT, self._config.without_failures_of) for _, stage, run, *_ in letters)
        if not places or lost or not (groups["wanted"] or not self._config.videos):
            return
        _, path, content_key = max(places)
        newest = {(attribute, source): None if gone else key for _, attribute, source, key, gone in known}
        refused = {attribute: rest for _, stage, _, attribute, *rest in letters if stage == STAGE}
        asked, dead = [], []
        for definition in self._config.definitions:
            name, key = definition.name, self._identity.answer_key(content_key, definition.definition_hash)
            if newest.get((name, self._identity.source)) == key:
                continue
            if refused.get(name, [""])[0] == key and not self._config.retry_failed:
                dead.append(name)
            else:
                asked.append(name)
        pairs = len(self._config.definitions)
        question = Question(video_id, tuple(asked), pairs - len(asked) - len(dead), len(dead))
        count(STAGE, "reused", question.reused)
        count(STAGE, "dead_lettered", question.dead)
        yield from tallies({"video/in": 1, "pair/in": pairs, "pair/reused": question.reused, "pair/dead_lettered": question.dead})
        if dead:
            yield from dead_letters(video_id, [(name, *refused[name], "") for name in dead], self._config.header.run_id, attempts=0)
        if asked:
            yield path, question.to_json()
        else:
            yield from tallies({f"video/{question.outcome(0, 0, 0)}": 1})

    def _gold(self, video_id: str, labels: list[dict[str, Any]], known: list[Any]) -> Iterator[TaggedOutput]:
        now, header = datetime.now(UTC), self._config.header
        before = {attribute: (key, gone) for _, attribute, source, key, gone in known if source == "gold"}
        rows = [
            Annotation(**{**label, "annotated_at": now, "run_id": header.run_id})
            for label in labels
            if before.get(label["attribute"]) != (label["answer_key"], False)
        ]
        asked = {definition.name: definition for definition in self._config.definitions}
        for attribute, (key, gone) in before.items():
            if attribute in asked and not gone and attribute not in {label["attribute"] for label in labels}:
                rows.append(
                    Annotation(
                        video_id,
                        attribute,
                        asked[attribute].definition_hash,
                        None,
                        None,
                        "no longer in the Golden Set",
                        "gold",
                        "raters",
                        key,
                        annotated_at=now,
                        run_id=header.run_id,
                    )
                )
        if rows:
            yield TaggedOutput("gold", to_batch(rows, Annotation))
            yield TaggedOutput("tallies", ("detail/gold", len(rows)))


class AskFn(beam.DoFn):
    """Asks; main output: RecordBatches of Annotations. Tagged outputs: `failures` and `tallies`."""

    def __init__(self, config: AnnotateConfig) -> None:
        self._config = config
        self._definitions = {definition.name: definition for definition in config.definitions}

    def setup(self) -> None:
        self._annotator = build_annotator(self._config.annotator, self._config.workspace)
        self._annotator.open()
        self._identity = self._annotator.identity
        self._window: Window[tuple[VideoFeatures, Question]] = Window(self._annotator, self._config.in_flight, self._finish)

    def teardown(self) -> None:
        asyncio.run_coroutine_threadsafe(self._annotator.close(), event_loop()).result()

    def process(self, element: tuple[str, Iterable[str]]) -> Iterator[Any]:
        path, texts = element
        questions = {question.video_id: question for question in map(Question.from_json, texts)}
        table = read_parquet(path)
        table = table.filter(pc.is_in(table["video_id"], pa.array(list(questions), pa.string())))
        for video in latest(from_table(table, VideoFeatures)).values():
            question = questions[video.video_id]
            if stopping.requested():
                yield from self._outcomes(question, pending=len(question.asked))
                continue
            request = AnnotationRequest(video, tuple(self._definitions[name] for name in question.asked))
            yield from self._window.ask((video, question), request)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield from at_bundle_end(self._window.drain())

    def _finish(self, about: tuple[VideoFeatures, Question], future: Future[AnnotationReply]) -> Iterator[Any]:
        video, question = about
        try:
            reply = future.result()
        except Permanent as error:
            yield from self._dead(video, [(name, error.kind, str(error), "") for name in question.asked])
            yield from self._outcomes(question, dead_lettered=len(question.asked))
            return
        except (Transient, BudgetSpent) as error:
            yield from tallies({f"detail/pending: {error}"[:200]: len(question.asked)})
            yield from self._outcomes(question, pending=len(question.asked))
            return
        rows = [self._annotation(video, answer) for answer in reply.answers]
        if rows:
            yield to_batch(rows, Annotation)
        yield from self._dead(video, [(r.attribute, r.kind, r.message, r.reply_digest) for r in reply.refusals])
        yield from tallies(
            {
                "input_tokens": sum(row.input_tokens for row in rows),
                "cached_input_tokens": sum(row.cached_input_tokens for row in rows),
                "output_tokens": sum(row.output_tokens for row in rows),
                "cost_nano_usd": round(1e9 * sum(row.cost_usd for row in rows)),
            }
        )
        stored = sum(answer.reused for answer in reply.answers)
        refused = len({refusal.attribute for refusal in reply.refusals})
        pending = len(question.asked) - len(rows) - refused
        yield from self._outcomes(question, len(rows) - stored, stored, refused, pending)

    def _annotation(self, video: VideoFeatures, answer: Any) -> Annotation:
        definition, identity = self._definitions[answer.attribute], self._identity
        paid = not answer.reused
        return Annotation(
            video_id=video.video_id,
            attribute=answer.attribute,
            definition_hash=definition.definition_hash,
            value=answer.value,
            probability=answer.probability,
            rationale=answer.rationale,
            source=identity.source,
            annotator=identity.model,
            answer_key=identity.answer_key(video.content_key, definition.definition_hash),
            content_key=video.content_key,
            input_tokens=answer.input_tokens if paid else 0,
            cached_input_tokens=answer.cached_input_tokens if paid else 0,
            output_tokens=answer.output_tokens if paid else 0,
            cost_usd=answer.cost_usd if paid else 0.0,
            annotated_at=datetime.now(UTC),
            run_id=self._config.header.run_id,
        )

    def _dead(self, video: VideoFeatures, problems: Sequence[tuple[str, str, str, str]]) -> Iterator[TaggedOutput]:
        keys = {
            name: self._identity.answer_key(video.content_key, self._definitions[name].definition_hash) for name, *_ in problems
        }
        yield from dead_letters(
            video.video_id, [(name, keys[name], *problem) for name, *problem in problems], self._config.header.run_id
        )

    def _outcomes(
        self, question: Question, annotated: int = 0, stored: int = 0, dead_lettered: int = 0, pending: int = 0
    ) -> Iterator[TaggedOutput]:
        """Tallies of what became of one video's questions, and of the video."""
        pairs = {"annotated": annotated, "reused": stored, "dead_lettered": dead_lettered, "pending": pending}
        for name, amount in pairs.items():
            count(STAGE, name, amount)
        video = question.outcome(annotated, stored, pending)
        yield from tallies({f"video/{video}": 1, **{f"pair/{name}": amount for name, amount in pairs.items()}})


def dead_letters(
    video_id: str, problems: Sequence[tuple[str, str, str, str, str]], run_id: str, attempts: int = 1
) -> Iterator[TaggedOutput]:
    """Outputs for (attribute, answer key, kind, message, digest of the last reply) of pairs that got no answer."""
    now = datetime.now(UTC)
    rows = [
        Failure(video_id, STAGE, kind, message, attribute, key, attempts, reply, now, run_id)
        for attribute, key, kind, message, reply in problems
    ]
    if rows:
        yield TaggedOutput("failures", to_batch(rows, Failure))
    yield from tallies(Counter(f"kind/{row.kind}" for row in rows))


def build(pipeline: beam.Pipeline, config: AnnotateConfig) -> None:
    """Wires the stage."""
    workspace, run_id = config.workspace, config.header.run_id
    features = pipeline | "IndexFeatures" >> IndexFeatures(workspace)
    annotations = (
        pipeline
        | "ReadKnownAnswers"
        >> ReadColumns(workspace, "annotations", ("video_id", "annotated_at", "attribute", "source", "answer_key", "value"))
        | "KeyAnnotations" >> beam.FlatMapTuple(index_annotations).with_output_types(tuple[str, str])
    )
    failures = (
        pipeline
        | "ReadKnownFailures"
        >> ReadColumns(
            workspace, "failures", ("video_id", "failed_at", "stage", "run_id", "attribute", "content_key", "kind", "message")
        )
        | "KeyFailures" >> beam.FlatMapTuple(index_failures).with_output_types(tuple[str, str])
    )
    wanted = (
        pipeline
        | "NameManifest" >> beam.Create([(config.videos, list(config.roots))] if config.videos else [])
        | "ReadManifest" >> beam.FlatMapTuple(manifest_rows).with_output_types(tuple[str, str])
        | "KeepIds" >> beam.MapTuple(lambda video_id, row: (video_id, "")).with_output_types(tuple[str, str])
    )
    gold = pipeline | "GoldenSet" >> beam.Create(
        [(label.video_id, json.dumps({**vars(label), "annotated_at": None})) for label in config.golden]
    ).with_output_types(tuple[str, str])
    planned = (
        {"features": features, "annotations": annotations, "failures": failures, "wanted": wanted, "gold": gold}
        | "MatchKnown" >> beam.CoGroupByKey()
        | "PlanQuestions"
        >> beam.ParDo(PlanFn(config))
        .with_outputs("gold", "failures", "tallies", main="questions")
        .with_output_types(tuple[str, str])
    )
    asked = (
        planned.questions
        | "GroupByFile" >> beam.GroupByKey()
        | "AskAnnotator"
        >> beam.ParDo(AskFn(config)).with_outputs("failures", "tallies", main="annotations").with_output_types(pa.RecordBatch)
    )
    written = (
        asked.annotations | "WriteAnnotations" >> WriteTable(workspace, "annotations", run_id),
        planned.gold | "WriteGold" >> WriteTable(workspace, "annotations", run_id),
        (asked.failures, planned.failures)
        | "AllFailures" >> beam.Flatten()
        | "WriteFailures" >> WriteTable(workspace, "failures", run_id),
    )
    written | "CommitRun" >> CommitRun(workspace, STAGE, config.header, (planned.tallies, asked.tallies))


def run(config: AnnotateConfig, beam_args: Sequence[str] = ()) -> RunRecord:
    """Annotates here, to the end, and returns the run's record.

    Raises:
        Transient: another annotation of this workspace is running; both would pay for the same questions.
    """
    check_place(config.workspace, (ANSWERS,))
    config = replace(config, annotator=replace(config.annotator, golden=config.golden))
    with exclusive(config.workspace.local_path(".annotate.lock"), config.lock_timeout_s, "annotation"):
        pipeline = make_pipeline(beam_args)
        build(pipeline, config)
        return finish(pipeline, config.workspace, config.header)
