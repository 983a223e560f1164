# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Drawing cells from the joint attention, and how the drawn cells stand for all (paper, Section 3.2, Eq. 1 and 2).

With attention P over N cells and patch features f, all patches give the bag Phi = sum_i P_i f_i (Eq. 1). From k drawn
cells every estimator here has the form

    Phi^ = sum over drawn t of sg(w_t) P_t f_t,      sg = stop gradient,

which is unbiased in its value, in the gradient of f and in the gradient of P as soon as E[w_i 1{i drawn}] = 1; plain
autograd does the rest. What is stored is c_t = sg(w_t P_t): the share of the drawn patch in the bag, which stays finite
where P underflows.

All functions take log probabilities ``(batch, cells)``, -inf for cells that do not exist. Nothing else marks them: NaN
is no padding, and comes out as NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

__all__ = [
    "ESTIMATORS",
    "Draw",
    "all_cells",
    "baseline_bags",
    "check_estimator",
    "draw_after_the_largest",
    "draw_cells",
    "draw_equally",
    "draw_in_order",
    "draw_independently",
    "draw_log_prob",
    "draw_systematically",
    "inclusion_probabilities",
    "is_possible",
    "pathwise_weights",
    "sum_from_each_on",
    "top_cells",
    "weighted_sum",
]

ESTIMATORS = ("paper", "normalized", "with_replacement", "without_replacement", "systematic")


class Draw(NamedTuple):
    """Cells drawn from the attention.

    Attributes:
        cells: flat cell indices ``(batch, k)``.
        weights: c_t, the share of each drawn patch in the bag ``(batch, k)``, without gradient; 0 where ``drawn`` is
            False.
        drawn: False where an image has fewer cells than k, so that nothing was drawn ``(batch, k)``.
    """

    cells: Tensor
    weights: Tensor
    drawn: Tensor


# --------------------------------------------------------------------------------------------------- cells and weights


def draw_cells(log_prob: Tensor, k: int, estimator: str, *, generator: torch.Generator | None = None) -> Draw:
    """Draw k cells of each image and weigh them by an estimator.

    - ``paper``: without replacement, c = P (Eq. 2 as printed; its sum is less than 1 and depends on k);
    - ``normalized``: without replacement, c = P / (sum of the drawn P); biased;
    - ``with_replacement``: k independent draws, c = 1 / k (Katharopoulos and Fleuret 2019); unbiased;
    - ``without_replacement``: drawn one after the other, c_t = [1 - sum_{s<t} P_s + (k - t) P_t] / k; unbiased;
    - ``systematic``: inclusion probabilities proportional to P, c = P / pi; unbiased, lowest variance.

    Where no more than k cells are possible all of them are drawn and, except by ``with_replacement``, c = P: exact.

    Args:
        log_prob: log attention ``(batch, cells)``.
        k: number of draws, at least 1.
        estimator: one of :data:`ESTIMATORS`.
        generator: source of randomness; PyTorch's global one by default.

    Raises:
        ValueError: for an unknown estimator or k < 1.
    """
    if k < 1:
        raise ValueError(f"the number of patches must be at least 1, but got {k}.")
    check_estimator(estimator)
    log_prob = log_prob.detach()

    if estimator == "with_replacement":
        cells = draw_independently(log_prob, k, generator)
    elif estimator == "systematic":
        cells, inclusion = draw_systematically(log_prob, k, generator)
    else:
        cells = draw_in_order(log_prob, k, generator)

    prob = log_prob.gather(1, cells).exp()  # (batch, k)
    if estimator == "paper":
        weights = prob
    elif estimator == "normalized":
        weights = _normalize(prob)
    elif estimator == "with_replacement":
        weights = torch.ones_like(prob) / k
    elif estimator == "without_replacement":
        weights = _weigh_in_order(log_prob, cells)
    else:
        drawn_inclusion = inclusion.gather(1, cells)
        weights = prob / drawn_inclusion.clamp_min(1e-30)
    return _make_draw(log_prob, cells, weights)


def draw_equally(log_prob: Tensor, k: int, *, in_order: bool) -> Draw:
    """Draw k cells of each image and give them equal weights: the bag is the mean of what was drawn.

    Args:
        log_prob: log attention ``(batch, cells)``.
        k: number of draws.
        in_order: draw different cells one after the other (without replacement), not independently.
    """
    log_prob = log_prob.detach()
    draw = draw_in_order if in_order else draw_independently
    cells = draw(log_prob, k)
    drawn = _exist(log_prob, cells)
    count = drawn.sum(dim=1, keepdim=True)
    weights = drawn.to(log_prob.dtype) / count
    return Draw(cells, weights, drawn)


def top_cells(log_prob: Tensor, k: int, *, normalize: bool = True) -> Draw:
    """The k cells of highest attention, of equal ones the first: weights P / sum P, or P if not ``normalize``."""
    log_prob = log_prob.detach()
    # topk takes equals in an order that depends on the length of the row, and so on the batch.
    order = log_prob.sort(dim=1, descending=True, stable=True).indices
    cells = order[:, :k]
    weights = log_prob.gather(1, cells).exp()
    if normalize:
        weights = _normalize(weights)
    return _make_draw(log_prob, cells, weights)


def all_cells(log_prob: Tensor) -> Draw:
    """Every cell, weighed by its attention (Eq. 1)."""
    log_prob = log_prob.detach()
    row = torch.arange(log_prob.shape[1], device=log_prob.device)
    cells = row.expand_as(log_prob)
    return _make_draw(log_prob, cells, log_prob.exp())


def is_possible(log_prob: Tensor) -> Tensor:
    """Which cells exist and can be drawn: all but those of log probability -inf; bool of the same shape."""
    return log_prob != float("-inf")


def check_estimator(estimator: str) -> None:
    """Check that an estimator is one of :data:`ESTIMATORS`.

    Raises:
        ValueError: if it is not.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"unknown estimator '{estimator}'; choose one of {', '.join(ESTIMATORS)}.")


def _make_draw(log_prob: Tensor, cells: Tensor, weights: Tensor) -> Draw:
    """A draw of ``cells`` with ``weights``, 0 for cells that do not exist."""
    drawn = _exist(log_prob, cells)
    weights = torch.where(drawn, weights, 0.0)
    weights = weights.to(log_prob.dtype)
    return Draw(cells, weights, drawn)


def _exist(log_prob: Tensor, cells: Tensor) -> Tensor:
    return is_possible(log_prob.gather(1, cells))


def _normalize(prob: Tensor) -> Tensor:
    smallest = torch.finfo(prob.dtype).tiny
    total = prob.sum(dim=1, keepdim=True)
    return prob / total.clamp_min(smallest)


def _weigh_in_order(log_prob: Tensor, cells: Tensor) -> Tensor:
    """The weights of ``without_replacement`` for cells ``(batch, k)`` in the order of drawing."""
    k = cells.shape[1]
    log_p = log_prob.gather(1, cells)
    prob = log_p.exp()
    before = prob.cumsum(dim=1) - prob
    left = (1 - before).clamp_min(0)

    count = is_possible(log_p).sum(dim=1, keepdim=True)
    rank = torch.arange(1, k + 1, device=prob.device)
    weights = (left + (count - rank) * prob) / count

    possible = is_possible(log_prob).sum(dim=1, keepdim=True)
    return torch.where(possible <= k, prob, weights)  # if all cells are drawn, nothing is estimated


# ---------------------------------------------------------------------------------------------------------------- bags


def weighted_sum(features: Tensor, weights: Tensor) -> Tensor:
    """The bag ``sum_t weights_t f_t``: ``(..., features)`` from ``(..., k, features)`` and ``(..., k)``."""
    return (weights[..., None] * features).sum(dim=-2)


def pathwise_weights(draw: Draw, log_prob: Tensor) -> Tensor:
    """``sg(w_t) P_t`` with the gradient of P: the weights of ``draw`` ``(batch, k)``, differentiable in log P."""
    log_p = log_prob.gather(1, draw.cells)
    log_p = log_p.masked_fill(~draw.drawn, 0.0)
    one = torch.exp(log_p - log_p.detach())  # its gradient is that of log P
    return draw.weights * one


def baseline_bags(features: Tensor, *, in_order: bool) -> Tensor:
    """For each draw a bag that does not depend on it ``(batch, k, features)``.

    Args:
        features: features of the draws ``(batch, k, features)``.
        in_order: whether the draws were made one after the other. Then the bag is the mean of those before the draw, 0
            for the first; otherwise it is the mean of the other k - 1.
    """
    k = features.shape[1]
    if not in_order:
        others = features.sum(dim=1, keepdim=True) - features
        return others / (k - 1)
    earlier = features.cumsum(dim=1) - features
    count = torch.arange(k, device=features.device).clamp_min(1)
    return earlier / count[:, None]


def draw_log_prob(log_prob: Tensor, cells: Tensor, *, in_order: bool) -> Tensor:
    """Log probability of each draw ``(batch, k)``, differentiable: independent, or given those drawn before it."""
    log_p = log_prob.gather(1, cells)
    if not in_order:
        return log_p
    num_cells = log_prob.shape[1]
    drawn_so_far = one_hot(cells, num_cells).cumsum(1)  # (batch, k, cells)
    earlier = drawn_so_far.roll(1, dims=1).bool()
    earlier[:, 0] = False

    possible = is_possible(log_p)
    left = log_prob[:, None, :].expand_as(earlier)
    left = left.masked_fill(earlier, float("-inf"))
    left = left.masked_fill(~possible[:, :, None], 0.0)  # any finite row: what is not drawn has no gradient
    conditional = left.log_softmax(dim=2).gather(2, cells[:, :, None])
    return torch.where(possible, conditional.squeeze(2), 0.0)


def sum_from_each_on(prob: Tensor) -> Tensor:
    """Sum of each entry and all after it, float64 ``(batch, n + 1)``: 0, not nearly 0, at the end."""
    sums = prob.double().flip(1).cumsum(1).flip(1)
    return pad(sums, (0, 1))


# ---------------------------------------------------------------------------------------------------------- randomness


def draw_independently(log_prob: Tensor, k: int, generator: torch.Generator | None = None) -> Tensor:
    """k independent draws of each image, with repetition: cells ``(batch, k)`` (Gumbel-max)."""
    scores = log_prob[:, None, :].expand(-1, k, -1)
    noise = _draw_gumbel(scores, generator)
    return (scores + noise).argmax(dim=2)


def draw_in_order(log_prob: Tensor, k: int, generator: torch.Generator | None = None) -> Tensor:
    """Up to k different cells, drawn one after the other in proportion to P: ``(batch, k)`` (Gumbel top-k)."""
    count = min(k, log_prob.shape[1])
    noise = _draw_gumbel(log_prob, generator)
    return (log_prob + noise).topk(count, dim=1).indices


def draw_after_the_largest(
    log_prob: Tensor, *, share: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """All cells of each image in the order of reading: those of large P first, the others drawn in proportion to P.

    A cell is large if it holds more than ``share`` of what it and all smaller ones hold together.

    Args:
        log_prob: log attention ``(batch, cells)``.
        share: share above which a cell is not left to chance.
        generator: source of randomness; PyTorch's global one by default.

    Returns:
        cells ``(batch, cells)``, those that do not exist last; and the number of large ones ``(batch,)``.
    """
    ordered, cells = log_prob.detach().sort(dim=1, descending=True, stable=True)
    prob = ordered.exp()
    left = sum_from_each_on(prob)[:, :-1]
    above = prob > share * left
    is_large = above.cumprod(dim=1).bool()  # the first ones, without a gap
    scores = ordered + _draw_gumbel(ordered, generator)
    scores = scores.masked_fill(is_large, float("inf"))
    order = scores.sort(dim=1, descending=True, stable=True).indices
    return cells.gather(1, order), is_large.sum(dim=1)


def draw_systematically(log_prob: Tensor, k: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """k different cells with inclusion probabilities proportional to P: cells ``(batch, k)``, pi ``(batch, cells)``.

    The cells are laid in random order on a line, each as long as its pi; one uniform number places k marks at unit
    distance. Float64, because every mark must fall into exactly one cell.
    """
    batch, num_cells = log_prob.shape
    inclusion = inclusion_probabilities(log_prob, k)
    order = torch.rand(log_prob.shape, generator=generator, device=log_prob.device).argsort(dim=1)
    ends = inclusion.gather(1, order).cumsum(dim=1)
    total = ends[:, -1:].round()
    ends[:, -1:] = total

    start = torch.rand((batch, 1), generator=generator, device=log_prob.device, dtype=torch.float64)
    marks = torch.ceil(torch.minimum(ends, total) - start)
    hits = torch.diff(marks, dim=1, prepend=torch.ceil(-start))
    hit = hits.topk(min(k, num_cells), dim=1).indices
    return order.gather(1, hit), inclusion


def inclusion_probabilities(log_prob: Tensor, k: int) -> Tensor:
    """pi_i = min(1, c P_i) with sum k (or all ones where fewer cells are possible): float64 ``(batch, cells)``.

    With P sorted downwards, the m largest are certain and c = (k - m) / sum_{j>m} P_j, for the smallest m such that no
    remaining c P_j exceeds 1.
    """
    prob, order = log_prob.double().exp().sort(dim=1, descending=True)
    num_cells = prob.shape[1]
    rank = torch.arange(num_cells, device=prob.device)
    tail = prob.flip(1).cumsum(1).flip(1)
    is_possible = prob > 0
    possible = is_possible.sum(dim=1, keepdim=True)
    count = possible.clamp_max(k)

    fits = (count - rank).clamp_min(0) * prob <= tail  # true from the first m onwards
    first_fit = fits.int().argmax(dim=1, keepdim=True)
    certain = torch.where(possible <= k, possible, first_fit)  # m

    rest = tail.gather(1, certain.clamp_max(num_cells - 1))
    proportional = (count - certain) * prob / rest.clamp_min(1e-300)
    inclusion = torch.where(rank < certain, 1.0, proportional.clamp_max(1.0))
    inclusion = torch.where(is_possible, inclusion, 0.0)
    return torch.zeros_like(prob).scatter(1, order, inclusion)


def _draw_gumbel(like: Tensor, generator: torch.Generator | None) -> Tensor:
    # -log(exponential) keeps its upper tail; -log(-log(uniform)) is cut off where the uniform rounds to 1.
    noise = torch.empty(like.shape, dtype=like.dtype, device=like.device)
    noise.exponential_(generator=generator)
    smallest = torch.finfo(like.dtype).tiny
    return -noise.clamp_min(smallest).log()
