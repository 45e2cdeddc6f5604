"""`vidattr duplicates`: groups of near-duplicates, and a person's word that some are none."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.options import DEFAULT_WORKSPACE, BeamArgs, Json, WorkspacePath

if TYPE_CHECKING:
    from features.videos.apart import Apart
    from features.workspace import Workspace
    from pipelines.copies import Group

app = typer.Typer(invoke_without_command=True)
LOCK = ".apart.lock"


@app.callback()
def duplicates(context: typer.Context, workspace: WorkspacePath = DEFAULT_WORKSPACE, as_json: Json = False) -> None:
    """Group videos that show the same: scaled, re-encoded, cropped or cut copies. One of each group is asked about for all.

    Groups are made anew every time. `vidattr run` does it between extract and annotate. What `split` took apart stays apart.
    """
    from features.errors import InvalidInput

    if context.invoked_subcommand is None:
        _find(workspace, as_json, ())
        return
    given = {name for name in ("workspace", "as_json") if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"}
    if given:
        options = " and ".join({"workspace": "--workspace", "as_json": "--json"}[name] for name in sorted(given))
        raise InvalidInput(f"write {options} after {context.invoked_subcommand}")


@app.command()
def find(workspace: WorkspacePath = DEFAULT_WORKSPACE, as_json: Json = False, beam_args: BeamArgs = None) -> None:
    """The same as `vidattr duplicates`, with Beam options."""
    _find(workspace, as_json, tuple(beam_args or ()))


@app.command("list")
def list_groups(workspace: WorkspacePath = DEFAULT_WORKSPACE, as_json: Json = False) -> None:
    """The groups that the newest run made, and who was taken apart."""
    from features.videos.apart import read_apart
    from features.workspace import Workspace
    from pipelines import copies, terminal

    place = Workspace(workspace)
    found, apart = copies.groups(place), read_apart(place)
    if as_json:
        terminal.emit({"groups": [group.as_dict() for group in found], "apart": _plain(apart)})
        return
    _show(place, found, apart)
    if apart.pairs or apart.alone:
        rows = [*([*pair] for pair in sorted(apart.pairs)), *([video_id, "everybody"] for video_id in sorted(apart.alone))]
        terminal.table("\nTaken apart", ["video", "from"], rows)
    if found:
        copy = found[0].copies[0]
        terminal.next_command(terminal.command("duplicates split", copy.video_id, copy.lead_id, workspace=workspace))
    else:
        terminal.next_command(terminal.command("duplicates", workspace=workspace))


@app.command()
def split(
    video_id: Annotated[str, typer.Argument(help="A video that is no copy.")],
    other_id: Annotated[str, typer.Argument(help="Of this one. Default: of any.")] = "",
    workspace: WorkspacePath = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Take two videos apart, or one from all others: they are asked about themselves from the next annotate on.

    It is kept in WORKSPACE/apart.csv, which may be edited: remove a line to take it back.
    """
    from features import storage
    from features.attributes.registry import exclusive
    from features.videos.apart import EVERYBODY, FILE, take_apart
    from features.workspace import Workspace
    from pipelines import copies, terminal

    place, other = Workspace(workspace), other_id or EVERYBODY
    copies.check_known(place, [video_id, *({other} - {EVERYBODY})])
    alone = contextlib.nullcontext() if storage.is_gcs(place.root) else exclusive(place.local_path(LOCK), 5.0, "split")
    with alone:
        new = take_apart(place, video_id, other)
    together = [group for group in copies.groups(place) if video_id in group.ids and (other == EVERYBODY or other in group.ids)]
    if as_json:
        terminal.emit({"video_id": video_id, "apart_from": other, "new": new, "were_together": bool(together)})
        return
    whom = "every other video" if other == EVERYBODY else other
    terminal.say(f"{video_id} {'is' if new else 'was already'} apart from {whom} ({place.path(FILE)}).")
    if not together:
        terminal.say("They were in no group together." if other != EVERYBODY else "It was in no group.")
    terminal.next_command(terminal.command("annotate", workspace=workspace))


def _find(workspace: str, as_json: bool, beam_args: tuple[str, ...]) -> None:
    from features.videos.apart import read_apart
    from pipelines import copies, terminal
    from pipelines.project import Project

    project = Project(workspace, beam_args=beam_args)
    record = project.find_duplicates(as_json)
    found, apart = copies.groups(project.workspace), read_apart(project.workspace)
    if as_json:
        terminal.emit({**record.as_dict(), "groups": [group.as_dict() for group in found], "apart": _plain(apart)})
        return
    _show(project.workspace, found, apart)
    members = sum(len(group.copies) for group in found)
    if found:
        terminal.say(f"Of {record.counts.into:,} videos {members:,} are not asked about themselves, in {len(found):,} groups.")
    left_out = record.details.get("detail/keys too common", 0)
    if left_out:
        terminal.say(f"{left_out:,} keys are shared by too many videos to compare each with each; each was compared with a few.")
    terminal.say(f"run {record.run_id}, {record.timings.get('total', 0):.1f} s")
    if not record.counts.into:
        terminal.say("There was nothing to do.")
    after = ("annotate",) if record.counts.into else ("extract --videos MANIFEST",)
    terminal.next_command(terminal.command(*after, workspace=workspace))


def _show(workspace: Workspace, found: list[Group], apart: Apart) -> None:
    """A table of groups; of a copy that was taken apart since they were made it says so."""
    from pipelines import copies, terminal

    if not found:
        terminal.say("No near-duplicates.")
        return
    shown = found[:100]
    titles = copies.newest(workspace, "title", {video_id for group in shown for video_id in group.ids})
    rows: list[list[object]] = []
    for group in shown:
        rows.append([group.lead_id, "asked about", "", "", titles.get(group.lead_id, "")])
        still = apart.still_members(group.lead_id, group.ids[1:])
        for copy in group.copies:
            common = f"{copy.overlap:.0%}" if copy.video_id in still else "taken apart"
            rows.append([f"  {copy.video_id}", common, f"{copy.shift_s:.1f}", f"{copy.distance_bits:.1f}"])
            rows[-1].append(titles.get(copy.video_id, ""))
    terminal.table("", ["video", "in common", "starts at s", "bits apart", "title"], rows, right=(1, 2, 3))
    if len(found) > len(shown):
        terminal.say(f"... and {len(found) - len(shown):,} more groups: pass --json for all of them")


def _plain(apart: Apart) -> dict[str, list[object]]:
    return {"pairs": [list(pair) for pair in sorted(apart.pairs)], "alone": sorted(apart.alone)}
