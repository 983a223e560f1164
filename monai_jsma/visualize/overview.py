# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""All about one picture on one page, in the manner of the paper's Figures 4 and 5.

The thumbnail with its sampled patches, the attention of each magnification, and the patches themselves below.
"""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure

from monai_jsma.data.geometry import PatchGeometry
from monai_jsma.visualize.attention import draw_attention
from monai_jsma.visualize.canvas import Frame, axes_at, picture_inches
from monai_jsma.visualize.patches import draw_boxes, draw_strip, drawn_patches, strip_height

__all__ = ["overview_figure"]

_LEFT, _RIGHT, _TOP, _BOTTOM, _TITLE = 0.8, 1.0, 0.7, 0.55, 0.35  # inches around each picture, and above all of them


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
) -> Figure:
    """One figure of the thumbnail with boxes, one map a magnification, and the strip of patches.

    Args:
        thumbnail: uint8 ``(3, height, width)``.
        geometry: the picture's cells.
        attention: probabilities ``(cells,)`` over all magnifications.
        patches: pixels of the drawn cells, uint8 ``(k, 3, patch, patch)``.
        cells: flat indices of the drawn cells ``(k,)``.
        weights: their weights ``(k,)``.
        title: a line above everything, such as the file and its classes.
        frame: row and column of the picture in level 0 of its file; None if it is turned or mirrored.
    """
    height, width = picture_inches(geometry.size, 14)
    panels = 1 + len(geometry.grids)
    panel_height, panel_width = _TOP + height + _BOTTOM, _LEFT + max(width, 3.0) + _RIGHT
    columns = max(1, round(math.sqrt(panels * panel_height / panel_width)))  # a page that is about square
    strip_top, full_width = _TITLE + -(-panels // columns) * panel_height, columns * panel_width
    drawn = len(drawn_patches(cells, weights)[0])
    figure = Figure(figsize=(full_width, strip_top + strip_height(drawn, full_width)), dpi=100)
    figure.text(0.2 / full_width, 1 - 0.1 / figure.get_figheight(), title, fontsize=12, va="top", fontweight="bold")
    for panel in range(panels):
        row, col = divmod(panel, columns)
        axes = axes_at(figure, col * panel_width + _LEFT, _TITLE + row * panel_height + _TOP, height, width)
        if panel == 0:
            draw_boxes(axes, thumbnail, geometry, cells, weights, frame=frame)
        else:
            draw_attention(axes, thumbnail, geometry, attention, panel - 1, frame)
    draw_strip(figure, strip_top, patches, geometry, cells, weights)
    return figure
