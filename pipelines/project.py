"""A workspace and a feature repository together: reads the settings once and runs any stage here, with progress."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from features.attributes.definition import AttributeDefinition
from features.attributes.golden import golden_annotations
from features.attributes.loading import load_definitions
from features.errors import InvalidInput
from features.records import Annotation, RunRecord
from features.videos.manifest import ManifestReport, load_manifest
from features.workspace import Workspace
from pipelines import stopping, terminal
from pipelines.configuration import Configuration, load_configuration

STAGES = ("extract", "annotate", "distill", "score", "materialize")


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
    _cache: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        # Beam warns of everything it guesses and logs, with a trace, every error that it then raises to us.
        logging.getLogger().setLevel(logging.ERROR)
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
            self._header("extract"),
        )
        with self._progress("extract", self.manifest.rows, quiet):
            return extract.run(config, self.beam_args)

    def annotate(self, quiet: bool) -> RunRecord:
        """Runs the second stage."""
        from pipelines import annotate
        from pipelines.annotators import AnnotatorConfig

        settings = self.configuration
        if self.videos:
            load_manifest(self.videos, self.roots)
        config = annotate.AnnotateConfig(
            self.workspace,
            self.asked,
            AnnotatorConfig(settings.annotator, settings.recording, self.call_log, weights=settings.weights),
            self.golden,
            self.videos,
            self.roots,
            settings.in_flight,
            self._header("annotate"),
        )
        with self._progress("annotate", 0, quiet):
            return annotate.run(config, self.beam_args)

    def distill(self, quiet: bool) -> RunRecord:
        """Runs the third stage."""
        from pipelines import distill

        config = distill.DistillConfig(self.workspace, self.definitions, header=self._header("distill"))
        with self._progress("distill", 0, quiet):
            return distill.run(config, self.beam_args)

    def score(self, quiet: bool) -> RunRecord:
        """Runs the fourth stage."""
        from pipelines import score

        config = score.ScoreConfig(self.workspace, definitions=self.definitions, header=self._header("score"))
        with self._progress("score", 0, quiet):
            return score.run(config, self.beam_args)

    def materialize(self, quiet: bool) -> RunRecord:
        """Runs the fifth stage."""
        from pipelines import materialize

        config = materialize.MaterializeConfig(
            self.workspace, self.definitions, self.configuration.online_store, header=self._header("materialize")
        )
        with self._progress("materialize", 0, quiet):
            return materialize.run(config, self.beam_args)

    def _header(self, stage: str) -> Any:
        from pipelines.options import RunHeader, library_versions

        arguments = {"feature_repo": os.path.abspath(self.feature_repo), "videos": self.videos, "beam": list(self.beam_args)}
        return RunHeader(arguments={name: value for name, value in arguments.items() if value}, versions=library_versions())

    def _progress(self, stage: str, total: int, quiet: bool) -> Any:
        from pipelines.counters import live

        live.clear(stage)
        return terminal.progress(stage, total, lambda: live.of(stage), quiet)


def dead_letter_kinds(record: RunRecord) -> dict[str, int]:
    """How many dead letters of each kind a run had."""
    return {name[5:]: number for name, number in record.details.items() if name.startswith("kind/")}


def exit_code(record: RunRecord) -> int:
    """0 when anything was done, 1 when everything became a dead letter, 130 when it was stopped."""
    if stopping.requested():
        return 130
    return int(record.counts.into > 0 and record.counts.dead_lettered == record.counts.into)


def json_counts(record: RunRecord) -> Mapping[str, Any]:
    """`counts` and `pair_counts` of a record for a JSON document."""
    document = record.as_dict()
    return {"counts": document["counts"], "pair_counts": document["pair_counts"]}
