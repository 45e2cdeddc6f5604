"""Whether two videos show the same, by the fingerprints of their pictures.

`features.videos.duplicate_candidates` says which pairs are worth a look, `features.videos.duplicate_groups` makes groups of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from features.videos.fingerprint import BITS, BYTES, HASH_BYTES, SCALES

MEAN_BITS = 6.0
"""Mean distance of pictures that lie together, up to which two videos match."""
STILL_BITS = 3.5
"""The same where only one picture was matched, however often: a still picture, or a room in which hardly anything moves."""
PICTURE_BITS = 12
"""A picture as near as this is the same picture."""
COLOUR = 14.0
"""Mean difference of colour, 0 to 255, that recoding leaves in any part of the picture."""
OVERLAP = 0.6
"""Share of the shorter one's pictures that must be in the other one."""
PART = 0.25
"""Share of the longer one that must be in the shorter one: a compilation is no copy of each of its parts."""

DIFFERENT_BITS, DIFFERENT_COLOUR, DIFFERENT_OVERLAP = 12.0, 28.0, 0.4
"""Two videos plainly differ when even at their best they lie further apart than this, or have less in common."""

SLACK_S = 0.3
"""Pictures that lie as near in time can be compared where one of the videos has begun or ended."""
_ANCHORS = 48
_VOTE_BITS = 20
_VOTE_S = 0.25
_SHIFTS = 6
_PAIRS = ((0, 0), (0, 1), (1, 0))
"""Which squares of two videos are compared: the large ones, or one's large with the other's small one."""

Words = NDArray[np.uint64]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Marks:
    """The fingerprints of one video.

    Attributes:
        video_id: whose.
        published: when it went public, ISO 8601; empty: not known.
        content_hash: of its bytes.
        times_s: seconds of each fingerprint, ascending.
        prints: the fingerprints one after the other, `fingerprint.BYTES` each.
    """

    video_id: str
    published: str
    content_hash: str
    times_s: tuple[float, ...]
    prints: bytes

    def __post_init__(self) -> None:
        if len(self.prints) != BYTES * len(self.times_s):
            raise ValueError(f"{self.video_id!r} has {len(self.times_s)} times and {len(self.prints)} bytes of fingerprints")

    @property
    def seniority(self) -> tuple[str, str]:
        """The lead of a group is the video with the least: published first, or unknown when; then by id."""
        return self.published, self.video_id

    @cached_property
    def times(self) -> Floats:
        """Shape (n,)."""
        return np.array(self.times_s)

    @cached_property
    def hashes(self) -> Words:
        """Shape (n, squares, words)."""
        words = np.ascontiguousarray(self._bytes[:, :HASH_BYTES]).view(">u8").astype(np.uint64)
        return words.reshape(len(self.times_s), len(SCALES), BITS // 64)

    @cached_property
    def colours(self) -> Floats:
        """0 to 255, shape (n, cells of both differences)."""
        return self._bytes[:, HASH_BYTES:].astype(np.float64)

    @property
    def _bytes(self) -> NDArray[np.uint8]:
        return np.frombuffer(self.prints, np.uint8).reshape(-1, BYTES)

    @cached_property
    def span_s(self) -> float:
        """Seconds from its first picture to the end of its last."""
        return float(self.times[-1] - self.times[0]) * len(self.times) / (len(self.times) - 1) if len(self.times) > 1 else 0.0

    def to_bytes(self) -> bytes:
        """For a shuffle."""
        return json.dumps([self.video_id, self.published, self.content_hash, self.times_s]).encode() + b"\n" + self.prints

    @classmethod
    def from_bytes(cls, data: bytes) -> Marks:
        """The inverse of `to_bytes`."""
        head, _, prints = data.partition(b"\n")
        video_id, published, content_hash, times = json.loads(head)
        return cls(video_id, published, content_hash, tuple(times), prints)


@dataclass(frozen=True)
class Match:
    """How two videos lie together.

    Attributes:
        overlap: share of the shorter one's pictures that the other one has, 0 to 1.
        part: share of the longer one that the shorter one has, 0 to 1.
        shift_s: seconds after the first one's beginning at which the second one begins; below 0: before it.
        distance_bits: mean distance of the pictures that lie together.
        colour: mean difference of their colours where it is largest, 0 to 255.
        still: only one picture was matched, however often.
    """

    overlap: float
    part: float
    shift_s: float
    distance_bits: float
    colour: float
    still: bool

    @property
    def holds(self) -> bool:
        """Whether they show the same."""
        near = self.distance_bits <= (STILL_BITS if self.still else MEAN_BITS)
        return near and self.colour <= COLOUR and self.overlap >= OVERLAP and self.part >= PART


def verify(one: Marks, other: Marks) -> Match | None:
    """How two videos that show the same lie together; None where they do not. Symmetric, but for the sign of the shift."""
    match = compare(one, other)
    return match if match is not None and match.holds else None


def plainly_differ(one: Marks, other: Marks) -> bool:
    """Whether two videos are certainly not the same: further apart than what `verify` leaves open."""
    match = compare(one, other)
    if match is None or match.overlap < DIFFERENT_OVERLAP:
        return True
    return match.distance_bits > DIFFERENT_BITS or match.colour > DIFFERENT_COLOUR


def compare(one: Marks, other: Marks) -> Match | None:
    """How two videos lie together at the best time shift; None where nothing can be compared.

    The best one has the overlap that a match needs, or the most there is, and of those the least distance.

    The pictures of the video that has fewer are looked up in the other one. One that was taken between two pictures of the other
    video is compared with both: only bits in which it differs from both count, since what moves in between may be at either.
    """
    if not one.times_s or not other.times_s:
        return None
    sparse, dense = sorted((one, other), key=lambda marks: (len(marks.times_s), marks.times_s, marks.prints))
    best: tuple[tuple[float, ...], Match] | None = None
    for shift in _shifts(sparse, dense):
        placed = _at(sparse, dense, shift)
        if placed is None:
            continue
        match, apart = placed
        enough = min(1.0, match.overlap / OVERLAP)
        order = (-enough, match.distance_bits, -match.overlap, apart, abs(shift), shift)
        if best is None or order < best[0]:
            best = order, match
    if best is None:
        return None
    found = best[1]
    sign = 1.0 if sparse is one else -1.0
    return replace(found, shift_s=sign * found.shift_s + 0.0)


def _shifts(sparse: Marks, dense: Marks) -> list[float]:
    """Seconds to try: those that most pairs of similar pictures vote for, and none at all."""
    chosen = np.unique(np.linspace(0, len(sparse.times) - 1, min(_ANCHORS, len(sparse.times))).round().astype(int))
    near = np.full((len(chosen), len(dense.times)), BITS)
    for p, q in _PAIRS:
        near = np.minimum(near, _bits(sparse.hashes[chosen, None, p] ^ dense.hashes[None, :, q]))
    rows, columns = np.nonzero(near <= _VOTE_BITS)
    votes = np.floor((sparse.times[chosen[rows]] - dense.times[columns]) / _VOTE_S).astype(np.int64)
    # Each anchor has one vote for a shift: in a still picture it would have as many as there are pictures.
    places, counts = np.unique(np.unique(np.stack([votes, rows], axis=1), axis=0)[:, 0], return_counts=True)
    order = sorted(zip((-counts).tolist(), np.abs(places).tolist(), places.tolist(), strict=True))[:_SHIFTS]
    return sorted({0.0, *(place * _VOTE_S + part for _, _, place in order for part in (0.0, _VOTE_S / 2, _VOTE_S))})


def _at(sparse: Marks, dense: Marks, shift: float) -> tuple[Match, float] | None:
    """How they lie together when the dense one begins `shift` seconds after the sparse one; None: not at all.

    The second number is the mean distance to the pictures before and after, the nearer one counting more: it tells shifts apart
    that are as good.
    """
    times = sparse.times - shift
    inside = (times >= dense.times[0] - SLACK_S) & (times <= dense.times[-1] + SLACK_S)
    if not inside.any():
        return None
    after = np.searchsorted(dense.times, times[inside])
    last = len(dense.times) - 1
    before, after = np.clip(after - 1, 0, last), np.clip(after, 0, last)
    mine = sparse.hashes[inside]
    gap = np.maximum(dense.times[after] - dense.times[before], 1e-9)
    later = np.clip((times[inside] - dense.times[before]) / gap, 0, 1)
    distances = [(_bits((mine[:, p] ^ dense.hashes[before, q]) & (mine[:, p] ^ dense.hashes[after, q])), p, q) for p, q in _PAIRS]
    nearest, p, q = min(distances, key=lambda each: (float(each[0].mean()), each[1], each[2]))
    same = nearest <= PICTURE_BITS
    short, long = sorted((sparse.span_s, dense.span_s))
    possible = len(times)
    if sparse.span_s > dense.span_s:  # of a longer video not all pictures can be in the other one
        possible = min(possible, round(len(times) * short / long) + 1)
    overlap = min(1.0, float(same.sum()) / possible)
    part = overlap * (short / long if long else 1.0)
    share = later[same, None]
    theirs = (1 - share) * dense.colours[before[same]] + share * dense.colours[after[same]]
    colour = float(np.abs((sparse.colours[inside][same] - theirs).mean(axis=0)).max()) if same.any() else 0.0
    match = Match(overlap, part, shift, float(nearest.mean()), colour, _is_still(mine[same, 0]))
    apart = (1 - later) * _bits(mine[:, p] ^ dense.hashes[before, q]) + later * _bits(mine[:, p] ^ dense.hashes[after, q])
    return match, float(apart.mean())


def _is_still(hashes: Words) -> bool:
    return not len(hashes) or bool((_bits(hashes ^ hashes[0]) <= PICTURE_BITS).all())


def _bits(words: Words) -> Integers:
    """The number of set bits of each hash, whose words are the last axis."""
    counted: Integers = np.bitwise_count(words).sum(axis=-1, dtype=np.int64)
    return counted
