"""Stills from keyframes: the same pictures as reading everything gives, out of far fewer."""

from __future__ import annotations

import pathlib
from dataclasses import replace
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.videos import keyframes
from features.videos.frames import Pictures, decode_pictures, sample_of, thumbnail_of
from features.videos.keyframes import Timeline, cost, decode_keyframes, plan, timeline
from features.videos.probe import Limits, open_container, probe
from features.videos.rgb import Image
from features.videos.visual import visual_stats

LIMITS = Limits()
FPS = 20


def scene(number: int, at: int) -> Image:
    """A picture of its own for each scene, soft and in colours of its own, moving a little with each frame; 64 x 48."""
    generator = np.random.default_rng(number)
    colour, detail = generator.integers(0, 200, 3), generator.integers(0, 56, (3, 4, 3)).astype(np.uint8)
    soft = cv2.resize(detail, (64, 48), interpolation=cv2.INTER_CUBIC)
    return np.clip(colour + np.roll(soft, at % 64, axis=1), 0, 255).astype(np.uint8)


def write_clip(path: pathlib.Path, images: list[Image], gop: int, codec: str = "libx264", stamps: list[int] | None = None) -> str:
    """Pictures at 20 a second, or at the twentieths of a second that are given."""
    options = {"crf": "12", "sc_threshold": "0", "x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0"}
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=FPS, options=options if codec == "libx264" else {"qscale": "2"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.gop_size = "yuv420p", gop
        stream.codec_context.time_base = Fraction(1, FPS)
        for at, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image)
            frame.pts = at if stamps is None else stamps[at]
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return str(path)


def listed(path: str) -> Timeline | None:
    with open(path, "rb") as file, open_container(file) as container:
        return timeline(container, probe(container, LIMITS).video_index)


def quickly(path: str, line: Timeline | None = None) -> Pictures | None:
    line = line or listed(path)
    assert line is not None
    with open(path, "rb") as file, open_container(file) as container:
        return decode_keyframes(container, probe(container, LIMITS), LIMITS, line)


def slowly(path: str) -> Pictures:
    with open(path, "rb") as file, open_container(file) as container:
        return decode_pictures(container, probe(container, LIMITS), LIMITS)


def frames_by_time(path: str) -> dict[float, Image]:
    with av.open(path) as container:
        return {
            round(frame.time, 3): thumbnail_of(sample_of(frame)) for frame in container.decode(video=0) if frame.time is not None
        }


def thumbnail_like(image: Image) -> NDArray[np.float64]:
    return cv2.resize(image, (64, 36), interpolation=cv2.INTER_AREA).astype(np.float64)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Twenty seconds, a keyframe a second, a scene every five; B-frames come in another order than they are shown."""
    images = [scene(3 + at // (5 * FPS), at) for at in range(20 * FPS)]
    return write_clip(tmp_path_factory.mktemp("clips") / "long.mp4", images, FPS)


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", ".mp4"), ("libx264", ".mkv"), ("libx264", ".ts"), ("mpeg4", ".avi")])
def test_stills_are_the_pictures_of_their_moments(tmp_path: pathlib.Path, codec: str, suffix: str) -> None:
    path = write_clip(tmp_path / f"clip{suffix}", [scene(at // (4 * FPS), at) for at in range(12 * FPS)], FPS, codec)
    found, truth = quickly(path), frames_by_time(path)
    assert found is not None and len(found.stills) == 8
    first = min(truth)
    taken = found.thumbnail_times.tolist()
    times = [still.timestamp_s for still in found.stills]
    assert len(taken) == keyframes.LOOKED_AT and taken == sorted(set(taken))
    assert times == sorted(set(times)) and set(times) <= set(taken)
    for time, thumbnail in zip(taken, found.thumbnails, strict=True):
        nearest = min(truth, key=lambda at: abs(at - first - time))
        assert abs(nearest - first - time) < 0.5 / FPS and (truth[nearest] == thumbnail).all()
    for still in found.stills:
        assert np.abs(thumbnail_like(still.image) - found.thumbnails[taken.index(still.timestamp_s)]).mean() < 2
    for part, time in enumerate(times):
        assert part * 1.5 - 0.6 <= time <= (part + 1) * 1.5 + 0.6, "about one of each eighth"


def test_few_pictures_are_decoded_and_they_say_the_same(long: str, monkeypatch: pytest.MonkeyPatch) -> None:
    line = listed(long)
    assert line is not None and line.keys.sum() == 20 and cost(line, plan(line)) < 0.1
    seen = []
    monkeypatch.setattr(keyframes, "check_pixels", lambda *about: seen.append(about))
    found, truth = quickly(long), slowly(long)
    assert found is not None and len(seen) < 0.25 * len(line.times)
    assert (found.width, found.height, found.rotation, found.decoded) == (truth.width, truth.height, truth.rotation, 20 * FPS)
    assert found.duration_s == pytest.approx(truth.duration_s, abs=0.01)
    assert truth.shot_starts_s == pytest.approx([0, 5, 10, 15], abs=0.2) and found.shot_starts_s == ()
    assert visual_stats(found)[:-1] == pytest.approx(visual_stats(truth)[:-1], rel=0.2, abs=0.02)


def test_the_last_picture_before_a_keyframe_comes_too(long: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder holds it back until it is told that nothing more comes."""
    line, truth = listed(long), frames_by_time(long)
    assert line is not None
    wanted = {second * FPS: [second + 0.95] for second in range(2, 20, 2)}
    monkeypatch.setattr(keyframes, "plan", lambda *about: {0: [0.0], **wanted})
    found = quickly(long)
    assert found is not None
    times = found.thumbnail_times.tolist()
    assert times == pytest.approx([0.0, *(second + 0.95 for second in range(2, 20, 2))])
    for time, thumbnail in zip(times, found.thumbnails, strict=True):
        nearest = min(truth, key=lambda at, time=time: abs(at - min(truth) - time))
        assert (truth[nearest] == thumbnail).all()


def test_a_picture_that_is_shown_for_long_is_that_of_its_moment(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A screen recording: ten pictures in half a second, and then the last of them for five and a half."""
    stamps = [120 * turn + at for turn in range(8) for at in range(10)]
    path = write_clip(tmp_path / "clip.mp4", [scene(at // 10, at % 10) for at in range(80)], 10, stamps=stamps)
    wanted = {10 * turn: [6.0 * turn + 4.0] for turn in range(1, 8)}
    monkeypatch.setattr(keyframes, "plan", lambda *about: {0: [0.0], **wanted})
    monkeypatch.setattr(keyframes, "WORTH_IT", 1.1)
    found = quickly(path)
    assert found is not None
    assert [still.timestamp_s for still in found.stills] == pytest.approx([0.0, *(6 * turn + 0.45 for turn in range(1, 8))])


def test_what_is_called_a_keyframe_and_is_none_is_noticed(long: str) -> None:
    line = listed(long)
    assert line is not None
    order = np.argsort(line.times)
    assert quickly(long, replace(line, times=line.times[order], keys=np.ones(len(order), bool))) is None


def test_without_pictures_that_follow_there_is_no_motion_to_measure(tmp_path: pathlib.Path) -> None:
    assert quickly(write_clip(tmp_path / "clip.mp4", [scene(0, at) for at in range(12 * FPS)], 1)) is None


def test_one_keyframe_is_not_enough(tmp_path: pathlib.Path) -> None:
    path = write_clip(tmp_path / "clip.mp4", [scene(0, at) for at in range(60)], 600)
    assert quickly(path) is None


def test_between_two_far_keyframes_the_middle_is_decoded(tmp_path: pathlib.Path) -> None:
    """Keyframes at 0 and 10 s of 20: the parts between them get pictures of their own, if that is worth it."""
    line = listed(write_clip(tmp_path / "clip.mp4", [scene(0, at) for at in range(20 * FPS)], 10 * FPS))
    assert line is not None
    wanted = plan(line)
    assert list(wanted) == [0, 10 * FPS] and sum(map(len, wanted.values())) == 8
    assert cost(line, wanted) > keyframes.WORTH_IT, "so everything is read"


def test_a_dozen_is_looked_at_only_where_that_is_cheap(long: str, tmp_path: pathlib.Path) -> None:
    few = write_clip(tmp_path / "clip.mp4", [scene(at // (5 * FPS), at) for at in range(20 * FPS)], 5 * FPS // 2)
    line = listed(few)
    assert line is not None and cost(line, plan(line)) < keyframes.CHEAP < cost(line, plan(line, keyframes.LOOKED_AT))
    by_path = {path: quickly(path) for path in (long, few)}
    assert [len(found.thumbnails) for found in by_path.values() if found is not None] == [keyframes.LOOKED_AT, 8]


def test_a_fade_out_of_black_shows_something(tmp_path: pathlib.Path) -> None:
    images = [scene(0, at) if at % FPS >= 6 else np.zeros((48, 64, 3), np.uint8) for at in range(16 * FPS)]
    found = quickly(write_clip(tmp_path / "clip.mp4", images, FPS))
    assert found is not None and len(found.stills) == 8
    assert all(still.image.std() > 5 for still in found.stills)
    images[5 * FPS : 7 * FPS] = [np.zeros((48, 64, 3), np.uint8)] * (2 * FPS)
    black = quickly(write_clip(tmp_path / "black.mp4", images, FPS))
    assert black is not None and len(black.stills) == 8
    assert black.thumbnails.reshape(len(black.thumbnails), -1).max(axis=1).min() < 20, "it came upon black"
    assert all(still.image.std() > 5 for still in black.stills), "and took another picture"
    images = [scene(0, at) if 8 * FPS <= at < 10 * FPS else np.zeros((48, 64, 3), np.uint8) for at in range(16 * FPS)]
    assert quickly(write_clip(tmp_path / "night.mp4", images, FPS)) is None, "too little, so everything is read"


def test_times_that_cannot_be_relied_on_are_left_to_reading_everything(shared_data: pathlib.Path) -> None:
    for name in ("invalid-bitstream.webm", "unordered-timestamps.mov", "rotated-90.mov", "truncated.mp4"):
        path = str(shared_data / "odd_clips" / name)
        assert listed(path) is None or quickly(path) is None, name


def test_a_video_that_is_cut_off_says_so(long: str, tmp_path: pathlib.Path) -> None:
    cut = tmp_path / "cut.mkv"
    write_clip(cut, [scene(0, at) for at in range(20 * FPS)], FPS)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    found = quickly(str(cut))
    assert found is None or any("the video ends after" in warning for warning in found.warnings)


@given(st.sets(st.integers(1, 299), max_size=40), st.integers(1, 12), st.sampled_from([0.0, 0.25, 0.5]))
def test_each_part_gets_one_picture_from_the_cheapest_place(keys: set[int], number: int, near: float) -> None:
    times = np.arange(300) / 10
    flags = np.zeros(300, bool)
    flags[[0, *keys]] = True
    line = Timeline(times, flags, 0.0, 30.0, 0.1)
    wanted = plan(line, number, near)
    part = 30.0 / number
    found = sorted(time for those in wanted.values() for time in those)
    assert len(found) == number
    for at, time in enumerate(found):
        middle = (at + 0.5) * part
        assert abs(time - middle) <= near * part + 1e-9
        here = [key / 10 for key in (0, *keys) if abs(key / 10 - middle) < near * part - 1e-9]
        assert not here or flags[round(time * 10)], "a keyframe of the part itself"
    for start, those in wanted.items():
        after = min((key for key in keys if key > start), default=300)
        assert flags[start] and those == sorted(those) and all(start / 10 - 1e-9 <= time < after / 10 for time in those)
    assert 0 < cost(line, wanted) <= 1
