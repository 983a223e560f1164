# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Figures laid out in inches, and what all pictures of the attention share: thumbnail, axes, colours, scale bar.

Figures belong to nobody but their caller (no pyplot). Axes are (row, column) in level-0 pixels, row downwards.
Thumbnails are ``(3, height, width)`` uint8.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.ticker import MaxNLocator

from monai_jsma._io import replace_file
from monai_jsma.geometry import Box, PatchGeometry

__all__ = [
    "Frame",
    "axes_at",
    "colour",
    "draw_scale_bar",
    "draw_thumbnail",
    "figure_image",
    "inches_wide",
    "outline",
    "picture_inches",
    "save_figure",
]

Frame = tuple[int, int] | None  # row and column of the picture's corner in its file; None: the picture is turned
_COLOURS = (  # none is a colour of H&E
    *("#ffe100", "#00e5ff", "#5dff3b", "#ff9d00", "#ff6df5"),
    *("#ffffff", "#2f80ff", "#ff3b30", "#00a86b", "#9e9e9e"),
)


def colour(level: int) -> str:
    """Colour of a magnification, by its index (0 is the coarsest)."""
    return _COLOURS[level % len(_COLOURS)]


def outline(width: float = 2.0, foreground: str = "black") -> list[AbstractPathEffect]:
    """An outline, black around what is bright, so that lines and letters can be seen on any ground."""
    return [withStroke(linewidth=width, foreground=foreground)]


def picture_inches(size: tuple[int, int], area: float = 16.0) -> tuple[float, float]:
    """Height and width in inches of a picture of ``size``: ``area`` square inches, but no side over 10 or under 0.6."""
    scale = min(math.sqrt(area / (size[0] * size[1])), 10 / max(size))
    return max(size[0] * scale, 0.6), max(size[1] * scale, 0.6)


def axes_at(figure: Figure, left: float, top: float, height: float, width: float) -> Axes:
    """Axes with their top-left corner ``top`` and ``left`` inches from the figure's."""
    full_width, full_height = figure.get_size_inches()
    bottom = full_height - top - height
    return figure.add_axes((left / full_width, bottom / full_height, width / full_width, height / full_height))


def inches_wide(axes: Axes) -> float:
    """Width of the axes in inches."""
    return axes.get_window_extent().width / axes.figure.dpi


def figure_image(figure: Figure) -> np.ndarray:
    """The figure as ``(height, width, 3)`` uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: float | Literal["figure"] = 160) -> Path:
    """Write a figure as PNG, all of it or nothing, with its folder where that is missing. Returns the path.

    Processes may write the same picture at the same time.
    """
    path = Path(path)
    with replace_file(path, shared=True) as unfinished:
        figure.savefig(unfinished, format="png", dpi=dpi)
    return path


def draw_thumbnail(axes: Axes, thumbnail: np.ndarray, geometry: PatchGeometry, frame: Frame) -> Box:
    """Draw the thumbnail over axes in level-0 pixels and return the picture's place there.

    Raises:
        ValueError: if the thumbnail is not ``(3, height, width)`` uint8.
    """
    if thumbnail.ndim != 3 or thumbnail.shape[0] != 3 or thumbnail.dtype != np.uint8:
        raise ValueError(f"a thumbnail is uint8 (3, height, width), but got {thumbnail.dtype} {thumbnail.shape}.")
    place = Box(*(frame or (0, 0)), *geometry.size)
    extent = (place.col, place.col + place.width, place.row + place.height, place.row)
    axes.imshow(thumbnail.transpose(1, 2, 0), extent=extent, aspect="auto", interpolation="bilinear")
    unit = "level-0 px" if frame is not None else "px of the turned picture"
    axes.set_xlabel(f"column, in {unit}", fontsize=9)
    axes.set_ylabel("row", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.ticklabel_format(style="plain", useOffset=False)
    return place


def draw_scale_bar(axes: Axes, place: Box, mpp: float) -> Box:
    """Draw a scale bar in the lower right corner of ``place`` and return the box that it covers, in level-0 pixels."""
    longest_um = place.width * mpp / 4
    step = 10.0 ** math.floor(math.log10(longest_um))
    length_um = next(step * factor for factor in (5, 2, 1) if step * factor <= longest_um)
    length, margin = length_um / mpp, 0.03 * place.width
    end, row = place.col + place.width - margin, place.row + place.height - margin * place.height / place.width
    (bar,) = axes.plot((end - length, end), (row, row), color="black", linewidth=3, solid_capstyle="butt")
    bar.set(path_effects=outline(6, "white"), zorder=3)
    name = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    label = axes.annotate(name, (end, row), (0, 4), textcoords="offset points", ha="right", va="bottom")
    label.set(color="black", fontsize=9, fontweight="bold", path_effects=outline(3, "white"))
    height = 0.1 * place.height
    return Box(place.row + place.height - height, end - length - margin, height, length + 2 * margin)
