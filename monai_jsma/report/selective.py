# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Selective classification: are the uncertain predictions the wrong ones? Risk-coverage curves and their area.

The most certain predictions are kept; the others would be left to a pathologist. Coverage is the share of predictions
that is kept, risk is the share of these that is wrong, and AURC is the mean risk at the coverages 1/n, 2/n, ... 1
(Geifman, Uziel and El-Yaniv, ICLR 2019). Equally uncertain predictions have no order, so every number is the mean over
all orders of them. The perfect order is thus that by the errors themselves, and the random order is that in which all
predictions are equally uncertain.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = [
    "COVERAGES",
    "ORDERS",
    "SELECTIVE",
    "compute_risk_coverage",
    "make_orders",
    "make_risk_coverage_curve",
    "score_order",
]

ORDERS = {
    "predictive_entropy": "predictive entropy",
    "mutual_information": "mutual information",
    "perfect": "perfect order",
    "random": "random order",
}
COVERAGES = (50, 80)  # at which the accuracy is given, in percent
SELECTIVE = ("aurc", "gain", *(f"accuracy_{percent}" for percent in COVERAGES))
_MAX_POINTS = 200  # of a curve


def make_orders(wrong: np.ndarray, uncertainties: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Numbers ``(n,)`` to order predictions by: their uncertainties and, for comparison, the perfect and random order.

    Args:
        wrong: 1 for each wrong prediction, else 0 ``(n,)``.
        uncertainties: uncertainty of each prediction ``(n,)``, by its name.
    """
    orders = dict(uncertainties)
    orders["perfect"] = wrong
    orders["random"] = np.zeros(len(wrong))
    return orders


def compute_risk_coverage(wrong: np.ndarray, uncertainty: np.ndarray) -> np.ndarray:
    """Risk at the coverages 1/n, 2/n, ... 1.

    Args:
        wrong: 1 for each wrong prediction, else 0 ``(n,)``, n > 0.
        uncertainty: uncertainty of each prediction ``(n,)``.

    Returns:
        Risks ``(n,)``; NaN if any uncertainty is NaN, since it has no place in the order.
    """
    num_predictions = len(wrong)
    if np.isnan(uncertainty).any():
        return np.full(num_predictions, np.nan)

    order = np.argsort(uncertainty, kind="stable")
    sorted_uncertainty = uncertainty[order]
    changes = sorted_uncertainty[1:] != sorted_uncertainty[:-1]
    # Number of predictions up to the end of each run of equal uncertainty, and of the errors among them.
    ends = np.flatnonzero(changes) + 1
    ends = np.append(ends, num_predictions)
    num_errors = np.cumsum(wrong[order])
    errors_at_ends = num_errors[ends - 1]

    # In the mean over the orders of equally uncertain predictions, the errors come evenly between these ends.
    num_kept = np.arange(1, num_predictions + 1)
    errors = np.interp(
        num_kept,
        np.append(0, ends),
        np.append(0, errors_at_ends),
    )
    return errors / num_kept


def score_order(wrong: np.ndarray, uncertainty: np.ndarray) -> np.ndarray:
    """Numbers of an order of the predictions, in the order of :data:`SELECTIVE`.

    These are AURC; gain, the AURC of the random order (which is the error rate) minus that of this order; and the
    accuracy of the most certain 50 and 80 % of the predictions, rounded up to whole predictions.

    Args:
        wrong: 1 for each wrong prediction, else 0 ``(n,)``, n > 0.
        uncertainty: uncertainty of each prediction ``(n,)``.
    """
    risk = compute_risk_coverage(wrong, uncertainty)
    aurc = risk.mean()
    error_rate = wrong.mean()
    gain = np.round(error_rate - aurc, 12) + 0.0  # of the random order it is 0, not -1e-17

    numbers = [aurc, gain]
    for percent in COVERAGES:
        num_kept = -(-percent * len(risk) // 100)
        accuracy = 1 - risk[num_kept - 1]
        numbers.append(accuracy)
    return np.array(numbers)


def make_risk_coverage_curve(wrong: np.ndarray, uncertainty: np.ndarray) -> dict[str, list[float]]:
    """The risk-coverage curve: ``coverage`` and ``risk`` as plain lists for JSON, of at most 200 points.

    Args:
        wrong: 1 for each wrong prediction, else 0 ``(n,)``, n > 0.
        uncertainty: uncertainty of each prediction ``(n,)``.
    """
    num_predictions = len(wrong)
    num_points = min(num_predictions, _MAX_POINTS)
    points = np.linspace(1, num_predictions, num_points)
    num_kept = np.unique(points.round().astype(int))
    risk = compute_risk_coverage(wrong, uncertainty)
    return {
        "coverage": (num_kept / num_predictions).tolist(),
        "risk": risk[num_kept - 1].tolist(),
    }
