"""The main job: every stage in order, one run record over all of them, and a report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from features.errors import InvalidInput
from features.records import Counts, Failure, RunRecord
from pipelines import stopping
from pipelines.project import Project, dead_letter_kinds


@dataclass(frozen=True)
class WholeRun:
    """What `run_all` did.

    Attributes:
        record: over all stages.
        stages: the records of the stages that ran, in order.
        report: path of the HTML report.
        next_command: what to type now.
    """

    record: RunRecord
    stages: tuple[RunRecord, ...]
    report: str
    next_command: str


def combined_counts(extract: RunRecord, annotate: RunRecord | None, attributes: int) -> tuple[Counts, Counts]:
    """Counts of the whole run in videos and in pairs: a video that did not decode takes its pairs with it."""
    lost, unseen = extract.counts.dead_lettered, extract.counts.pending
    asked = annotate.counts if annotate else Counts(extract.counts.annotated, 0, 0, extract.counts.annotated)
    pairs = annotate and annotate.pair_counts
    pairs = pairs or Counts(asked.into * attributes, 0, 0, asked.into * attributes)
    return (
        Counts(
            extract.counts.into,
            asked.annotated,
            asked.dead_lettered + lost,
            asked.pending + unseen,
            min(asked.reused, extract.counts.reused),
        ),
        Counts(
            pairs.into + (lost + unseen) * attributes,
            pairs.annotated,
            pairs.dead_lettered + lost * attributes,
            pairs.pending + unseen * attributes,
            pairs.reused,
        ),
    )


def run_all(project: Project, retry_failed: bool, quiet: bool, say: Callable[[str], None]) -> WholeRun:
    """Registers what is new, extracts, annotates, distils, scores and materialises, and writes the report.

    A stage that has nothing to work on is left out and said so; so is everything after a stop.

    Raises:
        InvalidInput: the manifest, a definition or the workspace is wrong; nothing was done then.
    """
    from pipelines import registration
    from pipelines.io import peak_memory_bytes
    from pipelines.options import RunHeader, beam_options, library_versions
    from pipelines.report import collect, write_report

    began, header = datetime.now(UTC), RunHeader(versions=library_versions("tensorflow", "feast", "av"))
    project.workspace.local_path("feast")
    settings, definitions, manifest = project.configuration, project.asked, project.manifest
    beam_options(project.beam_args)
    project.workspace.check_writable()
    for note in manifest.notes:
        say(note)
    timings: dict[str, float] = {}
    stages: list[RunRecord] = []
    notes: list[str] = []

    def timed(name: str, work: Callable[[], Any]) -> Any:
        start = time.monotonic()
        result = work()
        timings[name] = round(time.monotonic() - start, 2)
        if isinstance(result, RunRecord):
            stages.append(result)
        return result

    plan = timed(
        "register", lambda: registration.register(project.workspace, project.definitions, settings.online_store, retire=False)
    )
    for sentence in plan.sentences():
        say(sentence)
    extract = timed("extract", lambda: project.extract(retry_failed, quiet))
    annotate = None
    if extract.counts.annotated and not stopping.requested():
        annotate = timed("annotate", lambda: project.annotate(quiet))
    if annotate and annotate.counts.annotated and not stopping.requested():
        try:
            timed("distill", lambda: project.distill(quiet))
            timed("score", lambda: project.score(quiet))
        except InvalidInput as error:
            notes.append(f"No student was trained: {error}")
            say(notes[-1])
        timed("materialize", lambda: project.materialize(quiet))

    counts, pair_counts = combined_counts(extract, annotate, len(definitions))
    kinds: dict[str, int] = {}
    for stage in stages:
        for kind, number in dead_letter_kinds(stage).items():
            kinds[f"kind/{kind}"] = kinds.get(f"kind/{kind}", 0) + number
    finished = datetime.now(UTC)
    record = RunRecord(
        header.run_id,
        "run",
        began,
        finished,
        arguments={"videos": project.videos, "stages": [stage.run_id for stage in stages]},
        versions=header.versions,
        counts=counts,
        pair_counts=pair_counts,
        input_tokens=sum(stage.input_tokens for stage in stages),
        cached_input_tokens=sum(stage.cached_input_tokens for stage in stages),
        output_tokens=sum(stage.output_tokens for stage in stages),
        cost_usd=sum(stage.cost_usd for stage in stages),
        timings={**timings, "total": round((finished - began).total_seconds(), 2)},
        peak_memory_bytes=peak_memory_bytes(),
        details={**kinds, "notes": notes, "attributes": [definition.name for definition in definitions]},
    )
    project.workspace.commit(record)
    lost = {letter.video_id for letter in project.workspace.rows(Failure) if letter.stage == "extract"}
    example = next((video.video_id for video in manifest.videos if video.video_id not in lost), "VIDEO_ID")
    follow = f"vidattr get {example} --workspace {project.workspace_path}"
    report = project.workspace.path("reports", f"{record.run_id}.html")
    write_report(report, collect(project.workspace, record, stages, definitions, next_command=follow))
    return WholeRun(record, tuple(stages), report, follow)
