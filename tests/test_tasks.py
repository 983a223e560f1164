# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What is asked of an image: tasks that are offered, and labels in numbers and in words."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from monai_jsma.tasks import (
    check_task,
    find_truth_probability,
    make_class_matrix,
    make_multi_hot,
    name_label,
    pick_label,
    pick_main_class,
    read_thresholds,
)

CLASSES = ("tumor", "necrosis", "stroma")
LABEL_SETS = [label for size in range(4) for label in combinations(range(3), size)]


@pytest.mark.parametrize("task", ["survival", "regression"])
def test_what_is_not_offered_is_named(task):
    with pytest.raises(ValueError, match=rf"task '{task}' is not offered: .* Make classes or grades of the values"):
        check_task(task)


def test_a_slip_is_told_what_there_is():
    with pytest.raises(ValueError, match=r"unknown task 'ordered'; choose 'multiclass' .*'ordinal' .*'multilabel'"):
        check_task("ordered")


def test_thresholds():
    assert read_thresholds("multilabel", None, 3) == (0.5, 0.5, 0.5)
    assert read_thresholds("multilabel", 0.25, 2) == (0.25, 0.25)
    assert read_thresholds("multilabel", [0.1, 0.9], 2) == (0.1, 0.9)
    assert read_thresholds("ordinal", None, 3) is None
    for wrong in ([0.5, 0.5], [0.5, 0.5, 1.0], 0.0):
        with pytest.raises(ValueError, match=r"not one for all or one for each of 3 classes, between 0 and 1"):
            read_thresholds("multilabel", wrong, 3)
    with pytest.raises(ValueError, match=r"thresholds 0.5 are for the task 'multilabel'"):
        read_thresholds("ordinal", 0.5, 3)


def test_a_class_is_predicted_from_its_threshold_on():
    probabilities = [0.3, 0.5, 0.9]
    assert pick_label(probabilities) == 2
    assert pick_label(probabilities, (0.5, 0.5, 0.5)) == (1, 2)
    assert pick_label(probabilities, (0.2, 0.6, 0.95)) == (0,)
    assert pick_label(probabilities, (0.95, 0.95, 0.95)) == ()
    assert pick_main_class(probabilities, (0.2, 0.5, 0.95)) == 1
    assert pick_main_class(probabilities, (0.95, 0.95, 0.95)) is None
    assert pick_main_class(probabilities) == 2


def test_labels_in_words():
    assert name_label(1, CLASSES) == "necrosis"
    assert name_label((0, 2), CLASSES) == "tumor + stroma"
    assert name_label((), CLASSES) == "none"
    assert name_label(None, CLASSES) == name_label(1, ()) == ""


def test_the_probabilities_of_all_labels_sum_to_one():
    probabilities = [0.3, 0.5, 0.9]
    found = [find_truth_probability(probabilities, label) for label in LABEL_SETS]
    assert sum(found) == pytest.approx(1)
    by_hand = [np.prod(factors) for factors in product(*[(p, 1 - p) for p in probabilities])]
    assert sorted(found) == pytest.approx(sorted(by_hand))
    assert find_truth_probability([0.2, 0.8], 1) == 0.8


def test_labels_as_zeros_and_ones():
    assert make_multi_hot((0, 2), 3).tolist() == [1, 0, 1]
    assert make_class_matrix([(0, 2), None, 1, ()], 3).tolist() == [
        [True, False, True],
        [False, False, False],
        [False, True, False],
        [False, False, False],
    ]
