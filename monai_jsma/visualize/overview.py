# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""All about one picture on one page, in the manner of the paper's Figures 4 and 5.

The thumbnail with its sampled patches, the attention of each magnification, and the patches themselves below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from monai_jsma.datalists.regions import Area
from monai_jsma.geometry import PatchGeometry
from monai_jsma.visualize.annotation import draw_areas, draw_areas_legend, legend_lines
from monai_jsma.visualize.attention import draw_attention
from monai_jsma.visualize.canvas import Frame, axes_at, picture_inches
from monai_jsma.visualize.patches import draw_boxes, draw_strip, drawn_patches, strip_height

__all__ = ["overview_figure"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 0.8, 1.0, 0.7, 0.55  # inches around each picture
_TITLE, _LINE = 0.35, 0.2  # inches above all of them, and of each further line of the title
_MARGIN, _NARROWEST = 0.2, 7.0  # inches left of a title, and that it needs


def overview_figure(
    thumbnail: np.ndarray,
    geometry: PatchGeometry,
    attention: np.ndarray,
    patches: np.ndarray,
    cells: np.ndarray,
    weights: np.ndarray,
    *,
    title: str = "",
    frame: Frame = (0, 0),
    areas: Sequence[Area] = (),
) -> Figure:
    """One figure of the thumbnail with boxes, one map a magnification, and the strip of patches.

    Args:
        thumbnail: uint8 ``(3, height, width)``.
        geometry: the picture's cells.
        attention: probabilities ``(cells,)`` over all magnifications.
        patches: pixels of the drawn cells, or of the first of them, uint8 ``(<= k, 3, patch, patch)``.
        cells: flat indices of the drawn cells ``(k,)``.
        weights: their weights ``(k,)``.
        title: a line above everything, such as the file; further lines are smaller.
        frame: row and column of the picture in level 0 of its file; None if it is turned or mirrored.
        areas: annotations to outline, in level-0 pixels of the file.
    """
    height, width = picture_inches(geometry.size, 14)
    panels = 1 + len(geometry.grids)
    panel_height, panel_width = _TOP + height + _BOTTOM, _LEFT + max(width, 3.0) + _RIGHT
    columns = max(1, round(math.sqrt(1.2 * panels * panel_height / panel_width)))  # with the strip about square
    head = _TITLE + _LINE * (title.count("\n") + legend_lines(areas))
    strip_top, full_width = head + -(-panels // columns) * panel_height, max(columns * panel_width, _NARROWEST)
    shown = cells[: len(patches)], weights[: len(patches)]
    drawn = len(drawn_patches(*shown)[0])
    figure = Figure(figsize=(full_width, strip_top + strip_height(drawn, full_width)), dpi=100)
    _draw_head(figure, title, areas)
    for panel in range(panels):
        row, col = divmod(panel, columns)
        axes = axes_at(figure, col * panel_width + _LEFT, head + row * panel_height + _TOP, height, width)
        if panel == 0:
            draw_boxes(axes, thumbnail, geometry, cells, weights, frame=frame)
        else:
            draw_attention(axes, thumbnail, geometry, attention, panel - 1, frame)
        draw_areas(axes, areas)
    draw_strip(figure, strip_top, patches, geometry, *shown)
    return figure


def _draw_head(figure: Figure, title: str, areas: Sequence[Area]) -> None:
    width, height = figure.get_size_inches()
    for number, line in enumerate(title.split("\n")):
        font = {"fontsize": 10} if number else {"fontsize": 12, "fontweight": "bold"}
        top = _TITLE + _LINE * (number - 1) if number else _MARGIN / 2
        # A file may be called "$1$": names are no mathematics.
        figure.text(_MARGIN / width, 1 - top / height, line, va="top", parse_math=False, **font)
    if areas:
        draw_areas_legend(figure, _MARGIN, _TITLE + _LINE * title.count("\n"), areas)
