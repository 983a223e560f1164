# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The attention network against the paper's formula written out, its dropout and its regulariser."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from monai_jsma.networks import AttentionNetwork, attention_dropout, log_prior, negative_entropy

BACH = ((2, 2), (3, 4), (6, 7))
SMALL = ((1, 1), (2, 3))


def network(channels=5, levels=3, std=1.0, **options):
    torch.manual_seed(0)
    net = AttentionNetwork(channels, levels, **options)
    for conv in net.logits:
        torch.nn.init.normal_(conv.weight, std=std)
    return net


def slow_logits(net, features, grids):
    """Each cell the mean of the pixels that it touches, weighed by the convolution: one array for all levels."""
    (channels, height, width), logits = features.shape, []
    for conv, (rows, cols) in zip(net.logits, grids):
        w, b = conv.weight.detach().double().numpy().reshape(channels), conv.bias.item()
        for r in range(rows):
            for c in range(cols):
                top, bottom = r * height // rows, -(-(r + 1) * height // rows)
                left, right = c * width // cols, -(-(c + 1) * width // cols)
                logits.append(features[:, top:bottom, left:right].mean(axis=(1, 2)) @ w + b)
    return np.array(logits)


@pytest.mark.parametrize("map_size", [(8, 8), (5, 8), (12, 14)])
def test_sigmoid_is_the_papers_formula(map_size):
    """Sigmoids over their sum over all cells of all magnifications, coarse to fine, row-major."""
    net, features = network(), torch.randn(2, 5, *map_size)
    prob = net(features, [BACH, BACH]).exp()
    assert prob.shape == (2, 58)
    for row, picture in zip(prob, features):
        sigmoids = 1 / (1 + np.exp(-slow_logits(net, picture.double().numpy(), BACH)))
        np.testing.assert_allclose(row.detach().numpy(), sigmoids / sigmoids.sum(), rtol=1e-5)


def test_softmax():
    net, features = network(normalization="softmax"), torch.randn(1, 5, 8, 8)
    exponentials = np.exp(slow_logits(net, features[0].double().numpy(), BACH))
    prob = net(features, [BACH])[0].exp().detach().numpy()
    np.testing.assert_allclose(prob, exponentials / exponentials.sum(), rtol=1e-5)


@pytest.mark.parametrize("normalization", ["sigmoid", "softmax"])
def test_equal_logits_give_shares_by_cells_or_by_magnification(normalization):
    features = torch.zeros(1, 5, 8, 8)
    by_cells = network(normalization=normalization)(features, [BACH])[0].exp()
    torch.testing.assert_close(by_cells, torch.full((58,), 1 / 58))
    balanced = network(normalization=normalization, level_prior="balanced")(features, [BACH])[0].exp()
    shares = torch.stack([part.sum() for part in balanced.split([4, 12, 42])])
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3))
    torch.testing.assert_close(balanced.log(), log_prior([BACH])[0])


def test_balanced_divides_each_sigmoid_by_the_cells_of_its_magnification():
    net, features = network(level_prior="balanced"), torch.randn(1, 5, 8, 8)
    sigmoids = 1 / (1 + np.exp(-slow_logits(net, features[0].double().numpy(), BACH)))
    weighed = sigmoids / np.repeat([4, 12, 42], [4, 12, 42])
    prob = net(features, [BACH])[0].exp().detach().numpy()
    np.testing.assert_allclose(prob, weighed / weighed.sum(), rtol=1e-5)


def test_sigmoids_start_unsaturated():
    assert all((conv.bias == -4).all() for conv in AttentionNetwork(5, 3).logits)
    assert all((conv.bias == 0.5).all() for conv in AttentionNetwork(5, 3, bias=0.5).logits)


def test_log_prior_of_ragged_grids():
    prior = log_prior([BACH, ((1, 1), (1, 2), (2, 2))])
    assert prior.shape == (2, 58)
    torch.testing.assert_close(prior.exp().sum(1), torch.ones(2))
    torch.testing.assert_close(prior[0, [0, 4, 57]].exp(), torch.tensor([1 / 12, 1 / 36, 1 / 126]))
    torch.testing.assert_close(prior[1, [0, 1, 6]].exp(), torch.tensor([1 / 3, 1 / 6, 1 / 12]))
    assert (prior[1, 7:] == -math.inf).all()


@pytest.mark.parametrize("normalization", ["sigmoid", "softmax"])
def test_ragged_batch_equals_its_singles(normalization):
    net = network(levels=2, normalization=normalization, level_prior="balanced")
    features = torch.randn(3, 5, 6, 6, requires_grad=True)
    grids = [SMALL, ((2, 2), (4, 4)), SMALL]
    together = net(features, grids)
    assert together.shape == (3, 20)
    assert (together[0, 7:] == -math.inf).all()
    singles = [net(features[i : i + 1], grids[i : i + 1])[0] for i in range(3)]
    for row, single in zip(together, singles):
        torch.testing.assert_close(row[: len(single)], single)
    gradient = torch.autograd.grad(negative_entropy(together).sum(), features)[0]
    reference = torch.autograd.grad(sum(negative_entropy(s[None]).sum() for s in singles), features)[0]
    torch.testing.assert_close(gradient, reference)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("normalization", ["sigmoid", "softmax"])
def test_extreme_logits_are_finite_float32_probabilities(dtype, normalization):
    net = network(levels=2, normalization=normalization)
    for conv in net.logits:
        torch.nn.init.constant_(conv.weight, 1e4 / 5)
    features = torch.tensor([[1.0, -1, 0], [-1, -1, -1], [1, 1, 1]], dtype=dtype)[:, None, :, None].expand(3, 5, 3, 3)
    features = features.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_prob = net(features, [((1, 1), (3, 3))] * 3)
    assert log_prob.dtype == torch.float32
    assert torch.isfinite(log_prob).all()
    torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(3))
    log_prob.exp().square().sum().backward()
    assert torch.isfinite(features.grad).all()


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(1, 13), min_size=1, max_size=4), st.floats(0, 1), st.integers(0, 8), st.integers(0, 99))
def test_dropout_drops_exactly_the_share_and_keeps_what_is_drawn(sizes, rate, keep, seed):
    """Pictures of so many cells, padded with cells that do not exist; in some one cell has all the attention."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(sizes), max(sizes), dtype=torch.float64, generator=generator)
    logits[::2, 0] += 1e4
    for row, size in zip(logits, sizes):
        row[size:] = -math.inf
    log_prob = logits.log_softmax(1)
    dropped = attention_dropout(log_prob, rate, keep=keep, generator=generator)
    for before, after, size in zip(log_prob, dropped, sizes):
        left = torch.isfinite(after)
        # A half may round either way in float32.
        rounded = {round(rate * size - 1e-5), round(rate * size + 1e-5)}
        assert size - int(left.sum()) in {max(0, min(r, size - max(keep, 1))) for r in rounded}
        assert int(left.sum()) >= min(size, max(keep, 1))
        assert not left[size:].any()
        torch.testing.assert_close(after[left], before[left] - before[left].logsumexp(0))


def test_dropout_of_nothing_and_its_randomness():
    log_prob = torch.randn(1, 58, generator=torch.Generator().manual_seed(0)).log_softmax(1)
    torch.testing.assert_close(attention_dropout(log_prob, 0.0), log_prob)
    masks = [
        torch.isfinite(attention_dropout(log_prob, 0.2, keep=5, generator=torch.Generator().manual_seed(s)))
        for s in (1, 1, 2)
    ]
    assert [int(m.sum()) for m in masks] == [46, 46, 46]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])
    times = sum(torch.isfinite(attention_dropout(log_prob, 0.5)).int() for _ in range(1000))
    assert times.min() > 400  # every cell as often as every other: standard deviation 16
    assert times.max() < 600


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_dropout_rate_outside_its_range(rate):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\], but got"):
        attention_dropout(torch.zeros(1, 2), rate)


def test_gradients_of_dropout_and_regulariser():
    logits = torch.randn(2, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    prior = log_prior([SMALL, SMALL]).double()

    def dropped(x):
        kept = attention_dropout(x.log_softmax(1), 0.4, keep=2, generator=torch.Generator().manual_seed(0))
        return kept[torch.isfinite(kept)]

    assert torch.autograd.gradcheck(dropped, (logits,))
    assert torch.autograd.gradcheck(lambda x: negative_entropy(x.log_softmax(1)), (logits,))
    assert torch.autograd.gradcheck(lambda x: negative_entropy(x.log_softmax(1), prior), (logits,))


def test_negative_entropy_and_divergence_with_masks():
    prob = torch.tensor([[0.5, 0.25, 0.25, 0.0], [1.0, 0.0, 0.0, 0.0], [0.25] * 4], dtype=torch.float64)
    log_prob = prob.log().requires_grad_()
    prior = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.5, 0.5, 0.0, 0.0], [0.5, 0.3, 0.1, 0.1]], dtype=torch.float64)
    entropy, divergence = negative_entropy(log_prob), negative_entropy(log_prob, prior.log())
    torch.testing.assert_close(entropy, torch.tensor([-1.5, 0.0, -2.0], dtype=torch.float64) * math.log(2))
    kl = 0.25 * sum(math.log(0.25 / p) for p in (0.5, 0.3, 0.1, 0.1))
    torch.testing.assert_close(divergence, torch.tensor([0.0, math.log(2), kl], dtype=torch.float64))
    (entropy.sum() + divergence.sum()).backward()
    assert torch.isfinite(log_prob.grad).all()
    assert not log_prob.grad[prob == 0].any()


def test_errors():
    with pytest.raises(ValueError, match="unknown normalization 'max'; choose 'sigmoid' or 'softmax'"):
        AttentionNetwork(5, 3, normalization="max")
    with pytest.raises(ValueError, match="unknown level_prior 'flat'; choose None or 'balanced'"):
        AttentionNetwork(5, 3, level_prior="flat")
    with pytest.raises(ValueError, match="attends to 3 magnifications, but the images have 2"):
        network()(torch.zeros(1, 5, 8, 8), [SMALL])


def test_work_and_memory_do_not_grow_with_channels_times_cells():
    """A slide of 100,000 x 100,000 pixels has 200,000 cells; only their logits are averaged."""
    net, features, work = network(64, 1), torch.rand(1, 64, 8, 8), []
    for grid in ((2, 2), (400, 400)):
        with FlopCounterMode(display=False) as counter:
            net(features, [(grid,)])
        work.append(counter.get_total_flops())
    assert work == [2 * 64 * 8 * 8] * 2
