"""Checks that pictures are what they are said to be."""

from __future__ import annotations

import base64
import binascii
import io
import struct
from collections import OrderedDict
from hashlib import blake2b

from PIL import Image as Pillow

from features.annotators.model_server.asked import Image
from features.annotators.model_server.counting import picture_tokens

FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png"}
REMEMBERED = 8192
"""Pictures that are not looked at again when they come again, as they do with one question a request, or in a repair."""

_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG that begin a frame: ITU T.81, table B.1."""
_PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


class BadPicture(Exception):
    """A picture that no provider would take; the message says why."""


class Pictures:
    """Looks at pictures.

    Args:
        decode: in full, instead of the header alone, which takes for good what is damaged behind it.
        most_side: pixels.
    """

    def __init__(self, decode: bool, most_side: int) -> None:
        self.decode, self.most_side = decode, most_side
        self._known: OrderedDict[tuple[bytes, str], tuple[int, int]] = OrderedDict()

    def checked(self, encoded: str, media_type: str, model: str, low: bool) -> Image:
        """A picture from base64.

        Args:
            encoded: base64.
            media_type: what it is said to be.
            model: who counts its tokens.
            low: low resolution was asked for.

        Raises:
            BadPicture: not base64, no JPEG or PNG, not what it is said to be, damaged, or too large.
        """
        digest = blake2b(encoded.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        size = self._known.get((digest, media_type))
        if size is None:
            size = self._size(encoded, media_type)
            self._known[digest, media_type] = size
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return Image(digest, *size, picture_tokens(*size, model, low))

    def _size(self, encoded: str, media_type: str) -> tuple[int, int]:
        try:
            data = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadPicture("the data is not valid base64") from error
        try:
            found, width, height = self._decoded(data) if self.decode else header(data)
        except (OSError, SyntaxError, ValueError, KeyError, Pillow.DecompressionBombError) as error:
            raise BadPicture("it does not decode as JPEG or PNG") from error
        if found != media_type:
            raise BadPicture(f"it is said to be {media_type} and is {found}")
        self._fits(width, height)
        return width, height

    def _fits(self, width: int, height: int) -> None:
        if max(width, height) > self.most_side:
            raise BadPicture(f"it has {width} x {height} pixels, and a side may have {self.most_side}")

    def _decoded(self, data: bytes) -> tuple[str, int, int]:
        with Pillow.open(io.BytesIO(data), formats=tuple(FORMATS)) as picture:
            width, height = picture.size
            self._fits(width, height)
            picture.load()
            return FORMATS[picture.format or ""], width, height


def header(data: bytes) -> tuple[str, int, int]:
    """(media type, width, height) as a picture's header says.

    Raises:
        ValueError: no header of a JPEG or PNG, or a JPEG without its end.
    """
    if data.startswith(_PNG) and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        return _sized("image/png", width, height)
    if not (data.startswith(b"\xff\xd8\xff") and b"\xff\xd9" in data[-64:]):
        raise ValueError("neither JPEG nor PNG")
    at = 2
    while at + 9 <= len(data):
        mark, kind, length = struct.unpack_from(">BBH", data, at)
        if mark != 0xFF or length < 2:
            break
        if kind in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return _sized("image/jpeg", width, height)
        at += 2 + length
    raise ValueError("no frame header")


def _sized(media_type: str, width: int, height: int) -> tuple[str, int, int]:
    if not (width and height):
        raise ValueError("no pixels")
    return media_type, width, height
