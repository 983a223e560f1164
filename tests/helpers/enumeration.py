# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Every outcome of a random draw with its probability, so that expectations are sums and not estimates.

Only the randomness is replaced: what the outcomes weigh is computed by the library. One outcome is one row of a batch.
"""

from __future__ import annotations

from itertools import pairwise, permutations, product

import pytest
import torch
from torch import Tensor

from monai_jsma.networks import Draw, draw_cells, drawing, inclusion_probabilities


def independent_draws(prob: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """All k-tuples of cells ``(outcomes, k)`` and their probabilities ``(outcomes,)``."""
    cells = torch.tensor(list(product(range(len(prob)), repeat=k)))
    return cells, prob[cells].prod(dim=1)


def ordered_draws(prob: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """All sequences of k different cells, each drawn in proportion to P among those that are left."""
    cells = torch.tensor(list(permutations(range(len(prob)), k)))
    drawn = torch.nn.functional.one_hot(cells, len(prob))
    left = (1 - drawn.cumsum(dim=1) + drawn).to(prob) @ prob  # a sum of the rest: 1 - sum would cancel
    return cells, (prob[cells] / left).prod(dim=1)


def systematic_lines(prob: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """All orders of the cells on the line, all starts that differ in what they hit: keys, starts, probabilities."""
    inclusion = inclusion_probabilities(prob.log()[None], k)[0]
    orders = torch.tensor(list(permutations(range(len(prob)))))
    keys, starts, chances = [], [], []
    for order in orders:
        cuts = sorted({0.0, 1.0, *(inclusion[order].cumsum(0) % 1).tolist()})
        for begin, end in pairwise(cuts):
            keys.append(order.argsort())
            starts.append([(begin + end) / 2])
            chances.append((end - begin) / len(orders))
    return torch.stack(keys), prob.new_tensor(starts), prob.new_tensor(chances)


def every_draw(log_prob: Tensor, k: int, estimator: str) -> tuple[Draw, Tensor]:
    """All draws of k cells from ``log_prob`` ``(cells,)``, as the library weighs them, and their probabilities."""
    prob = log_prob.detach().exp()
    with pytest.MonkeyPatch.context() as patch:
        if estimator == "systematic":
            keys, starts, chances = systematic_lines(prob, k)
            random = iter((keys, starts))
            patch.setattr(torch, "rand", lambda *_, **__: next(random))
        elif estimator == "with_replacement":
            cells, chances = independent_draws(prob, k)
            patch.setattr(drawing, "draw_independently", lambda *_: cells)
        else:
            cells, chances = ordered_draws(prob, k)
            patch.setattr(drawing, "draw_in_order", lambda *_: cells)
        return draw_cells(log_prob.expand(len(chances), -1), k, estimator), chances
