# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The report's page: one HTML file that needs neither scripts nor a network, for light and dark screens.

The template is ``page.html`` beside this module; all that comes from records is escaped.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from monai_jsma.report.selective import COVERAGES, ORDERS

__all__ = ["SCORES", "render_page"]

# key, title, whether it is shown in percent, what it means
SCORES = (
    ("accuracy", "Accuracy", True, "part of the predictions that is right"),
    ("balanced_accuracy", "Balanced accuracy", True, "mean sensitivity of the classes: a rare one counts as much"),
    ("f1_macro", "F1, macro", False, "mean over the classes of F1, the harmonic mean of sensitivity and precision"),
    ("kappa", "Quadratic kappa", False, "agreement of the grades: 1 is perfect, 0 is chance; far misses count more"),
    ("auc_micro", "AUC, micro", False, "area under the ROC curve over all pairs of case and class: 1 is perfect"),
    ("auc_macro", "AUC, macro", False, "mean over the classes of that area: 1 is perfect, 0.5 is guessing"),
    ("ap_micro", "AP, micro", False, "average precision over all pairs of case and class: 1 is perfect"),
    ("ap_macro", "AP, macro", False, "mean over the classes of average precision; guessing gives a class's part"),
    ("ece", "Calibration error", True, "distance of stated probability and part that is right (ECE): 0 is perfect"),
    ("aurc", "AURC", False, "mean error rate of the most certain answers, as fewer are left out: 0 is perfect"),
)
LESS_IS_BETTER = ("ece", "aurc")
PER_CLASS = (
    ("sensitivity", "Sensitivity (recall)", True),
    ("specificity", "Specificity", True),
    ("precision", "Precision (PPV)", True),
    ("f1", "F1", False),
    ("auc", "AUC", False),
    ("ap", "AP", False),
)
_ORDER_COLUMNS = (
    ("aurc", "AURC", False),
    ("gain", "Less than random", False),
    *((f"accuracy_{part}", f"Accuracy at {part} % coverage", True) for part in COVERAGES),
)
_UNITS = {"region": "regions", "file": "files", "group": "groups"}


def render_page(content: Mapping[str, Any], images: Mapping[str, str]) -> str:
    """The page.

    Args:
        content: of the report, see :func:`~monai_jsma.report.evaluate.evaluate`.
        images: data URI of each picture, by its file's name without the ending.
    """
    environment = Environment(
        loader=PackageLoader("monai_jsma.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, estimate=estimate, fewest=fewest)
    shown = [run for run in content["runs"] if run["scored"]]
    scores = [row for row in SCORES if any(row[0] in run["scored"]["scores"] for run in shown)]
    template = environment.get_template("page.html")
    return template.render(
        content,
        images=images,
        score_rows=scores,
        less_is_better=LESS_IS_BETTER,
        class_columns=PER_CLASS,
        order_columns=_ORDER_COLUMNS,
        orders=ORDERS,
        units=_UNITS[content["by"]],
        scored_runs=shown,
    )


def percent(value: float) -> str:
    """``61.2 %``."""
    return f"{100 * value:.1f} %"


def fewest(found: Any) -> int:
    """The least number of resamples among all estimates in nested mappings and lists; undefined ones do not count."""
    if isinstance(found, list):
        return min(map(fewest, found), default=sys.maxsize)
    if "value" not in found:
        return fewest(list(found.values()))
    return found["resamples"] if found["value"] is not None else sys.maxsize


def estimate(found: Mapping[str, Any], in_percent: bool, *, sign: bool = False, of: int = 0) -> Markup:
    """A number and its interval; with a dagger if less than ``of`` resamples define it. Signed percents are points."""
    if found["value"] is None:
        return Markup('<span class="undefined">undefined</span>')
    factor, unit = (100, " points" if sign else " %") if in_percent else (1, "")
    style = f"{'+' if sign else ''}.{1 if in_percent else 3}f"
    text = Markup("<b>{}</b>").format(f"{factor * found['value']:{style}}{unit}")
    if found["low"] is not None:
        ends = f"[{factor * found['low']:{style}}, {factor * found['high']:{style}}]"
        text += Markup(' <span class="interval">{}</span>').format(ends)
    return text + "†" if found["resamples"] < of else text
