# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Which figures a report has, and how their files are called."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from monai_jsma.report.figures import (
    attention_figure,
    calibration_figure,
    comparison_figure,
    confusion_figure,
    curve_figure,
    risk_figure,
)
from monai_jsma.report.page import SCORES
from monai_jsma.report.selective import ORDERS

__all__ = ["comparison_figures", "run_figures", "stems"]

_COMPARED = ("accuracy", "balanced_accuracy", "auc_micro", "ap_micro")  # the paper's, and one for unequal classes


def stems(names: Sequence[str]) -> list[str]:
    """What the files of each run begin with: its name as a file may be called; nothing if there is but one run."""
    if len(names) == 1:
        return [""]
    safe = [re.sub(r"[^A-Za-z0-9.+-]+", "_", name) for name in names]
    return [f"{stem}_" if safe.count(stem) == 1 else f"{stem}_{i}_" for i, stem in enumerate(safe, start=1)]


def run_figures(run: Mapping[str, Any], classes: Sequence[str]) -> Iterator[tuple[str, Figure]]:
    """Name and figure of all that one run has."""
    yield "attention", attention_figure(run["attention"], classes)
    if (scored := run["scored"]) is None:
        return
    points, names = scored["curves"], ("micro-average", *classes)
    for name, area in (("roc", "auc"), ("precision_recall", "ap")):
        areas = scored["scores"][f"{area}_micro"], *scored["classes"][area]
        lines = list(zip(names, (points["micro"], *points["classes"]), areas, strict=True))
        yield name, curve_figure(area, lines)
    yield "confusion", confusion_figure(scored["confusion"], classes)
    yield "calibration", calibration_figure(scored["reliability"])
    risks, told = scored["selective"]["curves"], scored["selective"]["orders"]
    risk_lines = {name: (ORDERS[name], risks[name], told[name]["aurc"]) for name in told}
    references = [risk_lines.pop(name) for name in ("perfect", "random")]
    yield "risk_coverage", risk_figure(list(risk_lines.values()), references)


def comparison_figures(runs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, Figure]]:
    """Name and figure of what compares the runs that were scored."""
    shown = [run for run in runs if run["scored"]]
    if len(runs) < 2 or not shown:
        return
    titles = {key: title for key, title, *_ in SCORES}
    yield "comparison", comparison_figure(shown, {key: titles[key] for key in _COMPARED})
    scored = [(run["name"], run["scored"]) for run in shown]
    for name, area in (("comparison_roc", "auc"), ("comparison_precision_recall", "ap")):
        lines = [(n, s["curves"]["micro"], s["scores"][f"{area}_micro"]) for n, s in scored]
        yield name, curve_figure(area, lines)
    risks = [(n, s["selective"]["curves"]["predictive_entropy"], s["scores"]["aurc"]) for n, s in scored]
    yield "comparison_risk_coverage", risk_figure(risks)
