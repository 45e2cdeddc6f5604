"""Reading a media file packet by packet, where one that is bad is not a bad file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import av
from av.container import InputContainer
from av.frame import Frame
from av.packet import Packet
from av.stream import Stream


def each_packet(container: InputContainer, index: int) -> Iterator[Packet[Any]]:
    """The packets of a stream, without the empty one at the end by which a decoder is emptied. Raises FFmpegError."""
    for packet in container.demux(container.streams[index]):
        if packet.size:
            yield packet


def each_frame(container: InputContainer, stream: Stream, kind: str, warnings: list[str]) -> Iterator[Frame]:
    """Every frame of a stream that decodes. What does not is counted and passed over.

    Args:
        container: open, at its beginning.
        stream: of the container.
        kind: what the warnings call the stream.
        warnings: gets a sentence for what went wrong.

    Raises:
        MemoryError: the process's limit is reached.
    """
    bad = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except MemoryError:
            raise
        except av.FFmpegError as error:
            warnings.append(f"reading {kind} stopped early ({type(error).__name__})")
            break
        if packet is None:
            break
        try:
            yield from cast(list[Frame], packet.decode())
        except MemoryError:
            raise
        except av.FFmpegError:
            bad += 1
    if bad:
        warnings.append(f"{bad} {kind} packets did not decode")
