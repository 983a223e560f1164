# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What a reader must know before trusting the numbers of a run, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from monai_jsma.report.cases import Cases, Run
from monai_jsma.report.scores import find_wrong

__all__ = ["write_notes"]

_FEW_GROUPS = 20


def write_notes(run: Run, cases: Cases | None) -> list[str]:
    """Sentences about missing labels and classes, few groups, ties and draws; empty if there is nothing to say.

    Args:
        run: run of the report.
        cases: its labelled cases; None if there are none.
    """
    if cases is None:
        return ["No region has a label, so nothing can be scored: only the attention is shown."]
    return [
        *_describe_labels(run, cases),
        *_describe_groups(cases),
        *_describe_ties(cases),
        *_describe_draws(run),
    ]


def _describe_labels(run: Run, cases: Cases) -> Iterator[str]:
    num_unlabelled = sum(record.label is None for record in run.records)
    if num_unlabelled > 0:
        yield f"{num_unlabelled} of {len(run.records)} regions have no label and are left out of all scores."

    if cases.thresholds is not None:
        yield from _describe_presence(run, cases)
        return
    present = np.unique(cases.labels).tolist()
    absent = [name for label, name in enumerate(run.classes) if label not in present]
    if len(present) == 1:
        only = run.classes[present[0]]
        yield f"Every label is {only}: how well the classes are separated cannot be measured here."
    elif absent:
        yield (
            f"No label is {' or '.join(absent)}: scores that need such a case are undefined, and macro means are over "
            "the classes for which the score is defined."
        )


def _describe_presence(run: Run, cases: Cases) -> Iterator[str]:
    """Classes of multi-label that are in no case, or in all."""
    num_cases = len(cases.labels)
    counts = np.sum(cases.labels, axis=0).tolist()
    for name, count in zip(run.classes, counts, strict=True):
        if count in (0, num_cases):
            where = "all cases" if count else "no case"
            yield (
                f"{name} is in {where}: how well it is told from its absence cannot be measured here, and macro means "
                "are over the classes for which the score is defined."
            )


def _describe_groups(cases: Cases) -> Iterator[str]:
    num_groups = len(set(cases.groups))
    if num_groups == 1:
        yield "All cases are of one group: there are no intervals, since nothing is known about other groups."
        return
    if num_groups < _FEW_GROUPS:
        yield f"There are only {num_groups} groups: the intervals are rough, and more likely too narrow than too wide."

    right = find_wrong(cases.labels, cases.probabilities, cases.thresholds) == 0
    if right.all() or not right.any():
        answer = "correct" if right.all() else "wrong"
        # The rule of three: 95 % confidence that no more than 3/n are different.
        limit = min(1, 3 / num_groups)
        yield (
            f"Every prediction is {answer}, so the intervals have no width. This is not "
            f"certainty: after {num_groups} groups without exception, up to {limit:.0%} of all groups may be different."
        )


def _describe_ties(cases: Cases) -> Iterator[str]:
    if cases.thresholds is not None:
        return
    highest = cases.probabilities.max(axis=1, keepdims=True)
    num_best = (cases.probabilities == highest).sum(axis=1)
    num_ties = np.count_nonzero(num_best > 1)
    if num_ties > 0:
        yield (
            f"{num_ties} of {len(num_best)} predictions have several equally probable classes: the first of them is "
            "taken."
        )


def _describe_draws(run: Run) -> Iterator[str]:
    num_regions = len(run.records)
    num_without = sum(not record.draws for record in run.records)
    if 0 < num_without < num_regions:
        yield (
            f"{num_without} of {num_regions} regions were predicted without repeated draws, so there is no order by "
            "mutual information."
        )
