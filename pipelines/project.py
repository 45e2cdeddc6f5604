"""A workspace and a feature repository together: reads the settings once and runs any stage here, with progress."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True)
class Project:
    """What the flags of a command said; everything else comes from `vidattr.yaml` and the feature repository.

    Attributes:
        workspace_path, feature_repo: where.
        videos, roots: manifest, folder or glob, and where its uris may lie.
        attributes: ask only about these; empty: all.
        annotator, recording, call_log, golden_folder, online_store: flags, None or empty for the configured ones.
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
        return load_configuration(
            self.workspace, annotator=self.annotator, recording=self.recording or None, online_store=self.online_store
        )

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
        from pipelines.encoders import EncoderConfig

        settings = self.configuration
        config = extract.ExtractConfig(
            self.workspace,
            self.videos,
            self.roots,
            retry_failed,
            EncoderConfig(weights=settings.weights, speech=settings.speech),
            settings.limits,
            settings.workers,
            header=self._header(),
        )
        with self._progress("extract", self.manifest.rows, quiet):
            return extract.run(config, self.beam_args)

    @cached_property
    def annotator_config(self) -> AnnotatorConfig:
        """Who is asked. Raises InvalidInput for an unknown annotator, or one that lacks its recording."""
        from pipelines.annotators import AnnotatorConfig

        settings = self.configuration
        return AnnotatorConfig(settings.annotator, settings.recording, self.call_log, weights=settings.weights)

    def check(self) -> None:
        """Reads everything that a whole run needs beside videos, so that a mistake costs no extraction.

        Raises:
            InvalidInput: a definition, the Golden Set, a setting, a Beam option or the recording is wrong.
        """
        from pipelines.annotators import build_annotator
        from pipelines.options import beam_options

        beam_options(self.beam_args)
        if self.annotator_config.kind == "replay":
            _ = build_annotator(self.annotator_config, self.workspace, store=False).identity  # reads the recording
        _ = self.golden

    def annotate(self, quiet: bool, without_failures_of: str = "", retry_failed: bool = False) -> RunRecord:
        """Runs the second stage.

        Args:
            quiet: show no progress.
            without_failures_of: leave out the videos that this extract run did not get through.
            retry_failed: ask again what was refused before although nothing about it changed.
        """
        from pipelines import annotate

        if self.videos:
            _ = self.manifest  # refuses what cannot be read, or repeats an id
        config = annotate.AnnotateConfig(
            self.workspace,
            self.asked,
            self.annotator_config,
            self.golden,
            self.videos,
            self.roots,
            self.configuration.in_flight,
            header=self._header(),
            retry_failed=retry_failed,
            without_failures_of=without_failures_of,
        )
        with self._progress("annotate", 0, quiet):
            return annotate.run(config, self.beam_args)

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

    def _header(self) -> Any:
        from pipelines.options import RunHeader, beam_options, library_versions

        beam_options(self.beam_args)
        arguments = {"feature_repo": os.path.abspath(self.feature_repo), "videos": self.videos, "beam": list(self.beam_args)}
        return RunHeader(arguments={name: value for name, value in arguments.items() if value}, versions=library_versions())

    def _progress(self, stage: str, total: int, quiet: bool) -> Any:
        from pipelines.counters import live

        live.clear(stage)
        return terminal.progress(stage, total, lambda: live.of(stage), quiet)


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
