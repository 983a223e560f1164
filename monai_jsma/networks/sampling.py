# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Drawing cells from the joint attention, and how the drawn stand for all (paper, Section 3.2, Eq. 1 and 2).

With attention P over N cells and patch features f, all patches give the bag Phi = sum_i P_i f_i (Eq. 1). From k drawn
cells every estimator here has the form

    Phi^ = sum over drawn t of sg(w_t) P_t f_t,      sg = stop gradient,

which is unbiased in its value, in the gradient of f and in the gradient of P as soon as E[w_i 1{i drawn}] = 1; plain
autograd does the rest. What is stored is c_t = sg(w_t P_t): the share of the drawn patch in the bag, which stays finite
where P underflows. All functions take log probabilities ``(batch, cells)``, -inf for cells that do not exist.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "ESTIMATORS",
    "Draw",
    "all_cells",
    "draw_cells",
    "draw_in_order",
    "draw_independently",
    "draw_systematically",
    "inclusion_probabilities",
    "pathwise_weights",
    "top_cells",
]

ESTIMATORS = ("paper", "normalized", "with_replacement", "without_replacement", "systematic")


class Draw(NamedTuple):
    """Cells drawn from the attention.

    Attributes:
        cells: flat cell indices ``(batch, k)``.
        weights: c_t, the share of each drawn patch in the bag ``(batch, k)``, without gradient; 0 where nothing was
        drawn.
        drawn: False where a picture has fewer cells than k, so that nothing was drawn ``(batch, k)``.
    """

    cells: Tensor
    weights: Tensor
    drawn: Tensor


def draw_cells(log_prob: Tensor, k: int, estimator: str, generator: torch.Generator | None = None) -> Draw:
    """Draw k cells a picture and weigh them by an estimator.

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
    log_prob = log_prob.detach()
    if estimator == "with_replacement":
        return _draw(log_prob, draw_independently(log_prob, k, generator), lambda p, drawn: drawn.to(p.dtype) / k)
    if estimator == "systematic":
        cells, inclusion = draw_systematically(log_prob, k, generator)
        return _draw(log_prob, cells, lambda p, drawn: p / inclusion.gather(1, cells).clamp_min(1e-30))
    weigh = {"paper": lambda p, drawn: p, "normalized": _normalized, "without_replacement": _sequential}.get(estimator)
    if weigh is None:
        raise ValueError(f"unknown estimator '{estimator}'; choose one of {', '.join(ESTIMATORS)}.")
    draw = _draw(log_prob, draw_in_order(log_prob, k, generator), weigh)
    if estimator != "without_replacement":
        return draw
    exhausted = (torch.isfinite(log_prob).sum(1) <= k)[:, None]
    return draw._replace(
        weights=torch.where(exhausted & draw.drawn, log_prob.gather(1, draw.cells).exp(), draw.weights)
    )


def top_cells(log_prob: Tensor, k: int, *, normalize: bool = True) -> Draw:
    """The k cells of highest attention, of equal ones the first: weights P / sum P, or P if not ``normalize``."""
    log_prob = log_prob.detach()
    # topk takes equals in an order that depends on the length of the row, and so on the batch.
    cells = log_prob.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return _draw(log_prob, cells, _normalized if normalize else lambda p, drawn: p)


def all_cells(log_prob: Tensor) -> Draw:
    """Every cell, weighed by its attention (Eq. 1)."""
    cells = torch.arange(log_prob.shape[1], device=log_prob.device).expand_as(log_prob)
    return _draw(log_prob.detach(), cells, lambda p, drawn: p)


def pathwise_weights(draw: Draw, log_prob: Tensor) -> Tensor:
    """``sg(w_t) P_t`` with the gradient of P: the weights of ``draw`` ``(batch, k)``, differentiable in log P."""
    log_p = log_prob.gather(1, draw.cells).masked_fill(~draw.drawn, 0.0)
    return draw.weights * torch.exp(log_p - log_p.detach())


def draw_independently(log_prob: Tensor, k: int, generator: torch.Generator | None = None) -> Tensor:
    """k independent draws of each picture, with repetition: cells ``(batch, k)`` (Gumbel-max)."""
    scores = log_prob[:, None, :].expand(-1, k, -1)
    return (scores + _gumbel(scores, generator)).argmax(dim=2)


def draw_in_order(log_prob: Tensor, k: int, generator: torch.Generator | None = None) -> Tensor:
    """Up to k different cells, drawn one after the other in proportion to P: ``(batch, k)`` (Gumbel top-k)."""
    return (log_prob + _gumbel(log_prob, generator)).topk(min(k, log_prob.shape[1]), dim=1).indices


def draw_systematically(log_prob: Tensor, k: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """k different cells with inclusion probabilities proportional to P: cells ``(batch, k)``, pi ``(batch, cells)``.

    The cells are laid in random order on a line, each as long as its pi; one uniform number places k marks at unit
    distance. Float64, because every mark must fall into exactly one cell.
    """
    inclusion = inclusion_probabilities(log_prob, k)
    order = torch.rand(log_prob.shape, generator=generator, device=log_prob.device).argsort(dim=1)
    ends = inclusion.gather(1, order).cumsum(dim=1)
    total = ends[:, -1:].round()
    ends[:, -1:] = total
    start = torch.rand((len(log_prob), 1), generator=generator, device=log_prob.device, dtype=torch.float64)
    marks = torch.ceil(torch.minimum(ends, total) - start)
    hits = torch.diff(marks, dim=1, prepend=torch.ceil(-start))
    chosen = hits.topk(min(k, log_prob.shape[1]), dim=1).indices
    return order.gather(1, chosen), inclusion


def inclusion_probabilities(log_prob: Tensor, k: int) -> Tensor:
    """pi_i = min(1, c P_i) with sum k (or all ones where fewer cells are possible): float64 ``(batch, cells)``.

    With P sorted downwards, the m largest are certain and c = (k - m) / sum_{j>m} P_j, for the smallest m such that no
    remaining c P_j exceeds 1.
    """
    prob, order = log_prob.double().exp().sort(dim=1, descending=True)
    rank = torch.arange(prob.shape[1], device=prob.device)
    tail = prob.flip(1).cumsum(1).flip(1)
    possible = (prob > 0).sum(dim=1, keepdim=True)
    count = possible.clamp_max(k)
    fits = (count - rank).clamp_min(0) * prob <= tail  # true from the first m onwards
    certain = torch.where(possible <= k, possible, fits.int().argmax(dim=1, keepdim=True))
    rest = tail.gather(1, certain.clamp_max(prob.shape[1] - 1)).clamp_min(1e-300)
    inclusion = torch.where(rank < certain, 1.0, ((count - certain) * prob / rest).clamp_max(1.0))
    return torch.zeros_like(prob).scatter(1, order, torch.where(prob > 0, inclusion, 0.0))


def _gumbel(like: Tensor, generator: torch.Generator | None) -> Tensor:
    # -log(exponential) keeps its upper tail; -log(-log(uniform)) is cut off where the uniform rounds to 1.
    noise = torch.empty(like.shape, dtype=like.dtype, device=like.device).exponential_(generator=generator)
    return -noise.clamp_min(torch.finfo(like.dtype).tiny).log()


def _draw(log_prob: Tensor, cells: Tensor, weigh) -> Draw:  # type: ignore[no-untyped-def]
    log_p = log_prob.gather(1, cells)
    drawn = torch.isfinite(log_p)
    return Draw(cells, torch.where(drawn, weigh(log_p.exp(), drawn), 0.0).to(log_prob.dtype), drawn)


def _normalized(prob: Tensor, drawn: Tensor) -> Tensor:
    return prob / prob.sum(dim=1, keepdim=True).clamp_min(torch.finfo(prob.dtype).tiny)


def _sequential(prob: Tensor, drawn: Tensor) -> Tensor:
    before = prob.cumsum(dim=1) - prob
    count = drawn.sum(dim=1, keepdim=True)
    later = count - torch.arange(1, prob.shape[1] + 1, device=prob.device)
    return ((1 - before).clamp_min(0) + later * prob) / count
