"""Stage 2: features -> annotations. Every (video, attribute) pair that has no answer yet is asked for.

Only ids, keys and file names are shuffled. The rows themselves, frames included, are read by the worker that asks about them.
"""

from __future__ import annotations

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
from features.errors import BudgetSpent, InvalidInput, Permanent, Transient
from features.records import Annotation, Failure, RunRecord, VideoFeatures, from_table
from features.workspace import Workspace, latest, read_parquet
from pipelines import stopping
from pipelines.annotators import ANSWERS, AnnotatorConfig, build_annotator
from pipelines.asking import Window
from pipelines.counters import count
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
    """

    workspace: Workspace
    definitions: tuple[AttributeDefinition, ...]
    annotator: AnnotatorConfig = field(default_factory=AnnotatorConfig)
    golden: tuple[Annotation, ...] = ()
    videos: str = ""
    roots: tuple[str, ...] = ()
    in_flight: int = 16
    header: RunHeader = field(default_factory=RunHeader)

    def __post_init__(self) -> None:
        if not self.definitions:
            raise InvalidInput("no attribute to ask about: add a definition to attributes/, or name another --feature-repo")


def index_annotations(_: str, batch: pa.RecordBatch) -> Iterator[tuple[str, str]]:
    """(video id, one known answer as JSON) for each row of an annotations file that no retraction voids."""
    for row in batch.to_pylist():
        if row["source"] != "student":
            yield (
                row["video_id"],
                json.dumps(
                    [row["annotated_at"].timestamp(), row["attribute"], row["source"], row["answer_key"], row["value"] is None]
                ),
            )


class PlanFn(beam.DoFn):
    """Finds out what is not answered yet; main output: (features file, questions about one video as JSON).

    Tagged outputs: `gold` (RecordBatches of gold Annotations that are new, changed or withdrawn) and `tallies`.
    """

    def __init__(self, config: AnnotateConfig) -> None:
        self._config = config

    def setup(self) -> None:
        self._identity = build_annotator(self._config.annotator, self._config.workspace).identity

    def process(self, element: tuple[str, dict[str, Iterable[str]]]) -> Iterator[Any]:
        video_id, groups = element
        known = sorted(json.loads(text) for text in groups["annotations"])
        yield from self._gold(video_id, [json.loads(text) for text in groups["gold"]], known)
        places = [json.loads(text) for text in groups["features"]]
        if not places or not (groups["wanted"] or not self._config.videos):
            return
        _, path, content_key = max(places)
        newest = {(attribute, source): None if gone else key for _, attribute, source, key, gone in known}
        identity = self._identity
        keys = {
            definition.name: identity.answer_key(content_key, definition.definition_hash) for definition in self._config.definitions
        }
        asked = [name for name, key in keys.items() if newest.get((name, identity.source)) != key]
        reused = len(keys) - len(asked)
        yield from tallies({"video/in": 1, "pair/in": len(keys), "pair/reused": reused})
        count(STAGE, "reused", reused)
        if asked:
            yield path, json.dumps([video_id, asked, reused])
        else:
            yield TaggedOutput("tallies", ("video/reused", 1))

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
        self._window: Window[tuple[VideoFeatures, list[str], int]] = Window(self._annotator, self._config.in_flight, self._finish)

    def process(self, element: tuple[str, Iterable[str]]) -> Iterator[Any]:
        path, questions = element
        wanted = {video_id: (names, reused) for video_id, names, reused in map(json.loads, questions)}
        table = read_parquet(path)
        table = table.filter(pc.is_in(table["video_id"], pa.array(list(wanted), pa.string())))
        for video in latest(from_table(table, VideoFeatures)).values():
            names, reused = wanted[video.video_id]
            if stopping.requested():
                yield from self._outcomes(reused, pending=len(names))
                continue
            request = AnnotationRequest(video, tuple(self._definitions[name] for name in names))
            yield from self._window.ask((video, names, reused), request)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield from at_bundle_end(self._window.drain())

    def _finish(self, about: tuple[VideoFeatures, list[str], int], future: Future[AnnotationReply]) -> Iterator[Any]:
        video, names, reused = about
        try:
            reply = future.result()
        except Permanent as error:
            yield from self._dead(video, [(name, error.kind, str(error), "") for name in names])
            yield from self._outcomes(reused, dead_lettered=len(names))
            return
        except (Transient, BudgetSpent) as error:
            yield TaggedOutput("tallies", (f"detail/pending: {error}"[:200], len(names)))
            yield from self._outcomes(reused, pending=len(names))
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
        yield from self._outcomes(
            reused, annotated=len(rows) - stored, stored=stored, dead_lettered=refused, pending=len(names) - len(rows) - refused
        )

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
        now, run_id = datetime.now(UTC), self._config.header.run_id
        rows = [
            Failure(video.video_id, STAGE, kind, message, attribute, video.content_key, 1, digest, now, run_id)
            for attribute, kind, message, digest in problems
        ]
        if rows:
            yield TaggedOutput("failures", to_batch(rows, Failure))
        yield from tallies(Counter(f"kind/{row.kind}" for row in rows))

    def _outcomes(
        self, reused: int, annotated: int = 0, stored: int = 0, dead_lettered: int = 0, pending: int = 0
    ) -> Iterator[TaggedOutput]:
        """Tallies of one video's pairs, and of the video: pending before dead-lettered before annotated."""
        answered = annotated + stored + reused
        video = "pending" if pending else "dead_lettered" if not answered else "annotated" if annotated else "reused"
        pairs = {"annotated": annotated, "reused": stored, "dead_lettered": dead_lettered, "pending": pending}
        for name, amount in pairs.items():
            count(STAGE, name, amount)
        yield from tallies({f"video/{video}": 1, **{f"pair/{name}": amount for name, amount in pairs.items()}})


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
        {"features": features, "annotations": annotations, "wanted": wanted, "gold": gold}
        | "MatchKnown" >> beam.CoGroupByKey()
        | "PlanQuestions"
        >> beam.ParDo(PlanFn(config)).with_outputs("gold", "tallies", main="questions").with_output_types(tuple[str, str])
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
        asked.failures | "WriteFailures" >> WriteTable(workspace, "failures", run_id),
    )
    written | "CommitRun" >> CommitRun(workspace, STAGE, config.header, (planned.tallies, asked.tallies))


def run(config: AnnotateConfig, beam_args: Sequence[str] = ()) -> RunRecord:
    """Annotates here, to the end, and returns the run's record."""
    check_place(config.workspace, (ANSWERS,))
    config = replace(config, annotator=replace(config.annotator, golden=config.golden))
    pipeline = make_pipeline(beam_args)
    build(pipeline, config)
    return finish(pipeline, config.workspace, config.header)
