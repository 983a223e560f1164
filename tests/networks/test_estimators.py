# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Proof by enumeration: in the mean the sampled bag is the bag of all patches, in value and in both gradients."""

from __future__ import annotations

import pytest
import torch
from enumeration import every_draw, ordered_draws

from monai_jsma.networks import ESTIMATORS, Draw, Pathwise, all_cells, draw_cells, pathwise_weights, top_cells

UNBIASED = ("with_replacement", "without_replacement", "systematic")
LOGITS = {
    "flat": [0.0, 0.0, 0.0, 0.0, 0.0],
    "uneven": [0.3, -0.7, 1.1, 0.0, 0.4, -1.5, 0.9, 0.2],
    "peaked": [3.0, -1.0, 0.5, 0.5, -2.0],
    "certain": [12.0, 11.0, 0.0, -3.0, -3.0],
    "impossible": [0.5, float("-inf"), 1.0, 0.0, -0.5],
}
CASES = [
    (estimator, k, name)
    for estimator in UNBIASED
    for name, logits in LOGITS.items()
    for k in (1, 2, 3)
    if estimator != "systematic" or len(logits) <= 5
]


def problem(name):
    """Logits, features, one weight for each number of the bag: float64, and the first two want gradients."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.tensor(LOGITS[name], dtype=torch.float64, requires_grad=True)
    features = torch.randn(len(logits), 3, dtype=torch.float64, generator=generator).requires_grad_()
    return logits, features, torch.randn(3, dtype=torch.float64, generator=generator)


def moments(bag, logits, features, direction):
    """The bag, and the gradients of one number made from it."""
    return bag, *torch.autograd.grad((bag * direction).sum(), (features, logits), retain_graph=True)


def bags(draw, log_prob, features, aggregate=None):
    weights = pathwise_weights(draw, log_prob.expand(len(draw.cells), -1))
    drawn = features[draw.cells]
    return (weights[..., None] * drawn).sum(1) if aggregate is None else aggregate(drawn, weights)


def expected(name, k, estimator, aggregate=None):
    """(value, gradient of the features, gradient of the logits): with all patches, and in the mean over all draws."""
    logits, features, direction = problem(name)
    log_prob = logits.log_softmax(0)
    draw, chances = every_draw(log_prob, k, estimator)
    torch.testing.assert_close(chances.sum(), torch.tensor(1.0, dtype=torch.float64), rtol=0, atol=1e-12)
    mean = chances @ bags(draw, log_prob, features, aggregate)
    return moments(log_prob.exp() @ features, logits, features, direction), moments(mean, logits, features, direction)


@pytest.mark.parametrize(("estimator", "k", "name"), CASES)
def test_unbiased_in_value_and_both_gradients(estimator, k, name):
    for full, mean in zip(*expected(name, k, estimator)):
        torch.testing.assert_close(mean, full, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("estimator", "k", "name"), CASES)
def test_weights_of_every_draw_sum_to_one(estimator, k, name):
    draw, chances = every_draw(problem(name)[0].log_softmax(0), k, estimator)
    total = draw.weights[chances > 1e-12].sum(dim=1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)
    assert draw.weights.dtype == torch.float64
    assert (draw.weights >= 0).all()


@pytest.mark.parametrize("name", ["uneven", "peaked"])
def test_paper_has_its_known_bias(name):
    """E = sum_i pi_i P_i f_i, pi_i being the probability that cell i is among those drawn; so in the gradients."""
    full, mean = expected(name, 2, "paper")
    logits, features, direction = problem(name)
    prob = logits.softmax(0)
    cells, chances = ordered_draws(prob.detach(), 2)
    inclusion = torch.stack([chances[(cells == i).any(1)].sum() for i in range(len(prob))])
    for reference, value, unbiased in zip(
        moments((inclusion * prob) @ features, logits, features, direction), mean, full
    ):
        torch.testing.assert_close(value, reference, rtol=0, atol=1e-10)
        assert (value - unbiased).norm() > 0.05 * unbiased.norm()


def test_normalized_weighs_by_share_and_is_biased():
    draw, _ = every_draw(problem("uneven")[0].log_softmax(0), 2, "normalized")
    prob = problem("uneven")[0].softmax(0).detach()[draw.cells]
    torch.testing.assert_close(draw.weights, prob / prob.sum(1, keepdim=True))
    for full, mean in zip(*expected("uneven", 2, "normalized")):
        assert (mean - full).norm() > 0.05 * full.norm()


@pytest.mark.parametrize("estimator", ["paper", "normalized", "without_replacement", "systematic"])
@pytest.mark.parametrize(("name", "k"), [("peaked", 5), ("peaked", 9), ("impossible", 4), ("impossible", 5)])
def test_exact_when_all_possible_cells_are_drawn(estimator, name, k):
    logits, features, direction = problem(name)
    log_prob = logits.log_softmax(0)
    draw = draw_cells(log_prob[None], k, estimator, generator=torch.Generator().manual_seed(0))
    full = moments(log_prob.exp() @ features, logits, features, direction)
    for value, reference in zip(moments(bags(draw, log_prob, features)[0], logits, features, direction), full):
        torch.testing.assert_close(value, reference, rtol=0, atol=1e-12)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_gradients_match_finite_differences(estimator):
    """With the draw fixed the bag is sum_t w_t P_t f_t, w_t = c_t / P_t constant."""
    logits, features, direction = problem("uneven")
    log_prob = logits.log_softmax(0)
    draw = draw_cells(log_prob[None], 3, estimator, generator=torch.Generator().manual_seed(3))
    w = draw.weights / log_prob.detach().exp()[draw.cells]

    def bag(logits, features):
        return ((w * logits.softmax(0)[draw.cells])[..., None] * features[draw.cells]).sum(1)

    assert torch.autograd.gradcheck(bag, (logits, features))
    for value, reference in zip(
        moments(bags(draw, log_prob, features), logits, features, direction),
        moments(bag(logits, features), logits, features, direction),
    ):
        torch.testing.assert_close(value, reference)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_permuted_cells_give_the_same_bag(estimator):
    logits, features, direction = problem("uneven")
    draw = draw_cells(logits.log_softmax(0).expand(20, -1), 2, estimator, generator=torch.Generator().manual_seed(0))
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(0))
    moved = Draw(order.argsort()[draw.cells], draw.weights, draw.drawn)
    plain = moments(bags(draw, logits.log_softmax(0), features), logits, features, direction)
    permuted = moments(bags(moved, logits[order].log_softmax(0), features[order]), logits, features, direction)
    for value, reference in zip(permuted, plain):
        torch.testing.assert_close(value, reference)


def test_all_cells_is_equation_one():
    logits, features, direction = problem("impossible")
    log_prob = logits.log_softmax(0)
    draw = all_cells(log_prob[None])
    assert draw.drawn.tolist() == [[True, False, True, True, True]]
    bag = (draw.weights[..., None] * features).sum(1)[0]
    torch.testing.assert_close(bag, logits.softmax(0) @ features)


@pytest.mark.parametrize("k", [1, 2, 4, 7])
def test_top_cells_are_the_most_attended(k):
    log_prob = torch.tensor(LOGITS["impossible"], dtype=torch.float64).log_softmax(0)
    draw, literal = top_cells(log_prob[None], k), top_cells(log_prob[None], k, normalize=False)
    best = sorted(range(5), key=lambda i: -log_prob[i])[:k]
    assert draw.cells[0].tolist() == best
    prob = log_prob.exp()[best]
    torch.testing.assert_close(literal.weights[0], prob)
    torch.testing.assert_close(draw.weights[0], prob / prob.sum())
    assert draw.drawn[0].tolist() == [i != 1 for i in best]


def test_centring_leaves_value_and_feature_gradient_and_shrinks_the_attentions():
    """Subtracting a mean that contains the draw itself costs the attention's gradient a factor of exactly 1 - 1 / k."""
    for k in (2, 3):
        full, mean = expected("peaked", k, "with_replacement", Pathwise(k, centered=True).aggregate)
        torch.testing.assert_close(mean[0], full[0], rtol=0, atol=1e-10)
        torch.testing.assert_close(mean[1], full[1], rtol=0, atol=1e-10)
        torch.testing.assert_close(mean[2], (1 - 1 / k) * full[2], rtol=0, atol=1e-10)


def test_centring_lowers_the_variance_of_the_attention_gradient():
    def variance(aggregate):
        logits, features, direction = problem("uneven")
        features = features + 10.0  # what all patches share says nothing about where to look
        log_prob = logits.log_softmax(0)
        draw, chances = every_draw(log_prob, 2, "with_replacement")
        values = bags(draw, log_prob, features, aggregate) @ direction
        each = torch.stack([torch.autograd.grad(value, logits, retain_graph=True)[0] for value in values])
        return (chances @ (each - chances @ each).square()).sum()

    assert variance(Pathwise(2, centered=True).aggregate) < 0.1 * variance(None)
