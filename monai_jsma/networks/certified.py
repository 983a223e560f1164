# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Bounds of what unread patches can change, for :class:`~monai_jsma.networks.Certified`.

With features of length 1 at most and logits ``z = W Phi + b``, the unread patches, of attention R together, can move
the bag by a vector r of length R at most. Between two classes that moves the logits by ``(w_a - w_b) r``, so

``z_a - z_b >= (w_a - w_b) Phi_read + b_a - b_b - R |w_b - w_a|``,

and where features are never negative only ``max(0, w_b - w_a)`` counts. If this is positive for one class a against all
b, then a is the label of all patches. The same bounds give an interval of each probability, after any number of them.

A network computes in floating point, and a patch in another batch gives features that differ in their last digits. So
a logit is trusted to half of its digits only: the rest is taken off every bound (:func:`trusted_digits`).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LinearHead", "is_certain", "margin_bounds", "probability_intervals", "trusted_digits"]


class LinearHead(NamedTuple):
    """A linear classifier as it meets features of length 1.

    Attributes:
        weight: ``(classes, features)``.
        bias: ``(classes,)``.
        non_negative: whether features are never below 0.
    """

    weight: Tensor
    bias: Tensor
    non_negative: bool = False


def margin_bounds(logits: Tensor, unread: Tensor, head: LinearHead, *, rounding: float = 0.0) -> Tensor:
    """Lower bounds of ``z_a - z_b`` of all patches: float64 ``(..., a, b)``, 0 for a class against itself.

    Args:
        logits: logits of the unnormalized bag of the patches that were read ``(..., classes)``.
        unread: attention of all other patches ``(...)``.
        head: classifier that gave the logits.
        rounding: error of a logit, relative to the largest value that it can have.
    """
    logits = logits.double()
    weight = head.weight.double()
    apart = weight - weight[:, None]  # [a, b] = w_b - w_a
    if head.non_negative:
        apart = apart.clamp_min(0)
    reach = torch.linalg.vector_norm(apart, dim=2)

    largest = torch.linalg.vector_norm(weight, dim=1) + head.bias.double().abs()  # of each logit
    error = rounding * (largest[:, None] + largest)
    error.fill_diagonal_(0)

    margins = logits[..., :, None] - logits[..., None, :]
    unread = unread.double()[..., None, None]
    return margins - unread * reach - error


def is_certain(bounds: Tensor) -> Tensor:
    """Whether one class is above all others whatever the unread patches show: bool ``(batch,)``."""
    num_classes = bounds.shape[1]
    itself = torch.eye(num_classes, dtype=torch.bool, device=bounds.device)
    is_above = bounds.gt(0) | itself
    return is_above.all(dim=2).any(dim=1)


def probability_intervals(bounds: Tensor) -> Tensor:
    """The least and the greatest probability of each class that the bounds allow: float64 ``(batch, classes, 2)``."""
    log_least = -(-bounds).logsumexp(dim=2)
    log_greatest = -bounds.logsumexp(dim=1)
    ends = torch.stack((log_least, log_greatest), dim=2)
    return ends.exp()


def trusted_digits(features: Tensor) -> float:
    """Half of the digits in which ``features`` were computed: the square root of the machine epsilon.

    Autocast computes in its own type; an accelerator may multiply float32 as TF32, which has the digits of float16.
    """
    kind = features.device.type
    dtype = features.dtype
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    elif kind != "cpu":
        dtype = torch.float16
    epsilon = torch.finfo(dtype).eps
    return float(epsilon**0.5)
