"""The network's loss and outputs against formulas written out anew."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from features.student.labels import Head
from features.student.model import activations, build_network, masked_loss, prior_logits
from features.student.training import agreement, auc

HEADS = (
    Head("calm", "boolean", (), None, "h", "llm", 9),
    Head("mood", "category", ("happy", "sad", "angry"), None, "h", "llm", 9),
    Head("energy", "score", (), (1.0, 5.0), "h", "llm", 9),
)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def test_loss_is_the_mean_cross_entropy_of_the_pairs_that_have_a_label() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((7, 5)).astype(np.float32)
    targets = np.concatenate([rng.random((7, 1)), rng.dirichlet([1, 1, 1], 7), rng.random((7, 1))], axis=1).astype(np.float32)
    mask = rng.random((7, 3)) < 0.6
    total = 0.0
    for row in range(7):
        if mask[row, 0]:
            total -= targets[row, 0] * np.log(sigmoid(logits[row, 0])) + (1 - targets[row, 0]) * np.log(1 - sigmoid(logits[row, 0]))
        if mask[row, 1]:
            shares = np.exp(logits[row, 1:4]) / np.exp(logits[row, 1:4]).sum()
            total -= float((targets[row, 1:4] * np.log(shares)).sum())
        if mask[row, 2]:
            total -= targets[row, 4] * np.log(sigmoid(logits[row, 4])) + (1 - targets[row, 4]) * np.log(1 - sigmoid(logits[row, 4]))
    loss = masked_loss(HEADS)(np.concatenate([targets, mask], axis=1).astype(np.float32), logits)
    assert float(loss) == pytest.approx(total / mask.sum(), rel=1e-5)


def test_a_batch_without_any_label_costs_nothing() -> None:
    assert float(masked_loss(HEADS)(np.zeros((2, 8), np.float32), np.ones((2, 5), np.float32))) == 0.0


def test_activations_stay_within_what_each_attribute_can_say() -> None:
    logits = np.array([[0.0, 1.0, 1.0, 1.0, 0.0], [80.0, -80.0, 80.0, 0.0, 80.0], [-80.0, 0.0, 0.0, 80.0, -80.0]], np.float32)
    said = {name: np.asarray(value) for name, value in activations(logits, HEADS).items()}
    assert said["calm"].tolist() == pytest.approx([0.5, 1.0, 0.0])
    assert said["mood"].sum(axis=1).tolist() == pytest.approx([1.0] * 3) and said["mood"][1].argmax() == 1
    assert said["energy"].tolist() == pytest.approx([3.0, 5.0, 1.0])


def test_before_learning_each_head_says_the_mean_of_its_labels() -> None:
    targets = np.array([[1.0, 1.0, 0.0, 0.0, 0.5]] * 30 + [[0.0, 0.0, 1.0, 0.0, 0.5]] * 10, np.float32)
    priors = prior_logits(HEADS, targets, np.ones((40, 3), bool))
    network = build_network({"text": 4, "numbers": 2}, HEADS, priors, seed=1)
    said = activations(network({"text": np.zeros((1, 4)), "numbers": np.zeros((1, 2))}, training=False), HEADS)
    assert float(said["calm"][0]) == pytest.approx(30.5 / 41) and float(said["energy"][0]) == pytest.approx(3.0)
    assert np.asarray(said["mood"])[0].tolist() == pytest.approx([(30 + 1 / 3) / 41, (10 + 1 / 3) / 41, (1 / 3) / 41])


def test_equal_seeds_give_equal_networks() -> None:
    rows = {"text": np.ones((3, 4), np.float32)}
    first, second, third = (
        np.asarray(build_network({"text": 4}, HEADS, np.zeros(5, np.float32), seed)(rows, training=False)) for seed in (1, 1, 2)
    )
    assert (first == second).all() and (first != third).any()


def test_auc_against_scikit_learn_with_ties() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        scores, positive = rng.integers(0, 6, 40).astype(np.float32), rng.random(40) < 0.4
        assert auc(scores, positive) == pytest.approx(roc_auc_score(positive, scores))
    assert auc(scores, np.ones(40, bool)) is None


def test_agreement_with_the_teacher() -> None:
    calm, mood, energy = HEADS
    figures = agreement(calm, np.array([0.9, 0.2, 0.6, 0.4], np.float32), np.array([[1.0], [0.0], [0.0], [0.0]], np.float32))
    assert figures == {"n": 4, "agreement": 0.75, "commonest": 0.75, "auc": 1.0}
    assert agreement(mood, np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[[0, 1, 1]])["agreement"] == pytest.approx(2 / 3)
    assert agreement(energy, np.array([2.0, 3.0], np.float32), np.array([[0.0], [1.0]], np.float32))["mae"] == pytest.approx(1.5)
    assert agreement(calm, np.zeros(0, np.float32), np.zeros((0, 1), np.float32))["agreement"] is None
