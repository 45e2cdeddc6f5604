"""What the local models are worth: funny and exciting adverts told from viewers' sentences, and what that takes.

300 adverts of folds 6-7 (Hussain et al., CVPR 2017), the raters' majority is the truth and ties are left out; each question is
asked alone (`--ask each`, `--evidence text`), with and without 8 Golden examples an attribute of folds 0-5 in the prefix, through
the product's own chain of annotators and llama.cpp's own server. `theirs` is TF-IDF (1-2-grams) with logistic regression on the
ratings of folds 0-5. Then all built-in attributes of the 26 clips, for the law of counts and the time.

The adverts take half an hour with the larger model on two idle cores. Answers and times are kept below $VIDATTR_BENCH, or
~/.cache/vidattr/benchmarks, so that a run that was interrupted goes on where it was and a whole one is repeated for nothing:
remove the folder to measure again. VIDATTR_BENCH_MODELS names the models, VIDATTR_BENCH_ADVERTS how many adverts, and
VIDATTR_BENCH_THREADS how many threads: on a busy machine one is faster than two that wait for each other.
"""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from benchmarks.zero_shot import DATA, EXCITING, ROOT, TEST_FOLDS, Adverts, auc, read_adverts, tf_idf
from features.annotators.answers import open_answers
from features.annotators.chain import ModelAsked
from features.annotators.control import Control
from features.annotators.golden_head import GoldenExample, golden_examples
from features.annotators.local_llm import LocalLlm, model_file
from features.annotators.model import ModelAnnotator
from features.annotators.openai_compatible import OpenAIClient
from features.annotators.pace import Paced
from features.annotators.packing import Separately
from features.annotators.protocol import AnnotationReply, AnnotationRequest, Annotator, Around
from features.annotators.repair import Repaired
from features.annotators.retry import Retried
from features.annotators.settings import ModelSettings, PaceSettings, PromptSettings
from features.annotators.stored_answers import StoredAnswers
from features.attributes.definition import AttributeDefinition
from features.attributes.golden import aggregate
from features.attributes.loading import load_definition
from features.records import Counts, RunRecord, VideoFeatures, to_table
from features.workspace import Workspace, new_run_id
from pipelines import annotate
from pipelines.annotators import AnnotatorConfig

MODELS = ("smollm", "qwen2.5-1.5b")
ADVERTS = 300
EXAMPLES = 8
THREADS = 2
KEPT = "~/.cache/vidattr/benchmarks"
PACE = PaceSettings(in_flight=1, attempts=2)


class Timed(Around):
    """Notes each exchange in a file: who, about how many examples, seconds, tokens."""

    def __init__(self, annotator: Annotator, file: pathlib.Path, facts: dict[str, Any]) -> None:
        super().__init__(annotator)
        self.file, self.facts = file, facts

    async def annotate(self, request: AnnotationRequest) -> AnnotationReply:
        began = time.monotonic()
        reply = await self.annotator.annotate(request)
        taken = {
            "attribute": request.definitions[0].name,
            "seconds": time.monotonic() - began,
            "repair": request.repair is not None,
            "answered": len(reply.answers),
            "input": reply.spent.input_tokens,
            "cached": reply.spent.cached_input_tokens,
            "output": reply.spent.output_tokens,
        }
        with self.file.open("a") as file:
            file.write(json.dumps({**self.facts, **taken}) + "\n")
        return reply


@dataclass(frozen=True)
class Outcome:
    """What became of all pairs of one case."""

    replies: tuple[AnnotationReply, ...]
    asked: int
    exchanges: tuple[dict[str, Any], ...]

    def check_counts(self) -> None:
        """Every pair is an answer, a refusal, or pending; here, with a server that stays up, none is pending."""
        answered = sum(len(reply.answers) for reply in self.replies)
        refused = sum(len(reply.refusals) for reply in self.replies)
        assert answered + refused == self.asked, (answered, refused, self.asked)

    @property
    def refused(self) -> int:
        return sum(len(reply.refusals) for reply in self.replies)


def ask(
    base_url: str,
    model: str,
    case: str,
    videos: Sequence[VideoFeatures],
    definitions: Sequence[AttributeDefinition],
    examples: Sequence[GoldenExample],
    kept: pathlib.Path,
    threads: int,
) -> Outcome:
    """All definitions of all videos, one question after the other."""
    settings = ModelSettings(name=model, base_url=base_url, timeout_s=600)
    prompts = PromptSettings(ask="each", evidence="text", examples=EXAMPLES if examples else 0, first_token=True)
    asked = ModelAsked("openai", settings, prompts, tuple(examples), tuple(definitions))
    facts = {"model": model, "case": case}
    mine = {**facts, "threads": threads}
    times = kept / "exchanges.jsonl"
    control = Control(base=PACE)
    asking: Annotator = ModelAnnotator(OpenAIClient(asked.model), asked.writer, asked.identity, asked.cost, by_first_token=True)
    asking = Repaired(Retried(Paced(Timed(asking, times, mine), PACE, asked.writer.estimate, control), 2, 10.0, control))
    answers = str(kept / "answers.sqlite")
    chain = StoredAnswers(Separately(asking), open_answers(answers), case)

    async def all_of_them() -> list[AnnotationReply]:
        chain.open()
        replies = []
        try:
            for number, video in enumerate(videos, 1):
                replies.append(await chain.annotate(AnnotationRequest(video, tuple(definitions))))
                if number % 25 == 0:
                    print(f"{model}, {case}: {number} of {len(videos)}", file=sys.stderr, flush=True)
        finally:
            await chain.close()
        return replies

    replies = tuple(asyncio.run(all_of_them()))
    noted = [json.loads(line) for line in times.read_text().splitlines()] if times.exists() else []
    told = tuple(each for each in noted if all(each[name] == value for name, value in facts.items()))
    outcome = Outcome(replies, len(videos) * len(definitions), told)
    outcome.check_counts()
    if not examples:
        _check_stage(videos, definitions, AnnotatorConfig("openai", model=settings, prompts=prompts, answers=answers, pace=PACE))
    return outcome


def _check_stage(videos: Sequence[VideoFeatures], definitions: Sequence[AttributeDefinition], config: AnnotatorConfig) -> None:
    """The stage as `vidattr annotate` runs it asks for what was refused, finds all else in the store, and loses nothing."""
    with tempfile.TemporaryDirectory() as folder:
        workspace, run_id, now = Workspace(folder), new_run_id(), datetime.now(UTC)
        file = workspace.write_table("features", run_id, to_table(videos, VideoFeatures))
        counts = Counts(len(videos), len(videos), 0, 0)
        workspace.commit(RunRecord(run_id, "extract", now, now, counts=counts, files={"features": [file]}))
        record = annotate.run(annotate.AnnotateConfig(workspace, tuple(definitions), config))
        assert record.pair_counts is not None and record.pair_counts.into == len(videos) * len(definitions)
        assert record.pair_counts.pending == 0, record.details
        print(f"vidattr annotate: {record.pair_counts}", file=sys.stderr, flush=True)


def f1(truth: np.ndarray, said: np.ndarray) -> float:
    """Of the verdict `true`; 0 where there is none."""
    hits = int((truth & said).sum())
    return 2 * hits / (int(truth.sum()) + int(said.sum())) if hits else 0.0


def run(models: Sequence[str] = (), data_dir: pathlib.Path | str | None = None, most: int = 0) -> list[dict[str, Any]]:
    """Figures as JSON-ready rows.

    Args:
        models: names; by default VIDATTR_BENCH_MODELS, or both.
        data_dir: the folder that holds `golden_ads` and `clips`; `$VIDATTR_TEST_DATA` or the data beside the project by default.
        most: adverts; by default VIDATTR_BENCH_ADVERTS, or 300.
    """
    models = models or os.environ.get("VIDATTR_BENCH_MODELS", "").split() or MODELS
    most = most or int(os.environ.get("VIDATTR_BENCH_ADVERTS") or ADVERTS)
    threads = int(os.environ.get("VIDATTR_BENCH_THREADS") or THREADS)
    data = pathlib.Path(data_dir or DATA)
    kept = pathlib.Path(os.environ.get("VIDATTR_BENCH") or KEPT).expanduser() / "local-llm"
    kept.mkdir(parents=True, exist_ok=True)
    built_in = [load_definition(str(file)) for file in sorted((ROOT / "feature_repo" / "attributes").glob("*.yaml"))]
    funny = next(definition for definition in built_in if definition.name == "funny")
    definitions = (EXCITING, funny)
    adverts = read_adverts(data / "golden_ads")
    rated = {each.name: _rated(adverts, each) for each in definitions}
    folds = dict(zip((video.video_id for video in adverts.videos), adverts.folds.tolist(), strict=True))
    chosen = _chosen(adverts, folds, most)
    golden = [example for examples in rated.values() for example in examples if folds[example.video.video_id] not in TEST_FOLDS]
    clips = _clips(data / "clips" / "manifest.jsonl")
    figures: list[dict[str, Any]] = []
    for model in models:
        with LocalLlm(model_file(model), alias=model, slots=1, threads=threads) as llm:
            for case, examples in (("no examples", ()), (f"{EXAMPLES} golden examples", golden)):
                outcome = ask(llm.base_url, model, case, chosen, definitions, examples, kept, threads)
                for definition in definitions:
                    figures += _judged(model, case, definition, outcome, chosen, rated[definition.name], golden)
                figures += _taken(model, f"{model}, {case}", outcome)
            outcome = ask(llm.base_url, model, "clips", clips, built_in, (), kept, threads)
            figures += _taken(model, f"{model}, {len(clips)} clips, {len(built_in)} attributes", outcome)
    return figures


def _rated(adverts: Adverts, definition: AttributeDefinition) -> tuple[GoldenExample, ...]:
    ratings = [rating for rating in adverts.ratings if rating.attribute == definition.name]
    videos = {video.video_id: video for video in adverts.videos}
    return golden_examples(aggregate(ratings, [definition], datetime(2026, 1, 1, tzinfo=UTC)), videos)


def _chosen(adverts: Adverts, folds: dict[str, int], most: int) -> list[VideoFeatures]:
    tested = [video for video in adverts.videos if folds[video.video_id] in TEST_FOLDS]
    return [tested[number] for number in np.random.default_rng(0).permutation(len(tested))[:most]]


def _clips(manifest: pathlib.Path) -> list[VideoFeatures]:
    rows = [json.loads(line) for line in manifest.read_text("utf-8").splitlines() if line.strip()]
    return [
        VideoFeatures(
            row["video_id"],
            "",
            row["video_id"],
            "benchmark",
            title=row["title"],
            description=row["description"],
            hashtags=tuple(row["hashtags"]),
        )
        for row in rows
    ]


def _judged(
    model: str,
    case: str,
    definition: AttributeDefinition,
    outcome: Outcome,
    videos: Sequence[VideoFeatures],
    rated: Sequence[GoldenExample],
    golden: Sequence[GoldenExample],
) -> list[dict[str, Any]]:
    """AUC and F1 over the adverts that were answered and have a majority; an answer without probability counts by its word."""
    truths = {example.video.video_id: example.annotation.value == "true" for example in rated}
    found = [
        (video, truths[video.video_id], answer)
        for video, reply in zip(videos, outcome.replies, strict=True)
        for answer in reply.answers
        if answer.attribute == definition.name and video.video_id in truths
    ]
    truth = np.array([true for _, true, _ in found])
    said = np.array([answer.value == "true" for *_, answer in found])
    scores = np.array([float(answer.value == "true") if answer.probability is None else answer.probability for *_, answer in found])
    train = [example for example in golden if example.annotation.attribute == definition.name]
    words = tf_idf(
        [example.video.description for example in train],
        np.array([example.annotation.value == "true" for example in train]),
        [video.description for video, *_ in found],
    )
    ours, theirs = auc(truth, scores), auc(truth, words)
    about = (
        f"{len(found)} adverts of folds 6-7, {truth.mean():.2f} positive, {len(videos) - len(found)} without verdict or majority"
    )
    named = f"{model}, {case}, {definition.name}"
    rows = [
        {"case": named, "metric": "auc", "value": ours, "better": "higher", "ours": ours, "theirs": theirs, "workload": about},
        {"case": named, "metric": "f1 of true", "value": f1(truth, said), "better": "higher", "workload": about},
        {"case": named, "metric": "share said true", "value": float(said.mean()), "better": "", "workload": about},
    ]
    return [{"goal": None, **row} for row in rows]


def _taken(model: str, case: str, outcome: Outcome) -> list[dict[str, Any]]:
    """Per exchange: tokens, seconds, the cached share; first and later questions apart."""
    noted = outcome.exchanges
    if not noted:
        return []
    threads = " or ".join(sorted({str(each["threads"]) for each in noted}))
    about = f"{len(noted)} exchanges for {outcome.asked} questions, {outcome.refused} refused; one slot, threads: {threads}"
    first = min(each["attribute"] for each in noted)
    seconds = [each["seconds"] for each in noted if each["attribute"] == first]
    later = [each["seconds"] for each in noted if each["attribute"] != first]
    given = sum(each["input"] for each in noted)
    values = {
        "input tokens a request": given / len(noted),
        "output tokens a request": sum(each["output"] for each in noted) / len(noted),
        "cached share of input": sum(each["cached"] for each in noted) / given,
        "seconds, first question": float(np.median(seconds)),
        "seconds, later questions": float(np.median(later)) if later else 0.0,
        "refused": outcome.refused / outcome.asked,
    }
    return [
        {"goal": None, "case": case, "metric": metric, "value": value, "better": "", "workload": about}
        for metric, value in values.items()
    ]


if __name__ == "__main__":
    for row in run():
        print(json.dumps(row))
