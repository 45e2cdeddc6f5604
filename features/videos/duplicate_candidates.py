"""Pairs of videos that may be near-duplicates: those that share a band key (locality-sensitive hashing).

band_keys -> Block.parts -> candidates      each part of the keys can be looked at on a machine of its own
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.videos.duplicates import Marks, Words
from features.videos.fingerprint import BITS, BYTES, HASH_BYTES

TABLES = 4
"""The bits of a hash fall into so many parts of equal size, the same for all videos."""
KEYS = 24
"""Band keys of one video in a table, at most."""
MOST_TOGETHER = 32
"""Videos that share a key and are all compared with each other."""
NEIGHBOURS = 4
"""Of more than those, each is compared with so many of the next ones only, in order of their ids."""


def band_keys(marks: Marks) -> Words:
    """The keys under which a video is looked up, each once and ascending, at most `TABLES * KEYS`.

    A key is a table's number and the bits of one hash in it. So two pictures within three bits share one for certain; `band_recall`
    says with which probability others do. Of many keys those with the lowest digests are kept: videos that share much keep the same
    ones.
    """
    if not len(marks.hashes):
        return np.zeros(0, np.uint64)
    hashes = np.frombuffer(marks.prints, np.uint8).reshape(-1, BYTES)[:, :HASH_BYTES]
    bits = np.unpackbits(hashes.ravel()).reshape(-1, BITS // TABLES, TABLES)
    words = np.packbits(bits.transpose(2, 0, 1), axis=2).reshape(TABLES, -1, BITS // TABLES // 8)
    found = []
    for table in range(TABLES):
        values = np.ascontiguousarray(words[table]).view(">u4").ravel().astype(np.uint64)
        digests = values * np.uint64(0x9E3779B1) & np.uint64(0xFFFFFFFF)  # Knuth's multiplicative hash: a permutation
        found.append(np.uint64(table << 32) | np.unique(digests)[:KEYS])
    return np.concatenate(found)


def band_recall(bits: int) -> float:
    """The probability that two hashes share a band key when they differ in so many bits at random.

    At least one of `TABLES` parts of equal size must hold none of the bits: inclusion and exclusion over them.

    >>> [round(band_recall(bits), 2) for bits in (3, 4, 6, 8, 12)]
    [1.0, 0.9, 0.6, 0.36, 0.12]
    """
    part = BITS // TABLES
    ways = [math.comb(TABLES, free) * math.comb(BITS - free * part, bits) for free in range(1, TABLES + 1)]
    shared: int = sum((-1) ** number * count for number, count in enumerate(ways))
    return shared / math.comb(BITS, bits)


@dataclass(frozen=True)
class Block:
    """Band keys of some videos, as one element of a shuffle.

    Attributes:
        ids: of the videos.
        keys: ascending within a video, shape (n,).
        owners: which of `ids` each key is of, shape (n,).
    """

    ids: tuple[str, ...]
    keys: Words
    owners: NDArray[np.uint32]

    @classmethod
    def of(cls, keys: Mapping[str, Words]) -> Block:
        """The keys of some videos."""
        owners = np.repeat(np.arange(len(keys), dtype=np.uint32), [len(each) for each in keys.values()])
        return cls(tuple(keys), np.concatenate([*keys.values(), np.zeros(0, np.uint64)]), owners)

    def parts(self, number: int) -> dict[int, Block]:
        """The same in at most `number` parts: all of one key are in the same, whatever block they come from."""
        where = ((self.keys >> np.uint64(8)) % np.uint64(number)).astype(np.int64)
        found = {}
        for part in np.unique(where).tolist():
            chosen = where == part
            kept, owners = np.unique(self.owners[chosen], return_inverse=True)
            ids = tuple(self.ids[at] for at in kept.tolist())
            found[part] = Block(ids, self.keys[chosen], owners.astype(np.uint32))
        return found

    def to_bytes(self) -> bytes:
        """For a shuffle."""
        return json.dumps(self.ids).encode() + b"\n" + self.keys.astype("<u8").tobytes() + self.owners.astype("<u4").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Block:
        """The inverse of `to_bytes`."""
        head, _, rest = data.partition(b"\n")
        number = len(rest) // 12
        owners = np.frombuffer(rest, "<u4", offset=8 * number).astype(np.uint32)
        return cls(tuple(json.loads(head)), np.frombuffer(rest, "<u8", number).astype(np.uint64), owners)


@dataclass(frozen=True)
class Candidates:
    """Pairs of videos that share a band key.

    Attributes:
        pairs: ids, the lower one first; each pair once, in order.
        capped: keys that more than `MOST_TOGETHER` videos share.
        left_out: pairs that therefore are none.
    """

    pairs: tuple[tuple[str, str], ...]
    capped: int
    left_out: int


def candidates(blocks: Sequence[Block]) -> Candidates:
    """The pairs of videos that share a key, however the videos fell into blocks.

    A key that thousands share, such as that of a common opening, does not make millions of pairs: beyond `MOST_TOGETHER` a video is
    paired with its `NEIGHBOURS` only. Of true copies that many there is still a chain from each to each, which is what groups are
    made of; two copies that share nothing but such keys are found if they are neighbours.
    """
    ids = sorted({video_id for block in blocks for video_id in block.ids})
    rank = {video_id: at for at, video_id in enumerate(ids)}
    ranks = [np.array([rank[video_id] for video_id in block.ids], np.uint64) for block in blocks]
    keys = np.concatenate([np.zeros(0, np.uint64), *(block.keys for block in blocks)])
    owners = np.concatenate([np.zeros(0, np.uint64), *(own[block.owners] for own, block in zip(ranks, blocks, strict=True))])
    order = np.lexsort((owners, keys))
    keys, owners = keys[order], owners[order]
    fresh = np.ones(len(keys), bool)
    fresh[1:] = (keys[1:] != keys[:-1]) | (owners[1:] != owners[:-1])
    keys, owners = keys[fresh], owners[fresh].astype(np.int64)
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, np.int64)
    sizes = np.diff(np.r_[starts, len(keys)])
    found = [np.zeros((0, 2), np.int64)]
    for size in np.unique(sizes[sizes > 1]).tolist():
        members = owners[starts[sizes == size][:, None] + np.arange(size)]
        one, other = np.triu_indices(size, 1)
        if size > MOST_TOGETHER:
            near = other - one <= NEIGHBOURS
            one, other = one[near], other[near]
        found.append(np.stack([members[:, one].ravel(), members[:, other].ravel()], axis=1))
    pairs = np.unique(np.concatenate(found), axis=0)
    hot = sizes[sizes > MOST_TOGETHER]
    kept = NEIGHBOURS * hot - NEIGHBOURS * (NEIGHBOURS + 1) // 2
    left_out = int((hot * (hot - 1) // 2 - kept).sum())
    return Candidates(tuple((ids[a], ids[b]) for a, b in pairs.tolist()), len(hot), left_out)
