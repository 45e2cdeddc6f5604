"""Groups of near-duplicates out of matching pairs, and who leads them.

The rule, since A may look like B and B like C while A and C plainly differ: each member of a group matches its lead, and plainly
differs from no other member; and no two whom a person took apart are in one group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from features.videos.apart import Apart
from features.videos.duplicates import Marks, Match, plainly_differ, verify

COMPARED = 64
"""Members of a group that a new one is compared with, beside the lead: those that came first."""


@dataclass(frozen=True)
class Member:
    """A video of a group beside its lead, and how it lies in the lead."""

    lead: Marks
    marks: Marks
    match: Match


def components(edges: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The component of each id that stands in an edge, named by the least id in it, in order of ids (union-find)."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        top = name
        while parent[top] != top:
            top = parent[top]
        while parent[name] != top:
            parent[name], name = top, parent[name]
        return top

    for one, other in edges:
        first, second = sorted((root(one), root(other)))
        parent[second] = first
    return {name: root(name) for name in sorted(parent)}


def split(component: Iterable[Marks], apart: Apart) -> list[Member]:
    """The members of the groups that a component falls into, in order of their leads' and their own seniority.

    The senior video leads. Each further one, in order of seniority, joins the first group that the rule lets it into, or leads one
    of its own. The order in which videos are given makes no difference.

    Args:
        component: videos that are joined by matching pairs; each once.
        apart: whom a person took apart.
    """
    groups: list[tuple[Marks, list[Member]]] = []
    for marks in sorted(component, key=lambda each: each.seniority):
        for lead, members in groups:
            match = _admitted(marks, lead, members, apart)
            if match is not None:
                members.append(Member(lead, marks, match))
                break
        else:
            groups.append((marks, []))
    return [member for _, members in groups for member in members]


def _admitted(marks: Marks, lead: Marks, members: Sequence[Member], apart: Apart) -> Match | None:
    """How a video lies in a lead whose group takes it in; None where it does not."""
    if any(apart.are(marks.video_id, other) for other in (lead.video_id, *(member.marks.video_id for member in members))):
        return None
    match = verify(lead, marks)
    if match is None or any(plainly_differ(member.marks, marks) for member in members[:COMPARED]):
        return None
    return match
