# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""How uncertain a prediction is, in nats: predictive entropy and, of repeated draws, mutual information.

The predictive entropy is the entropy of the probabilities, those of all draws in the mean: all of the uncertainty. The
mutual information of label and draw is that minus the mean entropy of the single draws: the part that comes from which
patches were drawn. It is 0 where all draws say the same, however unsure each of them is.

Nine decimals are kept, as many digits as a record has: what differs by less is a tie, not an order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr

__all__ = ["mutual_information", "predictive_entropy"]

_DECIMALS = 9


def predictive_entropy(probabilities: ArrayLike) -> np.ndarray:
    """Entropy ``(...)`` of probabilities ``(..., classes)``: 0 for a certain class, log(classes) for equal ones."""
    return np.round(_entropy(np.asarray(probabilities)), _DECIMALS)


def mutual_information(draws: ArrayLike) -> np.ndarray:
    """Mutual information ``(...)`` of label and draw, from the probabilities of each draw ``(..., draws, classes)``."""
    each = np.asarray(draws)
    found = _entropy(each.mean(axis=-2)) - _entropy(each).mean(axis=-1)
    return np.abs(np.round(found, _DECIMALS))  # never negative, but for rounding: no -0.0


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    return entr(probabilities).sum(axis=-1)
