# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from monai_jsma.report import Cases, RunScores, Settings, average_repeats, compute_scores
from monai_jsma.report.intervals import bootstrap

LABELS, GROUPS = np.array([0, 0, 1, 1, 0, 1]), np.array(["p", "p", "q", "q", "r", "r"])


def scored(predicted, keys="abcdef"):
    probabilities = np.where(np.eye(2)[predicted] == 1, 0.75, 0.25)
    cases = Cases(
        keys=tuple(keys), labels=LABELS, probabilities=probabilities, groups=GROUPS, records=((),) * len(LABELS)
    )
    return RunScores(cases, Settings(resamples=50, seed=3))


def test_mean_spread_and_values_of_the_repeats():
    found = average_repeats([scored([0, 0, 1, 1, 0, 1]), scored([0, 0, 1, 1, 1, 0]), scored([1, 1, 1, 1, 0, 1])])[
        "accuracy"
    ]
    assert found["values"] == pytest.approx([1, 4 / 6, 4 / 6])
    assert found["value"] == pytest.approx(14 / 18)
    assert found["sd"] == pytest.approx(np.std([1, 4 / 6, 4 / 6], ddof=1))


def test_the_interval_is_over_groups_drawn_alike_in_all_repeats():
    predicted = np.array([[0, 0, 1, 1, 1, 0], [1, 1, 1, 1, 0, 1]])
    found = average_repeats([scored(p) for p in predicted])["accuracy"]

    def mean_accuracy(rows):
        return {"accuracy": np.mean([compute_scores(LABELS[rows], np.eye(2)[p[rows]])["accuracy"] for p in predicted])}

    drawn = bootstrap(mean_accuracy, GROUPS, 50, seed=3)["accuracy"]
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.percentile(drawn, (2.5, 97.5))))


def test_one_repeat_has_no_spread():
    assert average_repeats([scored([0, 0, 1, 1, 0, 1])])["accuracy"]["sd"] is None


def test_repeats_of_other_pictures_are_refused():
    with pytest.raises(ValueError, match="same images"):
        average_repeats([scored([0, 0, 1, 1, 0, 1]), scored([0, 0, 1, 1, 0, 1], "abcdeg")])
