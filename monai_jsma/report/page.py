# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The report's page: one HTML file that needs neither scripts nor a network, for light and dark screens.

The template is ``page.html`` beside this module; all that comes from records is escaped.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from monai_jsma.report.scores import CLASS_SCORES, MULTI_LABEL_MEANINGS, SCORES, ScoreInfo
from monai_jsma.report.selective import COVERAGES, ORDERS
from monai_jsma.tasks import MULTILABEL

__all__ = ["render_page"]

_ORDER_SCORES = (
    ScoreInfo("aurc", "AURC"),
    ScoreInfo("gain", "Less than random"),
    *(ScoreInfo(f"accuracy_{percent}", f"Accuracy at {percent} % coverage", in_percent=True) for percent in COVERAGES),
)
_CASES = {"region": "regions", "file": "files", "group": "groups"}


def render_page(content: Mapping[str, Any], images: Mapping[str, str]) -> str:
    """The page as HTML.

    Args:
        content: numbers of the report, see :func:`~monai_jsma.report.evaluate.evaluate`.
        images: data URI of each image, by the name of its file without the ending.
    """
    scored_runs = [run for run in content["runs"] if run["scored"]]
    score_infos = []
    for info in SCORES:
        if any(info.key in run["scored"]["scores"] for run in scored_runs):
            score_infos.append(_reword(info, content["task"]))

    environment = Environment(
        loader=PackageLoader("monai_jsma.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=_format_percent,
        estimate=_format_estimate,
        fewest=_find_fewest_resamples,
    )
    return environment.get_template("page.html").render(
        content,
        images=images,
        score_infos=score_infos,
        class_score_infos=CLASS_SCORES,
        order_score_infos=_ORDER_SCORES,
        orders=ORDERS,
        units=_CASES[content["by"]],
        scored_runs=scored_runs,
    )


def _reword(info: ScoreInfo, task: str) -> ScoreInfo:
    """A score with its meaning for a task."""
    if task != MULTILABEL or info.key not in MULTI_LABEL_MEANINGS:
        return info
    return replace(info, meaning=MULTI_LABEL_MEANINGS[info.key])


def _format_percent(value: float) -> str:
    """``61.2 %``."""
    return f"{100 * value:.1f} %"


def _format_estimate(estimate: Mapping[str, Any], in_percent: bool, *, sign: bool = False, of: int = 0) -> Markup:
    """A number and its interval.

    Args:
        estimate: see :mod:`monai_jsma.report.intervals`.
        in_percent: whether it is written in percent; with sign these are points.
        sign: whether a plus is written.
        of: number of resamples; a dagger is added if fewer define the number.
    """
    if estimate["value"] is None:
        return Markup('<span class="undefined">undefined</span>')

    style = "+" if sign else ""
    if in_percent:
        factor = 100
        unit = " points" if sign else " %"
        style += ".1f"
    else:
        factor = 1
        unit = ""
        style += ".3f"

    text = Markup("<b>{}</b>").format(f"{factor * estimate['value']:{style}}{unit}")
    if estimate["low"] is not None:
        low = f"{factor * estimate['low']:{style}}"
        high = f"{factor * estimate['high']:{style}}"
        text += Markup(' <span class="interval">[{}, {}]</span>').format(low, high)
    if estimate["resamples"] < of:
        text += "†"
    return text


def _find_fewest_resamples(estimates: Any) -> int:
    """The smallest number of resamples of all defined estimates in nested mappings and lists."""
    if isinstance(estimates, list):
        return min(map(_find_fewest_resamples, estimates), default=sys.maxsize)
    if "value" not in estimates:
        return _find_fewest_resamples(list(estimates.values()))
    if estimates["value"] is None:
        return sys.maxsize
    return estimates["resamples"]
