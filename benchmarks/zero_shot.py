"""How well the baseline annotator tells funny and exciting adverts, from viewers' sentences about them.

2,776 adverts with about five raters each (Hussain et al., CVPR 2017); the majority is the truth and ties are left out. Trained
on folds 0-5, tested on folds 6-7. `ours` is the baseline, `theirs` in the same run: for zero-shot one averaged vector against
the whole definition, for the Golden head TF-IDF (1-2-grams) and logistic regression on the same examples.
"""

from __future__ import annotations

import csv
import json
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from features.annotators.baseline import BaselineAnnotator, GoldenExample
from features.annotators.golden_head import golden_examples
from features.annotators.matching import Encode, unit_rows
from features.annotators.protocol import AnnotationRequest
from features.attributes.definition import AttributeDefinition
from features.attributes.golden import Rating, aggregate
from features.attributes.loading import load_definition
from features.records import VideoFeatures

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = pathlib.Path(os.environ.get("VIDATTR_TEST_DATA") or ROOT.parent / "shared" / "data")
FEW = 300
TEST_FOLDS = (6, 7)

EXCITING = AttributeDefinition(
    name="exciting",
    title="Exciting",
    question="Would most viewers find this video exciting?",
    definition=(
        "A video is exciting when it thrills viewers: something big, fast, daring or new happens and they want to see what "
        "comes next. Interest in a product or agreement with a message alone is not excitement."
    ),
    includes=(
        "Fast action, races, stunts and sports",
        "A thrilling adventure full of adrenaline",
        "Suspense, with the wish to see what happens next",
        "Something new and amazing is revealed",
        "A cheering crowd, a party or a big show",
        "An epic battle, game or movie trailer",
    ),
    excludes=(
        "A calm explanation of facts",
        "Everyday chores and household products",
        "A sad, touching or thoughtful story",
        "A warning about health, safety or addiction",
        "Saving money, prices and insurance",
    ),
    evidence=("description",),
)


@dataclass(frozen=True)
class Adverts:
    """The rated adverts: their features, in one order, and each one's fold."""

    videos: tuple[VideoFeatures, ...]
    folds: npt.NDArray[np.int64]
    ratings: tuple[Rating, ...]


def read_adverts(folder: pathlib.Path) -> Adverts:
    """`golden_ads`: viewers' sentences become the description."""
    videos, folds = [], []
    with open(folder / "videos.jsonl", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            said = "\n".join([*row["viewer_actions"], *row["viewer_reasons"]])
            videos.append(VideoFeatures(row["video_id"], "", row["video_id"], "benchmark", description=said))
            folds.append(row["fold"])
    with open(folder / "ratings.csv", encoding="utf-8", newline="") as file:
        ratings = tuple(
            Rating(row["video_id"], row["attribute"], row["rater_slot"], "true" if row["value"] == "1" else "false")
            for row in csv.DictReader(file)
            if row["attribute"] in ("funny", "exciting")
        )
    return Adverts(tuple(videos), np.array(folds), ratings)


def auc(truth: npt.NDArray[np.bool_], scores: npt.NDArray[np.float64]) -> float:
    """Area under the ROC curve: the share of (positive, negative) pairs in order, ties counting half."""
    from scipy.stats import rankdata

    positives = int(truth.sum())
    ranks = rankdata(scores)[truth].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * (len(truth) - positives)))


def probabilities(
    annotator: BaselineAnnotator, definition: AttributeDefinition, videos: Sequence[VideoFeatures]
) -> npt.NDArray[np.float64]:
    """The baseline's probability of `true` for each video."""
    replies = annotator.annotate_many([AnnotationRequest(video, (definition,)) for video in videos])
    return np.array([reply.answers[0].probability for reply in replies], dtype=np.float64)


def one_vector(encode: Encode, definition: AttributeDefinition, videos: Sequence[VideoFeatures]) -> npt.NDArray[np.float64]:
    """The cosine of a video's mean sentence vector and the definition's."""
    aim = encode([definition.question, definition.definition, *definition.includes]).mean(axis=0)
    means = np.array([encode(video.description.split("\n")).mean(axis=0) for video in videos])
    return np.asarray(unit_rows(means) @ aim)


def tf_idf(train: Sequence[str], truth: npt.NDArray[np.bool_], test: Sequence[str]) -> npt.NDArray[np.float64]:
    """The usual text baseline, given the same training examples."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = LogisticRegression(C=3.0, max_iter=2000).fit(words.fit_transform(train), truth)
    return np.asarray(model.decision_function(words.transform(test)))


def remembering(encode: Encode) -> Encode:
    """The same sentences are read by several annotators here: each is encoded once."""
    known: dict[str, npt.NDArray[np.float32]] = {}

    def remembered(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if new:
            known.update(zip(new, encode(new), strict=True))
        return np.array([known[text] for text in texts], dtype=np.float32)

    return remembered


def run(data_dir: pathlib.Path | str | None = None, encode: Encode | None = None) -> list[dict[str, Any]]:
    """Figures as JSON-ready rows.

    Args:
        data_dir: the folder that holds `golden_ads`; `$VIDATTR_TEST_DATA` or the data beside the project by default.
        encode: sentences to vectors; the built-in text encoder by default.
    """
    if encode is None:
        from features.videos.embedding import load_text_encoder

        encode = load_text_encoder(threads=2).encode
    encode = remembering(encode)
    adverts = read_adverts(pathlib.Path(data_dir or DATA) / "golden_ads")
    videos = {video.video_id: video for video in adverts.videos}
    fold_of = dict(zip(videos, adverts.folds.tolist(), strict=True))
    funny = load_definition(str(ROOT / "feature_repo" / "attributes" / "funny.yaml"))
    figures: list[dict[str, Any]] = []
    for definition in (funny, EXCITING):
        ratings = [rating for rating in adverts.ratings if rating.attribute == definition.name]
        gold = golden_examples(aggregate(ratings, [definition], datetime.now(UTC)), videos)
        test = [example for example in gold if fold_of[example.video.video_id] in TEST_FOLDS]
        train = [example for example in gold if fold_of[example.video.video_id] not in TEST_FOLDS]
        few = [train[number] for number in np.random.default_rng(0).permutation(len(train))[:FEW]]
        zero_shot = BaselineAnnotator(encode, "benchmark")

        def figure(
            case: str,
            ours: npt.NDArray[np.float64],
            theirs: npt.NDArray[np.float64],
            rated: Sequence[GoldenExample],
            trained: int,
        ) -> None:
            truth = np.array([example.annotation.value == "true" for example in rated])
            figures.append(
                {
                    "name": "zero-shot",
                    "case": case,
                    "metric": "auc",
                    "value": auc(truth, ours),
                    "goal": None,
                    "better": "higher",
                    "ours": auc(truth, ours),
                    "theirs": auc(truth, theirs),
                    "workload": f"{len(rated)} rated adverts, {truth.mean():.2f} positive, {trained} for training",
                }
            )

        for rated, part in ((gold, ""), (test, " folds 6-7")):
            seen = [example.video for example in rated]
            figure(
                f"golden_ads {definition.name}{part}",
                probabilities(zero_shot, definition, seen),
                one_vector(encode, definition, seen),
                rated,
                0,
            )
        for examples in (few, train):
            figure(
                f"golden_ads {definition.name} folds 6-7, {len(examples)} golden",
                probabilities(BaselineAnnotator(encode, "benchmark", examples), definition, [each.video for each in test]),
                tf_idf(
                    [each.video.description for each in examples],
                    np.array([each.annotation.value == "true" for each in examples]),
                    [each.video.description for each in test],
                ),
                test,
                len(examples),
            )
    return figures


if __name__ == "__main__":
    for row in run():
        print(json.dumps(row))
