"""Which videos are asked about through another one: near-duplicates, but for those that a person took apart since they were found.

The rows of the newest run of `pipelines.duplicates` count, while both videos still have the bytes that it compared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam

from features.videos.apart import read_apart
from features.workspace import Workspace, read_parquet
from pipelines.copies import STAGE

COLUMNS = ("video_id", "lead_id", "content_hash", "lead_content_hash")


@dataclass(frozen=True)
class Through:
    """In whose place another video is asked about.

    Attributes:
        lead_id: the other one.
        path: the file that holds its newest features.
        content_key: of it.
        content_hash: of the bytes that this video had when it was found to be a copy.
    """

    lead_id: str
    path: str
    content_key: str
    content_hash: str

    def to_json(self) -> str:
        return json.dumps(list(vars(self).values()))

    @classmethod
    def from_json(cls, text: str) -> Through:
        """The inverse of `to_json`."""
        return cls(*json.loads(text))


def copies(path: str) -> Iterator[tuple[str, str]]:
    """(lead, [video, its content hash, the lead's content hash] as JSON) for each row of a file of duplicates."""
    for row in read_parquet(path, COLUMNS).to_pylist():
        yield row["lead_id"], json.dumps([row["video_id"], row["content_hash"], row["lead_content_hash"]])


class LeadFn(beam.DoFn):
    """(video id, `Through` as JSON) for the members of one group that its lead is asked for."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def setup(self) -> None:
        self._apart = read_apart(self._workspace)

    def process(self, element: tuple[str, dict[str, Iterable[str]]]) -> Iterator[tuple[str, str]]:
        lead_id, groups = element
        places = [json.loads(text) for text in groups["features"]]
        members = {video_id: hashes for video_id, *hashes in map(json.loads, groups["copies"])}
        if not places or not members:
            return
        _, path, content_key, content_hash = max(places)
        for video_id in self._apart.still_members(lead_id, members):
            compared, lead_compared = members[video_id]
            if lead_compared == content_hash:
                yield video_id, Through(lead_id, path, content_key, compared).to_json()


@dataclass(eq=False)
class AskedThrough(beam.PTransform):
    """(video id, `Through` as JSON) for every video that another one is asked for.

    It is applied to the output of `IndexFeatures` with content hashes.
    """

    workspace: Workspace

    def expand(self, index: beam.PCollection[tuple[str, str]]) -> beam.PCollection[tuple[str, str]]:
        workspace = self.workspace
        members = (
            index.pipeline
            | "Start" >> beam.Create([None])
            | "ListNewest" >> beam.FlatMap(lambda _: workspace.newest_files("duplicates", STAGE)).with_output_types(str)
            | "Spread" >> beam.Reshuffle()
            | "ReadCopies" >> beam.FlatMap(copies).with_output_types(tuple[str, str])
        )
        return (
            {"copies": members, "features": index}
            | "MatchLead" >> beam.CoGroupByKey()
            | "NameLead" >> beam.ParDo(LeadFn(workspace)).with_output_types(tuple[str, str])
        )
