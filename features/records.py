"""The records that flow from stage to stage, each a frozen dataclass with its Arrow schema.

Every table on disk is Parquet with one of the schemas below; `to_table` and `from_table` convert without loss. Floats that do
not apply are NaN inside fixed-order lists and null elsewhere. Times are UTC.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter
from typing import Any, ClassVar, Literal, TypeVar

import pyarrow as pa

Source = Literal["gold", "adjudicated", "llm", "baseline", "student"]
"""Who speaks in an annotation. `features.serving.resolution` says who is believed."""

VISUAL_STATS: tuple[str, ...] = (
    "brightness",  # mean luma, 0 (black) to 1 (white)
    "contrast",  # mean standard deviation of luma within a frame, 0 to 0.5
    "saturation",  # mean HSV saturation, 0 to 1
    "warmth",  # mean of (red - blue), -1 (blue) to 1 (red)
    "colorfulness",  # Hasler and Suesstrunk 2003 (M3) divided by 100, 0 to about 1.5
    "sharpness",  # log10(1 + variance of the Laplacian) of 8-bit luma, 0 to about 4
    "motion",  # mean absolute luma difference of neighbouring sampled frames, 0 to 1
    "cut_rate",  # hard cuts a second, 0 and up; NaN where only keyframes were decoded
)
"""Names and order of `VideoFeatures.visual_stats`."""

SOUND_STATS: tuple[str, ...] = (
    "loudness_dbfs",  # RMS level, dB relative to full scale, -90 (silence) to 0
    "peak_dbfs",  # highest sample, dB relative to full scale, -90 to 0
    "dynamic_range_db",  # 95th minus 10th percentile of 50 ms levels, 0 to 90
    "silence_share",  # share of 50 ms windows below -50 dBFS, 0 to 1
    "spectral_centroid_hz",  # energy-weighted mean frequency, 0 to 8000
    "zero_crossing_rate",  # sign changes a sample, 0 to 1
    "onset_rate_hz",  # rises in spectral flux a second, 0 and up
)
"""Names and order of `VideoFeatures.sound_stats`; all NaN for a clip without sound."""


def digest(*parts: str | bytes) -> str:
    """The first 32 hex digits of SHA-256 over length-prefixed parts, so that ("ab", "c") and ("a", "bc") differ."""
    return digest_of(b"".join(map(prefixed, parts)))


def prefixed(part: str | bytes) -> bytes:
    """A part as `digest` reads it: eight bytes of its length, little-endian, and itself."""
    data = part.encode() if isinstance(part, str) else part
    return len(data).to_bytes(8, "little") + data


def digest_of(prefixed_parts: bytes) -> str:
    """What `digest` gives for parts that are prefixed already."""
    return hashlib.sha256(prefixed_parts).hexdigest()[:32]


def _field(name: str, kind: pa.DataType, doc: str, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"doc": doc})


_UTC = pa.timestamp("us", "UTC")
_FRAME = pa.struct(
    [
        pa.field("timestamp_s", pa.float32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("jpeg", pa.binary(), nullable=False),
    ]
)
_MOMENT = pa.struct([pa.field("start_s", pa.float32(), nullable=False), pa.field("end_s", pa.float32(), nullable=False)])
_SEGMENT = pa.struct(
    [
        pa.field("start_s", pa.float32(), nullable=False),
        pa.field("end_s", pa.float32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)
_TAG = pa.struct([pa.field("name", pa.string(), nullable=False), pa.field("probability", pa.float32(), nullable=False)])


@dataclass(frozen=True)
class Video:
    """One manifest row: what a platform says about a video before anybody has looked at it."""

    video_id: str
    uri: str
    title: str = ""
    description: str = ""
    hashtags: tuple[str, ...] = ()
    creator_id: str = ""
    published_at: datetime | None = None
    language: str = ""
    transcript: str | None = None
    embedding: tuple[float, ...] | None = None
    frame_embeddings: tuple[tuple[float, ...], ...] = ()
    extra: str = "{}"

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            _field("video_id", pa.string(), "unique in the manifest; 1 to 256 characters, no control characters"),
            _field("uri", pa.string(), "absolute local path or gs:// address, confined to the manifest's roots"),
            _field("title", pa.string(), "as shown to viewers, untrusted"),
            _field("description", pa.string(), "as shown to viewers, untrusted"),
            _field("hashtags", pa.list_(pa.string()), "without the leading #, untrusted"),
            _field("creator_id", pa.string(), "whoever uploaded it"),
            _field("published_at", _UTC, "when it went public", True),
            _field("language", pa.string(), "BCP 47, empty when unknown"),
            _field("transcript", pa.string(), "wins over speech recognition when given", True),
            _field("embedding", pa.list_(pa.float32()), "replaces the built-in visual embedding when given", True),
            _field("frame_embeddings", pa.list_(pa.list_(pa.float32())), "where `embedding` is given a frame: those"),
            _field("extra", pa.string(), "every other column of the manifest, as a JSON object"),
        ]
    )

    @property
    def text_digest(self) -> str:
        """Digest of everything in the row that an annotator may be shown, the address of the bytes left out."""
        return digest(
            self.title,
            self.description,
            "\x1f".join(self.hashtags),
            self.language,
            "" if self.transcript is None else "t" + self.transcript,
        )

    @property
    def row_digest(self) -> str:
        """Digest of everything in the row that no annotator is shown: a change of it needs no decoding and asks nobody again."""
        published = "" if self.published_at is None else self.published_at.isoformat()
        embedding = "" if self.embedding is None else ",".join(map(repr, self.embedding))
        frames = [repr(self.frame_embeddings)] if self.frame_embeddings else []
        return digest(self.uri, self.creator_id, published, self.extra, embedding, *frames)

    def content_key(self, content_hash: str) -> str:
        """Identity of what can be seen and read of this video: its bytes and its manifest text.

        It is the content part of an `answer_key` (law 2): a new title asks again, a new address or extractor does not.
        """
        return digest(content_hash, self.text_digest)


@dataclass(frozen=True)
class Frame:
    """One still of a video, upright, JPEG.

    Attributes:
        timestamp_s: seconds from the start of the video.
        width, height: pixels, the longest side at most 512.
        jpeg: the encoded picture.
    """

    timestamp_s: float
    width: int
    height: int
    jpeg: bytes


@dataclass(frozen=True)
class Tag:
    """A thing seen in a video, with the visual model's probability (0 to 1)."""

    name: str
    probability: float


@dataclass(frozen=True)
class Segment:
    """What was said between two seconds of a video, untrusted: 0 <= start_s <= end_s."""

    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True)
class Moment:
    """Seconds of a video that carry a verdict: 0 <= start_s <= end_s <= the video's duration."""

    start_s: float
    end_s: float


@dataclass(frozen=True)
class VideoFeatures:
    """What extraction says about one video, its manifest text included: all that an annotator or a student may use."""

    video_id: str
    content_hash: str
    content_key: str
    extractor_version: str
    row_digest: str = ""
    own_embedding: bool = False
    uri: str = ""
    title: str = ""
    description: str = ""
    hashtags: tuple[str, ...] = ()
    creator_id: str = ""
    published_at: datetime | None = None
    language: str = ""
    extra: str = "{}"
    container: str = ""
    video_codec: str = ""
    duration_s: float = 0.0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    rotation: int = 0
    has_audio: bool = False
    frames: tuple[Frame, ...] = ()
    shot_starts_s: tuple[float, ...] = ()
    visual_stats: tuple[float, ...] = ()
    sound_stats: tuple[float, ...] = ()
    transcript: str = ""
    transcript_source: Literal["manifest", "speech", "none"] = "none"
    speech_segments: tuple[Segment, ...] = ()
    spoken_language: str = ""
    onscreen_text: str = ""
    tempo_bpm: float | None = None
    text_embedding: tuple[float, ...] = ()
    visual_embedding: tuple[float, ...] = ()
    frame_embeddings: tuple[tuple[float, ...], ...] = ()
    visual_tags: tuple[Tag, ...] = ()
    fingerprints: tuple[bytes, ...] = ()
    fingerprint_times_s: tuple[float, ...] = ()
    decode_warnings: tuple[str, ...] = ()
    extracted_at: datetime | None = None
    run_id: str = ""

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            _field("video_id", pa.string(), "the manifest's id"),
            _field("content_hash", pa.string(), "SHA-256 of the file's bytes, 64 hex digits"),
            _field("content_key", pa.string(), "digest of content_hash and the manifest text (Video.content_key)"),
            _field("extractor_version", pa.string(), "version of everything that made this row, weights included"),
            _field("row_digest", pa.string(), "digest of the manifest row beside its text (Video.row_digest)"),
            _field("own_embedding", pa.bool_(), "visual_embedding is the manifest's column"),
            _field("uri", pa.string(), "where the bytes were read"),
            _field("title", pa.string(), "manifest, untrusted"),
            _field("description", pa.string(), "manifest, untrusted"),
            _field("hashtags", pa.list_(pa.string()), "manifest, untrusted"),
            _field("creator_id", pa.string(), "manifest"),
            _field("published_at", _UTC, "manifest", True),
            _field("language", pa.string(), "manifest, BCP 47, empty when unknown"),
            _field("extra", pa.string(), "manifest, other columns as a JSON object"),
            _field("container", pa.string(), "FFmpeg's name of the container"),
            _field("video_codec", pa.string(), "FFmpeg's name of the video codec"),
            _field("duration_s", pa.float32(), "seconds, 0 when the file does not say and nothing could be counted"),
            _field("width", pa.int32(), "pixels as displayed: after rotation and sample aspect ratio"),
            _field("height", pa.int32(), "pixels as displayed"),
            _field("fps", pa.float32(), "average frames a second, 0 when unknown"),
            _field("rotation", pa.int32(), "degrees the picture was turned to stand upright: 0, 90, 180, 270"),
            _field("has_audio", pa.bool_(), "a sound stream that decoded"),
            _field("frames", pa.list_(_FRAME), "up to eight stills across the clip, upright, in time order"),
            _field("shot_starts_s", pa.list_(pa.float32()), "seconds, the first one 0; empty where only keyframes were decoded"),
            _field("visual_stats", pa.list_(pa.float32()), "in the order of VISUAL_STATS"),
            _field("sound_stats", pa.list_(pa.float32()), "in the order of SOUND_STATS, NaN without sound"),
            _field("transcript", pa.string(), "speech, untrusted"),
            _field("transcript_source", pa.string(), "manifest, speech or none"),
            _field(
                "speech_segments", pa.list_(_SEGMENT), "what was said when, in time order, untrusted; of recognised speech only"
            ),
            _field("spoken_language", pa.string(), "BCP 47, of recognised speech; empty without any"),
            _field(
                "onscreen_text",
                pa.string(),
                "words in the picture, untrusted, a line each in the order they appear; empty: none read",
            ),
            _field(
                "tempo_bpm", pa.float32(), "beats a minute of its music; null without a beat, or without the extra `audio`", True
            ),
            _field("text_embedding", pa.list_(pa.float32()), "unit length; all text of the video"),
            _field("visual_embedding", pa.list_(pa.float32()), "mean over frames, or the manifest's column"),
            _field("frame_embeddings", pa.list_(pa.list_(pa.float32())), "of each of `frames`; empty unless they are asked for"),
            _field("visual_tags", pa.list_(_TAG), "confident things seen, highest probability first"),
            _field("fingerprints", pa.list_(pa.binary()), "perceptual hashes over the clip, 50 bytes each"),
            _field("fingerprint_times_s", pa.list_(pa.float32()), "seconds, of each of `fingerprints`"),
            _field("decode_warnings", pa.list_(pa.string()), "what was wrong with the file but survivable"),
            _field("extracted_at", _UTC, "when", True),
            _field("run_id", pa.string(), "the run that wrote this row"),
        ]
    )


@dataclass(frozen=True)
class Annotation:
    """One answer to one attribute of one video, and who gave it.

    `value` is text for every value type: `true` or `false`, a label, or a number within the definition's range. None is a
    retraction: this source no longer says anything, and the next most trusted one speaks (law 5).
    """

    video_id: str
    attribute: str
    definition_hash: str
    value: str | None
    probability: float | None
    rationale: str
    source: Source
    annotator: str
    answer_key: str
    content_key: str = ""
    teacher: str = ""
    calibrated_by: str = ""
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    annotated_at: datetime | None = None
    run_id: str = ""
    raw_probability: float | None = None
    moments: tuple[Moment, ...] = ()
    carried_from: str = ""

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            _field("video_id", pa.string(), "the manifest's id"),
            _field("attribute", pa.string(), "the definition's name"),
            _field("definition_hash", pa.string(), "the definition that was answered, 32 hex digits"),
            _field("value", pa.string(), "true or false, a label, or a number; null is a retraction", True),
            _field("probability", pa.float32(), "of `true`, or of the given label; 0 to 1; null when there is none", True),
            _field("rationale", pa.string(), "short, names the evidence"),
            _field("source", pa.string(), "gold, adjudicated, llm, baseline or student"),
            _field("annotator", pa.string(), "model id and version, or the raters' group"),
            _field("answer_key", pa.string(), "digest of content, definition, prompt, model and parameters"),
            _field(
                "content_key", pa.string(), "the content that was answered about (Video.content_key); empty: whatever it is now"
            ),
            _field("teacher", pa.string(), "a student's teacher's source: llm, baseline, ...; empty otherwise"),
            _field("calibrated_by", pa.string(), "calibration that made `probability` one; empty: raw"),
            _field("input_tokens", pa.int64(), "paid input tokens, cached ones included"),
            _field("cached_input_tokens", pa.int64(), "of which read from the provider's prefix cache"),
            _field("output_tokens", pa.int64(), "paid output tokens"),
            _field("cost_usd", pa.float64(), "US dollars, 0 for local models"),
            _field("annotated_at", _UTC, "when it was given; a reused answer counts as given again", True),
            _field("run_id", pa.string(), "the run that wrote this row"),
            _field("raw_probability", pa.float32(), "`probability` as the annotator gave it, before any calibration", True),
            _field("moments", pa.list_(_MOMENT), "seconds that carry the verdict, where the annotator names them"),
            _field("carried_from", pa.string(), "the near-duplicate that was asked about instead; empty: this video was"),
        ]
    )


@dataclass(frozen=True)
class Failure:
    """A dead letter: one video (or one attribute of it) that a stage could not do, and why."""

    video_id: str
    stage: str
    kind: str
    message: str
    attribute: str = ""
    content_key: str = ""
    attempts: int = 1
    last_reply_digest: str = ""
    failed_at: datetime | None = None
    run_id: str = ""

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            _field("video_id", pa.string(), "the manifest's id, or `row N` where a row has none"),
            _field("stage", pa.string(), "extract, annotate, score or materialize"),
            _field("kind", pa.string(), "a short stable word: not_a_video, too_large, timed_out, ..."),
            _field("message", pa.string(), "for a person: the value, the place, the remedy; secrets redacted"),
            _field("attribute", pa.string(), "which attribute, empty for the whole video"),
            _field("content_key", pa.string(), "what failed, and is not tried again until this changes; empty: try again"),
            _field("attempts", pa.int32(), "how often it was tried in this run; 0: carried over unchanged"),
            _field("last_reply_digest", pa.string(), "digest of the last reply, empty when there was none"),
            _field("failed_at", _UTC, "when", True),
            _field("run_id", pa.string(), "the run that wrote this row"),
        ]
    )


@dataclass(frozen=True)
class Duplicate:
    """A video that is a copy of another one, the lead of its group; a lead has no row.

    Groups are made anew by every run: only the rows of the newest one count.
    """

    video_id: str
    lead_id: str
    content_hash: str
    lead_content_hash: str
    overlap: float
    shift_s: float
    distance_bits: float
    found_at: datetime | None = None
    run_id: str = ""

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            _field("video_id", pa.string(), "the manifest's id"),
            _field("lead_id", pa.string(), "the video of its group that is asked about"),
            _field("content_hash", pa.string(), "the bytes that were compared (VideoFeatures.content_hash)"),
            _field("lead_content_hash", pa.string(), "those of the lead"),
            _field("overlap", pa.float32(), "share of the shorter one's pictures that the other one has too, 0 to 1"),
            _field("shift_s", pa.float32(), "seconds after the lead's beginning at which this one begins; below 0: before it"),
            _field("distance_bits", pa.float32(), "mean distance of fingerprints that lie together, bits"),
            _field("found_at", _UTC, "when", True),
            _field("run_id", pa.string(), "the run that wrote this row"),
        ]
    )


@dataclass(frozen=True)
class ResolvedAttribute:
    """What the system believes about one attribute of one video, after `features.serving.resolution` (law 5).

    Source `absent` means that nobody says anything any more: every opinion was retracted or refused. The newest row of a
    (video_id, attribute) is the present belief.
    """

    video_id: str
    attribute: str
    number: float | None
    value: str | None
    source: str
    probability: float | None
    definition_hash: str
    annotated_at: datetime | None
    stale: bool
    annotator: str
    run_id: str = ""

    SCHEMA: ClassVar[pa.Schema] = pa.schema(
        [
            _field("video_id", pa.string(), "the manifest's id"),
            _field("attribute", pa.string(), "the definition's name"),
            _field("number", pa.float32(), "what is stored online (AttributeDefinition.number); null when absent", True),
            _field("value", pa.string(), "true or false, a label, or a number as text; null when absent", True),
            _field("source", pa.string(), "gold, adjudicated, llm, baseline, student, or absent"),
            _field("probability", pa.float32(), "of `true`, or of the given label; 0 to 1; null when there is none", True),
            _field("definition_hash", pa.string(), "the definition that was answered, empty when absent"),
            _field("annotated_at", _UTC, "when the answer arrived", True),
            _field("stale", pa.bool_(), "the definition has changed since, and nobody has answered the new one yet"),
            _field("annotator", pa.string(), "model id and version, or the raters' group; empty when absent"),
            _field("run_id", pa.string(), "the run that wrote this row"),
        ]
    )


@dataclass(frozen=True)
class Counts:
    """The law of counts (law 1): `in` = annotated + dead_lettered + pending, of videos or of (video, attribute) pairs.

    `annotated` means done in the words of the stage that counts; `reused` says how many of them needed no work in this run.
    """

    into: int = 0
    annotated: int = 0
    dead_lettered: int = 0
    pending: int = 0
    reused: int = 0

    def __post_init__(self) -> None:
        if self.into != self.annotated + self.dead_lettered + self.pending or self.reused > self.annotated:
            raise ValueError(f"the law of counts is broken: {self}")

    def as_dict(self) -> dict[str, int]:
        """For JSON: `into` is spelled `in` there."""
        return {("in" if name == "into" else name): number for name, number in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, counts: Mapping[str, int]) -> Counts:
        """The inverse of `as_dict`."""
        return cls(**{("into" if name == "in" else name): number for name, number in counts.items()})


@dataclass(frozen=True)
class RunRecord:
    """What a run did. Written last: a run without one did not happen, and readers ignore its files.

    Attributes:
        run_id: sorts by start time.
        stage: extract, duplicates, annotate, distill, score, materialize or run.
        arguments: what was asked, secrets left out.
        versions: of the code, the extractor, models and libraries that decided the result.
        counts: of videos.
        pair_counts: of (video, attribute) pairs; None for a stage without any.
        files: for each table, the files of this run that count; whatever else lies in its folder does not.
        timings: seconds by phase; `busy: PHASE` is what all workers together spent on one.
        peak_memory_bytes: highest resident memory of the process and its children, 0 where unknown.
        details: stage-specific facts for a person (metrics, notes); JSON values only.
        forecast: what the run was expected to take, see `pipelines.forecasting`; empty where nothing was forecast.
    """

    run_id: str
    stage: str
    started_at: datetime
    finished_at: datetime
    arguments: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    pair_counts: Counts | None = None
    input_tokens: int = 0
    cached_input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    files: dict[str, list[str]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    forecast: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, times as ISO 8601."""
        document = dataclasses.asdict(self)
        document["started_at"] = self.started_at.isoformat()
        document["finished_at"] = self.finished_at.isoformat()
        document["counts"] = self.counts.as_dict()
        document["pair_counts"] = self.pair_counts and self.pair_counts.as_dict()
        return document

    def to_json(self) -> str:
        return json.dumps(self.as_dict(), indent=1, sort_keys=True, default=str)

    @classmethod
    def from_json(cls, text: str | bytes) -> RunRecord:
        """The inverse of `to_json`. Raises ValueError or TypeError on anything else."""
        document = json.loads(text)
        document["started_at"] = datetime.fromisoformat(document["started_at"])
        document["finished_at"] = datetime.fromisoformat(document["finished_at"])
        document["counts"] = Counts.from_dict(document["counts"])
        if document["pair_counts"] is not None:
            document["pair_counts"] = Counts.from_dict(document["pair_counts"])
        return cls(**document)


Row = Video | VideoFeatures | Annotation | Failure | Duplicate | ResolvedAttribute
R = TypeVar("R", Video, VideoFeatures, Annotation, Failure, Duplicate, ResolvedAttribute)

_NESTED: dict[tuple[type, str], type] = {
    (VideoFeatures, "frames"): Frame,
    (VideoFeatures, "visual_tags"): Tag,
    (VideoFeatures, "speech_segments"): Segment,
    (Annotation, "moments"): Moment,
}


def to_table(rows: Iterable[Row], kind: type[R]) -> pa.Table:
    """Records of one kind as an Arrow table with exactly `kind.SCHEMA`. Raises ValueError when a required field is None."""
    names = kind.SCHEMA.names
    columns: Sequence[Sequence[Any]] = list(zip(*map(attrgetter(*names), rows), strict=True)) or [()] * len(names)
    arrays = []
    for field_, column in zip(kind.SCHEMA, columns, strict=True):
        if (kind, field_.name) in _NESTED:
            column = [None if items is None else [vars(item) for item in items] for items in column]
        arrays.append(pa.array(column, field_.type))
    table = pa.Table.from_arrays(arrays, schema=kind.SCHEMA)
    for column in kind.SCHEMA:
        if not column.nullable and table[column.name].null_count:
            raise ValueError(f"{kind.__name__}.{column.name} is None in {table[column.name].null_count} rows, and must not be")
    return table


def from_table(table: pa.Table | pa.RecordBatch, kind: type[R]) -> Iterator[R]:
    """The inverse of `to_table`; columns that are absent keep the dataclass's default."""
    for plain in table.to_pylist():
        for name, value in plain.items():
            nested = _NESTED.get((kind, name))
            if nested is not None:
                plain[name] = tuple(nested(**item) for item in value or ())
            elif isinstance(value, list):
                plain[name] = tuple(tuple(item) if isinstance(item, list) else item for item in value)
        yield kind(**plain)


def named_stats(names: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """`values` under their names; an empty dict when there are none. Raises ValueError when the lengths differ."""
    return dict(zip(names, values, strict=True)) if values else {}
