# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What the attention learns from: the gradient through the bag, or a score function with a baseline for each draw.

The pathwise rule (the paper's) differentiates the bag. Once one good patch makes the loss small, that gradient
vanishes, though finding the patch was worth everything. A score function rule follows the gradient of the expected
loss itself:

    L(V) + sum_s sg(L(V) - L(V_s)) log p_s,      sg = stop gradient,

with V the mean feature of the draws, p_s the probability of draw s, and V_s a bag that does not depend on it: for
``leave_one_out`` (independent draws) the mean of the others, for ``prefix`` (draws without replacement) the mean of
those before it. Both are unbiased; :class:`~monai_jsma.losses.JSMALoss` puts the terms together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from monai_jsma.networks.sampling import ESTIMATORS, Draw, all_cells, draw_cells, draw_in_order, draw_independently

__all__ = ["LEARNING_RULES", "baseline_bags", "check_rule", "draw_by_rule", "draw_log_prob"]

LEARNING_RULES = ("pathwise", "leave_one_out", "prefix")


def check_rule(num_patches: int | str, rule: str, estimator: str, *, centered: bool = False) -> None:
    """Whether a number of patches can be drawn so.

    Raises:
        ValueError: if not, or for an unknown rule or estimator.
    """
    for name, value, known in (("learning_rule", rule, LEARNING_RULES), ("estimator", estimator, ESTIMATORS)):
        if value not in known:
            raise ValueError(f"unknown {name} '{value}'; choose one of {', '.join(known)}.")
    if num_patches == "all":
        if rule != "pathwise":
            raise ValueError(f"{rule} compares draws, but of all patches none is drawn: choose 'pathwise'.")
    elif isinstance(num_patches, str) or num_patches < 1:
        raise ValueError(f"num_patches {num_patches!r} must be at least 1, or 'all'.")
    elif (centered or rule == "leave_one_out") and num_patches < 2:
        raise ValueError("leave_one_out and centered compare with other patches: num_patches must be at least 2.")


def draw_by_rule(log_prob: Tensor, k: int | str, rule: str, estimator: str = "paper") -> Draw:
    """Draw k cells a picture and weigh them; for a score function rule the bag is the plain mean of what was drawn.

    Args:
        log_prob: log attention ``(batch, cells)``.
        k: number of draws, or ``"all"``: every cell, weighed by its attention.
        rule: ``"pathwise"``, ``"leave_one_out"`` (independent draws) or ``"prefix"`` (without replacement).
        estimator: of the pathwise rule, see :func:`~monai_jsma.networks.draw_cells`.
    """
    if k == "all":
        return all_cells(log_prob)
    if rule == "pathwise":
        return draw_cells(log_prob, int(k), estimator)
    log_prob = log_prob.detach()
    cells = (draw_in_order if rule == "prefix" else draw_independently)(log_prob, int(k))
    drawn = torch.isfinite(log_prob.gather(1, cells))
    return Draw(cells, drawn.to(log_prob.dtype) / drawn.sum(dim=1, keepdim=True), drawn)


def baseline_bags(features: Tensor, rule: str) -> Tensor:
    """For each draw a bag without it: ``(batch, k, features)`` from the features of the draws, of the same shape.

    ``leave_one_out``: the mean of the other k - 1. ``prefix``: the mean of those before it, 0 for the first.
    """
    k = features.shape[1]
    if rule == "prefix":
        count = torch.arange(k, device=features.device).clamp_min(1)
        return (features.cumsum(dim=1) - features) / count[:, None]
    return (features.sum(dim=1, keepdim=True) - features) / (k - 1)


def draw_log_prob(log_prob: Tensor, cells: Tensor, *, in_order: bool) -> Tensor:
    """Log probability of each draw ``(batch, k)``, differentiable: independent, or given those drawn before it."""
    if not in_order:
        return log_prob.gather(1, cells)
    earlier = torch.nn.functional.one_hot(cells, log_prob.shape[1]).cumsum(1).roll(1, dims=1).bool()
    earlier[:, 0] = False
    possible = torch.isfinite(log_prob.gather(1, cells))
    left = log_prob[:, None, :].expand_as(earlier).masked_fill(earlier, float("-inf"))
    left = left.masked_fill(~possible[:, :, None], 0.0).log_softmax(dim=2)
    return torch.where(possible, left.gather(2, cells[:, :, None]).squeeze(2), 0.0)
