"""A stage as a Dataflow job, before it exists: what was asked, whether it can work, what it would do, with which options.

Nothing in here imports Beam or asks a server, `access` excepted, so a mistake in a flag is told at once.
"""

from __future__ import annotations

import os
import re
import shlex
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from features import storage
from features.errors import InvalidInput
from features.workspace import new_run_id
from pipelines.beam_args import FOR_A_JOB, option_name, refusal
from pipelines.launch_annotate import annotate_checks, annotate_sentences, vcpus
from pipelines.launch_check import Check

if TYPE_CHECKING:
    from features.attributes.definition import AttributeDefinition
    from features.records import Annotation
    from pipelines.annotators import AnnotatorConfig
    from pipelines.configuration import Configuration

Stage = Literal["extract", "annotate", "distill", "score", "materialize"]
LAUNCHABLE: tuple[Stage, ...] = ("extract", "annotate", "score")
HERE_ONLY: Mapping[str, str] = {
    "distill": "distill trains one small student in one process, and more workers would not make it faster",
    "materialize": "materialize writes the feature store's registry, a sqlite file that needs one machine's disk",
}
"""Stages that stay on one machine, and why."""

SOURCE = Path(__file__).resolve().parent.parent
"""The folder with setup.py, where there is one."""
WORKER_THREADS = 1
"""Python processes on Dataflow run one a vCPU; each thread of one would hold the models once more."""
ACCESS_TIMEOUT_S = 20.0

_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")  # cloud.google.com/storage/docs/buckets#naming
_PROJECT = re.compile(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")  # cloud.google.com/resource-manager/docs
_REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")
_LABEL = re.compile(r"[a-z][a-z0-9_-]{0,62}(=[a-z0-9_-]{0,63})?")  # cloud.google.com/compute/docs/labeling-resources
_JOB = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_MACHINE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")
_OURS: Mapping[str, str] = {
    "runner": "it is DataflowRunner; for another runner, pass it to the stage itself: vidattr extract ... -- --runner=NAME",
    "dry_run": "write --dry-run before the --; Beam takes even --dry_run=False for true",
    "project": "write --project before the --",
    "region": "write --region before the --",
    "job_name": "write --job-name before the --",
    "temp_location": "it follows from --bucket",
    "staging_location": "it follows from --bucket",
    "machine_type": "write --machine-type before the --",
    "worker_machine_type": "write --machine-type before the --",
    "num_workers": "write --num-workers before the --",
    "max_num_workers": "write --max-workers before the --",
    "sdk_container_image": "write --container before the --",
    "worker_harness_container_image": "write --container before the --",
    "service_account_email": "write --service-account before the --",
    "network": "write --network before the --",
    "subnetwork": "write --subnetwork before the --",
    "label": "write --label before the --",
    "labels": "write --label before the --",
    "setup_file": "it is this project's own setup.py",
    "save_main_session": "everything the workers need comes with setup.py",
    "no_save_main_session": "it is set already",
    "template_location": "it would write a template and start no job",
}
"""Beam options that `launch` sets itself, and what to write instead."""


@dataclass(frozen=True)
class LaunchConfig:
    """One job, before it exists.

    Attributes:
        stage: which one.
        project, region: of Google Cloud, such as `my-project` and `europe-west1`.
        bucket: gs://NAME or NAME, for staging and temporary files, and for the workspace unless that is given.
        videos: manifest, folder or glob on gs://, for extract; for annotate only these, empty: all with features.
        roots: further gs:// folders that uris of the manifest may lie in.
        retry_failed: see `ExtractConfig` and `AnnotateConfig`.
        workspace: gs://...; default gs://BUCKET/vidattr.
        container: image with this project's dependencies and weights (deploy/Dockerfile); empty: Beam's own, and the workers
            install everything when they start.
        machine_type: of a worker.
        max_workers: most workers at the same time.
        num_workers: how many to begin with; 0: Dataflow decides.
        service_account: that the workers act as; empty: the project's default one.
        network, subnetwork: of the workers; empty: the default one.
        job_name: default vidattr-STAGE-RUN.
        labels: `name=value`, beside the job's own two.
        beam_args: any other Beam option, as --name=value.
        definitions: the current ones for score, see `ScoreConfig`; what is asked for annotate.
        golden: the Golden Set's labels, for annotate.
        annotator: who is asked, for annotate; its quotas and caps are those of the whole job.
        settings: of `vidattr.yaml`, for extract and annotate; None: the defaults.
        run_id: of the run record that the job will write.
    """

    stage: Stage
    project: str
    region: str
    bucket: str
    videos: str = ""
    roots: tuple[str, ...] = ()
    retry_failed: bool = False
    workspace: str = ""
    container: str = ""
    machine_type: str = "e2-standard-4"
    max_workers: int = 10
    num_workers: int = 0
    service_account: str = ""
    network: str = ""
    subnetwork: str = ""
    job_name: str = ""
    labels: tuple[str, ...] = ()
    beam_args: tuple[str, ...] = ()
    definitions: tuple[AttributeDefinition, ...] = ()
    golden: tuple[Annotation, ...] = ()
    annotator: AnnotatorConfig | None = None
    settings: Configuration | None = None
    run_id: str = field(default_factory=new_run_id)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bucket", self.bucket.removeprefix("gs://").rstrip("/"))
        object.__setattr__(self, "workspace", (self.workspace or f"gs://{self.bucket}/vidattr").rstrip("/"))
        object.__setattr__(self, "job_name", self.job_name or f"vidattr-{self.stage}-{_plain(self.run_id)}")

    @property
    def setup_file(self) -> str:
        """Absolute path of the setup.py that brings the code to the workers; empty where vidattr was installed from a wheel."""
        path = SOURCE / "setup.py"
        return str(path) if path.is_file() else ""


@dataclass(frozen=True)
class Plan:
    """What a job will do, in words. `reads` and `writes` are places on gs://."""

    sentences: tuple[str, ...]
    reads: tuple[str, ...]
    writes: tuple[str, ...]


def checks(config: LaunchConfig) -> list[Check]:
    """Everything that can be known without asking anybody; see `access` for the rest."""
    return [*place_checks(config), *(annotate_checks(config) if config.stage == "annotate" else ())]


def place_checks(config: LaunchConfig) -> list[Check]:
    """Of `checks`, those that need neither an annotator nor a setting of the workspace."""
    return [
        _stage_check(config),
        _form(
            "project",
            config.project,
            _PROJECT,
            "a project id",
            "pass --project with its id, not its name or number",
        ),
        _form("region", config.region, _REGION, "a region", "pass --region with a name such as europe-west1"),
        _form("bucket", config.bucket, _BUCKET, "a bucket", "pass --bucket gs://NAME, without a folder behind it"),
        _remote("workspace", config.workspace, "workers share no disk", "pass --workspace gs://BUCKET/FOLDER, or leave it out"),
        *_places(config),
        _form(
            "machine type",
            config.machine_type,
            _MACHINE,
            "a machine type",
            "pass --machine-type, such as e2-standard-4",
        ),
        _workers_check(config),
        _form("job name", config.job_name, _JOB, "a job name", "use a letter, then up to 62 of a-z, 0-9 and -, no - at the end"),
        *(_form("label", label, _LABEL, "a label", "write name=value in a-z, 0-9, _ and -") for label in config.labels),
        *(_option_check(argument) for argument in config.beam_args),
        _code_check(config),
        _container_check(config),
    ]


def access(config: LaunchConfig) -> list[Check]:
    """Whether Google knows us and the bucket is there. Asks Google, for ACCESS_TIMEOUT_S at most."""
    remedy = "run gcloud auth application-default login, or set GOOGLE_APPLICATION_CREDENTIALS to a service account's file"
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if named and not os.path.isfile(named):
        return [Check("credentials", "failed", f"GOOGLE_APPLICATION_CREDENTIALS names {named}, which is no file", remedy)]
    found: list[Check] = []
    asking = threading.Thread(target=lambda: found.extend(_ask_google(config, remedy)), daemon=True)
    asking.start()
    asking.join(ACCESS_TIMEOUT_S)
    late = f"Google did not answer within {ACCESS_TIMEOUT_S:g} s"
    return found or [Check("credentials", "failed", late, f"check the network, or {remedy}")]


def _ask_google(config: LaunchConfig, remedy: str) -> list[Check]:
    import google.auth
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError
    from google.cloud import storage as gcs

    try:
        allowed, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
        bucket = gcs.Client(config.project, allowed).lookup_bucket(config.bucket, timeout=ACCESS_TIMEOUT_S / 2, retry=None)
    except exceptions.Forbidden:
        mine = "let somebody grant you roles/storage.objectAdmin and roles/storage.legacyBucketReader on it"
        return [Check("access", "failed", f"gs://{config.bucket} may not be read", mine)]
    except exceptions.GoogleAPICallError as error:
        return [Check("access", "failed", f"gs://{config.bucket} cannot be reached ({_brief(error)})", "try again")]
    except (GoogleAuthError, OSError, ValueError) as error:
        return [Check("credentials", "failed", f"no Google credentials that work ({_brief(error)})", remedy)]
    if bucket is None:
        create = f"gcloud storage buckets create gs://{config.bucket} --project {config.project} --location {config.region}"
        return [Check("access", "failed", f"there is no bucket gs://{config.bucket}", f"name another --bucket, or {create}")]
    return [Check("credentials", "ok", "credentials found"), Check("access", "ok", f"gs://{config.bucket} is there")]


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def require(found: list[Check]) -> None:
    """Raises InvalidInput with every failed check and its remedy."""
    failed = [f"{check.sentence}: {check.remedy}" for check in found if check.state == "failed"]
    if failed:
        raise InvalidInput("\n".join(failed))


def plan(config: LaunchConfig) -> Plan:
    """What the job will do, in sentences a person can say yes or no to."""
    place = config.workspace
    reads = {
        "extract": (config.videos, "every video that it names", f"{place}/runs", f"{place}/features", f"{place}/failures"),
        "annotate": (
            *((config.videos,) if config.videos else ()),
            *(f"{place}/{table}" for table in ("runs", "features", "duplicates", "annotations", "failures", "batches")),
            f"{place}/apart.csv",
        ),
        "score": tuple(f"{place}/{table}" for table in ("runs", "features", "annotations", "students")),
    }.get(config.stage, ())
    tables = ("features" if config.stage == "extract" else "annotations", "failures")
    writes = (
        *(f"{place}/{table}/{config.run_id}/" for table in tables),
        f"{place}/runs/{config.run_id}.json",
        f"{scratch(config)}/",
    )
    cores = vcpus(config.machine_type)
    most = f", {cores * config.max_workers} vCPUs in all" if cores else ""
    asks = config.stage == "annotate"
    begin = f"{config.num_workers} at the start and " if config.num_workers else ""
    account = f" as {config.service_account}" if config.service_account else ""
    sentences = (
        f"Dataflow runs {config.stage} as job {config.job_name} in project {config.project}, region {config.region}.",
        f"Workers: {begin}at most {config.max_workers} of type {config.machine_type}{most}{account}.",
        f"Container: {config.container}, with what it holds; only this project's code is added."
        if config.container
        else "Container: Beam's own. Each worker first installs all dependencies from the package index, which takes minutes; "
        "an image built from deploy/Dockerfile starts without that, with pinned versions and the model weights.",
        f"Reads {', '.join(reads)}.",
        f"Writes {', '.join(writes)}.",
        *(annotate_sentences(config) if asks else ()),
        "Cost: Dataflow bills vCPUs, memory and disk by the second while workers run; prices by region stand at "
        f"cloud.google.com/dataflow/pricing. {'' if asks else 'This stage pays for no model. '}Storage and what leaves the region "
        "come on top: keep bucket, videos and workers in one region.",
    )
    return Plan(sentences, reads, writes)


def options(config: LaunchConfig, setup_file: str | None = None) -> list[str]:
    """The flags of Beam's `PipelineOptions`.

    Args:
        setup_file: another copy of setup.py than `config.setup_file`.
    """
    given = {option_name(argument) for argument in config.beam_args}
    single = {
        "runner": "DataflowRunner",
        "project": config.project,
        "region": config.region,
        "job_name": config.job_name,
        "temp_location": f"{scratch(config)}/temp",
        "staging_location": f"{scratch(config)}/staging",
        "machine_type": config.machine_type,
        "max_num_workers": config.max_workers,
        "num_workers": config.num_workers,
        "sdk_container_image": config.container,
        "service_account_email": config.service_account,
        "network": config.network,
        "subnetwork": config.subnetwork,
        "setup_file": config.setup_file if setup_file is None else setup_file,
        "number_of_worker_harness_threads": "" if "number_of_worker_harness_threads" in given else WORKER_THREADS,
    }
    labels = (f"vidattr-stage={config.stage}", f"vidattr-run={_plain(config.run_id)}", *config.labels)
    return [
        *(f"--{name}={value}" for name, value in single.items() if value),
        *(f"--labels={label}" for label in labels),
        "--no_save_main_session",  # workers import everything; the command's own module is nothing to send them
        "--experiments=disable_logging_submission_environment",  # it would upload this machine's paths and package list
        *config.beam_args,
    ]


def scratch(config: LaunchConfig) -> str:
    """Where Dataflow's temporary and staged files go."""
    return f"gs://{config.bucket}/vidattr-dataflow"


def _plain(run_id: str) -> str:
    """A run's id as job names and labels allow it: 20261125t022309-1f3a9c."""
    return re.sub(r"\.\d+z", "", run_id.lower())


def _form(name: str, value: str, rule: re.Pattern[str], kind: str, remedy: str) -> Check:
    if rule.fullmatch(value):
        return Check(name, "ok", f"{name} {value}")
    return Check(name, "failed", f"{value!r} is not {kind}" if value else f"no {name} given", remedy)


def _remote(name: str, value: str, why: str, remedy: str) -> Check:
    if storage.is_gcs(value):
        return Check(name, "ok", f"{name} {value}")
    return Check(name, "failed", f"the {name} {value!r} is not on gs://, and {why}" if value else f"no {name} given", remedy)


def _places(config: LaunchConfig) -> Iterator[Check]:
    if config.stage not in ("extract", "annotate"):
        return
    if config.videos or config.stage == "extract":
        yield _remote(
            "videos",
            config.videos,
            "workers cannot read this machine's files",
            "copy them to the bucket and pass --videos gs://...",
        )
    for root in config.roots:
        yield _remote("root", root, "workers cannot read this machine's files", "pass --root gs://...")


def _stage_check(config: LaunchConfig) -> Check:
    if config.stage in LAUNCHABLE:
        return Check("stage", "ok", f"stage {config.stage}")
    if config.stage in HERE_ONLY:
        where = config.workspace if config.stage == "distill" else "FOLDER"
        remedy = f"run it on one machine: vidattr {config.stage} --workspace {shlex.quote(where)} (docs/dataflow.md says how)"
        return Check("stage", "failed", HERE_ONLY[config.stage], remedy)
    return Check("stage", "failed", f"{config.stage!r} is no stage", f"choose {' or '.join(LAUNCHABLE)}")


def _workers_check(config: LaunchConfig) -> Check:
    if config.max_workers >= 1 and 0 <= config.num_workers <= config.max_workers:
        return Check("workers", "ok", f"at most {config.max_workers} workers")
    found = f"{config.num_workers} workers at the start and {config.max_workers} at most do not go together"
    return Check("workers", "failed", found, "pass --max-workers of 1 or more, and no more --num-workers than that")


def _option_check(argument: str) -> Check:
    """Refuses what is no option, what `launch` sets itself, and what looks like a secret, whose value is not repeated."""
    name, refused = option_name(argument), refusal(argument, FOR_A_JOB)
    if refused:
        return Check("beam option", "failed", refused.sentence, refused.remedy)
    if name in _OURS:
        return Check("beam option", "failed", f"--{name} is set by launch", _OURS[name])
    return Check("beam option", "ok", argument)


def _code_check(config: LaunchConfig) -> Check:
    if config.setup_file:
        return Check("code", "ok", f"{config.setup_file} brings the code to the workers")
    if config.container:
        return Check("code", "ok", f"no setup.py beside the installed package: the code is the one in {config.container}")
    remedy = "pass --container with an image built from deploy/Dockerfile, or launch from a checkout of the project"
    return Check("code", "failed", "vidattr is installed from a wheel, without a setup.py to bring the code to workers", remedy)


def _container_check(config: LaunchConfig) -> Check:
    remedy = "build deploy/Dockerfile, push it, and pass --container IMAGE"
    if config.container:
        return Check("container", "ok", f"container {config.container}")
    if config.stage == "annotate":
        found = "no --container: on Dataflow annotate keeps its answers in Redis, and Beam's own image has no Redis client"
        return Check("container", "failed", found, remedy)
    found = "no --container: workers start slowly"
    weights = config.settings.weights if config.settings else None
    if config.stage == "extract" and not all(weights and weights.location(name) for name in ("text", "visual", "labels")):
        found += " and have no model weights, without which extraction fails"
    return Check("container", "warning", found, remedy)
