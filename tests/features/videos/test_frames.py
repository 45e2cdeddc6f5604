"""Which pictures are kept, and that they stand upright."""

from __future__ import annotations

import io
import itertools
import pathlib
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.errors import Permanent
from features.videos.frames import CANDIDATE_BYTES, Clock, Orientation, Pictures, decode_pictures, encode_jpeg, most_held
from features.videos.probe import Limits, open_container, probe
from features.videos.rgb import Image


def write_clip(path: pathlib.Path, images: list[Image], times: list[float] | None = None, aspect: Fraction | None = None) -> str:
    """Lossless enough: every picture a key frame, at 10 a second or at the times given."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=10, options={"qscale": "1"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.gop_size = 1
        stream.codec_context.time_base = Fraction(1, 1000)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for at, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image)
            frame.time_base = Fraction(1, 1000)
            frame.pts = round(1000 * (times[at] if times else at / 10))
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return str(path)


def grey(level: int, size: tuple[int, int] = (48, 64)) -> Image:
    return np.full((*size, 3), level, np.uint8)


def seen(path: str | pathlib.Path, limits: Limits | None = None) -> Pictures:
    with open(path, "rb") as file, open_container(file) as container:
        return decode_pictures(container, probe(container, limits or Limits()), limits or Limits())


# --- the choice ---------------------------------------------------------------------------------------------------------------


@given(st.lists(st.none() | st.floats(-100, 1e6), min_size=1, max_size=60), st.sampled_from([0.0, 5.0, 60.0]))
def test_the_clock_never_goes_back(stamps: list[float | None], duration: float) -> None:
    clock = Clock(25.0, duration)
    times = [clock.tick(stamp) for stamp in stamps]
    assert times[0] == 0 and all(later > earlier for earlier, later in itertools.pairwise(times))


def test_the_clock_repairs_what_it_must_and_nothing_else() -> None:
    def times(*stamps: float | None, duration: float = 0.0) -> list[float]:
        clock = Clock(10.0, duration)
        return [round(clock.tick(stamp), 6) for stamp in stamps]

    assert times(1.4, 1.5, 1.6) == [0, 0.1, 0.2]
    assert times(None, None, None) == [0, 0.1, 0.2]
    assert times(0, 0.1, 0.1, 0.2) == [0, 0.1, 0.2, 0.3]
    assert times(0, 0.1, 90000.0, 90000.1, duration=1.0) == [0, 0.1, 0.2, 0.3]
    assert times(0, 30.0, 60.0, duration=60.0) == [0, 30.0, 60.0]
    assert times(0, 30.0, 90000.0) == [0, 30.0, 30.1]


@pytest.mark.parametrize("count", [1, 2, 7, 8])
def test_short_clips_give_what_they_have(tmp_path: pathlib.Path, count: int) -> None:
    pictures = seen(write_clip(tmp_path / "a.mp4", [grey(20 * at) for at in range(count)]))
    assert [round(float(still.image.mean()) / 20) for still in pictures.stills] == list(range(count))
    assert [still.timestamp_s for still in pictures.stills] == pytest.approx([at / 10 for at in range(count)])
    assert pictures.decoded == count and not pictures.warnings


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "ts", "mpg", "webm", "mov", "gif", "flv"])
def test_a_hundred_frames_in_any_container(tmp_path: pathlib.Path, suffix: str) -> None:
    images = [grey(2 * at) for at in range(100)]
    if suffix in {"webm", "gif", "flv", "mpg"}:
        codec, fmt, rate = {
            "webm": ("libvpx", "yuv420p", 10),
            "gif": ("gif", "gray", 10),
            "flv": ("flv", "yuv420p", 10),
            "mpg": ("mpeg2video", "yuv420p", 25),
        }[suffix]
        path = str(tmp_path / f"a.{suffix}")
        with av.open(path, "w") as out:
            stream = out.add_stream(codec, rate=rate)
            stream.height, stream.width, stream.pix_fmt = 48, 64, fmt
            for image in images:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(image).reformat(format=fmt)))
            out.mux(stream.encode())
    else:
        path = write_clip(tmp_path / f"a.{suffix}", images)
    pictures = seen(path)
    levels = [float(still.image.mean()) for still in pictures.stills]
    assert len(levels) == 8 and levels == sorted(levels)
    assert levels == pytest.approx([2 * (at + 0.5) * 100 / 8 for at in range(8)], abs=12)
    assert pictures.duration_s == pytest.approx(4 if suffix == "mpg" else 10, rel=0.05)


def test_the_choice_goes_by_time_and_not_by_number(tmp_path: pathlib.Path) -> None:
    """Fifty frames in the first second, then one a second: the still second half is not forgotten."""
    times = [at / 50 for at in range(50)] + [1.0 + at for at in range(15)]
    pictures = seen(write_clip(tmp_path / "a.mkv", [grey(at) for at in range(65)], times))
    assert sum(still.timestamp_s >= 1 for still in pictures.stills) >= 6


# --- how they look ------------------------------------------------------------------------------------------------------------


def corners(size: tuple[int, int]) -> Image:
    """Red, green, blue and white quarters: top left, top right, bottom left, bottom right."""
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    for (top, left), colour in {(0, 0): (255, 0, 0), (0, 1): (0, 255, 0), (1, 0): (0, 0, 255), (1, 1): (255, 255, 255)}.items():
        image[top * height // 2 : (top + 1) * height // 2, left * width // 2 : (left + 1) * width // 2] = colour
    return image


def test_orientation_matrices() -> None:
    """FFmpeg's eight display matrices against numpy's own turning."""
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    for turns in range(4):
        for mirrored in (False, True):
            expected = np.rot90(image, -turns)
            expected = expected[:, ::-1] if mirrored else expected
            fits = [
                orientation
                for orientation in (Orientation(bool(bits & 1), bool(bits & 2), bool(bits & 4)) for bits in range(8))
                if np.array_equal(orientation.upright(image), expected)
            ]
            assert len(fits) == 1
            if not mirrored:
                assert fits[0].rotation == 90 * turns


@pytest.mark.parametrize(
    ("name", "rotation", "size"),
    [("rotated-90", 90, (320, 568)), ("rotated-180", 180, (568, 320)), ("rotated-270", 270, (320, 568))],
)
def test_rotated_clips_stand_upright(shared_data: pathlib.Path, name: str, rotation: int, size: tuple[int, int]) -> None:
    """The coded picture is read again with OpenCV, its own turning off, and turned by numpy."""
    path = shared_data / "odd_clips" / f"{name}.mov"
    pictures = seen(path)
    assert (pictures.rotation, (pictures.width, pictures.height)) == (rotation, size)
    with av.open(str(path)) as container:
        coded = next(container.decode(video=0)).to_ndarray(format="rgb24")
    expected = cv2.resize(np.rot90(coded, -rotation // 90), pictures.stills[0].image.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(expected.astype(int) - pictures.stills[0].image).mean() < 3
    capture = cv2.VideoCapture(str(path))
    done, turned = capture.read()
    if done and turned.shape[1::-1] == size:
        other = cv2.resize(turned[..., ::-1], pictures.stills[0].image.shape[1::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(other.astype(int) - pictures.stills[0].image).mean() < 6


def test_sample_aspect_ratio_widens_the_picture(tmp_path: pathlib.Path) -> None:
    pictures = seen(write_clip(tmp_path / "a.mkv", [corners((96, 64))], aspect=Fraction(2)))
    assert (pictures.width, pictures.height) == (128, 96)
    image = pictures.stills[0].image
    assert image.shape == (96, 128, 3)
    assert image[10, 10].argmax() == 0 and image[10, 118].argmax() == 1 and image[86, 10].argmax() == 2


@pytest.mark.parametrize(
    ("size", "shape"), [((1080, 1920), (288, 512)), ((1000, 400), (512, 205)), ((64, 64), (64, 64)), ((16, 1200), (7, 512))]
)
def test_the_longest_side_is_512_and_nothing_grows(tmp_path: pathlib.Path, size: tuple[int, int], shape: tuple[int, int]) -> None:
    image = seen(write_clip(tmp_path / "a.mkv", [corners(size)])).stills[0].image
    assert image.shape == (*shape, 3)
    assert image[0, 0].argmax() == 0 and image[-1, -1].min() > 200


@pytest.mark.parametrize("full", [False, True])
def test_full_and_limited_range_look_the_same(tmp_path: pathlib.Path, full: bool) -> None:
    path = str(tmp_path / "a.mkv")
    with av.open(path, "w") as out:
        stream = out.add_stream("mjpeg" if full else "ffv1", rate=1)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuvj420p" if full else "yuv420p"
        frame = av.VideoFrame.from_ndarray(grey(40, (64, 64))).reformat(
            format=stream.pix_fmt, dst_color_range="JPEG" if full else "MPEG"
        )
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    assert float(seen(path).stills[0].image.mean()) == pytest.approx(40, abs=2)


def test_jpeg_comes_back() -> None:
    image = corners((100, 60))
    decoded = cv2.imdecode(np.frombuffer(encode_jpeg(image), np.uint8), cv2.IMREAD_COLOR)
    assert decoded.shape == image.shape
    assert np.abs(decoded[..., ::-1].astype(int) - image).mean() < 4


# --- damage -------------------------------------------------------------------------------------------------------------------


def test_one_bad_packet_is_not_a_bad_clip(tmp_path: pathlib.Path) -> None:
    path = write_clip(tmp_path / "a.avi", [grey(10 * at) for at in range(20)])
    data = bytearray(pathlib.Path(path).read_bytes())
    with av.open(path) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for packet in packets[4:6]:
        data[packet.pos + 8 : packet.pos + 8 + packet.size] = b"\x00" * packet.size
    pathlib.Path(path).write_bytes(data)
    pictures = seen(path)
    assert len(pictures.stills) == 8 and pictures.decoded == 18
    assert "2 video packets did not decode" in pictures.warnings


def test_a_stream_that_grows_beyond_the_limit(tmp_path: pathlib.Path) -> None:
    """Fault 22: a small picture in front of a large one."""
    raw = b"".join(_h264(size) for size in ((64, 64), (640, 480)))
    (tmp_path / "a.h264").write_bytes(raw)
    pictures = seen(tmp_path / "a.h264")
    assert {still.image.shape[:2] for still in pictures.stills} == {(64, 64), (384, 512)}
    with pytest.raises(Permanent, match="raise max_pixels") as caught:
        seen(tmp_path / "a.h264", Limits(max_pixels=100 * 100))
    assert caught.value.kind == "too_large"


def _h264(size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="h264") as out:
        stream = out.add_stream("libx264", rate=10, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for _ in range(4):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(grey(90, size[::-1]))))
        out.mux(stream.encode())
    return file.getvalue()


def test_a_header_that_lies_about_its_length_is_counted(tmp_path: pathlib.Path) -> None:
    path = write_clip(tmp_path / "a.h264.mkv", [grey(0)] * 30)
    with pytest.raises(Permanent) as caught:
        seen(path, Limits(max_duration_s=2))
    assert caught.value.kind == "too_long"
    (tmp_path / "b.h264").write_bytes(_h264((64, 64)) * 20)
    with pytest.raises(Permanent) as caught:
        seen(tmp_path / "b.h264", Limits(max_duration_s=2))
    assert caught.value.kind == "too_long"


def test_nothing_that_decodes_is_a_failure(shared_data: pathlib.Path) -> None:
    with pytest.raises(Permanent) as caught:
        seen(shared_data / "odd_clips" / "invalid-bitstream.webm")
    assert caught.value.kind == "no_frames"


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le", "rgba", "rgba64le"])
@pytest.mark.parametrize(("width", "height"), [(64, 48), (1920, 1080), (4096, 2304)])
def test_frames_that_are_held_back_fit_into_memory(tmp_path: pathlib.Path, pixels: str, width: int, height: int) -> None:
    with open(write_clip(tmp_path / "a.mp4", [grey(0)]), "rb") as file, open_container(file) as container:
        clip = probe(container, Limits())
    frame = av.VideoFrame(width, height, pixels)
    held = most_held(frame, clip)
    in_all = held * sum(plane.buffer_size for plane in frame.planes)
    assert 16 <= held <= 64 and (held == 16 or in_all <= 1.1 * CANDIDATE_BYTES)
    assert held == 64 or in_all > 0.4 * CANDIDATE_BYTES, "and as many as that"


def test_thumbnails_are_about_five_a_second(tmp_path: pathlib.Path) -> None:
    pictures = seen(write_clip(tmp_path / "a.mkv", [grey(at) for at in range(100)]))
    assert pictures.thumbnails.shape == (50, 36, 64, 3) and len(pictures.thumbnail_times) == 50
    assert np.diff(pictures.thumbnail_times) == pytest.approx(0.2)
