# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Outlines of a pathologist's annotations over a picture. Areas are (row, column) in level-0 pixels of the file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from monai_jsma.datalists.regions import Area
from monai_jsma.visualize.canvas import outline

__all__ = ["by_class", "draw_areas", "draw_areas_legend", "legend_lines"]

_COLOURS = ("#0026ff", "#000000", "#007a4d")  # no colours of H&E, of the attention or of a magnification
_PER_LINE = 4  # classes in a line of the legend
_STYLES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))


def by_class(areas: Iterable[Area]) -> dict[str, list[Area]]:
    """Areas by their most specific name, "" where they have none."""
    found: dict[str, list[Area]] = {}
    for area in areas:
        found.setdefault(area.names[0] if area.names else "", []).append(area)
    return dict(sorted(found.items()))


def _style(number: int) -> dict[str, Any]:
    """Line of a class, by its number; twelve differ."""
    rest, style = divmod(number, len(_STYLES))
    return {"color": _COLOURS[rest % len(_COLOURS)], "linestyle": _STYLES[style], "linewidth": 1.8}


def draw_areas(axes: Axes, areas: Iterable[Area]) -> None:
    """Draw the outlines of areas and their holes, one line style a class; what leaves the axes is cut off."""
    for number, of_class in enumerate(by_class(areas).values()):
        rings = [np.vstack([ring, ring[:1]])[:, ::-1] for area in of_class for ring in (area.ring, *area.holes)]
        lines = LineCollection(rings, **_style(number), path_effects=outline(3.6, "white"), zorder=2.5)
        axes.add_collection(lines, autolim=False)


def legend_lines(areas: Iterable[Area]) -> int:
    """Lines that :func:`draw_areas_legend` needs."""
    return -(-len(by_class(areas)) // _PER_LINE)


def draw_areas_legend(figure: Figure, left: float, top: float, areas: Iterable[Area]) -> None:
    """Name the classes, ``left`` and ``top`` inches from the figure's upper left corner."""
    width, height = figure.get_size_inches()
    names = [name or "annotation" for name in by_class(areas)]
    lines = [Line2D([], [], **_style(number)) for number in range(len(names))]
    legend = figure.legend(lines, names, loc="upper left", ncols=_PER_LINE, fontsize=9, frameon=False, borderpad=0)
    legend.borderaxespad = 0
    legend.set_bbox_to_anchor((left / width, 1 - top / height))
    for text in legend.get_texts():
        text.set_parse_math(False)
