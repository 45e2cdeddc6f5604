"""What there is to ask: every (video, attribute) pair that has no answer yet, or whose dead letter is to be asked again.

Only ids, keys and file names are shuffled; no row is read whole.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import TaggedOutput

from features.attributes.definition import AttributeDefinition
from features.errors import InvalidInput
from features.records import Annotation, Failure
from features.workspace import Workspace, trusted_seconds
from pipelines.annotators import AnnotatorConfig, Whose, build_annotator
from pipelines.carrying import AskedThrough, Through
from pipelines.counters import count
from pipelines.extract import STAGE as EXTRACT
from pipelines.extract import manifest_rows
from pipelines.io import IndexFeatures, ReadColumns, tallies, to_batch
from pipelines.options import RunHeader

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
        retry_failed: ask again what was refused before although nothing about it changed.
        only_failed: ask again what was refused before and has no answer since, and nothing else.
        kinds: of these dead letters, only these; empty: all.
        without_failures_of: leave out videos that this extract run did not get through, whatever features earlier runs left.
        duplicates: of near-duplicates ask about one, and carry its answers over to the others; False: ask about each.
        lock_timeout_s: how long to wait for another annotation of this workspace.
        noted: further facts for the run record.
    """

    workspace: Workspace
    definitions: tuple[AttributeDefinition, ...]
    annotator: AnnotatorConfig = field(default_factory=AnnotatorConfig)
    golden: tuple[Annotation, ...] = ()
    videos: str = ""
    roots: tuple[str, ...] = ()
    retry_failed: bool = False
    only_failed: bool = False
    kinds: tuple[str, ...] = ()
    without_failures_of: str = ""
    duplicates: bool = True
    lock_timeout_s: float = 5.0
    header: RunHeader = field(default_factory=RunHeader)
    noted: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        if not self.definitions:
            raise InvalidInput("no attribute to ask about: add a definition to attributes/, or name another --feature-repo")
        if self.kinds and not self.only_failed:
            raise InvalidInput("--kind chooses among dead letters: pass --only-failed with it")


@dataclass(frozen=True)
class Question:
    """What is to be asked about one video.

    Attributes:
        video_id: whose.
        asked: attributes to ask about.
        reused: how many others are answered already.
        dead: how many others were refused before and are not asked again.
        about: the near-duplicate that is asked about in its place; empty: itself.
        content_key: its own one, where it is not asked about itself.
    """

    video_id: str
    asked: tuple[str, ...]
    reused: int
    dead: int
    about: str = ""
    content_key: str = ""

    @property
    def subject(self) -> str:
        """The video that the annotator is shown."""
        return self.about or self.video_id

    def to_json(self) -> str:
        return json.dumps(list(vars(self).values()))

    @classmethod
    def from_json(cls, text: str) -> Question:
        """The inverse of `to_json`."""
        video_id, asked, *rest = json.loads(text)
        return cls(video_id, tuple(asked), *rest)

    def outcome(self, annotated: int, stored: int, pending: int) -> str:
        """Of the video: pending before dead-lettered before annotated."""
        if pending:
            return "pending"
        if not annotated + stored + self.reused:
            return "dead_lettered"
        return "annotated" if annotated else "reused"


def index_annotations(_: str, batch: pa.RecordBatch) -> Iterator[tuple[str, str]]:
    """(video id, [seconds, attribute, source, answer key, whether it is a retraction, content key] as JSON), students left out."""
    for row in batch.to_pylist():
        if row["source"] != "student":
            answer = [
                trusted_seconds(row["annotated_at"]),
                row["attribute"],
                row["source"],
                row["answer_key"],
                row["value"] is None,
                row["content_key"],
            ]
            yield row["video_id"], json.dumps(answer)


def index_failures(_: str, batch: pa.RecordBatch) -> Iterator[tuple[str, str]]:
    """(video id, [seconds, stage, run, attribute, key, kind, message] as JSON) for dead letters of extract and of this stage."""
    for row in batch.to_pylist():
        if row["stage"] in (STAGE, EXTRACT):
            letter = [row[name] for name in ("stage", "run_id", "attribute", "content_key", "kind", "message")]
            yield row["video_id"], json.dumps([trusted_seconds(row["failed_at"]), *letter])


class PlanFn(beam.DoFn):
    """Finds out what is not answered yet; main output: (features file, questions about one video as JSON).

    The file is that of the video that the annotator is shown.

    Tagged outputs: `gold` (RecordBatches of gold Annotations that are new, changed or withdrawn), `failures` (what was refused
    before and is not asked again) and `tallies`.
    """

    def __init__(self, config: AnnotateConfig) -> None:
        self._config = config

    def setup(self) -> None:
        self._names = [definition.name for definition in self._config.definitions]
        self._whose = Whose.of(build_annotator(self._config.annotator, self._config.workspace, store=False))

    def process(self, element: tuple[str, dict[str, Iterable[str]]]) -> Iterator[Any]:
        video_id, groups = element
        known = sorted(json.loads(text) for text in groups["annotations"])
        yield from self._gold(video_id, [json.loads(text) for text in groups["gold"]], known)
        letters = sorted(json.loads(text) for text in groups["failures"])
        places = [json.loads(text) for text in groups["features"]]
        lost = any((stage, run) == (EXTRACT, self._config.without_failures_of) for _, stage, run, *_ in letters)
        if not places or lost or not (groups["wanted"] or not self._config.videos):
            return
        _, path, content_key, content_hash = max(places)
        through = next((each for each in map(Through.from_json, groups["through"]) if each.content_hash == content_hash), None)
        refused = {attribute: (when, *rest) for when, stage, _, attribute, *rest in letters if stage == STAGE}
        if self._config.only_failed:
            asked = self._reopened(known, refused)
            dead: list[str] = []
            pairs = len(asked)
        else:
            asked, dead = self._open(content_key, through, known, refused)
            pairs = len(self._config.definitions)
        if not pairs:
            return
        question = Question(video_id, tuple(asked), pairs - len(asked) - len(dead), len(dead))
        if through is not None:
            path, question = through.path, replace(question, about=through.lead_id, content_key=content_key)
        count(STAGE, "in", pairs)
        count(STAGE, "reused", question.reused)
        count(STAGE, "dead_lettered", question.dead)
        yield from tallies({"video/in": 1, "pair/in": pairs, "pair/reused": question.reused, "pair/dead_lettered": question.dead})
        if dead:
            rest = [(name, *refused[name][1:], "") for name in dead]
            yield from dead_letters(video_id, rest, self._config.header.run_id, attempts=0)
        if asked:
            yield path, question.to_json()
        else:
            yield from tallies({f"video/{question.outcome(0, 0, 0)}": 1})

    def _open(
        self, content_key: str, through: Through | None, known: list[Any], refused: dict[str, tuple[Any, ...]]
    ) -> tuple[list[str], list[str]]:
        """What has no answer: (what is asked, what was refused before and is not).

        A near-duplicate has one where the other video was asked about for it, or it was once itself. One that was carried over to
        what it was before is carried over again.
        """
        if not known and not refused:
            return list(self._names), []
        newest = {(attribute, source): None if gone else (key, about) for _, attribute, source, key, gone, about in known}
        shown = content_key if through is None else through.content_key
        asked, dead = [], []
        for definition in self._config.definitions:
            name, definition_hash, whose = definition.name, definition.definition_hash, self._whose
            if any((newest.get((name, source)) or ("",))[0] == key for source, key in whose.accepted(content_key, definition_hash)):
                continue
            if through and any(newest.get((name, by)) == (key, content_key) for by, key in whose.accepted(shown, definition_hash)):
                continue
            letter = refused.get(name)
            same = letter is not None and letter[1] == whose.refused_key(shown, definition_hash)
            (dead if same and not self._config.retry_failed else asked).append(name)
        return asked, dead

    def _reopened(self, known: list[Any], refused: dict[str, tuple[Any, ...]]) -> list[str]:
        """What has a dead letter of the wanted kinds and no answer since."""
        answered = {attribute: when for when, attribute, source, _, gone, _ in known if source != "gold" and not gone}
        asked = []
        for definition in self._config.definitions:
            letter = refused.get(definition.name)
            if letter is None or answered.get(definition.name, -1.0) > letter[0]:
                continue
            if not self._config.kinds or letter[2] in self._config.kinds:
                asked.append(definition.name)
        return asked

    def _gold(self, video_id: str, labels: list[dict[str, Any]], known: list[Any]) -> Iterator[TaggedOutput]:
        now, header = datetime.now(UTC), self._config.header
        before = {attribute: (key, gone) for _, attribute, source, key, gone, _ in known if source == "gold"}
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


@dataclass(eq=False)
class Plan(beam.PTransform):
    """What a workspace leaves to ask, from an empty start: the outputs of `PlanFn`."""

    config: AnnotateConfig

    def expand(self, pipeline: beam.Pipeline) -> Any:
        config, workspace = self.config, self.config.workspace
        answered = ("video_id", "annotated_at", "attribute", "source", "answer_key", "value", "content_key")
        failed = ("video_id", "failed_at", "stage", "run_id", "attribute", "content_key", "kind", "message")
        gold = [(label.video_id, label_json(label)) for label in config.golden]
        index = pipeline | "IndexFeatures" >> IndexFeatures(workspace, content_hash=True)
        through = index | "AskThrough" >> AskedThrough(workspace) if config.duplicates else None
        groups = {
            "features": index,
            "through": through or pipeline | "AskEach" >> beam.Create([]).with_output_types(tuple[str, str]),
            "annotations": pipeline
            | "ReadKnownAnswers" >> ReadColumns(workspace, "annotations", answered)
            | "KeyAnnotations" >> beam.FlatMapTuple(index_annotations).with_output_types(tuple[str, str]),
            "failures": pipeline
            | "ReadKnownFailures" >> ReadColumns(workspace, "failures", failed)
            | "KeyFailures" >> beam.FlatMapTuple(index_failures).with_output_types(tuple[str, str]),
            "wanted": pipeline
            | "NameManifest" >> beam.Create([(config.videos, list(config.roots))] if config.videos else [])
            | "ReadManifest" >> beam.FlatMapTuple(manifest_rows).with_output_types(tuple[str, str])
            | "KeepIds" >> beam.MapTuple(lambda video_id, row: (video_id, "")).with_output_types(tuple[str, str]),
            "gold": pipeline | "GoldenSet" >> beam.Create(gold).with_output_types(tuple[str, str]),
        }
        return (
            groups
            | "MatchKnown" >> beam.CoGroupByKey()
            | "PlanQuestions"
            >> beam.ParDo(PlanFn(config))
            .with_outputs("gold", "failures", "tallies", main="questions")
            .with_output_types(tuple[str, str])
        )


def label_json(label: Annotation) -> str:
    """A gold label as JSON from which `Annotation(**...)` makes it again, its time and moments left out."""
    return json.dumps({name: value for name, value in vars(label).items() if name not in ("annotated_at", "moments")})
