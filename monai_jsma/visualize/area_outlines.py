# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Outlines of a pathologist's annotations over an image. Areas are (row, column) in level-0 pixels of the file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from monai_jsma.datalists.regions import Area
from monai_jsma.visualize.canvas import make_outline

__all__ = ["by_class", "count_legend_lines", "draw_areas", "draw_areas_legend"]

_COLORS = ("#0026ff", "#000000", "#007a4d")  # none is a color of H&E, of the attention or of a magnification
_LINE_STYLES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))
_NAMES_PER_LINE = 4  # of the legend


def by_class(areas: Iterable[Area]) -> dict[str, list[Area]]:
    """Areas by their most specific name, sorted by name; "" if they have none."""
    groups: dict[str, list[Area]] = {}
    for area in areas:
        name = area.names[0] if area.names else ""
        groups.setdefault(name, []).append(area)
    return dict(sorted(groups.items()))


def draw_areas(axes: Axes, areas: Iterable[Area]) -> None:
    """Draw the outlines of areas and of their holes, with one line style for each class; they are cut off at the axes.

    Args:
        axes: axes in level-0 pixels of the file.
        areas: areas to draw.
    """
    for number, group in enumerate(by_class(areas).values()):
        outlines = []
        for area in group:
            outlines += [_close_ring(ring) for ring in (area.ring, *area.holes)]
        lines = LineCollection(
            outlines,
            **_line_look(number),
            path_effects=make_outline(3.6, "white"),
            zorder=2.5,
        )
        axes.add_collection(lines, autolim=False)


def _close_ring(ring: np.ndarray) -> np.ndarray:
    """An outline of (row, column) as closed (x, y)."""
    closed = np.vstack([ring, ring[:1]])
    return closed[:, ::-1]


def _line_look(number: int) -> dict[str, Any]:
    """Line of a class, by its number; twelve of them differ."""
    round_of_styles, style = divmod(number, len(_LINE_STYLES))
    return {
        "color": _COLORS[round_of_styles % len(_COLORS)],
        "linestyle": _LINE_STYLES[style],
        "linewidth": 1.8,
    }


def count_legend_lines(areas: Iterable[Area]) -> int:
    """Number of lines that :func:`draw_areas_legend` needs."""
    return -(-len(by_class(areas)) // _NAMES_PER_LINE)


def draw_areas_legend(figure: Figure, areas: Iterable[Area], *, left: float, top: float) -> None:
    """Name the classes of areas.

    Args:
        figure: figure to draw on.
        areas: areas that are drawn.
        left: inches from the figure's left edge to the legend.
        top: inches from the figure's upper edge to the legend.
    """
    names = [name or "annotation" for name in by_class(areas)]
    lines = [Line2D([], [], **_line_look(number)) for number in range(len(names))]
    legend = figure.legend(
        lines,
        names,
        loc="upper left",
        ncols=_NAMES_PER_LINE,
        fontsize=9,
        frameon=False,
        borderpad=0,
    )
    width, height = figure.get_size_inches()
    legend.borderaxespad = 0
    legend.set_bbox_to_anchor((left / width, 1 - top / height))
    for text in legend.get_texts():
        text.set_parse_math(False)
