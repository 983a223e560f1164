# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The figures of a report, drawn from its numbers: curves (paper, Figures 2 and 3), confusion and the like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

__all__ = [
    "attention_figure",
    "calibration_figure",
    "comparison_figure",
    "confusion_figure",
    "curve_figure",
    "risk_figure",
]

Line = tuple[str, Any, Mapping[str, Any]]  # name, points and area

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # told apart by the colour-blind too
_STYLES = ("-", "--", "-.", ":")  # and where there are more lines than colours
_HATCHES = ("", "//", "..")  # of bars, likewise
_AXES = {
    "auc": ("false_positives", "true_positives", "False positive rate (1 - specificity)", "True positive rate"),
    "ap": ("recall", "precision", "Recall (sensitivity)", "Precision"),
}
_SHORT = 28  # letters of a class or run name


def short(name: str) -> str:
    """The name, its middle left out if it is long."""
    return name if len(name) <= _SHORT else f"{name[: _SHORT // 2]}…{name[-_SHORT // 2 + 1 :]}"


def _unit_axes(figure: Figure, x_label: str, y_label: str) -> Axes:
    axes = figure.add_subplot()
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal", xlabel=x_label, ylabel=y_label)
    axes.grid(color="0.9")
    axes.set_axisbelow(True)
    return axes


def curve_figure(area: str, lines: Sequence[Line]) -> Figure:
    """ROC curves, or precision-recall curves.

    Args:
        area: "auc" for ROC, "ap" for precision-recall curves.
        lines: name, points and area of each; None for points that are undefined, which the legend says.
    """
    x, y, x_label, y_label = _AXES[area]
    figure = Figure(figsize=(5.2, 5.2 + 0.22 * len(lines)), layout="constrained")
    axes = _unit_axes(figure, x_label, y_label)
    if area == "auc":
        axes.plot((0, 1), (0, 1), color="0.6", linewidth=1, linestyle=(0, (1, 3)))
    for i, (name, points, estimate) in enumerate(lines):
        values = (points[x], points[y]) if points else ((), ())
        # Recall falls from point to point, and each precision holds down to the next recall.
        drawstyle = "steps-post" if area == "ap" else "default"
        axes.plot(*values, label=_with_area(area, name, estimate), drawstyle=drawstyle, **_look(i))
    figure.legend(loc="outside lower left", frameon=False)
    return figure


def risk_figure(lines: Sequence[Line], references: Sequence[Line] = ()) -> Figure:
    """Risk-coverage curves.

    Args:
        lines: name, ``coverage`` and ``risk``, and AURC of each.
        references: the same, of what they are compared with.
    """
    figure = Figure(figsize=(5.2, 5.0 + 0.22 * len([*lines, *references])), layout="constrained")
    axes = figure.add_subplot()
    looks = [*map(_look, range(len(lines))), *({"color": "0.5", "linestyle": s} for s in ("--", ":"))]
    for (name, points, estimate), look in zip([*lines, *references], looks, strict=False):
        axes.plot(points["coverage"], points["risk"], label=_with_area("aurc", name, estimate), **look)
    axes.set(xlim=(0, 1.01), xlabel="Coverage: part of the answers that is kept, the most certain ones")
    axes.set(ylim=(-0.01, max(1.05 * axes.get_ylim()[1], 0.1)), ylabel="Risk: part of these that is wrong")
    axes.grid(color="0.9")
    figure.legend(loc="outside lower left", frameon=False)
    return figure


def _look(number: int) -> dict[str, Any]:
    """Colour and style of a line."""
    return {"color": _COLOURS[number % len(_COLOURS)], "linestyle": _STYLES[number // len(_COLOURS) % len(_STYLES)]}


def _with_area(area: str, name: str, estimate: Mapping[str, Any]) -> str:
    """Label of a line. It starts with the area: matplotlib hides what starts with an underscore, as a name may."""
    return f"{area.upper()} {estimate_text(estimate)}  {short(name)}"


def estimate_text(estimate: Mapping[str, Any]) -> str:
    """``0.912 [0.850, 0.961]``, or "undefined"."""
    if estimate["value"] is None:
        return "undefined"
    interval = "" if estimate["low"] is None else f" [{estimate['low']:.3f}, {estimate['high']:.3f}]"
    return f"{estimate['value']:.3f}{interval}"


def confusion_figure(table: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """Numbers and, as colour, the part of the true class."""
    counts, names = np.array(table), [short(name) for name in classes]
    parts = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(4.2, 1.4 + 0.75 * len(classes))
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.add_subplot()
    axes.pcolormesh(np.arange(-0.5, len(classes)), np.arange(-0.5, len(classes)), parts, cmap="Blues", vmin=0, vmax=1)
    for row, col in np.ndindex(counts.shape):
        text = f"{counts[row, col]}\n{parts[row, col]:.0%}" if counts[row].sum() else "0"
        colour = "white" if parts[row, col] > 0.5 else "black"
        axes.text(col, row, text, ha="center", va="center", color=colour)
    ticks = range(len(classes))
    axes.set_xticks(ticks, names, rotation=30 if max(map(len, names)) > 8 else 0, ha="center")
    axes.set_yticks(ticks, names)
    axes.set(xlabel="Predicted class", ylabel="True class (rows sum to 100 %)", aspect="equal")
    axes.invert_yaxis()
    return figure


def calibration_figure(bins: Sequence[Mapping[str, float]]) -> Figure:
    """The reliability diagram: how often the network is right against how sure it is."""
    figure = Figure(figsize=(5.2, 5.2), layout="constrained")
    axes = _unit_axes(figure, "Probability that the network gives its answer", "Part of these answers that is right")
    axes.plot((0, 1), (0, 1), color="0.6", linewidth=1, linestyle=(0, (1, 3)))
    sure, right, count = (np.array([b[key] for b in bins]) for key in ("probability", "right", "count"))
    axes.plot(sure, right, color=_COLOURS[0], linewidth=1)
    axes.scatter(sure, right, s=20 + 180 * count / count.max(), color=_COLOURS[0], alpha=0.6, clip_on=False)
    for x, y, n in zip(sure, right, count, strict=True):
        side = -1 if y > 0.5 else 1
        axes.annotate(
            f"{n:.0f}", (x, y), (0, 14 * side), textcoords="offset points", ha="center", va="center", fontsize=8
        )
    axes.text(0.02, 0.97, "above the line: less sure than it could be", fontsize=8, color="0.4", va="top")
    axes.text(0.98, 0.02, "below the line: surer than it should be", fontsize=8, color="0.4", ha="right")
    return figure


def attention_figure(attention: Mapping[str, Any], classes: Sequence[str]) -> Figure:
    """One bar for all regions, one a class, and one for equal attention, each split by magnification."""
    rows = [("all", attention["share"])]
    rows += [(short(name), part) for name, part in zip(classes, attention["class_share"], strict=True)]
    rows = [row for row in rows if row[1][0]["value"] is not None] + [("if equal everywhere", attention["prior"])]
    figure = Figure(figsize=(6.8, 1.3 + 0.42 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    left = np.zeros(len(rows))
    for i, name in enumerate(attention["magnifications"]):
        widths = np.array([100 * part[i]["value"] for _, part in rows])
        colour, hatch = _COLOURS[i % len(_COLOURS)], _HATCHES[i // len(_COLOURS) % len(_HATCHES)]
        bars = axes.barh(range(len(rows)), widths, left=left, color=colour, hatch=hatch, label=name, edgecolor="white")
        bars[-1].set_alpha(0.55)
        texts = [f"{width:.0f}" if width >= 4 else "" for width in widths]
        for text in axes.bar_label(bars, texts, label_type="center", color="white", fontweight="bold", fontsize=9):
            text.set_path_effects([withStroke(linewidth=3, foreground=colour)])
        left += widths
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set(xlim=(0, 100), xlabel="Share of the attention, in %")
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=6, frameon=False)
    return figure


def comparison_figure(runs: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> Figure:
    """One panel a score: value and interval of each run.

    Args:
        runs: those that were scored.
        names: of the scores to show, and their titles.
    """
    rows = -(-len(names) // 2)
    figure = Figure(figsize=(6.8, rows * (0.9 + 0.32 * len(runs))), layout="constrained")
    panels = figure.subplots(rows, 2, sharey=True, squeeze=False).ravel()[: len(names)]
    for axes, (score, title) in zip(panels, names.items(), strict=True):
        for i, run in enumerate(runs):
            found, colour = run["scored"]["scores"][score], _COLOURS[i % len(_COLOURS)]
            if found["value"] is None:
                axes.annotate("undefined", (0.5, i), xycoords=("axes fraction", "data"), ha="center", va="center")
                continue
            if found["low"] is not None:
                axes.plot((found["low"], found["high"]), (i, i), color=colour, linewidth=2)
            axes.plot(found["value"], i, "o", color=colour)
        axes.set_title(title, fontsize=10)
        axes.grid(axis="x", color="0.9")
    panels[0].set_yticks(range(len(runs)), [short(run["name"]) for run in runs])
    panels[0].set_ylim(len(runs) - 0.5, -0.5)
    return figure
