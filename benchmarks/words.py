"""words: how well speech and on-screen text come out, against what is known to be said and shown, and what is made up.

Error rates are of a whole corpus: all edits over the length of all references, in words (WER) or in letters and spaces (CER). Both
sides are normalised alike: lower case, apostrophes left out, other punctuation a space, spaces squeezed. The sample's captions are
known to the letter. Nobody speaks in it, whatever transcripts its manifest has, so that every word heard there is made up. Real
speech comes from Debian's package pocketsphinx-testdata, five sentences of a LibriVox reading, where that is installed.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import sys
import tempfile
import time
import wave
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from features.videos.decoding import Decoded, Decoder
from features.videos.edit_distance import edit_distance
from features.videos.manifest import load_manifest
from features.videos.onscreen_text import ScreenReader
from features.videos.probe import Limits
from features.videos.sample import write_sample
from features.videos.sound import RATE, to_float
from features.videos.speech import load_transcriber

SAMPLE = (64, 0)
"""Videos and seed."""
BESIDE_RAPIDOCR = 12
"""Videos that RapidOCR by itself reads too, every still as a whole: five seconds each."""
READING = os.environ.get("VIDATTR_SPEECH_READING") or "/usr/share/pocketsphinx/test/data/librivox"
"""Sound files of 16 kHz, and `transcription` with `<s> words </s> (name of the file)` lines."""


def normalised(text: str) -> str:
    """A text as it is compared."""
    return " ".join(re.sub(r"[^\w\s]|_", " ", re.sub(r"['’`]", "", text.lower())).split())  # noqa: RUF001


@dataclass(frozen=True)
class Edits:
    """Edits of a corpus, and the length of its references."""

    edits: int = 0
    length: int = 0

    @property
    def rate(self) -> float:
        return self.edits / max(1, self.length)


def counted(pairs: Iterable[tuple[str, str]], by_word: bool) -> Edits:
    """Of (reference, found) texts, normalised here: edits by word or by letter."""
    edits = length = 0
    for known, found in pairs:
        sides: list[Sequence[str]] = [normalised(text).split() if by_word else normalised(text) for text in (known, found)]
        edits += edit_distance(sides[0], sides[1])
        length += len(sides[0])
    return Edits(edits, length)


def run() -> list[dict[str, Any]]:
    """Speech and on-screen text of the generated sample, and real speech where there is some."""
    with tempfile.TemporaryDirectory(prefix="vidattr-words-") as folder:
        sample = write_sample(folder, *SAMPLE)
        truth = {row["video_id"]: row for row in map(json.loads, pathlib.Path(sample.truth).read_text().splitlines())}
        with Decoder(1) as decoder:
            clips = {video.video_id: decoder.decode(video.uri, Limits()) for video in load_manifest(sample.manifest).videos}
    shown = {name: " ".join(caption["text"] for caption in row["captions"]) for name, row in truth.items()}
    return [*_onscreen(clips, shown), *_beside_rapidocr(clips, shown), *_unspoken(clips), *_spoken()]


def _onscreen(clips: dict[str, Decoded], shown: dict[str, str]) -> list[dict[str, Any]]:
    reader = ScreenReader()
    reader.warm()
    found, seconds = {}, {}
    for name, clip in clips.items():
        began = time.perf_counter()
        found[name] = reader.read(clip.stills)
        seconds[name] = time.perf_counter() - began
    captioned = [name for name in clips if shown[name]]
    edits = counted([(shown[name], found[name]) for name in captioned], by_word=False)
    letters = counted([(shown[name].replace(" ", ""), "".join(found[name].split())) for name in captioned], by_word=False)
    invented = sum(len(normalised(found[name])) for name in clips if not shown[name])
    workload = f"{len(captioned)} captioned of {len(clips)} sample videos, {edits.length} letters; {reader.version}"
    bare = f"{len(clips) - len(captioned)} sample videos without captions; {reader.version}"
    return [
        _figure("captions of the sample", "character error rate", edits.rate, workload, goal=0.05),
        _figure("captions of the sample", "the same without spaces", letters.rate, workload),
        _figure("no captions", "letters made up", invented, bare, goal=0),
        _figure("all of the sample", "seconds a video, one thread", sum(seconds.values()) / len(clips), workload, goal=0.5),
    ]


def _beside_rapidocr(clips: dict[str, Decoded], shown: dict[str, str]) -> list[dict[str, Any]]:
    """RapidOCR with its own settings on every still, each distinct line once, in turn with our reader on the same videos."""
    from rapidocr import RapidOCR

    theirs: Any = RapidOCR(params={"Global.log_level": "critical", "EngineConfig.onnxruntime.intra_op_num_threads": 1})
    reader = ScreenReader()
    reader.warm()
    theirs(np.zeros((64, 64, 3), np.uint8))
    spent = [0.0, 0.0]
    pairs: tuple[list[tuple[str, str]], ...] = ([], [])
    names = [name for name in clips if shown[name]][:BESIDE_RAPIDOCR]
    for name in names:
        began = time.perf_counter()
        pairs[0].append((shown[name], reader.read(clips[name].stills)))
        spent[0] += time.perf_counter() - began
        began = time.perf_counter()
        lines: dict[str, None] = {}
        for still in clips[name].stills:
            lines |= dict.fromkeys(theirs(np.ascontiguousarray(still.image[..., ::-1])).txts or ())
        spent[1] += time.perf_counter() - began
        pairs[1].append((shown[name], "\n".join(lines)))
    ours, other = (counted(some, by_word=False).rate for some in pairs)
    workload = f"{len(names)} captioned sample videos, their stills one after the other, one thread; {reader.version}"
    return [
        _figure("beside RapidOCR alone", "character error rate", ours, workload, theirs=other),
        {**_figure("beside RapidOCR alone", "times as fast", spent[1] / spent[0], workload), "better": "higher"},
    ]


def _unspoken(clips: dict[str, Decoded]) -> list[dict[str, Any]]:
    transcriber = load_transcriber()
    transcriber.warm()
    sounding = [clip for clip in clips.values() if clip.has_audio]
    words = sum(len(transcriber.transcribe(clip.speech).text.split()) for clip in sounding)
    return [
        _figure("no speech", "words made up", words, f"{len(sounding)} sample videos with sound; {transcriber.version}", goal=0)
    ]


def _spoken() -> list[dict[str, Any]]:
    folder = pathlib.Path(READING)
    if not (folder / "transcription").is_file():
        print(f"words: no reading in {READING}, so no word error rate: install pocketsphinx-testdata", file=sys.stderr)
        return []
    transcriber = load_transcriber()
    pairs, seconds = [], 0.0
    for known, name in re.findall(r"<s>(.*?)</s>\s*\((\S+)\)", (folder / "transcription").read_text()):
        with wave.open(str(folder / f"{name}.wav")) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2), name
            sound = to_float(np.frombuffer(file.readframes(file.getnframes()), np.int16))
        seconds += len(sound) / RATE
        pairs.append((known, transcriber.transcribe(sound, "en").text))
    edits = counted(pairs, by_word=True)
    workload = f"{len(pairs)} sentences read aloud, {edits.length} words, {seconds:.0f} s; {transcriber.version}"
    return [_figure("a reading", "word error rate", edits.rate, workload, goal=0.15)]


def _figure(
    case: str, metric: str, value: float, workload: str, goal: float | None = None, theirs: float | None = None
) -> dict[str, Any]:
    value = round(value, 4)
    shared = {"goal": goal, "better": "lower", "ours": value, "theirs": None if theirs is None else round(theirs, 4)}
    return {"case": case, "metric": metric, "value": value, **shared, "workload": workload}
