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
from pipelines.forecasting import ForecastRun, Requests, as_bytes
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
        self._window: Window[tuple[VideoFeatures, list[Question]]] = Window(annotator, self._config.annotator.window, self._finish)

    def start_bundle(self) -> None:
        self._rows: list[Annotation] = []
        self._tallies: Counter[str] = Counter()
        self._counted: Counter[str] = Counter()

    def teardown(self) -> None:
        self._window.settle()  # a bundle that failed leaves requests in flight
        annotators.release(self._config.annotator, self._config.workspace)

    def process(self, element: tuple[str, Iterable[str]]) -> Iterator[Any]:
        path, texts = element
        questions: dict[str, list[Question]] = {}
        for question in sorted(map(Question.from_json, texts), key=lambda each: (each.about, each.video_id)):
            questions.setdefault(question.subject, []).append(question)
        if self._halted or stopping.requested():
            for together in questions.values():
                self._all_pending(together, self._halted or STOPPED)
            return
        table = read_parquet(path)
        table = table.filter(pc.is_in(table["video_id"], pa.array(list(questions), pa.string())))
        for video in latest(from_table(table, VideoFeatures)).values():
            together = questions[video.video_id]
            if stopping.requested():
                self._all_pending(together, STOPPED)
                continue
            wanted = {name for question in together for name in question.asked}
            request = AnnotationRequest(video, tuple(each for name, each in self._definitions.items() if name in wanted))
            yield from self._window.ask((video, together), request)
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

    def _finish(self, about: tuple[VideoFeatures, list[Question]], future: Future[AnnotationReply]) -> Iterator[Any]:
        """What one request gives to the video that it was about, and to each that was asked about through it."""
        video, together = about
        try:
            reply = future.result()
        except Permanent as error:
            for question in together:
                yield from self._dead(video, question, [(name, error.kind, str(error), "") for name in question.asked])
                self._outcomes(question, dead_lettered=len(question.asked))
            return
        except (Transient, Halted) as error:
            if isinstance(error, Unavailable | Stopped):
                self._halted = str(error)  # nobody will be asked any more: the rest is not even read
            self._all_pending(together, str(error))
            return
        self._paid(reply.spent)
        now = datetime.now(UTC)
        for question in together:
            yield from self._share(video, question, reply, now)

    def _share(self, video: VideoFeatures, question: Question, reply: AnnotationReply, now: datetime) -> Iterator[Any]:
        """What a reply about `video` says to the questions about one video."""
        answers = [answer for answer in reply.answers if answer.attribute in question.asked]
        refusals = [refusal for refusal in reply.refusals if refusal.attribute in question.asked]
        self._rows += [self._annotation(video, question, answer, now) for answer in answers]
        if question.about and answers:
            self._tallies["detail/carried over"] += len(answers)
        if refusals:
            yield from self._dead(video, question, [(r.attribute, r.kind, r.message, r.reply_digest) for r in refusals])
        stored = sum(answer.reused for answer in answers)
        refused = len({refusal.attribute for refusal in refusals})
        pending = len(question.asked) - len(answers) - refused
        if pending:
            self._pending(reply.why_pending or "no answer", pending)
        self._outcomes(question, len(answers) - stored, stored, refused, pending)

    def _annotation(self, video: VideoFeatures, question: Question, answer: Answer, now: datetime) -> Annotation:
        """What was answered about `video`, as an answer to a question. One that is carried over cost nothing; seconds of another
        video, which may begin elsewhere, are no moments of it."""
        definition, by = self._definitions[answer.attribute], answer.by or self._whose.first
        paid = not answer.reused and not question.about
        return Annotation(
            video_id=question.video_id,
            attribute=answer.attribute,
            definition_hash=definition.definition_hash,
            value=answer.value,
            probability=answer.probability,
            rationale=answer.rationale,
            source=by.source,
            annotator=answer.model or by.model,
            answer_key=self._whose.key(video.content_key, definition.definition_hash, by),
            content_key=question.content_key if question.about else video.content_key,
            input_tokens=answer.input_tokens if paid else 0,
            cached_input_tokens=answer.cached_input_tokens if paid else 0,
            output_tokens=answer.output_tokens if paid else 0,
            cost_usd=answer.cost_usd if paid else 0.0,
            annotated_at=now,
            run_id=self._config.header.run_id,
            raw_probability=answer.probability,
            moments=() if question.about else answer.moments,
            carried_from=question.about,
        )

    def _dead(
        self, video: VideoFeatures, question: Question, problems: Sequence[tuple[str, str, str, str]]
    ) -> Iterator[TaggedOutput]:
        keys = {name: self._whose.refused_key(video.content_key, self._definitions[name].definition_hash) for name, *_ in problems}
        yield from dead_letters(
            question.video_id, [(name, keys[name], *problem) for name, *problem in problems], self._config.header.run_id
        )

    def _all_pending(self, together: Sequence[Question], why: str) -> None:
        for question in together:
            self._pending(why, len(question.asked))
            self._outcomes(question, pending=len(question.asked))

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
    forecast = None
    if config.annotator.asks_model:
        forecast = planned.questions | "Requests" >> Requests() | "Forecast" >> ForecastRun(config)
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
    requests = planned.questions | "Requests" >> Requests()
    forecast = requests | "Forecast" >> ForecastRun(config, batch)
    tallied = planned.tallies | "Sum" >> beam.CombinePerKey(sum)
    pairs = requests | "PairsOf" >> beam.MapTuple(pairs_of) | "SumPairs" >> beam.CombineGlobally(sum)
    wanted = planned.questions | "WantedPairsOf" >> beam.MapTuple(pairs_of) | "SumWantedPairs" >> beam.CombineGlobally(sum)

    def kept(document: dict[str, Any], asked: int, wanted: int, counted: dict[str, int]) -> None:
        whole = {**document, "pairs": asked, "reused": counted.get("pair/reused", 0), "dead": counted.get("pair/dead_lettered", 0)}
        storage.write_bytes(path, as_bytes({**whole, "carried": wanted - asked}))

    sides = (*map(beam.pvalue.AsSingleton, (pairs, wanted)), beam.pvalue.AsDict(tallied))
    forecast | "Keep" >> beam.Map(kept, *sides)
    pipeline.run().wait_until_finish()
    document: dict[str, Any] = json.loads(storage.read_bytes(path))
    return document


def pairs_of(_: str, text: str) -> int:
    """How many attributes a question asks about."""
    return len(Question.from_json(text).asked)


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
