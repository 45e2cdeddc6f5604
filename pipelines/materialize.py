"""Stage 5: annotations -> what is believed about every video -> the resolved table, the history and the online store.

Reads the annotations of all runs, compares what they come to with what is stored, and writes the difference. An answer about
content that a video no longer has, by its newest features, is stale. Videos that the store did not take stay pending: their old
values keep serving, and the next run goes on with them. So does one after a kill.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from features.attributes import registry
from features.attributes.definition import AttributeDefinition
from features.errors import InvalidInput, Transient
from features.records import Annotation, Failure, ResolvedAttribute, RunRecord
from features.serving.publish import Published, Publisher, compact_history, packed_rows
from features.serving.resolution import ABSENT, resolve
from features.workspace import Workspace
from pipelines import stopping
from pipelines.counters import count
from pipelines.io import CommitRun, IndexFeatures, ReadColumns, WriteTable, finish, to_batch
from pipelines.options import RunHeader, check_place, make_pipeline

STAGE = "materialize"
COLUMNS = (
    "video_id",
    "attribute",
    "definition_hash",
    "value",
    "probability",
    "source",
    "annotator",
    "answer_key",
    "content_key",
    "teacher",
    "annotated_at",
    "run_id",
)
"""What resolution looks at; rationales and costs stay on disk."""
AHEAD = "the online store's row is from a clock a little ahead of this one: run again in five minutes"
RESOLVED_COLUMNS = tuple(name for name in ResolvedAttribute.SCHEMA.names if name != "run_id")
BATCH = 5000
"""Videos resolved and published together."""


@dataclass(frozen=True)
class MaterializeConfig:
    """What to bring up to date.

    Attributes:
        workspace: local; its annotations are read, its store and resolved table written.
        definitions: the registered ones, as they stand in the definitions folder.
        online: `sqlite` or `redis://HOST:PORT`, see `features.attributes.registry.open_store`.
        lock_timeout_s: how long to wait for another materialisation of this workspace.
        attempts: how often a batch is tried on a busy store before it, and all that follow, stay pending.
    """

    workspace: Workspace
    definitions: tuple[AttributeDefinition, ...]
    online: str = "sqlite"
    lock_timeout_s: float = 5.0
    attempts: int = 5
    header: RunHeader = field(default_factory=RunHeader)

    @property
    def names(self) -> frozenset[str]:
        """Of the attributes."""
        return frozenset(definition.name for definition in self.definitions)


def _to_json(rows: Sequence[dict[str, Any]]) -> str:
    for row in rows:
        row["annotated_at"] = row["annotated_at"] and row["annotated_at"].timestamp()
    return json.dumps(rows)


def _from_json(texts: Iterable[str]) -> Iterator[dict[str, Any]]:
    for text in texts:
        for row in json.loads(text):
            if row["annotated_at"] is not None:
                row["annotated_at"] = datetime.fromtimestamp(row["annotated_at"], UTC)
            yield row


def rows_by_video(names: frozenset[str], listed: str, batch: pa.RecordBatch) -> Iterator[tuple[str, str]]:
    """(video id, JSON list of its rows about `names`) for each video of a batch of annotations or resolved rows.

    Each row carries the position of its run, so that the newest of several can be told.
    """
    order = json.loads(listed)["order"]
    videos: dict[str, list[dict[str, Any]]] = {}
    for row in batch.to_pylist():
        if row["attribute"] in names:
            videos.setdefault(row["video_id"], []).append(row | {"order": order})
    for video_id, rows in videos.items():
        yield video_id, _to_json(rows)


def annotations_of(texts: Iterable[str]) -> list[Annotation]:
    """Annotations from the JSON that `rows_by_video` gives; what it leaves out is empty."""
    return [Annotation(rationale="", **{name: row[name] for name in COLUMNS}) for row in _from_json(texts)]


def present_beliefs(texts: Iterable[str]) -> dict[str, ResolvedAttribute]:
    """The newest resolved row of each attribute of one video."""
    newest = sorted(_from_json(texts), key=lambda row: int(row["order"]))
    return {row["attribute"]: ResolvedAttribute(**{name: row[name] for name in RESOLVED_COLUMNS}) for row in newest}


def current_content(indexed: Iterable[str]) -> str:
    """The content key of the newest of `IndexFeatures`' entries about one video; empty where there is none."""
    return str(max(map(json.loads, indexed), default=[0.0, "", ""])[2])


def spoken_of(element: tuple[str, dict[str, Iterable[str]]]) -> bool:
    """Whether anybody says or said something about a video; most have features only."""
    return any(True for name in ("annotations", "resolved") for _ in element[1][name])


def differs(before: ResolvedAttribute | None, after: ResolvedAttribute) -> bool:
    """Whether a belief changed, in the precision in which it is stored."""

    def stored(row: ResolvedAttribute) -> ResolvedAttribute:
        number, probability = (None if each is None else float(np.float32(each)) for each in (row.number, row.probability))
        return replace(row, number=number, probability=probability, run_id="")

    return before is None or stored(before) != stored(after)


def asked_pairs(names: frozenset[str], element: tuple[str, dict[str, Iterable[str]]]) -> Iterator[tuple[str, int]]:
    """Tallies of what comes in: a video, and its pairs that anybody says or said something about."""
    _, groups = element
    pairs = {row["attribute"] for row in _from_json(groups["annotations"])}
    pairs |= {name for name, row in present_beliefs(groups["resolved"]).items() if row.source != ABSENT}
    if pairs:
        yield "video/in", 1
        yield "pair/in", len(pairs)


@dataclass(frozen=True)
class _Video:
    """One video on its way to the store: all its rows, those that changed, and the attributes nobody valid speaks about."""

    rows: dict[str, ResolvedAttribute]
    changed: list[ResolvedAttribute]
    failures: list[Failure]
    dead: frozenset[str]


class PublishFn(beam.DoFn):
    """Resolves and publishes batches of videos; main output: RecordBatches of ResolvedAttribute.

    Args:
        config: of the stage.
        as_of: a moment before the annotations are read.

    Tagged outputs: `failures` (RecordBatches of Failure), `tallies`.
    """

    def __init__(self, config: MaterializeConfig, as_of: datetime) -> None:
        self._config, self._as_of = config, as_of
        self._away = ""

    def setup(self) -> None:
        store = registry.open_store(self._config.workspace, self._config.online)
        self._publisher = Publisher(store, attempts=self._config.attempts)

    def teardown(self) -> None:
        self._publisher.close()

    def process(self, batch: list[tuple[str, dict[str, Iterable[str]]]]) -> Iterator[Any]:
        videos = {video_id: video for video_id, groups in batch if (video := self._resolve(video_id, groups)) is not None}
        published = self._publish(videos)
        if published is None:
            yield from self._pending(self._away, videos.values())
            return
        if published.ahead:
            yield from self._pending(AHEAD, [videos.pop(video_id) for video_id in published.ahead])
        settled = {*published.unchanged, *published.superseded}
        if published.superseded:
            yield TaggedOutput("tallies", ("detail/superseded", len(published.superseded)))
        for video_id, video in videos.items():
            changed = {} if video_id in published.superseded else {row.attribute: row for row in video.changed}
            answered = video.rows.keys() - video.dead
            reused = {name for name in answered if name not in changed and (changed or video_id in settled)}
            pairs = {"dead_lettered": len(video.dead), "reused": len(reused), "annotated": len(answered) - len(reused)}
            outcome = "dead_lettered" if not answered else "reused" if len(reused) == len(answered) else "annotated"
            yield from self._outcomes(outcome, pairs)
        failures = [failure for video in videos.values() for failure in video.failures]
        for kind in {failure.kind for failure in failures}:
            yield TaggedOutput("tallies", (f"kind/{kind}", sum(failure.kind == kind for failure in failures)))
        if failures:
            yield TaggedOutput("failures", to_batch(failures, Failure))
        rows = [row for video_id, video in videos.items() if video_id not in published.superseded for row in video.changed]
        if rows:
            yield to_batch(rows, ResolvedAttribute)

    def _resolve(self, video_id: str, groups: dict[str, Iterable[str]]) -> _Video | None:
        run_id, now = self._config.header.run_id, self._config.header.started_at
        before = present_beliefs(groups["resolved"])
        content_keys = {video_id: current_content(groups["content"])}
        resolved = resolve(annotations_of(groups["annotations"]), self._config.definitions, datetime.now(UTC), content_keys)
        rows = {row.attribute: row for row in resolved.rows}
        refused = {failure.attribute for failure in resolved.failures}
        for name in refused | {name for name, row in before.items() if row.source != ABSENT}:
            rows.setdefault(name, ResolvedAttribute(video_id, name, None, None, ABSENT, None, "", None, False, ""))
        if not rows:
            return None
        rows = {name: replace(row, run_id=run_id) for name, row in rows.items()}
        return _Video(
            rows=rows,
            changed=[row for name, row in rows.items() if differs(before.get(name), row)],
            failures=[replace(failure, run_id=run_id, failed_at=now) for failure in resolved.failures],
            dead=frozenset(name for name in refused if rows[name].source == ABSENT),
        )

    def _publish(self, videos: dict[str, _Video]) -> Published | None:
        """None when the store is away: this batch and all later ones stay pending."""
        if stopping.requested():
            self._away = "stopped on request"
        if self._away:
            return None
        header = self._config.header
        rows = {video_id: video.rows for video_id, video in videos.items()}
        try:
            return self._publisher.publish(*packed_rows(self._publisher.layout, rows, self._as_of), header.run_id)
        except Transient as error:
            self._away = str(error)
            logging.getLogger(__name__).error("%s: what is left stays pending, and its old values keep serving", error)
            return None

    def _pending(self, why: str, videos: Collection[_Video]) -> Iterator[TaggedOutput]:
        yield TaggedOutput("tallies", (f"detail/pending: {why}", len(videos)))
        for video in videos:
            yield from self._outcomes("pending", {"pending": len(video.rows)})

    @staticmethod
    def _outcomes(video: str, pairs: dict[str, int]) -> Iterator[TaggedOutput]:
        count(STAGE, video)
        yield TaggedOutput("tallies", (f"video/{video}", 1))
        for outcome, number in pairs.items():
            if number:
                yield TaggedOutput("tallies", (f"pair/{outcome}", number))


def build(pipeline: beam.Pipeline, config: MaterializeConfig) -> None:
    """Wires the stage. Called under MATERIALIZE_LOCK: what is read then is at least as new as anything that was published."""
    as_of = datetime.now(UTC)
    workspace, run_id, names = config.workspace, config.header.run_id, config.names
    annotations = (
        pipeline
        | "ReadAnnotations" >> ReadColumns(workspace, "annotations", COLUMNS)
        | "KeyAnnotations"
        >> beam.FlatMapTuple(lambda listed, batch: rows_by_video(names, listed, batch)).with_output_types(tuple[str, str])
    )
    resolved = (
        pipeline
        | "ReadBeliefs" >> ReadColumns(workspace, "resolved", RESOLVED_COLUMNS)
        | "KeyBeliefs"
        >> beam.FlatMapTuple(lambda listed, batch: rows_by_video(names, listed, batch)).with_output_types(tuple[str, str])
    )
    content = pipeline | "IndexFeatures" >> IndexFeatures(workspace)
    videos = (
        {"annotations": annotations, "resolved": resolved, "content": content}
        | "MatchVideos" >> beam.CoGroupByKey()
        | "SpokenOf" >> beam.Filter(spoken_of)
    )
    entered = videos | "Enter" >> beam.FlatMap(lambda video: asked_pairs(names, video)).with_output_types(tuple[str, int])
    published = (
        videos
        | "Batch" >> beam.BatchElements(min_batch_size=BATCH, max_batch_size=BATCH)
        | "ResolveAndPublish"
        >> beam.ParDo(PublishFn(config, as_of))
        .with_outputs("failures", "tallies", main="resolved")
        .with_output_types(pa.RecordBatch)
    )
    written = (
        published.resolved | "WriteBeliefs" >> WriteTable(workspace, "resolved", run_id),
        published.failures | "WriteFailures" >> WriteTable(workspace, "failures", run_id),
    )
    written | "CommitRun" >> CommitRun(workspace, STAGE, config.header, (entered, published.tallies))


def run(config: MaterializeConfig, beam_args: Sequence[str] = ()) -> RunRecord:
    """Materialises here, to the end, and returns the run's record.

    Raises:
        InvalidInput: the definitions are not what is registered, or the feature store is damaged.
        Transient: another materialisation of this workspace is running, or its registration.
    """
    from features.attributes import views

    check_place(config.workspace, ("feast",))
    store = registry.open_store(config.workspace, config.online)
    registered = registry.registered_attributes(store)
    planned = registry.plan(registered, config.definitions)
    if planned.refused or planned.changes_anything:
        what = " ".join(sentence for sentence in planned.sentences() if not sentence.startswith("Unchanged"))
        raise InvalidInput(f"the definitions are not what is registered ({what}): run `vidattr register` first")
    # Creates an online store that was lost anew.
    registered = registry.apply(store, config.definitions, planned, materialize_timeout_s=config.lock_timeout_s)
    registered.check_served()
    folder = str(store.repo_path)
    with registry.exclusive(os.path.join(folder, registry.MATERIALIZE_LOCK), config.lock_timeout_s, "materialisation"):
        views.prepare_offline(folder, registered)
        pipeline = make_pipeline(beam_args)
        build(pipeline, config)
        try:
            return finish(pipeline, config.workspace, config.header)
        finally:
            compact_history(folder)
