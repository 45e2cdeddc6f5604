"""Stage 3: the Silver Set and the features of its videos -> a student, one SavedModel in the workspace.

It runs on one machine, where the labelled rows fit into memory (about 7 KB a video: 10^5 videos take 0.7 GB, twice).
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions

from features.attributes.definition import AttributeDefinition
from features.errors import InvalidInput, NothingToLearn, Permanent
from features.records import Annotation, Counts, Failure, RunRecord, from_table, to_table
from features.serving.resolution import believed, checked_number, outdated
from features.student.card import (
    CODE_VERSION,
    StudentCard,
    compute_student_id,
    intact_card,
    labelled_rows,
    student_folder,
)
from features.student.inputs import LIGHT_COLUMNS, InputSpec, Prepared, infer_spec, prepare
from features.student.labels import BadLabel, Label, Silver, silver_set
from features.workspace import Workspace, read_parquet
from pipelines.counters import count
from pipelines.io import peak_memory_bytes
from pipelines.options import LOCAL_RUNNERS, RunHeader, check_place, make_pipeline

if TYPE_CHECKING:
    from features.student.training import Trained
    from pipelines.transform import Transformed

STAGE = "distill"


@dataclass(frozen=True)
class DistillConfig:
    """What to learn.

    Attributes:
        workspace: where features and annotations are read, and where the student goes.
        definitions: attributes to learn.
        seed: of everything random in training.
    """

    workspace: Workspace
    definitions: tuple[AttributeDefinition, ...]
    seed: int = 7
    header: RunHeader = field(default_factory=RunHeader)

    def __post_init__(self) -> None:
        if not self.definitions:
            raise InvalidInput("no attribute to learn: add a definition to attributes/, or name another --feature-repo")


@dataclass(frozen=True)
class TrainingRows:
    """Everything that decides a student, before TensorFlow is imported.

    Attributes:
        videos: how many have features.
        prepared: inputs of the labelled videos, in the order of `silver.video_ids`.
        spec: of the embeddings.
        silver: the labels of the videos in `prepared`.
        student_id: see `features.student.card.compute_student_id`.
        failures: labelled videos and labels that cannot be used.
    """

    videos: int
    prepared: Prepared
    spec: InputSpec
    silver: Silver
    student_id: str
    failures: tuple[Failure, ...]


def newest_features(workspace: Workspace) -> pa.Table:
    """The light columns of each video's newest row, sorted by video id. Raises NothingToLearn when there are none."""
    parts = [read_parquet(file.path, [*LIGHT_COLUMNS, "extracted_at"]) for file in workspace.files("features")]
    if not parts:
        raise NothingToLearn(f"{workspace.root}: no features yet; run `vidattr extract` first")
    table = pa.concat_tables(parts).sort_by([("video_id", "ascending"), ("extracted_at", "ascending")])
    ids = np.asarray(table["video_id"].to_pylist(), object)
    last_of_each = np.append(ids[1:] != ids[:-1], True) if len(ids) else np.zeros(0, np.bool_)
    return table.filter(pa.array(last_of_each)).select(list(LIGHT_COLUMNS))


def resolved_labels(
    annotations: Iterable[Annotation], definitions: Sequence[AttributeDefinition], content_keys: Mapping[str, str]
) -> tuple[list[Label], list[BadLabel]]:
    """The most trusted current answer of each pair, and the pairs whose current answers are all invalid.

    Args:
        annotations: in any order.
        definitions: an answer to an older one is left out.
        content_keys: of each video's newest features; an answer about other content is left out, since what it saw is not
            what the student would see.
    """
    wanted = {definition.name: definition for definition in definitions}
    pairs: dict[tuple[str, str], list[Annotation]] = {}
    for each in annotations:
        if each.source != "student" and each.attribute in wanted:
            pairs.setdefault((each.video_id, each.attribute), []).append(each)
    labels, bad = [], []
    for (video_id, attribute), group in sorted(pairs.items()):
        refused: Permanent | None = None
        content_key = content_keys.get(video_id, "")
        for each in believed(group, wanted[attribute], content_key):
            if each.value is None or outdated(each, wanted[attribute], content_key):
                continue
            try:
                checked_number(wanted[attribute], each)
            except Permanent as error:
                refused = refused or error
                continue
            labels.append(Label(video_id, attribute, each.value, each.probability, each.source, each.answer_key))
            break
        else:
            if refused is not None:
                bad.append(BadLabel(video_id, attribute, refused.kind, str(refused)))
    return labels, bad


def read_annotations(workspace: Workspace, attributes: Sequence[str]) -> Iterator[Annotation]:
    """What others than students said about some attributes, oldest first; rationales stay on disk."""
    columns = [name for name in Annotation.SCHEMA.names if name != "rationale"]
    for file in workspace.files("annotations"):
        table = read_parquet(file.path, columns)
        table = table.filter(
            pc.and_(pc.not_equal(table["source"], "student"), pc.is_in(table["attribute"], pa.array(list(attributes), pa.string())))
        )
        yield from from_table(table.append_column("rationale", pa.array([""] * len(table), pa.string())), Annotation)


def training_rows(config: DistillConfig) -> TrainingRows:
    """Joins features with labels. Raises NothingToLearn when there is nothing to learn from."""
    features = newest_features(config.workspace)
    content_keys = dict(zip(features["video_id"].to_pylist(), features["content_key"].to_pylist(), strict=True))
    annotations = read_annotations(config.workspace, [definition.name for definition in config.definitions])
    labels, bad = resolved_labels(annotations, config.definitions, content_keys)
    labelled = features.filter(pa.array(labelled_rows(labels, features["video_id"].to_pylist())))
    if not len(labelled):
        raise NothingToLearn(
            f"{config.workspace.root}: no video has both features and an answer about them; run `vidattr annotate` first"
        )
    batch = labelled.combine_chunks().to_batches()[0]
    spec = infer_spec([batch])
    prepared = prepare(batch, spec)
    ids = batch.column("video_id").to_pylist()
    usable = [ids[row] for row in prepared.rows.tolist()]
    silver = silver_set(config.definitions, labels, usable)
    if not silver.heads:
        raise NothingToLearn(f"{config.workspace.root}: nothing can be learned. {' '.join(silver.notes)}")
    now, run_id = datetime.now(UTC), config.header.run_id
    failures = [
        Failure(ids[problem.row], STAGE, problem.kind, problem.message, failed_at=now, run_id=run_id)
        for problem in prepared.problems
    ]
    failures += [
        Failure(each.video_id, STAGE, each.kind, each.message, each.attribute, failed_at=now, run_id=run_id)
        for each in (*bad, *silver.bad)
        if each.video_id in content_keys
    ]
    student_id = compute_student_id(
        config.definitions,
        labels,
        {video_id: content_keys[video_id] for video_id in usable},
        prepared.batch,
        {"seed": config.seed},
    )
    return TrainingRows(len(features), prepared, spec, silver, student_id, tuple(failures))


def counts(rows: TrainingRows, attributes: int, reused: bool) -> tuple[Counts, Counts]:
    """Law 1 for a student: what it learned from, what could not be used, and what nobody has answered yet (pending)."""
    unusable = {failure.video_id for failure in rows.failures if not failure.attribute}
    learned_pairs = int(rows.silver.mask.sum())
    learned = int(rows.silver.mask.any(axis=1).sum())
    dead_pairs = len(unusable) * attributes + len({(f.video_id, f.attribute) for f in rows.failures if f.attribute} - {
        (f.video_id, f.attribute) for f in rows.failures if f.video_id in unusable
    })  # fmt: skip
    trained = {
        video_id for video_id, any_label in zip(rows.silver.video_ids, rows.silver.mask.any(axis=1), strict=True) if any_label
    }
    dead = len({failure.video_id for failure in rows.failures} - trained)
    pairs = rows.videos * attributes
    return (
        Counts(rows.videos, learned, dead, rows.videos - learned - dead, learned if reused else 0),
        Counts(pairs, learned_pairs, dead_pairs, pairs - learned_pairs - dead_pairs, learned_pairs if reused else 0),
    )


def build(pipeline: beam.Pipeline, path: str, spec: InputSpec, folder: str) -> None:
    """Wires analysis and transform of the rows in `path` (see `pipelines.transform.TransformRows`)."""
    from pipelines.transform import TransformRows

    pipeline | "TransformRows" >> TransformRows(path, spec, folder)


@dataclass(frozen=True)
class Fitted:
    """A trained student that is not published yet.

    Attributes:
        transformed: the training rows as the network saw them, and the frozen graph.
        trained: the network and how it does.
        timings: seconds by phase.
    """

    transformed: Transformed
    trained: Trained
    timings: dict[str, float]


def fit(config: DistillConfig, rows: TrainingRows, folder: str, beam_args: Sequence[str] = ()) -> Fitted:
    """Analyses and transforms the rows in Beam, and trains. `folder` holds the graph for as long as the result is used."""
    began = time.monotonic()
    from features.student.training import TrainingOptions, train
    from pipelines.transform import read_transformed, write_rows

    imported = time.monotonic()
    pipeline = make_pipeline(beam_args)
    build(pipeline, write_rows(rows.prepared.batch, folder), rows.spec, folder)
    pipeline.run().wait_until_finish()
    transformed = read_transformed(folder)
    ready = time.monotonic()
    trained = train(transformed.inputs, rows.silver, TrainingOptions(seed=config.seed))
    laps = {"import": imported - began, "transform": ready - imported, "train": time.monotonic() - ready}
    return Fitted(transformed, trained, {name: round(seconds, 2) for name, seconds in laps.items()})


def publish(config: DistillConfig, rows: TrainingRows, fitted: Fitted) -> StudentCard:
    """Fuses and saves the student into the workspace, whole or not at all."""
    from features.student.export import publish_student

    notes = (*fitted.trained.notes, *rows.silver.notes)
    card = StudentCard(rows.student_id, CODE_VERSION, rows.silver.heads, rows.spec, fitted.trained.metrics, notes)
    return publish_student(fitted.transformed.output.transform_features_layer(), fitted.trained.network, card, config.workspace)


def distill(config: DistillConfig, rows: TrainingRows, timings: dict[str, float], beam_args: Sequence[str] = ()) -> StudentCard:
    """Trains and publishes; adds seconds by phase to `timings`."""
    folder = tempfile.mkdtemp(prefix="vidattr-distill-")
    try:
        fitted = fit(config, rows, folder, beam_args)
        timings.update(fitted.timings)
        began = time.monotonic()
        card = publish(config, rows, fitted)
        timings["export"] = round(time.monotonic() - began, 2)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return card


def run(config: DistillConfig, beam_args: Sequence[str] = ()) -> RunRecord:
    """Distils here, to the end, and returns the run's record; an intact student that is there already is kept and reused.

    Raises:
        NothingToLearn: there are too few answers.
        InvalidInput: the Beam options name a runner on other machines.
    """
    check_place(config.workspace, ())
    if PipelineOptions(list(beam_args)).view_as(StandardOptions).runner not in LOCAL_RUNNERS:
        raise InvalidInput("distill runs on this machine only: leave --runner out (extract, annotate and score take it)")
    began = time.monotonic()
    rows = training_rows(config)
    timings = {"read": round(time.monotonic() - began, 2)}
    present = intact_card(student_folder(config.workspace, rows.student_id))
    reused = present is not None
    card = present or distill(config, rows, timings, beam_args)
    of_videos, of_pairs = counts(rows, len(config.definitions), reused)
    for name in ("annotated", "dead_lettered", "pending"):
        count(STAGE, name, getattr(of_videos, name))
    files = {}
    if rows.failures:
        files["failures"] = [config.workspace.write_table("failures", config.header.run_id, to_table(rows.failures, Failure))]
    finished = datetime.now(UTC)
    record = RunRecord(
        run_id=config.header.run_id,
        stage=STAGE,
        started_at=config.header.started_at,
        finished_at=finished,
        arguments=config.header.arguments,
        versions={**config.header.versions, "student": CODE_VERSION},
        counts=of_videos,
        pair_counts=of_pairs,
        timings={**timings, "total": (finished - config.header.started_at).total_seconds()},
        peak_memory_bytes=peak_memory_bytes(),
        files=files,
        details={
            "student_id": card.student_id,
            "reused": reused,
            "attributes": {head.attribute: {"teacher": head.teacher, "labelled": head.labelled} for head in card.heads},
            "metrics": card.metrics,
            "notes": list(card.notes),
            "spec": asdict(card.spec),
            **{f"kind/{kind}": number for kind, number in sorted(Counter(failure.kind for failure in rows.failures).items())},
        },
    )
    config.workspace.commit(record)
    return record
