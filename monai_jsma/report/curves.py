# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""ROC and precision-recall curves (paper, Figures 2 and 3) and the reliability diagram, as plain lists for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from monai_jsma.report.scores import BINS, calibration_bins

__all__ = ["curves", "reliability"]


def curves(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """ROC and precision-recall points.

    Args:
        labels: index of the true classes ``(n,)``.
        probabilities: ``(n, classes)``.
        classes: their names.

    Returns:
        ``micro``, over all pairs of picture and class, and ``classes``, a list of each class against the rest. None
        where there are no positives or no negatives.
    """
    truth = labels[:, None] == np.arange(len(classes))
    return {
        "micro": _curve(truth.ravel(), probabilities.ravel()),
        "classes": [_curve(t, p) for t, p in zip(truth.T, probabilities.T, strict=True)],
    }


def _curve(truth: np.ndarray, score: np.ndarray) -> dict[str, list[float]] | None:
    if truth.all() or not truth.any():
        return None
    false, true, _ = roc_curve(truth, score)
    precision, recall, _ = precision_recall_curve(truth, score, drop_intermediate=True)
    points = {"false_positives": false, "true_positives": true, "recall": recall, "precision": precision}
    return {name: values.tolist() for name, values in points.items()}


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> list[dict[str, float]]:
    """Of each bin that is not empty: its ends, how many predictions, their mean probability, the part that is right."""
    counts, sums, hits = calibration_bins(labels, probabilities)
    return [
        {"from": i / BINS, "to": (i + 1) / BINS, "count": int(n), "probability": total / n, "right": right / n}
        for i, (n, total, right) in enumerate(zip(counts, sums.tolist(), hits.tolist(), strict=True))
        if n
    ]
