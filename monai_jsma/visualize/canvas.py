# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What all figures of the evidence share: axes placed in inches, thumbnail, colors, scale bar.

Figures belong to their caller alone (no pyplot). Axes are (row, column) in level-0 pixels, with rows downwards.
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
from matplotlib.lines import Line2D
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation, blended_transform_factory
from PIL import Image

from monai_jsma._io import replace_file
from monai_jsma.geometry import Box
from monai_jsma.predictions.evidence import Evidence

__all__ = [
    "DPI",
    "add_axes",
    "check_thumbnail",
    "choose_bar_length",
    "draw_scale_bar",
    "draw_thumbnail",
    "figure_image",
    "fit_inches",
    "format_length",
    "make_gray",
    "make_outline",
    "measure_width",
    "pick_class_color",
    "pick_color",
    "save_figure",
    "save_pixels",
]

DPI = 160  # of figures: panels of 600 pixels a side and more

# The colors of Okabe and Ito, which color-blind readers tell apart; first those that are least like H&E.
_COLORS = (
    *("#f0e442", "#56b4e9", "#009e73", "#e69f00", "#0072b2"),
    *("#d55e00", "#ffffff", "#cc79a7", "#999999", "#000000"),
)

# The same for classes, in an order in which neighbors are far apart.
_CLASS_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442")

_COMPRESSION = 2  # of PNG: a third of the time, and files of tissue are hardly larger
_BAR_DISTANCE = 0.5  # inches from an image to the scale bar below it


def pick_color(level: int) -> str:
    """Color of a magnification.

    Args:
        level: index of the magnification, 0 is the coarsest.
    """
    return _COLORS[level % len(_COLORS)]


def pick_class_color(index: int) -> str:
    """Color of a class.

    Args:
        index: its index.
    """
    return _CLASS_COLORS[index % len(_CLASS_COLORS)]


def make_outline(width: float = 2.0, color: str = "black") -> list[AbstractPathEffect]:
    """Path effects of an outline around lines or letters, so that they can be seen on any ground.

    Args:
        width: width of the outline in points, that of the line included.
        color: color of the outline.
    """
    return [withStroke(linewidth=width, foreground=color)]


def fit_inches(size: tuple[int, int], *, area: float = 16.0) -> tuple[float, float]:
    """Height and width in inches at which an image is drawn; no side is over 10 or under 0.6 inches.

    Args:
        size: height and width of the image in pixels.
        area: area of the drawn image in square inches.
    """
    height, width = size
    scale = min(
        math.sqrt(area / (height * width)),
        10 / max(height, width),
    )
    inches_high = max(height * scale, 0.6)
    inches_wide = max(width * scale, 0.6)
    return inches_high, inches_wide


def add_axes(figure: Figure, *, left: float, top: float, height: float, width: float) -> Axes:
    """Add axes to a figure; all lengths are in inches, ``left`` and ``top`` from the figure's upper left corner."""
    figure_width, figure_height = figure.get_size_inches()
    bottom = figure_height - top - height
    rectangle = (
        left / figure_width,
        bottom / figure_height,
        width / figure_width,
        height / figure_height,
    )
    return figure.add_axes(rectangle)


def measure_width(axes: Axes) -> float:
    """Width of the axes in inches."""
    return axes.get_window_extent().width / axes.figure.dpi


def figure_image(figure: Figure) -> np.ndarray:
    """The figure as pixels, uint8 ``(height, width, 3)``."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: float | Literal["figure"] = DPI) -> Path:
    """Write a figure as PNG, whole or not at all.

    Several processes may write the same file at the same time.

    Args:
        figure: figure to write.
        path: path of the file; its folder is made if needed.
        dpi: resolution in dots per inch; "figure" for that of the figure.

    Returns:
        The path.
    """
    path = Path(path)
    with replace_file(path, shared=True) as unfinished:
        figure.savefig(unfinished, format="png", dpi=dpi, pil_kwargs={"compress_level": _COMPRESSION})
    return path


def save_pixels(pixels: np.ndarray, path: str | os.PathLike[str]) -> Path:
    """Write pixels as PNG, whole or not at all, as :func:`save_figure` does.

    Args:
        pixels: uint8 ``(height, width, 3)``.
        path: path of the file; its folder is made if needed.

    Returns:
        The path.
    """
    path = Path(path)
    with replace_file(path, shared=True) as unfinished:
        Image.fromarray(pixels).save(unfinished, format="png", compress_level=_COMPRESSION)
    return path


def draw_thumbnail(axes: Axes, evidence: Evidence, *, gray: bool = False) -> Box:
    """Draw the thumbnail over axes in level-0 pixels.

    Args:
        axes: axes to draw on.
        evidence: evidence of the image, with its thumbnail.
        gray: whether to draw only the luminance.

    Returns:
        The image's place on the axes.

    Raises:
        ValueError: if the thumbnail is missing or not uint8 ``(3, height, width)``.
    """
    thumbnail = check_thumbnail(evidence)
    if gray:
        thumbnail = make_gray(thumbnail)

    frame = evidence.frame
    row, col = (0, 0) if frame is None else frame
    height, width = evidence.geometry.size
    axes.imshow(
        thumbnail.transpose(1, 2, 0),
        extent=(col, col + width, row + height, row),
        aspect="auto",
        interpolation="bilinear",
    )
    unit = "px of the turned image" if frame is None else "level-0 px"
    axes.set_xlabel(f"column, in {unit}", fontsize=9)
    axes.set_ylabel("row", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.ticklabel_format(style="plain", useOffset=False)
    return Box(row, col, height, width)


def check_thumbnail(evidence: Evidence) -> np.ndarray:
    """The thumbnail of an image, uint8 ``(3, height, width)``.

    Args:
        evidence: evidence of the image.

    Raises:
        ValueError: if the thumbnail is missing or of another form.
    """
    thumbnail = evidence.thumbnail
    if thumbnail is None:
        raise ValueError(f"{evidence.file}: evidence without a thumbnail cannot be drawn.")
    if thumbnail.ndim != 3 or thumbnail.shape[0] != 3 or thumbnail.dtype != np.uint8:
        raise ValueError(f"a thumbnail is uint8 (3, height, width), but got {thumbnail.dtype} {thumbnail.shape}.")
    return thumbnail


def make_gray(thumbnail: np.ndarray) -> np.ndarray:
    """Luminance on all three channels.

    Args:
        thumbnail: uint8 ``(3, height, width)``.
    """
    luminance = np.tensordot([0.299, 0.587, 0.114], thumbnail, 1)
    gray = luminance.round().astype(thumbnail.dtype)
    return np.repeat(gray[None], 3, axis=0)


def draw_scale_bar(axes: Axes, place: Box, mpp: float) -> None:
    """Draw a scale bar below an image, at its right end, where no box can cover it.

    Args:
        axes: axes to draw on.
        place: the image's place on the axes.
        mpp: spacing of level 0 in um per pixel.
    """
    length_um = choose_bar_length(place.width * mpp)
    end = place.right
    start = end - length_um / mpp
    below = blended_transform_factory(axes.transData, axes.transAxes) + ScaledTranslation(
        0, -_BAR_DISTANCE, axes.figure.dpi_scale_trans
    )
    bar = Line2D(
        (start, end),
        (0, 0),
        transform=below,
        clip_on=False,
        color="black",
        linewidth=3,
        solid_capstyle="butt",
    )
    axes.add_line(bar)
    axes.annotate(
        format_length(length_um),
        (start, 0),
        (-4, 0),
        xycoords=below,
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=9,
        fontweight="bold",
        annotation_clip=False,
    )


def choose_bar_length(width: float) -> float:
    """Length of a scale bar, a round number of at most a quarter of an image's width.

    Args:
        width: width of the image in um.
    """
    return _round_down(width / 4)


def _round_down(length: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is not above a length."""
    step = 10.0 ** math.floor(math.log10(length))
    for factor in (5, 2):
        if step * factor <= length:
            return step * factor
    return step


def format_length(micrometres: float, digits: int = 6) -> str:
    """A length with its unit, such as ``200 µm`` or ``2 mm``."""
    if micrometres >= 1000:
        return f"{micrometres / 1000:.{digits}g} mm"
    return f"{micrometres:.{digits}g} µm"
