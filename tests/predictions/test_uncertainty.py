# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Uncertainties by hand, and how they order the errors: by hand, and by brute force over all orders."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from monai_jsma.predictions.measures import mutual_information, predictive_entropy
from monai_jsma.report import compute_scores
from monai_jsma.report.selective import (
    SELECTIVE,
    compute_risk_coverage,
    make_orders,
    make_risk_coverage_curve,
    score_order,
)


def test_predictive_entropy_by_hand():
    found = predictive_entropy([[1, 0, 0, 0], [0.25] * 4, [0.5, 0.25, 0.25, 0]])
    assert found == pytest.approx([0, math.log(4), 1.5 * math.log(2)], abs=1e-9)


def test_mutual_information_by_hand():
    agree_unsure, disagree_sure = [[0.5, 0.5]] * 2, [[1, 0], [0, 1]]
    half_way = [[0.75, 0.25], [0.25, 0.75]]
    found = mutual_information([agree_unsure, disagree_sure, half_way])
    # Of the last: log 2 minus the entropy of (3/4, 1/4), log 4 - 3/4 log 3.
    assert found == pytest.approx([0, math.log(2), 0.75 * math.log(3) - math.log(2)], abs=1e-9)
    assert mutual_information([[0.3, 0.7]]) == 0  # one draw


def test_mutual_information_is_that_of_the_joint_table():
    """Of label and number of the draw, from their joint probabilities: KL from the product of the marginals."""
    draws = np.random.default_rng(0).dirichlet(np.ones(3), (4, 6))
    joint = draws / 6
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=2, keepdims=True)
    expected = (joint * np.log(joint / product)).sum(axis=(1, 2))
    assert mutual_information(draws) == pytest.approx(expected, abs=1e-9)
    assert predictive_entropy(draws) == pytest.approx(torch.distributions.Categorical(torch.tensor(draws)).entropy())


def test_what_differs_by_rounding_alone_is_equal():
    """Sums depend on the order of their terms; ties must not."""
    draws = np.random.default_rng(1).dirichlet(np.ones(4), 300)
    for turned in map(list, itertools.permutations(range(4))):
        assert predictive_entropy(draws[:, turned]).tolist() == predictive_entropy(draws).tolist()
    found = mutual_information(np.stack([draws] * 3, axis=1))  # three draws that agree
    assert found.tolist() == [0.0] * 300
    assert not np.signbit(found).any()


def test_risk_coverage_by_hand():
    wrong, uncertainty = np.array([0, 1, 0, 1, 0.0]), np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    assert compute_risk_coverage(wrong, uncertainty) == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4, 2 / 5])
    assert compute_risk_coverage(wrong, -uncertainty) == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4, 2 / 5])
    found = dict(zip(SELECTIVE, score_order(wrong, uncertainty), strict=True))
    aurc = (1 / 2 + 1 / 3 + 2 / 4 + 2 / 5) / 5
    # Half of five predictions are three, 80 % are four.
    assert found == pytest.approx({"aurc": aurc, "gain": 0.4 - aurc, "accuracy_50": 2 / 3, "accuracy_80": 1 / 2})


def test_perfect_and_random_order_by_hand():
    wrong = np.array([1, 0, 0, 1.0])
    found = {name: score_order(wrong, by)[0] for name, by in make_orders(wrong, {}).items()}
    assert found == pytest.approx({"perfect": (1 / 3 + 2 / 4) / 4, "random": 1 / 2})
    assert compute_risk_coverage(wrong, np.zeros(4)) == pytest.approx([0.5] * 4)


@pytest.mark.parametrize("seed", range(8))
def test_ties_are_the_mean_over_all_orders(seed):
    generator = np.random.default_rng(seed)
    wrong, uncertainty = generator.integers(2, size=7).astype(float), generator.integers(3, size=7)
    allowed = [order for order in itertools.permutations(range(7)) if (np.diff(uncertainty[list(order)]) >= 0).all()]
    assert len(allowed) > 1
    every = [np.cumsum(wrong[list(order)]) / np.arange(1, 8) for order in allowed]
    np.testing.assert_allclose(compute_risk_coverage(wrong, uncertainty), np.mean(every, axis=0), atol=1e-12)
    shuffled = generator.permutation(7)
    np.testing.assert_allclose(compute_risk_coverage(wrong[shuffled], uncertainty[shuffled]), np.mean(every, axis=0))


@pytest.mark.parametrize("seed", range(4))
def test_no_order_is_better_than_the_perfect_one(seed):
    wrong = np.random.default_rng(seed).integers(2, size=6).astype(float)
    every = {np.mean(np.cumsum(one) / np.arange(1, 7)) for one in itertools.permutations(wrong)}
    perfect, by_chance = (score_order(wrong, by)[0] for by in make_orders(wrong, {}).values())
    assert perfect == pytest.approx(min(every))
    permuted = [np.mean(np.cumsum(one) / np.arange(1, 7)) for one in itertools.permutations(wrong)]
    assert by_chance == pytest.approx(np.mean(permuted))


@pytest.mark.parametrize("wrong", [0.0, 1.0])
def test_all_right_and_all_wrong(wrong):
    found = score_order(np.full(5, wrong), np.arange(5))
    assert found.tolist() == [wrong, 0, 1 - wrong, 1 - wrong]


def test_one_prediction():
    assert score_order(np.ones(1), np.array([0.3])).tolist() == [1, 0, 0, 0]
    assert make_risk_coverage_curve(np.ones(1), np.array([0.3])) == {"coverage": [1], "risk": [1]}


def test_what_has_no_place_in_the_order_is_undefined():
    assert np.isnan(compute_risk_coverage(np.zeros(3), np.array([0.1, np.nan, 0.2]))).all()
    assert np.isnan(score_order(np.zeros(3), np.array([0.1, np.nan, 0.2]))).all()


def test_long_curves_are_thinned():
    generator = np.random.default_rng(0)
    wrong, uncertainty = generator.integers(2, size=5000).astype(float), generator.random(5000)
    curve, risk = make_risk_coverage_curve(wrong, uncertainty), compute_risk_coverage(wrong, uncertainty)
    assert len(curve["coverage"]) == 200
    assert (curve["coverage"][0], curve["coverage"][-1]) == (1 / 5000, 1)
    kept = (np.array(curve["coverage"]) * 5000).round().astype(int)
    assert curve["risk"] == risk[kept - 1].tolist()


def test_the_score_orders_by_predictive_entropy():
    """The third is the least certain by entropy, though not by its highest probability; the second is wrong."""
    probabilities = np.array([[0.9, 0.1, 0], [0.5, 0.5, 0], [0.52, 0.24, 0.24]])
    found = compute_scores(np.array([0, 1, 0]), probabilities)
    assert found["aurc"] == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)
