# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Outlines of a pathologist's annotations over a picture. Areas are (row, column) in level-0 pixels of the file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.legend import Legend

from monai_jsma.data.regions import Area
from monai_jsma.visualize.canvas import outline

__all__ = ["by_class", "draw_areas", "draw_areas_legend"]

_COLOUR = "#0026ff"  # no colour of H&E, of the attention or of a magnification
_STYLES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (6, 1.5, 1, 1.5)))


def by_class(areas: Iterable[Area]) -> dict[str, list[Area]]:
    """Areas by their most specific name, "" where they have none."""
    found: dict[str, list[Area]] = {}
    for area in areas:
        found.setdefault(area.names[0] if area.names else "", []).append(area)
    return dict(sorted(found.items()))


def draw_areas(axes: Axes, areas: Iterable[Area]) -> list[LineCollection]:
    """Draw the outlines of areas and their holes, one line style a class; what leaves the axes is cut off."""
    drawn = []
    for number, of_class in enumerate(by_class(areas).values()):
        rings = [np.vstack([ring, ring[:1]])[:, ::-1] for area in of_class for ring in (area.ring, *area.holes)]
        lines = LineCollection(rings, colors=_COLOUR, linewidths=1.8, linestyles=[_STYLES[number % len(_STYLES)]])
        lines.set(path_effects=outline(3.6, "white"), zorder=2.5)
        axes.add_collection(lines, autolim=False)
        drawn.append(lines)
    return drawn


def draw_areas_legend(axes: Axes, lines: Sequence[LineCollection], areas: Iterable[Area]) -> None:
    """Name the classes in the lower left corner, beside a legend that the axes have."""
    names = [name or "annotation" for name in by_class(areas)]
    legend = Legend(axes, lines, names, loc="lower left", fontsize=8, framealpha=0.85, handlelength=2.4, borderpad=0.3)
    axes.add_artist(legend).set_zorder(5)
