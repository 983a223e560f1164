# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Bootstrap intervals over groups: whole patients are drawn, since pictures of one patient are alike.

As many groups as there are are drawn with replacement; each brings all its rows, as often as it was drawn. The interval
of 95 % lies between the 2.5th and 97.5th percentile of the resamples in which the number is defined.

An estimate is a mapping: ``value``, ``low`` and ``high`` (the interval), ``resamples`` (how many define the number).
None stands for what is undefined: the value, or its interval where less than half of the resamples define the number,
or where there is but one group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

__all__ = ["Estimate", "bootstrap", "estimates"]

_TAILS = (2.5, 97.5)
Estimate = dict[str, float | None]
Numbers = Mapping[str, np.ndarray]


def bootstrap(measure: Callable[[np.ndarray], Numbers], groups: np.ndarray, count: int, seed: int) -> Numbers:
    """Measure resamples of the groups.

    The draws depend on the names of the groups, ``count`` and ``seed`` alone, so that two runs over the same groups get
    the same resamples, and their differences are paired.

    Args:
        measure: gives named numbers, of shape ``()`` or ``(k,)``, of some rows.
        groups: name of the group of each row ``(n,)``.
        count: number of resamples.
        seed: of the generator.

    Returns:
        The numbers of all resamples, ``(count, ...)``; none of a single group, which cannot vary.
    """
    names, place = np.unique(groups, return_inverse=True)
    rows = [np.flatnonzero(place == i) for i in range(len(names))]
    if len(rows) < 2 or not count:
        return {}
    generator = np.random.default_rng(seed)
    draws = (generator.integers(len(rows), size=len(rows)) for _ in range(count))
    found = [measure(np.concatenate([rows[i] for i in drawn])) for drawn in draws]
    return {name: np.stack([numbers[name] for numbers in found]) for name in found[0]}


def estimates(values: Numbers, resampled: Numbers) -> dict[str, Estimate | list]:
    """Each number with its interval; arrays become lists of estimates, nested as their axes are."""
    return {name: _estimate(np.asarray(value), resampled.get(name)) for name, value in values.items()}


def _estimate(value: np.ndarray, resampled: np.ndarray | None) -> Estimate | list:
    if value.ndim:
        parts = [None] * len(value) if resampled is None else np.moveaxis(resampled, 1, 0)
        return [_estimate(v, part) for v, part in zip(value, parts, strict=True)]
    if not np.isfinite(value):
        return {"value": None, "low": None, "high": None, "resamples": 0}
    drawn = np.empty(0) if resampled is None else resampled
    defined = drawn[np.isfinite(drawn)]
    enough = len(defined) and 2 * len(defined) >= len(drawn)
    low, high = np.percentile(defined, _TAILS).tolist() if enough else (None, None)
    return {"value": float(value), "low": low, "high": high, "resamples": len(defined)}
