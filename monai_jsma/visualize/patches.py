# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The sampled patches: as boxes on the thumbnail, and as a strip of their pixels with weights (paper, Section 4.3.4).

A weight says how much a patch counts in the classified feature. A cell that was drawn twice is shown once, with the sum
of its weights; a cell of weight 0 was not drawn. Patches are numbered by falling weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from monai_jsma.geometry import Box, PatchGeometry, to_mpp
from monai_jsma.predictions.evidence import Evidence
from monai_jsma.visualize.canvas import (
    DPI,
    add_axes,
    draw_scale_bar,
    draw_thumbnail,
    figure_image,
    fit_inches,
    format_length,
    make_outline,
    measure_width,
    pick_color,
)

__all__ = [
    "draw_boxes",
    "draw_strip",
    "find_free_spot",
    "patch_boxes_image",
    "patch_strip_image",
    "rank_patches",
    "strip_height",
]

_PATCH_SIDE = 1.5  # inches
_GAP = 0.2  # inches between patches
_CAPTION_HEIGHT = 0.55  # inches below each patch
_NAMES_PER_ROW = 5  # of the legend


def rank_patches(cells: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct cells that were drawn and their summed weights, by falling weight.

    Args:
        cells: flat indices of the drawn cells ``(k,)``.
        weights: aggregation weights of the drawn cells ``(k,)``; 0 where nothing was drawn.

    Returns:
        Cells and weights, both ``(n,)`` with n <= k.
    """
    distinct, index_of_draw = np.unique(cells, return_inverse=True)
    sums = np.bincount(index_of_draw, weights, len(distinct))
    order = np.argsort(-sums, kind="stable")
    drawn = order[: np.count_nonzero(sums)]
    return distinct[drawn], sums[drawn]


def draw_boxes(axes: Axes, evidence: Evidence, *, max_boxes: int = 16) -> None:
    """Draw the thumbnail and the sampled patches as boxes, labelled ``number: weight``.

    Each magnification has a color; those of the boxes are named above. A box that is too narrow for its weight is
    labelled with its number alone. Of a slide these are the regions that were looked into; the patches inside them are
    thin boxes.

    Args:
        axes: axes to draw on.
        evidence: evidence of the image, with its thumbnail.
        max_boxes: maximum number of boxes; those of highest weight are drawn.
    """
    geometry = evidence.geometry
    place = draw_thumbnail(axes, evidence)
    draw_scale_bar(axes, place, geometry.mpp)
    occupied: list[Box] = []

    cells, weights = rank_patches(evidence.cells, evidence.weights)
    shown = cells[:max_boxes].tolist()
    boxes = [_clip_box(geometry.box(cell), place) for cell in shown]
    levels = [geometry.cell(cell).level for cell in shown]
    for number in np.argsort(levels, kind="stable"):
        _draw_box(axes, boxes[number], levels[number])

    # The finest first: their boxes have least room for a label.
    for number in np.argsort(np.negative(levels), kind="stable"):
        box = boxes[number]
        text = f"{number + 1}: {format_weight(weights[number])}"
        label_size = _measure_label(axes, text, place)
        if label_size[1] > box.width:
            text = f"{number + 1}"
            label_size = _measure_label(axes, text, place)
        spot = find_free_spot(box, label_size, place, occupied=occupied)
        occupied.append(spot)
        _draw_label(axes, text, spot)

    _draw_inner_patches(axes, evidence, place)
    num_legend_rows = _draw_legend(axes, geometry, sorted(set(levels)))
    count = str(len(cells)) if len(cells) <= max_boxes else f"{max_boxes} heaviest of {len(cells)}"
    blank_lines = "\n" * num_legend_rows
    kind = "sampled patches"
    if evidence.inner_patches is not None:
        kind = f"regions with {len(evidence.inner_patches)} sampled patches"
    axes.set_title(f"{count} {kind}: number and weight{blank_lines}", loc="left", fontsize=10)


def _draw_inner_patches(axes: Axes, evidence: Evidence, place: Box) -> None:
    """Thin boxes of the patches inside the regions of a slide; none of an image that is turned."""
    if evidence.orientation:
        return
    top, left = evidence.location
    for patch in evidence.inner_patches or ():
        in_image = Box(patch.box.row - top, patch.box.col - left, patch.box.height, patch.box.width)
        box = _clip_box(in_image, place)
        edge = Rectangle((box.col, box.row), box.width, box.height, fill=False, edgecolor="black", linewidth=0.8)
        axes.add_patch(edge)


def _clip_box(box: Box, place: Box) -> Box:
    """A box of the image where the image lies on the axes, without what reaches beyond the image."""
    return Box(
        row=place.row + box.row,
        col=place.col + box.col,
        height=min(box.height, place.height - box.row),
        width=min(box.width, place.width - box.col),
    )


def _draw_box(axes: Axes, box: Box, level: int) -> None:
    edge = Rectangle(
        (box.col, box.row),
        box.width,
        box.height,
        fill=False,
        clip_on=False,
        edgecolor=pick_color(level),
        linewidth=2,
        zorder=3,
        path_effects=make_outline(4),
    )
    axes.add_patch(edge)


def _measure_label(axes: Axes, text: str, place: Box) -> tuple[float, float]:
    """Height and width of a label in level-0 pixels."""
    inch = place.width / measure_width(axes)
    height = 0.22 * inch
    width = (0.08 * len(text) + 0.12) * inch
    return height, width


def find_free_spot(box: Box, size: tuple[float, float], place: Box, *, occupied: Sequence[Box]) -> Box:
    """Where in a box a label fits without covering another; the top left corner if there is no such place.

    Args:
        box: the box to label.
        size: height and width of the label, in the unit of the box.
        place: the image, which the label must not leave.
        occupied: the labels that are already there.
    """
    height, width = size
    free_rows = max(box.height - height, 0)
    free_cols = max(box.width - width, 0)
    last_row = place.bottom - height
    last_col = place.right - width

    spots = []
    for down in (0, 1, 0.5, 0.25, 0.75):
        for right in (0, 1, 0.5):
            row = min(box.row + down * free_rows, last_row)
            col = min(box.col + right * free_cols, last_col)
            spots.append(Box(row, col, height, width))

    for spot in spots:
        if not any(_overlap(spot, other) for other in occupied):
            return spot
    return spots[0]


def _overlap(one: Box, other: Box) -> bool:
    above = one.bottom <= other.row
    below = other.bottom <= one.row
    left = one.right <= other.col
    right = other.right <= one.col
    return not (above or below or left or right)


def _draw_label(axes: Axes, text: str, spot: Box) -> None:
    axes.text(
        spot.col + spot.width / 2,
        spot.row + spot.height / 2,
        text,
        ha="center",
        va="center",
        color="white",
        fontsize=9,
        fontweight="bold",
        zorder=4,
        path_effects=make_outline(),
    )


def _draw_legend(axes: Axes, geometry: PatchGeometry, levels: Sequence[int]) -> int:
    """Name magnifications above the axes; returns how many rows that takes, at least one."""
    lines = [Line2D([], [], color=pick_color(level), lw=3, path_effects=make_outline(5)) for level in levels]
    axes.legend(
        lines,
        [geometry.names[level] for level in levels],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=_NAMES_PER_ROW,
        frameon=False,
        fontsize=9,
        handlelength=1.2,
        columnspacing=1.0,
        labelspacing=0.2,
        borderpad=0,
    )
    return max(1, -(-len(levels) // _NAMES_PER_ROW))


def patch_boxes_image(evidence: Evidence, *, max_boxes: int = 16) -> np.ndarray:
    """An image of :func:`draw_boxes`, uint8 ``(height, width, 3)``.

    Args:
        evidence: evidence of the image, with its thumbnail.
        max_boxes: maximum number of boxes; those of highest weight are drawn.
    """
    height, width = fit_inches(evidence.geometry.size)
    figure_width = max(0.9 + width + 0.4, 4.2)
    figure_height = 0.7 + height + 0.7
    figure = Figure(figsize=(figure_width, figure_height), dpi=DPI)
    axes = add_axes(figure, left=0.9, top=0.7, height=height, width=width)
    draw_boxes(axes, evidence, max_boxes=max_boxes)
    return figure_image(figure)


def strip_height(num_patches: int, width: float) -> float:
    """Height in inches that :func:`draw_strip` needs.

    Args:
        num_patches: number of patches.
        width: width of the figure in inches.
    """
    num_rows = -(-num_patches // _count_per_row(width))
    return num_rows * (_PATCH_SIDE + _CAPTION_HEIGHT) + _GAP


def _count_per_row(width: float) -> int:
    num_whole = int((width - _GAP) / (_PATCH_SIDE + _GAP))
    return max(1, num_whole)


def draw_strip(figure: Figure, evidence: Evidence, *, top: float = 0.0, max_patches: int = 16) -> None:
    """Read the sampled patches and draw them by falling weight, each framed in the color of its magnification.

    Args:
        figure: figure to draw on; its width gives the number of patches in a row.
        evidence: evidence of the image, with its pyramid.
        top: inches from the figure's upper edge to the strip.
        max_patches: maximum number of patches; those of highest weight are drawn.
    """
    cells, weights = rank_patches(evidence.cells, evidence.weights)
    cells = cells[:max_patches]
    patches = evidence.read_patches(cells)
    num_per_row = _count_per_row(figure.get_figwidth())
    for number, cell in enumerate(cells.tolist()):
        row, col = divmod(number, num_per_row)
        axes = add_axes(
            figure,
            left=_GAP + col * (_PATCH_SIDE + _GAP),
            top=top + _GAP + row * (_PATCH_SIDE + _CAPTION_HEIGHT),
            height=_PATCH_SIDE,
            width=_PATCH_SIDE,
        )
        level = evidence.geometry.cell(cell).level
        _draw_patch(axes, patches[number], level)
        title = f"{number + 1}: {format_weight(weights[number])}"
        axes.set_xlabel(f"{title}\n{_describe_patch(evidence.geometry, level)}", fontsize=9)


def _draw_patch(axes: Axes, patch: np.ndarray, level: int) -> None:
    axes.imshow(patch.transpose(1, 2, 0), aspect="auto")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    edge = Rectangle(
        (0, 0),
        1,
        1,
        transform=axes.transAxes,
        fill=False,
        clip_on=False,
        edgecolor=pick_color(level),
        linewidth=3,
        path_effects=make_outline(4.5),
    )
    axes.add_patch(edge)


def _describe_patch(geometry: PatchGeometry, level: int) -> str:
    """Magnification and width of a patch."""
    mpp = to_mpp(geometry.magnifications[level])
    width = format_length(geometry.patch_size * mpp, digits=3)
    return f"{geometry.names[level]}, {width} wide"


def patch_strip_image(evidence: Evidence, *, max_patches: int = 16) -> np.ndarray:
    """An image of :func:`draw_strip`, uint8 ``(height, width, 3)``, with up to eight patches in a row.

    Args:
        evidence: evidence of the image, with its pyramid.
        max_patches: maximum number of patches; those of highest weight are drawn.
    """
    cells, _ = rank_patches(evidence.cells, evidence.weights)
    num_patches = max(1, min(len(cells), max_patches))
    num_per_row = min(num_patches, 8)
    width = num_per_row * (_PATCH_SIDE + _GAP) + _GAP + 0.01
    height = strip_height(num_patches, width)
    figure = Figure(figsize=(width, height), dpi=DPI)
    draw_strip(figure, evidence, max_patches=max_patches)
    return figure_image(figure)


def format_weight(weight: float) -> str:
    """The weight of a patch for people: two digits, or that it is below 0.01."""
    return f"{weight:.2g}" if weight >= 0.005 else "<0.01"
