"""What the newest search for near-duplicates found, read on this machine. No Beam in here."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from features.errors import InvalidInput
from features.records import Duplicate, digest, from_table
from features.videos.apart import read_apart
from features.workspace import Workspace, read_parquet, trusted_seconds

STAGE = "duplicates"
APART = "apart"
"""The argument of a run record that says whom a person had taken apart."""


@dataclass(frozen=True)
class Group:
    """A lead and its copies, in order of their ids."""

    lead_id: str
    copies: tuple[Duplicate, ...]

    @property
    def ids(self) -> tuple[str, ...]:
        """Of all, the lead first."""
        return self.lead_id, *(copy.video_id for copy in self.copies)

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        names = ("video_id", "overlap", "shift_s", "distance_bits")
        return {"lead": self.lead_id, "copies": [{name: getattr(copy, name) for name in names} for copy in self.copies]}


def apart_digest(workspace: Workspace) -> str:
    """Of what a person took apart, for the record of a search; empty where nothing is. Raises InvalidInput as `read_apart` does."""
    apart = read_apart(workspace)
    return digest(repr(sorted(apart.pairs)), repr(sorted(apart.alone))) if apart.pairs or apart.alone else ""


def is_due(workspace: Workspace) -> bool:
    """Whether features were written since the newest search began, somebody was taken apart or back, or there was no search."""
    searched = workspace.runs(STAGE)
    if not searched or searched[-1].arguments.get(APART, "") != apart_digest(workspace):
        return True
    extracted = (run.finished_at for run in workspace.runs("extract") if run.files.get("features"))
    return any(finished > searched[-1].started_at for finished in extracted)


def groups(workspace: Workspace) -> list[Group]:
    """The groups that the newest run made, in order of their leads' ids."""
    found: dict[str, list[Duplicate]] = {}
    for path in workspace.newest_files("duplicates", STAGE):
        for row in from_table(read_parquet(path), Duplicate):
            found.setdefault(row.lead_id, []).append(row)
    return [Group(lead_id, tuple(sorted(found[lead_id], key=lambda row: row.video_id))) for lead_id in sorted(found)]


def leads(workspace: Workspace) -> dict[str, str]:
    """The lead of each video that another one is asked for; see `pipelines.carrying`."""
    found = groups(workspace)
    if not found:
        return {}
    apart = read_apart(workspace)
    now = newest(workspace, "content_hash")
    return {
        copy.video_id: group.lead_id
        for group in found
        for kept in [set(apart.still_members(group.lead_id, [copy.video_id for copy in group.copies]))]
        for copy in group.copies
        if copy.video_id in kept and (now.get(copy.video_id), now.get(group.lead_id)) == (copy.content_hash, copy.lead_content_hash)
    }


def check_known(workspace: Workspace, wanted: Collection[str]) -> None:
    """Raises InvalidInput, with the nearest known one, for an id of a video that has no features."""
    known = set(workspace.read("features", ["video_id"])["video_id"].to_pylist())
    for video_id in wanted:
        if video_id not in known:
            near = difflib.get_close_matches(video_id, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else "see `vidattr duplicates list`"
            raise InvalidInput(f"no video {video_id!r} in {workspace.root}; {hint}")


def newest(workspace: Workspace, column: str, wanted: Collection[str] | None = None) -> dict[str, Any]:
    """A column of the newest features of each video, by video id; of some videos only, unless None are named."""
    found: dict[str, tuple[float, Any]] = {}
    for file in workspace.files("features"):
        for row in read_parquet(file.path, ("video_id", column, "extracted_at")).to_pylist():
            if wanted is None or row["video_id"] in wanted:
                entry = trusted_seconds(row["extracted_at"]), row[column]
                found[row["video_id"]] = max(entry, found.get(row["video_id"], entry))
    return {video_id: value for video_id, (_, value) in found.items()}
