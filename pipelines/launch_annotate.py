"""What `annotate` needs on Dataflow beside what every stage needs: answers that all workers share, a model they reach, its key."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from features import storage
from features.annotators.http_replies import checked_address, is_loopback
from features.annotators.secrets import redacted
from features.annotators.settings import ModelSettings
from features.errors import InvalidInput
from pipelines.beam_args import refusal
from pipelines.launch_check import Check

if TYPE_CHECKING:
    from pipelines.annotators import AnnotatorConfig
    from pipelines.launch_plan import LaunchConfig

IN_ONE_FILE = (
    "annotate keeps every reply it pays for in one sqlite file before it does anything else, and workers share no disk: on "
    "Dataflow the same question could be paid for twice"
)
"""Why annotate stays on one machine unless its answers are in Redis."""
PASSWORD = "VIDATTR_REDIS_PASSWORD"
REDIS = ("redis", "rediss")
MOST_PROCESSES = 10_000
"""See `PaceSettings.workers`."""

_SHARED = (
    "keep the answers in Redis, which workers share: --answers redis://HOST:PORT, or answers: in the workspace's vidattr.yaml (a "
    "dry run does not read it); or run it on one machine: vidattr annotate --workspace FOLDER (docs/dataflow.md says how)"
)
_HOW_WORKERS_GET_IT = "let the image set it when a worker starts (docs/dataflow.md says how)"
_SECRET = "a job's graph is kept where others can read it, so secrets stay out of it"
_OPTION = re.compile(r"_(file|env|variable|name)$")
"""Names of a plugin's options that say where a secret is and are none."""


def vcpus(machine_type: str) -> int:
    """How many a machine type has, as its name tells; 0 where it does not.

    >>> [vcpus(name) for name in ("e2-standard-4", "n2-custom-6-8192", "c3-standard-8-lssd", "e2-medium", "a2-highgpu-1g")]
    [4, 6, 8, 2, 0]
    """
    if machine_type in ("e2-micro", "e2-small", "e2-medium"):
        return 2
    found = re.search(r"(?:^|-)custom-(\d+)-", machine_type) or re.search(r"-(\d+)(?:-lssd)?$", machine_type)
    return int(found[1]) if found else 0


def processes(config: LaunchConfig) -> int:
    """Processes that ask at the same time, at most: one a vCPU, unless `pace.workers` of vidattr.yaml says another number."""
    set_by_hand = config.annotator.pace.workers if config.annotator else 1
    return set_by_hand if set_by_hand > 1 else config.max_workers * vcpus(config.machine_type)


def for_workers(config: LaunchConfig) -> AnnotatorConfig:
    """The annotator as the workers build it.

    Its quotas and caps are shared out over `processes`. Where a location of Vertex AI is named and no project, the project is the
    one that the job runs in.

    Raises:
        InvalidInput: `config` has no annotator.
    """
    if config.annotator is None:
        raise InvalidInput("a launch of annotate needs its annotator: see pipelines.project.Project.annotator_config")
    pace = replace(config.annotator.pace, workers=processes(config))

    def one(annotator: AnnotatorConfig) -> AnnotatorConfig:
        model = annotator.model
        if _is_vertex(annotator) and not model.project:
            model = replace(model, project=config.project)
        return replace(annotator, model=model, pace=pace)

    first = one(config.annotator)
    return first if first.fallback is None else replace(first, fallback=one(first.fallback))


def told(config: LaunchConfig) -> dict[str, Any]:
    """Of the annotator, for a run record; what is empty is left out."""
    annotator = for_workers(config)
    facts: dict[str, Any] = {"annotator": annotator.kind, "model": _name(annotator), "base_url": annotator.model.base_url}
    if annotator.asks_model:
        facts |= {"ask": annotator.prompts.ask}
    facts |= {"max_cost": annotator.pace.max_cost, "max_tokens": annotator.pace.max_tokens, "processes": annotator.pace.workers}
    if annotator.fallback is not None:
        facts |= {"fallback": annotator.fallback.kind, "fallback_model": _name(annotator.fallback)}
    return {name: value for name, value in facts.items() if value}


def annotate_checks(config: LaunchConfig) -> Iterator[Check]:
    """Whether workers could annotate, as far as it is known without asking anybody. No sentence repeats a secret."""
    annotator = config.annotator
    yield answers_check(annotator.answers if annotator else "")
    if annotator is None or _scheme(annotator.answers) not in REDIS:
        return
    if os.environ.get(PASSWORD):
        yield Check("answers", "warning", f"{PASSWORD} is set here and does not travel to the workers", _HOW_WORKERS_GET_IT)
    if processes(config) == 0:
        found = f"how many vCPUs {config.machine_type} has is not in its name, so quotas and caps cannot be shared out"
        yield Check("pace", "failed", found, "choose a type such as e2-standard-4, or set pace: {workers: N} in vidattr.yaml")
    elif processes(config) > MOST_PROCESSES:
        found = f"{processes(config)} processes are too many to share quotas and caps"
        yield Check("pace", "failed", found, f"pass --max-workers so that there are {MOST_PROCESSES} vCPUs at most")
    if annotator.prices and not storage.is_gcs(annotator.prices):
        found = f"the prices {annotator.prices!r} are not on gs://, and workers cannot read this machine's files"
        yield Check("prices", "failed", found, "copy them to the bucket and pass --prices gs://...")
    yield from _option_checks(annotator)
    for each in filter(None, (annotator, annotator.fallback)):
        yield from _model_checks(config, each, "" if each is annotator else "fallback ")


def check_prices(config: LaunchConfig) -> None:
    """Raises InvalidInput for a cap on the cost of a model without a price. Reads a price table on gs://, unlike the checks."""
    for each in filter(None, (config.annotator, config.annotator and config.annotator.fallback)):
        if each.asks_model:
            _check_model(each)


def annotate_sentences(config: LaunchConfig) -> tuple[str, ...]:
    """What an annotation does beside what every job does, for the plan."""
    annotator = for_workers(config)
    pace, share = annotator.pace, annotator.pace.workers
    name = _name(annotator)
    model = f" ({name})" if name else ""
    fallback = f", and {annotator.fallback.kind} where it refuses or is down" if annotator.fallback else ""
    caps = {
        f"${pace.max_cost:,.2f}": pace.max_cost,
        f"{pace.max_tokens:,} tokens": pace.max_tokens,
        f"{pace.max_requests_per_minute:,} requests a minute": pace.max_requests_per_minute,
        f"{pace.max_tokens_per_minute:,} tokens a minute": pace.max_tokens_per_minute,
    }
    named = [name for name, amount in caps.items() if amount]
    limits = (
        f"At most {', '.join(named)}, shared out evenly over {share} processes: fewer workers reach less of it, and a process that "
        "Dataflow starts again begins its share anew."
        if named
        else "No cap and no quota is set: --max-cost and --max-requests-per-minute set them."
    )
    asked = f"{len(config.definitions)} attributes of " + (f"the videos in {config.videos}" if config.videos else "all videos")
    return (
        f"Asks {annotator.kind}{model}{fallback} about {asked} that have features and no answer yet. The model's price comes on "
        f"top of Dataflow's. {limits}",
        f"Answers are kept in {_shown(annotator.answers)} before anything else is done with them. {config.workspace}/control.yaml "
        "pauses, slows or stops the job.",
        "Do not run two annotations of one workspace at a time: both would ask the same questions; answers in Redis make sure that "
        "nothing stored is asked again.",
    )


def answers_check(location: str) -> Check:
    """Whether workers can share the answers at a location."""
    if _scheme(location) not in REDIS:
        return Check("stage", "failed", IN_ONE_FILE, _SHARED)
    try:
        address = urlsplit(location)
        host, password = address.hostname or "", address.password
    except ValueError:
        host, password = "", None
    if password:
        return Check(
            "answers",
            "failed",
            f"the address of the answers holds a password, and {_SECRET}",
            f"leave it out: workers take it from {PASSWORD}; {_HOW_WORKERS_GET_IT}",
        )
    try:
        shown = _shown(location)
    except InvalidInput as error:
        return Check("answers", "failed", str(error), "name a Redis that the workers reach")
    if _is_here(host):
        found = f"the answers' {host} is each worker's own machine"
        return Check("answers", "failed", found, "name a Redis that all workers reach")
    return Check("answers", "ok", f"answers in {shown}")


def _scheme(location: str) -> str:
    """The scheme of an address, in lower case; empty for a path."""
    scheme, mark, _ = location.partition("://")
    return scheme.lower() if mark else ""


def _shown(location: str) -> str:
    from features.annotators.answers import open_answers

    return open_answers(location).location


def _is_here(host: str) -> bool:
    """Whether it names whichever machine reads it."""
    try:
        return is_loopback(host) or ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return is_loopback(host.rstrip("."))


def _option_checks(annotator: AnnotatorConfig) -> Iterator[Check]:
    for name, value in annotator.options:
        named = not _OPTION.search(name) and refusal(f"--{name}=", "") is not None and not value.isdigit()
        if named or _looks_secret(value):
            found = f"--option {name} looks like a secret, and {_SECRET}"
            yield Check("option", "failed", found, "leave it out, and let the annotator read it from a file on gs://")


def _looks_secret(text: str) -> bool:
    return redacted(text) != text or refusal(f"--setting={text}", "") is not None


def _model_checks(config: LaunchConfig, annotator: AnnotatorConfig, who: str) -> Iterator[Check]:
    kind, model = annotator.kind, annotator.model
    secret = [name for name, value in asdict(model).items() if isinstance(value, str) and _looks_secret(value)]
    if secret:
        found = f"the {who}annotator's {' and '.join(secret)} looks like a secret, and {_SECRET}"
        yield Check("key", "failed", found, "put the key into a file on gs:// and pass its name: --api-key-file gs://...")
        return
    if kind == "replay":
        found = f"the {who}annotator replay reads a recording on this machine"
        yield Check("annotator", "failed", found, "choose gemini, openai, baseline or a plugin")
        return
    try:
        host = urlsplit(checked_address(model.base_url)).hostname if model.base_url else ""
    except InvalidInput as error:
        yield Check("base url", "failed", f"the {who}annotator's {error}", "pass another --base-url")
        return
    if host and _is_here(host):
        found = f"the {who}annotator's {model.base_url} is each worker's own machine"
        yield Check("base url", "failed", found, "pass --base-url with an address that the workers reach")
        return
    yield _key_check(config, annotator, who)
    if annotator.asks_model and not annotator.prices:
        try:
            _check_model(annotator)
        except InvalidInput as error:
            yield Check("annotator", "failed", f"the {who}annotator {kind}", str(error))
            return
    name = _name(annotator)
    yield Check("annotator", "ok", f"{who}annotator {kind}{f' ({name})' if name else ''}")


def _check_model(annotator: AnnotatorConfig) -> None:
    from features.annotators.chain import ModelAsked, open_client

    asked = ModelAsked(annotator.kind, annotator.model, annotator.prompts, (), annotator.asked, annotator.prices)
    asked.check_caps(annotator.pace)
    open_client(annotator.kind, asked.model)


def _name(annotator: AnnotatorConfig) -> str:
    from features.annotators.chain import DEFAULT_MODEL

    return annotator.model.name or DEFAULT_MODEL.get(annotator.kind, "")


def _is_vertex(annotator: AnnotatorConfig) -> bool:
    return annotator.kind == "gemini" and bool(annotator.model.project or annotator.model.location)


def _key_check(config: LaunchConfig, annotator: AnnotatorConfig, who: str) -> Check:
    """How the key gets to the workers: as the name of an object that they read, or not at all where their own account will do."""
    model = annotator.model
    if model.api_key_file and not storage.is_gcs(model.api_key_file):
        found = f"the {who}annotator's key file {model.api_key_file} is not on gs://, and workers cannot read this machine's files"
        remedy = "copy it to a bucket that only the workers' account may read, and pass --api-key-file gs://..."
        return Check("key", "failed", found, remedy)
    if _is_vertex(annotator):
        if model.api_key_file and not model.project:
            found = f"the {who}annotator has a location, so is asked on Vertex AI, which takes no key"
            return Check("key", "failed", found, "leave out --location or --api-key-file")
        return Check("key", "ok", f"Vertex AI in {model.project or config.project}, asked as the workers' account: no key")
    if model.api_key_file:
        return Check("key", "ok", f"workers read the {who}annotator's key from {model.api_key_file}")
    if model.api_key_env:
        found = f"the {who}annotator's key is in {model.api_key_env}, which does not travel to the workers"
        return Check("key", "warning", found, _HOW_WORKERS_GET_IT)
    if annotator.asks_model and _needs_key(annotator.kind, model):
        found = f"no key of the {who}annotator reaches the workers: what is set in this shell stays here"
        vertex = ", or --location for Vertex AI, which needs none" if annotator.kind == "gemini" else ""
        return Check("key", "failed", found, f"pass --api-key-file gs://... with a file that holds it{vertex}")
    return Check("key", "ok", f"the {who}annotator is sent no key")


def _needs_key(kind: str, model: ModelSettings) -> bool:
    """Whether it is the provider's own server."""
    if kind == "gemini":
        from features.annotators.gemini import PROVIDER
    else:
        from features.annotators.openai_compatible import PROVIDER
    return not model.base_url or urlsplit(model.base_url).hostname == urlsplit(PROVIDER).hostname
