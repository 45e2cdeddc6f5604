"""The main job: every stage in order, one run record over all of them, and a report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from features.errors import NothingToLearn, Transient
from features.records import Counts, RunRecord
from pipelines import copies, stopping, terminal
from pipelines.project import Project, dead_letter_kinds, dead_letters, exit_code, pending_reasons


@dataclass(frozen=True)
class WholeRun:
    """What `run_all` did.

    Attributes:
        record: over all stages.
        stages: the records of the stages that ran, in order.
        report: path of the HTML report.
        next_command: what to type now.
        exit_code: 0 when every stage that had something to do did it; see `pipelines.project.exit_code`.
    """

    record: RunRecord
    stages: tuple[RunRecord, ...]
    report: str
    next_command: str
    exit_code: int = 0


def combined_counts(extract: RunRecord, annotate: RunRecord | None, attributes: int) -> tuple[Counts, Counts]:
    """Counts of the whole run in videos and in pairs: a video that never reached the annotator takes its pairs with it.

    `annotate` is the stage that answers about every video: `score` where the annotator is asked about a priority corpus only.
    What was lost on the way is what it did not see, so the law of counts holds whatever it saw: fewer videos than were
    extracted (the rest is pending), or more (their features are older than this run).
    """
    into = extract.counts.into
    asked = annotate.counts if annotate else Counts(extract.counts.annotated, 0, 0, extract.counts.annotated)
    unseen = max(0, into - asked.into)
    lost = min(extract.counts.dead_lettered, unseen)
    waiting = unseen - lost
    pairs = annotate and annotate.pair_counts
    pairs = pairs or Counts(asked.into * attributes, 0, 0, asked.into * attributes)
    return (
        Counts(
            asked.into + unseen,
            asked.annotated,
            asked.dead_lettered + lost,
            asked.pending + waiting,
            min(asked.reused, extract.counts.reused),
        ),
        Counts(
            pairs.into + unseen * attributes,
            pairs.annotated,
            pairs.dead_lettered + lost * attributes,
            pairs.pending + waiting * attributes,
            pairs.reused,
        ),
    )


def run_all(project: Project, retry_failed: bool, quiet: bool, say: Callable[[str], None]) -> WholeRun:
    """Registers what is new, extracts, groups near-duplicates, annotates, distils, scores and materialises, and writes the report.

    A stage that has nothing to work on is left out and said so; so is everything after a stop.

    Raises:
        InvalidInput: the manifest, a definition, the Golden Set, a setting, the recording, a Beam option or the workspace is
            wrong; nothing was done then.
    """
    from pipelines import registration
    from pipelines.io import peak_memory_bytes
    from pipelines.options import RunHeader, library_versions
    from pipelines.report import collect, write_report

    began, header = datetime.now(UTC), RunHeader(versions=library_versions("tensorflow", "feast", "av"))
    workspace = project.workspace
    workspace.local_path("feast")
    settings, definitions, manifest = project.configuration, project.asked, project.manifest
    project.check()
    workspace.check_writable()
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

    def tell(sentence: str) -> None:
        notes.append(sentence)
        say(sentence)

    plan = timed("register", lambda: registration.register(workspace, project.definitions, settings.online_store, retire=False))
    for sentence in plan.sentences():
        say(sentence)
    extract = timed("extract", lambda: project.extract(retry_failed, quiet))
    if settings.duplicates and extract.counts.annotated and not stopping.requested() and copies.is_due(workspace):
        timed("duplicates", lambda: project.find_duplicates(quiet))
    annotate, score, online = None, None, True
    if extract.counts.annotated and not stopping.requested():
        annotate = timed("annotate", lambda: project.annotate(quiet, extract.run_id, retry_failed=retry_failed))
    if annotate and annotate.counts.annotated and not stopping.requested():
        try:
            timed("distill", lambda: project.distill(quiet))
        except NothingToLearn as error:
            tell(f"No student was trained: {error}")
        else:
            if not stopping.requested():
                score = timed("score", lambda: project.score(quiet))
        if not stopping.requested():
            try:
                timed("materialize", lambda: project.materialize(quiet))
            except Transient as error:
                online = False
                tell(f"The online store was not written and serves what it had: {error}")
    for stage in stages:
        for sentence in pending_reasons(stage):
            say(sentence)
    waiting = sum(stage.counts.pending for stage in stages if stage.stage == "materialize")
    if waiting:
        tell(f"{waiting} videos are not in the online store yet, which serves their old values.")

    # Beyond the priority corpus nobody but the student is asked.
    answered = score if project.priority and score else annotate
    counts, pair_counts = combined_counts(extract, answered, len(definitions))
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
    workspace.commit(record)
    code = max(exit_code(each) for each in (record, *stages)) if online else max(1, exit_code(record))
    follow = _next(project, record, extract, online and not waiting)
    report = workspace.path("reports", f"{record.run_id}.html")
    write_report(report, collect(workspace, record, stages, definitions, next_command=follow))
    return WholeRun(record, tuple(stages), report, follow, code)


def _next(project: Project, record: RunRecord, extract: RunRecord, online: bool) -> str:
    """What a person most likely wants after a run: the rest of it, its dead letters, or the attributes of one video."""
    place = project.workspace_path
    if stopping.requested():
        return terminal.command("run", videos=project.videos, workspace=place)
    if not record.counts.annotated:
        return terminal.command("runs show", record.run_id, workspace=place)
    if not online:
        return terminal.command("materialize", workspace=place)
    lost = {letter.video_id for letter in dead_letters(project.workspace, [extract])}
    example = next((video.video_id for video in project.manifest.videos if video.video_id not in lost), "VIDEO_ID")
    return terminal.command("get", example, workspace=place)
