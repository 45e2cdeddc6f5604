"""Builds the annotator that a stage asks, with everything that wraps it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from features.annotators.answers import AnswersStore, StoredAnswers
from features.annotators.baseline import BaselineAnnotator, GoldenExample
from features.annotators.protocol import Annotator
from features.annotators.replay import ReplayAnnotator
from features.errors import InvalidInput
from features.records import Annotation, VideoFeatures, from_table
from features.videos.embedding import load_text_encoder
from features.weights import WeightsConfig
from features.workspace import Workspace, latest, read_parquet

KINDS = ("baseline", "replay")
ANSWERS = "answers.sqlite"


@dataclass(frozen=True)
class AnnotatorConfig:
    """Whom to ask; it travels to workers by value and holds no secret.

    Attributes:
        kind: one of `KINDS`.
        recording: a JSONL file of answers, for `replay`.
        call_log: a file that `replay` adds a line to for each real call, for counting them.
        golden: gold annotations that the baseline may learn from.
        weights: replacements for the built-in weights.
    """

    kind: str = "baseline"
    recording: str = ""
    call_log: str = ""
    golden: tuple[Annotation, ...] = ()
    weights: WeightsConfig = field(default_factory=WeightsConfig)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidInput(f"{self.kind!r} is no annotator: choose one of {', '.join(KINDS)}")
        if self.kind == "replay" and not self.recording:
            raise InvalidInput("the replay annotator needs a recording: pass --recording FILE.jsonl")


def golden_examples(workspace: Workspace, golden: Sequence[Annotation]) -> tuple[GoldenExample, ...]:
    """Gold annotations with the features of their videos, frames left out; videos without features are left out too."""
    wanted = {annotation.video_id for annotation in golden}
    if not wanted:
        return ()
    columns = [name for name in VideoFeatures.SCHEMA.names if name != "frames"]
    rows = (
        row
        for file in workspace.files("features")
        for row in from_table(read_parquet(file.path, columns), VideoFeatures)
        if row.video_id in wanted
    )
    videos = latest(rows)
    return tuple(GoldenExample(videos[row.video_id], row) for row in golden if row.video_id in videos)


def build_annotator(config: AnnotatorConfig, workspace: Workspace, store: bool = True) -> Annotator:
    """The annotator, behind the answers store of the workspace unless `store` is False (trying out, which keeps nothing)."""
    if config.kind == "replay":
        inner: Annotator = ReplayAnnotator(config.recording, call_log=config.call_log)
    else:
        encoder = load_text_encoder(config.weights)
        inner = BaselineAnnotator(encoder.encode, encoder.version, golden_examples(workspace, config.golden))
    return StoredAnswers(inner, AnswersStore(workspace.local_path(ANSWERS))) if store else inner
