"""Containers and codecs: what comes out of a small file of each, and of every real clip, in both modes."""

from __future__ import annotations

import io
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image as PillowImage

from features.errors import Permanent
from features.videos.animated import is_animated_webp
from features.videos.decoding import Decoder
from features.videos.keyframes import timeline
from features.videos.packets import each_picture
from features.videos.probe import Limits, choose_video, open_container
from features.videos.rgb import Image
from tests.usual_priority import usual_priority

WIDTH, HEIGHT = 96, 64
RED, WHITE, BLUE = (255, 0, 0), (255, 255, 255), (40, 60, 160)


def picture(at: int, ground: tuple[int, int, int] = BLUE, size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image:
    """A red corner at the top left on one colour, and a white bar that moves: RGBA, opaque."""
    image = np.full((size[1], size[0], 4), (*ground, 255), np.uint8)
    image[:16, :24] = (*RED, 255)
    image[28:56, 4 + 5 * at : 12 + 5 * at] = (*WHITE, 255)
    return image


def grey_130(at: int) -> Image:
    """In PQ about 102 nits, in HLG about 53."""
    return picture(at, (130, 130, 130))


def sticker(at: int) -> Image:
    """The same with a transparent ground, under which there is green."""
    image = picture(at)
    image[(image[..., :3] == BLUE).all(axis=2)] = (0, 255, 0, 0)
    return image


@dataclass(frozen=True)
class Written:
    """How a file is written.

    Attributes:
        codec, pixels, options: of FFmpeg's encoder.
        matrix: from RGB, swscale's name.
        times: of the pictures, seconds; the order is that in which they are encoded.
        draw: the picture of each position.
        set_up: changes the stream before anything is encoded.
        container_options: of FFmpeg's muxer.
    """

    codec: str
    pixels: str = "yuv420p"
    matrix: str = "ITU601"
    options: dict[str, str] = field(default_factory=dict)
    times: Sequence[float] = tuple(at / 10 for at in range(10))
    draw: Callable[[int], Image] = picture
    set_up: Callable[[Any], None] = lambda stream: None
    container_options: dict[str, str] = field(default_factory=dict)

    def write(self, path: pathlib.Path) -> str:
        with usual_priority(), av.open(str(path), "w", container_options=self.container_options) as out:
            stream = out.add_stream(self.codec, rate=10, options=self.options)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, self.pixels
            stream.codec_context.time_base = Fraction(1, 1000)
            self.set_up(stream)
            for at, time in enumerate(self.times):
                drawn = av.VideoFrame.from_ndarray(np.ascontiguousarray(self.draw(at)), "rgba")
                frame = drawn.reformat(format=self.pixels, dst_colorspace=self.matrix)
                frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
        return str(path)


@dataclass(frozen=True)
class Seen:
    """What is expected: stills, displayed size, rotation, colour of the ground, and how a warning begins, if there is one."""

    stills: int = 8
    size: tuple[int, int] = (WIDTH, HEIGHT)
    rotation: int = 0
    ground: tuple[int, int, int] = BLUE
    warning: str = ""
    tolerance: int = 24
    codec: str = ""


X264 = {"preset": "ultrafast", "crf": "10"}
X265 = {"preset": "ultrafast", "x265-params": "log-level=none:crf=8"}
QUICK_VPX = {"cpu-used": "8", "deadline": "realtime", "auto-alt-ref": "0"}
ALPHA: dict[str, Any] = {"ground": WHITE}


def rotated(degrees: int) -> Callable[[Any], None]:
    return lambda stream: stream.set_display_rotation(degrees)


def wide_pixels(stream: Any) -> None:
    stream.codec_context.sample_aspect_ratio = Fraction(4, 3)


def colours(matrix: int, transfer: int, primaries: int) -> Callable[[Any], None]:
    """Tags of H.273."""

    def tag(stream: Any) -> None:
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_primaries = matrix, transfer, primaries

    return tag


def unordered(path: pathlib.Path) -> str:
    """Pictures that are shown in another order than they come in, without a codec that would sort them."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mjpeg", rate=10, options={"qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
        for at, shown in enumerate((0, 1, 2, 4, 3, 6, 5, 7, 8, 9)):
            frame = av.VideoFrame.from_ndarray(picture(at), "rgba").reformat(format="yuvj420p", dst_color_range="JPEG")
            for packet in stream.encode(frame):
                packet.pts, packet.dts, packet.time_base = 1000 + 100 * shown, 100 * at, Fraction(1, 1000)
                out.mux(packet)
    return str(path)


def with_sound_and_a_second_video(path: pathlib.Path) -> str:
    with av.open(str(path), "w") as out:
        first = out.add_stream("libx264", rate=10, options=X264)
        first.width, first.height, first.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        second = out.add_stream("libx264", rate=10, options=X264)
        second.width, second.height, second.pix_fmt = 32, 32, "yuv420p"
        sounds = [out.add_stream("aac", rate=16000, layout="mono") for _ in range(2)]
        for at in range(10):
            out.mux(first.encode(av.VideoFrame.from_ndarray(picture(at), "rgba").reformat(format="yuv420p")))
            out.mux(second.encode(av.VideoFrame(32, 32, "yuv420p")))
            for sound in sounds:
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                frame.sample_rate, frame.pts = 16000, 1024 * at
                out.mux(sound.encode(frame))
        for stream in (first, second, *sounds):
            out.mux(stream.encode())
    return str(path)


def with_a_cover(path: pathlib.Path) -> str:
    cover = io.BytesIO()
    PillowImage.fromarray(np.full((80, 80, 3), 200, np.uint8)).save(cover, "jpeg")
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=10, options=X264)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        attached = out.add_stream("mjpeg", rate=10)
        attached.width = attached.height = 80
        attached.pix_fmt, attached.disposition = "yuvj420p", type(attached.disposition).attached_pic
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts = attached, 0, 0
        out.mux(packet)
        for at in range(10):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture(at), "rgba").reformat(format="yuv420p")))
        out.mux(stream.encode())
    return str(path)


def animated_webp(draw: Callable[[int], Image], count: int = 10, duration: int | list[int] = 100) -> Callable[[pathlib.Path], str]:
    def write(path: pathlib.Path) -> str:
        pictures = [PillowImage.fromarray(draw(at)) for at in range(count)]
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=duration, lossless=True)
        return str(path)

    return write


def transparent_gif(path: pathlib.Path) -> str:
    pictures = [PillowImage.fromarray(sticker(at)) for at in range(10)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100, disposal=2)
    return str(path)


def still(path: pathlib.Path) -> str:
    PillowImage.fromarray(sticker(0)).save(path, **({"lossless": True} if path.suffix == ".webp" else {}))
    return str(path)


FORMATS: dict[str, tuple[Written | Callable[[pathlib.Path], str], Seen]] = {
    "h264.mp4": (Written("libx264", options=X264), Seen(codec="h264")),
    "h264.mov": (Written("libx264", options=X264), Seen(codec="h264")),
    "h264.mkv": (Written("libx264", options=X264), Seen(codec="h264")),
    "h264.ts": (Written("libx264", options=X264), Seen(codec="h264")),
    "h264-444.mp4": (Written("libx264", "yuv444p", options=X264), Seen(codec="h264")),
    "h264-709.mp4": (Written("libx264", matrix="ITU709", options=X264, set_up=colours(1, 1, 1)), Seen(tolerance=8)),
    "hevc-10bit.mp4": (Written("libx265", "yuv420p10le", options=X265), Seen(codec="hevc")),
    "hevc-pq.mp4": (
        Written("libx265", "yuv420p10le", "BT2020", X265, draw=grey_130, set_up=colours(9, 16, 9)),
        Seen(ground=(187, 187, 187), tolerance=8),
    ),
    "hevc-hlg.mp4": (
        Written("libx265", "yuv420p10le", "BT2020", X265, draw=grey_130, set_up=colours(9, 18, 9)),
        Seen(ground=(140, 140, 140), tolerance=8),
    ),
    "vp8.webm": (Written("libvpx", options=QUICK_VPX), Seen(codec="vp8")),
    "vp9.webm": (Written("libvpx-vp9", options=QUICK_VPX), Seen(codec="vp9")),
    "av1.mp4": (Written("libsvtav1", options={"preset": "9", "crf": "8", "svtav1-params": "lp=1"}), Seen(codec="libdav1d")),
    "mpeg4.avi": (Written("mpeg4", options={"qscale": "2"}), Seen(codec="mpeg4")),
    "mpeg4.3gp": (Written("mpeg4", options={"qscale": "2"}), Seen(codec="mpeg4")),
    "prores.mov": (Written("prores_ks", "yuv422p10le"), Seen(codec="prores")),
    "ffv1-grey.mkv": (Written("ffv1", "gray"), Seen(ground=(65, 65, 65), codec="ffv1")),
    "plain.gif": (Written("gif", "bgr8"), Seen(tolerance=40, codec="gif")),
    "still.gif": (still, Seen(stills=1, **ALPHA)),
    "still.webp": (still, Seen(stills=1, **ALPHA, codec="webp")),
    # transparency
    "transparent.gif": (transparent_gif, Seen(**ALPHA)),
    "transparent.webp": (animated_webp(sticker), Seen(**ALPHA, tolerance=2, codec="webp")),
    "opaque.webp": (animated_webp(picture), Seen(tolerance=2, codec="webp")),
    "one.webp": (Written("libwebp_anim", "bgra", options={"lossless": "1"}, times=(0.0,), draw=sticker), Seen(stills=1, **ALPHA)),
    "png.mov": (Written("png", "rgba", draw=sticker), Seen(**ALPHA, tolerance=2)),
    "qtrle.mov": (Written("qtrle", "argb", draw=sticker), Seen(**ALPHA, tolerance=2)),
    "prores4444.mov": (Written("prores_ks", "yuva444p10le", options={"profile": "4444"}, draw=sticker), Seen(**ALPHA)),
    "ffv1.mkv": (Written("ffv1", "yuva420p", draw=sticker), Seen(**ALPHA)),
    "vp9-alpha.webm": (Written("libvpx-vp9", "yuva420p", options=QUICK_VPX, draw=sticker), Seen(**ALPHA)),
    "vp8-alpha.webm": (Written("libvpx", "yuva420p", options=QUICK_VPX, draw=sticker), Seen(**ALPHA)),
    # how it is displayed
    "turned-90.mp4": (
        Written("libx264", options=X264, set_up=rotated(90), draw=lambda at: np.rot90(picture(at, size=(HEIGHT, WIDTH)), -1)),
        Seen(size=(HEIGHT, WIDTH), rotation=270),
    ),
    "wide-pixels.mp4": (Written("libx264", options=X264, set_up=wide_pixels), Seen(size=(WIDTH * 4 // 3, HEIGHT))),
    # times
    "variable-rate.mkv": (
        Written("libx264", options=X264, times=(0, 0.04, 0.08, 0.12, 0.5, 1.0, 3.0, 3.04, 3.08, 3.12)),
        Seen(),
    ),
    "starts-late.mp4": (Written("libx264", options=X264, times=tuple(5 + at / 10 for at in range(10))), Seen()),
    "starts-before-0.mp4": (Written("libx264", options=X264, times=tuple(at / 10 - 0.3 for at in range(10))), Seen(stills=7)),
    "unordered.mkv": (unordered, Seen(warning="2 timestamps were missing, out of order")),
    "no-duration.webm": (
        Written("libvpx", options=QUICK_VPX, container_options={"live": "1"}),
        Seen(),
    ),
    # several streams
    "many-streams.mkv": (with_sound_and_a_second_video, Seen()),
    "cover.mp4": (with_a_cover, Seen()),
}


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(workers=2) as made:
        yield made


@pytest.mark.parametrize("name", FORMATS)
def test_formats(decoder: Decoder, tmp_path: pathlib.Path, name: str) -> None:
    how, expected = FORMATS[name]
    path = how.write(tmp_path / name) if isinstance(how, Written) else how(tmp_path / name)
    found = decoder.decode(path)
    assert ((found.width, found.height), found.rotation, len(found.stills)) == (expected.size, expected.rotation, expected.stills)
    assert expected.codec in ("", found.video_codec)
    assert len(found.warnings) == bool(expected.warning) and all(said.startswith(expected.warning) for said in found.warnings)
    times = [still.timestamp_s for still in found.stills]
    assert times[0] < 0.35 and times == sorted(set(times))
    for still_ in found.stills:
        height, width = still_.image.shape[:2]
        assert (width, height) == expected.size
        corner, ground = still_.image[2:12, 2:16].mean(axis=(0, 1)), still_.image[2:12, width - 20 : width - 4].mean(axis=(0, 1))
        red = (76, 76, 76) if name == "ffv1-grey.mkv" else RED
        assert corner == pytest.approx(red, abs=expected.tolerance), "upright, and red"
        assert ground == pytest.approx(expected.ground, abs=expected.tolerance)


# --- what is refused ----------------------------------------------------------------------------------------------------------


def refusal(decoder: Decoder, path: str | pathlib.Path, limits: Limits | None = None) -> tuple[str, str]:
    with pytest.raises(Permanent) as caught:
        decoder.decode(str(path), limits)
    return caught.value.kind, str(caught.value)


@pytest.mark.parametrize(
    ("name", "known", "patched", "said"),
    [
        ("a.mp4", b"avc1", b"evc1", "evc, evc1"),
        ("a.mp4", b"avc1", b"avs3", "avs3"),
        ("a.mp4", b"avc1", b"zzzz", "zzzz"),
        ("a.mp4", b"avc1", b"\x1b[3m", "[27][91]3m"),
        ("a.mkv", b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XYZ", "which it does not know"),
    ],
)
def test_a_codec_without_a_decoder_is_named(
    decoder: Decoder, tmp_path: pathlib.Path, name: str, known: bytes, patched: bytes, said: str
) -> None:
    path = pathlib.Path(Written("libx264", options=X264).write(tmp_path / name))
    path.write_bytes(path.read_bytes().replace(known, patched))
    kind, message = refusal(decoder, path)
    assert kind == "no_decoder" and said in message and "convert it to H.264" in message
    assert message.isprintable()


def test_an_animated_webp_is_within_the_limits(decoder: Decoder, tmp_path: pathlib.Path) -> None:
    path = pathlib.Path(animated_webp(picture)(tmp_path / "a.webp"))
    whole = path.read_bytes()
    assert refusal(decoder, path, Limits(max_pixels=WIDTH * HEIGHT - 1))[0] == "too_large"
    assert refusal(decoder, path, Limits(max_duration_s=0.95))[0] == "too_long"
    path.write_bytes(whole[:24] + b"\xff" * 6 + whole[30:])
    kind, message = refusal(decoder, path)
    assert kind == "too_large" and "16777216 x 16777216" in message, "a canvas of the largest size there is"
    for cut in (31, 60, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:cut])
        assert refusal(decoder, path)[0] == "no_frames"


def test_every_picture_of_an_animated_webp_has_its_own_time(decoder: Decoder, tmp_path: pathlib.Path) -> None:
    """Those that ask for no time at all are shown for a tenth of a second, as in browsers."""
    path = animated_webp(picture, 5, [200, 300, 0, 1000, 400])(tmp_path / "a.webp")
    found = decoder.decode(path)
    assert [still.timestamp_s for still in found.stills] == pytest.approx([0, 0.2, 0.5, 0.6, 1.6])
    assert (found.duration_s, found.container, found.fps) == (2.0, "webp", 2.5) and found.warnings == ()
    long_last = animated_webp(picture, 3, [100, 100, 9000])(tmp_path / "b.webp")
    assert decoder.decode(long_last).warnings == (), "it does not end early: its last picture stays"


@pytest.mark.parametrize("at", range(0, 200, 17))
def test_a_damaged_animated_webp_is_a_failure_of_its_own(decoder: Decoder, tmp_path: pathlib.Path, at: int) -> None:
    path = pathlib.Path(animated_webp(sticker, 3)(tmp_path / "a.webp"))
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 0xFF
    path.write_bytes(data)
    try:
        assert decoder.decode(str(path), Limits(max_pixels=10_000)).stills
    except Permanent as error:
        assert error.kind in {"no_frames", "not_a_video", "too_large", "too_long", "decoder_error"}


def test_only_an_animated_webp_is_taken_for_one(tmp_path: pathlib.Path) -> None:
    assert is_animated_webp(io.BytesIO(pathlib.Path(animated_webp(picture)(tmp_path / "a.webp")).read_bytes()))
    for data in (b"", b"RIFF", pathlib.Path(still(tmp_path / "b.webp")).read_bytes(), b"RIFF\0\0\0\0AVI VP8X\0\0\0\0\2"):
        assert not is_animated_webp(io.BytesIO(data))


# --- damage that no decoder reports -------------------------------------------------------------------------------------------


def doubts(path: str | pathlib.Path) -> list[tuple[bool, bool]]:
    """Of each picture whether it is a keyframe, and whether it is doubted."""
    with open(path, "rb") as file, open_container(file) as container:
        stream = choose_video(container)
        assert stream is not None
        return [(bool(frame.key_frame), doubtful) for frame, doubtful in each_picture(container, stream.index, [])]


def without(path: pathlib.Path, lost: Callable[[int], bool], broken: Callable[[int], bool] = lambda at: False) -> pathlib.Path:
    """Thirty pictures of MPEG-4 with a keyframe every ten, of which packets are lost or filled with zeros."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=10, options={"qscale": "2", "sc_threshold": "1000000000"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, "yuv420p", 10
        packets = [packet for at in range(30) for packet in stream.encode(av.VideoFrame.from_ndarray(picture(at % 15), "rgba"))]
        packets += stream.encode()
        for at, packet in enumerate(packets):
            if not lost(at):
                if broken(at):
                    packet.update(b"\0" * packet.size)
                out.mux(packet)
    return path


def test_pictures_before_the_first_keyframe_are_doubted(decoder: Decoder, tmp_path: pathlib.Path) -> None:
    """A stream that is cut into: its first pictures are grey smears, which no decoder calls damaged."""
    path = without(tmp_path / "a.avi", lambda at: at < 3)
    found = doubts(path)
    assert [doubtful for _, doubtful in found[:7]] == [True] * 7 and not any(doubtful for _, doubtful in found[7:])
    stills = decoder.decode(str(path)).stills
    assert all(still.image[2:12, 2:16].mean(axis=(0, 1)) == pytest.approx(RED, abs=24) for still in stills)


def test_pictures_from_a_broken_packet_to_the_next_keyframe_are_doubted(tmp_path: pathlib.Path) -> None:
    assert not any(doubtful for _, doubtful in doubts(without(tmp_path / "a.avi", lambda at: False)))
    found = doubts(without(tmp_path / "b.avi", lambda at: False, lambda at: at == 14))
    keys = [at for at, (key, _) in enumerate(found) if key]
    assert len(found) == 29 and keys == [0, 10, 19]
    assert [at for at, (_, doubtful) in enumerate(found) if doubtful] == list(range(14, 19))


def test_packets_that_a_transport_stream_lost_are_noticed(decoder: Decoder, tmp_path: pathlib.Path) -> None:
    """A counter in each 188 bytes shows it: what comes then is doubted, and said."""
    path = pathlib.Path(
        Written("mpeg4", options={"qscale": "2"}, times=tuple(at / 10 for at in range(30))).write(tmp_path / "a.ts")
    )
    data = path.read_bytes()
    video = [at for at in range(0, len(data), 188) if data[at + 1] & 0x1F == 1 and data[at + 2] == 0 and not data[at + 1] & 0x40]
    lost = video[len(video) // 2]
    path.write_bytes(data[:lost] + data[lost + 188 :])
    assert any(doubtful for _, doubtful in doubts(path))
    with open(path, "rb") as file, open_container(file) as container:
        assert timeline(container, 0) is None, "and every picture is looked at"
    assert any("packets arrived damaged" in said or "did not decode" in said for said in decoder.decode(str(path)).warnings)


# --- real clips ---------------------------------------------------------------------------------------------------------------

ODD_CLIPS: dict[str, Any] = {
    "audio-only.mp4": "no_video",
    "av1.mkv": (640, 360, 0, 8, ()),
    "corrupted-midway.mp4": (
        1280,
        720,
        0,
        8,
        ("1 video packets did not decode", "1 of 35 decoded frames are damaged and were left out"),
    ),
    "empty.mp4": "empty",
    "hevc-10bit.mp4": (200, 200, 0, 8, ()),
    "invalid-bitstream.webm": "no_frames",
    "no-audio-decoder.mp4": "no_video",
    "no-duration.webm": (1280, 720, 0, 8, ()),
    "odd-dimensions.webm": (161, 121, 0, 8, ()),
    "one-pixel.mp4": (1, 1, 0, 5, ()),
    "rotated-180.mov": (568, 320, 180, 3, ()),
    "rotated-270.mov": (320, 568, 270, 3, ()),
    "rotated-90.mov": (320, 568, 90, 3, ()),
    "text-file.mp4": "not_a_video",
    "truncated.mp4": (1280, 720, 0, 8, ("1 video packets did not decode", "the video ends after 0.8 s of 10.0 s")),
    "unordered-timestamps.mov": (50, 50, 0, 4, ()),
    "will-not-open.mp4": "not_a_video",
}
"""Width, height, rotation, stills and warnings, or why there is nothing; the same in both modes: none is worth skipping in."""

CLIPS: dict[str, tuple[int, int, int, int]] = {
    "bee-on-thistle.mp4": (1280, 720, 0, 1),
    "bunny-meadow-10s.mp4": (480, 360, 0, 3),
    "bunny-meadow-30s.webm": (1280, 720, 0, 4),
    "bunny-wakes.mp4": (1280, 720, 0, 1),
    "butterfly-in-sun.mp4": (1280, 720, 0, 1),
    "cars-from-above.mp4": (768, 432, 0, 1),
    "fresh-nails.ts": (1080, 1916, 0, 1),
    "night-docking.mp4": (480, 270, 0, 2),
    "office-desk.3gp": (384, 288, 0, 1),
    "pencil-sketch-1.mp4": (288, 352, 270, 1),
    "pencil-sketch-2.mp4": (288, 352, 270, 1),
    "pencil-sketch-3.mp4": (288, 352, 270, 1),
    "people-one-by-one.mp4": (768, 432, 0, 1),
    "rooftop-drone-360p.mp4": (640, 360, 0, 5),
    "sign-bird.mkv": (640, 480, 0, 1),
    "sign-hungry.mkv": (640, 480, 0, 1),
    "sign-night.mkv": (640, 480, 0, 1),
    "sign-sorry.mkv": (640, 480, 0, 1),
    "sign-student.mkv": (640, 480, 0, 1),
    "sign-thanks.mkv": (640, 480, 0, 1),
    "sign-walk.mkv": (640, 480, 0, 1),
    "sign-yes.mkv": (640, 480, 0, 1),
    "squirrel-on-rail-silent.mp4": (1280, 720, 0, 1),
    "squirrel-on-rail.mp4": (1280, 720, 0, 1),
    "station-roofs.mp4": (320, 240, 0, 1),
    "three-bottles.mp4": (640, 360, 0, 1),
}
"""Width, height, rotation and shots of each; all give eight stills without a warning."""

FROM_KEYFRAMES = {
    "bunny-meadow-30s.webm",
    "cars-from-above.mp4",
    "people-one-by-one.mp4",
    "squirrel-on-rail-silent.mp4",
    "squirrel-on-rail.mp4",
    "three-bottles.mp4",
}
"""Where few pictures need to be decoded for stills, and shots are not known then; the other ones are read as a whole."""
OF_EACH_KIND = [
    "bunny-meadow-10s.mp4",
    "bunny-meadow-30s.webm",
    "cars-from-above.mp4",
    "night-docking.mp4",
    "office-desk.3gp",
    "pencil-sketch-1.mp4",
    "people-one-by-one.mp4",
    "sign-bird.mkv",
]


@pytest.fixture(scope="module")
def quick() -> Iterator[Decoder]:
    with Decoder(workers=2, mode="keyframes") as made:
        yield made


def test_transparency_beside_the_picture_is_seen_from_keyframes_too(quick: Decoder, tmp_path: pathlib.Path) -> None:
    options = {**QUICK_VPX, "g": "4", "keyint_min": "4"}
    how = Written(
        "libvpx-vp9", "yuva420p", options=options, times=tuple(at / 10 for at in range(80)), draw=lambda at: sticker(at % 16)
    )
    found = quick.decode(how.write(tmp_path / "a.webm"))
    assert all(still.image[2:12, -20:-4].mean() > 250 for still in found.stills)


@pytest.mark.parametrize("name", ODD_CLIPS)
def test_odd_clips(decoder: Decoder, quick: Decoder, shared_data: pathlib.Path, name: str) -> None:
    path, expected = shared_data / "odd_clips" / name, ODD_CLIPS[name]
    for mode in (decoder, quick):
        if isinstance(expected, str):
            assert refusal(mode, path)[0] == expected
            continue
        found = mode.decode(str(path))
        assert (found.width, found.height, found.rotation, len(found.stills), found.warnings) == expected
        assert all(max(still.image.shape[:2]) <= 512 for still in found.stills)


def check_clips(decoder: Decoder, folder: pathlib.Path, names: list[str]) -> None:
    with ThreadPoolExecutor(2) as pool:
        decoded = list(pool.map(lambda name: decoder.decode(str(folder / name)), names))
    for name, found in zip(names, decoded, strict=True):
        width, height, rotation, shots = CLIPS[name]
        unknown = decoder.mode == "keyframes" and name in FROM_KEYFRAMES
        assert (found.width, found.height, found.rotation, found.warnings) == (width, height, rotation, ()), name
        assert (len(found.stills), len(found.shot_starts_s)) == (8, 0 if unknown else shots), name
        scale = min(1.0, 512 / max(width, height))
        assert {still.image.shape[:2] for still in found.stills} == {(round(height * scale), round(width * scale))}, name


def test_clips_of_each_kind(quick: Decoder, shared_data: pathlib.Path) -> None:
    check_clips(quick, shared_data / "clips", OF_EACH_KIND)


@pytest.mark.soak
def test_all_clips_in_both_modes(decoder: Decoder, quick: Decoder, shared_data: pathlib.Path) -> None:
    check_clips(decoder, shared_data / "clips", list(CLIPS))
    check_clips(quick, shared_data / "clips", list(CLIPS))


@pytest.mark.parametrize(("folder", "table"), [("clips", CLIPS), ("odd_clips", ODD_CLIPS)])
def test_all_clips_are_in_the_tables(shared_data: pathlib.Path, folder: str, table: dict[str, Any]) -> None:
    assert sorted(set(os.listdir(shared_data / folder)) - {"manifest.jsonl"}) == sorted(table)
