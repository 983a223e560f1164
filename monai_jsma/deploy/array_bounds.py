# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What unread patches can change, and bets on what they do not, in arrays, for one image.

The same bounds as in :mod:`monai_jsma.networks.certified` and :mod:`monai_jsma.networks.betting`. They take half of the
digits off every logit. That is a thousand times what another library computes otherwise, so a certificate holds for the
label of all patches that the network would give as well.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = [
    "ClassWeights",
    "bet_on_arrays",
    "find_confidences",
    "find_intervals",
    "find_margins",
    "has_certain_class",
    "make_wealth",
]

_SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)  # of what can be lost


class ClassWeights(NamedTuple):
    """The linear classifier as it meets features of length 1.

    Attributes:
        weight: ``(classes, features)``.
        bias: ``(classes,)``.
        non_negative: whether features are never below 0.
        rounding: error of a logit, relative to the largest value that it can have.
    """

    weight: np.ndarray
    bias: np.ndarray
    non_negative: bool
    rounding: float


def find_margins(logits: np.ndarray, unread: np.ndarray | float, head: ClassWeights) -> np.ndarray:
    """Lower bounds of ``z_a - z_b`` of all patches: float64 ``(..., a, b)``, 0 for a class against itself.

    Args:
        logits: logits of the unnormalized bag of the patches that were read ``(..., classes)``.
        unread: attention of all other patches ``(...)``.
        head: classifier that gave the logits.
    """
    logits = logits.astype(np.float64)
    weight = head.weight.astype(np.float64)
    apart = weight - weight[:, None]  # [a, b] = w_b - w_a
    if head.non_negative:
        apart = np.maximum(apart, 0)
    reach = np.linalg.norm(apart, axis=2)

    largest = np.linalg.norm(weight, axis=1) + np.abs(head.bias.astype(np.float64))
    error = head.rounding * (largest[:, None] + largest)
    np.fill_diagonal(error, 0)

    margins = logits[..., :, None] - logits[..., None, :]
    return margins - np.asarray(unread, np.float64)[..., None, None] * reach - error


def has_certain_class(margins: np.ndarray) -> bool:
    """Whether one class is above all others whatever the unread patches show, of bounds ``(a, b)``."""
    is_above = (margins > 0) | np.eye(len(margins), dtype=bool)
    return bool(is_above.all(axis=1).any())


def find_intervals(margins: np.ndarray) -> np.ndarray:
    """The least and the greatest probability of each class that the bounds allow: float64 ``(classes, 2)``."""
    log_least = -_log_sum_exp(-margins, axis=1)
    log_greatest = -_log_sum_exp(margins, axis=0)
    return np.exp(np.stack((log_least, log_greatest), axis=1))


def bet_on_arrays(margins: np.ndarray, least: np.ndarray) -> np.ndarray:
    """Log of what each share multiplies its wealth by: float64 ``(..., shares, a, b)``.

    Args:
        margins: ``z_a - z_b`` of the bag in which the drawn patch stands for all that are unread ``(..., a, b)``.
        least: the least that the margins could have been, as it was known before the draw ``(..., a, b)``.
    """
    smallest = np.finfo(np.float64).tiny
    with np.errstate(over="ignore"):  # where nothing can be lost, any win is endless
        win = margins / np.maximum(-least, smallest)
    win = np.maximum(win, -1)  # by rounding alone it can be less
    shares = np.asarray(_SHARES)[:, None, None]
    return np.log1p(shares * np.expand_dims(win, -3))


def find_confidences(log_wealth: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """Confidence that each class is above all others: float64 ``(classes,)``, 1 where it is for certain.

    Args:
        log_wealth: log wealth of each share and pair of classes ``(shares, a, b)``.
        margins: the least that the margins of all patches can be, by what was read ``(a, b)``.
    """
    num_classes = len(margins)
    is_above = (margins > 0) | np.eye(num_classes, dtype=bool)
    wealth = _log_sum_exp(log_wealth, axis=0) - np.log(len(_SHARES))
    least_wealth = np.where(is_above, np.inf, wealth).min(axis=1)
    delta = np.exp(-least_wealth) * (num_classes - 1)
    return np.maximum(1 - delta, 0)


def make_wealth(num_classes: int) -> np.ndarray:
    """Log wealth before the first bet: 0 for each share and pair of classes ``(shares, a, b)``."""
    return np.zeros((len(_SHARES), num_classes, num_classes))


def _log_sum_exp(values: np.ndarray, *, axis: int) -> np.ndarray:
    largest = values.max(axis=axis, keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0)
    total = np.exp(values - largest).sum(axis=axis)
    with np.errstate(divide="ignore"):
        return np.log(total) + largest.squeeze(axis)
