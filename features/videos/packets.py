"""Reading a media file packet by packet, where one that is bad is not a bad file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

import av
from av.codec import CodecContext
from av.container import InputContainer
from av.frame import Frame
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""FFmpeg's own decoders of these leave transparency out, which WebM keeps beside the picture."""

SAYS_WHAT_IS_LEANT_ON = {"h264"}
"""Codecs in which a picture that says that no other leans on it can be believed: H.265 says so for one temporal layer alone."""

Decode = Callable[["Packet[Any]"], list[Any]]
LookedAt = Callable[[float, float], bool]
"""Whether somebody looks at the picture shown so many seconds after the first one, for so many seconds."""


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
    for frames, _ in _each_decoded(container, stream, kind, warnings, lambda packet: cast(list[Frame], packet.decode())):
        yield from frames


def each_picture(
    container: InputContainer, index: int, warnings: list[str], looked_at: LookedAt | None = None
) -> Iterator[tuple[VideoFrame, bool]]:
    """Every picture of a video stream that decodes, on this thread alone, and whether it may show damage that no decoder reports.

    That is so before the first keyframe, and from a packet that is broken until the next keyframe: what is decoded there leans on
    pictures that are not there. Otherwise like `each_frame`.

    Where `looked_at` is given, pictures that it is False of, and that no other one leans on, are left out if that saves decoding
    them, which changes no other picture; nothing is left out any more once anything is wrong.
    """
    stream = one_thread(container, index)
    trust = _Trust()
    decode = Sparing(stream, looked_at).decode if looked_at is not None and Sparing.suits(stream) else _decoder(stream)
    for frames, broken in _each_decoded(container, stream, "video", warnings, decode):
        if broken is not None:
            trust.lose(broken)
        for frame in frames:
            yield frame, trust.doubts(frame)


def one_thread(container: InputContainer, index: int) -> VideoStream:
    """A video stream, to be decoded by this thread alone."""
    stream = cast(VideoStream, container.streams[index])
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1
    return stream


def has_alpha_beside(stream: Stream) -> bool:
    """Whether a stream keeps its transparency beside its pictures, as WebM does."""
    return stream.metadata.get("alpha_mode") == "1" and stream.codec_context.name in ALPHA_DECODERS


def _decoder(stream: VideoStream) -> Decode:
    if not has_alpha_beside(stream):
        return lambda packet: cast(list[Any], packet.decode())
    context = cast(Any, CodecContext.create(ALPHA_DECODERS[stream.codec_context.name], "r"))
    context.thread_type, context.thread_count = "NONE", 1
    return lambda packet: cast(list[Any], context.decode(packet if packet.size else None))


class Sparing:
    """Decodes the packets of a stream, but for what nobody looks at and no picture leans on, as long as all is well.

    Args:
        stream: which it suits.
        looked_at: of each picture.
        first_s: the time that counts as 0, in the stream's own; None: that of the first picture.
    """

    def __init__(self, stream: VideoStream, looked_at: LookedAt, first_s: float | None = None) -> None:
        self._context, self._unit = stream.codec_context, stream.time_base
        self._looked_at, self._first_s = looked_at, first_s
        self._begun, self._well = False, self._unit is not None

    @staticmethod
    def suits(stream: VideoStream) -> bool:
        """Whether pictures of this codec say reliably that no other leans on them."""
        return stream.codec_context.name in SAYS_WHAT_IS_LEANT_ON

    def decode(self, packet: Packet[Any]) -> list[Any]:
        """The pictures that come out of the decoder now. Raises FFmpegError."""
        self._context.skip_frame = "NONREF" if self._is_spare(packet) else "DEFAULT"
        well, self._well = self._well, False
        frames = cast(list[Any], packet.decode())
        self._well = well and not packet.is_corrupt
        for frame in frames:
            self._begun = True
            if self._first_s is None:
                self._first_s = frame.time
            # Of two fields that make a picture one may be leant on and the other not.
            self._well &= not frame.is_corrupt and not frame.interlaced_frame
        return frames

    def _is_spare(self, packet: Packet[Any]) -> bool:
        if not (self._begun and self._well) or self._first_s is None or self._unit is None or packet.pts is None or not packet.size:
            return False
        return not self._looked_at(float(packet.pts * self._unit) - self._first_s, float((packet.duration or 0) * self._unit))


class _Trust:
    """Whether a picture may show damage, by the times of broken packets and of keyframes, in the stream's own units."""

    def __init__(self) -> None:
        self._key: int | None = None
        self._broken: tuple[int, int] | None = None
        self._untimed = True

    def lose(self, packet: Packet[Any]) -> None:
        """A packet is broken. That shows in whatever is decoded after it, some of which is shown before, until a keyframe."""
        shown = packet.pts if packet.pts is not None else packet.dts
        if shown is None:
            self._untimed = True
        elif self._broken is None or shown > self._broken[0]:
            self._broken = shown, shown if packet.dts is None else packet.dts

    def doubts(self, frame: VideoFrame) -> bool:
        """Whether the next picture may show damage."""
        if frame.key_frame:
            self._key, self._untimed = frame.pts, False
        if self._untimed or self._broken is None or self._key is None or frame.pts is None:
            return self._untimed
        shown, decoded = self._broken
        return self._key <= shown and decoded <= frame.pts


def _each_decoded(
    container: InputContainer, stream: Stream, kind: str, warnings: list[str], decode: Decode
) -> Iterator[tuple[list[Any], Packet[Any] | None]]:
    """What each packet gives, and the packet itself if it is broken."""
    bad = marked = 0
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
            frames, broken = decode(packet), packet if packet.is_corrupt else None
            marked += packet.is_corrupt
        except MemoryError:
            raise
        except av.FFmpegError:
            bad += 1
            frames, broken = [], packet
        yield frames, broken
    if bad:
        warnings.append(f"{bad} {kind} packets did not decode")
    if marked:
        warnings.append(f"{marked} {kind} packets arrived damaged")
