"""The page that a run leaves behind: one HTML file with pictures, readable without network or scripts.

Everything that came with a video is escaped, and the page forbids itself all scripts and addresses.
"""

from __future__ import annotations

import base64
from functools import cache

import jinja2

from features import storage
from pipelines.report_contents import Distribution, Opinion, RunReport, TeacherStudent, Verdict, VideoCard, collect

__all__ = [
    "Distribution",
    "Opinion",
    "RunReport",
    "TeacherStudent",
    "Verdict",
    "VideoCard",
    "collect",
    "render",
    "write_report",
]

SOURCE_NAMES = {
    "gold": "Golden Set",
    "adjudicated": "adjudicated",
    "llm": "large language model",
    "baseline": "baseline",
    "student": "student",
}


def _count(number: float) -> str:
    return f"{number:,.0f}"


def _seconds(value: float) -> str:
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def _size(value: float) -> str:
    return "unknown" if value <= 0 else f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def _dollars(value: float) -> str:
    return "$0" if value == 0 else f"${value:,.2f}" if value >= 1 else f"${value:.4f}"


def _percent(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.0f} %"


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


@cache
def _page() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(count=_count, seconds=_seconds, size=_size, dollars=_dollars, percent=_percent, data_uri=_data_uri)
    return environment.get_template("run.html.j2")


def render(document: RunReport) -> str:
    """The page as HTML."""
    return _page().render(
        report=document,
        run=document.run,
        source_names=SOURCE_NAMES,
        elapsed=(document.run.finished_at - document.run.started_at).total_seconds(),
        students=[pair for pair in document.teacher_student if pair.pairs],
    )


def write_report(path: str, document: RunReport) -> None:
    """Writes the page of a run, whole or not at all, to a local path or gs://.

    Raises:
        InvalidInput: the place cannot be written, or its disk is full.
    """
    storage.write_bytes(path, render(document).encode("utf-8", "replace"))
