# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""All numbers of a report, as one mapping for JSON; figures and page are made from it alone.

Undefined numbers are None; estimates are those of :mod:`monai_jsma.report.intervals`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from monai_jsma._io import file_sha256
from monai_jsma.report.attention_shares import AttentionShares
from monai_jsma.report.cases import Cases, Run, make_cases
from monai_jsma.report.comparison import RunScores, Settings, subtract_scores
from monai_jsma.report.intervals import add_intervals, bootstrap
from monai_jsma.report.notes import write_notes
from monai_jsma.report.per_slide import describe_patients, describe_slides
from monai_jsma.report.scores import (
    CLASS_SCORES,
    count_confusion,
    find_wrong,
    make_curves,
    make_reliability,
    mark_classes,
)
from monai_jsma.report.selective import SELECTIVE, make_orders, make_risk_coverage_curve, score_order
from monai_jsma.report.zoomed_slides import describe_zoom
from monai_jsma.tasks import MULTILABEL, ORDINAL, Label, find_truth_probability, name_label, pick_label

__all__ = ["evaluate"]


class _ScoredRun(NamedTuple):
    run: Run
    scores: RunScores | None  # None if no record has a label


def evaluate(runs: Sequence[Run], settings: Settings | None = None) -> dict[str, Any]:
    """All numbers of some runs, and the differences of each to the first.

    Args:
        runs: runs of the report, with the same classes.
        settings: evaluation settings.

    Raises:
        ValueError: if regions of one case differ in label or group, or runs differ in the label of a case.
    """
    settings = settings or Settings()
    is_ordinal = all(run.task == ORDINAL for run in runs)
    if settings.ordered or is_ordinal:
        _check_ordered(runs)
        settings = replace(settings, ordered=True)
    scored_runs = []
    for run in runs:
        cases = make_cases(run.records, settings.by)
        scores = None if cases is None else RunScores(cases, settings, name=run.name)
        scored_runs.append(_ScoredRun(run, scores))

    first, *others = scored_runs
    return {
        "by": settings.by,
        "ordered": settings.ordered,
        "task": runs[0].task,
        "resamples": settings.resamples,
        "seed": settings.seed,
        "classes": list(runs[0].classes),
        "runs": [_describe_run(one, settings) for one in scored_runs],
        "differences": [_describe_difference(first, other) for other in others],
    }


def _check_ordered(runs: Sequence[Run]) -> None:
    if runs[0].task == MULTILABEL:
        raise ValueError(
            f"run '{runs[0].name}' is multi-label: each class is present or absent by itself, and they are no grades. "
            "Leave --ordered out."
        )


def _describe_run(scored_run: _ScoredRun, settings: Settings) -> dict[str, Any]:
    run, scores = scored_run
    made_by: list[Mapping[str, Any]] = []
    for record in run.records:
        if record.run not in made_by:
            made_by.append(record.run)

    return {
        "name": run.name,
        "files": [{"path": path, "sha256": file_sha256(path)} for path in run.paths],
        "made_by": made_by,
        "regions": len(run.records),
        "regions_without_label": sum(record.label is None for record in run.records),
        "groups": len({record.group for record in run.records}),
        "notes": write_notes(run, scores.cases if scores else None),
        "patches": _describe_patches(run),
        "attention": _describe_attention(scored_run, settings),
        "zoom": describe_zoom(run.records),
        "slides": describe_slides(run.records),
        "patients": describe_patients(run.records),
        "scored": _describe_scores(scores, run.classes) if scores else None,
        "errors": _list_worst_errors(scores.cases, settings.errors) if scores else [],
    }


def _describe_scores(scores: RunScores, classes: Sequence[str]) -> dict[str, Any]:
    cases = scores.cases
    is_class = mark_classes(cases.labels, cases.probabilities)
    (most_frequent, most_cases), *_ = _count_truths(cases)
    num_wrong = int(find_wrong(cases.labels, cases.probabilities, cases.thresholds).sum())
    one_class = cases.thresholds is None

    estimates = add_intervals(scores.values, scores.resampled)
    class_keys = [info.key for info in CLASS_SCORES]

    return {
        "units": len(cases.labels),
        "groups": len(set(cases.groups)),
        "labels": is_class.sum(axis=0).tolist(),
        "right": len(cases.labels) - num_wrong,
        "most_frequent_class": name_label(most_frequent, classes),
        "most_frequent": most_cases / len(cases.labels),
        "thresholds": cases.thresholds,
        "scores": {key: estimates[key] for key in estimates if key not in class_keys},
        "classes": {key: estimates[key] for key in class_keys},
        "confusion": count_confusion(cases.labels, cases.probabilities).tolist() if one_class else None,
        "reliability": make_reliability(cases.labels, cases.probabilities) if one_class else None,
        "curves": make_curves(cases.labels, cases.probabilities, classes),
        "selective": _describe_orders(cases, scores.settings),
    }


def _count_truths(cases: Cases) -> list[tuple[Label, int]]:
    """The labels with their numbers of cases, the most frequent first, and of equal ones the first class."""
    counts = Counter(cases.truths)
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))


def _describe_orders(cases: Cases, settings: Settings) -> dict[str, dict[str, Any]]:
    """How well each order of the predictions puts the errors last: its numbers and its curve."""
    wrong = find_wrong(cases.labels, cases.probabilities, cases.thresholds)
    orders = make_orders(wrong, cases.uncertainties)

    def score_rows(rows: np.ndarray) -> dict[str, np.ndarray]:
        scores = {}
        for name, uncertainty in orders.items():
            scores[name] = score_order(wrong[rows], uncertainty[rows])
        return scores

    all_rows = np.arange(len(wrong))
    resampled = bootstrap(
        score_rows,
        cases.groups,
        settings.resamples,
        seed=settings.seed,
    )
    estimates = add_intervals(score_rows(all_rows), resampled)

    numbers = {}
    curves = {}
    for name, uncertainty in orders.items():
        numbers[name] = dict(zip(SELECTIVE, estimates[name], strict=True))
        curves[name] = make_risk_coverage_curve(wrong, uncertainty)
    return {"orders": numbers, "curves": curves}


def _describe_patches(run: Run) -> dict[str, Any]:
    """Mean number of patches read and of all cells, and the number of certified regions among those that asked.

    If they were certified at a confidence, also the least confidence of those that are.
    """
    num_read = [record.patches_read for record in run.records]
    num_cells = [record.geometry.num_cells for record in run.records]
    certified = [record.certified for record in run.records if record.certified is not None]
    numbers = {
        "read": float(np.mean(num_read)),
        "cells": float(np.mean(num_cells)),
        "certified": sum(certified) if certified else None,
        "asked": len(certified),
    }
    confidences: dict[bool | None, list[float]] = {}
    for record in run.records:
        if record.confidence is not None:
            confidences.setdefault(record.certified, []).append(record.confidence)
    if confidences:
        numbers["confidence"] = min(confidences.get(True, []), default=None)
    return numbers


def _describe_attention(scored_run: _ScoredRun, settings: Settings) -> dict[str, Any]:
    """Attention of all records; by true class if labels are known, else by predicted class."""
    run, scores = scored_run
    by = "prediction" if scores is None else "label"
    labels = [getattr(record, by) for record in run.records]
    groups = np.array([record.group for record in run.records])

    shares = AttentionShares(run.records, labels)
    values = shares.average(np.arange(len(groups)))
    resampled = bootstrap(shares.average, groups, settings.resamples, seed=settings.seed)
    return {
        "magnifications": shares.names,
        "by": by,
        "counts": shares.counts,
        **add_intervals(values, resampled),
    }


def _list_worst_errors(cases: Cases, max_errors: int) -> list[dict[str, Any]]:
    """Wrongly classified cases, the lowest probability of the true label first."""
    rows = zip(cases.probabilities, cases.truths, strict=True)
    of_truth = [find_truth_probability(probabilities, label) for probabilities, label in rows]
    wrong = find_wrong(cases.labels, cases.probabilities, cases.thresholds)
    worst_first = np.argsort(of_truth, kind="stable")
    errors: list[dict[str, Any]] = []
    for index in worst_first.tolist():
        if len(errors) == max_errors:
            break
        if wrong[index]:
            errors.append(_describe_error(cases, index))
    return errors


def _describe_error(cases: Cases, index: int) -> dict[str, Any]:
    """One error; a case of several regions is shown by that with the lowest probability of the true label."""
    label = cases.truths[index]
    probabilities = cases.probabilities[index]
    prediction = pick_label(probabilities, cases.thresholds)
    regions = cases.records[index]
    worst = min(regions, key=lambda record: (find_truth_probability(record.probabilities, label), record.key))
    return {
        "file": worst.file,
        "location": list(worst.location),
        "size": list(worst.size),
        "group": worst.group,
        "regions": len(regions),
        "label": label,
        "prediction": prediction,
        "true_name": name_label(label, worst.classes),
        "predicted_name": name_label(prediction, worst.classes),
        "true_probability": find_truth_probability(probabilities, label),
        "predicted_probability": find_truth_probability(probabilities, prediction),
        "probabilities": probabilities.tolist(),
    }


def _describe_difference(first: _ScoredRun, other: _ScoredRun) -> dict[str, Any]:
    """Scores of the other run minus those of the first, over the cases that both have."""
    difference: dict[str, Any] = {
        "run": other.run.name,
        "minus": first.run.name,
        "units": 0,
        "groups": 0,
        "scores": {},
    }
    if first.scores is None or other.scores is None:
        return difference

    common = set(first.scores.cases.keys) & set(other.scores.cases.keys)
    if not common:
        return difference

    first_scores = first.scores.select(common)
    other_scores = other.scores.select(common)
    difference["units"] = len(common)
    difference["groups"] = len(set(first_scores.cases.groups))
    difference["scores"] = subtract_scores(other_scores, first_scores)
    return difference
