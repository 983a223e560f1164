# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Drawing cells: how often, which, with what probability, and that extreme attention stays finite."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from enumeration import every_draw, ordered_draws
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from monai_jsma.networks import (
    ESTIMATORS,
    draw_cells,
    draw_in_order,
    draw_independently,
    draw_log_prob,
    draw_systematically,
    inclusion_probabilities,
    pathwise_weights,
    top_cells,
)

PROB = torch.tensor([0.45, 0.05, 0.2, 0.1, 0.2], dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def outcomes(cells, base=5):
    """One number for each row of drawn cells."""
    return (cells * base ** torch.arange(cells.shape[1])).sum(1).numpy()


def assert_frequencies(drawn, possible, chances, rows):
    """Chi-square of what was drawn against the exact probability of every outcome."""
    keys = np.unique(outcomes(possible))
    exact = np.array([chances.numpy()[outcomes(possible) == key].sum() for key in keys])
    counts = np.array([(outcomes(drawn) == key).sum() for key in keys])
    likely = exact * rows >= 5
    assert counts.sum() == rows  # nothing impossible was drawn
    counts = np.append(counts[likely], counts[~likely].sum() + 1e-9)
    expected = np.append(exact[likely] * rows, exact[~likely].sum() * rows + 1e-9)
    assert chisquare(counts, expected * counts.sum() / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_frequencies_of_draws(k, dtype):
    rows = 20_000
    log_prob = PROB.log().to(dtype).expand(rows, -1)
    ordered = draw_in_order(log_prob, k, seeded(1))
    assert_frequencies(ordered, *ordered_draws(PROB, k), rows)
    draw, chances = every_draw(PROB.log(), k, "with_replacement")
    assert_frequencies(draw_independently(log_prob, k, seeded(2)), draw.cells, chances, rows)
    draw, chances = every_draw(PROB.log(), k, "systematic")
    systematic, inclusion = draw_systematically(log_prob, k, seeded(3))
    assert_frequencies(systematic.sort(1).values, draw.cells.sort(1).values, chances, rows)
    frequency = torch.bincount(systematic.flatten(), minlength=5) / rows
    torch.testing.assert_close(frequency.double(), inclusion[0], rtol=0, atol=0.02)


def slow_inclusion(prob, k):
    """pi = min(1, c P) with sum k, by giving certain cells away until the rest fits."""
    possible = [i for i, p in enumerate(prob) if p > 0]
    if len(possible) <= k:
        return [float(i in possible) for i in range(len(prob))]
    certain = set()
    while True:
        rest = math.fsum(prob[i] for i in possible if i not in certain)
        c = (k - len(certain)) / rest
        more = {i for i in possible if i not in certain and c * prob[i] > 1}
        if not more:
            return [1.0 if i in certain else c * p for i, p in enumerate(prob)]
        certain |= more


numbers = st.one_of(st.integers(0, 3).map(float), st.floats(1e-9, 1.0), st.sampled_from([0.0, 1e-30, 1e6]))
weights = st.lists(numbers, min_size=1, max_size=12).filter(lambda w: sum(w) > 1e-6)


@settings(deadline=None, max_examples=300)
@given(weights, st.integers(1, 13), st.integers(0, 1000))
def test_inclusion_probabilities(weights, k, seed):
    prob = torch.tensor(weights, dtype=torch.float64)
    prob = prob / prob.sum()
    possible = int((prob > 0).sum())
    inclusion = inclusion_probabilities(prob.log()[None], k)[0]
    assert ((inclusion >= 0) & (inclusion <= 1)).all()
    assert float(inclusion.sum()) == pytest.approx(min(k, possible), abs=1e-9)
    torch.testing.assert_close(inclusion, torch.tensor(slow_inclusion(prob.tolist(), k), dtype=torch.float64))
    draw = draw_cells(prob.log()[None], k, "systematic", generator=seeded(seed))
    hit = draw.cells[0][draw.drawn[0]].tolist()
    assert len(set(hit)) == len(hit) == min(k, possible)
    assert all(inclusion[i] > 0 for i in hit)
    assert set(torch.nonzero(inclusion == 1).flatten().tolist()) <= set(hit)
    assert float(draw.weights.sum()) == pytest.approx(1, abs=1e-12)


def test_inclusion_of_one_hot_ties_and_zeros():
    log_prob = torch.tensor([[1.0, 0, 0, 0], [0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.1, 0.1], [0.5, 0.5, 0, 0]]).log()
    reference = [[1.0, 0, 0, 0], [0.5] * 4, [1, 1 / 3, 1 / 3, 1 / 3], [1, 1, 0, 0]]
    torch.testing.assert_close(inclusion_probabilities(log_prob, 2), torch.tensor(reference, dtype=torch.float64))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_same_seed_same_draw(estimator):
    log_prob = torch.randn(4, 30, generator=seeded()).log_softmax(1)
    first, again, other = (draw_cells(log_prob, 5, estimator, generator=seeded(s)) for s in (7, 7, 8))
    assert torch.equal(first.cells, again.cells)
    assert torch.equal(first.weights, again.weights)
    assert not torch.equal(first.cells, other.cells)
    torch.manual_seed(7)
    unnamed = draw_cells(log_prob, 5, estimator)
    torch.manual_seed(7)
    assert torch.equal(unnamed.cells, draw_cells(log_prob, 5, estimator).cells)


@pytest.mark.parametrize("estimator", [*ESTIMATORS, "top"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_attention_stays_finite(estimator, dtype):
    """Logits of +-1e4, one-hot, cells that do not exist, and more draws than cells."""
    far, none = 1e4, float("-inf")
    hot, masked = [far, -far, -far, -far], [-far, -far, none, -far]
    rows = [[far, -far, 0, far], hot, [0, 0, none, none], [0, none, none, none], masked]
    logits = torch.tensor(rows, dtype=dtype, requires_grad=True)
    log_prob = logits.log_softmax(1)
    features = torch.randn(4, 3, dtype=dtype, generator=seeded(), requires_grad=True)
    for k in (1, 3, 6):
        draw = top_cells(log_prob, k)
        if estimator != "top":
            draw = draw_cells(log_prob, k, estimator, generator=seeded(k))
        bag = (pathwise_weights(draw, log_prob)[..., None] * features[draw.cells]).sum(1)
        gradients = torch.autograd.grad(bag.sum(), (logits, features), retain_graph=True)
        assert all(torch.isfinite(x).all() for x in (bag, *gradients, draw.weights))
        assert not draw.weights[~draw.drawn].any()
        assert torch.isfinite(log_prob.gather(1, draw.cells))[draw.drawn].all()
        if estimator != "paper":
            torch.testing.assert_close(draw.weights.sum(1), torch.ones(5, dtype=dtype))


@pytest.mark.parametrize("in_order", [True, False])
def test_log_probability_of_draws(in_order):
    """Summed over a sequence it is the logarithm of that sequence's probability; every sequence counted they make 1."""
    log_prob = PROB.log()
    if in_order:
        cells, chances = ordered_draws(PROB, 3)
    else:
        draw, chances = every_draw(log_prob, 3, "with_replacement")
        cells = draw.cells
    each = draw_log_prob(log_prob.expand(len(cells), -1), cells, in_order=in_order)
    torch.testing.assert_close(each.sum(1).exp(), chances)
    one = cells[17:18]
    logits = torch.randn(1, 5, dtype=torch.float64, generator=seeded(), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: draw_log_prob(x.log_softmax(1), one, in_order=in_order), (logits,))


def test_log_probability_of_draws_beyond_the_last_cell_is_zero():
    logits = torch.tensor([[0.0, 1e4, float("-inf"), -1e4]], requires_grad=True)
    cells = torch.tensor([[1, 3, 0, 2]])
    value = draw_log_prob(logits.log_softmax(1), cells, in_order=True)
    torch.testing.assert_close(value, torch.tensor([[0.0, -1e4, 0.0, 0.0]]))
    value.sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_errors():
    log_prob = PROB.log()[None]
    with pytest.raises(ValueError, match="at least 1, but got 0"):
        draw_cells(log_prob, 0, "paper")
    with pytest.raises(ValueError, match="unknown estimator 'best'; choose one of paper, normalized"):
        draw_cells(log_prob, 2, "best")
