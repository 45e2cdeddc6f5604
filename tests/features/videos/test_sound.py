"""Sound statistics against signals whose answers are known, and against scipy."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Iterator

import av
import numpy as np
import pytest
import scipy.signal
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from features.records import SOUND_STATS, named_stats
from features.videos.probe import Limits, open_container, probe
from features.videos.sound import NO_SOUND, RATE, Sound, decode_sound, sound_stats, to_float, window_levels_db


def stats(samples: np.ndarray) -> dict[str, float]:
    return named_stats(SOUND_STATS, sound_stats(samples.astype(np.float32)))


def sine(frequency: float, amplitude: float, seconds: float = 3.0) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(int(seconds * RATE)) / RATE)


@pytest.mark.parametrize("frequency", [100.0, 440.0, 3000.0, 7000.0])
@pytest.mark.parametrize("amplitude", [1.0, 0.1])
def test_a_sine(frequency: float, amplitude: float) -> None:
    found = stats(sine(frequency, amplitude))
    level = 20 * math.log10(amplitude)
    assert found["loudness_dbfs"] == pytest.approx(level - 20 * math.log10(math.sqrt(2)), abs=0.01)
    assert found["peak_dbfs"] == pytest.approx(level, abs=0.05)
    assert found["spectral_centroid_hz"] == pytest.approx(frequency, abs=3)
    assert found["zero_crossing_rate"] == pytest.approx(2 * frequency / RATE, abs=0.001)
    assert found["dynamic_range_db"] < 0.5 and found["silence_share"] == 0
    assert found["onset_rate_hz"] <= 1 / 3 + 0.01  # its beginning


def test_silence_and_no_sound() -> None:
    found = stats(np.zeros(RATE))
    assert found == dict(zip(SOUND_STATS, (-90, -90, 0, 1, 0, 0, 0), strict=True))
    assert len(NO_SOUND) == len(SOUND_STATS)
    assert all(math.isnan(value) for value in sound_stats(np.zeros(0, np.float32)))


@pytest.mark.parametrize("rate", [1, 2, 4])
@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_clicks_are_onsets(rate: int, noise: float) -> None:
    samples = np.random.default_rng(1).normal(0, noise, 6 * RATE) if noise else np.zeros(6 * RATE)
    samples[RATE // 2 :: RATE // rate] += 0.8
    clicks = len(range(RATE // 2, 6 * RATE, RATE // rate))
    assert stats(samples)["onset_rate_hz"] * 6 == pytest.approx(clicks, abs=1.01)


def test_steady_noise_has_no_onsets_and_a_flat_spectrum() -> None:
    found = stats(np.random.default_rng(0).normal(0, 0.1, 5 * RATE))
    assert found["onset_rate_hz"] <= 0.4 and found["spectral_centroid_hz"] == pytest.approx(4000, rel=0.02)
    assert found["zero_crossing_rate"] == pytest.approx(0.5, abs=0.01)


def test_half_silent() -> None:
    found = stats(np.concatenate([sine(440, 0.5, 2), np.zeros(2 * RATE)]))
    assert found["silence_share"] == pytest.approx(0.5, abs=0.02)
    assert found["dynamic_range_db"] == pytest.approx(90 - 9.03, abs=0.1)


def test_centroid_against_scipy() -> None:
    samples = np.random.default_rng(3).normal(0, 0.1, 4 * RATE)
    samples = scipy.signal.lfilter(*scipy.signal.butter(2, 1000 / (RATE / 2)), samples)
    frequencies, power = scipy.signal.welch(samples, RATE, "hann", nperseg=1024, noverlap=704, detrend=False, scaling="spectrum")
    power[1:-1] /= 2  # welch counts both sides
    assert stats(samples)["spectral_centroid_hz"] == pytest.approx(float((frequencies * power).sum() / power.sum()), rel=0.01)


@given(arrays(np.int16, st.integers(1, 5000)))
def test_any_samples_give_numbers_in_their_ranges(samples: np.ndarray) -> None:
    found = named_stats(SOUND_STATS, sound_stats(to_float(samples)))
    assert -90 <= found["loudness_dbfs"] <= found["peak_dbfs"] + 1e-6 <= 1e-6
    assert 0 <= found["dynamic_range_db"] <= 90
    assert 0 <= found["silence_share"] <= 1 and 0 <= found["zero_crossing_rate"] <= 1
    assert 0 <= found["spectral_centroid_hz"] <= 8000 and found["onset_rate_hz"] >= 0


def test_window_levels_by_hand() -> None:
    samples = np.concatenate([np.full(800, 0.5), np.full(800, 0.05), np.full(100, 1.0)]).astype(np.float32)
    assert window_levels_db(samples) == pytest.approx([20 * math.log10(0.5), 20 * math.log10(0.05)])


# --- decoding -----------------------------------------------------------------------------------------------------------------


def frames(signal: np.ndarray, rate: int, layout: str) -> Iterator[av.AudioFrame]:
    for start in range(0, signal.shape[1], 1024):
        part = np.ascontiguousarray(signal[:, start : start + 1024].T.reshape(1, -1))
        frame = av.AudioFrame.from_ndarray((part * 32767).astype(np.int16), "s16", layout)
        frame.sample_rate, frame.pts = rate, start
        yield frame


def heard(path: pathlib.Path, signal: np.ndarray, rate: int, layout: str, limits: Limits | None = None) -> Sound:
    with av.open(str(path), "w") as out:
        picture = out.add_stream("mpeg4", rate=1)
        picture.width = picture.height = 16
        sound = out.add_stream("pcm_s16le", rate=rate, layout=layout)
        out.mux(picture.encode(av.VideoFrame(16, 16, "yuv420p")))
        out.mux(picture.encode())
        for frame in frames(signal, rate, layout):
            out.mux(sound.encode(frame))
        out.mux(sound.encode())
    with open(path, "rb") as file, open_container(file) as container:
        index = probe(container, Limits()).audio_index
        assert index is not None
        return decode_sound(container, index, limits or Limits())


@pytest.mark.parametrize(("rate", "layout"), [(44100, "stereo"), (8000, "mono"), (48000, "5.1"), (16000, "mono")])
def test_any_rate_and_layout_become_16_khz_mono(tmp_path: pathlib.Path, rate: int, layout: str) -> None:
    channels = av.AudioLayout(layout).nb_channels
    tone = 0.25 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)
    sound = heard(tmp_path / "a.mkv", np.tile(tone, (channels, 1)), rate, layout)
    found = stats(to_float(sound.samples))
    assert len(sound.samples) == pytest.approx(2 * RATE, abs=40) and not sound.warnings
    assert found["spectral_centroid_hz"] == pytest.approx(440, abs=5)
    assert found["peak_dbfs"] == pytest.approx(20 * math.log10(0.25), abs=0.7)


def test_a_loud_mix_does_not_clip(tmp_path: pathlib.Path) -> None:
    tone = 0.9 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    sound = heard(tmp_path / "a.mkv", np.tile(tone, (2, 1)), 44100, "stereo")
    assert np.abs(to_float(sound.samples)).max() == pytest.approx(0.9, abs=0.02)


def test_the_length_is_bounded(tmp_path: pathlib.Path) -> None:
    sound = heard(tmp_path / "a.mkv", np.zeros((1, 5 * RATE)), RATE, "mono", Limits(max_duration_s=1.5))
    assert len(sound.samples) == 1.5 * RATE


def test_speech_in_a_real_clip(shared_data: pathlib.Path) -> None:
    with open(shared_data / "clips" / "night-docking.mp4", "rb") as file, open_container(file) as container:
        index = probe(container, Limits()).audio_index
        assert index is not None
        sound = decode_sound(container, index, Limits())
    found = stats(to_float(sound.samples))
    assert len(sound.samples) / RATE == pytest.approx(13.0, abs=0.1)
    assert 1 < found["onset_rate_hz"] < 6 and -30 < found["loudness_dbfs"] < -15
