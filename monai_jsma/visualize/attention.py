# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The attention of one magnification over the thumbnail (paper, Section 4.3.4, Figures 4 and 5; Tables 3 and 4).

Attention has shape ``(cells,)``: probabilities over the flat index of all magnifications, which sum to 1. Axes are
(row, column) in level-0 pixels; the cells tile the picture.
"""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from monai_jsma.geometry import GridCell, PatchGeometry, to_mpp
from monai_jsma.visualize.canvas import (
    Frame,
    axes_at,
    draw_scale_bar,
    draw_thumbnail,
    figure_image,
    inches_wide,
    picture_inches,
)

__all__ = ["attention_image", "draw_attention"]


def draw_attention(
    axes: Axes, thumbnail: np.ndarray, geometry: PatchGeometry, attention: np.ndarray, level: int, frame: Frame = (0, 0)
) -> None:
    """Draw the attention of one magnification over the grey thumbnail, with a scale bar.

    Colours run from 0 to the greatest probability of all magnifications, so that their maps can be compared; the share
    of this one is in the title.

    Args:
        axes: where to draw.
        thumbnail: uint8 ``(3, height, width)``.
        geometry: the picture's cells.
        attention: probabilities ``(cells,)`` over all magnifications.
        level: index of the magnification, 0 is the coarsest.
        frame: row and column of the picture in level 0 of its file; None if it is turned or mirrored.

    Raises:
        ValueError: if the attention is not one finite number for each cell.
    """
    if attention.shape != (geometry.num_cells,) or not np.isfinite(attention).all():
        raise ValueError(f"attention must be {geometry.num_cells} finite numbers, but got shape {attention.shape}.")
    place = draw_thumbnail(axes, _grey(thumbnail), geometry, frame)
    rows, cols = geometry.grids[level]
    values = attention[geometry.offsets[level] : geometry.offsets[level + 1]].reshape(rows, cols)
    row_edges = [geometry.cell_box(geometry.index(GridCell(level, r, 0))).row for r in range(rows)] + [geometry.size[0]]
    col_edges = [geometry.cell_box(geometry.index(GridCell(level, 0, c))).col for c in range(cols)] + [geometry.size[1]]
    edges = np.add(col_edges, place.col), np.add(row_edges, place.row)
    mesh = axes.pcolormesh(*edges, values, cmap=_heat(), vmin=0, vmax=attention.max() or 1, antialiased=False)
    draw_scale_bar(axes, place, geometry.mpp)
    axes.set(xlim=(place.col, place.col + place.width), ylim=(place.row + place.height, place.row))
    _draw_colour_bar(axes, mesh)
    share, prior = values.sum(), values.size / geometry.num_cells
    axes.set_title(
        f"{geometry.names[level]} ({to_mpp(geometry.magnifications[level]):g} µm/px): {share:.1%} of all attention\n"
        f"enrichment {share / prior:.2f} ({values.size} of {geometry.num_cells} cells are {prior:.1%})",
        loc="left",
        fontsize=10,
    )


def _draw_colour_bar(axes: Axes, mesh: QuadMesh) -> None:
    """Right of ``axes``, 0.16 inches wide."""
    inch = 1 / inches_wide(axes)
    bar = axes.figure.colorbar(mesh, cax=axes.inset_axes((1 + 0.12 * inch, 0, 0.16 * inch, 1)))
    bar.ax.yaxis.set_major_locator(MaxNLocator(5))
    bar.ax.tick_params(labelsize=8)
    bar.set_label("probability", fontsize=9)


def attention_image(
    thumbnail: np.ndarray, geometry: PatchGeometry, attention: np.ndarray, level: int, frame: Frame = (0, 0)
) -> np.ndarray:
    """A picture ``(height, width, 3)`` uint8 of :func:`draw_attention`."""
    height, width = picture_inches(geometry.size)
    figure = Figure(figsize=(max(0.9 + width + 1.0, 4.2), 0.7 + height + 0.6), dpi=100)
    draw_attention(axes_at(figure, 0.9, 0.7, height, width), thumbnail, geometry, attention, level, frame)
    return figure_image(figure)


def _heat() -> ListedColormap:
    """Yellow to red, clear at 0: tissue without attention stays as it is."""
    colours = colormaps["YlOrRd"](np.linspace(0.15, 0.8, 256))
    colours[:, 3] = 0.6 * np.linspace(0, 1, 256) ** 0.5
    return ListedColormap(colours)


def _grey(thumbnail: np.ndarray) -> np.ndarray:
    """Luminance on all three channels, so that only the map has colours."""
    grey = np.tensordot([0.299, 0.587, 0.114], thumbnail, 1)
    return np.repeat(grey.round().astype(thumbnail.dtype)[None], 3, axis=0)
