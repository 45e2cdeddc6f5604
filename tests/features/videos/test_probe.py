"""What is refused before anything is decoded."""

from __future__ import annotations

import io
import pathlib
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest

from features.errors import InvalidInput, Permanent
from features.videos.probe import Limits, Probe, open_container, probe

LIMITS = Limits()


def write_clip(path: pathlib.Path, frames: int = 10, fps: int = 10, size: tuple[int, int] = (64, 48), streams: int = 1) -> str:
    with av.open(str(path), "w") as out:
        made = [out.add_stream("mpeg4", rate=fps) for _ in range(streams)]
        for stream in made:
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
        for stream in made:
            for at in range(frames):
                image = np.full((size[1], size[0], 3), at * 20 % 256, np.uint8)
                out.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
            out.mux(stream.encode())
    return str(path)


def probed(path: str, limits: Limits = LIMITS) -> Probe:
    with open(path, "rb") as file, open_container(file) as container:
        return probe(container, limits)


def refusal(path: str, limits: Limits = LIMITS) -> tuple[str, str]:
    with pytest.raises(Permanent) as caught:
        probed(path, limits)
    return caught.value.kind, str(caught.value)


def test_a_plain_clip(tmp_path: pathlib.Path) -> None:
    clip = probed(write_clip(tmp_path / "a.mp4"))
    assert (clip.width, clip.height, clip.sample_aspect_ratio, clip.streams) == (64, 48, Fraction(1), 1)
    assert (clip.video_codec, clip.fps, clip.audio_index) == ("mpeg4", 10.0, None)
    assert "mp4" in clip.container and clip.duration_s == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("limits", "kind", "name"),
    [
        (replace(LIMITS, max_pixels=64 * 48 - 1), "too_large", "max_pixels"),
        (replace(LIMITS, max_duration_s=0.5), "too_long", "max_duration_s"),
        (replace(LIMITS, max_streams=1), "too_many_streams", "max_streams"),
    ],
)
def test_a_limit_is_named_with_its_remedy(tmp_path: pathlib.Path, limits: Limits, kind: str, name: str) -> None:
    found, message = refusal(write_clip(tmp_path / "a.mkv", streams=2), limits)
    assert found == kind and f"raise {name}" in message


def test_a_bomb_is_refused_by_its_header(tmp_path: pathlib.Path) -> None:
    """Fault 22: a few kilobytes that ask for 64 million pixels."""
    path = tmp_path / "bomb.mov"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("png", rate=1)
        stream.width = stream.height = 8000
        stream.pix_fmt = "gray"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((8000, 8000), np.uint8), "gray")))
        out.mux(stream.encode())
    assert path.stat().st_size < 100_000
    assert refusal(str(path))[0] == "too_large"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:3,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        b"<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011'></MPD>",
        b"\x89PNG\r\n\x1a\n" + bytes(100),
    ],
)
def test_playlists_and_other_files_are_no_videos(tmp_path: pathlib.Path, content: bytes) -> None:
    path = tmp_path / "a.m3u8"
    path.write_bytes(content)
    kind, message = refusal(str(path))
    assert kind == ("not_a_video" if content else "empty")
    assert str(tmp_path) not in message


def test_a_sound_file_with_a_cover_is_no_video(tmp_path: pathlib.Path) -> None:
    cover = io.BytesIO()
    with av.open(cover, "w", format="mjpeg") as picture:
        stream = picture.add_stream("mjpeg", rate=1)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuvj420p"
        picture.mux(stream.encode(av.VideoFrame(32, 32, "yuvj420p")))
        picture.mux(stream.encode())
    path = tmp_path / "song.mp3"
    with av.open(str(path), "w") as out:
        sound = out.add_stream("mp3", rate=44100)
        attached = out.add_stream("mjpeg", rate=1)
        attached.width = attached.height = 32
        attached.pix_fmt = "yuvj420p"
        attached.disposition = type(attached.disposition).attached_pic
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts = attached, 0, 0
        out.mux(packet)
        for _ in range(20):
            frame = av.AudioFrame("s16p", "stereo", 1152)
            frame.sample_rate = 44100
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            out.mux(sound.encode(frame))
        out.mux(sound.encode())
    kind, _ = refusal(str(path))
    assert kind == "no_video"


def test_limits_are_checked_when_made() -> None:
    with pytest.raises(InvalidInput, match="wall_s=0"):
        Limits(wall_s=0)
    with pytest.raises(InvalidInput, match="max_pixels"):
        Limits(max_pixels=float("inf"))  # type: ignore[arg-type]


def test_the_stream_a_player_would_show_is_chosen(shared_data: pathlib.Path) -> None:
    clip = probed(str(shared_data / "clips" / "night-docking.mp4"))
    assert (clip.width, clip.height, clip.streams) == (480, 270, 6)


def test_aspect_ratio_of_an_old_phone(shared_data: pathlib.Path) -> None:
    clip = probed(str(shared_data / "clips" / "office-desk.3gp"))
    assert (clip.width, clip.height, clip.sample_aspect_ratio) == (352, 288, Fraction(12, 11))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("empty.mp4", "empty"),
        ("text-file.mp4", "not_a_video"),
        ("will-not-open.mp4", "not_a_video"),
        ("audio-only.mp4", "no_video"),
        ("no-audio-decoder.mp4", "no_video"),
    ],
)
def test_odd_clips_that_never_get_to_decoding(shared_data: pathlib.Path, name: str, kind: str) -> None:
    assert refusal(str(shared_data / "odd_clips" / name))[0] == kind
