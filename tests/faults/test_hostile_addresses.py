"""Addresses that lead elsewhere, in a manifest and inside media: nobody is called, and a file is read as the file it is."""

from __future__ import annotations

import json
import pathlib
import socket
import threading
from collections.abc import Iterator

import av
import cv2
import numpy as np
import pytest

from features.errors import Permanent
from features.records import Failure, VideoFeatures
from features.videos.probe import open_container
from features.workspace import Workspace
from pipelines import extract
from pipelines.encoders import DECODING_ALONE
from pipelines.extract import ExtractConfig


class Listener:
    """A server on loopback that counts who calls."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.hits = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:
                return
            self.hits += 1
            caller.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


def write_clip(path: pathlib.Path, colour: tuple[int, int, int]) -> None:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 64, 48
        for _ in range(4):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), colour, np.uint8))))
        out.mux(stream.encode())


def playlists(address: str, secret: pathlib.Path) -> dict[str, bytes]:
    """Texts that a media library may follow to the addresses in them."""
    return {
        "hls.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nhttp://{address}/a.ts\n#EXT-X-ENDLIST\n".encode(),
        "hls-file.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nfile://{secret}\n#EXT-X-ENDLIST\n".encode(),
        "concat.mp4": f"ffconcat version 1.0\nfile 'http://{address}/a.mp4'\n".encode(),
        "concat-file.mp4": f"ffconcat version 1.0\nfile '{secret}'\n".encode(),
        "dash.mp4": f"<?xml version='1.0'?><MPD><BaseURL>http://{address}/</BaseURL></MPD>".encode(),
        "sdp.mp4": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 {address.partition(':')[0]}\nm=video 9 RTP/AVP 96\n".encode(),
    }


def test_nobody_is_called_and_nothing_else_is_read(tmp_path: pathlib.Path, listener: Listener) -> None:
    """Fault 23, at the level of a run."""
    folder = tmp_path / "videos"
    folder.mkdir()
    secret = tmp_path / "secret.mp4"
    write_clip(secret, (0, 255, 0))
    write_clip(folder / "a[1].mp4", (255, 0, 0))
    write_clip(folder / "a1.mp4", (0, 0, 255))
    (folder / "link.mp4").symlink_to(secret)
    texts = playlists(listener.address, secret)
    for name, text in texts.items():
        (folder / name).write_bytes(text)
    refused = {
        "url": f"http://{listener.address}/a.mp4",
        "upper": f"HTTP://{listener.address}/a.mp4",
        "rtmp": f"rtmp://{listener.address}/a",
        "concat": f"concat:http://{listener.address}/a.mp4",
        "file": f"file://{secret}",
        "up": "../secret.mp4",
        "up-more": "x/../../secret.mp4",
        "passwd": "../../../../../../etc/passwd",
        "absolute": str(secret),
        "link": "link.mp4",
    }
    rows = {**refused, "pattern": "*.mp4", "literal": "a[1].mp4", **{name: name for name in texts}}
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps({"video_id": name, "uri": uri}) + "\n" for name, uri in rows.items()))
    workspace = Workspace(str(tmp_path / "w"))
    record = extract.run(ExtractConfig(workspace, str(manifest), encoders=DECODING_ALONE))

    (row,) = workspace.rows(VideoFeatures)
    blue, _, red = cv2.imdecode(np.frombuffer(row.frames[0].jpeg, np.uint8), cv2.IMREAD_COLOR).mean(axis=(0, 1))
    assert row.video_id == "literal" and red > 200 and blue < 50, "the file of that very name, not what the pattern matches"
    letters = {failure.video_id: failure for failure in workspace.rows(Failure)}
    assert record.counts.into == len(rows) and record.counts.dead_lettered == len(rows) - 1
    assert {name for name, letter in letters.items() if letter.kind == "invalid_row"} == refused.keys()
    assert all(refused[name] in letters[name].message or name == "link" for name in refused), "it says which address"
    assert letters["pattern"].kind == "missing"
    assert {letters[name].kind for name in texts} == {"not_a_video"}
    assert listener.hits == 0


@pytest.mark.parametrize("name", [*playlists("", pathlib.Path())])
def test_even_outside_of_the_sealed_room_a_playlist_leads_nowhere(tmp_path: pathlib.Path, listener: Listener, name: str) -> None:
    """Fault 23: the reader itself follows nothing, whether or not this machine can lock a process in."""
    secret = tmp_path / "secret.mp4"
    write_clip(secret, (0, 255, 0))
    path = tmp_path / name
    path.write_bytes(playlists(listener.address, secret)[name])
    with path.open("rb") as file, pytest.raises(Permanent) as caught, open_container(file) as container:
        list(container.decode(video=0))
    assert caught.value.kind == "not_a_video" and listener.hits == 0
