"""The sample corpus: real files, honest truth, and a folder that is whole or not there."""

from __future__ import annotations

import json
import os
from collections import Counter
from datetime import datetime
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.attributes.definition import AttributeDefinition
from features.attributes.golden import read_ratings
from features.errors import InvalidInput
from features.videos.sample import SampleReport, write_sample
from features.videos.sample.catalogue import ATTRIBUTES, plan
from features.videos.sample.corpus import draw
from features.videos.sample.sound import SAMPLE_RATE_HZ, make_sound

COUNT = 21


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> SampleReport:
    calls: list[tuple[int, int]] = []
    report = write_sample(
        str(tmp_path_factory.mktemp("sample") / "demo"), COUNT, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == [(number, COUNT) for number in range(1, COUNT + 1)]
    return report


def _rows(path: str) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def test_every_file_decodes_as_the_truth_says(sample: SampleReport) -> None:
    truth = {row["video_id"]: row for row in _rows(sample.truth)}
    manifest = _rows(sample.manifest)
    assert len(manifest) == len(truth) == sample.count == COUNT
    suffixes, turned = set(), 0
    for row in manifest:
        assert not os.path.isabs(row["uri"]) and datetime.fromisoformat(row["published_at"]).tzinfo is not None
        known = truth[row["video_id"]]
        suffixes.add(Path(row["uri"]).suffix)
        with (Path(sample.folder) / row["uri"]).open("rb") as file, av.open(file) as container:
            video, sounds = container.streams.video[0], container.streams.audio
            frames = list(container.decode(video))
            seconds = len(frames) / float(video.average_rate)
            assert abs(seconds - known["duration_s"]) < 0.15
            width, height = frames[0].width, frames[0].height
            assert (frames[0].rotation % 360) == (-known["rotation"]) % 360
            if known["rotation"]:
                turned += 1
                width, height = height, width
            shape = "portrait" if height > width else "landscape" if width > height else "square"
            assert shape == known["orientation"]
            assert bool(sounds) == (known["audio"] != "none")
        assert all(0 < cut < known["duration_s"] for cut in known["cuts_s"])
    assert suffixes == {".mp4", ".webm", ".mkv"} and turned >= 1


def test_sixty_four_clips_carry_every_attribute_in_many_forms() -> None:
    clips = plan(64, 0)
    assert clips == plan(64, 0) and clips != plan(64, 1)
    assert len({clip.video_id for clip in clips}) == 64 and 8 <= len({clip.creator_id for clip in clips}) <= 12
    planted = Counter(name for clip in clips for name in clip.attributes)
    assert set(planted) == set(ATTRIBUTES) and min(planted.values()) >= 8
    assert any(not clip.attributes for clip in clips)
    kinds = Counter(clip.title_kind for clip in clips)
    assert kinds["telling"] > kinds["neutral"] > 0 and kinds["misleading"] > 0
    assert 0 < sum(clip.hashtags_leak for clip in clips) < 32
    assert {clip.sound for clip in clips} >= {"silence", "none", "beat", "rain"}
    assert len({clip.published_at.month for clip in clips}) >= 4 and len({clip.language for clip in clips}) >= 3
    energetic = [clip for clip in clips if clip.genre == "energetic"]
    assert all(len(clip.shots) / clip.seconds > 0.8 for clip in energetic)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 120), st.integers(0, 10**6))
def test_any_plan_is_consistent(count: int, seed: int) -> None:
    clips = plan(count, seed)
    assert len({clip.video_id for clip in clips}) == count
    for clip in clips:
        starts = [shot.start_s for shot in clip.shots]
        assert starts[0] == 0 and starts == sorted(set(starts)) and starts[-1] < clip.seconds
        assert all(0 <= caption.start_s < caption.end_s <= clip.seconds for caption in clip.captions)
        assert clip.width % 2 == clip.height % 2 == 0 and 3 <= clip.seconds <= 8


def test_cuts_and_captions_are_in_the_pictures() -> None:
    clips = plan(64, 0)
    clip = next(clip for clip in clips if clip.genre == "energetic" and len(clip.shots) > 3)
    pictures = np.stack(draw(clip)).astype(np.float32)
    changes = np.abs(np.diff(pictures, axis=0)).mean(axis=(1, 2, 3))
    cuts = [round(shot.start_s * clip.fps) - 1 for shot in clip.shots[1:]]
    assert changes[cuts].mean() > 2 * np.median(np.delete(changes, cuts))
    written = next(clip for clip in clips if clip.captions and clip.captions[0].start_s > 0.2 and clip.genre == "cozy")
    shown = draw(written)
    first, at = shown[0], shown[round((written.captions[0].start_s + 0.3) * written.fps)]
    below = slice(int(written.height * 0.68), int(written.height * 0.86))
    bright = [int((picture[below].min(axis=2) > 250).sum()) for picture in (first, at)]
    assert bright[1] > bright[0] + 150


def test_sounds_differ_as_their_names_do() -> None:
    def level(kind: str) -> float:
        samples = make_sound(kind, 4.0, np.random.default_rng(1))  # type: ignore[arg-type]
        assert samples is not None and len(samples) == 4 * SAMPLE_RATE_HZ and np.abs(samples).max() <= 1
        return float(np.sqrt((samples**2).mean()))

    assert level("silence") == 0 and make_sound("none", 4.0, np.random.default_rng(1)) is None
    assert level("beat") > 3 * level("crackle") > 0
    for kind in ("rain", "wind", "waves", "pad", "boing", "murmur", "swell", "ticks"):
        assert level(kind) > 0.003


def test_simulated_raters_are_read_by_the_golden_set(sample: SampleReport) -> None:
    definitions = [AttributeDefinition(name, name, f"Is it {name}?", name) for name in ATTRIBUTES]
    ratings = read_ratings(os.path.dirname(sample.ratings), definitions)
    truth = {row["video_id"]: row for row in _rows(sample.truth)}
    assert len(ratings) == sample.rated * len(ATTRIBUTES) * 3 and sample.rated == COUNT // 3
    right = [(rating.value == "true") == truth[rating.video_id][rating.attribute] for rating in ratings]
    assert 0.85 < np.mean(right) < 1


def test_the_same_parameters_reuse_and_others_replace(sample: SampleReport, tmp_path: Path) -> None:
    before = os.stat(sample.manifest).st_mtime_ns
    again = write_sample(sample.folder, COUNT)
    assert again.reused and not sample.reused and os.stat(sample.manifest).st_mtime_ns == before
    assert again.planted == sample.planted and again.bytes == sample.bytes

    folder = tmp_path / "small"
    folder.mkdir()
    first = write_sample(str(folder), 2, seed=1)
    assert not first.reused
    manifest = Path(first.manifest).read_bytes()
    video = Path(first.folder) / _rows(first.manifest)[0]["uri"]
    video.write_bytes(video.read_bytes()[:100])
    mended = write_sample(str(folder), 2, seed=1)
    assert not mended.reused and Path(mended.manifest).read_bytes() == manifest and video.stat().st_size > 1000
    assert not write_sample(str(folder), 2, seed=2).reused
    assert os.listdir(tmp_path) == ["small"]

    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InvalidInput, match=r"notes\.txt"):
        write_sample(str(folder), 2, seed=3)
    (folder / "notes.txt").unlink()
    with Path(first.ratings).open("a") as file:
        file.write("x,funny,me,true\n")
    with pytest.raises(InvalidInput, match=r"ratings\.csv"):
        write_sample(str(folder), 2, seed=3)


def test_a_wrong_place_or_number_is_named_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for folder, count, seed, words in (
        (tmp_path / "full", 2, 0, "is no earlier sample: name an empty or new folder"),
        (tmp_path / "file", 2, 0, "is a file: name a folder"),
        (tmp_path / "file" / "below", 2, 0, "cannot be written"),
        (Path("/proc/sample"), 2, 0, "cannot be written"),
        (tmp_path / "new", 0, 0, "1 to 5000"),
        (tmp_path / "new", 2, -1, "choose 0 or a positive number"),
        ("gs://bucket/demo", 2, 0, "local disk"),
    ):
        with pytest.raises(InvalidInput, match=words):
            write_sample(str(folder), count, seed)
    assert (tmp_path / "full" / "thesis.tex").read_text() == "mine" and not (tmp_path / "new").exists()


def test_a_stop_half_way_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_sample(str(tmp_path / "demo"), 12, progress=stop)
    assert os.listdir(tmp_path) == []
