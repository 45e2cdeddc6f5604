"""A workspace and a feature repository together: reads the settings once and runs any stage here, with progress."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from features.annotators.chain import DEFAULT_MODEL
from features.attributes.definition import AttributeDefinition
from features.attributes.golden import golden_annotations
from features.attributes.loading import load_definitions
from features.errors import InvalidInput
from features.records import Annotation, Failure, RunRecord, from_table
from features.videos.manifest import ManifestReport, load_manifest
from features.workspace import Workspace, read_parquet
from pipelines import stopping, terminal
from pipelines.beam_args import check_beam_args
from pipelines.configuration import Configuration, load_configuration

if TYPE_CHECKING:
    from pipelines.annotators import AnnotatorConfig
    from pipelines.planning import AnnotateConfig


@dataclass(frozen=True)
class Project:
    """What the flags of a command said; everything else comes from `vidattr.yaml` and the feature repository.

    Attributes:
        workspace_path, feature_repo: where.
        videos, roots: manifest, folder or glob, and where its uris may lie.
        priority: a manifest of the videos that the annotator is asked about in a whole run; empty: all of `videos`.
        attributes: ask only about these; empty: all.
        annotator, recording, call_log, golden_folder, online_store: flags, None or empty for the configured ones.
        each_duplicate: ask about every video itself, near-duplicates too.
        model_flags: flags about a model annotator, by group of `Configuration` (model, prompt, pace, fallback, ...).
        beam_args: for every stage.
    """

    workspace_path: str
    feature_repo: str = "feature_repo"
    videos: str = ""
    roots: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    annotator: str | None = None
    recording: str = ""
    call_log: str = ""
    golden_folder: str = ""
    online_store: str | None = None
    priority: str = ""
    each_duplicate: bool = False
    model_flags: Mapping[str, Any] = field(default_factory=dict)
    beam_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_beam_args(self.beam_args)
        # Libraries warn of everything they guess; Beam logs, with a trace, every error that it then raises to us.
        for name in ("absl", "tensorflow", "feast", "google"):
            logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)

    @cached_property
    def workspace(self) -> Workspace:
        return Workspace(self.workspace_path)

    @cached_property
    def configuration(self) -> Configuration:
        flags: dict[str, Any] = {
            "annotator": self.annotator,
            "recording": self.recording or None,
            "online_store": self.online_store,
            "duplicates": False if self.each_duplicate else None,
        }
        return load_configuration(self.workspace, **flags, **self.model_flags)

    @cached_property
    def definitions(self) -> tuple[AttributeDefinition, ...]:
        """All definitions of the repository. Raises InvalidInput with every problem found."""
        return load_definitions(os.path.join(self.feature_repo, "attributes"))

    @cached_property
    def asked(self) -> tuple[AttributeDefinition, ...]:
        """The definitions that are asked about. Raises InvalidInput for an unknown --attribute."""
        known = {definition.name: definition for definition in self.definitions}
        for name in self.attributes:
            if name not in known:
                raise InvalidInput(
                    f"{name!r} is no attribute of {self.feature_repo}: known are {', '.join(sorted(known)) or 'none'}"
                )
        return tuple(known[name] for name in self.attributes) or self.definitions

    @cached_property
    def golden(self) -> tuple[Annotation, ...]:
        """The Golden Set's labels of the attributes that are asked about."""
        names = {definition.name for definition in self.asked}
        folder = self.golden_folder or os.path.join(self.feature_repo, "golden")
        if self.golden_folder and not os.path.isdir(folder):
            raise InvalidInput(f"--golden {folder!r} is no folder: name one that holds *.csv files of ratings")
        labels = golden_annotations(folder, self.definitions, datetime.now(UTC))
        return tuple(label for label in labels if label.attribute in names)

    @cached_property
    def manifest(self) -> ManifestReport:
        """The manifest, read through once. Raises InvalidInput when it cannot be read or repeats an id."""
        return load_manifest(self.videos, self.roots)

    def extract(self, retry_failed: bool, quiet: bool) -> RunRecord:
        """Runs the first stage."""
        from pipelines import extract
        from pipelines.encoders import encoders_of

        settings = self.configuration
        config = extract.ExtractConfig(
            self.workspace,
            self.videos,
            self.roots,
            retry_failed,
            encoders_of(settings, self.definitions if settings.parts == "evidence" else ()),
            settings.limits,
            settings.workers,
            header=self._header(),
        )
        with self._progress("extract", self.manifest.rows, quiet):
            return extract.run(config, self.beam_args)

    @cached_property
    def annotator_config(self) -> AnnotatorConfig:
        """Who is asked. Raises InvalidInput for an unknown annotator, or one that lacks its recording."""
        from pipelines.annotators import configured

        return configured(self.configuration, self.asked, self.call_log)

    def check(self) -> None:
        """Reads everything that a whole run needs beside videos, so that a mistake costs no extraction.

        Raises:
            InvalidInput: a definition, the Golden Set, a setting, a Beam option or the recording is wrong.
        """
        from pipelines.annotators import build_annotator
        from pipelines.options import beam_options

        beam_options(self.beam_args)
        config = self.annotator_config
        for each in (config, config.fallback):
            if each is not None and each.kind != "baseline":  # which reads weights, and nothing that can be wrong
                _ = build_annotator(replace(each, fallback=None), self.workspace, store=False).identity
        _ = self.golden

    def find_duplicates(self, quiet: bool) -> RunRecord:
        """Groups near-duplicates, between the first and the second stage."""
        from pipelines import duplicates

        config = duplicates.DuplicatesConfig(self.workspace, header=self._header())
        with self._progress(duplicates.STAGE, 0, quiet):
            return duplicates.run(config, self.beam_args)

    def annotate(self, quiet: bool, without_failures_of: str = "", **how: Any) -> RunRecord:
        """Runs the second stage.

        Args:
            quiet: show no progress.
            without_failures_of: leave out the videos that this extract run did not get through.
            how: further fields of `pipelines.planning.AnnotateConfig`: retry_failed, only_failed, kinds, ...
        """
        from pipelines import annotate

        config = self.annotate_config(without_failures_of=without_failures_of, **how)
        with self._progress("annotate", 0, quiet):
            return annotate.run(config, self.beam_args)

    def forecast(self, batch: bool, **how: Any) -> dict[str, Any]:
        """What the second stage would ask and take; nobody is asked. Takes what `annotate` takes."""
        from pipelines import annotate

        return annotate.dry_run(self.annotate_config(**how), batch, self.beam_args)

    def annotate_config(self, **how: Any) -> AnnotateConfig:
        """What the second stage asks whom."""
        from pipelines.planning import AnnotateConfig

        if self.videos:
            _ = self.manifest  # refuses what cannot be read, or repeats an id
        if self.priority:
            _ = load_manifest(self.priority, self.roots)
        config = self.annotator_config
        if "patience_s" in how:
            config = replace(config, patience_s=how.pop("patience_s"))
        how.setdefault("header", self._header(self._told()))
        how.setdefault("duplicates", self.configuration.duplicates)
        return AnnotateConfig(self.workspace, self.asked, config, self.golden, self.priority or self.videos, self.roots, **how)

    def _told(self) -> dict[str, Any]:
        """Of the annotator, for a run record."""
        config, settings = self.annotator_config, self.configuration
        told: dict[str, Any] = {"annotator": config.kind}
        if config.asks_model:
            told |= {
                "model": settings.model.name or DEFAULT_MODEL[config.kind],
                "base_url": settings.model.base_url,
                "ask": settings.prompt.ask,
            }
            told |= {"max_cost": settings.pace.max_cost, "max_tokens": settings.pace.max_tokens}
        if config.fallback is not None:
            told |= {"fallback": config.fallback.kind, "fallback_model": config.fallback.model.name}
        return {name: value for name, value in told.items() if value}

    def distill(self, quiet: bool) -> RunRecord:
        """Runs the third stage."""
        from pipelines import distill

        config = distill.DistillConfig(self.workspace, self.definitions, header=self._header())
        with self._progress("distill", 0, quiet):
            return distill.run(config, self.beam_args)

    def score(self, quiet: bool) -> RunRecord:
        """Runs the fourth stage."""
        from pipelines import score

        config = score.ScoreConfig(self.workspace, definitions=self.definitions, header=self._header())
        with self._progress("score", 0, quiet):
            return score.run(config, self.beam_args)

    def materialize(self, quiet: bool) -> RunRecord:
        """Runs the fifth stage."""
        from pipelines import materialize

        config = materialize.MaterializeConfig(
            self.workspace, self.definitions, self.configuration.online_store, header=self._header()
        )
        with self._progress("materialize", 0, quiet):
            return materialize.run(config, self.beam_args)

    def _header(self, told: Mapping[str, Any] | None = None) -> Any:
        from pipelines.options import RunHeader, beam_options, library_versions

        beam_options(self.beam_args)
        arguments = {"feature_repo": os.path.abspath(self.feature_repo), "videos": self.videos, **(told or {})}
        arguments["beam"] = list(self.beam_args)
        return RunHeader(arguments={name: value for name, value in arguments.items() if value}, versions=library_versions())

    def _progress(self, stage: str, total: int, quiet: bool) -> Any:
        from pipelines.counters import live

        live.clear(stage)
        return terminal.progress(stage, total, lambda: live.of(stage), quiet, live.trouble)


def dead_letter_kinds(record: RunRecord) -> dict[str, int]:
    """How many dead letters of each kind a run had."""
    return {name[5:]: number for name, number in record.details.items() if name.startswith("kind/")}


def dead_letters(workspace: Workspace, records: Sequence[RunRecord]) -> Iterator[Failure]:
    """The dead letters that these runs wrote, and no others."""
    for relative in dict.fromkeys(path for record in records for path in record.files.get("failures", ())):
        yield from from_table(read_parquet(workspace.path(relative)), Failure)


def pending_reasons(record: RunRecord) -> list[str]:
    """Why a run left something undone, a sentence each."""
    mark = "detail/pending: "
    return [
        f"{record.stage}: {number} pending: {name.removeprefix(mark)}"
        for name, number in record.details.items()
        if name.startswith(mark)
    ]


def where_the_time_went(record: RunRecord) -> list[str]:
    """A sentence on which parts of extraction took the workers' time, largest first; none where hardly any was taken."""
    busy = {name.removeprefix("busy: "): seconds for name, seconds in record.timings.items() if name.startswith("busy: ")}
    whole = sum(busy.values())
    if whole < 1:
        return []
    largest = sorted(busy.items(), key=lambda item: -item[1])
    return [f"{whole:.0f} s of work: " + ", ".join(f"{name} {part / whole:.0%}" for name, part in largest if part >= whole / 100)]


def spent_and_forecast(record: RunRecord) -> list[str]:
    """What a run paid for, beside what it was expected to; nothing where nobody was paid."""
    if not record.input_tokens and not record.forecast:
        return []
    cached = f" ({record.cached_input_tokens:,} cached)" if record.cached_input_tokens else ""
    paid = f"paid: {record.input_tokens:,} input tokens{cached}, {record.output_tokens:,} output, ${record.cost_usd:,.4f}"
    told = record.forecast
    if not told:
        return [paid]
    return [paid, f"forecast: {told['input_tokens']:,} input, {told['output_tokens']:,} output, ${told['cost_usd']:,.4f}"]


def exit_code(record: RunRecord) -> int:
    """0 when something was done, 130 when it was stopped, and 1 when nothing was: all dead-lettered, or all left pending.

    Materialisation is also a failure when a part is pending, since the online store then serves old values.
    """
    if stopping.requested():
        return 130
    counts = record.counts
    if record.stage == "materialize" and counts.pending:
        return 1
    return int(counts.into > 0 and counts.annotated == 0)


def newest(records: Sequence[RunRecord]) -> RunRecord:
    """The run that ended last. Ids sort by start, so the last stage of a whole run would come after the run itself."""
    return max(records, key=lambda record: (record.finished_at, record.stage == "run"))
