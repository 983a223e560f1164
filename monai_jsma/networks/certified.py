# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Bounds of what unread patches can change, for :class:`~monai_jsma.networks.Certified`.

With features of length 1 at most and logits ``z = W Phi + b``, the unread patches, of attention R together, can move
the bag by a vector r of length R at most. Between two classes that moves the logits by ``(w_a - w_b) r``, so

``z_a - z_b >= (w_a - w_b) Phi_read + b_a - b_b - R |w_b - w_a|``,

and where features are never negative only ``max(0, w_b - w_a)`` counts. If this is positive for one class a against all
b, then a is the label of all patches. The same bounds give an interval of each probability, after any number of them.

Grades are classes whose logits lie on one line, so the same holds. Of multi-label each class is a choice of its own
between "present", with the logit z - t, and "absent", with 0, where t is the logit of its threshold: the margins are
those of so many choices between two.

A network computes in floating point, and a patch in another batch gives features that differ in their last digits. So
a logit is trusted to half of its digits only: the rest is taken off every bound (:func:`trusted_digits`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from monai_jsma.tasks import log_odds

__all__ = ["LinearHead", "is_certain", "margin_bounds", "probability_intervals", "trusted_digits"]


class LinearHead(NamedTuple):
    """A linear classifier as it meets features of length 1.

    Attributes:
        weight: ``(classes, features)``.
        bias: ``(classes,)``.
        non_negative: whether features are never below 0.
        thresholds: of multi-label, the probability from which each class is present; None: one class is the label.
    """

    weight: Tensor
    bias: Tensor
    non_negative: bool = False
    thresholds: Sequence[float] | None = None

    @property
    def choices(self) -> tuple[int, ...]:
        """How many choices of their own are made of an image: ``()``, of multi-label ``(classes,)``."""
        return () if self.thresholds is None else (len(self.weight),)

    @property
    def num_options(self) -> int:
        """Number of classes to choose from; of multi-label 2, "present" and "absent"."""
        return len(self.weight) if self.thresholds is None else 2

    def find_cuts(self) -> Tensor:
        """Logits of the thresholds: float64 ``(classes,)``."""
        assert self.thresholds is not None
        cuts = [log_odds(threshold) for threshold in self.thresholds]
        return torch.tensor(cuts, dtype=torch.float64, device=self.weight.device)


def margin_bounds(logits: Tensor, unread: Tensor, head: LinearHead, *, rounding: float = 0.0) -> Tensor:
    """Lower bounds of ``z_a - z_b`` of all patches: float64 ``(..., a, b)``, 0 for a class against itself.

    Of multi-label ``(..., classes, a, b)``, where 0 is "present" and 1 "absent".

    Args:
        logits: logits of the unnormalized bag of the patches that were read ``(..., classes)``.
        unread: attention of all other patches ``(...)``.
        head: classifier that gave the logits.
        rounding: error of a logit, relative to the largest value that it can have.
    """
    logits = logits.double()
    weight = head.weight.double()
    if head.thresholds is not None:
        return _bound_presence(logits, unread, head, rounding=rounding)
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


def _bound_presence(logits: Tensor, unread: Tensor, head: LinearHead, *, rounding: float) -> Tensor:
    """Lower bounds of ``z - t`` and of ``t - z`` for each class: float64 ``(..., classes, 2, 2)``."""
    weight = head.weight.double()
    bias = head.bias.double()
    cuts = head.find_cuts()
    rise = weight.clamp_min(0) if head.non_negative else weight
    fall = (-weight).clamp_min(0) if head.non_negative else weight
    unread = unread.double()[..., None]
    most_added = unread * torch.linalg.vector_norm(rise, dim=1)
    most_taken = unread * torch.linalg.vector_norm(fall, dim=1)

    error = rounding * (torch.linalg.vector_norm(weight, dim=1) + bias.abs() + cuts.abs())
    present = logits - cuts - most_taken - error
    absent = cuts - logits - most_added - error
    nothing = torch.zeros_like(present)
    rows = (torch.stack((nothing, present), dim=-1), torch.stack((absent, nothing), dim=-1))
    return torch.stack(rows, dim=-2)


def is_certain(bounds: Tensor) -> Tensor:
    """Whether one class is above all others whatever the unread patches show: bool ``(batch,)``.

    Of multi-label: whether that is so of "present" or "absent" of each class.
    """
    num_classes = bounds.shape[-1]
    itself = torch.eye(num_classes, dtype=torch.bool, device=bounds.device)
    is_above = bounds.gt(0) | itself
    is_decided = is_above.all(dim=-1).any(dim=-1)  # (batch,), of multi-label (batch, classes)
    return is_decided if is_decided.ndim == 1 else is_decided.all(dim=1)


def probability_intervals(bounds: Tensor, head: LinearHead | None = None) -> Tensor:
    """The least and the greatest probability of each class that the bounds allow: float64 ``(batch, classes, 2)``.

    Args:
        bounds: see :func:`margin_bounds`.
        head: the classifier, which is needed of multi-label.
    """
    if head is not None and head.thresholds is not None:
        cuts = head.find_cuts()
        least = cuts + bounds[..., 0, 1]
        greatest = cuts - bounds[..., 1, 0]
        return torch.stack((least, greatest), dim=-1).sigmoid()
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
