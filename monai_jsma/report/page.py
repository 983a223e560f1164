# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The report's page: one HTML file that needs neither scripts nor a network, for light and dark screens.

The template is ``page.html`` beside this module; all that comes from records is escaped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from monai_jsma.report.scores import CLASS_SCORES, MULTI_LABEL_MEANINGS, SCORES, ScoreInfo
from monai_jsma.report.selective import COVERAGES, ORDERS
from monai_jsma.tasks import MULTILABEL, name_label

__all__ = ["render_page"]

_ORDER_SCORES = (
    ScoreInfo("aurc", "AURC"),
    ScoreInfo("gain", "Less than random"),
    *(ScoreInfo(f"accuracy_{percent}", f"Accuracy at {percent} % coverage", in_percent=True) for percent in COVERAGES),
)
_MAX_ROWS = 100
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
        tabulate=_tabulate,
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
        max_rows=_MAX_ROWS,
    )


def _reword(info: ScoreInfo, task: str) -> ScoreInfo:
    """A score with its meaning for a task."""
    if task != MULTILABEL or info.key not in MULTI_LABEL_MEANINGS:
        return info
    return replace(info, meaning=MULTI_LABEL_MEANINGS[info.key])


class _Table(NamedTuple):
    """The head of a table, and the first of its lines."""

    head: list[str]
    lines: list[list[str]]


def _tabulate(rows: Sequence[Mapping[str, Any]], title: str, classes: Sequence[str]) -> _Table:
    """What a reader sees of the rows of slides or patients; columns in which all rows are empty are left out.

    Args:
        rows: see :mod:`monai_jsma.report.per_slide`.
        title: what a row is.
        classes: name of each class.
    """
    names = [row["name"] for row in rows]
    are_patients = any(row["files"] > 1 for row in rows)
    columns = {title: names if are_patients else _shorten_paths(names)}
    if any(row["group"] != row["name"] for row in rows):
        columns["Group"] = [row["group"] for row in rows]
    for key, head in (("files", "Slides"), ("regions", "Regions")):
        if max(row[key] for row in rows) > 1:
            columns[head] = [str(row[key]) for row in rows]

    columns["True class"] = [name_label(row["label"], classes) for row in rows]
    columns["Predicted class"] = [_mark_wrong(row, name_label(row["prediction"], classes)) for row in rows]
    columns["Probability"] = [_format_percent(row["probability"]) for row in rows]
    columns["Entropy"] = [f"{row['entropy']:.2f}" for row in rows]
    for stage in range(max(len(row["stages"]) for row in rows)):
        head = f"Looked into at stage {stage + 1} (share of the attention)"
        columns[head] = [_format_stage(row["stages"][stage : stage + 1]) for row in rows]
    columns["Patches read"] = [str(row["read"]) for row in rows]
    columns["Certainly that of all patches"] = [_format_certainty(row) for row in rows]

    filled = {head: cells for head, cells in columns.items() if any(cells)}
    lines = [list(line) for line in zip(*filled.values(), strict=True)]
    return _Table(list(filled), lines[:_MAX_ROWS])


def _shorten_paths(names: list[str]) -> list[str]:
    """Paths without the folder that all of them are in."""
    if len(names) == 1:
        return [os.path.basename(names[0])]
    folders = {os.path.dirname(name) for name in names}
    is_mixed = len({os.path.isabs(folder) for folder in folders}) > 1
    common = "" if is_mixed else os.path.commonpath(folders)
    return [os.path.relpath(name, common) if common else name for name in names]


def _mark_wrong(row: Mapping[str, Any], prediction: str) -> str:
    is_wrong = row["label"] is not None and row["label"] != row["prediction"]
    return f"{prediction} (wrong)" if is_wrong else prediction


def _format_stage(stages: Sequence[Mapping[str, Any]]) -> str:
    """``3 of 16 (61.2 %)``; empty if the stage was not reached."""
    if not stages:
        return ""
    (stage,) = stages
    return f"{stage['looked_at']:.3g} of {stage['regions']:.3g} ({_format_percent(stage['share'])})"


def _format_certainty(row: Mapping[str, Any]) -> str:
    """Whether the class is certainly that of all patches; empty if that was not asked."""
    if not row["asked"]:
        return ""
    certain = "yes" if row["certified"] else "no"
    if row["asked"] > 1:
        certain = f"in {row['certified']} of {row['asked']}"
    if row["confidence"] is None:
        return certain
    return f"{certain}, at {_format_percent(row['confidence'])}"


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
