# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The figures of a report, drawn from its numbers: curves (paper, Figures 2 and 3), calibration and the like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

__all__ = [
    "Curve",
    "draw_attention_shares",
    "draw_calibration",
    "draw_comparison",
    "draw_confusion",
    "draw_curves",
    "draw_risk_curves",
    "format_estimate",
]

_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # distinct for the color-blind too
_LINE_STYLES = ("-", "--", "-.", ":")  # where there are more lines than colors
_HATCHES = ("", "//", "..")  # where there are more bars than colors
_MAX_LETTERS = 28  # of a class or run name


class Curve(NamedTuple):
    """One line of a figure.

    Args:
        name: name in the legend.
        points: coordinates by name; None if they are undefined.
        area: estimate of the area under the curve.
    """

    name: str
    points: Mapping[str, Sequence[float]] | None
    area: Mapping[str, Any]


def draw_curves(area: str, curves: Sequence[Curve]) -> Figure:
    """ROC curves, or precision-recall curves.

    Args:
        area: "auc" for ROC curves, "ap" for precision-recall curves.
        curves: curves to draw; one without points is undefined, as the legend says.
    """
    figure = Figure(figsize=(5.2, 5.2 + 0.22 * len(curves)), layout="constrained")
    if area == "auc":
        axes = _add_unit_axes(figure, "False positive rate (1 - specificity)", "True positive rate")
        _draw_diagonal(axes)
        x = "false_positives"
        y = "true_positives"
        drawstyle = "default"
    else:
        axes = _add_unit_axes(figure, "Recall (sensitivity)", "Precision")
        x = "recall"
        y = "precision"
        # Recall falls from point to point, and each precision holds down to the next recall.
        drawstyle = "steps-post"

    for number, curve in enumerate(curves):
        points = curve.points or {x: (), y: ()}
        axes.plot(
            points[x],
            points[y],
            label=_label_curve(area, curve),
            drawstyle=drawstyle,
            **_line_look(number),
        )
    figure.legend(loc="outside lower left", frameon=False)
    return figure


def draw_risk_curves(curves: Sequence[Curve], references: Sequence[Curve] = ()) -> Figure:
    """Risk-coverage curves.

    Args:
        curves: curves with points ``coverage`` and ``risk``, and AURC as area.
        references: at most two curves to compare with, drawn in gray.
    """
    num_lines = len(curves) + len(references)
    figure = Figure(figsize=(5.2, 5.0 + 0.22 * num_lines), layout="constrained")
    axes = figure.add_subplot()
    for number, curve in enumerate(curves):
        _draw_risk_curve(axes, curve, _line_look(number))
    for curve, style in zip(references, ("--", ":")):
        _draw_risk_curve(axes, curve, {"color": "0.5", "linestyle": style})

    highest_risk = axes.get_ylim()[1]
    axes.set(
        xlim=(0, 1.01),
        ylim=(-0.01, max(1.05 * highest_risk, 0.1)),
        xlabel="Coverage: share of predictions that is kept, the most certain first",
        ylabel="Risk: share of errors among them",
    )
    axes.grid(color="0.9")
    figure.legend(loc="outside lower left", frameon=False)
    return figure


def _draw_risk_curve(axes: Axes, curve: Curve, look: Mapping[str, Any]) -> None:
    if curve.points is None:
        return
    axes.plot(
        curve.points["coverage"],
        curve.points["risk"],
        label=_label_curve("aurc", curve),
        **look,
    )


def draw_confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """The confusion matrix: counts, and as color the share of the true class.

    Args:
        confusion: number of cases ``(classes, classes)``, true class by row.
        classes: names of the classes.
    """
    counts = np.array(confusion)
    row_sums = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(row_sums, 1)

    side = max(4.2, 1.4 + 0.75 * len(classes))
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.add_subplot()
    edges = np.arange(-0.5, len(classes))
    axes.pcolormesh(edges, edges, shares, cmap="Blues", vmin=0, vmax=1)
    for row, col in np.ndindex(counts.shape):
        share = shares[row, col]
        text = f"{counts[row, col]}\n{share:.0%}" if row_sums[row] > 0 else "0"
        color = "white" if share > 0.5 else "black"
        axes.text(col, row, text, ha="center", va="center", color=color)

    ticks = range(len(classes))
    names = [shorten(name) for name in classes]
    longest = max(len(name) for name in names)
    rotation = 30 if longest > 8 else 0
    axes.set_xticks(ticks, names, rotation=rotation, ha="center")
    axes.set_yticks(ticks, names)
    axes.set(xlabel="Predicted class", ylabel="True class (rows sum to 100 %)", aspect="equal")
    axes.invert_yaxis()
    return figure


def draw_calibration(bins: Sequence[Mapping[str, float]]) -> Figure:
    """The reliability diagram: how often predictions are correct against their probability.

    Args:
        bins: see :func:`~monai_jsma.report.scores.make_reliability`.
    """
    probability = np.array([one["probability"] for one in bins])
    right = np.array([one["right"] for one in bins])
    counts = np.array([one["count"] for one in bins])

    figure = Figure(figsize=(5.2, 5.2), layout="constrained")
    axes = _add_unit_axes(figure, "Probability of the predicted class", "Share of correct predictions")
    _draw_diagonal(axes)
    axes.plot(probability, right, color=_COLORS[0], linewidth=1)
    sizes = 20 + 180 * counts / counts.max()
    axes.scatter(probability, right, s=sizes, color=_COLORS[0], alpha=0.6, clip_on=False)
    for x, y, count in zip(probability, right, counts, strict=True):
        axes.annotate(
            f"{count:.0f}",
            (x, y),
            (0, -14 if y > 0.5 else 14),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
        )
    axes.text(0.02, 0.97, "above the line: underconfident", fontsize=8, color="0.4", va="top")
    axes.text(0.98, 0.02, "below the line: overconfident", fontsize=8, color="0.4", ha="right")
    return figure


def draw_attention_shares(attention: Mapping[str, Any], classes: Sequence[str]) -> Figure:
    """Shares of the attention by magnification: a bar for all regions, one for each class, and one for equal attention.

    Args:
        attention: ``attention`` of a run of the report.
        classes: names of the classes.
    """
    bar_names = ["all"]
    bars = [attention["share"]]
    for name, shares in zip(classes, attention["class_share"], strict=True):
        if shares[0]["value"] is not None:
            bar_names.append(shorten(name))
            bars.append(shares)
    bar_names.append("if equal everywhere")
    bars.append(attention["prior"])

    figure = Figure(figsize=(6.8, 1.3 + 0.42 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    left = np.zeros(len(bars))
    for number, magnification in enumerate(attention["magnifications"]):
        widths = np.array([100 * shares[number]["value"] for shares in bars])
        color = _COLORS[number % len(_COLORS)]
        container = axes.barh(
            range(len(bars)),
            widths,
            left=left,
            color=color,
            hatch=_HATCHES[number // len(_COLORS) % len(_HATCHES)],
            label=magnification,
            edgecolor="white",
        )
        container[-1].set_alpha(0.55)
        _label_bars(axes, container, widths, color)
        left += widths

    axes.set_yticks(range(len(bars)), bar_names)
    axes.set(xlim=(0, 100), xlabel="Share of the attention, in %")
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=6, frameon=False)
    return figure


def _label_bars(axes: Axes, container: BarContainer, widths: np.ndarray, color: str) -> None:
    """Write the percentages of bars into them, unless they are too narrow."""
    labels = [f"{width:.0f}" if width >= 4 else "" for width in widths]
    texts = axes.bar_label(
        container,
        labels,
        label_type="center",
        color="white",
        fontweight="bold",
        fontsize=9,
    )
    for text in texts:
        text.set_path_effects([withStroke(linewidth=3, foreground=color)])


def draw_comparison(runs: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> Figure:
    """One panel for each score, with value and interval of each run.

    Args:
        runs: scored runs of the report.
        titles: title of each score to show, by its key.
    """
    num_rows = -(-len(titles) // 2)
    height = 0.9 + 0.32 * len(runs)
    figure = Figure(figsize=(6.8, num_rows * height), layout="constrained")
    panels = figure.subplots(num_rows, 2, sharey=True, squeeze=False).ravel()
    for axes, (score, title) in zip(panels, titles.items()):
        for row, run in enumerate(runs):
            estimate = run["scored"]["scores"][score]
            _draw_interval(axes, row, estimate)
        axes.set_title(title, fontsize=10)
        axes.grid(axis="x", color="0.9")

    names = [shorten(run["name"]) for run in runs]
    panels[0].set_yticks(range(len(runs)), names)
    panels[0].set_ylim(len(runs) - 0.5, -0.5)
    return figure


def _draw_interval(axes: Axes, row: int, estimate: Mapping[str, Any]) -> None:
    color = _COLORS[row % len(_COLORS)]
    if estimate["value"] is None:
        axes.annotate(
            "undefined",
            (0.5, row),
            xycoords=("axes fraction", "data"),
            ha="center",
            va="center",
        )
        return
    if estimate["low"] is not None:
        ends = (estimate["low"], estimate["high"])
        axes.plot(ends, (row, row), color=color, linewidth=2)
    axes.plot(estimate["value"], row, "o", color=color)


def _add_unit_axes(figure: Figure, x_label: str, y_label: str) -> Axes:
    """Square axes from 0 to 1."""
    axes = figure.add_subplot()
    axes.set(
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
        aspect="equal",
        xlabel=x_label,
        ylabel=y_label,
    )
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    return axes


def _draw_diagonal(axes: Axes) -> None:
    ends = (0, 1)
    dotted = (0, (1, 3))
    axes.plot(ends, ends, color="0.6", linewidth=1, linestyle=dotted)


def _line_look(number: int) -> dict[str, Any]:
    """Color and style of a line."""
    round_of_colors, color = divmod(number, len(_COLORS))
    return {
        "color": _COLORS[color],
        "linestyle": _LINE_STYLES[round_of_colors % len(_LINE_STYLES)],
    }


def _label_curve(area: str, curve: Curve) -> str:
    """Label of a line. It starts with the area: matplotlib hides what starts with an underscore, as a name may."""
    estimate = format_estimate(curve.area)
    name = shorten(curve.name)
    return f"{area.upper()} {estimate}  {name}"


def format_estimate(estimate: Mapping[str, Any]) -> str:
    """``0.912 [0.850, 0.961]``, or "undefined"."""
    if estimate["value"] is None:
        return "undefined"
    text = f"{estimate['value']:.3f}"
    if estimate["low"] is not None:
        text += f" [{estimate['low']:.3f}, {estimate['high']:.3f}]"
    return text


def shorten(name: str) -> str:
    """The name; its middle is left out if it is long."""
    if len(name) <= _MAX_LETTERS:
        return name
    begin = name[: _MAX_LETTERS // 2]
    end = name[-_MAX_LETTERS // 2 + 1 :]
    return f"{begin}…{end}"
