"""Stage 1: a manifest of videos -> the features table, and a dead letter for each video that does not decode."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.pvalue import TaggedOutput

from features.errors import Permanent, Transient
from features.records import Failure, RunRecord, Video, VideoFeatures, digest, from_table
from features.videos.manifest import read_manifest
from features.videos.probe import Limits
from features.workspace import Workspace, latest, read_parquet, trusted_seconds
from pipelines import stopping
from pipelines.counters import count
from pipelines.encoders import EncoderConfig, build_extractor
from pipelines.io import CommitRun, ReadColumns, WriteTable, finish, tallies, to_batch
from pipelines.options import RunHeader, check_place, make_pipeline

STAGE = "extract"


@dataclass(frozen=True)
class ExtractConfig:
    """What to extract and where to put it.

    Attributes:
        workspace: where features, failures and the run record go.
        videos: manifest, folder or glob, local or gs://.
        roots: further folders that uris may lie in, beside the manifest's own.
        retry_failed: try dead letters of the same content again.
        encoders: which models look and listen.
        limits: what one video may be and cost.
        workers: videos decoded at the same time in a process.
        rows_per_file: features files are closed after so many videos. A killed run loses at most one open file; few and large
            ones suit a cluster, which does its own retries.
    """

    workspace: Workspace
    videos: str
    roots: tuple[str, ...] = ()
    retry_failed: bool = False
    encoders: EncoderConfig = field(default_factory=EncoderConfig)
    limits: Limits = field(default_factory=Limits)
    workers: int = 2
    rows_per_file: int = 16
    header: RunHeader = field(default_factory=RunHeader)


def video_to_json(video: Video) -> str:
    """A manifest row as stable text, for keys and shuffles."""
    row = dict(vars(video))
    row["published_at"] = video.published_at and video.published_at.isoformat()
    return json.dumps(row)


def video_from_json(text: str) -> Video:
    """The inverse of `video_to_json`."""
    row = json.loads(text)
    row["published_at"] = row["published_at"] and datetime.fromisoformat(row["published_at"])
    for name in ("hashtags", "embedding"):
        row[name] = None if row[name] is None else tuple(row[name])
    row["frame_embeddings"] = tuple(map(tuple, row["frame_embeddings"]))
    return Video(**row)


def manifest_rows(location: str, roots: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(video id, row as JSON) of every manifest row; a row that cannot be used carries its `problem` instead."""
    for row in read_manifest(location, roots):
        yield row.video_id, json.dumps({"problem": row.problem}) if row.video is None else video_to_json(row.video)


KNOWN = ("video_id", "content_key", "extractor_version", "row_digest", "own_embedding", "extracted_at")


@dataclass(frozen=True)
class KnownRow:
    """What an earlier run made of a video.

    Attributes:
        seconds: when it was extracted; the newest row of those that count is the video's.
        content_key, extractor_version, row_digest, own_embedding: as in `VideoFeatures`.
        path: the features file it stands in.
        orphan: the file is what a killed run left, and counts for nobody.
    """

    seconds: float
    content_key: str
    extractor_version: str
    row_digest: str
    own_embedding: bool
    path: str
    orphan: bool


def known_features(listed: str, batch: pa.RecordBatch) -> Iterator[tuple[str, str]]:
    """(video id, `KnownRow` as JSON) for each row of a features file."""
    file = json.loads(listed)
    for row in batch.to_pylist():
        known = KnownRow(trusted_seconds(row["extracted_at"]), *(row[name] for name in KNOWN[1:-1]), file["path"], file["orphan"])
        yield row["video_id"], json.dumps(list(vars(known).values()))


def reusable(known: Iterable[str], video: Video, content_key: str, version: str) -> KnownRow | None:
    """The earlier row that saves decoding this video, if any.

    Of the rows that count only the newest will do, since that is the one readers take; of orphans, one that is newer.
    """
    rows = [KnownRow(*json.loads(text)) for text in known]
    newest = max((row for row in rows if not row.orphan), key=lambda row: row.seconds, default=None)

    def fits(row: KnownRow) -> bool:
        own = video.embedding is not None
        same_embedding = own or not row.own_embedding
        return (row.content_key, row.extractor_version) == (content_key, version) and same_embedding

    if newest is not None and fits(newest):
        return newest
    since = 0.0 if newest is None else newest.seconds
    orphans = [row for row in rows if row.orphan and row.seconds > since and fits(row)]
    return max(orphans, key=lambda row: row.seconds, default=None)


@lru_cache(maxsize=4)
def _rows_of(path: str) -> pa.Table:
    return read_parquet(path)


def carried_over(known: KnownRow, video: Video, run_id: str, now: datetime) -> VideoFeatures:
    """An earlier row with what the manifest says today about things that nobody is shown."""
    table = _rows_of(known.path)
    rows = from_table(table.filter(pc.equal(table["video_id"], video.video_id)), VideoFeatures)
    row = latest(rows)[video.video_id]
    own = video.embedding is not None
    return replace(
        row,
        row_digest=video.row_digest,
        own_embedding=own,
        uri=video.uri,
        creator_id=video.creator_id,
        published_at=video.published_at,
        extra=video.extra,
        visual_embedding=row.visual_embedding if video.embedding is None else video.embedding,
        frame_embeddings=video.frame_embeddings if own else row.frame_embeddings,
        extracted_at=now,
        run_id=run_id,
    )


def known_failures(listed: str, batch: pa.RecordBatch) -> Iterator[tuple[str, str]]:
    """(video id, an earlier dead letter as JSON) for failures that would happen again unchanged."""
    for row in batch.to_pylist():
        if row["stage"] == STAGE and row["content_key"]:
            yield row["video_id"], json.dumps([row["content_key"], row["kind"], row["message"]])


Outputs = list[Any]


class ExtractFn(beam.DoFn):
    """Extracts videos, several at a time; main output: RecordBatches of VideoFeatures.

    Tagged outputs: `failures` (RecordBatches of Failure) and `tallies`.
    """

    def __init__(self, config: ExtractConfig) -> None:
        self._config = config

    def setup(self) -> None:
        self._extractor = build_extractor(self._config.encoders, self._config.limits, self._config.workers)
        self._extractor.open()
        self._version = self._extractor.extractor_version
        self._limits = digest(repr(self._config.limits))
        self._pool = ThreadPoolExecutor(self._config.workers)
        self._told = False

    def teardown(self) -> None:
        self._pool.shutdown()
        self._extractor.close()

    def process(self, batch: list[tuple[str, dict[str, Iterable[str]]]]) -> Iterator[Any]:
        decoded = False
        for outcome, outputs in self._pool.map(self._one, batch):
            decoded |= outcome == "annotated"
            # Counted here and not in the pool, whose threads Beam does not know.
            count(STAGE, outcome)
            yield from outputs
            yield from tallies({f"video/{outcome}": 1})
        if decoded and not self._told:
            self._told = True
            yield from tallies(dict.fromkeys(self._walls(), 1))
        yield from tallies({f"busy_us/{phase}": round(1e6 * seconds) for phase, seconds in self._extractor.busy.take().items()})

    def _walls(self) -> list[str]:
        """For the run record: what a hostile file could have reached where it was decoded."""
        try:
            return [f"detail/decoder: {wall} within reach" for wall in self._extractor.open_walls()] or ["detail/decoder: sealed"]
        except (Transient, OSError):
            return ["detail/decoder: not examined"]

    def _one(self, element: tuple[str, dict[str, Iterable[str]]]) -> tuple[str, Outputs]:
        video_id, groups = element
        rows = list(groups["rows"])
        if len(rows) > 1:
            return self._dead(video_id, "duplicate_id", f"{video_id!r} stands in {len(rows)} manifest rows: make ids unique")
        row = json.loads(rows[0])
        if "problem" in row:
            return self._dead(video_id, "invalid_row", row["problem"])
        if stopping.requested():
            return "pending", []
        video, content_key = video_from_json(rows[0]), ""
        run_id, now = self._config.header.run_id, datetime.now(UTC)
        try:
            with self._extractor.fetch(video) as fetched:
                content_key = video.content_key(fetched.content_hash)
                known = reusable(groups["features"], video, content_key, self._version)
                if known is not None:
                    if known.row_digest == video.row_digest and not known.orphan:
                        return "reused", []
                    return "reused", [to_batch([carried_over(known, video, run_id, now)], VideoFeatures)]
                for known_key, kind, message in map(json.loads, groups["failures"]):
                    if known_key == self._failure_key(content_key) and not self._config.retry_failed:
                        return self._dead(video_id, kind, message, known_key, attempts=0)
                features = self._extractor.extract(video, fetched, run_id, now)
        except Permanent as error:
            return self._dead(video_id, error.kind, str(error), self._failure_key(content_key))
        except Transient as error:
            return self._dead(video_id, "unavailable", str(error))
        return "annotated", [to_batch([features], VideoFeatures)]

    def _failure_key(self, content_key: str) -> str:
        """What must change for a failure to be worth another try: the content, the extractor or its limits."""
        return f"{content_key}/{self._version}/{self._limits}" if content_key else ""

    def _dead(self, video_id: str, kind: str, message: str, content_key: str = "", attempts: int = 1) -> tuple[str, Outputs]:
        now, run_id = datetime.now(UTC), self._config.header.run_id
        failure = Failure(video_id, STAGE, kind, message, "", content_key, attempts, failed_at=now, run_id=run_id)
        return "dead_lettered", [TaggedOutput("failures", to_batch([failure], Failure)), *tallies({f"kind/{kind}": 1})]


def build(pipeline: beam.Pipeline, config: ExtractConfig) -> None:
    """Wires the stage."""
    workspace, run_id = config.workspace, config.header.run_id
    rows = (
        pipeline
        | "NameManifest" >> beam.Create([(config.videos, list(config.roots))])
        | "ReadManifest" >> beam.FlatMapTuple(manifest_rows).with_output_types(tuple[str, str])
    )
    features = (
        pipeline
        | "ReadKnownFeatures" >> ReadColumns(workspace, "features", KNOWN, orphans=True)
        | "KeyFeatures" >> beam.FlatMapTuple(known_features).with_output_types(tuple[str, str])
    )
    failures = (
        pipeline
        | "ReadKnownFailures" >> ReadColumns(workspace, "failures", ("video_id", "stage", "content_key", "kind", "message"))
        | "KeyFailures" >> beam.FlatMapTuple(known_failures).with_output_types(tuple[str, str])
    )
    extracted = (
        {"rows": rows, "features": features, "failures": failures}
        | "MatchKnown" >> beam.CoGroupByKey()
        | "KeepWanted" >> beam.Filter(lambda element: bool(element[1]["rows"]))
        | "Batch" >> beam.BatchElements(min_batch_size=1, max_batch_size=16, target_batch_duration_secs=20)
        | "ExtractFeatures"
        >> beam.ParDo(ExtractFn(config)).with_outputs("failures", "tallies", main="features").with_output_types(pa.RecordBatch)
    )
    entered = rows | "DistinctIds" >> beam.CombinePerKey(lambda rows: 1) | "Enter" >> beam.Map(lambda _: ("video/in", 1))
    written = (
        extracted.features
        | "WriteFeatures" >> WriteTable(workspace, "features", run_id, config.rows_per_file, max_bytes=256 << 20),
        extracted.failures | "WriteFailures" >> WriteTable(workspace, "failures", run_id),
    )
    written | "CommitRun" >> CommitRun(workspace, STAGE, config.header, (entered, extracted.tallies))


def run(config: ExtractConfig, beam_args: Sequence[str] = ()) -> RunRecord:
    """Extracts here, to the end, and returns the run's record."""
    check_place(config.workspace, ())
    pipeline = make_pipeline(beam_args)
    build(pipeline, config)
    return finish(pipeline, config.workspace, config.header)
