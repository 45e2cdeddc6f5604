"""Which runner a stage runs on, and what every stage's run has in common."""

from __future__ import annotations

import difflib
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from features.errors import InvalidInput
from features.workspace import Workspace, new_run_id
from pipelines.beam_args import check_beam_args

LOCAL_RUNNERS = (None, "", "DirectRunner", "FnApiRunner")
WITH_JOB_SERVER = ("PortableRunner", "FlinkRunner", "SparkRunner")
"""Runners whose job servers know options that Beam here does not."""


@dataclass(frozen=True)
class RunHeader:
    """What is known of a run before it starts.

    Attributes:
        run_id: see `features.workspace.new_run_id`.
        started_at: UTC.
        arguments: for the run record, without secrets.
        versions: of what decides the result.
    """

    run_id: str = field(default_factory=new_run_id)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    arguments: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)


def library_versions(*names: str) -> dict[str, str]:
    """Versions of installed distributions and of Python, for a run record; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for name in ("vidattr", "apache-beam", *names):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def beam_options(beam_args: Sequence[str]) -> PipelineOptions:
    """The user's Beam options.

    Raises:
        InvalidInput: something is no option, looks like a secret, is refused by Beam, or is unknown to it.
    """
    check_beam_args(beam_args)
    return parsed_options(beam_args, beam_args)


def parsed_options(arguments: Sequence[str], given: Sequence[str]) -> PipelineOptions:
    """Options as Beam reads them. Raises InvalidInput, naming those that the user gave, for what Beam refuses or does not know."""
    try:
        options = PipelineOptions(list(arguments))
        options.get_all_options()
    except SystemExit as error:
        raise InvalidInput(f"Beam refuses the options after --: {' '.join(given)}") from error
    if options.view_as(StandardOptions).runner not in WITH_JOB_SERVER:
        refuse_unknown(options)
    return options


def refuse_unknown(options: PipelineOptions) -> None:
    """Raises InvalidInput for an option that Beam does not know, which it would leave out silently, with the nearest it knows."""
    known = options.get_all_options()
    unknown = options.get_all_options(drop_default=True, retain_unknown_options=True).keys() - known.keys()
    if unknown:
        near = difflib.get_close_matches(min(unknown), known, 1)
        raise InvalidInput(f"Beam has no option --{min(unknown)}" + (f"; did you mean --{near[0]}?" if near else "; leave it out"))


def make_pipeline(beam_args: Sequence[str] = ()) -> beam.Pipeline:
    """A pipeline with the user's Beam options, on the pinned FnApiRunner unless they name another runner.

    Beam's default runner is chosen by the shape of the graph and may download one, or retry what has side effects.
    Raises InvalidInput as `beam_options` does.
    """
    options = beam_options(beam_args)
    local = options.view_as(StandardOptions).runner in LOCAL_RUNNERS
    return beam.Pipeline(runner=FnApiRunner(), options=options) if local else beam.Pipeline(options=options)


def check_place(workspace: Workspace, local: Sequence[str]) -> None:
    """Fails now rather than in an hour: the workspace is writable, and what only a local disk can hold has one."""
    workspace.check_writable()
    for name in local:
        workspace.local_path(name)
