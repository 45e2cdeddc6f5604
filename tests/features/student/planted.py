"""A small workspace with a planted truth, and the student that learned it: made once a process, for every test that wants one.

Copy the workspace before changing it.
"""

from __future__ import annotations

import functools
import pathlib
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from features.attributes.definition import AttributeDefinition
from features.records import Annotation, RunRecord, Tag, VideoFeatures, digest, to_table
from features.student.inputs import LIGHT_COLUMNS
from features.workspace import Workspace, new_run_id

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CALM = AttributeDefinition("calm", "Calm", "Is it calm?", "Slow and quiet.")
MOOD = AttributeDefinition("mood", "Mood", "Which mood?", "Said or shown.", value_type="category", labels=("happy", "sad", "angry"))
ENERGY = AttributeDefinition("energy", "Energy", "How energetic?", "Pace.", value_type="score", score_range=(1.0, 5.0))
RARE = AttributeDefinition("rare", "Rare", "Is it rare?", "Seldom seen.")
DEFINITIONS = (CALM, MOOD, ENERGY, RARE)
TEXT_DIM, VISUAL_DIM = 24, 12


def features(number: int, rng: np.random.Generator, **changes: Any) -> VideoFeatures:
    """One video; some have no sound, no text, no hashtags or no tags."""
    sound = rng.random() < 0.7
    text = rng.standard_normal(TEXT_DIM)
    words = rng.choice(["fun", "Cat", "run", "sea", "Ünï", "cozy"], rng.integers(0, 4), replace=False)
    made: dict[str, Any] = {
        "video_id": f"v{number:04d}",
        "content_hash": digest(str(number)),
        "content_key": digest("key", str(number)),
        "extractor_version": "1",
        "hashtags": tuple(map(str, words)),
        "language": str(rng.choice(["en", "pt", ""])),
        "duration_s": float(rng.uniform(1, 60)),
        "has_audio": bool(sound),
        "visual_stats": tuple(rng.random(8).tolist()),
        "sound_stats": tuple(rng.random(7).tolist()) if sound else (float("nan"),) * 7,
        "text_embedding": tuple((text / np.linalg.norm(text)).tolist()) if rng.random() < 0.9 else (),
        "visual_embedding": tuple(np.abs(rng.standard_normal(VISUAL_DIM)).tolist()),
        "visual_tags": (Tag("dog", 0.5),) if rng.random() < 0.3 else (),
        "extracted_at": NOW,
        "run_id": "planted",
    }
    return VideoFeatures(**{**made, **changes})


def annotations(video: VideoFeatures) -> list[Annotation]:
    """A teacher that looks at the text's first numbers; it answers `rare` for two videos only."""

    def said(definition: AttributeDefinition, value: str, probability: float | None) -> Annotation:
        return Annotation(
            video.video_id, definition.name, definition.definition_hash, value, probability, "because", "llm", "teacher-1",
            digest(video.content_key, definition.name), annotated_at=NOW, run_id="planted",
        )  # fmt: skip

    seen = np.resize(video.text_embedding or (0.0,), TEXT_DIM) * 8
    calm = float(1 / (1 + np.exp(-seen[0])))
    rows = [
        said(CALM, "true" if calm >= 0.5 else "false", calm),
        said(MOOD, MOOD.labels[int(np.argmax(seen[1:4]))], 0.9),
        said(ENERGY, repr(float(1 + 4 / (1 + np.exp(-seen[4])))), None),
    ]
    return rows + ([said(RARE, "true", 0.9)] if video.video_id < "v0002" else [])


def workspace(root: pathlib.Path | str, videos: list[VideoFeatures], answers: list[Annotation]) -> Workspace:
    """A workspace that holds them, as two runs would have left it."""
    made = Workspace(str(root))
    for table, rows, kind in (("features", videos, VideoFeatures), ("annotations", answers, Annotation)):
        run_id = new_run_id()
        path = made.write_table(table, run_id, to_table(rows, kind))  # type: ignore[arg-type, type-var]
        made.commit(RunRecord(run_id, "planted", NOW, NOW, files={table: [path]}))
    return made


_folder = tempfile.TemporaryDirectory(prefix="planted-")


@dataclass(frozen=True)
class Planted:
    """What tests look at.

    Attributes:
        workspace: 160 videos, their annotations, and the student; copy it before changing it.
        folder: the student's.
        videos: in the order of their ids.
        transformed: the training rows as Beam transformed them, by name.
        network: the Keras model, as it was before it was saved.
        heads: of the network.
        card: as written.
    """

    workspace: Workspace
    folder: str
    videos: list[VideoFeatures]
    transformed: dict[str, Any]
    network: Any
    heads: Any
    card: Any


@functools.lru_cache(maxsize=1)
def student() -> Planted:
    """Made by the stage's own functions; the folder it was trained in is gone afterwards."""
    from pipelines.distill import DistillConfig, fit, publish, training_rows

    rng = np.random.default_rng(1)
    videos = [features(number, rng) for number in range(160)]
    place = workspace(pathlib.Path(_folder.name) / "workspace", videos, [row for video in videos for row in annotations(video)])
    config = DistillConfig(place, DEFINITIONS)
    rows = training_rows(config)
    with tempfile.TemporaryDirectory() as training:
        fitted = fit(config, rows, training)
        card = publish(config, rows, fitted)
    return Planted(
        place,
        place.path("students", card.student_id),
        videos,
        fitted.transformed.inputs,
        fitted.trained.network,
        card.heads,
        card,
    )


def light(*videos: VideoFeatures) -> pa.RecordBatch:
    """The light columns of some videos, as a features file holds them."""
    return to_table(videos, VideoFeatures).select(list(LIGHT_COLUMNS)).combine_chunks().to_batches()[0]
