# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Scores of a run with those of its resamples, their difference to another run's, and their mean over repeats.

See the paper, Tables 1 and 2.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_jsma.report.cases import Cases
from monai_jsma.report.intervals import add_intervals, bootstrap
from monai_jsma.report.scores import CLASS_SCORES, Scores, compute_scores
from monai_jsma.tasks import name_label

__all__ = ["RunScores", "Settings", "average_repeats", "subtract_scores"]

_CLASS_KEYS = tuple(info.key for info in CLASS_SCORES)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Evaluation settings.

    Args:
        by: what is a case: "region", "file" or "group".
        ordered: whether the classes are grades.
        resamples: number of bootstrap resamples; 0 gives no intervals.
        seed: random seed of the bootstrap.
        errors: maximal number of errors to list.
    """

    by: str = "region"
    ordered: bool = False
    resamples: int = 1000
    seed: int = 0
    errors: int = 8


class RunScores:
    """Scores of the cases of a run, and of all bootstrap resamples of them.

    Args:
        cases: cases of the run.
        settings: evaluation settings.
        name: name of the run, for messages.
    """

    def __init__(self, cases: Cases, settings: Settings, *, name: str = "") -> None:
        self.cases = cases
        self.settings = settings
        self.name = name
        self.values = compute_scores(
            cases.labels,
            cases.probabilities,
            ordered=settings.ordered,
            thresholds=cases.thresholds,
        )
        self.resampled = bootstrap(
            self._score_resample,
            cases.groups,
            settings.resamples,
            seed=settings.seed,
        )

    def _score_resample(self, rows: np.ndarray) -> Scores:
        return compute_scores(
            self.cases.labels[rows],
            self.cases.probabilities[rows],
            ordered=self.settings.ordered,
            like=self.values,
            thresholds=self.cases.thresholds,
        )

    def select(self, keys: set[Hashable]) -> RunScores:
        """The scores of the cases with the given keys."""
        if keys == set(self.cases.keys):
            return self
        cases = self.cases.select(keys)
        return RunScores(cases, self.settings, name=self.name)


def subtract_scores(scores: RunScores, others: RunScores) -> dict[str, Any]:
    """Estimates of the differences of all scores, without those of each class.

    Args:
        scores: scores of one run.
        others: scores of another run on the same cases, which are subtracted.

    Raises:
        ValueError: if the runs differ in the label or group of a case.
    """
    _check_agreement(others, scores)
    return add_intervals(
        _subtract(scores.values, others.values),
        _subtract(scores.resampled, others.resampled),
    )


def _subtract(values: Scores, others: Scores) -> Scores:
    differences = {}
    for name in values:
        if name not in _CLASS_KEYS:
            differences[name] = values[name] - others[name]
    return differences


def _check_agreement(one: RunScores, two: RunScores) -> None:
    classes = one.cases.records[0][0].classes
    labels = [np.array([name_label(label, classes) for label in run.cases.truths]) for run in (one, two)]
    truths = {
        "label": (labels[0], labels[1]),
        "group": (one.cases.groups, two.cases.groups),
    }
    for what, (ours, theirs) in truths.items():
        for i in np.flatnonzero(ours != theirs):
            raise ValueError(
                f"{one.cases.keys[i]}: its {what} is '{ours[i]}' in run '{one.name}', "
                f"but '{theirs[i]}' in run '{two.name}'."
            )


def average_repeats(repeats: Sequence[RunScores]) -> dict[str, dict[str, Any]]:
    """Mean scores over repeats of an experiment, such as trainings with several seeds.

    Args:
        repeats: scores of each repeat, on the same cases and with the same settings, so that their resamples hold the
            same groups.

    Returns:
        By score: ``value`` (the mean), its bootstrap interval ``low`` and ``high`` over groups, ``sd``, the standard
        deviation over the repeats (None for one repeat), and ``values`` of each. A score that is undefined in a repeat
        is None.

    Raises:
        ValueError: if the repeats have different cases.
    """
    first = repeats[0]
    for repeat in repeats[1:]:
        same_keys = repeat.cases.keys == first.cases.keys
        if not same_keys or (repeat.cases.groups != first.cases.groups).any():
            raise ValueError("repeats must predict the same images.")

    averages = {}
    for name in first.values:
        if name not in _CLASS_KEYS:
            averages[name] = _average_score(repeats, name)
    return averages


def _average_score(repeats: Sequence[RunScores], name: str) -> dict[str, Any]:
    values = np.array([float(repeat.values[name]) for repeat in repeats])
    resampled = {}
    if repeats[0].resampled:
        of_repeats = [repeat.resampled[name] for repeat in repeats]
        resampled[name] = np.mean(of_repeats, axis=0)

    estimates = add_intervals({name: values.mean()}, resampled)
    average: dict[str, Any] = dict(estimates[name])
    average["sd"] = None
    if len(values) > 1 and np.isfinite(values).all():
        average["sd"] = float(values.std(ddof=1))
    average["values"] = [value if np.isfinite(value) else None for value in values.tolist()]
    return average
