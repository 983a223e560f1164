# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Scores and curves of a classification, from labels and probabilities (paper, Tables 1 and 2, Figures 2 and 3).

Labels have shape ``(n,)``, probabilities ``(n, classes)``. The predicted class is the most probable one, and the first
of equally probable ones. Of multi-label, labels are bool ``(n, classes)``, and all classes are predicted whose
probability reaches their threshold. What is undefined is NaN, never 0: the sensitivity and F1 of a class without cases,
the precision of a class that was never predicted, the AUC and average precision of a class without both positives and
negatives. Macro means are over the classes for which the score is defined.

The tests compare all numbers with scikit-learn's. It checks its input for far longer than it computes, though: scoring
all resamples of a run would take half a minute there, and takes a second here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import precision_recall_curve, roc_curve

from monai_jsma.predictions.measures import predictive_entropy
from monai_jsma.report.selective import compute_risk_coverage

__all__ = [
    "CLASS_SCORES",
    "MULTI_LABEL_MEANINGS",
    "NUM_BINS",
    "SCORES",
    "CalibrationBins",
    "ScoreInfo",
    "Scores",
    "compute_scores",
    "count_calibration_bins",
    "count_confusion",
    "find_wrong",
    "make_curves",
    "make_reliability",
    "mark_classes",
    "mark_predicted",
]

Scores = dict[str, Any]  # by key: a float64, or an array (classes,)


@dataclass(frozen=True)
class ScoreInfo:
    """How a score is presented.

    Args:
        key: its key among the scores.
        title: its name.
        in_percent: whether it is written in percent.
        meaning: one line about what it measures.
        less_is_better: whether a smaller value is better.
    """

    key: str
    title: str
    _: KW_ONLY
    in_percent: bool = False
    meaning: str = ""
    less_is_better: bool = False


SCORES = (
    ScoreInfo(
        "accuracy",
        "Accuracy",
        in_percent=True,
        meaning="share of correct predictions",
    ),
    ScoreInfo(
        "balanced_accuracy",
        "Balanced accuracy",
        in_percent=True,
        meaning="mean sensitivity of the classes: a rare class counts as much",
    ),
    ScoreInfo(
        "f1_macro",
        "F1, macro",
        meaning="mean over the classes of F1, the harmonic mean of sensitivity and precision",
    ),
    ScoreInfo(
        "kappa",
        "Quadratic kappa",
        meaning="agreement of the grades: 1 is perfect, 0 is chance; distant errors count more",
    ),
    ScoreInfo(
        "mae",
        "Mean absolute error",
        meaning="mean distance of predicted and true grade, in grades: 0 is perfect",
        less_is_better=True,
    ),
    ScoreInfo(
        "auc_micro",
        "AUC, micro",
        meaning="area under the ROC curve over all pairs of case and class: 1 is perfect",
    ),
    ScoreInfo(
        "auc_macro",
        "AUC, macro",
        meaning="mean over the classes of the area under the ROC curve: 1 is perfect, 0.5 is guessing",
    ),
    ScoreInfo(
        "ap_micro",
        "AP, micro",
        meaning="average precision over all pairs of case and class: 1 is perfect",
    ),
    ScoreInfo(
        "ap_macro",
        "AP, macro",
        meaning="mean over the classes of average precision; guessing gives the share of a class",
    ),
    ScoreInfo(
        "ece",
        "Calibration error",
        in_percent=True,
        meaning="distance between probability and share of correct predictions (ECE): 0 is perfect",
        less_is_better=True,
    ),
    ScoreInfo(
        "aurc",
        "AURC",
        meaning="mean error rate of the most certain predictions, over all coverages: 0 is perfect",
        less_is_better=True,
    ),
)
CLASS_SCORES = (
    ScoreInfo("sensitivity", "Sensitivity (recall)", in_percent=True),
    ScoreInfo("specificity", "Specificity", in_percent=True),
    ScoreInfo("precision", "Precision (PPV)", in_percent=True),
    ScoreInfo("f1", "F1"),
    ScoreInfo("auc", "AUC"),
    ScoreInfo("ap", "AP"),
)
NUM_BINS = 10  # of the probability, of equal width, each with its lower end: [0.5, 0.6); the last one with both
MULTI_LABEL_MEANINGS = {  # where they differ
    "accuracy": "share of cases of which all classes are predicted correctly, present or absent",
    "balanced_accuracy": "mean over the classes of the mean of sensitivity and specificity: 0.5 is guessing",
}
_MACRO_MEANS = {"balanced_accuracy": "sensitivity", "f1_macro": "f1", "auc_macro": "auc", "ap_macro": "ap"}
_UNDEFINED = np.float64("nan")


def compute_scores(
    labels: np.ndarray,
    probabilities: np.ndarray,
    *,
    ordered: bool = False,
    like: Mapping[str, Any] | None = None,
    thresholds: Sequence[float] | None = None,
) -> Scores:
    """All scores of a classification.

    Args:
        labels: index of the true class of each case ``(n,)``, n > 0; of multi-label bool ``(n, classes)``.
        probabilities: probability of every class ``(n, classes)``.
        ordered: whether the classes are grades, so that the quadratic kappa and the mean absolute error have a meaning.
        like: scores of all cases if these cases are a resample of them. Macro means are then over the same classes, and
            NaN if one of those is undefined here, since a mean over fewer classes would be a different score.
        thresholds: of multi-label, the probability from which each class is predicted; None of other tasks.

    Returns:
        ``accuracy``, ``balanced_accuracy``, ``f1_macro``, ``auc_micro``, ``auc_macro``, ``ap_micro``, ``ap_macro``,
        ``ece`` (not of multi-label), ``aurc`` by predictive entropy and, if ordered, ``kappa`` and ``mae``, each a
        number; ``sensitivity``, ``specificity``, ``precision``, ``f1``, ``auc`` and ``ap`` of each class,
        ``(classes,)``.
    """
    is_class = mark_classes(labels, probabilities)
    class_scores = _score_classes(is_class, mark_predicted(probabilities, thresholds), probabilities)
    wrong = find_wrong(labels, probabilities, thresholds)

    auc_micro, ap_micro = _compute_auc_ap(is_class.ravel(), probabilities.ravel())
    scores: Scores = {
        "accuracy": (len(wrong) - np.count_nonzero(wrong)) / np.int64(len(wrong)),
        "auc_micro": auc_micro,
        "ap_micro": ap_micro,
    }
    reference = class_scores if like is None else like
    for macro, name in _MACRO_MEANS.items():
        defined = np.isfinite(reference[name])
        scores[macro] = _UNDEFINED
        if defined.any():
            scores[macro] = class_scores[name][defined].mean()
    if thresholds is not None:
        scores["balanced_accuracy"] = _average_balanced_accuracy(class_scores, reference)
    if ordered:
        confusion = count_confusion(labels, probabilities)
        scores["kappa"] = _compute_quadratic_kappa(confusion)
        scores["mae"] = _compute_absolute_error(confusion)
    if thresholds is None:
        scores["ece"] = _compute_calibration_error(labels, probabilities)

    entropy = predictive_entropy(probabilities, multi_label=thresholds is not None)
    scores["aurc"] = compute_risk_coverage(wrong, entropy).mean()
    return scores | class_scores


def mark_classes(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Whether each case is of each class: bool ``(n, classes)``; labels as in :func:`compute_scores`."""
    if labels.ndim == 2:
        return labels.astype(bool)
    return labels[:, None] == np.arange(probabilities.shape[1])


def mark_predicted(probabilities: np.ndarray, thresholds: Sequence[float] | None = None) -> np.ndarray:
    """Whether each class is predicted for each case: bool ``(n, classes)``."""
    if thresholds is not None:
        return probabilities >= np.asarray(thresholds)
    return probabilities.argmax(axis=1)[:, None] == np.arange(probabilities.shape[1])


def count_confusion(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The confusion matrix: number of cases ``(classes, classes)``, true class by row, predicted class by column."""
    num_classes = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    pairs = labels * num_classes + predicted
    counts = np.bincount(pairs, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def find_wrong(labels: np.ndarray, probabilities: np.ndarray, thresholds: Sequence[float] | None = None) -> np.ndarray:
    """1 for each wrong prediction, of multi-label in any class, else 0, float64 ``(n,)``."""
    differs = mark_classes(labels, probabilities) != mark_predicted(probabilities, thresholds)
    return differs.any(axis=1).astype(np.float64)


def _score_classes(is_class: np.ndarray, is_predicted: np.ndarray, probabilities: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of each class against the others, ``(classes,)`` each."""
    hits = (is_class & is_predicted).sum(axis=0)
    num_true = is_class.sum(axis=0)
    num_predicted = is_predicted.sum(axis=0)
    num_false = len(is_class) - num_true
    num_rejected = num_false - num_predicted + hits  # of other classes, and not taken for this one

    scores = {}
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        scores["sensitivity"] = hits / num_true
        scores["specificity"] = num_rejected / num_false
        scores["precision"] = hits / num_predicted
        # Without cases of the class F1 is undefined, even if the class was predicted.
        f1_divisor = np.where(num_true, num_true + num_predicted, 0)
        scores["f1"] = 2 * hits / f1_divisor

    areas = [_compute_auc_ap(*column) for column in zip(is_class.T, probabilities.T, strict=True)]
    auc, ap = np.array(areas).T
    return {**scores, "auc": auc, "ap": ap}


def _compute_auc_ap(truth: np.ndarray, score: np.ndarray) -> tuple[Any, Any]:
    """Area under the ROC curve and average precision of one class against the rest.

    Args:
        truth: whether each case is of the class, bool ``(n,)``.
        score: probability of the class ``(n,)``; equal ones are one threshold.
    """
    num_positive = np.count_nonzero(truth)
    num_negative = truth.size - num_positive
    if num_positive == 0 or num_negative == 0:
        return _UNDEFINED, _UNDEFINED

    order = np.argsort(-score, kind="stable")
    steps = np.diff(score[order])
    last = np.flatnonzero(np.append(steps, 1))  # the last of each run of equal scores
    num_called = last + 1
    num_found = np.cumsum(truth[order])[last]
    num_wrong = num_called - num_found

    true_positives = np.append(0, num_found / num_positive)
    false_positives = np.append(0, num_wrong / num_negative)
    precision = num_found / num_called
    auc = np.trapezoid(true_positives, false_positives)
    ap = np.diff(true_positives) @ precision
    return auc, ap


def _compute_quadratic_kappa(confusion: np.ndarray) -> np.float64:
    """Agreement beyond chance; a confusion of two classes counts by their squared distance."""
    grades = np.arange(len(confusion))
    distance = (grades[:, None] - grades) ** 2
    num_true = confusion.sum(axis=1)
    num_predicted = confusion.sum(axis=0)

    disagreement = (distance * confusion).sum()
    expected = np.outer(num_true, num_predicted)
    by_chance = (distance * expected).sum() / confusion.sum()
    if by_chance == 0:
        return _UNDEFINED
    return 1 - disagreement / by_chance


def _compute_absolute_error(confusion: np.ndarray) -> np.float64:
    """Mean distance of predicted and true grade."""
    grades = np.arange(len(confusion))
    distance = np.abs(grades[:, None] - grades)
    return (distance * confusion).sum() / confusion.sum()


def _average_balanced_accuracy(class_scores: Mapping[str, np.ndarray], reference: Mapping[str, Any]) -> Any:
    """Mean over the classes of (sensitivity + specificity) / 2, over those for which the reference defines it."""
    defined = np.isfinite(reference["sensitivity"] + reference["specificity"])
    if not defined.any():
        return _UNDEFINED
    balanced = (class_scores["sensitivity"] + class_scores["specificity"]) / 2
    return balanced[defined].mean()


class CalibrationBins(NamedTuple):
    """Predictions by the probability of their class, in :data:`NUM_BINS` bins.

    Args:
        counts: number of predictions in each bin ``(bins,)``.
        probability_sums: sum of the probabilities of their predicted classes ``(bins,)``.
        num_right: number of correct ones ``(bins,)``.
    """

    counts: np.ndarray
    probability_sums: np.ndarray
    num_right: np.ndarray


def count_calibration_bins(labels: np.ndarray, probabilities: np.ndarray) -> CalibrationBins:
    """Put predictions into bins by the probability of their predicted class."""
    highest = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((highest * NUM_BINS).astype(int), NUM_BINS - 1)
    return CalibrationBins(
        counts=np.bincount(bins, minlength=NUM_BINS),
        probability_sums=np.bincount(bins, highest, NUM_BINS),
        num_right=np.bincount(bins, right, NUM_BINS),
    )


def _compute_calibration_error(labels: np.ndarray, probabilities: np.ndarray) -> np.float64:
    """Mean over the cases of the distance between mean probability and accuracy in their bin (ECE)."""
    bins = count_calibration_bins(labels, probabilities)
    distances = np.abs(bins.num_right - bins.probability_sums)
    return distances.sum() / bins.counts.sum()


def make_reliability(labels: np.ndarray, probabilities: np.ndarray) -> list[dict[str, float]]:
    """The reliability diagram as plain numbers for JSON.

    Returns:
        For each bin that is not empty its ends ``from`` and ``to``, the ``count`` of predictions, their mean
        ``probability`` and the share of them that is ``right``.
    """
    bins = count_calibration_bins(labels, probabilities)
    diagram = []
    for i in np.flatnonzero(bins.counts).tolist():
        count = int(bins.counts[i])
        diagram.append(
            {
                "from": i / NUM_BINS,
                "to": (i + 1) / NUM_BINS,
                "count": count,
                "probability": float(bins.probability_sums[i]) / count,
                "right": float(bins.num_right[i]) / count,
            }
        )
    return diagram


def make_curves(labels: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """ROC and precision-recall curves as plain lists for JSON (paper, Figures 2 and 3).

    Args:
        labels: index of the true class of each case ``(n,)``; of multi-label bool ``(n, classes)``.
        probabilities: probability of every class ``(n, classes)``.
        classes: names of the classes.

    Returns:
        ``micro``, the points of the curves over all pairs of case and class, and ``classes``, a list of those of each
        class against the others. None if there are no positives or no negatives.
    """
    is_class = mark_classes(labels, probabilities)
    columns = zip(is_class.T, probabilities.T, strict=True)
    return {
        "micro": _make_curve_points(is_class.ravel(), probabilities.ravel()),
        "classes": [_make_curve_points(*column) for column in columns],
    }


def _make_curve_points(truth: np.ndarray, score: np.ndarray) -> dict[str, list[float]] | None:
    if truth.all() or not truth.any():
        return None
    false_positives, true_positives, _ = roc_curve(truth, score)
    precision, recall, _ = precision_recall_curve(truth, score, drop_intermediate=True)
    return {
        "false_positives": false_positives.tolist(),
        "true_positives": true_positives.tolist(),
        "recall": recall.tolist(),
        "precision": precision.tolist(),
    }
