"""The sound of a video at 16 kHz, and the seven numbers of `records.SOUND_STATS` about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from numpy.typing import NDArray

from features.videos.packets import each_frame
from features.videos.probe import Limits

RATE = 16_000
SPEECH_S = 120
"""Seconds of sound that are handed on to speech recognition."""

FLOOR_DB = -90.0
SILENCE_DB = -50.0
LEVEL_WINDOW_S = 0.05
ONSET_RISE_DB = 3.0
_FFT = 1024
_HOP = 320
_BANDS = 24

NO_SOUND: tuple[float, ...] = (float("nan"),) * 7
"""As many as SOUND_STATS; records are not imported here, since the decoding process must not load Arrow and its threads."""

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Sound:
    """What was heard.

    Attributes:
        samples: mono, 16 kHz, -1 to 1, empty when nothing decoded.
        warnings: what was wrong and survivable.
    """

    samples: NDArray[np.int16]
    warnings: tuple[str, ...] = ()


def decode_sound(container: InputContainer, index: int, limits: Limits) -> Sound:
    """The sound stream of that index, all channels mixed, up to `max_duration_s`, as 16-bit samples.

    A stream that changes its rate or layout half-way is followed. What does not decode is passed over and mentioned.
    """
    warnings: list[str] = []
    most = int(limits.max_duration_s * RATE)
    parts: list[NDArray[np.int16]] = []
    total = 0
    for part in _mono(_frames(container, index, warnings), warnings):
        parts.append(part[: most - total])
        total += len(parts[-1])
        if total >= most:
            break
    return Sound(np.concatenate(parts) if parts else np.zeros(0, np.int16), tuple(warnings))


def _frames(container: InputContainer, index: int, warnings: list[str]) -> Iterator[AudioFrame]:
    return cast(Iterator[AudioFrame], each_frame(container, container.streams[index], "sound", warnings))


def _mono(frames: Iterator[AudioFrame], warnings: list[str]) -> Iterator[NDArray[np.int16]]:
    """16-bit output, because there swresample scales a mix so that it cannot clip; in float it would not."""
    resampler: AudioResampler | None = None
    shape = None
    for frame in frames:
        now = (frame.sample_rate, frame.layout.name, frame.format.name)
        if resampler is None or now != shape:
            if resampler is not None:
                yield from _flush(resampler)
            resampler, shape = AudioResampler(format="s16", layout="mono", rate=RATE), now
        frame.pts = None
        try:
            resampled = resampler.resample(frame)
        except MemoryError:
            raise
        except (av.FFmpegError, ValueError) as error:
            warnings.append(f"sound of {now[0]} Hz, {now[1]}, cannot be resampled ({type(error).__name__})")
            return
        yield from map(_values, resampled)
    if resampler is not None:
        yield from _flush(resampler)


def _flush(resampler: AudioResampler) -> Iterator[NDArray[np.int16]]:
    yield from map(_values, resampler.resample(None))


def _values(frame: AudioFrame) -> NDArray[np.int16]:
    return frame.to_ndarray().astype(np.int16, copy=False).reshape(-1)


def to_float(samples: NDArray[np.int16]) -> Samples:
    """16-bit samples as float32 within -1 to 1."""
    return samples.astype(np.float32) / np.float32(32768)


def sound_stats(samples: Samples) -> tuple[float, ...]:
    """The numbers in the order of `SOUND_STATS` for mono sound at 16 kHz; all NaN for no samples.

    Levels are 20 log10 of the root mean square over full scale 1.0, so a full-scale sine stands at -3.01 dBFS; nothing is below
    -90. The centroid is the power-weighted mean frequency over all 64 ms Hann windows, 0 for silence.
    """
    if not len(samples):
        return NO_SOUND
    levels = window_levels_db(samples)
    low, high = np.percentile(levels, [10, 95])
    signs = np.signbit(samples)
    centroid, flux = _spectral(samples)
    return (
        _db(float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))),
        _db(float(np.abs(samples).max())),
        float(high - low),
        float(np.mean(levels < SILENCE_DB)),
        centroid,
        float(np.count_nonzero(signs[1:] != signs[:-1]) / max(1, len(samples) - 1)),
        len(onsets(flux)) * RATE / len(samples),
    )


def window_levels_db(samples: Samples) -> NDArray[np.float64]:
    """Root-mean-square level of each 50 ms, dBFS, a last short window included when it is the only one."""
    size = int(LEVEL_WINDOW_S * RATE)
    count = max(1, len(samples) // size)
    windows = samples[: count * size].reshape(count, -1).astype(np.float64)
    power = np.square(windows).mean(axis=1)
    levels: NDArray[np.float64] = np.clip(10 * np.log10(np.maximum(power, 1e-12)), FLOOR_DB, 0.0)
    return levels


def onsets(flux: NDArray[np.float64]) -> list[int]:
    """Windows (20 ms apart) at which the spectral flux peaks: a local maximum well above its surroundings.

    Peak picking after Dixon, "Onset detection revisited" (2006): the highest within 60 ms, above the mean of the 400 ms
    around it by `ONSET_RISE_DB`, and at least 60 ms after the one before.
    """
    found: list[int] = []
    reach, around = 3, 10
    for at in range(len(flux)):
        near = flux[max(0, at - reach) : at + reach + 1]
        usual = flux[max(0, at - around) : at + around + 1].mean()
        if flux[at] >= near.max() and flux[at] >= usual + ONSET_RISE_DB and (not found or at - found[-1] > reach):
            found.append(at)
    return found


def _spectral(samples: Samples) -> tuple[float, NDArray[np.float64]]:
    """Spectral centroid in Hz, and the flux: the mean rise in dB over 24 bands, window by window.

    The bands are equally wide on the mel scale (O'Shaughnessy 1987: 2595 log10(1 + f / 700)); levels stop at -80 dB. What lies
    before the first sample counts as silence; no window reaches beyond the last.
    """
    window = np.hanning(_FFT).astype(np.float32)
    scale = 2 / window.sum()
    padded = np.concatenate([np.zeros(_FFT // 2, np.float32), samples, np.zeros(max(0, _FFT // 2 - len(samples)), np.float32)])
    count = 1 + (len(padded) - _FFT) // _HOP
    frames = np.lib.stride_tricks.sliding_window_view(padded, _FFT)[::_HOP][:count]
    frequencies = np.fft.rfftfreq(_FFT, 1 / RATE)
    mel = 2595 * np.log10(1 + frequencies / 700)
    edges = np.searchsorted(mel, np.linspace(0, mel[-1], _BANDS + 1)[:-1])
    power = np.zeros(len(frequencies))
    flux = np.zeros(count)
    before = np.full((1, _BANDS), -80.0)
    for start in range(0, count, 1024):
        squares = np.square(np.abs(np.fft.rfft(frames[start : start + 1024] * window, axis=1)) * scale)
        power += squares.sum(axis=0, dtype=np.float64)
        level = 10 * np.log10(np.add.reduceat(squares, edges, axis=1).astype(np.float64) + 1e-8)
        flux[start : start + len(level)] = np.maximum(np.diff(np.concatenate([before, level]), axis=0), 0).mean(axis=1)
        before = level[-1:]
    total = float(power.sum())
    return (float((frequencies * power).sum() / total) if total > 1e-12 else 0.0), flux


def _db(value: float) -> float:
    return float(np.clip(20 * np.log10(max(value, 1e-9)), FLOOR_DB, 0.0))
