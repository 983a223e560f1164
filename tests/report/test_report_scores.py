# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Scores against numbers worked out by hand, and against scikit-learn; their intervals against all resamples."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from sklearn import metrics

from monai_jsma.report import compute_scores
from monai_jsma.report.intervals import add_intervals, bootstrap
from monai_jsma.report.scores import count_confusion, make_curves, make_reliability


def sure(predicted, classes=4, probability=0.7):
    """Probabilities that predict these classes."""
    made = np.full((len(predicted), classes), (1 - probability) / (classes - 1))
    made[np.arange(len(predicted)), predicted] = probability
    return made


def test_four_classes_with_six_of_ten_right():
    labels = np.array([0, 0, 0, 1, 1, 1, 2, 2, 3, 3])
    found = compute_scores(labels, sure([0, 0, 1, 1, 1, 2, 2, 3, 3, 0]))
    assert found["accuracy"] == 0.6  # not 0.8, as a mean over one-against-rest would give
    assert found["sensitivity"] == pytest.approx([2 / 3, 2 / 3, 1 / 2, 1 / 2])
    assert found["balanced_accuracy"] == pytest.approx(7 / 12)
    assert found["specificity"] == pytest.approx([6 / 7, 6 / 7, 7 / 8, 7 / 8])
    assert found["precision"] == pytest.approx([2 / 3, 2 / 3, 1 / 2, 1 / 2])
    assert found["f1_macro"] == pytest.approx(7 / 12)
    assert found["ece"] == pytest.approx(0.1)  # all are 70 % sure, 60 % are right
    assert "kappa" not in found
    assert count_confusion(labels, sure([0, 0, 1, 1, 1, 2, 2, 3, 3, 0])).tolist() == [
        [2, 1, 0, 0], [0, 2, 1, 0], [0, 0, 1, 1], [1, 0, 0, 1],
    ]  # fmt: skip


def test_two_classes_by_hand():
    labels = np.array([1, 0, 1, 0])
    found = compute_scores(labels, np.array([[0.1, 0.9], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]]))
    assert found["auc"] == pytest.approx([0.75, 0.75])  # 3 of 4 pairs are in order
    assert found["ap"][1] == pytest.approx((1 + 2 / 3) / 2)
    # micro: 0.9+ 0.8- 0.7+ 0.6+ 0.4- 0.3- 0.2+ 0.1-: of 16 pairs 4 + 3 + 3 + 1 are in order
    assert found["auc_micro"] == pytest.approx(11 / 16)
    assert found["ap_micro"] == pytest.approx((1 + 2 / 3 + 3 / 4 + 4 / 7) / 4)


def test_equal_scores_are_one_threshold():
    labels = np.array([1, 0, 1, 0])
    found = compute_scores(labels, np.full((4, 2), 0.5))
    assert (found["auc"].tolist(), found["ap"].tolist()) == ([0.5, 0.5], [0.5, 0.5])
    assert (found["accuracy"], found["sensitivity"].tolist()) == (0.5, [1, 0])  # the first class is taken


def test_a_class_that_is_missing_is_undefined_and_not_zero():
    labels, probabilities = np.array([0, 0, 1, 1]), sure([0, 2, 1, 1], classes=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compute_scores(labels, probabilities)
    for name in ("sensitivity", "f1", "auc", "ap"):
        assert np.isnan(found[name]).tolist() == [False, False, True], name
    assert found["balanced_accuracy"] == pytest.approx((0.5 + 1) / 2)
    assert found["f1_macro"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["auc_macro"] == pytest.approx(np.mean(found["auc"][:2]))
    assert found["specificity"][2] == 0.75
    assert found["precision"][2] == 0  # it was predicted once, and wrongly


def test_one_class_alone():
    found = compute_scores(np.zeros(3, int), sure([0, 0, 1], classes=2), ordered=True)
    assert (found["accuracy"], found["balanced_accuracy"]) == (2 / 3, 2 / 3)
    for name in ("auc", "ap"):
        assert np.isnan(found[name]).all()
        assert np.isnan(found[f"{name}_macro"])
    assert np.isnan(found["specificity"][0])
    assert np.isnan(compute_scores(np.zeros(2, int), sure([0, 0], classes=2), ordered=True)["kappa"])


def test_a_resample_without_a_class_has_no_macro_mean():
    labels, probabilities = np.array([0, 1, 2, 0]), sure([0, 1, 1, 0], classes=3)
    everything = compute_scores(labels, probabilities)
    part = compute_scores(labels[:2], probabilities[:2], like=everything)
    for name in ("balanced_accuracy", "f1_macro", "auc_macro", "ap_macro"):
        assert math.isfinite(everything[name])
        assert math.isnan(part[name]), name
    assert part["accuracy"] == 1


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(4), 60).round(seed % 2 + 1)  # rounded: there are equal scores
    probabilities[:, 0] += 1 - probabilities.sum(axis=1)
    labels = np.concatenate([np.arange(4), generator.integers(4, size=56)])
    predicted, truth = probabilities.argmax(axis=1), np.eye(4)[labels]
    found = compute_scores(labels, probabilities, ordered=True)
    expected = {
        "accuracy": metrics.accuracy_score(labels, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(labels, predicted),
        "f1_macro": metrics.f1_score(labels, predicted, average="macro"),
        "kappa": metrics.cohen_kappa_score(labels, predicted, weights="quadratic", labels=range(4)),
        "auc": metrics.roc_auc_score(truth, probabilities, average=None),
        "ap": metrics.average_precision_score(truth, probabilities, average=None),
    }
    for average in ("micro", "macro"):
        expected[f"auc_{average}"] = metrics.roc_auc_score(truth, probabilities, average=average)
        expected[f"ap_{average}"] = metrics.average_precision_score(truth, probabilities, average=average)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value), name


def test_kappa_keeps_the_distance_over_a_grade_that_nobody_has():
    labels = np.array([0, 0, 3, 3])
    assert compute_scores(labels, sure([0, 3, 3, 3]), ordered=True)["kappa"] == pytest.approx(1 - 9 / 18)
    assert compute_scores(labels, sure([0, 1, 3, 3]), ordered=True)["kappa"] == pytest.approx(1 - 1 / 16)


def test_calibration_by_hand():
    labels = np.array([0, 0, 1, 1, 0])
    first = np.array([0.95, 0.9, 0.9, 0.4, 1.0])  # sure: 0.95, 0.9, 0.9, 0.6, 1; right: yes yes no yes yes
    probabilities = np.stack([first, 1 - first], axis=1)
    bins = make_reliability(labels, probabilities)
    assert [(b["from"], b["count"], b["right"]) for b in bins] == [(0.6, 1, 1.0), (0.9, 4, 0.75)]
    assert bins[1]["probability"] == pytest.approx(0.9375)
    assert compute_scores(labels, probabilities)["ece"] == pytest.approx((0.4 + 4 * 0.1875) / 5)


def test_curves_are_those_of_their_areas():
    labels, probabilities = np.array([1, 0, 1, 0]), np.array([[0.1, 0.9], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]])
    found = make_curves(labels, probabilities, ("no", "yes"))
    yes = found["classes"][1]
    assert (yes["false_positives"], yes["true_positives"]) == ([0, 0, 0.5, 0.5, 1], [0, 0.5, 0.5, 1, 1])
    micro = found["micro"]
    assert np.trapezoid(micro["true_positives"], micro["false_positives"]) == pytest.approx(11 / 16)
    assert make_curves(np.zeros(2, int), probabilities[:2], ("no", "yes"))["classes"] == [None, None]


def test_whole_groups_are_drawn():
    groups, seen = np.array(["x", "y", "x", "z"]), []
    bootstrap(lambda rows: seen.append(sorted(rows.tolist())) or {}, groups, 200, seed=0)
    members = {"x": [0, 2], "y": [1], "z": [3]}
    possible = {tuple(sorted(sum((members[g] for g in drawn), []))) for drawn in itertools.product(members, repeat=3)}
    assert {tuple(rows) for rows in seen} == possible


def test_the_interval_holds_the_middle_of_all_resamples():
    values = np.array([0.0, 1.0, 5.0, 10.0])
    every = [np.mean(drawn) for drawn in itertools.product(values, repeat=4)]
    resampled = bootstrap(lambda rows: {"mean": values[rows].mean()}, np.arange(4), 4000, seed=1)
    found = add_intervals({"mean": values.mean()}, resampled)["mean"]
    assert (found["value"], found["resamples"]) == (4, 4000)
    assert (found["low"], found["high"]) == pytest.approx(np.percentile(every, (2.5, 97.5)), abs=0.3)


def test_undefined_resamples_are_left_out_and_counted():
    resampled = {"some": np.array([1.0, 2.0, np.nan, 3.0]), "few": np.array([1.0, np.nan, np.nan, np.nan])}
    found = add_intervals({"some": 2.0, "few": 1.0, "none": np.nan}, resampled)
    assert found["some"] == {"value": 2, "low": 1.05, "high": 2.95, "resamples": 3}
    assert found["few"] == {"value": 1, "low": None, "high": None, "resamples": 1}
    assert found["none"] == {"value": None, "low": None, "high": None, "resamples": 0}


def test_a_single_group_has_no_interval():
    assert bootstrap(lambda rows: {"n": rows.sum()}, np.array(["x", "x"]), 10, seed=0) == {}
    assert add_intervals({"n": np.array([1.0])}, {})["n"] == [{"value": 1, "low": None, "high": None, "resamples": 0}]
