"""Stage 2: features -> annotations. Every (video, attribute) pair that has no answer yet is asked for.

`pipelines.planning` finds out which. The rows themselves, frames included, are read by the worker that asks about them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import DirectOptions
from apache_beam.pvalue import TaggedOutput
from apache_beam.utils.windowed_value import WindowedValue

from features import storage
from features.annotators.control import STOPPED
from features.annotators.protocol import AnnotationReply, AnnotationRequest, Answer, Usage
from features.attributes.registry import exclusive
from features.errors import Halted, Permanent, Stopped, Transient, Unavailable
from features.records import Annotation, RunRecord, VideoFeatures, from_table
from features.workspace import latest, read_parquet
from pipelines import annotators, stopping
from pipelines.annotators import ANSWERS, LOCK, Whose
from pipelines.asking import Window
from pipelines.counters import live
from pipelines.forecasting import ForecastRun, as_bytes
from pipelines.io import CommitRun, WriteTable, at_bundle_end, finish, tallies, to_batch
from pipelines.options import beam_options, check_place, make_pipeline
from pipelines.planning import STAGE, AnnotateConfig, Plan, Question, dead_letters

__all__ = ["STAGE", "AnnotateConfig", "build", "dry_run", "run", "told"]


ROWS = 1_000
"""Annotations that a worker collects before it hands them on."""
REASONS = 20
"""Different sentences about pending pairs that a bundle keeps: servers quote what differs each time."""
NOTHING = Usage()
SHOWN = ("input_tokens", "output_tokens", "cost_nano_usd")
"""Tallies that the progress line shows while they grow."""


class AskFn(beam.DoFn):
    """Asks; main output: RecordBatches of Annotations. Tagged outputs: `failures` and `tallies`."""

    def __init__(self, config: AnnotateConfig) -> None:
        self._config = config
        self._definitions = {definition.name: definition for definition in config.definitions}

    def setup(self) -> None:
        annotator = annotators.acquire(self._config.annotator, self._config.workspace)
        self._whose = Whose.of(annotator)
        self._halted = ""
        self._window: Window[tuple[VideoFeatures, Question]] = Window(annotator, self._config.annotator.window, self._finish)

    def start_bundle(self) -> None:
        self._rows: list[Annotation] = []
        self._tallies: Counter[str] = Counter()
        self._counted: Counter[str] = Counter()

    def teardown(self) -> None:
        self._window.settle()  # a bundle that failed leaves requests in flight
        annotators.release(self._config.annotator, self._config.workspace)

    def process(self, element: tuple[str, Iterable[str]]) -> Iterator[Any]:
        path, texts = element
        questions = {question.video_id: question for question in map(Question.from_json, texts)}
        if self._halted or stopping.requested():
            for question in questions.values():
                self._pending(self._halted or STOPPED, len(question.asked))
                self._outcomes(question, pending=len(question.asked))
            return
        table = read_parquet(path)
        table = table.filter(pc.is_in(table["video_id"], pa.array(list(questions), pa.string())))
        for video in latest(from_table(table, VideoFeatures)).values():
            question = questions[video.video_id]
            if stopping.requested():
                self._pending(STOPPED, len(question.asked))
                self._outcomes(question, pending=len(question.asked))
                continue
            request = AnnotationRequest(video, tuple(self._definitions[name] for name in question.asked))
            yield from self._window.ask((video, question), request)
            if len(self._rows) >= ROWS:
                yield from self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        yield from at_bundle_end(self._window.drain())
        yield from at_bundle_end(self._flush())
        yield from at_bundle_end(tallies(self._tallies))

    def _flush(self) -> Iterator[pa.RecordBatch]:
        """What was answered so far as one batch: Arrow takes hundreds of rows in hardly more time than ten."""
        if self._rows:
            yield to_batch(self._rows, Annotation)
            self._rows = []
        for name, amount in self._counted.items():
            Metrics.counter(STAGE, name).inc(amount)
        self._counted.clear()

    def _count(self, amounts: Mapping[str, int]) -> None:
        """For the progress line at once, for Beam's metrics with the next batch of rows."""
        live.add_all(STAGE, amounts)
        self._counted.update(amounts)

    def _finish(self, about: tuple[VideoFeatures, Question], future: Future[AnnotationReply]) -> Iterator[Any]:
        video, question = about
        try:
            reply = future.result()
        except Permanent as error:
            yield from self._dead(video, [(name, error.kind, str(error), "") for name in question.asked])
            self._outcomes(question, dead_lettered=len(question.asked))
            return
        except (Transient, Halted) as error:
            if isinstance(error, Unavailable | Stopped):
                self._halted = str(error)  # nobody will be asked any more: the rest is not even read
            self._pending(str(error), len(question.asked))
            self._outcomes(question, pending=len(question.asked))
            return
        now = datetime.now(UTC)
        rows = [self._annotation(video, answer, now) for answer in reply.answers]
        self._rows += rows
        if reply.refusals:
            yield from self._dead(video, [(r.attribute, r.kind, r.message, r.reply_digest) for r in reply.refusals])
        self._paid(reply.spent)
        stored = sum(answer.reused for answer in reply.answers)
        refused = len({refusal.attribute for refusal in reply.refusals})
        pending = len(question.asked) - len(rows) - refused
        if pending:
            self._pending(reply.why_pending or "no answer", pending)
        self._outcomes(question, len(rows) - stored, stored, refused, pending)

    def _annotation(self, video: VideoFeatures, answer: Answer, now: datetime) -> Annotation:
        definition, by = self._definitions[answer.attribute], answer.by or self._whose.first
        paid = not answer.reused
        return Annotation(
            video_id=video.video_id,
            attribute=answer.attribute,
            definition_hash=definition.definition_hash,
            value=answer.value,
            probability=answer.probability,
            rationale=answer.rationale,
            source=by.source,
            annotator=answer.model or by.model,
            answer_key=self._whose.key(video.content_key, definition.definition_hash, by),
            content_key=video.content_key,
            input_tokens=answer.input_tokens if paid else 0,
            cached_input_tokens=answer.cached_input_tokens if paid else 0,
            output_tokens=answer.output_tokens if paid else 0,
            cost_usd=answer.cost_usd if paid else 0.0,
            annotated_at=now,
            run_id=self._config.header.run_id,
            raw_probability=answer.probability,
            moments=answer.moments,
        )

    def _dead(self, video: VideoFeatures, problems: Sequence[tuple[str, str, str, str]]) -> Iterator[TaggedOutput]:
        keys = {name: self._whose.refused_key(video.content_key, self._definitions[name].definition_hash) for name, *_ in problems}
        yield from dead_letters(
            video.video_id, [(name, keys[name], *problem) for name, *problem in problems], self._config.header.run_id
        )

    def _pending(self, why: str, pairs: int) -> None:
        name = f"detail/pending: {why}"[:400]
        if name not in self._tallies and sum(each.startswith("detail/pending") for each in self._tallies) >= REASONS:
            name = "detail/pending: other reasons"
        self._tallies[name] += pairs

    def _paid(self, usage: Usage) -> None:
        """Counts what was paid, refused and unusable replies included."""
        if usage == NOTHING:
            return
        amounts = dict(paid_tallies(usage))
        self._tallies.update(amounts)
        self._count({name: amounts[name] for name in SHOWN})

    def _outcomes(self, question: Question, annotated: int = 0, stored: int = 0, dead_lettered: int = 0, pending: int = 0) -> None:
        """Counts what became of one video's questions, and of the video."""
        pairs = {"annotated": annotated, "reused": stored, "dead_lettered": dead_lettered, "pending": pending}
        self._count(pairs)
        for name, amount in pairs.items():
            self._tallies[f"pair/{name}"] += amount
        self._tallies[f"video/{question.outcome(annotated, stored, pending)}"] += 1


def paid_tallies(usage: Usage) -> tuple[tuple[str, int], ...]:
    """Tallies of what was paid, as `CommitRun` takes them."""
    return (
        ("detail/requests", usage.requests),
        ("input_tokens", usage.input_tokens),
        ("cached_input_tokens", usage.cached_input_tokens),
        ("output_tokens", usage.output_tokens),
        ("cost_nano_usd", round(1e9 * usage.cost_usd)),
    )


def build(pipeline: beam.Pipeline, config: AnnotateConfig) -> None:
    """Wires the stage. The configuration is one of `told`."""
    workspace, run_id = config.workspace, config.header.run_id
    planned = pipeline | "Plan" >> Plan(config)
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
    noted = pipeline | "NotedBefore" >> beam.Create(list(config.noted)).with_output_types(tuple[str, int])
    forecast = planned.questions | "Forecast" >> ForecastRun(config) if config.annotator.asks_model else None
    written | "CommitRun" >> CommitRun(workspace, STAGE, config.header, (planned.tallies, asked.tallies, noted), forecast)


def run(config: AnnotateConfig, beam_args: Sequence[str] = ()) -> RunRecord:
    """Annotates here, to the end, and returns the run's record.

    Raises:
        Transient: another annotation of this workspace is running; both would pay for the same questions.
    """
    config = _shared_out(_ready(config), beam_args)
    with exclusive(config.workspace.local_path(LOCK), config.lock_timeout_s, "annotation"):
        pipeline = make_pipeline(beam_args)
        build(pipeline, config)
        return finish(pipeline, config.workspace, config.header)


def dry_run(config: AnnotateConfig, batch: bool = False, beam_args: Sequence[str] = ()) -> dict[str, Any]:
    """What `run` would ask and what it is likely to take, as a JSON document; nobody is asked and nothing is kept.

    Args:
        config: as for `run`.
        batch: with batch jobs.
        beam_args: for the pipeline.
    """
    config = _ready(config)
    path = config.workspace.path("forecasts", f"{config.header.run_id}.json")
    pipeline = make_pipeline(beam_args)
    planned = pipeline | "Plan" >> Plan(config)
    forecast = planned.questions | "Forecast" >> ForecastRun(config, batch)
    tallied = planned.tallies | "Sum" >> beam.CombinePerKey(sum)
    pairs = (
        planned.questions
        | "PairsOf" >> beam.MapTuple(lambda _, text: len(Question.from_json(text).asked))
        | "SumPairs" >> beam.CombineGlobally(sum)
    )

    def kept(document: dict[str, Any], asked: int, counted: dict[str, int]) -> None:
        whole = {**document, "pairs": asked, "reused": counted.get("pair/reused", 0), "dead": counted.get("pair/dead_lettered", 0)}
        storage.write_bytes(path, as_bytes(whole))

    forecast | "Keep" >> beam.Map(kept, beam.pvalue.AsSingleton(pairs), beam.pvalue.AsDict(tallied))
    pipeline.run().wait_until_finish()
    document: dict[str, Any] = json.loads(storage.read_bytes(path))
    return document


def told(config: AnnotateConfig) -> AnnotateConfig:
    """The configuration with what only the whole of it tells its annotator: what `build` takes."""
    known: dict[str, Any] = {"golden": config.golden, "asked": config.definitions, "run_id": config.header.run_id}
    known["ask_refused"] = config.retry_failed or config.only_failed
    annotator = replace(config.annotator, **known)
    if annotator.fallback is not None:
        annotator = replace(annotator, fallback=replace(annotator.fallback, **known))
    return replace(config, annotator=annotator)


def _shared_out(config: AnnotateConfig, beam_args: Sequence[str]) -> AnnotateConfig:
    """The configuration with quotas and caps shared out over the processes that the local runner starts."""
    local = beam_options(beam_args).view_as(DirectOptions)
    if local.direct_running_mode != "multi_processing" or local.direct_num_workers <= 1 or config.annotator.pace.workers > 1:
        return config
    pace = replace(config.annotator.pace, workers=local.direct_num_workers)
    second = config.annotator.fallback
    annotator = replace(config.annotator, pace=pace, fallback=second and replace(second, pace=pace))
    return replace(config, annotator=annotator)


def _ready(config: AnnotateConfig) -> AnnotateConfig:
    """The same, checked."""
    check_place(config.workspace, () if config.annotator.answers else (ANSWERS,))
    config = told(config)
    for each in (config.annotator, config.annotator.fallback):
        if each is not None and each.asks_model:
            annotators.model_asked(each, config.workspace).check_caps(each.pace)
    return config
