"""Which packets are decoded, and that leaving some out changes no picture."""

from __future__ import annotations

import pathlib
from fractions import Fraction

import av
import numpy as np
import pytest

from features.videos.frames import Pictures, decode_pictures, see_all
from features.videos.packets import each_picture
from features.videos.probe import Limits, open_container, probe
from features.videos.rgb import to_rgb

LIMITS = Limits()
SECONDS = 6


def write_clip(
    path: pathlib.Path,
    fps: int = 30,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    stamps: list[int] | None = None,
) -> str:
    """Six seconds of noise that moves, cut in the middle, with pictures between others that lean on both."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=fps, options={"bf": "3", **(options or {})})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 2 * fps
        stream.codec_context.time_base = Fraction(1, fps)
        for at, stamp in enumerate(stamps or range(SECONDS * fps)):
            noise = np.random.default_rng(at // (3 * fps)).integers(0, 256, (48, 64, 3), np.uint8)
            frame = av.VideoFrame.from_ndarray(np.roll(noise, at, axis=1))
            frame.pts = stamp
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return str(path)


def seen(path: str, everything: bool = False) -> Pictures:
    with open(path, "rb") as file, open_container(file) as container:
        clip = probe(container, LIMITS)
        if not everything:
            return decode_pictures(container, clip, LIMITS)
        warnings: list[str] = []
        return see_all(each_picture(container, clip.video_index, warnings), clip, LIMITS, warnings)


def check_same(some: Pictures, everything: Pictures) -> None:
    assert (some.thumbnails == everything.thumbnails).all() and (some.thumbnail_times == everything.thumbnail_times).all()
    assert [sample.timestamp_s for sample in some.samples] == [sample.timestamp_s for sample in everything.samples]
    assert some.shot_starts_s == everything.shot_starts_s and len(some.stills) == 8
    assert some.duration_s == pytest.approx(everything.duration_s, abs=0.05)
    assert some.warnings == everything.warnings == ()


@pytest.mark.parametrize("fps", [12, 24, 25, 30, 60])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_what_nobody_looks_at_is_left_out_and_nothing_else_changes(tmp_path: pathlib.Path, fps: int, suffix: str) -> None:
    path = write_clip(tmp_path / f"clip{suffix}", fps)
    some, everything = seen(path), seen(path, everything=True)
    assert everything.decoded == SECONDS * fps
    assert some.decoded < (1 if fps == 12 else 0.75) * everything.decoded
    check_same(some, everything)
    with av.open(path) as container:
        frames = list(container.decode(video=0))
    for still in some.stills:
        frame = min(frames, key=lambda frame: abs(float(frame.time - frames[0].time) - still.timestamp_s))
        assert (to_rgb(frame, 64, 48, "BICUBIC") == still.image).all(), "the picture of its moment, to the last bit"


def test_pictures_shown_for_different_times(tmp_path: pathlib.Path) -> None:
    """A screen recording: a burst of thirty a second, then one picture for a second, over and over."""
    stamps = [60 * turn + at for turn in range(10) for at in range(30)]
    path = write_clip(tmp_path / "clip.mkv", stamps=stamps)
    some, everything = seen(path), seen(path, everything=True)
    assert some.decoded < everything.decoded == 300
    check_same(some, everything)


@pytest.mark.parametrize(
    ("codec", "options"),
    [("mpeg4", {}), ("libx265", {"x265-params": "log-level=none:bframes=3"}), ("libx264", {"x264-params": "tff=1"})],
    ids=["another codec", "temporal layers", "two fields"],
)
def test_where_a_picture_may_be_leant_on_everything_is_decoded(tmp_path: pathlib.Path, codec: str, options: dict[str, str]) -> None:
    path = write_clip(tmp_path / "clip.mkv", codec=codec, options=options)
    assert seen(path).decoded == pytest.approx(SECONDS * 30, abs=8), "it shows only with the first picture that there are fields"


def test_after_damage_everything_is_decoded(tmp_path: pathlib.Path) -> None:
    path = write_clip(tmp_path / "clip.mkv")
    with av.open(path) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    middle = next(at for at in range(len(packets) // 2, len(packets)) if not packets[at].is_keyframe and packets[at].size > 40)
    data = bytearray(pathlib.Path(path).read_bytes())
    place = data.index(bytes(packets[middle]))
    data[place : place + 4] = b"\xff\xff\xff\xff"  # how long its first part is
    pathlib.Path(path).write_bytes(data)
    some, everything = seen(path), seen(path, everything=True)
    assert some.warnings and 0.6 * everything.decoded < some.decoded < everything.decoded
    assert len(some.stills) == 8


def test_a_short_clip_is_decoded_whole(tmp_path: pathlib.Path) -> None:
    assert seen(write_clip(tmp_path / "clip.mp4", stamps=list(range(40)))).decoded == 40
