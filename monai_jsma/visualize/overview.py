# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""All evidence of one image on one page, in the manner of the paper's Figures 4 and 5.

The thumbnail with the sampled patches, the attention of each magnification, and below them the patches themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from monai_jsma.datalists.regions import Area
from monai_jsma.predictions.evidence import Evidence
from monai_jsma.visualize.area_outlines import count_legend_lines, draw_areas, draw_areas_legend
from monai_jsma.visualize.attention import draw_attention
from monai_jsma.visualize.canvas import DPI, add_axes, fit_inches
from monai_jsma.visualize.patches import draw_boxes, draw_strip, rank_patches, strip_height

__all__ = ["overview_figure"]

# All lengths in inches.
_LEFT = 0.8  # of each panel's image
_RIGHT = 1.0
_TOP = 0.7
_BOTTOM = 0.7
_TITLE_HEIGHT = 0.35
_LINE_HEIGHT = 0.2  # of each further line of the title
_MARGIN = 0.2  # left of the title
_MIN_WIDTH = 7.0  # of the page


def overview_figure(
    evidence: Evidence, *, title: str = "", areas: Sequence[Area] = (), max_patches: int = 16
) -> Figure:
    """One figure of the thumbnail with boxes, a map for each magnification, and the strip of patches.

    Args:
        evidence: evidence of the image, with its thumbnail and pyramid.
        title: first line of the page, such as the file; further lines are smaller.
        areas: annotated areas to outline; those that count from the bounds of the slide are moved to the canvas.
        max_patches: maximum number of patches; those of highest weight are shown.
    """
    areas = [area.on_canvas(evidence.bounds) for area in areas]
    height, width = fit_inches(evidence.geometry.size, area=16)
    panel_height = _TOP + height + _BOTTOM
    panel_width = _LEFT + max(width, 3.0) + _RIGHT
    num_panels = 1 + len(evidence.geometry.grids)
    num_columns = max(1, round(math.sqrt(1.2 * num_panels * panel_height / panel_width)))  # about square with the strip
    num_rows = -(-num_panels // num_columns)

    num_lines = title.count("\n") + count_legend_lines(areas)
    panels_top = _TITLE_HEIGHT + _LINE_HEIGHT * num_lines
    strip_top = panels_top + num_rows * panel_height
    page_width = max(num_columns * panel_width, _MIN_WIDTH)
    cells, _ = rank_patches(evidence.cells, evidence.weights)
    num_patches = min(len(cells), max_patches)
    page_height = strip_top + strip_height(num_patches, page_width)

    figure = Figure(figsize=(page_width, page_height), dpi=DPI)
    _draw_head(figure, title, areas)
    for panel in range(num_panels):
        row, col = divmod(panel, num_columns)
        axes = add_axes(
            figure,
            left=col * panel_width + _LEFT,
            top=panels_top + row * panel_height + _TOP,
            height=height,
            width=width,
        )
        if panel == 0:
            draw_boxes(axes, evidence, max_boxes=max_patches)
        else:
            draw_attention(axes, evidence, level=panel - 1)
        draw_areas(axes, areas)
    draw_strip(figure, evidence, top=strip_top, max_patches=max_patches)
    return figure


def _draw_head(figure: Figure, title: str, areas: Sequence[Area]) -> None:
    """Write the title, and name the classes of areas below it."""
    first, *others = title.split("\n")
    _write_line(figure, first, top=_MARGIN / 2, fontsize=12, fontweight="bold")
    top = _TITLE_HEIGHT
    for line in others:
        _write_line(figure, line, top=top, fontsize=10, fontweight="normal")
        top += _LINE_HEIGHT
    if areas:
        draw_areas_legend(figure, areas, left=_MARGIN, top=top)


def _write_line(figure: Figure, text: str, *, top: float, fontsize: int, fontweight: str) -> None:
    width, height = figure.get_size_inches()
    figure.text(
        _MARGIN / width,
        1 - top / height,
        text,
        va="top",
        fontsize=fontsize,
        fontweight=fontweight,
        parse_math=False,  # a file may be called "$1$"
    )
