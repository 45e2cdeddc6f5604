"""Trying out one definition on a few videos, in a temporary workspace that is gone afterwards."""

from __future__ import annotations

import asyncio
import shlex
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from features.annotators.protocol import AnnotationRequest, Usage
from features.attributes.loading import load_definition
from features.errors import InvalidInput, Permanent, Transient
from features.records import Annotation, Counts, Failure, RunRecord, VideoFeatures, to_table
from features.videos.manifest import load_manifest
from features.videos.probe import Limits
from features.workspace import Workspace, new_run_id
from pipelines.annotators import build_annotator, configured
from pipelines.asking import event_loop
from pipelines.configuration import Configuration
from pipelines.encoders import EncoderConfig, build_extractor
from pipelines.report import collect, write_report


def try_definition(
    file: str, videos: str, roots: Sequence[str], count: int, page: str, settings: Configuration | None = None
) -> dict[str, Any]:
    """Extracts the first `count` videos, asks about them, and writes a page with frames and reasons.

    Args:
        file: the definition.
        videos, roots: manifest, folder or glob, and where its uris may lie.
        count: of videos.
        page: path of the page.
        settings: who is asked; the baseline by default.

    Returns:
        `attribute`, `definition_hash`, `report`, and `answers`: one dict a video with video_id, value, probability, rationale,
        frame_timestamps_s and problem.

    Raises:
        InvalidInput: the definition, the manifest or a setting is wrong, or no video can be read.
        Halted: the model cannot be asked.
    """
    definition = load_definition(file)
    rows = list(islice(load_manifest(videos, roots).videos, count))
    if not rows:
        raise InvalidInput(f"{videos}: no video that can be used; see `vidattr videos check {shlex.quote(videos)}`")
    run_id, began = new_run_id(), datetime.now(UTC)
    features: list[VideoFeatures] = []
    annotations: list[Annotation] = []
    failures: list[Failure] = []
    answers: list[dict[str, Any]] = []
    spent = Usage()
    with tempfile.TemporaryDirectory(prefix="vidattr-trial-") as folder:
        workspace = Workspace(folder)
        annotator = build_annotator(configured(settings or Configuration(), (definition,)), workspace, store=False)
        annotator.open()
        loop = event_loop()
        extractor = build_extractor(EncoderConfig(), Limits(), workers=1)
        extractor.open()
        try:
            for video in rows:
                answer: dict[str, Any] = {"video_id": video.video_id, "value": None, "probability": None}
                answer |= {"rationale": "", "frame_timestamps_s": [], "problem": ""}
                answers.append(answer)
                try:
                    with extractor.fetch(video) as fetched:
                        seen = extractor.extract(video, fetched, run_id, datetime.now(UTC))
                except (Permanent, Transient) as error:
                    answer["problem"] = str(error)
                    kind = error.kind if isinstance(error, Permanent) else "unavailable"
                    failures.append(Failure(video.video_id, "extract", kind, str(error), run_id=run_id))
                    continue
                features.append(seen)
                answer["frame_timestamps_s"] = [round(frame.timestamp_s, 2) for frame in seen.frames]
                request = AnnotationRequest(seen, (definition,))
                try:
                    reply = asyncio.run_coroutine_threadsafe(annotator.annotate(request), loop).result()
                except (Permanent, Transient) as error:
                    answer["problem"] = str(error)
                    continue
                spent += reply.spent
                if not reply.answers and not reply.refusals:
                    answer["problem"] = reply.why_pending or "no answer"
                for refusal in reply.refusals:
                    answer["problem"] = refusal.message
                for given in reply.answers:
                    answer |= {"value": given.value, "probability": given.probability, "rationale": given.rationale}
                    annotations.append(
                        Annotation(
                            seen.video_id,
                            definition.name,
                            definition.definition_hash,
                            given.value,
                            given.probability,
                            given.rationale,
                            annotator.identity.source,
                            annotator.identity.model,
                            annotator.identity.answer_key(seen.content_key, definition.definition_hash),
                            annotated_at=datetime.now(UTC),
                            run_id=run_id,
                            moments=given.moments,
                        )
                    )
        finally:
            extractor.close()
            asyncio.run_coroutine_threadsafe(annotator.close(), loop).result()
        files = {
            "features": [workspace.write_table("features", run_id, to_table(features, VideoFeatures))],
            "annotations": [workspace.write_table("annotations", run_id, to_table(annotations, Annotation))],
            "failures": [workspace.write_table("failures", run_id, to_table(failures, Failure))],
        }
        counts = Counts(len(rows), len(features), len(failures), 0)
        record = RunRecord(
            run_id,
            "run",
            began,
            datetime.now(UTC),
            {"videos": videos, "trial": file},
            counts=counts,
            input_tokens=spent.input_tokens,
            cached_input_tokens=spent.cached_input_tokens,
            output_tokens=spent.output_tokens,
            cost_usd=spent.cost_usd,
            files=files,
        )
        workspace.commit(record)
        write_report(page, collect(workspace, record, [record], (definition,), next_command="vidattr register && vidattr annotate"))
    return {"attribute": definition.name, "definition_hash": definition.definition_hash, "answers": answers, "report": page}
