"""Tempo of clicks, and none of what has no beat. What librosa does is tested where the extra `audio` is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from features.errors import InvalidInput
from features.videos import tempo
from features.videos.sound import RATE
from features.videos.tempo import HOP, LibrosaTempoMeter, beat_of

SECONDS = 12
Floats = npt.NDArray[np.float64]


def clicks(bpm: float, seconds: float = SECONDS, noise: float = 0.0, unsteady_s: float = 0.0) -> Floats:
    rng = np.random.default_rng(2)
    sound = rng.normal(0, noise, int(seconds * RATE)) if noise else np.zeros(int(seconds * RATE))
    time = np.arange(RATE // 30) / RATE
    click = 0.8 * np.sin(2 * np.pi * 1000 * time) * np.exp(-120 * time)
    for beat in np.arange(0.2, seconds - 0.3, 60 / bpm):
        at = int((beat + rng.uniform(0, unsteady_s)) * RATE)
        sound[at : at + len(click)] += click
    return sound


def rises(bpm: float, height_db: float = 20.0, seconds: float = SECONDS) -> Floats:
    """An onset envelope with a peak for each beat, on a floor of noise."""
    envelope = np.random.default_rng(1).uniform(0, 0.5, int(seconds * RATE / HOP))
    for beat in np.arange(0.2, seconds - 0.1, 60 / bpm):
        at = round(beat * RATE / HOP)
        envelope[at - 1 : at + 2] += np.array([0.5, 1.0, 0.5]) * height_db
    return envelope


@pytest.mark.parametrize("bpm", [60, 90, 120, 137, 150])
def test_a_regular_envelope_has_its_tempo(bpm: float) -> None:
    assert beat_of(rises(bpm)) == pytest.approx(bpm, rel=0.005)


def test_a_fast_beat_may_be_called_by_its_half() -> None:
    assert beat_of(rises(180)) == pytest.approx(90, rel=0.005)


def test_an_envelope_without_a_clear_beat_has_none() -> None:
    rng = np.random.default_rng(5)
    assert beat_of(rng.exponential(2.0, 1200)) is None, "rises enough, yet at any time"
    assert beat_of(rises(120, height_db=1.5)) is None, "regular, yet nothing is struck"
    struck_once = np.zeros(1200)
    struck_once[600:640] = 20
    assert beat_of(struck_once) is None
    assert beat_of(np.zeros(1200)) is None and beat_of(np.full(3, 9.0)) is None
    assert beat_of(rises(120, seconds=1.0)) is None


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    assert "vidattr[audio]" in (tempo.available() or "")
    with pytest.raises(InvalidInput, match=r"librosa: pip install 'vidattr\[audio\]'"):
        tempo.load_tempo_meter()


@pytest.fixture(scope="module")
def meter() -> LibrosaTempoMeter:
    if reason := tempo.available():
        pytest.skip(reason)
    return LibrosaTempoMeter()


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("bpm", [90, 120, 150])
def test_clicks_have_their_tempo(meter: LibrosaTempoMeter, bpm: float, noise: float) -> None:
    assert meter.beats_a_minute(clicks(bpm, noise=noise).astype(np.float32)) == pytest.approx(bpm, rel=0.005)
    assert meter.beats_a_minute(clicks(bpm, 6.0, noise).astype(np.float32)) == pytest.approx(bpm, rel=0.005)


def test_what_has_no_beat_has_no_tempo(meter: LibrosaTempoMeter) -> None:
    rng = np.random.default_rng(3)
    sweep = np.sin(2 * np.pi * np.cumsum(np.linspace(100, 4000, SECONDS * RATE)) / RATE)
    unsteady = clicks(100, noise=0.05, unsteady_s=0.5)
    for sound in (rng.normal(0, 0.1, SECONDS * RATE), np.zeros(SECONDS * RATE), np.full(SECONDS * RATE, np.nan), sweep, unsteady):
        assert meter.beats_a_minute(sound.astype(np.float32)) is None
    assert meter.beats_a_minute(np.zeros(0, np.float32)) is None
    assert meter.beats_a_minute(clicks(120, 2.0).astype(np.float32)) is None, "too short to tell"
    assert "librosa-" in meter.version


def test_speech_and_ambience_have_no_tempo(meter: LibrosaTempoMeter, clip_sound: Callable[[str], npt.NDArray[np.float32]]) -> None:
    for name in ("night-docking.mp4", "station-roofs.mp4", "bee-on-thistle.mp4"):
        assert meter.beats_a_minute(clip_sound(name)) is None
