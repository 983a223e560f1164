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
    DPI,
    add_axes,
    draw_scale_bar,
    draw_thumbnail,
    figure_image,
    fit_inches,
    measure_width,
)

__all__ = ["attention_image", "describe_share", "draw_attention", "find_cell_edges", "make_color_map"]


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
    row_edges, col_edges = find_cell_edges(geometry, level)
    mesh = axes.pcolormesh(
        col_edges + place.col,
        row_edges + place.row,
        values.reshape(geometry.grids[level]),
        cmap=make_color_map(),
        vmin=0,
        vmax=attention.max() or 1,
        antialiased=False,
    )
    draw_scale_bar(axes, place, geometry.mpp)
    axes.set_xlim(place.col, place.right)
    axes.set_ylim(place.bottom, place.row)
    _draw_color_bar(axes, mesh)

    mpp = to_mpp(geometry.magnifications[level])
    share, enrichment = describe_share(evidence, level)
    prior = values.size / geometry.num_cells
    title = (
        f"{geometry.names[level]} ({mpp:g} µm/px): {share}\n"
        f"enrichment {enrichment}\n"
        f"({values.size} of {geometry.num_cells} cells are {prior:.1%})"
    )
    if evidence.inner_patches is not None:
        title = "\n".join(describe_share(evidence, level))
    axes.set_title(title, loc="left", fontsize=10)


def describe_share(evidence: Evidence, level: int) -> tuple[str, str]:
    """What a magnification gets of the attention, and how that compares with equal attention to all cells.

    Args:
        evidence: evidence of the image.
        level: index of the magnification, 0 is the coarsest.

    Returns:
        Two texts, such as "78.0% of all attention" and "3.77 times its share of the cells"; of a slide, how many
        regions there are, and how many of all stages were looked at.
    """
    geometry = evidence.geometry
    values = evidence.attention[geometry.slices[geometry.names[level]]]
    if evidence.inner_patches is not None:
        return (
            f"attention over {values.size} regions",
            f"{evidence.regions_looked_at} were looked at",
        )
    share = values.sum()
    prior = values.size / geometry.num_cells
    return (
        f"{share:.1%} of all attention",
        f"{share / prior:.2f} times its share of the cells",
    )


def attention_image(evidence: Evidence, level: int) -> np.ndarray:
    """An image of :func:`draw_attention`, uint8 ``(height, width, 3)``.

    Args:
        evidence: evidence of the image, with its thumbnail.
        level: index of the magnification, 0 is the coarsest.
    """
    height, width = fit_inches(evidence.geometry.size)
    figure_width = max(0.9 + width + 1.0, 4.2)
    figure_height = 0.7 + height + 0.7
    figure = Figure(figsize=(figure_width, figure_height), dpi=DPI)
    axes = add_axes(figure, left=0.9, top=0.7, height=height, width=width)
    draw_attention(axes, evidence, level)
    return figure_image(figure)


def find_cell_edges(geometry: PatchGeometry, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, in level-0 pixels of the region, between which the cells of a magnification lie.

    Args:
        geometry: patch grids of the region.
        level: index of the magnification, 0 is the coarsest.
    """
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


def make_color_map() -> ListedColormap:
    """Viridis, which color-blind readers can tell; transparent at 0: tissue without attention stays as it is."""
    colors = colormaps["viridis"](np.linspace(0, 1, 256))
    opacity = 0.65 * np.linspace(0, 1, 256) ** 0.5
    colors[:, 3] = opacity
    return ListedColormap(colors)
