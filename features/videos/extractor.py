"""From one manifest row to its `VideoFeatures`: fetch the bytes, decode them apart, listen, read, look, and put it together."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from features import storage
from features.errors import Permanent, Transient
from features.records import Frame, Tag, Video, VideoFeatures, digest
from features.videos import frames as stills
from features.videos.decoding import Decoded, Decoder, open_media
from features.videos.frames import Image, Still, encode_jpeg
from features.videos.probe import Limits
from features.videos.sound import SPEECH_S, Samples
from features.videos.stopwatch import BusySeconds, Stopwatch
from features.videos.wire import MODES

CODE_VERSION = "3"
"""Raised whenever the same bytes and weights would give other features."""

TAG_PROBABILITY = 0.4
MAX_TAGS = 8
IMAGE_BATCH = 64
PIECE_CHARACTERS = 500
MAX_PIECES = 64

Floats = NDArray[np.float32]


class Transcriber(Protocol):
    """Speech recognition."""

    @property
    def version(self) -> str:
        """Identity of code and weights."""
        ...

    def transcribe(self, pcm: Samples, language: str) -> str:
        """The words in mono 16 kHz sound; the language is BCP 47, empty when unknown. Empty without speech."""
        ...


class TextEncoder(Protocol):
    """Sentence embedding."""

    @property
    def version(self) -> str:
        """Identity of code and weights."""
        ...

    def encode(self, texts: Sequence[str]) -> Floats:
        """One row of unit length for each text, shape (n, d)."""
        ...


class VisualEncoder(Protocol):
    """Image embedding and classification."""

    @property
    def version(self) -> str:
        """Identity of code and weights."""
        ...

    @property
    def labels(self) -> Sequence[str]:
        """Names of the classes, in the order of the probabilities."""
        ...

    def encode(self, images: Sequence[Image]) -> tuple[Floats, Floats]:
        """For RGB pictures of any size: embeddings, shape (n, d), and probabilities, shape (n, len(labels))."""
        ...


@dataclass(frozen=True)
class Fetched:
    """A video's bytes on the local disk.

    Attributes:
        path: where; temporary for objects of gs://.
        content_hash: SHA-256 of the bytes, 64 hex digits.
        bytes: how many.
        modified_ns: the file's time stamp when it was hashed.
    """

    path: str
    content_hash: str
    bytes: int
    modified_ns: int


def hash_file(path: str, limits: Limits | None = None) -> Fetched:
    """Reads a local file once for its digest. Raises Permanent as `open_media` does."""
    with open_media(path, limits or Limits()) as file:
        facts = os.fstat(file.fileno())
        return Fetched(
            path, hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest(), facts.st_size, facts.st_mtime_ns
        )


def content_hash(path: str) -> str:
    """SHA-256 of a local file's bytes, 64 hex digits. Raises Permanent as `open_media` does."""
    return hash_file(path).content_hash


class Extractor:
    """Extracts videos. Use between `open` and `close`, or as a context manager.

    Args:
        transcriber, text_encoder, visual_encoder: any may be None; what it would fill stays empty.
        limits: what one video may cost.
        workers: videos decoded at the same time.
        frames: how stills are chosen, one of `features.videos.wire.MODES`.

    Attributes:
        busy: where the time went, by phase, over all threads.
    """

    def __init__(
        self,
        transcriber: Transcriber | None = None,
        text_encoder: TextEncoder | None = None,
        visual_encoder: VisualEncoder | None = None,
        limits: Limits | None = None,
        workers: int = 2,
        frames: str = MODES[0],
    ) -> None:
        self._transcriber = transcriber
        self._text_encoder = text_encoder
        self._visual_encoder = visual_encoder
        self.limits = limits or Limits()
        self._workers, self._mode = workers, frames
        self._decoder: Decoder | None = None
        self.busy = BusySeconds()

    @property
    def extractor_version(self) -> str:
        """Changes with the code, the settings of frames and speech, and each encoder's version."""
        encoders = (self._transcriber, self._text_encoder, self._visual_encoder)
        settings = (
            self._mode,
            stills.STILLS,
            stills.LONGEST_SIDE,
            stills.JPEG_QUALITY,
            stills.THUMBNAIL_STEP_S,
            SPEECH_S,
            TAG_PROBABILITY,
        )
        versions = ["none" if encoder is None else encoder.version for encoder in encoders]
        return f"{CODE_VERSION}-{digest(CODE_VERSION, repr(settings), *versions)[:12]}"

    def open(self) -> None:
        """Makes ready. Safe to call twice."""
        if self._decoder is None:
            self._decoder = Decoder(self._workers, self._mode)

    def close(self) -> None:
        """Ends the decoding processes. Safe to call twice."""
        decoder, self._decoder = self._decoder, None
        if decoder is not None:
            decoder.close()

    def open_walls(self) -> tuple[str, ...]:
        """What a decoder could still reach on this machine, of `features.videos.sealed_room.WALLS`. Raises Transient."""
        if self._decoder is None:
            raise RuntimeError("open the extractor first")
        return tuple(wall for wall, how in self._decoder.examine().items() if not how)

    def __enter__(self) -> Extractor:
        self.open()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @contextmanager
    def fetch(self, video: Video) -> Iterator[Fetched]:
        """A video's bytes, on the local disk for as long as the context lasts.

        Raises:
            Permanent: `missing`, `forbidden`, `unreadable`, `is_a_directory`, `not_a_file`, `empty` or `file_too_large`.
            Transient: storage did not answer.
        """
        watch = Stopwatch()
        with self._on_disk(video) as path:
            fetched = hash_file(path, self.limits)
            watch.lap("fetch")
            self.busy.add(watch.seconds)
            yield fetched

    @contextmanager
    def _on_disk(self, video: Video) -> Iterator[str]:
        """The path of a video's bytes."""
        if not storage.is_gcs(video.uri):
            yield video.uri
            return
        with tempfile.TemporaryDirectory(prefix="vidattr-") as folder:
            path = os.path.join(folder, "video")
            try:
                found = storage.size(video.uri)
                if found > self.limits.max_bytes:
                    raise Permanent(
                        f"{video.uri}: {found} bytes, and limits.max_bytes is {self.limits.max_bytes}; raise it in vidattr.yaml",
                        "file_too_large",
                    )
                storage.download(video.uri, path)
            except FileNotFoundError as error:
                raise Permanent(f"{video.uri}: no such object; correct the manifest's uri", "missing") from error
            yield path

    def extract(self, video: Video, fetched: Fetched, run_id: str, now: datetime) -> VideoFeatures:
        """The features of one video. Raises Permanent or Transient."""
        (result,) = self.extract_many([(video, fetched)], run_id, now)
        if isinstance(result, VideoFeatures):
            return result
        raise result

    def extract_many(
        self, items: Sequence[tuple[Video, Fetched]], run_id: str, now: datetime
    ) -> list[VideoFeatures | Permanent | Transient]:
        """The features of several videos in the order given, or why there are none.

        Videos are decoded side by side; pictures and texts of all of them are encoded in batches. All are held in memory at
        once, about 15 MB each.
        """
        if self._decoder is None:
            raise RuntimeError("open the extractor first")
        with ThreadPoolExecutor(max(1, min(self._workers, len(items)))) as pool:
            results = list(pool.map(self._decode, (fetched for _, fetched in items)))
        watch = Stopwatch()
        good = [(video, fetched, clip) for (video, fetched), clip in zip(items, results, strict=True) if isinstance(clip, Decoded)]
        spoken = [self._transcript(video, clip) for video, _, clip in good]
        watch.lap("speech")
        texts = self._embed_texts([video_text(video, said) for (video, _, _), (said, _) in zip(good, spoken, strict=True)])
        watch.lap("text")
        looks = self._look([clip for _, _, clip in good])
        watch.lap("embed")
        assembled = [
            self._assemble(video, fetched, clip, *speech, text, *look, run_id, now)
            for (video, fetched, clip), speech, text, look in zip(good, spoken, texts, looks, strict=True)
        ]
        watch.lap("frames")
        self.busy.add(watch.seconds)
        rows = iter(assembled)
        return [next(rows) if isinstance(result, Decoded) else result for result in results]

    def _decode(self, fetched: Fetched) -> Decoded | Permanent | Transient:
        assert self._decoder is not None
        watch = Stopwatch()
        seconds: Mapping[str, float] = {}
        try:
            decoded = self._decoder.decode(fetched.path, self.limits)
            seconds = decoded.seconds
            facts = os.stat(fetched.path)
        except (Permanent, Transient) as error:
            return error
        except OSError as error:
            return Permanent(f"{fetched.path}: gone while it was read ({error.strerror})", "missing")
        finally:
            watch.lap("process")
            self.busy.add({**seconds, "process": max(0.0, watch.seconds["process"] - sum(seconds.values()))})
        if (facts.st_size, facts.st_mtime_ns) != (fetched.bytes, fetched.modified_ns):
            return Transient(f"{fetched.path}: changed while it was read; run again when its upload is complete")
        return decoded

    def _transcript(self, video: Video, clip: Decoded) -> tuple[str, Literal["manifest", "speech", "none"]]:
        if video.transcript is not None:
            return video.transcript, "manifest"
        if self._transcriber is None or not clip.has_audio:
            return "", "none"
        said = self._transcriber.transcribe(clip.speech, video.language).strip()
        return said, "speech" if said else "none"

    def _embed_texts(self, texts: Sequence[str]) -> list[tuple[float, ...]]:
        """One embedding a text, of unit length: the mean over its pieces; empty for no text."""
        if self._text_encoder is None:
            return [()] * len(texts)
        pieces = [text_pieces(text) for text in texts]
        flat = [piece for some in pieces for piece in some]
        rows = self._text_encoder.encode(flat) if flat else np.zeros((0, 1), np.float32)
        found: list[tuple[float, ...]] = []
        start = 0
        for some in pieces:
            mean = rows[start : start + len(some)].mean(axis=0, dtype=np.float64) if some else np.zeros(0)
            start += len(some)
            length = float(np.linalg.norm(mean))
            found.append(tuple(float(value) for value in mean / length) if length > 0 else ())
        return found

    def _look(self, clips: Sequence[Decoded]) -> list[tuple[tuple[float, ...], tuple[Tag, ...]]]:
        """Embedding and tags of each clip, its pictures encoded together with those of its neighbours."""
        if self._visual_encoder is None or not clips:
            return [((), ())] * len(clips)
        images = [still.image for clip in clips for still in clip.stills]
        batches = [self._visual_encoder.encode(images[start : start + IMAGE_BATCH]) for start in range(0, len(images), IMAGE_BATCH)]
        embeddings = np.concatenate([embedding for embedding, _ in batches])
        probabilities = np.concatenate([probability for _, probability in batches])
        labels = self._visual_encoder.labels
        found = []
        start = 0
        for clip in clips:
            end = start + len(clip.stills)
            mean = embeddings[start:end].mean(axis=0, dtype=np.float64)
            tags = tags_of(probabilities[start:end], labels)
            found.append((tuple(float(value) for value in mean), tags))
            start = end
        return found

    def _assemble(
        self,
        video: Video,
        fetched: Fetched,
        clip: Decoded,
        transcript: str,
        source: Literal["manifest", "speech", "none"],
        text_embedding: tuple[float, ...],
        visual_embedding: tuple[float, ...],
        tags: tuple[Tag, ...],
        run_id: str,
        now: datetime,
    ) -> VideoFeatures:
        return VideoFeatures(
            video_id=video.video_id,
            content_hash=fetched.content_hash,
            content_key=video.content_key(fetched.content_hash),
            extractor_version=self.extractor_version,
            row_digest=video.row_digest,
            own_embedding=video.embedding is not None,
            uri=video.uri,
            title=video.title,
            description=video.description,
            hashtags=video.hashtags,
            creator_id=video.creator_id,
            published_at=video.published_at,
            language=video.language,
            extra=video.extra,
            container=clip.container,
            video_codec=clip.video_codec,
            duration_s=clip.duration_s,
            width=clip.width,
            height=clip.height,
            fps=clip.fps,
            rotation=clip.rotation,
            has_audio=clip.has_audio,
            frames=tuple(_frame(still) for still in clip.stills),
            shot_starts_s=clip.shot_starts_s,
            visual_stats=clip.visual_stats,
            sound_stats=clip.sound_stats,
            transcript=transcript,
            transcript_source=source,
            text_embedding=text_embedding,
            visual_embedding=visual_embedding if video.embedding is None else video.embedding,
            visual_tags=tags,
            fingerprints=clip.fingerprints,
            fingerprint_times_s=clip.fingerprint_times_s,
            decode_warnings=clip.warnings,
            extracted_at=now,
            run_id=run_id,
        )


def _frame(still: Still) -> Frame:
    height, width = still.image.shape[:2]
    return Frame(still.timestamp_s, width, height, encode_jpeg(still.image))


def video_text(video: Video, transcript: str) -> str:
    """All words of a video: title, description, hashtags and transcript, one after the other."""
    parts: Iterable[str] = (video.title, video.description, " ".join(video.hashtags), transcript)
    return "\n".join(part.strip() for part in parts if part.strip())


def text_pieces(text: str) -> list[str]:
    """A text in pieces of about 100 English words, so that an encoder that reads 128 tokens sees all of it.

    Of a very long one, 64 pieces spread over it.
    """
    pieces = textwrap.wrap(text, PIECE_CHARACTERS, break_on_hyphens=False)
    if len(pieces) > MAX_PIECES:
        pieces = [pieces[round(at * (len(pieces) - 1) / (MAX_PIECES - 1))] for at in range(MAX_PIECES)]
    return pieces


def tags_of(probabilities: Floats, labels: Sequence[str]) -> tuple[Tag, ...]:
    """What is confidently seen in any picture: at most eight labels with a probability of 0.4 or more, highest first.

    Args:
        probabilities: shape (pictures, labels). Below about 0.4 the built-in model's guesses are nonsense.
    """
    highest = probabilities.max(axis=0)
    confident = [int(at) for at in np.flatnonzero(highest >= TAG_PROBABILITY)]
    order = sorted(confident, key=lambda at: (-highest[at], at))
    return tuple(Tag(labels[at], float(highest[at])) for at in order[:MAX_TAGS])
