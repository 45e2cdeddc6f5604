"""Near-duplicates that a person has taken apart: `apart.csv` of a workspace, two columns, for people to read and edit.

video_id,apart_from
video-1,video-2       these two are never in one group
video-3,*             this one is in no group at all
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property

from features import storage
from features.errors import InvalidInput
from features.workspace import Workspace

FILE = "apart.csv"
COLUMNS = ("video_id", "apart_from")
EVERYBODY = "*"
MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Apart:
    """Who is in no group with whom.

    Attributes:
        pairs: ids, the lower one first.
        alone: those apart from everybody.
    """

    pairs: frozenset[tuple[str, str]] = frozenset()
    alone: frozenset[str] = frozenset()

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str]]) -> Apart:
        """From rows of the file, in any order, each pair either way round."""
        rows = list(rows)
        pairs = frozenset((min(row), max(row)) for row in rows if row[1] != EVERYBODY)
        return cls(pairs, frozenset(one for one, other in rows if other == EVERYBODY))

    def are(self, one: str, other: str) -> bool:
        """Whether two videos were taken apart."""
        return one in self.alone or other in self.alone or (min(one, other), max(one, other)) in self.pairs

    def still_members(self, lead: str, members: Collection[str]) -> list[str]:
        """Of a group that was made before, the members that the lead may still be asked for, in order.

        Of two members whom a person took apart from each other neither is one: nobody knows which belongs to the lead.
        """
        together = {*members}
        return [
            name for name in sorted(together) if not self.are(lead, name) and not (self._partners.get(name, frozenset()) & together)
        ]

    @cached_property
    def _partners(self) -> dict[str, frozenset[str]]:
        found: dict[str, set[str]] = {}
        for one, other in self.pairs:
            found.setdefault(one, set()).add(other)
            found.setdefault(other, set()).add(one)
        return {name: frozenset(others) for name, others in found.items()}


def read_apart(workspace: Workspace) -> Apart:
    """Whom a person took apart in a workspace. Raises InvalidInput, with the line, for what is no such file."""
    return Apart.of(_rows(workspace))


def take_apart(workspace: Workspace, video_id: str, other: str = EVERYBODY) -> bool:
    """Writes down that a video is apart from another one, or from everybody; whether that is news.

    Args:
        workspace: whose.
        video_id: a known video.
        other: another one, or `*`.

    Raises:
        InvalidInput: it is apart from itself, the file cannot be read, or the place cannot be written.
    """
    if video_id == other:
        raise InvalidInput(f"{video_id!r} cannot be apart from itself: name another video, or none for all of them")
    rows = _rows(workspace)
    if any(set(row) == {video_id, other} if other != EVERYBODY else row == (video_id, other) for row in rows):
        return False
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows, (video_id, other)])
    storage.write_bytes(workspace.path(FILE), text.getvalue().encode())
    return True


def _rows(workspace: Workspace) -> list[tuple[str, str]]:
    path = workspace.path(FILE)
    if not storage.exists(path):
        return []
    if storage.size(path) > MAX_BYTES:
        raise InvalidInput(f"{path} is larger than {MAX_BYTES >> 20} MiB: it holds two ids a line")
    try:
        lines = csv.reader(io.StringIO(storage.read_bytes(path).decode("utf-8-sig"), newline=""), strict=True)
        rows = []
        for row in lines:
            if not row or tuple(row) == COLUMNS:
                continue
            if len(row) != 2 or not all(row):
                wanted = f"write `{','.join(COLUMNS)}`, with {EVERYBODY} for apart from everybody"
                raise InvalidInput(f"{path}, line {lines.line_num}: {','.join(row)!r} is no pair of ids; {wanted}")
            rows.append((row[0], row[1]))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"{path}: not a CSV file in UTF-8 ({error})") from error
    return rows
