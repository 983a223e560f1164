# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Selective classification: is what is uncertain what is wrong? Risk-coverage curves and the area under them.

The most certain predictions are kept, the others would be left to a pathologist. Coverage is the part that is kept,
risk the part of these that is wrong, and AURC the mean risk at the coverages 1/n, 2/n, ... 1 (Geifman, Uziel and
El-Yaniv, ICLR 2019). Predictions of equal uncertainty have no order: what is told is the mean over all orders of them.
So the perfect order is that by the errors themselves, and the random one that in which all are equally uncertain.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

__all__ = ["COVERAGES", "ORDERS", "SELECTIVE", "orders", "risk_coverage", "risk_coverage_curve", "selective_scores"]

ORDERS = {
    "predictive_entropy": "predictive entropy",
    "mutual_information": "mutual information",
    "perfect": "perfect order",
    "random": "random order",
}
COVERAGES = (50, 80)  # of which the accuracy is told, in percent
SELECTIVE = ("aurc", "gain", *(f"accuracy_{percent}" for percent in COVERAGES))
_POINTS = 200  # of a curve


def orders(wrong: np.ndarray, uncertainties: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What predictions are put in order by ``(n,)``: their uncertainties and, to compare, perfection and chance."""
    return {**uncertainties, "perfect": wrong, "random": np.zeros(len(wrong))}


def risk_coverage(wrong: np.ndarray, uncertainty: np.ndarray) -> np.ndarray:
    """Risk at the coverages 1/n, 2/n, ... 1.

    Args:
        wrong: 1 for each prediction that is wrong, else 0 ``(n,)``, n > 0.
        uncertainty: of each ``(n,)``.

    Returns:
        Risks ``(n,)``; NaN if an uncertainty is, since it has no place in the order.
    """
    if np.isnan(uncertainty).any():
        return np.full(len(wrong), np.nan)
    rising = np.argsort(uncertainty, kind="stable")
    ordered = uncertainty[rising]
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1, len(wrong))  # how many are at most so uncertain
    errors = np.cumsum(wrong[rising])[ends - 1]
    kept = np.arange(1, len(wrong) + 1)
    # In the mean over the orders of equal ones, errors come evenly between these ends.
    return np.interp(kept, np.append(0, ends), np.append(0, errors)) / kept


def selective_scores(wrong: np.ndarray, uncertainty: np.ndarray) -> np.ndarray:
    """Numbers of an order, as :data:`SELECTIVE` names them.

    AURC; gain, which is the AURC of the random order, the error rate, minus it; and the accuracy of the most certain
    50 and 80 %, rounded up to whole predictions.
    """
    risk = risk_coverage(wrong, uncertainty)
    accuracies = [1 - risk[-(-percent * len(risk) // 100) - 1] for percent in COVERAGES]
    gain = np.round(wrong.mean() - risk.mean(), 12) + 0.0  # of the random order it is 0, not -1e-17
    return np.array([risk.mean(), gain, *accuracies])


def risk_coverage_curve(wrong: np.ndarray, uncertainty: np.ndarray) -> dict[str, list[float]]:
    """``coverage`` and ``risk`` as plain lists for JSON, of at most 200 points."""
    count = len(wrong)
    kept = np.unique(np.linspace(1, count, min(count, _POINTS)).round().astype(int))
    return {"coverage": (kept / count).tolist(), "risk": risk_coverage(wrong, uncertainty)[kept - 1].tolist()}
