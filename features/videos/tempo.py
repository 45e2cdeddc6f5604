"""How fast a video's music is, by librosa's onset envelope. Optional: `available` says why it cannot be measured here."""

from __future__ import annotations

import importlib.util
import threading
from importlib.metadata import version as installed_version

import numpy as np
from numpy.typing import NDArray

from features.errors import InvalidInput
from features.videos.sound import RATE, Samples

SLOWEST_BPM, FASTEST_BPM = 50.0, 210.0
LIKELIEST_BPM = 120.0
"""Of a beat and its double, both as regular, the one nearer to this by octaves is taken (as in librosa): 180 may be called 90."""
WINDOW, HOP = 1024, 160
"""Samples: windows of 64 ms, 10 ms apart."""
LEAST_S = 3.0
"""Less sound than this has too few beats to tell."""
STRENGTH = 0.4
"""Correlation of the onset envelope with itself one beat later. Recorded music has 0.5 to 0.9; speech and noise stay below 0.3."""
STRENGTH_TWICE = 0.3
"""The same two beats later."""
RISE_DB = 2.6
"""Rise within 10 ms, mean over all bands, that one window in a hundred must exceed: below it nothing is struck. Music has 2.8 and
more; chords that swell and voices that hum regularly have up to 2.5."""

_EXTRA = "measuring the tempo needs librosa: pip install 'vidattr[audio]'"


def available() -> str | None:
    """Why the tempo cannot be measured here, or None when it can."""
    return None if importlib.util.find_spec("librosa") else _EXTRA


class LibrosaTempoMeter:
    """Beats a minute, where there is a beat. The first call in a process takes some seconds, since librosa is compiled then.

    Raises:
        InvalidInput: as `available` says.
    """

    def __init__(self) -> None:
        if reason := available():
            raise InvalidInput(reason)
        self.version = f"librosa-{installed_version('librosa')}"
        self._lock = threading.Lock()

    def warm(self) -> None:
        """Compiles what a call needs."""
        self.beats_a_minute(np.zeros(int(LEAST_S * RATE), np.float32))

    def beats_a_minute(self, pcm: Samples) -> float | None:
        """The tempo of a sound, 50 to 210 beats a minute; None where no beat is clear.

        A beat is clear when the onset envelope (mean rise of the mel spectrogram in dB) resembles itself one beat and two beats
        later, by `STRENGTH` and `STRENGTH_TWICE`, and rises enough, by `RISE_DB`. Which of several periods is the beat is decided
        as in Ellis, "Beat tracking by dynamic programming" (2007): by the autocorrelation, weighted towards 120 a minute.

        Args:
            pcm: mono, 16 kHz, -1 to 1.
        """
        sound = np.nan_to_num(np.ascontiguousarray(pcm, np.float32), nan=0.0, posinf=1.0, neginf=-1.0)
        if sound.size < LEAST_S * RATE:
            return None
        import librosa

        with self._lock:
            rises = librosa.onset.onset_strength(y=sound, sr=RATE, n_fft=WINDOW, hop_length=HOP)
        return beat_of(np.asarray(rises, np.float64))


def beat_of(rises: NDArray[np.float64]) -> float | None:
    """The beats a minute of an onset envelope in dB, one value each 10 ms; None where no beat is clear."""
    if np.percentile(rises, 99) < RISE_DB:
        return None
    likeness = _autocorrelation(rises, 2 * round(60 * RATE / HOP / SLOWEST_BPM) + 3)
    lags = np.arange(1, len(likeness) - 1)
    tempi = 60 * RATE / HOP / lags
    middle, before, after = likeness[1:-1], likeness[:-2], likeness[2:]
    peaks = (middle >= STRENGTH) & (middle >= before) & (middle > after) & (tempi >= SLOWEST_BPM) & (tempi <= FASTEST_BPM)
    if not peaks.any():
        return None
    weighted = np.where(peaks, middle, 0.0) * np.exp(-0.5 * np.log2(tempi / LIKELIEST_BPM) ** 2)
    best = int(lags[weighted.argmax()])
    twice = likeness[2 * best - 2 : 2 * best + 3]
    if not len(twice) or twice.max() < STRENGTH_TWICE:
        return None
    return float(60 * RATE / HOP / (best + _top(*likeness[best - 1 : best + 2])))


def _autocorrelation(values: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Correlation of values with themselves 0 to `count` - 1 places later, fewer where half of the values would not meet."""
    centred = values - values.mean()
    size = len(centred)
    spectrum = np.fft.rfft(centred, 2 * size)
    raw = np.fft.irfft(np.abs(spectrum) ** 2)[: min(count, size // 2)]
    places = np.arange(len(raw))
    result: NDArray[np.float64] = raw / max(float(raw[0]), 1e-12) * size / (size - places)
    return result


def _top(before: float, middle: float, after: float) -> float:
    """Where the parabola through three values a place apart is highest, -0.5 to 0.5 places from the middle one."""
    bend = before - 2 * middle + after
    return 0.5 * (before - after) / bend if bend < 0 else 0.0


def load_tempo_meter() -> LibrosaTempoMeter:
    """A meter that is not warm yet. Raises InvalidInput as `available` says."""
    return LibrosaTempoMeter()
