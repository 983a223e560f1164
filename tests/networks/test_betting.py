# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The wealth of bets, enumerated: it is a martingale exactly where a class is as high as another."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from monai_jsma.networks.betting import SHARES, bet_on_margins, confidence_in_classes, mean_wealth, start_wealth
from monai_jsma.networks.drawing import draw_after_the_largest

PROB = np.array([0.4, 0.25, 0.2, 0.1, 0.05])
MARGINS = np.array([-0.75, 0.5, 0.125, 1.0, 0.0])
LEAST = -1.25  # of any patch


def win_and_least(order: tuple[int, ...], step: int, margins: np.ndarray) -> tuple[float, float]:
    """The margin if the patch of ``step`` stood for all unread ones, and the least that it could have been."""
    before = list(order[:step])
    known = float(PROB[before] @ margins[before])
    unread = 1 - float(PROB[before].sum())
    return known + unread * margins[order[step]], known + unread * LEAST


def probability(order: tuple[int, ...]) -> float:
    """Of drawing these patches one after the other."""
    left = 1.0
    product = 1.0
    for cell in order:
        product *= PROB[cell] / left
        left -= PROB[cell]
    return product


def pair(value: float) -> torch.Tensor:
    """A number for the first of two classes against the second, and less for the other way round."""
    return torch.tensor([[0.0, value], [-abs(value) - 1, 0.0]], dtype=torch.float64)


@pytest.mark.parametrize("num_bets", [1, 2, 3])
@pytest.mark.parametrize("shift", [0.0, -0.125, 0.125])
def test_mean_wealth_over_all_draws(num_bets, shift):
    margins = MARGINS - PROB @ MARGINS + shift  # their mean is the shift
    expected = 0.0
    for order in permutations(range(len(PROB)), num_bets):
        log_wealth = start_wealth(torch.zeros(1), 2)
        by_hand = np.ones(len(SHARES))
        for step in range(num_bets):
            win, least = win_and_least(order, step, margins)
            assert least <= win
            by_hand *= 1 + np.array(SHARES) * win / -least
            log_wealth = log_wealth + bet_on_margins(pair(win), pair(least))
        wealth = float(mean_wealth(log_wealth)[0, 0, 1].exp())
        assert wealth == pytest.approx(by_hand.mean(), rel=1e-12)
        expected += probability(order) * wealth
    if shift == 0:
        assert expected == pytest.approx(1, abs=1e-12)
    else:
        assert (expected > 1) == (shift > 0)


def test_nothing_can_be_lost_twice():
    """A margin below the least, as rounding may give, ends all wealth that was staked, and is no NaN."""
    growth = bet_on_margins(pair(-1.0 - 1e-9), pair(-1.0))[..., 0, 1].exp()
    assert growth.tolist() == pytest.approx([1 - share for share in SHARES])
    assert (bet_on_margins(pair(-0.5), pair(-1e-300))[..., 0, 1].exp() > 0).all()


def test_confidence_is_that_of_the_least_wealth():
    log_wealth = torch.zeros(1, len(SHARES), 3, 3, dtype=torch.float64)
    log_wealth[..., 0, 1] = math.log(1000)
    log_wealth[..., 0, 2] = math.log(200)
    log_wealth[..., 1, 0] = math.log(1.5)
    unsure = torch.full((1, 3, 3), -1.0, dtype=torch.float64)
    found = confidence_in_classes(log_wealth, unsure)[0]
    assert found.tolist() == pytest.approx([1 - 2 / 200, 0, 0])
    sure_of_one = unsure.clone()
    sure_of_one[0, 0, 2] = 0.1
    assert float(confidence_in_classes(log_wealth, sure_of_one)[0, 0]) == pytest.approx(1 - 2 / 1000)
    sure_of_one[0, 0, 1] = 0.1
    assert float(confidence_in_classes(log_wealth, sure_of_one)[0, 0]) == 1


def test_the_mean_is_over_the_wealth_of_all_shares():
    log_wealth = torch.zeros(1, len(SHARES), 2, 2, dtype=torch.float64)
    log_wealth[0, 0, 0, 1] = 800.0  # exp overflows
    assert float(mean_wealth(log_wealth)[0, 0, 1]) == pytest.approx(800 - math.log(len(SHARES)))


# ------------------------------------------------------------------------------------------------- order of reading


def test_large_cells_are_first_and_the_others_are_drawn_in_proportion():
    prob = torch.tensor([0.05, 0.5, 0.1, 0.0, 0.2, 0.15])
    count = 40_000
    generator = torch.Generator().manual_seed(0)
    cells, num_large = draw_after_the_largest(prob.log().expand(count, -1), share=0.45, generator=generator)
    assert (num_large == 1).all()  # 0.5 of 1, but only 0.2 of what is left
    assert (cells[:, 0] == 1).all()
    assert (cells[:, -1] == 3).all()  # the cell that does not exist
    assert (cells.sort(dim=1).values == torch.arange(6)).all()
    for second, third in permutations([0, 2, 4, 5], 2):
        expected = float(prob[second] / 0.5 * prob[third] / (0.5 - prob[second]))
        found = int(((cells[:, 1] == second) & (cells[:, 2] == third)).sum())
        assert abs(found - count * expected) < 5 * math.sqrt(count * expected)


def test_large_cells_have_no_gap_and_fall():
    prob = torch.tensor([[0.03, 0.02, 0.9, 0.05], [0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0]])
    cells, num_large = draw_after_the_largest(prob.log(), share=0.55)
    assert num_large.tolist() == [1, 0, 1]  # 0.05 is not above 0.55 of 0.1; that 0.03 is of 0.05 does not count
    assert cells[0, 0] == 2
    assert cells[2, 0] == 1
