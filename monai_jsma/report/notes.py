# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What a reader must know before trusting the numbers of a run, in plain words."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from monai_jsma.report.runs import Run
from monai_jsma.report.units import Units

__all__ = ["notes"]

_FEW_GROUPS = 20


def notes(run: Run, units: Units | None) -> list[str]:
    """Sentences about missing labels and classes, few groups, ties and draws; none where all is well."""
    if units is None:
        return ["No region has a label, so nothing can be scored: only the attention is shown."]
    return [*_about_labels(run, units), *_about_groups(units), *_about_ties(units), *_about_draws(run)]


def _about_labels(run: Run, units: Units) -> Iterator[str]:
    unlabelled = sum(record.label is None for record in run.records)
    if unlabelled:
        yield f"{unlabelled} of {len(run.records)} regions have no label and are left out of all scores."
    counts = np.bincount(units.labels, minlength=len(run.classes))
    absent = [name for name, count in zip(run.classes, counts, strict=True) if not count]
    if len(absent) == len(run.classes) - 1:
        only = run.classes[int(counts.argmax())]
        yield f"Every label is {only}: how well classes are told apart cannot be measured here."
    elif absent:
        yield (
            f"No label is {' or '.join(absent)}: what needs such a case is undefined, and macro means are over the "
            "classes for which they are defined."
        )


def _about_groups(units: Units) -> Iterator[str]:
    groups = len(set(units.groups))
    right = units.probabilities.argmax(axis=1) == units.labels
    if groups == 1:
        yield "All is of one group: there are no intervals, since nothing is known about other groups."
    elif groups < _FEW_GROUPS:
        yield f"There are only {groups} groups: the intervals are rough, and rather too narrow than too wide."
    if groups > 1 and (right.all() or not right.any()):
        yield (
            f"Every prediction is {'right' if right.all() else 'wrong'}, so the intervals have no width. That is no "
            f"certainty: after {groups} groups alike, up to {min(1, 3 / groups):.0%} of all groups may be otherwise."
        )


def _about_ties(units: Units) -> Iterator[str]:
    best = units.probabilities.max(axis=1, keepdims=True)
    ties = np.count_nonzero((units.probabilities == best).sum(axis=1) > 1)
    if ties:
        yield f"{ties} predictions have two classes that are equally probable: the first of them is taken."


def _about_draws(run: Run) -> Iterator[str]:
    without = sum(not record.draws for record in run.records)
    if 0 < without < len(run.records):
        told = f"{without} of {len(run.records)} regions were predicted without draws"
        yield f"{told}: there is no order by mutual information."
