# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Bootstrap confidence intervals over groups: whole patients are resampled, since images of one patient are alike.

Each resample draws as many groups as there are, with replacement; a group brings all its rows, as often as it was
drawn. The 95 % interval lies between the 2.5th and the 97.5th percentile of the resamples in which the number is
defined.

An estimate is a mapping: ``value``, ``low`` and ``high`` (the ends of the interval), ``resamples`` (the number of
resamples in which the number is defined). None stands for what is undefined: the value, or its interval if fewer than
half of the resamples define the number, or if there is only one group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

__all__ = ["Estimate", "add_intervals", "bootstrap"]

_PERCENTILES = (2.5, 97.5)
Estimate = dict[str, float | None]
Numbers = Mapping[str, np.ndarray]


def bootstrap(
    measure: Callable[[np.ndarray], Numbers], groups: np.ndarray, num_resamples: int, *, seed: int
) -> dict[str, np.ndarray]:
    """Measure resamples of the groups.

    The resamples depend only on the names of the groups, ``num_resamples`` and ``seed``. Two runs over the same groups
    thus get the same resamples, and their differences are paired.

    Args:
        measure: function from indices of rows to named numbers, each of shape ``()`` or ``(k,)``.
        groups: name of the group of each row ``(n,)``.
        num_resamples: number of resamples.
        seed: random seed of the resamples.

    Returns:
        Each number in all resamples, ``(num_resamples, ...)``; empty for a single group, which cannot vary.
    """
    names, group_of_row = np.unique(groups, return_inverse=True)
    if len(names) < 2 or num_resamples == 0:
        return {}

    rows_of_group = []
    for index in range(len(names)):
        rows_of_group.append(np.flatnonzero(group_of_row == index))

    generator = np.random.default_rng(seed)
    measured = []
    for _ in range(num_resamples):
        drawn = generator.integers(len(names), size=len(names))
        rows = [rows_of_group[index] for index in drawn]
        measured.append(measure(np.concatenate(rows)))

    resampled = {}
    for name in measured[0]:
        resampled[name] = np.stack([numbers[name] for numbers in measured])
    return resampled


def add_intervals(values: Numbers, resampled: Numbers) -> dict[str, Estimate | list]:
    """Estimates of numbers, from their values and :func:`bootstrap`.

    Args:
        values: number ``()`` or numbers ``(k, ...)`` by name.
        resampled: the same in each resample, with a leading axis of resamples; may lack names.

    Returns:
        Estimate of each number by name; arrays become lists of estimates, nested as their axes are.
    """
    estimates = {}
    for name, value in values.items():
        estimates[name] = _estimate(np.asarray(value), resampled.get(name))
    return estimates


def _estimate(value: np.ndarray, resampled: np.ndarray | None) -> Estimate | list:
    if value.ndim == 0:
        return _estimate_number(value, resampled)
    if resampled is None:
        return [_estimate(element, None) for element in value]

    estimates = []
    for index, element in enumerate(value):
        estimates.append(_estimate(element, resampled[:, index]))
    return estimates


def _estimate_number(value: np.ndarray, resampled: np.ndarray | None) -> Estimate:
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None, "resamples": 0}

    estimate: Estimate = {
        "value": float(value),
        "low": None,
        "high": None,
        "resamples": 0,
    }
    if resampled is None:
        return estimate

    defined = resampled[np.isfinite(resampled)]
    estimate["resamples"] = len(defined)
    if len(defined) > 0 and 2 * len(defined) >= len(resampled):
        low, high = np.percentile(defined, _PERCENTILES)
        estimate["low"] = float(low)
        estimate["high"] = float(high)
    return estimate
