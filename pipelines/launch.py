"""Hands a stage to Dataflow: builds the job graph, stages the code, submits the job, and waits for it where asked to."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2 as api
from apache_beam.runners.dataflow.dataflow_runner import DataflowRuntimeException
from apache_beam.runners.dataflow.internal.apiclient import DataflowJobAlreadyExistsError
from google.api_core import exceptions

from features.errors import InvalidInput, Permanent, Transient
from features.records import RunRecord
from features.workspace import Workspace
from pipelines.configuration import Configuration
from pipelines.launch_annotate import check_prices, for_workers, told
from pipelines.launch_check import Check
from pipelines.launch_plan import SOURCE, LaunchConfig, Plan, access, checks, options, plan, require, scratch
from pipelines.options import RunHeader, library_versions, parsed_options

__all__ = [
    "Check",
    "Graph",
    "LaunchConfig",
    "LaunchedJob",
    "Plan",
    "access",
    "build_graph",
    "checks",
    "options",
    "plan",
    "require",
    "submit",
    "wait",
]

STAGED = ("setup.py", "pyproject.toml", "README.md", "features", "pipelines")
"""What `setup.py sdist` needs."""
ROWS_PER_FILE = 512
"""Features files of a job: few and large, since the service retries by itself and every file is named in the run record."""
EXPECTED = (ValueError, OSError, exceptions.GoogleAPICallError, DataflowJobAlreadyExistsError)
"""Errors that a sentence explains better than what was printed on the way."""


@dataclass(frozen=True)
class Graph:
    """What Dataflow would be sent.

    Attributes:
        steps: names of the top-level steps, in the order of the graph.
        options: Beam options that differ from their defaults.
        container: image that the workers run.
        staged: names of the files that go to the workers.
    """

    steps: tuple[str, ...]
    options: dict[str, Any]
    container: str
    staged: tuple[str, ...]


@dataclass(frozen=True)
class LaunchedJob:
    """A job that exists.

    Attributes:
        job_id, job_name, run_id: how Dataflow, a person and the workspace call it.
        console_url: where to watch it.
        follow: a command that tells its state.
        result: Beam's handle on it.
    """

    job_id: str
    job_name: str
    run_id: str
    console_url: str
    follow: str
    result: Any = field(compare=False, repr=False, default=None)


def build_graph(config: LaunchConfig) -> Graph:
    """Builds and validates the job without any network. Raises InvalidInput where a check fails or Beam refuses an option."""
    with _staged_source(config) as setup_file:
        job = _run(config, [*options(config, setup_file), "--dry_run=True"]).job
        parts = job.proto_pipeline.components
        environments = [environment for environment in parts.environments.values() if environment.payload]
        images = {api.DockerPayload.FromString(environment.payload).container_image for environment in environments}
        staged = {
            api.ArtifactStagingToRolePayload.FromString(file.role_payload).staged_name
            for environment in environments
            for file in environment.dependencies
        }
    roots = [parts.transforms[root] for root in job.proto_pipeline.root_transform_ids]
    steps = [parts.transforms[child].unique_name for root in roots for child in root.subtransforms]
    return Graph(tuple(steps), _effective(config), ", ".join(sorted(images)), tuple(sorted(staged)))


def submit(config: LaunchConfig) -> LaunchedJob:
    """Stages the code, starts the job and returns at once.

    Raises:
        InvalidInput: a check fails, or Beam refuses an option.
        Permanent: Google refuses: permissions, an API that is not enabled, a name that is taken.
        Transient: Google did not answer.
    """
    if config.stage == "annotate":
        check_prices(config)
    with _staged_source(config) as setup_file:
        try:
            result = _run(config, options(config, setup_file))
        except DataflowJobAlreadyExistsError as error:
            raise Permanent(f"{error} Pass another --job-name.", "job_exists") from error
        except exceptions.GoogleAPICallError as error:
            said = re.sub(r"^[A-Z]+ http\S+ ", "", str(error.message))
            if isinstance(error, exceptions.ServerError | exceptions.TooManyRequests):
                raise Transient(f"Dataflow did not take the job ({said}): run the same command again") from error
            raise Permanent(
                f"Dataflow refuses the job in {config.project}/{config.region} ({said}): check that the Dataflow API is "
                "enabled there and that you hold roles/dataflow.developer",
                "refused",
            ) from error
        except OSError as error:
            raise Permanent(
                f"{scratch(config)}: the code could not be staged ({' '.join(str(error).split())}): check that you hold "
                "roles/storage.objectAdmin on the bucket",
                "not_staged",
            ) from error
    job_id = str(result.job_id())
    where = f"--region {config.region} --project {config.project}"
    return LaunchedJob(
        job_id,
        config.job_name,
        config.run_id,
        f"https://console.cloud.google.com/dataflow/jobs/{config.region}/{job_id}?project={config.project}",
        f"gcloud dataflow jobs describe {job_id} {where}",
        result,
    )


def wait(job: LaunchedJob, workspace: Workspace) -> RunRecord:
    """Waits for the job's end and returns the run record it wrote.

    Raises Permanent when the job failed, was cancelled, or wrote no record.
    """
    try:
        job.result.wait_until_finish()
    except DataflowRuntimeException as error:
        said = str(error).partition("Error:\n")[2].strip()
        reason = "Dataflow gave no reason" if said in ("", "None") else said
        raise Permanent(
            f"job {job.job_id} ended as {job.result.state}: {reason}\nIts log: {job.console_url}", "job_failed"
        ) from error
    record = next((record for record in workspace.runs() if record.run_id == job.run_id), None)
    if record is None:
        raise Permanent(
            f"job {job.job_id} is done, but {workspace.path('runs', job.run_id)}.json is missing, so nothing of it counts: "
            "launch it again",
            "no_record",
        )
    return record


def _run(config: LaunchConfig, flags: list[str]) -> Any:
    require(checks(config))
    _effective(config)
    try:
        with _hushed():
            pipeline = beam.Pipeline(options=PipelineOptions(flags))
            _build(pipeline, config)
            return pipeline.run()
    except ValueError as error:
        raise InvalidInput(f"Beam refuses the job: {' '.join(str(error).split())}") from error


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keeps what setuptools and libraries print off the terminal and out of a JSON document; what nobody expects shows it."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    with tempfile.TemporaryFile() as said:
        try:
            for descriptor in kept:
                os.dup2(said.fileno(), descriptor)
            try:
                yield
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                for descriptor, before in kept.items():
                    os.dup2(before, descriptor)
                    os.close(before)
        except EXPECTED:
            raise
        except Exception:
            said.seek(0)
            sys.stderr.write(said.read().decode(errors="replace"))
            raise


def _build(pipeline: beam.Pipeline, config: LaunchConfig) -> None:
    """Wires the stage with a configuration made from the launch's."""
    settings, place = config.settings or Configuration(), Workspace(config.workspace)
    asked: dict[str, Any] = {"on": "dataflow", "job_name": config.job_name, "region": config.region, "videos": config.videos}
    if config.stage == "annotate":
        asked |= told(config)
    header = RunHeader(
        run_id=config.run_id, arguments={name: value for name, value in asked.items() if value}, versions=library_versions()
    )
    if config.stage == "extract":
        from pipelines import extract
        from pipelines.encoders import encoders_of

        extract.build(
            pipeline,
            extract.ExtractConfig(
                workspace=place,
                videos=config.videos,
                roots=config.roots,
                retry_failed=config.retry_failed,
                encoders=encoders_of(settings, config.definitions),
                limits=settings.limits,
                workers=settings.workers,
                rows_per_file=ROWS_PER_FILE,
                header=header,
            ),
        )
    elif config.stage == "annotate":
        from pipelines import annotate

        annotate.build(
            pipeline,
            annotate.told(
                annotate.AnnotateConfig(
                    place,
                    config.definitions,
                    for_workers(config),
                    config.golden,
                    config.videos,
                    config.roots,
                    config.retry_failed,
                    duplicates=settings.duplicates,
                    header=header,
                )
            ),
        )
    else:
        from pipelines import score

        score.build(pipeline, score.ScoreConfig(place, definitions=config.definitions, header=header))


def _effective(config: LaunchConfig) -> dict[str, Any]:
    """The options that differ from Beam's defaults. Raises InvalidInput for one that Beam does not know or cannot read."""
    return dict(sorted(parsed_options(options(config), config.beam_args).get_all_options(drop_default=True).items()))


@contextlib.contextmanager
def _staged_source(config: LaunchConfig) -> Iterator[str]:
    """A copy for `setup.py sdist`: the build leaves nothing in the source, and the job tells no home folder's path."""
    if not config.setup_file:
        yield ""
        return
    with tempfile.TemporaryDirectory(prefix="vidattr-launch-") as folder:
        for name in STAGED:
            source, target = SOURCE / name, os.path.join(folder, name)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            elif source.is_file():
                shutil.copyfile(source, target)
        yield os.path.join(folder, "setup.py")
