"""The annotation stage against a model server on loopback, through real clients, with the law of counts checked on the rows."""

from __future__ import annotations

import io
import pathlib
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from PIL import Image

from features.annotators.model_server import Asked, DigestJudge, Judged, RunningServer, ServerConfig, running
from features.annotators.settings import ModelSettings, PaceSettings, PromptSettings
from features.attributes.definition import AttributeDefinition
from features.records import Annotation, Counts, Failure, Frame, RunRecord, Video, VideoFeatures, to_table
from features.workspace import Workspace, latest, new_run_id
from pipelines import annotate
from pipelines.annotate import STAGE, AnnotateConfig
from pipelines.annotators import AnnotatorConfig, Whose, build_annotator
from tests.pipelines.hand_made import definition

DEFINITIONS = (
    definition("calming"),
    definition("pace", value_type="category", labels=("slow", "medium", "fast")),
    definition("polish", value_type="score", score_range=(1.0, 5.0)),
)
NAMES = tuple(each.name for each in DEFINITIONS)
PROTOCOLS = ("openai", "gemini")
MODELS = {"openai": "gpt-4.1-mini", "gemini": "gemini-2.5-flash-lite"}
"""Models that reason in the open, so that a reply is as long as its text."""
MARKER = r"#(clip-\d+)"
QUESTIONS = tuple((each.question, each.name) for each in DEFINITIONS)

Pair = tuple[str, str]
"""(video_id, attribute)."""


def jpeg(shade: int, size: tuple[int, int] = (32, 18)) -> bytes:
    """A small still of one colour."""
    data = io.BytesIO()
    Image.new("RGB", size, (shade % 256, 90, 20)).save(data, "JPEG")
    return data.getvalue()


def video(number: int, **changes: Any) -> VideoFeatures:
    """Video `clip-NUMBER`, with a title, two stills, and a hashtag by which the server tells it from others."""
    name = f"clip-{number:03}"
    fields: dict[str, Any] = {
        "title": f"A lake on day {number}",
        "hashtags": (name,),
        "duration_s": 12.0,
        "frames": tuple(Frame(at, 32, 18, jpeg(7 * number + int(at))) for at in (2.0, 9.0)),
        "run_id": "extracted",
        "extracted_at": datetime.now(UTC),
    }
    fields |= changes
    texts = {key: fields[key] for key in ("title", "description", "hashtags", "transcript") if key in fields}
    return VideoFeatures(name, name, Video(name, "", **texts).content_key(name), "hand-1", **fields)


def workspace_with(root: pathlib.Path, videos: int | Iterable[VideoFeatures], per_file: int = 100) -> Workspace:
    """A workspace that has features of so many ordinary videos, or of these."""
    workspace, run_id, now = Workspace(str(root)), new_run_id(), datetime.now(UTC)
    rows = [video(number) for number in range(videos)] if isinstance(videos, int) else list(videos)
    files = [
        workspace.write_table("features", run_id, to_table(rows[start : start + per_file], VideoFeatures))
        for start in range(0, len(rows), per_file)
    ]
    workspace.commit(RunRecord(run_id, "extract", now, now, counts=Counts(len(rows), len(rows), 0, 0), files={"features": files}))
    return workspace


@contextmanager
def serving(**config: Any) -> Iterator[RunningServer]:
    """A model server that knows our videos and questions."""
    with running(ServerConfig(**{"marker": MARKER, "questions": QUESTIONS, **config})) as server:
        yield server


@dataclass
class At:
    """A judge that does something when it is asked for the n-th time, which is in the middle of a run.

    Attributes:
        number: of the request, from 1.
        act: what is done then, once, in the server's thread.
        judge: who answers.
    """

    number: int
    act: Callable[[], object]
    judge: Callable[[Asked, Sequence[tuple[str, str]]], Judged] = field(default_factory=DigestJudge)
    asked: int = 0

    def __call__(self, asked: Asked, questions: Sequence[tuple[str, str]]) -> Judged:
        self.asked += 1
        if self.asked == self.number:
            self.act()
        return self.judge(asked, questions)


def asking(server: RunningServer | str, protocol: str = "openai", **changes: Any) -> AnnotatorConfig:
    """Whom to ask: a server, by one of its protocols.

    Args:
        server: or its address.
        protocol: openai or gemini.
        changes: fields of `AnnotatorConfig`; `model`, `prompts` and `pace` as keyword arguments of their settings.
    """
    url = server if isinstance(server, str) else server.openai_url if protocol == "openai" else server.gemini_url
    model = ModelSettings(**{"name": MODELS[protocol], "base_url": url, "timeout_s": 20.0, **changes.pop("model", {})})
    pace = PaceSettings(**{"in_flight": 8, "longest_wait_s": 1.0, "outage_patience_s": 0.0, **changes.pop("pace", {})})
    return AnnotatorConfig(protocol, model=model, prompts=PromptSettings(**changes.pop("prompts", {})), pace=pace, **changes)


@dataclass(frozen=True)
class Outcome:
    """What a run left, by pair; the law of counts holds for it.

    Attributes:
        record: the run's.
        annotated: answers that stand, those of earlier runs that were reused among them.
        dead: dead letters of this run.
        pending: what is in neither.
    """

    record: RunRecord
    annotated: dict[Pair, Annotation]
    dead: dict[Pair, Failure]
    pending: set[Pair]

    @property
    def values(self) -> dict[Pair, str | None]:
        return {pair: row.value for pair, row in self.annotated.items()}

    @property
    def why_pending(self) -> str:
        """All reasons, one a line."""
        return "\n".join(name for name in self.record.details if name.startswith("detail/pending: "))


def annotate_against(
    server: RunningServer | str,
    workspace: Workspace,
    protocol: str = "openai",
    definitions: Sequence[AttributeDefinition] = DEFINITIONS,
    beam_args: Sequence[str] = (),
    how: dict[str, Any] | None = None,
    **changes: Any,
) -> Outcome:
    """Runs the stage to its end and checks the law of counts.

    Args:
        server: who answers, or its address.
        workspace: with features.
        protocol, changes: see `asking`.
        definitions: what is asked.
        beam_args: for the pipeline.
        how: further fields of `AnnotateConfig`.
    """
    config = AnnotateConfig(workspace, tuple(definitions), asking(server, protocol, **changes), **(how or {}))
    return law(workspace, annotate.run(config, beam_args), config)


def law(workspace: Workspace, record: RunRecord, config: AnnotateConfig) -> Outcome:
    """Law 1, on the rows in the tables and on the record: in = annotated + dead-lettered + pending, all disjoint.

    Args:
        workspace: after the run.
        record: of the run.
        config: of the run, from which follows under which keys an answer counts.
    """
    ready = annotate._ready(replace(config, header=replace(config.header, run_id=record.run_id)))
    whose = Whose.of(build_annotator(ready.annotator, workspace, store=False))
    videos = latest(workspace.rows(VideoFeatures))
    by_name = {each.name: each for each in config.definitions}
    everything = {(video_id, name) for video_id in videos for name in by_name}

    written = [row for row in workspace.rows(Annotation) if row.source != "gold"]
    ours = [row for row in written if row.run_id == record.run_id]
    letters = [row for row in workspace.rows(Failure) if row.run_id == record.run_id and row.stage == STAGE]
    twice = [pair for pair, times in Counter((row.video_id, row.attribute) for row in [*ours, *letters]).items() if times > 1]
    assert not twice, f"in two rows of one run: {twice}"
    dead = {(row.video_id, row.attribute): row for row in letters}
    annotated: dict[Pair, Annotation] = {}
    for row in written:
        pair = row.video_id, row.attribute
        if pair in everything:
            key = videos[row.video_id].content_key, by_name[row.attribute].definition_hash
            if (row.source, row.answer_key) in whose.accepted(*key):
                annotated[pair] = row
    if config.only_failed:
        # What is answered is not asked, so that only what this run wrote or left is in it.
        everything &= dead.keys() | {(row.video_id, row.attribute) for row in ours} | _open_letters(workspace, record, config)
        annotated = {pair: row for pair, row in annotated.items() if pair in everything and row.run_id == record.run_id}
    assert not annotated.keys() & dead.keys() and dead.keys() <= everything
    pending = everything - annotated.keys() - dead.keys()

    counts = record.pair_counts or Counts()
    assert (counts.into, counts.annotated, counts.dead_lettered, counts.pending) == (
        len(everything),
        len(annotated),
        len(dead),
        len(pending),
    )
    noted = sum(amount for name, amount in record.details.items() if name.startswith("detail/pending: "))
    assert noted == len(pending), "every pending pair has a reason"
    of_video = Counter(_of_video(video_id, annotated, dead, pending) for video_id in {video_id for video_id, _ in everything})
    assert (record.counts.annotated, record.counts.dead_lettered, record.counts.pending) == (
        of_video["annotated"],
        of_video["dead"],
        of_video["pending"],
    )
    assert record.counts.into == sum(of_video.values())
    # A record counts billionths of a dollar, rounded for each video.
    assert record.cost_usd >= sum(row.cost_usd for row in ours) - 1e-9 * (1 + len(ours)), "answers carry no more than was paid"
    return Outcome(record, annotated, dead, pending)


def _open_letters(workspace: Workspace, record: RunRecord, config: AnnotateConfig) -> set[Pair]:
    """Dead letters of earlier runs that had no answer when this one began."""
    letters = (row for row in workspace.rows(Failure) if row.stage == STAGE and row.run_id != record.run_id)
    newest = {(row.video_id, row.attribute): row for row in letters}
    for row in workspace.rows(Annotation):
        letter = newest.get((row.video_id, row.attribute))
        if row.run_id != record.run_id and letter and row.annotated_at and letter.failed_at and row.annotated_at > letter.failed_at:
            del newest[row.video_id, row.attribute]
    return {pair for pair, row in newest.items() if not config.kinds or row.kind in config.kinds}


def _of_video(video_id: str, annotated: Iterable[Pair], dead: Iterable[Pair], pending: Iterable[Pair]) -> str:
    def has(pairs: Iterable[Pair]) -> bool:
        return any(pair[0] == video_id for pair in pairs)

    return "pending" if has(pending) else "annotated" if has(annotated) else "dead"


def paid(server: RunningServer) -> dict[Pair, int]:
    """How often the server was paid for each pair: since its start, or its last reset."""
    return {(name, attribute): times for name, counts in server.stats()["pairs"].items() for attribute, times in counts.items()}


def pairs_of(*numbers: int, names: Sequence[str] = NAMES) -> set[Pair]:
    """The pairs of some videos."""
    return {(f"clip-{number:03}", name) for number in numbers for name in names}


def billed(server: RunningServer, outcome: Outcome) -> bool:
    """Whether the run's record says exactly the tokens that the server billed since its last reset."""
    tokens = server.stats()["tokens"]
    record = outcome.record
    said = record.input_tokens, record.cached_input_tokens, record.output_tokens
    return said == (tokens["input"], tokens["cached"], tokens["output"] + tokens["thinking"])


@contextmanager
def meanwhile(act: Callable[[], object]) -> Iterator[None]:
    """Does something in another thread while the block goes on, and waits for it; what it raises is raised."""
    failed: list[BaseException] = []

    def main() -> None:
        try:
            act()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=main, daemon=True)
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive(), "it never came to its end"
    if failed:
        raise failed[0]
