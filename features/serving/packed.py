"""All attributes of a video as one byte string, for machines: a header and four arrays in a fixed order.

    bytes 0-8    digest of the layout: names and value signatures in order
    bytes 8-12   CRC-32 of everything after it
    bytes 12-20  when the annotations behind this row were read, microseconds since 1970, int64
    then         number float32[n], annotated_at uint32[n] (seconds since 1970), definition uint32[n] (first four bytes of the
                 definition_hash, or 0: stale when it was written, about content or a definition that had changed by then),
                 source uint8[n] (position in SOURCES, 0 absent)

All little-endian. A row written under an older layout stays readable: attributes are matched by name and signature. A row
that is cut, altered or of an unknown layout is absent and counted, never a number.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from features.records import digest

SOURCES: tuple[str, ...] = ("absent", "gold", "adjudicated", "llm", "baseline", "student")
"""Meaning of the source array. Positions are stored: append only."""

SOURCE_CODES: Mapping[str, int] = {source: code for code, source in enumerate(SOURCES)}
LAYOUT_BYTES = 8
_CHECKED_FROM = 12
BODY_FROM = 20
"""Where the arrays begin: two rows that say the same are equal from here on, and in their layout."""


def definition_code(definition_hash: str) -> int:
    """The first four bytes of a definition_hash as an unsigned number, 1 where those are zero; 0 for none."""
    return (int(definition_hash[:8], 16) or 1) if definition_hash else 0


@dataclass(frozen=True)
class PackedRows:
    """Decoded rows of n videos and a attributes.

    Attributes:
        values: float32 (n, a), NaN where absent.
        annotated_at: uint32 (n, a), seconds since 1970.
        definition: uint32 (n, a), see `definition_code`; 0 where the answer was stale when it was written.
        source: uint8 (n, a), position in SOURCES; 0 where absent.
        as_of: int64 (n,), microseconds since 1970; -1 where there is no readable row.
        unreadable: how many rows were there but damaged or of an unknown layout.
    """

    values: NDArray[np.float32]
    annotated_at: NDArray[np.uint32]
    definition: NDArray[np.uint32]
    source: NDArray[np.uint8]
    as_of: NDArray[np.int64]
    unreadable: int = 0

    @classmethod
    def absent(cls, rows: int, attributes: int) -> PackedRows:
        """Rows that say nothing."""
        shape = (rows, attributes)
        return cls(
            np.full(shape, np.nan, np.float32),
            np.zeros(shape, np.uint32),
            np.zeros(shape, np.uint32),
            np.zeros(shape, np.uint8),
            np.full(rows, -1, np.int64),
        )

    def take(self, chosen: slice | NDArray[np.intp]) -> PackedRows:
        """Some of the rows."""
        return PackedRows(
            self.values[chosen], self.annotated_at[chosen], self.definition[chosen], self.source[chosen], self.as_of[chosen]
        )


@dataclass(frozen=True)
class PackedLayout:
    """The order and meaning of the arrays.

    Args:
        names: of the attributes.
        signatures: `AttributeDefinition.value_signature` of each.
    """

    names: tuple[str, ...]
    signatures: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.signatures) or len(set(self.names)) != len(self.names):
            raise ValueError(f"a layout needs one signature for each distinct name, not {self.names}, {self.signatures}")

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> PackedLayout:
        """From (name, signature) pairs, as `features.attributes.registry` keeps them."""
        names, signatures = zip(*pairs, strict=True) if (pairs := tuple(pairs)) else ((), ())
        return cls(tuple(names), tuple(signatures))

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """(name, signature) of each attribute."""
        return tuple(zip(self.names, self.signatures, strict=True))

    @cached_property
    def key(self) -> bytes:
        """What a row of this layout begins with, 8 bytes."""
        return bytes.fromhex(digest(*(part for pair in self.pairs for part in pair))[:16])

    @cached_property
    def dtype(self) -> np.dtype[np.void]:
        n = len(self.names)
        return np.dtype(
            [
                ("layout", f"V{LAYOUT_BYTES}"),
                ("crc", "<u4"),
                ("as_of", "<i8"),
                ("values", "<f4", (n,)),
                ("annotated_at", "<u4", (n,)),
                ("definition", "<u4", (n,)),
                ("source", "u1", (n,)),
            ]
        )

    def encode_many(self, rows: PackedRows) -> list[bytes]:
        """One byte string a row. Raises ValueError on a number that is not finite, so that none is ever served."""
        present = rows.source != 0
        if not np.isfinite(rows.values[present]).all():
            raise ValueError("only finite numbers can be served")
        packed = np.zeros(len(rows.as_of), self.dtype)
        packed["layout"] = np.void(self.key)
        packed["as_of"] = rows.as_of
        packed["values"] = np.where(present, rows.values, np.float32(0))
        packed["annotated_at"] = np.where(present, rows.annotated_at, 0)
        packed["definition"] = np.where(present, rows.definition, 0)
        packed["source"] = rows.source
        content, size = packed.tobytes(), self.dtype.itemsize
        encoded = []
        for start in range(0, len(content), size):
            checked = content[start + _CHECKED_FROM : start + size]
            encoded.append(self.key + zlib.crc32(checked).to_bytes(4, "little") + checked)
        return encoded

    def decode_many(self, blobs: Sequence[bytes | None], older: Iterable[PackedLayout] = ()) -> PackedRows:
        """The rows behind `blobs`, in their order and in this layout; None is a row that is not there.

        Args:
            blobs: of this layout or of one of `older`.
            older: every other layout that rows may have been written under.
        """
        result = PackedRows.absent(len(blobs), len(self.names))
        groups: dict[bytes, list[int]] = {}
        for position, blob in enumerate(blobs):
            if blob is not None:
                groups.setdefault(blob[:LAYOUT_BYTES], []).append(position)
        layouts = {self.key: self}
        if any(key != self.key for key in groups):
            layouts |= {layout.key: layout for layout in older}
        unreadable = 0
        for key, positions in groups.items():
            layout = layouts.get(key)
            readable = 0 if layout is None else self._fill(result, layout, positions, blobs)
            unreadable += len(positions) - readable
        return PackedRows(result.values, result.annotated_at, result.definition, result.source, result.as_of, unreadable)

    def _fill(self, result: PackedRows, layout: PackedLayout, positions: list[int], blobs: Sequence[bytes | None]) -> int:
        """Copies the sound rows of one layout into `result`, and returns how many there are."""
        size = layout.dtype.itemsize
        whole = [(at, blob) for at in positions if (blob := blobs[at]) is not None and len(blob) == size]
        if not whole:
            return 0
        positions, found = [at for at, _ in whole], [blob for _, blob in whole]
        crc32 = zlib.crc32
        content = b"".join(found)
        checksums = np.fromiter([crc32(blob[_CHECKED_FROM:]) for blob in found], np.uint32, len(found))
        rows = np.frombuffer(content, layout.dtype)
        good = (rows["crc"] == checksums) & (rows["source"] < len(SOURCES)).all(axis=1)
        good &= (np.isfinite(rows["values"]) | (rows["source"] == 0)).all(axis=1)
        if not good.all():
            rows, positions = rows[good], [at for at, fine in zip(positions, good.tolist(), strict=True) if fine]
        where = np.asarray(positions, np.intp)
        result.as_of[where] = rows["as_of"]
        if layout == self and len(positions) == len(result.as_of):
            result.source[:] = rows["source"]
            np.copyto(result.values, rows["values"], where=result.source != 0)
            result.annotated_at[:] = rows["annotated_at"]
            result.definition[:] = rows["definition"]
            return len(positions)
        theirs = {pair: column for column, pair in enumerate(layout.pairs)}
        shared = [(mine, theirs[pair]) for mine, pair in enumerate(self.pairs) if pair in theirs]
        if shared:
            mine = np.array([pair[0] for pair in shared])
            column = np.array([pair[1] for pair in shared])
            source = rows["source"][:, column]
            at = np.ix_(where, mine)
            result.source[at] = source
            result.values[at] = np.where(source != 0, rows["values"][:, column], np.float32(np.nan))
            result.annotated_at[at] = rows["annotated_at"][:, column]
            result.definition[at] = rows["definition"][:, column]
        return len(positions)
