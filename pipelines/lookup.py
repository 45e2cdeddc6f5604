"""Online values as a person or a script reads them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from features.attributes.registry import Registration
from features.serving.online import AttributeTable

Cell = dict[str, Any]


def described(table: AttributeTable, registration: Registration) -> dict[str, dict[str, Cell]]:
    """{video id: {attribute: {value, label, present, stale, source, annotated_at}}}; what is absent has no value and no source.

    `label` is a category's label, or `true` or `false` at the registered serving threshold; a score has none.
    """
    found: dict[str, dict[str, Cell]] = {}
    for i, video_id in enumerate(table.video_ids):
        sources, cells = table.source_names(video_id), found.setdefault(video_id, {})
        for j, name in enumerate(table.attributes):
            present, value = bool(table.present[i, j]), float(table.values[i, j])
            attribute, at = registration.by_name[name], int(table.annotated_at[i, j])
            label = None
            if present and attribute.value_type == "category":
                label = attribute.labels[int(value)]
            elif present and attribute.value_type == "boolean":
                label = str(value >= attribute.serving_threshold).lower()
            cells[name] = {
                "value": value if present else None,
                "label": label,
                "present": present,
                "stale": bool(table.stale[i, j]),
                "source": sources[name] if present else None,
                "annotated_at": datetime.fromtimestamp(at, UTC).isoformat() if present and at else None,
            }
    return found


def row_of(video_id: str, name: str, cell: Cell) -> list[object]:
    """A line of the table that `vidattr get` prints."""
    if not cell["present"]:
        return [video_id, name, "-", "", "absent", "", ""]
    when = (cell["annotated_at"] or "")[:19].replace("T", " ")
    return [video_id, name, f"{cell['value']:.3f}", cell["label"] or "", cell["source"], when, "stale" if cell["stale"] else ""]
