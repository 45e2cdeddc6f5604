"""Builds the annotator that a stage asks, with everything that wraps it, and shares one of a kind in a process."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from features.annotators.answers import Answers, StoredAnswers, open_answers
from features.annotators.baseline import BaselineAnnotator, GoldenExample
from features.annotators.budget import Ledger
from features.annotators.chain import MODEL_KINDS, ModelAsked, asking, plugged_in
from features.annotators.control import Control
from features.annotators.fallback import Fallback
from features.annotators.protocol import Annotator, AnnotatorIdentity
from features.annotators.replay import ReplayAnnotator
from features.annotators.settings import ModelSettings, PaceSettings, PromptSettings
from features.attributes.definition import AttributeDefinition
from features.errors import InvalidInput
from features.records import Annotation, VideoFeatures, digest, from_table
from features.videos.embedding import load_text_encoder
from features.weights import WeightsConfig
from features.workspace import Workspace, latest, read_parquet
from pipelines import stopping
from pipelines.asking import event_loop
from pipelines.configuration import Configuration
from pipelines.counters import live

BUILT_IN = ("baseline", *MODEL_KINDS, "replay")
ANSWERS = "answers.sqlite"
CONTROL = "control.yaml"
LOCK = ".annotate.lock"
"""Held while questions are asked or handed over: two at once would pay for the same ones."""


@dataclass(frozen=True)
class AnnotatorConfig:
    """Whom to ask; it travels to workers by value and holds no secret.

    Attributes:
        kind: one of `BUILT_IN`, or the name of an annotator of somebody else's package.
        recording: a JSONL file of answers, for `replay`.
        call_log: a file that `replay` adds a line to for each real call, for counting them.
        golden: gold annotations that the baseline may learn from, and whose videos may be examples in a prompt.
        weights: replacements for the built-in weights.
        model, prompts, pace: of a model server; `pace` holds for everybody.
        prices: a price table of the user's own; empty: the built-in one.
        asked: all that the run asks.
        options: for an annotator of somebody else's package.
        fallback: who is asked where this one refuses or is down; shares prompts, pace and budget.
        answers: where answers are kept, see `features.annotators.answers.open_answers`; empty: in the workspace.
        patience_s: how long questions are left to batch jobs that have them.
        ask_refused: ask what a batch job's model refused.
        run_id: under which spend is noted.
    """

    kind: str = "baseline"
    recording: str = ""
    call_log: str = ""
    golden: tuple[Annotation, ...] = ()
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    model: ModelSettings = field(default_factory=ModelSettings)
    prompts: PromptSettings = field(default_factory=PromptSettings)
    pace: PaceSettings = field(default_factory=PaceSettings)
    prices: str = ""
    asked: tuple[AttributeDefinition, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    fallback: AnnotatorConfig | None = None
    answers: str = ""
    patience_s: float = float("inf")
    ask_refused: bool = False
    run_id: str = ""

    def __post_init__(self) -> None:
        """Raises InvalidInput for an unknown annotator, one that lacks its recording, and a fallback of a fallback."""
        if self.kind not in BUILT_IN:
            from features.annotators import plugins

            if self.kind not in plugins.names():
                known = ", ".join((*BUILT_IN, *plugins.names()))
                raise InvalidInput(f"{self.kind!r} is no annotator: choose one of {known}, or install the package that brings it")
        if self.kind == "replay" and not self.recording:
            raise InvalidInput("the replay annotator needs a recording: pass --recording FILE.jsonl")
        if self.fallback is not None and self.fallback.fallback is not None:
            raise InvalidInput("a fallback has no fallback of its own: name one annotator")

    @property
    def asks_model(self) -> bool:
        """Whether a model server is asked first."""
        return self.kind in MODEL_KINDS

    @property
    def window(self) -> int:
        """Videos in flight that keep `pace.in_flight` requests busy."""
        return self.pace.in_flight * (self.prompts.videos_per_request if self.asks_model else 1)


def configured(settings: Configuration, asked: tuple[AttributeDefinition, ...], call_log: str = "") -> AnnotatorConfig:
    """Whom a workspace's settings say to ask about these definitions. Raises what `AnnotatorConfig` raises."""
    first = AnnotatorConfig(
        settings.annotator,
        settings.recording,
        call_log,
        weights=settings.weights,
        model=settings.model,
        prompts=settings.prompt,
        pace=settings.pace,
        prices=settings.prices,
        asked=asked,
        options=tuple(sorted(settings.options.items())),
        answers=settings.answers,
    )
    second = settings.fallback
    if not second.annotator:
        return first
    return replace(
        first, fallback=replace(first, kind=second.annotator, recording=second.recording, model=second.model, options=())
    )


@dataclass(frozen=True)
class Whose:
    """Under which keys answers count: those of the annotator itself, and those that its fallback gave in its place.

    Attributes:
        first: the annotator's own identity.
        second: its fallback's.
    """

    first: AnnotatorIdentity
    second: AnnotatorIdentity | None = None

    @classmethod
    def of(cls, annotator: Annotator) -> Whose:
        """Of a built annotator."""
        return cls(*annotator.identities) if isinstance(annotator, Fallback) else cls(annotator.identity)

    def key(self, content_key: str, definition_hash: str, by: AnnotatorIdentity | None = None) -> str:
        """The key of an answer that `by` gave; None: the first.

        An answer of the first has its own answer key, whether there is a fallback or not. One that the second gave because the
        first could not is no answer of the second asked in its own right, so its key is made of both.
        """
        own = self.first.answer_key(content_key, definition_hash)
        if self.second is None or by is None or by == self.first:
            return own
        return digest(own, self.second.answer_key(content_key, definition_hash))

    def accepted(self, content_key: str, definition_hash: str) -> tuple[tuple[str, str], ...]:
        """(source, key) of every answer that is good enough not to ask again."""
        givers = (self.first,) if self.second is None else (self.first, self.second)
        return tuple((str(giver.source), self.key(content_key, definition_hash, giver)) for giver in givers)

    def refused_key(self, content_key: str, definition_hash: str) -> str:
        """The key of a dead letter: of all that was asked."""
        return self.key(content_key, definition_hash, self.second)


def golden_examples(workspace: Workspace, golden: Sequence[Annotation]) -> tuple[GoldenExample, ...]:
    """Gold annotations with the features of their videos, frames left out; videos without features are left out too."""
    wanted = {annotation.video_id for annotation in golden}
    if not wanted:
        return ()
    columns = [name for name in VideoFeatures.SCHEMA.names if name != "frames"]
    ids = pa.array(sorted(wanted), pa.string())

    def rows() -> Iterator[VideoFeatures]:
        for file in workspace.files("features"):
            if pc.any(pc.is_in(read_parquet(file.path, ["video_id"])["video_id"], ids)).as_py():
                table = read_parquet(file.path, columns)
                yield from from_table(table.filter(pc.is_in(table["video_id"], ids)), VideoFeatures)

    videos = latest(rows())
    return tuple(GoldenExample(videos[row.video_id], row) for row in golden if row.video_id in videos)


def model_asked(config: AnnotatorConfig, workspace: Workspace) -> ModelAsked:
    """The model of a configuration and how it is asked. Raises InvalidInput where it is no model server's."""
    examples = golden_examples(workspace, config.golden) if config.prompts.examples else ()
    return ModelAsked(config.kind, config.model, config.prompts, examples, config.asked, config.prices)


def answers_of(config: AnnotatorConfig, workspace: Workspace) -> Answers:
    """The answers store of a configuration: the workspace's own sqlite file unless another place is named."""
    return open_answers(config.answers or workspace.local_path(ANSWERS))


def build_annotator(config: AnnotatorConfig, workspace: Workspace, store: bool = True, ledger: Ledger | None = None) -> Annotator:
    """The annotator, closed as yet.

    Args:
        config: whom to ask.
        workspace: where its answers and `control.yaml` are.
        store: keep answers; False for trying out.
        ledger: the book of what the run has spent in this process.
    """
    control, ledger = Control(workspace.path(CONTROL), stopping.requested, config.pace), ledger or Ledger()
    if store:
        live.watched[CONTROL] = lambda: control.problem or ("paused by control.yaml" if control.orders().paused else "")
    first = _one(config, workspace, store, control, ledger)
    if config.fallback is None:
        return first
    return Fallback(first, _one(config.fallback, workspace, store, control, ledger))


def _one(config: AnnotatorConfig, workspace: Workspace, store: bool, control: Control, ledger: Ledger) -> Annotator:
    if config.kind == "replay":
        inner: Annotator = ReplayAnnotator(config.recording, call_log=config.call_log)
    elif config.kind == "baseline":
        encoder = load_text_encoder(config.weights)
        inner = BaselineAnnotator(encoder.encode, encoder.version, golden_examples(workspace, config.golden))
    elif config.kind in MODEL_KINDS:
        inner = asking(model_asked(config, workspace), config.pace, control, ledger)
        if store:
            inner = _after_batch_jobs(inner, config, workspace)
    else:
        from features.annotators import plugins

        made = plugins.load(config.kind)(config.model, config.prompts, dict(config.options))
        inner = plugged_in(made, config.pace, control, ledger)
    return StoredAnswers(inner, answers_of(config, workspace), config.run_id) if store else inner


def _after_batch_jobs(annotator: Annotator, config: AnnotatorConfig, workspace: Workspace) -> Annotator:
    """Leaves to batch jobs what is in one, where there are any."""
    from features.annotators.batch_jobs import InBatch, standing

    stand = standing(workspace, time.time(), config.patience_s)
    if not stand.waiting and not stand.refused:
        return annotator
    return InBatch(annotator, stand.waiting, stand.why, None if config.ask_refused else stand.refused)


@dataclass
class _Held:
    annotator: Annotator
    users: int = 0


_lock = threading.Lock()
_held: dict[str, _Held] = {}
_ledgers: dict[str, Ledger] = {}
"""They outlive their annotator: a runner may take all workers down for a while, and the cap still holds."""


def _name(config: AnnotatorConfig, workspace: Workspace) -> str:
    return digest(repr(config), workspace.root)


def acquire(config: AnnotatorConfig, workspace: Workspace) -> Annotator:
    """The open annotator of this process for a configuration: one client, one pace and one budget however many threads ask."""
    name = _name(config, workspace)
    with _lock:
        if name not in _held:
            annotator = build_annotator(config, workspace, ledger=_ledgers.setdefault(name, Ledger()))
            annotator.open()
            gc.freeze()  # libraries and models stay: going through them again and again took a seventh of all time
            _held[name] = _Held(annotator)
        _held[name].users += 1
        return _held[name].annotator


def release(config: AnnotatorConfig, workspace: Workspace) -> None:
    """Gives it back; the last one closes it."""
    name = _name(config, workspace)
    with _lock:
        held = _held[name]
        held.users -= 1
        if held.users:
            return
        del _held[name]
    asyncio.run_coroutine_threadsafe(held.annotator.close(), event_loop()).result()
