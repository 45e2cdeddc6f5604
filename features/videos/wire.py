"""The bytes between a decoding child and whoever asked it: sizes first, then JSON, then raw numbers. No pickle.

request   512 bytes: JSON of the limits and the mode, padded with spaces; three descriptors travel along (video, answer, ending)
answer    b"VDA1", length of the header (4 bytes, little endian), header as JSON, RGB of each still, 16-bit speech
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

REQUEST_BYTES = 512
MAX_HEADER_BYTES = 1 << 18
MAX_WARNINGS = 20
MAX_SHOTS = 1000
MODES = ("exact", "keyframes")
"""How stills are chosen: out of all pictures, by shots; or out of a dozen, for which keyframes stand where some are near."""
EXAMINE = "examine"
"""The mode in which a child decodes nothing, but examines its walls."""
EXIT_MEMORY = 71
"""Exit code of a child that ran into its memory limit and may be unable to say so."""

_MAGIC = b"VDA1"
_WORD = re.compile(r"[a-z][a-z_]{0,39}")


class Malformed(ValueError):
    """An answer that no honest child gives."""


def pack_request(limits: Mapping[str, float], mode: str) -> bytes:
    """One request: the limits, and how stills are chosen (`MODES`) or `EXAMINE`."""
    return json.dumps({**limits, "mode": mode}).encode().ljust(REQUEST_BYTES)


def pack_reply(header: Mapping[str, Any], parts: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    """An answer as parts to be written one after the other."""
    text = json.dumps(dict(header)).encode()
    return [_MAGIC + len(text).to_bytes(4, "little") + text, *parts]


class Body:
    """What follows the header, taken piece by piece."""

    def __init__(self, data: memoryview) -> None:
        self._data = data

    def take(self, size: int) -> memoryview:
        """The next bytes. Raises Malformed when there are fewer."""
        if size > len(self._data):
            raise Malformed(f"{size} bytes announced, {len(self._data)} sent")
        piece, self._data = self._data[:size], self._data[size:]
        return piece

    def end(self) -> None:
        """Raises Malformed when something is left."""
        if len(self._data):
            raise Malformed(f"{len(self._data)} bytes too many")


def split_reply(data: bytes) -> tuple[dict[str, Any], Body]:
    """Header and body of an answer. Raises Malformed."""
    size = int.from_bytes(data[4:8], "little")
    if data[:4] != _MAGIC or size > MAX_HEADER_BYTES or len(data) < 8 + size:
        raise Malformed(f"{len(data)} bytes without a header")
    try:
        header = json.loads(data[8 : 8 + size])
    except (ValueError, RecursionError) as error:
        raise Malformed("a header that is no JSON") from error
    if not isinstance(header, dict):
        raise Malformed("a header that is no object")
    return header, Body(memoryview(data)[8 + size :])


class Reader:
    """Reads fields of an untrusted JSON object; every method raises Malformed on what it does not expect."""

    def __init__(self, source: Mapping[str, Any]) -> None:
        self._source = source

    def _get(self, name: str, kind: type) -> Any:
        value = self._source.get(name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise Malformed(f"{name} is no {kind.__name__}")
        return value

    def has(self, name: str) -> bool:
        """Whether there is such a field at all."""
        return name in self._source

    def mapping(self, name: str) -> dict[str, Any]:
        """An object."""
        return dict(self._get(name, dict))

    def mappings(self, name: str, least: int, most: int) -> list[dict[str, Any]]:
        """A list of objects."""
        return [Reader({name: item}).mapping(name) for item in self._list(name, least, most)]

    def _list(self, name: str, least: int, most: int) -> list[Any]:
        value = self._get(name, list)
        if not least <= len(value) <= most:
            raise Malformed(f"{len(value)} {name}")
        return list(value)

    def text(self, name: str, most: int) -> str:
        """A string, shortened to `most` characters, with anything unprintable replaced."""
        value = str(self._get(name, str))[:most]
        return "".join(letter if letter.isprintable() else "?" for letter in value)

    def texts(self, name: str, count: int, most: int) -> tuple[str, ...]:
        """A list of such strings."""
        return tuple(Reader({name: item}).text(name, most) for item in self._list(name, 0, count))

    def word(self, name: str) -> str:
        """A short word of lower-case letters and underscores."""
        value = str(self._get(name, str))
        if not _WORD.fullmatch(value):
            raise Malformed(f"{name} is no word")
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        return bool(self._get(name, bool))

    def integer(self, name: str, least: int, most: int) -> int:
        """A whole number within bounds."""
        value = int(self._get(name, int))
        if not least <= value <= most:
            raise Malformed(f"{name} out of bounds")
        return value

    def one_of(self, name: str, allowed: Sequence[int]) -> int:
        """One of a few whole numbers."""
        value = int(self._get(name, int))
        if value not in allowed:
            raise Malformed(f"{name} out of bounds")
        return value

    def number(self, name: str, least: float, most: float) -> float:
        """A finite number within bounds."""
        value = self._source.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise Malformed(f"{name} is no number within bounds")
        return float(value)

    def numbers(self, name: str, count: int, unknown: bool = False) -> tuple[float, ...]:
        """A list of exactly that many finite numbers; with `unknown`, null stands for NaN."""
        values = self._list(name, count, count)
        return tuple(math.nan if unknown and value is None else Reader({name: value}).number(name, -1e9, 1e9) for value in values)

    def ascending(self, name: str, most: int) -> tuple[float, ...]:
        """A list of finite numbers, none below 0 and each above the one before."""
        values = tuple(Reader({name: item}).number(name, 0, 1e7) for item in self._list(name, 0, most))
        if any(after <= before for before, after in itertools.pairwise(values)):
            raise Malformed(f"{name} out of order")
        return values

    def digests(self, name: str, count: int, size: int) -> tuple[bytes, ...]:
        """A list of exactly that many byte strings of one size, in hexadecimal."""
        found = []
        for item in self._list(name, count, count):
            text = Reader({name: item}).text(name, 2 * size + 1)
            if not re.fullmatch(rf"[0-9a-f]{{{2 * size}}}", text):
                raise Malformed(f"{name} holds no digest")
            found.append(bytes.fromhex(text))
        return tuple(found)
