# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The bounds of certified stopping, without a network that reads."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from certified_cases import worst_features
from torch import nn

from monai_jsma.networks import (
    Backbone,
    ConvBackbone,
    LinearHead,
    is_certain,
    margin_bounds,
    probability_intervals,
    trusted_digits,
)


@pytest.mark.parametrize("non_negative", [False, True])
def test_bounds_are_what_the_worst_patches_reach(non_negative):
    """Of every pair of classes: unread patches of attention 0.3 that all point to the second one."""
    g = torch.Generator().manual_seed(0)
    weight, bias, bag = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((4, 6), (4,), (1, 6)))
    logits = bag @ weight.T + bias
    unread = torch.full((1,), 0.3, dtype=torch.float64)
    bounds = margin_bounds(logits, unread, LinearHead(weight, bias, non_negative))[0]
    for a in range(4):
        for b in range(4):
            worst = bag + 0.3 * worst_features(weight, a, b, non_negative)
            reached = (worst @ weight.T + bias)[0]
            assert float(bounds[a, b]) == pytest.approx(float(reached[a] - reached[b]), abs=1e-12)


def test_rounding_is_taken_off_in_proportion_to_the_logits():
    head = LinearHead(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([1.0, -2.0]))
    bounds = margin_bounds(torch.tensor([[7.0, 3.0]]), torch.zeros(1), head, rounding=0.25)
    assert bounds[0].tolist() == [[0, 4 - 0.25 * (6 + 2)], [-4 - 2, 0]]


def test_intervals_of_bounds():
    logits = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    head = LinearHead(torch.eye(3, dtype=torch.float64), torch.zeros(3))
    exact = probability_intervals(margin_bounds(logits, torch.zeros(1), head))
    torch.testing.assert_close(exact, logits.softmax(1)[..., None].expand(-1, -1, 2))
    low, high = probability_intervals(margin_bounds(logits, torch.tensor([0.5]), head))[0].unbind(1)
    reach = 0.5 * math.sqrt(2)
    assert float(low[0]) == pytest.approx(1 / (1 + math.exp(reach - 1) + math.exp(reach - 2)))
    assert float(high[0]) == pytest.approx(1 / (1 + math.exp(-reach - 1) + math.exp(-reach - 2)))


def test_only_a_class_above_all_others_is_certain():
    def certain(*rows):
        return is_certain(torch.tensor([rows], dtype=torch.float64)).item()

    assert certain((0, 1, 1), (-2, 0, -1), (-2, -1, 0))
    assert not certain((0, 1, 0), (-2, 0, -1), (-2, -1, 0))  # a tie that may be reached
    assert not certain((0, 1, -1), (-2, 0, -1), (-1, -1, 0))
    assert not certain((0, math.nan, 1), (-2, 0, -1), (-2, -1, 0))


def test_only_features_that_end_in_relu_are_known_to_be_positive():
    class Shifted(ConvBackbone):
        def forward(self, images):
            return super().forward(images) - 1

    assert Backbone(ConvBackbone((8,)), 8).non_negative
    assert not Backbone(Shifted((8,)), 8).non_negative
    assert not Backbone(nn.Sequential(nn.ReLU(), nn.Conv2d(3, 8, 1)), 8).non_negative
    assert not Backbone(nn.ReLU(), 3).non_negative


def test_half_of_the_digits_are_trusted():
    assert trusted_digits(torch.zeros(1)) == 2**-11.5
    assert trusted_digits(torch.zeros(1, dtype=torch.float64)) == 2**-26
    with torch.autocast("cpu", torch.bfloat16):
        assert trusted_digits(torch.zeros(1)) == 2**-3.5
    on_gpu: Any = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
    assert trusted_digits(on_gpu) == 2**-5
