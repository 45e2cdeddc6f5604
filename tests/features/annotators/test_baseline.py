from __future__ import annotations

import asyncio
import dataclasses
import json
import pathlib
import pickle
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.annotators.baseline import BaselineAnnotator, GoldenExample, golden_examples
from features.annotators.golden_head import GoldenHead, Judged, sigmoid
from features.annotators.matching import Encode, soft_maximum, unit_rows
from features.annotators.protocol import AnnotationRequest, Answer
from features.attributes.definition import AttributeDefinition, Example
from features.attributes.golden import Rating, aggregate
from features.attributes.loading import load_definitions
from features.records import Annotation, VideoFeatures, from_table, to_table

NOW = datetime(2026, 11, 25, tzinfo=UTC)
CALM = AttributeDefinition(
    "calm",
    "Calm",
    "Is it calm?",
    "Little happens.",
    includes=("Quiet nature scenes with slow waves", "Soft music and rain"),
    excludes=("Fast cuts and loud shouting", "A crowd at a party"),
)
WARMTH = dataclasses.replace(CALM, name="warmth", value_type="score", score_range=(1.0, 5.0))
MOOD = AttributeDefinition(
    "mood",
    "Mood",
    "Which mood?",
    "A mood.",
    includes=("sleepy: slow waves and soft rain",),
    examples=(Example("A crowd at a loud party", "lively", "people dance"),),
    value_type="category",
    labels=("sleepy", "lively"),
)
WAVES = "Slow waves and quiet nature"
PARTY = "A loud party with a shouting crowd"


def video(title: str, **fields: object) -> VideoFeatures:
    return VideoFeatures(title, "h", "content of " + title, "e", title=title, **fields)  # type: ignore[arg-type]


def answer(annotator: BaselineAnnotator, definition: AttributeDefinition, of: VideoFeatures) -> Answer:
    (reply,) = annotator.annotate_many([AnnotationRequest(of, (definition,))])
    assert reply.refusals == ()
    return reply.answers[0]


def likely(annotator: BaselineAnnotator, definition: AttributeDefinition, title: str) -> float:
    probability = answer(annotator, definition, video(title)).probability
    assert probability is not None
    return probability


@pytest.fixture
def baseline(encode: Encode) -> BaselineAnnotator:
    return BaselineAnnotator(encode, "words-1", clock=lambda: 5.0)


def test_a_boolean_says_true_where_what_counts_is_close(baseline: BaselineAnnotator) -> None:
    calm, loud = answer(baseline, CALM, video(WAVES)), answer(baseline, CALM, video(PARTY))
    assert (calm.value, loud.value) == ("true", "false") and calm.answered_at == 5.0
    assert calm.probability is not None and loud.probability is not None
    assert calm.probability > 0.8 and loud.probability < 0.2
    assert calm.rationale.startswith(f'title "{WAVES}" is closest to "Quiet nature scenes with slow waves" (0.')
    assert loud.rationale.endswith("which does not count")
    assert answer(baseline, CALM, video("Tax law")).value == "false"


def test_one_telling_sentence_is_not_drowned_by_ordinary_ones(baseline: BaselineAnnotator) -> None:
    talk = "I went to the shop. Then I bought bread. It was Monday. The bus was late. "
    with_waves = video("My day", description=talk + WAVES + ".")
    without = video("My day", description=talk)
    assert (answer(baseline, CALM, with_waves).probability or 0) > (answer(baseline, CALM, without).probability or 0) + 0.1


def test_a_category_gives_a_label_and_its_probability(baseline: BaselineAnnotator) -> None:
    sleepy, lively = answer(baseline, MOOD, video("slow waves")), answer(baseline, MOOD, video("a loud crowd"))
    assert (sleepy.value, lively.value) == ("sleepy", "lively")
    assert all(0.5 < (each.probability or 0) <= 1 for each in (sleepy, lively))
    assert '"slow waves and soft rain"' in sleepy.rationale


def test_a_score_stays_in_its_range(baseline: BaselineAnnotator) -> None:
    high, low = answer(baseline, WARMTH, video(WAVES)), answer(baseline, WARMTH, video(PARTY))
    assert 1.0 <= float(low.value) < 3.0 < float(high.value) <= 5.0 and high.probability is None


def test_only_admitted_evidence_is_read(baseline: BaselineAnnotator) -> None:
    told = video("Untitled", description=WAVES)
    only_title = dataclasses.replace(CALM, evidence=("title", "frames"))
    assert answer(baseline, CALM, told).value == "true" and answer(baseline, only_title, told).value == "false"
    assert answer(baseline, only_title, told) == answer(baseline, only_title, video("Untitled", description=PARTY))


def test_a_video_with_nothing_to_read_is_refused_and_not_guessed_at(baseline: BaselineAnnotator) -> None:
    reply, other = baseline.annotate_many([AnnotationRequest(video(""), (CALM, MOOD)), AnnotationRequest(video(WAVES), (CALM,))])
    assert [refusal.kind for refusal in reply.refusals] == ["no_evidence"] * 2 and reply.answers == ()
    assert len(other.answers) == 1
    assert baseline.annotate_many([AnnotationRequest(video(""), (CALM,))])[0].refusals != ()


def test_a_definition_without_includes_or_excludes_goes_by_its_paragraph(baseline: BaselineAnnotator) -> None:
    bare = AttributeDefinition("calm", "Calm", "Is it calm?", "Slow waves. Quiet nature.")
    assert likely(baseline, bare, WAVES) > 0.8 > likely(baseline, bare, PARTY)


def test_many_videos_are_encoded_in_one_call(encode: Encode) -> None:
    calls: list[int] = []

    def counted(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        calls.append(len(texts))
        return encode(texts)

    annotator = BaselineAnnotator(counted, "words-1")
    annotator.annotate_many(
        [AnnotationRequest(video(f"title {number}", description="The same"), (CALM, MOOD)) for number in range(9)]
    )
    assert len(calls) == 3 and calls[-1] == 10, "one call a definition, one for the nine titles and what they share"
    annotator.annotate_many([AnnotationRequest(video("again"), (CALM,))])
    assert len(calls) == 4 and calls[-1] == 1


def test_it_answers_many_at_once_like_one_by_one(baseline: BaselineAnnotator) -> None:
    requests = [AnnotationRequest(video(f"{title} {number}"), (CALM, MOOD)) for number in range(20) for title in (WAVES, PARTY)]

    async def together() -> list[object]:
        baseline.open()
        replies = await asyncio.gather(*(baseline.annotate(request) for request in requests))
        await baseline.close()
        return list(replies)

    assert asyncio.run(together()) == [baseline.annotate_many([request])[0] for request in requests]


# Golden examples


def rated(definition: AttributeDefinition, titles: dict[str, str], count: int = 12) -> tuple[GoldenExample, ...]:
    """`count` videos a title, rated alike by three raters."""
    videos = {each.video_id: each for title in titles for number in range(count) for each in [video(f"{title} {number}")]}
    ratings = [
        Rating(name, definition.name, rater, titles[name.rsplit(" ", 1)[0]]) for name in videos for rater in ("ann", "ben", "cy")
    ]
    return golden_examples(aggregate(ratings, [definition], NOW), videos)


def test_golden_examples_teach_what_the_definition_does_not_say(encode: Encode, baseline: BaselineAnnotator) -> None:
    golden = rated(CALM, {"knitting scarves": "true", "drums": "false"})
    taught = BaselineAnnotator(encode, "words-1", golden)
    assert likely(baseline, CALM, "knitting") == pytest.approx(likely(baseline, CALM, "drums"))
    assert likely(taught, CALM, "drums") < likely(taught, CALM, "knitting") - 0.1
    assert likely(taught, CALM, WAVES) > likely(taught, CALM, PARTY), "the definition goes on to count"
    assert answer(taught, CALM, video("knitting")).rationale.endswith("; weighed by 24 Golden examples")


def test_too_few_examples_leave_the_zero_shot_judgement(encode: Encode, baseline: BaselineAnnotator) -> None:
    one_sided = BaselineAnnotator(encode, "words-1", rated(CALM, {"knitting": "true", "drums": "true"}), clock=lambda: 5.0)
    few = BaselineAnnotator(encode, "words-1", rated(CALM, {"knitting": "true", "drums": "false"}, 7), clock=lambda: 5.0)
    for annotator in (one_sided, few):
        assert annotator.identity == baseline.identity
        assert answer(annotator, CALM, video("knitting")) == answer(baseline, CALM, video("knitting"))


def test_categories_and_scores_learn_too(encode: Encode) -> None:
    taught = BaselineAnnotator(
        encode,
        "words-1",
        rated(MOOD, {"knitting": "sleepy", "drums": "lively"}) + rated(WARMTH, {"sauna": "5", "glacier": "1"}),
    )
    assert answer(taught, MOOD, video("drums")).value == "lively"
    assert float(answer(taught, WARMTH, video("sauna")).value) > 3.5 > 2.5 > float(answer(taught, WARMTH, video("glacier")).value)


def test_a_head_asks_again_about_its_own_attribute_only(encode: Encode, baseline: BaselineAnnotator) -> None:
    golden = rated(CALM, {"knitting": "true", "drums": "false"})
    taught = BaselineAnnotator(encode, "words-1", golden).identity
    turned = BaselineAnnotator(encode, "words-1", tuple(reversed(golden))).identity
    fewer = BaselineAnnotator(encode, "words-1", golden[1:]).identity
    plain, other = baseline.identity, BaselineAnnotator(encode, "words-2").identity
    keys = [each.answer_key("content", CALM.definition_hash) for each in (plain, taught, fewer, other)]
    assert len(set(keys)) == 4 and turned == taught
    assert taught.answer_key("content", MOOD.definition_hash) == plain.answer_key("content", MOOD.definition_hash)
    edited = dataclasses.replace(CALM, definition="Nothing happens.")
    assert taught.answer_key("content", edited.definition_hash) == plain.answer_key("content", edited.definition_hash)


def test_golden_examples_read_back_from_a_table_are_the_same(encode: Encode) -> None:
    golden = rated(CALM, {"knitting": "true", "drums": "false"})
    halves = [dataclasses.replace(each, annotation=dataclasses.replace(each.annotation, probability=0.8)) for each in golden]
    table = to_table([each.annotation for each in halves], Annotation)
    read = golden_examples(from_table(table, Annotation), {each.video.video_id: each.video for each in golden})
    assert read != tuple(halves)
    assert BaselineAnnotator(encode, "words-1", read).identity == BaselineAnnotator(encode, "words-1", halves).identity


def test_examples_without_features_or_with_a_retraction_are_left_out() -> None:
    golden = rated(CALM, {"knitting": "true"}, 2)
    annotations = [golden[0].annotation, dataclasses.replace(golden[1].annotation, value=None)]
    assert golden_examples(annotations, {each.video.video_id: each.video for each in golden}) == golden[:1]
    assert golden_examples(annotations, {}) == ()


def test_it_travels_to_a_worker() -> None:
    annotator = BaselineAnnotator(_two_numbers, "two", rated(CALM, {"knitting": "true", "drums": "false"}))
    copy = pickle.loads(pickle.dumps(annotator))
    assert copy.identity == annotator.identity and likely(copy, CALM, WAVES) == likely(annotator, CALM, WAVES)


def _two_numbers(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    return np.array([[len(text), text.count("a")] for text in texts], np.float32)


@given(st.text(max_size=60), st.text(max_size=200), st.lists(st.text(max_size=20), max_size=3))
def test_any_text_gives_a_number_or_a_refusal(title: str, description: str, hashtags: list[str]) -> None:
    annotator = BaselineAnnotator(_two_numbers, "two")
    anything = VideoFeatures("v", "h", "c", "e", title=title, description=description, hashtags=tuple(hashtags))
    (reply,) = annotator.annotate_many([AnnotationRequest(anything, (CALM, MOOD, WARMTH))])
    assert len(reply.answers) + len(reply.refusals) == 3
    for each, definition in zip(reply.answers, (CALM, MOOD, WARMTH), strict=False):
        definition.number(each.value, each.probability)
        assert each.probability is None or 0 <= each.probability <= 1


def test_the_soft_maximum_lies_between_mean_and_maximum() -> None:
    values = np.random.default_rng(0).normal(size=(5, 7))
    np.testing.assert_allclose(soft_maximum(values, 1), np.log(np.exp(10 * values).mean(1)) / 10)
    assert np.all(soft_maximum(values, 1) <= values.max(1)) and np.all(soft_maximum(values, 1) >= values.mean(1))


def test_the_head_is_a_penalised_logistic_regression() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    random = np.random.default_rng(1)
    vectors = unit_rows(random.normal(size=(200, 6)))
    truth = (vectors[:, 0] + 0.3 * random.normal(size=200) > 0).astype(float)
    judged = [Judged(np.zeros(1), np.zeros(0), vector, ()) for vector in vectors]
    head = GoldenHead.fit(judged, truth[:, np.newaxis])
    # Without zero-shot judgement, closeness and words what is left is ridge-penalised regression on the scaled vectors.
    theirs = linear_model.LogisticRegression(C=1.0, tol=1e-8).fit(1.5 * (vectors - vectors.mean(0)), truth)
    ours = np.array([sigmoid(head.logits(each))[0] for each in judged])
    np.testing.assert_allclose(ours, theirs.predict_proba(1.5 * (vectors - vectors.mean(0)))[:, 1], atol=1e-4)


def test_a_definition_that_misleads_counts_for_nothing_and_not_for_its_opposite() -> None:
    random = np.random.default_rng(2)
    truth = np.arange(100) % 2 == 0
    judged = [Judged(np.array([-3.0 if true else 3.0]), np.zeros(0), random.normal(size=4) * 0.01, ()) for true in truth]
    head = GoldenHead.fit(judged, truth[:, np.newaxis].astype(float))
    assert head.weights[0, 1] == 0.0


# Real weights


@pytest.fixture(scope="module")
def minilm() -> BaselineAnnotator:
    from features import weights
    from features.errors import Transient
    from features.videos.embedding import load_text_encoder

    try:
        weights.install()
        encoder = load_text_encoder()
    except Transient as error:
        pytest.skip(f"model weights are not installed and cannot be downloaded: {error}")
    return BaselineAnnotator(encoder.encode, encoder.version)


def test_with_real_weights_the_definitions_tell_clips_apart(
    minilm: BaselineAnnotator, repo_root: pathlib.Path, shared_data: pathlib.Path
) -> None:
    definitions = {each.name: each for each in load_definitions(str(repo_root / "feature_repo" / "attributes"))}
    clips = {}
    for line in (shared_data / "clips" / "manifest.jsonl").read_text().splitlines():
        row = json.loads(line)
        clips[row["video_id"]] = VideoFeatures(
            row["video_id"], "h", row["video_id"], "e", title=row["title"], description=row["description"]
        )
    replies = minilm.annotate_many([AnnotationRequest(clip, tuple(definitions.values())) for clip in clips.values()])
    found = {
        (clip, each.attribute): each.probability or 0.0
        for clip, reply in zip(clips, replies, strict=True)
        for each in reply.answers
    }
    assert found["squirrel-on-rail", "calming"] > 0.5 > found["cars-from-above", "calming"]
    assert found["butterfly-in-sun", "calming"] > found["station-roofs", "calming"]
    assert found["bunny-wakes", "cozy"] > found["office-desk", "cozy"]
    assert found["squirrel-on-rail", "calming"] > found["squirrel-on-rail", "energetic"]
