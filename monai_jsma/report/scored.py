# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The scores of a run with those of its resamples, and how they differ from another run's (paper, Tables 1 and 2)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_jsma.report.intervals import bootstrap, estimates
from monai_jsma.report.scores import PER_CLASS, Scores, scores
from monai_jsma.report.units import Units

__all__ = ["Scored", "Settings", "difference"]


@dataclass(frozen=True)
class Settings:
    """How runs are evaluated.

    Args:
        by: what is scored: "region", "file" or "group".
        ordered: whether the classes are grades.
        resamples: of the bootstrap; 0 gives no intervals.
        seed: of the bootstrap.
        errors: how many of the worst errors are listed.
    """

    by: str = "region"
    ordered: bool = False
    resamples: int = 1000
    seed: int = 0
    errors: int = 8


class Scored:
    """The units of a run, their scores, and those of all resamples.

    Args:
        units: what is scored.
        settings: how.
    """

    def __init__(self, units: Units, settings: Settings) -> None:
        self.units, self.settings = units, settings
        self.values = scores(units.labels, units.probabilities, ordered=settings.ordered)
        self.resampled = bootstrap(self._resample, units.groups, settings.resamples, settings.seed)

    def _resample(self, rows: np.ndarray) -> Scores:
        labels, probabilities = self.units.labels[rows], self.units.probabilities[rows]
        return scores(labels, probabilities, ordered=self.settings.ordered, like=self.values)

    def only(self, keys: set[Hashable]) -> Scored:
        """The same for some of the units."""
        return self if keys == set(self.units.keys) else Scored(self.units.only(keys), self.settings)


def difference(name: str, first: Scored | None, other_name: str, other: Scored | None) -> dict[str, Any]:
    """Scores of the other run minus those of the first, over the units that both have."""
    common = set(first.units.keys) & set(other.units.keys) if first and other else set()
    result: dict[str, Any] = {"run": other_name, "minus": name, "units": len(common), "groups": 0, "scores": {}}
    if not (common and first and other):
        return result
    one, two = first.only(common), other.only(common)
    _check_same(name, one.units, other_name, two.units)
    values, resampled = (_minus(getattr(two, part), getattr(one, part)) for part in ("values", "resampled"))
    return {**result, "groups": len(set(one.units.groups)), "scores": estimates(values, resampled)}


def _minus(some: Mapping[str, np.ndarray], others: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of scores, not of those by class."""
    return {name: some[name] - others[name] for name in some if name not in PER_CLASS}


def _check_same(name: str, units: Units, other_name: str, others: Units) -> None:
    named = np.array(units.records[0][0].classes)
    for what, ours, theirs in (
        ("label", named[units.labels], named[others.labels]),
        ("group", units.groups, others.groups),
    ):
        for key, one, two in zip(units.keys, ours, theirs, strict=True):
            if one != two:
                raise ValueError(f"{key}: its {what} is '{one}' in run '{name}', but '{two}' in run '{other_name}'.")
