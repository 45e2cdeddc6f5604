"""Damages media files as uploads, disks and attackers do: bytes flipped, ends cut, pieces moved, boxes resized."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

Random = np.random.Generator
BOX = re.compile(
    rb"ftyp|moov|mvhd|trak|tkhd|edts|elst|mdia|mdhd|hdlr|minf|stbl|stsd|stts|ctts|stss|stsc|stsz|stco|co64|avc1|avcC|hvc1|hvcC|"
    rb"mp4v|esds|mp4a|mdat|moof|traf|trun|RIFF|avih|strh|strf|movi|idx1|VP8X|ANIM|ANMF|GIF89a"
)
"""Names in front of, or behind, which a size or a count stands."""
EBML = re.compile(
    rb"\x1a\x45\xdf\xa3|\x18\x53\x80\x67|\x11\x4d\x9b\x74|\x15\x49\xa9\x66|\x16\x54\xae\x6b|\x1f\x43\xb6\x75|\xa3|\xae|\xe0|\xb0|\xba"
)
"""Matroska's element ids, each followed by a size."""
SIZES = (0, 1, 7, 8, 9, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def flipped(data: bytearray, random: Random) -> bytearray:
    """Up to 64 bytes changed, half the time all of them near the start, where headers are."""
    reach = len(data) if random.random() < 0.5 else min(len(data), 600)
    for at in random.integers(0, reach, int(random.integers(1, 65))):
        data[at] = int(random.integers(0, 256))
    return data


def cut(data: bytearray, random: Random) -> bytearray:
    """The end, the start or something in between gone."""
    start, end = sorted(int(at) for at in random.integers(0, len(data) + 1, 2))
    return (data[:end], data[start:], data[:start] + data[end:])[int(random.integers(3))]


def moved(data: bytearray, random: Random) -> bytearray:
    """A piece repeated somewhere else, or noise put in."""
    start, end, to = (int(at) for at in random.integers(0, len(data) + 1, 3))
    piece = data[start:end][:4096] if start < end else bytearray(random.bytes(int(random.integers(1, 300))))
    return data[:to] + piece + data[to:]


def resized(data: bytearray, random: Random) -> bytearray:
    """Up to four boxes or elements with another size, or another count behind their name."""
    boxes, elements = list(BOX.finditer(data)), list(EBML.finditer(data))
    places = boxes or elements
    if not places:
        return flipped(data, random)
    for _ in range(int(random.integers(1, 5))):
        place = places[int(random.integers(len(places)))]
        value = int(random.choice(SIZES)) if random.random() < 0.7 else int(random.integers(0, 1 << 32))
        if boxes:
            at = place.start() - 4 if random.random() < 0.6 else place.end() + 4 * int(random.integers(0, 4))
            size = value.to_bytes(4, "little" if data[:4] == b"RIFF" else "big")
        else:
            at = place.end()
            size = value.to_bytes(4, "big")[: int(random.integers(1, 5))]
        if 0 <= at <= len(data) - len(size):
            data[at : at + len(size)] = size
    return data


DAMAGES: tuple[Callable[[bytearray, Random], bytearray], ...] = (flipped, cut, moved, resized, resized)


def mutated(data: bytes, seed: int) -> bytes:
    """One damaged copy; the same seed gives the same damage. One in five is damaged twice."""
    random = np.random.default_rng(seed)
    changed = bytearray(data)
    for _ in range(2 if random.random() < 0.2 else 1):
        if changed:
            changed = DAMAGES[int(random.integers(len(DAMAGES)))](changed, random)
    return bytes(changed)
