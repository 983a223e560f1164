# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The attention of one magnification over the thumbnail (paper, Section 4.3.4, Figures 4 and 5; Tables 3 and 4)."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from monai_jsma.geometry import GridCell, PatchGeometry, to_mpp
from monai_jsma.predictions.evidence import Evidence
from monai_jsma.visualize.canvas import (
    add_axes,
    draw_scale_bar,
    draw_thumbnail,
    figure_image,
    fit_inches,
    measure_width,
)

__all__ = ["attention_image", "draw_attention"]


def draw_attention(axes: Axes, evidence: Evidence, level: int) -> None:
    """Draw the attention of one magnification over the gray thumbnail, with a scale bar.

    Colors run from 0 to the highest probability of all magnifications, so that their maps can be compared. The title
    gives the magnification's share of the attention.

    Args:
        axes: axes to draw on.
        evidence: evidence of the image, with its thumbnail.
        level: index of the magnification, 0 is the coarsest.

    Raises:
        ValueError: if the attention is not one finite number for each cell, or there is no thumbnail.
    """
    geometry = evidence.geometry
    attention = evidence.attention
    if attention.shape != (geometry.num_cells,) or not np.isfinite(attention).all():
        raise ValueError(f"attention must be {geometry.num_cells} finite numbers, but got shape {attention.shape}.")

    place = draw_thumbnail(axes, evidence, gray=True)
    values = attention[geometry.slices[geometry.names[level]]]
    row_edges, col_edges = _find_cell_edges(geometry, level)
    mesh = axes.pcolormesh(
        col_edges + place.col,
        row_edges + place.row,
        values.reshape(geometry.grids[level]),
        cmap=_make_color_map(),
        vmin=0,
        vmax=attention.max() or 1,
        antialiased=False,
    )
    draw_scale_bar(axes, place, geometry.mpp)
    axes.set_xlim(place.col, place.col + place.width)
    axes.set_ylim(place.row + place.height, place.row)
    _draw_color_bar(axes, mesh)

    title = _describe_share(geometry, level, values)
    if evidence.inner_patches is not None:
        title = f"attention over {values.size} regions\n{evidence.regions_looked_at} were looked at"
    axes.set_title(title, loc="left", fontsize=10)


def _describe_share(geometry: PatchGeometry, level: int, values: np.ndarray) -> str:
    """Share of a magnification and its enrichment, from the attention of its cells."""
    name = geometry.names[level]
    mpp = to_mpp(geometry.magnifications[level])
    share = values.sum()
    prior = values.size / geometry.num_cells
    return (
        f"{name} ({mpp:g} µm/px): {share:.1%} of all attention\n"
        f"enrichment {share / prior:.2f} ({values.size} of {geometry.num_cells} cells are {prior:.1%})"
    )


def attention_image(evidence: Evidence, level: int) -> np.ndarray:
    """An image of :func:`draw_attention`, uint8 ``(height, width, 3)``.

    Args:
        evidence: evidence of the image, with its thumbnail.
        level: index of the magnification, 0 is the coarsest.
    """
    height, width = fit_inches(evidence.geometry.size)
    figure_width = max(0.9 + width + 1.0, 4.2)
    figure_height = 0.7 + height + 0.6
    figure = Figure(figsize=(figure_width, figure_height), dpi=100)
    axes = add_axes(figure, left=0.9, top=0.7, height=height, width=width)
    draw_attention(axes, evidence, level)
    return figure_image(figure)


def _find_cell_edges(geometry: PatchGeometry, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, in level-0 pixels of the region, between which the cells of a magnification lie."""
    num_rows, num_cols = geometry.grids[level]
    rows = []
    for row in range(num_rows):
        first_cell = geometry.index(GridCell(level, row, 0))
        rows.append(geometry.cell_box(first_cell).row)
    cols = []
    for col in range(num_cols):
        first_cell = geometry.index(GridCell(level, 0, col))
        cols.append(geometry.cell_box(first_cell).col)

    height, width = geometry.size
    return np.array([*rows, height]), np.array([*cols, width])


def _draw_color_bar(axes: Axes, mesh: QuadMesh) -> None:
    """Draw a color bar at the right of the axes, 0.16 inches wide."""
    inch = 1 / measure_width(axes)
    left = 1 + 0.12 * inch
    place = axes.inset_axes((left, 0, 0.16 * inch, 1))
    bar = axes.figure.colorbar(mesh, cax=place)
    bar.ax.yaxis.set_major_locator(MaxNLocator(5))
    bar.ax.tick_params(labelsize=8)
    bar.set_label("probability", fontsize=9)


def _make_color_map() -> ListedColormap:
    """Yellow to red, transparent at 0: tissue without attention stays as it is."""
    colors = colormaps["YlOrRd"](np.linspace(0.15, 0.8, 256))
    opacity = 0.6 * np.linspace(0, 1, 256) ** 0.5
    colors[:, 3] = opacity
    return ListedColormap(colors)
