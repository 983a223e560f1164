# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Repeats of one experiment, such as trainings with several seeds: mean, spread and interval of each score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from monai_jsma.report.intervals import estimates
from monai_jsma.report.scored import Scored
from monai_jsma.report.scores import PER_CLASS

__all__ = ["over_repeats"]


def over_repeats(repeats: Sequence[Scored]) -> dict[str, dict[str, Any]]:
    """Scores over repeats on the same pictures.

    Args:
        repeats: each with the same units and settings, so that their resamples are of the same groups.

    Returns:
        by score: ``value`` (the mean), its bootstrap interval ``low`` and ``high`` over groups, ``sd`` over the repeats
        (None for one) and ``values`` of each. What is undefined in one repeat is None.

    Raises:
        ValueError: when the repeats are of different pictures.
    """
    first = repeats[0]
    for other in repeats[1:]:
        if other.units.keys != first.units.keys or (other.units.groups != first.units.groups).any():
            raise ValueError("repeats must predict the same pictures.")
    names = [name for name in first.values if name not in PER_CLASS]
    values = {name: np.array([float(one.values[name]) for one in repeats]) for name in names}
    resampled = {name: np.mean([one.resampled[name] for one in repeats], axis=0) for name in first.resampled}
    found = estimates({name: values[name].mean() for name in names}, resampled)
    return {name: {**found[name], "sd": _sd(values[name]), "values": _plain(values[name])} for name in names}  # type: ignore[dict-item]


def _sd(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 and np.isfinite(values).all() else None


def _plain(values: np.ndarray) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]
