"""Sounds made by code: what the clips of the sample corpus are heard with."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Sound = Literal["crackle", "rain", "wind", "waves", "pad", "beat", "boing", "murmur", "swell", "ticks", "silence", "none"]
"""What a clip sounds like; `none` has no sound stream at all, `silence` has one with nothing in it."""

SAMPLE_RATE_HZ = 24_000
Samples = npt.NDArray[np.float32]


def _noise(count: int, rng: np.random.Generator, low_hz: float, high_hz: float) -> npt.NDArray[np.float64]:
    """White noise between two frequencies, its standard deviation 1."""
    spectrum = np.fft.rfft(rng.standard_normal(count))
    hertz = np.fft.rfftfreq(count, 1 / SAMPLE_RATE_HZ)
    spectrum[(hertz < low_hz) | (hertz > high_hz)] = 0
    wave = np.fft.irfft(spectrum, count)
    return np.asarray(wave / max(float(wave.std()), 1e-9), np.float64)


def _place(into: npt.NDArray[np.float64], sound: npt.NDArray[np.float64], at_s: float) -> None:
    start = int(at_s * SAMPLE_RATE_HZ)
    end = min(start + len(sound), len(into))
    if start < end:
        into[start:end] += sound[: end - start]


def _chord(t: npt.NDArray[np.float64], root_hz: float, steps: tuple[int, ...]) -> npt.NDArray[np.float64]:
    parts = [np.sin(2 * np.pi * root_hz * 2 ** (step / 12) * t * (1 + 0.001 * k)) for k, step in enumerate(steps)]
    return np.asarray(np.sum(parts, axis=0) / len(steps), np.float64)


def make_sound(kind: Sound, seconds: float, rng: np.random.Generator) -> Samples | None:
    """Mono samples at SAMPLE_RATE_HZ, within -1 to 1; None for `none`."""
    if kind == "none":
        return None
    count = int(seconds * SAMPLE_RATE_HZ)
    t = np.arange(count) / SAMPLE_RATE_HZ
    wave = np.zeros(count)
    if kind == "crackle":
        wave += 0.03 * _noise(count, rng, 40, 400)
        for at in rng.uniform(0, seconds, int(seconds * 7)):
            length = int(rng.uniform(0.004, 0.02) * SAMPLE_RATE_HZ)
            _place(wave, rng.uniform(0.1, 0.4) * rng.standard_normal(length) * np.exp(-np.arange(length) / (length / 5)), float(at))
    elif kind == "rain":
        wave += 0.07 * _noise(count, rng, 400, 9000)
        for at in rng.uniform(0, seconds, int(seconds * 12)):
            drop = np.arange(int(0.03 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
            _place(wave, 0.12 * np.sin(2 * np.pi * rng.uniform(900, 2600) * drop) * np.exp(-drop * 160), float(at))
    elif kind == "wind":
        wave += 0.08 * _noise(count, rng, 80, 700) * (0.6 + 0.4 * np.sin(2 * np.pi * 0.21 * t + rng.uniform(0, 6)))
    elif kind == "waves":
        wave += 0.13 * _noise(count, rng, 120, 2500) * (0.12 + 0.88 * np.sin(np.pi * (t / 4.2 + rng.uniform())) ** 2)
    elif kind == "pad":
        root = float(rng.choice([130.8, 146.8, 164.8]))
        steps = [(0, 4, 7, 11), (-3, 0, 4, 7), (5, 9, 12, 16), (0, 4, 7, 12)]
        for bar in range(int(seconds / 2) + 1):
            bar_t = np.arange(int(2.6 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
            _place(wave, 0.22 * _chord(bar_t, root, steps[bar % 4]) * np.sin(np.pi * bar_t / 2.6) ** 2, bar * 2.0)
    elif kind == "beat":
        beat = 60 / float(rng.choice([128.0, 134.0, 140.0]))
        thump = np.arange(int(0.22 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
        kick = 0.8 * np.sin(2 * np.pi * (48 * thump + 7 * (1 - np.exp(-thump * 28)))) * np.exp(-thump * 14)
        hat = 0.16 * rng.standard_normal(int(0.04 * SAMPLE_RATE_HZ)) * np.exp(-np.arange(int(0.04 * SAMPLE_RATE_HZ)) / 180)
        root = float(rng.choice([55.0, 61.7, 65.4]))
        for step in range(int(seconds / beat * 2) + 1):
            at = step * beat / 2
            _place(wave, kick if step % 2 == 0 else hat * 1.6, at)
            _place(wave, hat, at + beat / 4)
            note_t = np.arange(int(beat * 0.45 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
            note = root * 2 ** ([0, 0, 3, 7, 0, 10, 7, 3][step % 8] / 12) * 2
            _place(wave, 0.16 * np.sign(np.sin(2 * np.pi * note * note_t)) * np.exp(-note_t * 6), at)
    elif kind == "boing":
        for k, at in enumerate(np.arange(0.1, seconds, 0.62)):
            spring = np.arange(int(0.5 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
            pitch = float(rng.uniform(150, 320)) * (1 + 0.9 * spring) * (1 + 0.2 * np.sin(2 * np.pi * 13 * spring))
            _place(wave, 0.4 * np.sin(2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE_HZ) * np.exp(-spring * 6), float(at))
            if k % 3 == 2:
                slide = np.arange(int(0.35 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
                _place(wave, 0.2 * np.sin(2 * np.pi * np.cumsum(900 - 1600 * slide) / SAMPLE_RATE_HZ), float(at) + 0.25)
    elif kind == "murmur":
        pitch = float(rng.uniform(95, 210)) * (1 + 0.08 * np.sin(2 * np.pi * 0.9 * t) + 0.04 * np.sin(2 * np.pi * 2.3 * t))
        phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE_HZ
        voice = sum(
            np.sin(k * phase) * np.exp(-(((k * 150 - 600 - 300 * np.sin(2 * np.pi * 2.6 * t)) / 500) ** 2)) for k in range(1, 14)
        )
        syllables = np.clip(np.sin(2 * np.pi * 3.9 * t) + 0.4 * np.sin(2 * np.pi * 1.1 * t + 1), 0, 1)
        wave += 0.09 * voice * syllables + 0.012 * _noise(count, rng, 60, 5000)
    elif kind == "swell":
        for k, step in enumerate((0, 4, 7, 12, 16, 19, 24)):
            note_t = np.arange(int(2.4 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
            tone = _chord(note_t, 196.0 * 2 ** (step / 12), (0, 12)) * np.clip(note_t * 8, 0, 1) * np.exp(-note_t * 1.3)
            _place(wave, (0.2 + 0.03 * k) * tone, k * seconds / 8)
        wave += 0.14 * _chord(t, 98.0, (0, 7, 12, 16)) * t / max(seconds, 1e-6)
    elif kind == "ticks":
        wave += 0.006 * _noise(count, rng, 100, 4000)
        for at in np.arange(0.3, seconds, 0.9):
            tick = np.arange(int(0.02 * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
            _place(wave, 0.25 * np.sin(2 * np.pi * 1800 * tick) * np.exp(-tick * 260), float(at))
    return np.clip(wave, -0.98, 0.98).astype(np.float32)
