"""From one manifest row to its `VideoFeatures`: fetch the bytes, decode them apart, listen, read, look, and put it together."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

import numpy as np

from features.errors import InvalidInput, Permanent, Transient
from features.records import Frame, Tag, Video, VideoFeatures, digest
from features.videos import frames as stills
from features.videos.decoding import Decoded, Decoder
from features.videos.fetching import Fetched, hash_file, on_disk
from features.videos.frames import Still, encode_jpeg
from features.videos.probe import Limits
from features.videos.senses import Reader, TempoMeter, TextEncoder, Transcriber, VisualEncoder
from features.videos.sound import SPEECH_S
from features.videos.speech import Speech
from features.videos.stopwatch import BusySeconds, Stopwatch
from features.videos.wire import MODES
from features.videos.wording import TAG_PROBABILITY, tags_of, text_pieces, video_text

CODE_VERSION = "4"
"""Raised whenever the same bytes and weights would give other features."""

IMAGE_BATCH = 64


@dataclass(frozen=True)
class _Words:
    """What is said and shown in one video, and how fast its music is."""

    transcript: str
    source: Literal["manifest", "speech", "none"]
    speech: Speech
    onscreen: str
    tempo_bpm: float | None


@dataclass(frozen=True)
class _Look:
    """What is seen in one video."""

    embedding: tuple[float, ...] = ()
    tags: tuple[Tag, ...] = ()
    frames: tuple[tuple[float, ...], ...] = ()


class Extractor:
    """Extracts videos. Use between `open` and `close`, or as a context manager.

    Args:
        transcriber, text_encoder, visual_encoder, screen_reader, tempo_meter: any may be None; what it would fill stays empty.
        limits: what one video may cost.
        workers: videos decoded at the same time.
        frames: how stills are chosen, one of `features.videos.wire.MODES`.
        per_frame: keep the embedding of each still too.

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
        screen_reader: Reader | None = None,
        tempo_meter: TempoMeter | None = None,
        per_frame: bool = False,
    ) -> None:
        self._transcriber = transcriber
        self._screen_reader = screen_reader
        self._tempo_meter = tempo_meter
        self._text_encoder = text_encoder
        self._visual_encoder = visual_encoder
        self.limits = limits or Limits()
        self._workers, self._mode, self._per_frame = workers, frames, per_frame
        self._decoder: Decoder | None = None
        self.busy = BusySeconds()

    @property
    def extractor_version(self) -> str:
        """Changes with the code, the settings of frames and speech, and the version of each encoder, reader and meter."""
        encoders = (self._transcriber, self._text_encoder, self._visual_encoder, self._screen_reader, self._tempo_meter)
        settings = (
            self._mode,
            stills.STILLS,
            stills.LONGEST_SIDE,
            stills.JPEG_QUALITY,
            stills.THUMBNAIL_STEP_S,
            SPEECH_S,
            TAG_PROBABILITY,
            *["per frame"] * self._per_frame,
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
        with on_disk(video.uri, self.limits) as path:
            fetched = hash_file(path, self.limits)
            watch.lap("fetch")
            self.busy.add(watch.seconds)
            yield fetched

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
        understood = [
            (video, fetched, clip, self._words(video, clip, watch) if isinstance(clip, Decoded) else clip)
            for (video, fetched), clip in zip(items, results, strict=True)
        ]
        good = [
            (video, fetched, clip, words)
            for video, fetched, clip, words in understood
            if isinstance(clip, Decoded) and isinstance(words, _Words)
        ]
        texts = self._embed_texts([video_text(video, words.transcript, words.onscreen) for video, _, _, words in good])
        watch.lap("text")
        looks = self._look([clip for _, _, clip, _ in good])
        watch.lap("embed")
        assembled = [
            replace(
                self._facts(video, fetched, clip),
                transcript=found.transcript,
                transcript_source=found.source,
                speech_segments=found.speech.segments,
                spoken_language=found.speech.language,
                onscreen_text=found.onscreen,
                tempo_bpm=found.tempo_bpm,
                text_embedding=text,
                visual_embedding=look.embedding if video.embedding is None else video.embedding,
                frame_embeddings=look.frames if video.embedding is None else video.frame_embeddings,
                visual_tags=look.tags,
                extracted_at=now,
                run_id=run_id,
            )
            for (video, fetched, clip, found), text, look in zip(good, texts, looks, strict=True)
        ]
        watch.lap("frames")
        self.busy.add(watch.seconds)
        rows = iter(assembled)
        return [next(rows) if isinstance(words, _Words) else words for *_, words in understood]

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

    def _words(self, video: Video, clip: Decoded, watch: Stopwatch) -> _Words | Permanent:
        try:
            return self._heard_and_read(video, clip, watch)
        except (InvalidInput, ImportError, MemoryError, OSError):  # of this machine, not of this video
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {str(error)[:300]}"
            message = f"its sound or its words could not be made out ({reason}): switch off speech, onscreen or tempo to go without"
            return Permanent(message, "sense_error")

    def _heard_and_read(self, video: Video, clip: Decoded, watch: Stopwatch) -> _Words:
        speech, listening = Speech(), video.transcript is None and clip.has_audio
        if self._transcriber is not None and listening:
            speech = self._transcriber.transcribe(clip.speech, video.language)
        watch.lap("speech")
        onscreen = "" if self._screen_reader is None else self._screen_reader.read(clip.stills)
        watch.lap("read")
        tempo_bpm = None
        if self._tempo_meter is not None and clip.has_audio:
            tempo_bpm = self._tempo_meter.beats_a_minute(clip.speech)
        watch.lap("tempo")
        if video.transcript is not None:
            return _Words(video.transcript, "manifest", speech, onscreen, tempo_bpm)
        return _Words(speech.text, "speech" if speech.text else "none", speech, onscreen, tempo_bpm)

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

    def _look(self, clips: Sequence[Decoded]) -> list[_Look]:
        """Each clip's pictures, encoded together with those of its neighbours."""
        if self._visual_encoder is None or not clips:
            return [_Look()] * len(clips)
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
            each = embeddings[start:end] if self._per_frame else ()
            tags = tags_of(probabilities[start:end], labels)
            found.append(_Look(tuple(map(float, mean)), tags, tuple(tuple(map(float, row)) for row in each)))
            start = end
        return found

    def _facts(self, video: Video, fetched: Fetched, clip: Decoded) -> VideoFeatures:
        """What the manifest and the decoder say, before anybody has listened, read or looked."""
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
            fingerprints=clip.fingerprints,
            fingerprint_times_s=clip.fingerprint_times_s,
            decode_warnings=clip.warnings,
        )


def _frame(still: Still) -> Frame:
    height, width = still.image.shape[:2]
    return Frame(still.timestamp_s, width, height, encode_jpeg(still.image))
