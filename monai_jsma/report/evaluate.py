# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""All numbers of a report, as one mapping for JSON; figures and page are made of it alone.

Undefined numbers are None; estimates are those of :mod:`monai_jsma.report.intervals`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monai_jsma._io import file_sha256
from monai_jsma.report.attention import AttentionShares
from monai_jsma.report.curves import curves, reliability
from monai_jsma.report.errors import worst_errors
from monai_jsma.report.intervals import bootstrap, estimates
from monai_jsma.report.notes import notes
from monai_jsma.report.runs import Run
from monai_jsma.report.scored import Scored, Settings, difference
from monai_jsma.report.scores import confusion, is_wrong
from monai_jsma.report.selective import SELECTIVE, orders, risk_coverage_curve, selective_scores
from monai_jsma.report.units import make_units

__all__ = ["evaluate"]


def evaluate(runs: Sequence[Run], settings: Settings | None = None) -> dict[str, Any]:
    """All numbers of some runs, and the differences of each to the first.

    Raises:
        ValueError: when regions of one unit differ in label or group, or runs do in the label of a unit.
    """
    settings = settings or Settings()
    units = [make_units(run.records, settings.by) for run in runs]
    scored = [Scored(found, settings) if found else None for found in units]
    return {
        **{name: getattr(settings, name) for name in ("by", "ordered", "resamples", "seed")},
        "classes": list(runs[0].classes),
        "runs": [_run_content(run, found, settings) for run, found in zip(runs, scored, strict=True)],
        "differences": [
            difference(runs[0].name, scored[0], run.name, found)
            for run, found in zip(runs[1:], scored[1:], strict=True)
        ],
    }


def _run_content(run: Run, scored: Scored | None, settings: Settings) -> dict[str, Any]:
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
        "notes": notes(run, scored.units if scored else None),
        "patches": _patches_content(run),
        "attention": _attention_content(run, scored is not None, settings),
        "scored": _scored_content(run.classes, scored) if scored else None,
        "errors": worst_errors(scored.units, settings.errors) if scored else [],
    }


def _scored_content(classes: Sequence[str], scored: Scored) -> dict[str, Any]:
    units, found = scored.units, estimates(scored.values, scored.resampled)
    counts = np.bincount(units.labels, minlength=len(classes))
    per_class = {name: values for name, values in found.items() if isinstance(values, list)}
    return {
        "units": len(units.labels),
        "groups": len(set(units.groups)),
        "labels": counts.tolist(),
        "right": int(confusion(units.labels, units.probabilities).trace()),
        "most_frequent_class": classes[int(counts.argmax())],
        "most_frequent": float(counts.max() / counts.sum()),
        "scores": {name: value for name, value in found.items() if name not in per_class},
        "classes": per_class,
        "confusion": confusion(units.labels, units.probabilities).tolist(),
        "reliability": reliability(units.labels, units.probabilities),
        "curves": curves(units.labels, units.probabilities, classes),
        "selective": _selective_content(scored),
    }


def _selective_content(scored: Scored) -> dict[str, dict[str, Any]]:
    """How well each order of the predictions puts the errors last: its numbers and its curve."""
    units, settings = scored.units, scored.settings
    wrong = is_wrong(units.labels, units.probabilities)
    found = orders(wrong, units.uncertainties)

    def measure(rows: np.ndarray) -> dict[str, np.ndarray]:
        return {name: selective_scores(wrong[rows], values[rows]) for name, values in found.items()}

    resampled = bootstrap(measure, units.groups, settings.resamples, settings.seed)
    told = estimates(measure(np.arange(len(wrong))), resampled)
    return {
        "orders": {name: dict(zip(SELECTIVE, values, strict=True)) for name, values in told.items()},
        "curves": {name: risk_coverage_curve(wrong, values) for name, values in found.items()},
    }


def _patches_content(run: Run) -> dict[str, Any]:
    """How many were read of how many, in the mean, and how many regions are certified, of those that were to be."""
    asked = [record.certified for record in run.records if record.certified is not None]
    return {
        "read": float(np.mean([record.patches_read for record in run.records])),
        "cells": float(np.mean([record.geometry.num_cells for record in run.records])),
        "certified": sum(asked) if asked else None,
        "asked": len(asked),
    }


def _attention_content(run: Run, labelled: bool, settings: Settings) -> dict[str, Any]:
    """Of all records; by true class where labels are known, else by predicted class."""
    classes = np.array([(-1 if r.label is None else r.label) if labelled else r.prediction for r in run.records])
    shares = AttentionShares(run.records, classes)
    groups = np.array([record.group for record in run.records])
    resampled = bootstrap(shares, groups, settings.resamples, settings.seed)
    found = estimates(shares(np.arange(len(groups))), resampled)
    counts = [int(np.count_nonzero(classes == c)) for c in range(len(run.classes))]
    return {"magnifications": shares.names, "by": "label" if labelled else "prediction", "counts": counts, **found}
