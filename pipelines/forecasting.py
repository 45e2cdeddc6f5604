"""What a run is going to take: estimates of a sample of its videos, corrected by what earlier exchanges took."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from features.annotators.chain import ModelAsked
from features.annotators.prompt import PromptWriter
from features.annotators.protocol import AnnotationRequest, Usage
from features.annotators.spend import Calibration, Forecast, calibrate, forecast
from features.attributes.definition import AttributeDefinition
from features.records import VideoFeatures, digest, from_table
from features.workspace import Workspace, latest, read_parquet
from pipelines.annotators import AnnotatorConfig, model_asked
from pipelines.planning import AnnotateConfig, Question

SAMPLE = 50
"""Videos that are estimated."""
HISTORY = 200
"""Earlier videos that correct the estimates, at most."""
FILES = 50
"""Files of a table that are looked through for them, the newest: a forecast is not worth reading all that was ever annotated."""


def estimate(writer: PromptWriter, video: VideoFeatures, definitions: Sequence[AttributeDefinition]) -> Usage:
    """All exchanges about one video, the prefix cache warm but for what the video's first exchange brings into it."""
    settings = writer.settings
    samples = settings.samples
    if settings.ask == "together":
        packed = settings.videos_per_request
        usage = writer.estimate(AnnotationRequest(video, tuple(definitions), (video,) * (packed - 1)))
        return _times(usage, samples / packed)
    whole = Usage()
    for number, definition in enumerate(definitions):
        usage = writer.estimate(AnnotationRequest(video, (definition,)))
        if not number:
            usage = dataclasses.replace(usage, cached_input_tokens=min(usage.cached_input_tokens, writer.shared_tokens(definition)))
        whole += _times(usage, samples)
    return whole


def _times(usage: Usage, factor: float) -> Usage:
    return Usage(*(round(factor * number) for number in dataclasses.astuple(usage)[:4]))


def history(workspace: Workspace, asked: ModelAsked) -> Calibration | None:
    """How estimates of earlier exchanges of the same model and prompt turned out, from the annotations of finished runs.

    Only videos of which all attributes that one run asked were answered and paid for in it count: of others nobody knows what
    their exchange was about. Newest first, as few files as it takes.
    """
    definitions = {definition.name: definition for definition in asked.definitions}
    identity, found = asked.identity, {}  # type: ignore[var-annotated]
    columns = ["video_id", "attribute", "answer_key", "content_key", "input_tokens", "cached_input_tokens", "output_tokens"]
    for file in reversed(workspace.files("annotations")[-FILES:]):
        if len(found) >= HISTORY:
            break
        table = read_parquet(file.path, columns)
        rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in table.filter(pc.greater(table["input_tokens"], 0)).to_pylist():
            definition = definitions.get(row["attribute"])
            if definition and row["answer_key"] == identity.answer_key(row["content_key"], definition.definition_hash):
                rows[row["video_id"]].append(row)
        for video_id, answered in rows.items():
            if len(found) < HISTORY and video_id not in found:
                found[video_id] = answered
    pairs = []
    for video in _features(workspace, found):
        answered = found[video.video_id]
        if all(row["content_key"] == video.content_key for row in answered):
            actual = [sum(row[name] for row in answered) for name in columns[4:]]
            pairs.append((estimate(asked.writer, video, [definitions[row["attribute"]] for row in answered]), Usage(1, *actual)))
    return calibrate(pairs)


def _features(workspace: Workspace, wanted: Iterable[str]) -> Iterator[VideoFeatures]:
    """The newest features of some videos, frames included, file by file, newest first."""
    left = set(wanted)
    for file in reversed(workspace.files("features")[-FILES:]):
        if not left:
            return
        if left & set(read_parquet(file.path, ["video_id"])["video_id"].to_pylist()):
            for video in _of_file(file.path, left):
                left.discard(video.video_id)
                yield video


def _of_file(path: str, wanted: Iterable[str]) -> Iterator[VideoFeatures]:
    table = read_parquet(path)
    yield from latest(
        from_table(table.filter(pc.is_in(table["video_id"], pa.array(sorted(wanted), pa.string()))), VideoFeatures)
    ).values()


def forecast_of(
    config: AnnotatorConfig,
    workspace: Workspace,
    definitions: Sequence[AttributeDefinition],
    total: int,
    sample: Sequence[tuple[str, Question]],
    batch: bool = False,
) -> dict[str, Any]:
    """The forecast for a run as a JSON document.

    Args:
        config: who is asked.
        workspace: where features and earlier annotations are.
        definitions: what is asked.
        total: videos to ask about.
        sample: (features file, questions) of some of them.
        batch: asked by batch jobs.
    """
    if not config.asks_model:
        free = Forecast(total, 0, 0, 0, 0.0, 0.0, 0.0, f"the {config.kind} annotator costs nothing")
        return {"videos": total, **dataclasses.asdict(free)}
    asked, named = model_asked(config, workspace), {definition.name: definition for definition in definitions}
    files: dict[str, dict[str, Question]] = defaultdict(dict)
    for path, question in sample:
        files[path][question.video_id] = question
    estimates = [
        estimate(asked.writer, video, [named[name] for name in questions[video.video_id].asked])
        for path, questions in files.items()
        for video in _of_file(path, questions)
    ]
    found = forecast(estimates, total, asked.price, batch, history(workspace, asked) if total else None)
    if config.prompts.ask == "together":  # a video's share of a packed request is no whole number
        packs = math.ceil(total / config.prompts.videos_per_request)
        found = dataclasses.replace(found, requests=config.prompts.samples * packs)
    return {"videos": total, **dataclasses.asdict(found)}


def requested(subject: str, questions: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """What one request asks about a video: (features file, one question of all that is asked about it), as if for itself.

    Near-duplicates ask about the same video, and cost nothing more.
    """
    together = [(path, Question.from_json(text)) for path, text in questions]
    together.sort(key=lambda each: (-len(each[1].asked), each[1].video_id))
    asked = dict.fromkeys(name for _, question in together for name in question.asked)
    return together[0][0], Question(subject, tuple(asked), 0, 0).to_json()


@dataclasses.dataclass(eq=False)
class Requests(beam.PTransform):
    """(features file, question) of each video that is going to be shown, out of the questions of a `Plan`."""

    def expand(self, questions: beam.PCollection[tuple[str, str]]) -> beam.PCollection[tuple[str, str]]:
        return (
            questions
            | "KeyBySubject"
            >> beam.MapTuple(lambda path, text: (Question.from_json(text).subject, (path, text))).with_output_types(
                tuple[str, tuple[str, str]]
            )
            | "GroupBySubject" >> beam.GroupByKey()
            | "AskTogether" >> beam.MapTuple(requested).with_output_types(tuple[str, str])
        )


class CountAndSample(beam.CombineFn):
    """How many there are, and `size` of them with the lowest digests: the same ones however the work is cut up."""

    def __init__(self, size: int) -> None:
        self._size = size

    def create_accumulator(self) -> tuple[int, list[tuple[str, str, str]]]:
        return 0, []

    def add_input(self, accumulator: Any, element: tuple[str, str]) -> Any:
        count, kept = accumulator
        kept.append((digest(element[1]), *element))
        return count + 1, self._lowest(kept) if len(kept) > 2 * self._size else kept

    def merge_accumulators(self, accumulators: Iterable[Any]) -> Any:
        parts = list(accumulators)
        return sum(count for count, _ in parts), self._lowest([one for _, kept in parts for one in kept])

    def extract_output(self, accumulator: Any) -> tuple[int, list[tuple[str, str]]]:
        count, kept = accumulator
        return count, [(path, text) for _, path, text in self._lowest(kept)]

    def _lowest(self, kept: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
        return sorted(kept)[: self._size]


@dataclasses.dataclass(eq=False)
class ForecastRun(beam.PTransform):
    """One document about what is going to be asked, as `Requests` gives it; see `forecast_of`."""

    config: AnnotateConfig
    batch: bool = False

    def expand(self, questions: beam.PCollection[tuple[str, str]]) -> beam.PCollection[dict[str, Any]]:
        config, batch = self.config, self.batch

        def foretold(counted: tuple[int, list[tuple[str, str]]]) -> dict[str, Any]:
            total, sample = counted
            chosen = [(path, Question.from_json(text)) for path, text in sample]
            return forecast_of(config.annotator, config.workspace, config.definitions, total, chosen, batch)

        return (
            questions
            | "CountAndSample" >> beam.CombineGlobally(CountAndSample(SAMPLE))
            | "Foretell" >> beam.Map(foretold).with_output_types(dict[str, Any])
        )


def as_bytes(document: dict[str, Any]) -> bytes:
    """The document as it is kept in a workspace."""
    return json.dumps(document, indent=1, sort_keys=True).encode()
