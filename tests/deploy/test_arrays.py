# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The arithmetic of the runner beside that of the network: the same random numbers, means, bounds and bets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d

from monai_jsma.deploy.array_attention import attend, pool_places
from monai_jsma.deploy.array_bounds import (
    ClassWeights,
    bet_on_arrays,
    find_confidences,
    find_intervals,
    find_margins,
    has_certain_class,
)
from monai_jsma.deploy.random_stream import RandomStream
from monai_jsma.networks import AttentionNetwork, LinearHead, is_certain, margin_bounds, probability_intervals
from monai_jsma.networks.betting import SHARES, bet_on_margins, confidence_in_classes


@pytest.mark.parametrize("seed", [0, 1, 2**31 + 7, 2**56 - 3])
def test_random_numbers_are_those_of_torch(seed):
    torch.manual_seed(seed)
    stream = RandomStream(seed)
    for shape in ((3,), (40, 50), (1, 17)):
        assert np.array_equal(stream.draw_uniform(*shape), torch.rand(shape).numpy())
        assert np.array_equal(stream.draw_uniform_double(*shape), torch.rand(shape, dtype=torch.float64).numpy())
        exponential = torch.empty(shape).exponential_().numpy()
        np.testing.assert_allclose(stream.draw_exponential(*shape), exponential, rtol=3e-7)


@pytest.mark.parametrize("grid", [(3, 4), (7, 9), (20, 31), (5, 100), (1, 2)])
def test_means_of_places_are_equal_to_the_last_bit(grid):
    """Of a level of several cells: where they lie on equal places, they must have equal attention."""
    places = torch.randn(1, 1, 7, 9, generator=torch.Generator().manual_seed(0))
    expected = adaptive_avg_pool2d(places, grid).flatten().numpy()
    assert np.array_equal(pool_places(places[0, 0].numpy(), grid), expected)


@pytest.mark.parametrize("normalization", ["sigmoid", "softmax"])
@pytest.mark.parametrize("level_prior", [None, "balanced"])
def test_attention_is_that_of_the_network(normalization, level_prior):
    torch.manual_seed(0)
    network = AttentionNetwork(6, 2, normalization=normalization, level_prior=level_prior)
    features = torch.randn(1, 6, 5, 4)
    grids = ((3, 2), (8, 9))
    with torch.no_grad():
        expected = network(features, [grids])[0].numpy()
        places = torch.cat([conv(features) for conv in network.logits], dim=1)[0].numpy()
    given = attend(places, grids, normalization=normalization, level_prior=level_prior)
    np.testing.assert_allclose(given, expected, atol=2e-6)
    places[0, 0, 0] = np.inf
    assert np.isnan(attend(places, grids, normalization=normalization, level_prior=level_prior)).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("non_negative", [False, True])
def test_bounds_intervals_and_bets_are_those_of_the_network(seed, non_negative):
    generator = torch.Generator().manual_seed(seed)
    weight = 10.0 ** -(seed % 3) * torch.randn(3, 5, generator=generator)
    bias = torch.randn(3, generator=generator) / 10
    logits = torch.randn(4, 3, generator=generator)
    unread = torch.rand(4, generator=generator).double()
    rounding = float(np.finfo(np.float32).eps) ** 0.5
    bounds = margin_bounds(logits, unread, LinearHead(weight, bias, non_negative), rounding=rounding)
    head = ClassWeights(weight.numpy(), bias.numpy(), non_negative=non_negative, rounding=rounding)
    margins = find_margins(logits.numpy(), unread.numpy(), head)
    np.testing.assert_allclose(margins, bounds.numpy(), rtol=1e-12, atol=1e-12)
    assert [has_certain_class(row) for row in margins] == is_certain(bounds).tolist()
    intervals = [find_intervals(row) for row in margins]
    np.testing.assert_allclose(intervals, probability_intervals(bounds).numpy(), rtol=1e-12)

    wins = margin_bounds(logits, torch.zeros(4), LinearHead(weight, bias, non_negative), rounding=rounding)
    growth = bet_on_margins(wins, bounds)
    assert growth.shape[1] == len(SHARES)
    np.testing.assert_allclose(bet_on_arrays(wins.numpy(), margins), growth.numpy(), rtol=1e-9, atol=1e-12)
    confidences = [find_confidences(one, row) for one, row in zip(growth.numpy(), margins)]
    np.testing.assert_allclose(confidences, confidence_in_classes(growth, bounds).numpy(), rtol=1e-9, atol=1e-12)
