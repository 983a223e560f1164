# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of a classification from labels and probabilities (paper, Tables 1 and 2). Pure: no file is known here.

Labels have shape ``(n,)``, probabilities ``(n, classes)``. The predicted class is the most probable one, of equally
probable ones the first. What is not defined is NaN, never 0: the sensitivity and F1 of a class that no label names, the
precision of a class that was never predicted, the AUC and average precision of a class without both positives and
negatives. Macro means are over the classes for which their parts are defined.

The numbers are scikit-learn's, which the tests hold them to. It looks at its input far longer than it computes, though:
the resamples of a run would take half a minute there, and take a second here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from monai_jsma.predictions.measures import predictive_entropy
from monai_jsma.report.selective import risk_coverage

__all__ = ["BINS", "PER_CLASS", "Scores", "calibration_bins", "confusion", "is_wrong", "scores"]

Scores = dict[str, Any]  # a float64, or an array (classes,)

BINS = 10  # of equal width, each with its lower end: [0.5, 0.6); the last one with both
PER_CLASS = ("sensitivity", "specificity", "precision", "f1", "auc", "ap")
_MACROS = {"balanced_accuracy": "sensitivity", "f1_macro": "f1", "auc_macro": "auc", "ap_macro": "ap"}


def scores(
    labels: np.ndarray,
    probabilities: np.ndarray,
    *,
    ordered: bool = False,
    like: Mapping[str, Any] | None = None,
) -> Scores:
    """All scores of a classification.

    Args:
        labels: index of the true classes ``(n,)``, n > 0.
        probabilities: of every class ``(n, classes)``.
        ordered: whether the classes are grades, so that the quadratic kappa has a meaning.
        like: scores of all data when these are a resample of them. Macro means are then over the same classes, and NaN
            where one of those is undefined here: a mean over fewer classes would be another score.

    Returns:
        ``accuracy``, ``balanced_accuracy``, ``f1_macro``, ``auc_micro``, ``auc_macro``, ``ap_micro``, ``ap_macro``,
        ``ece``, ``aurc`` by predictive entropy and, if ordered, ``kappa``, each a number; ``sensitivity``,
        ``specificity``, ``precision``, ``f1``, ``auc`` and ``ap`` of each class, ``(classes,)``.
    """
    table = confusion(labels, probabilities)
    truth = labels[:, None] == np.arange(probabilities.shape[1])
    ranked = np.array([_auc_ap(t, p) for t, p in zip(truth.T, probabilities.T, strict=True)])
    per_class = {**_rates(table), "auc": ranked[:, 0], "ap": ranked[:, 1]}
    auc_micro, ap_micro = _auc_ap(truth.ravel(), probabilities.ravel())
    found: Scores = {"accuracy": table.trace() / table.sum(), "auc_micro": auc_micro, "ap_micro": ap_micro}
    for macro, part in _MACROS.items():
        defined = np.isfinite((like or per_class)[part])
        found[macro] = per_class[part][defined].mean() if defined.any() else np.float64("nan")
    if ordered:
        found["kappa"] = _quadratic_kappa(table)
    found["ece"] = _expected_calibration_error(labels, probabilities)
    found["aurc"] = risk_coverage(is_wrong(labels, probabilities), predictive_entropy(probabilities)).mean()
    return {**found, **per_class}


def confusion(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Numbers ``(classes, classes)``: true class by row, predicted class by column."""
    classes = probabilities.shape[1]
    pairs = labels * classes + probabilities.argmax(axis=1)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def is_wrong(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """1 for each prediction that is wrong, else 0 ``(n,)``."""
    return (probabilities.argmax(axis=1) != labels).astype(np.float64)


def _rates(table: np.ndarray) -> dict[str, np.ndarray]:
    hits, true, called, everything = table.diagonal(), table.sum(axis=1), table.sum(axis=0), table.sum()
    with np.errstate(invalid="ignore"):
        return {
            "sensitivity": hits / true,
            "specificity": (everything - true - called + hits) / (everything - true),
            "precision": hits / called,
            "f1": 2 * hits / np.where(true, true + called, 0),
        }


def _auc_ap(truth: np.ndarray, score: np.ndarray) -> tuple[Any, Any]:
    """Area under the ROC curve and average precision of one class against the rest; equal scores are one threshold."""
    positives = np.count_nonzero(truth)
    negatives = truth.size - positives
    if not (positives and negatives):
        return np.float64("nan"), np.float64("nan")
    falling = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[falling]), 1))  # the last of equal scores
    found = np.cumsum(truth[falling])[ends]
    true, false = (np.append(0, n) for n in (found / positives, (ends + 1 - found) / negatives))
    return np.trapezoid(true, false), np.diff(true) @ (found / (ends + 1))


def _quadratic_kappa(table: np.ndarray) -> np.float64:
    """Agreement beyond chance; a confusion of classes counts by their squared distance."""
    steps = np.arange(len(table))
    distance = (steps[:, None] - steps) ** 2
    by_chance = (distance * np.outer(table.sum(axis=1), table.sum(axis=0))).sum() / table.sum()
    return 1 - (distance * table).sum() / by_chance if by_chance else np.float64("nan")


def calibration_bins(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By probability of the predicted class: how many ``(BINS,)``, the sum of that probability, and how many right."""
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = np.minimum((sure * BINS).astype(int), BINS - 1)
    counts, sums, hits = (np.bincount(place, weights, BINS) for weights in (None, sure, right))
    return counts, sums, hits


def _expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> np.float64:
    """Mean over the pictures of how far the probability in their bin is from the part that is right there."""
    counts, sums, hits = calibration_bins(labels, probabilities)
    return np.abs(hits - sums).sum() / counts.sum()
