# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Stopping by betting: how sure it is, after some random patches, that a class is that of all patches.

The patches are drawn one after the other, in proportion to their attention among those that are not read. What is read
counts as in Eq. 1, and the patch drawn next stands for all others: with f its features and R the attention that is
unread, ``Phi_read + R f`` is on average Phi, the bag of all patches, whatever was read before.

So one can bet against "class a is not above class b". The win is the margin of that bag, ``x_ab``; the least that it
can be, ``-s`` with ``s > 0`` (:func:`~monai_jsma.networks.margin_bounds`), is known before the draw. A stake of a share
c < 1 of what can be lost multiplies the wealth ``K_ab`` by ``1 + c x_ab / s``, which is never negative. If class a is
not above class b, ``K_ab`` is a supermartingale that begins at 1, and by Ville's inequality it ever reaches
``(C - 1) / delta`` with a probability of at most ``delta / (C - 1)``. So with C classes, one that is not the highest is
above all others by its wealth with a probability of at most delta, whenever one looks, however many cells there are.

The share c is not chosen: K is the mean wealth over :data:`SHARES`, which is a supermartingale too, and grows almost as
fast as that of the best of them (Cover 1991). Where ``s <= 0`` nothing can be lost: the class is above for certain.

Multi-label with C classes is C such choices, each between "present" and "absent". Its label is wrong if one of them is,
so each must be sure with ``delta / C`` (the union bound).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["SHARES", "bet_on_margins", "confidence_in_all", "confidence_in_classes", "mean_wealth", "start_wealth"]

SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of what can be lost


def start_wealth(like: Tensor, num_classes: int, *, choices: Sequence[int] = ()) -> Tensor:
    """Log wealth before the first bet: 0 for each share and pair of classes, float64 ``(batch, shares, a, b)``.

    Args:
        like: tensor whose first axis is the batch, on the device of the bets.
        num_classes: number of classes to choose from; 2 for "present" and "absent".
        choices: of multi-label, the number of classes that are each such a choice: ``(batch, choices, shares, a, b)``.
    """
    shape = (len(like), *choices, len(SHARES), num_classes, num_classes)
    return like.new_zeros(shape, dtype=torch.float64)


def bet_on_margins(margins: Tensor, least: Tensor) -> Tensor:
    """Log of what each share multiplies its wealth by: float64 ``(..., shares, a, b)``.

    Args:
        margins: ``z_a - z_b`` of the bag in which the drawn patch stands for all that are unread ``(..., a, b)``.
        least: the least that the margins could have been, as it was known before the draw ``(..., a, b)``.
    """
    smallest = torch.finfo(torch.float64).tiny
    loss = -least.double()
    win = margins.double() / loss.clamp_min(smallest)
    win = win.clamp_min(-1)  # by rounding alone it can be less
    shares = win.new_tensor(SHARES)
    growth = shares[:, None, None] * win.unsqueeze(-3)
    return growth.log1p()


def mean_wealth(log_wealth: Tensor) -> Tensor:
    """Log of the mean wealth over the shares ``(..., a, b)`` from log wealth ``(..., shares, a, b)``."""
    return log_wealth.logsumexp(dim=-3) - math.log(len(SHARES))


def confidence_in_classes(log_wealth: Tensor, bounds: Tensor) -> Tensor:
    """Confidence that each class is above all others: float64 ``(batch, ..., classes)``, 1 where it is for certain.

    It is 1 - delta for the smallest delta that the wealth of the class allows, or 0. Whatever level is asked for, and
    whenever one looks, a wrong class reaches it with a probability of at most 1 minus this level.

    Args:
        log_wealth: log wealth of each share and pair of classes ``(batch, ..., shares, a, b)``.
        bounds: the least that the margins of all patches can be, by what was read ``(batch, ..., a, b)``.
    """
    num_classes = bounds.shape[-1]
    itself = torch.eye(num_classes, dtype=torch.bool, device=bounds.device)
    is_above = bounds.gt(0) | itself
    wealth = mean_wealth(log_wealth)
    wealth = wealth.masked_fill(is_above, torch.inf)
    least_wealth = wealth.amin(dim=-1)  # (batch, ..., a)
    delta = torch.exp(-least_wealth) * (num_classes - 1)
    confidence = 1 - delta
    return confidence.clamp_min(0)


def confidence_in_all(confidences: Tensor, is_present: Tensor) -> Tensor:
    """Confidence that of multi-label all classes are as they are said to be: float64 ``(batch,)``.

    Args:
        confidences: confidence in "present" and in "absent" of each class ``(batch, classes, 2)``.
        is_present: which of both is said: bool ``(batch, classes)``.
    """
    present, absent = confidences.unbind(dim=2)
    said = torch.where(is_present, present, absent)
    num_classes = said.shape[1]
    delta = num_classes * (1 - said.amin(dim=1))
    return (1 - delta).clamp_min(0)
