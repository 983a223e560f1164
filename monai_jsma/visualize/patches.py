# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The sampled patches: as boxes on the thumbnail, and as a strip of pictures with their weights (paper, Section 4.3.4).

Cells are flat indices ``(k,)``, weights ``(k,)`` how much each counts in the classified feature. A cell that was drawn
twice is shown once, with the sum of its weights; one of weight 0 was not drawn. Patches are numbered by falling weight.
Axes are (row, column) in level-0 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from monai_jsma.geometry import Box, PatchGeometry, to_mpp
from monai_jsma.visualize.canvas import (
    Frame,
    axes_at,
    colour,
    draw_scale_bar,
    draw_thumbnail,
    figure_image,
    inches_wide,
    outline,
    picture_inches,
)

__all__ = ["draw_boxes", "draw_strip", "drawn_patches", "patch_boxes_image", "patch_strip_image", "strip_height"]

_PATCH, _GAP, _CAPTION = 1.5, 0.2, 0.55  # inches
_NAMES = 5  # of magnifications in a row


def drawn_patches(cells: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct cells that were drawn and their summed weights, both ``(n,)`` with n <= k, by falling weight."""
    cells, place = np.unique(cells, return_inverse=True)
    summed = np.bincount(place, weights, len(cells))
    order = np.argsort(-summed, kind="stable")[: np.count_nonzero(summed)]
    return cells[order], summed[order]


def draw_boxes(
    axes: Axes,
    thumbnail: np.ndarray,
    geometry: PatchGeometry,
    cells: np.ndarray,
    weights: np.ndarray,
    *,
    frame: Frame = (0, 0),
    most: int = 16,
) -> None:
    """Draw the thumbnail and the sampled patches as boxes, one colour a magnification, labelled ``number: weight``.

    A box that is too narrow for its weight has its number alone. The magnifications of boxes are named above.

    Args:
        axes: where to draw.
        thumbnail: uint8 ``(3, height, width)``.
        geometry: the picture's cells.
        cells: flat indices of the drawn cells ``(k,)``.
        weights: their weights ``(k,)``.
        frame: row and column of the picture in level 0 of its file; None if it is turned or mirrored.
        most: boxes drawn at most, those of greatest weight.
    """
    place = draw_thumbnail(axes, thumbnail, geometry, frame)
    drawn, summed = drawn_patches(cells, weights)
    shown = [(_within(geometry.box(c), place), geometry.cell(c).level) for c in drawn[:most].tolist()]
    taken = [draw_scale_bar(axes, place, geometry.mpp)]
    for box, level in sorted(shown, key=lambda item: item[1]):
        edge = Rectangle((box.col, box.row), box.width, box.height, fill=False, clip_on=False)
        axes.add_patch(edge).set(edgecolor=colour(level), linewidth=2, zorder=3, path_effects=outline(4))
    # The finest first: their boxes have least room for a label.
    for number in sorted(range(len(shown)), key=lambda i: -shown[i][1]):
        text, box = f"{number + 1}: {_written(summed[number])}", shown[number][0]
        fits = _label_size(axes, text, place)[1] <= box.width
        _draw_label(axes, text if fits else f"{number + 1}", box, place, taken)
    rows = _draw_legend(axes, geometry, sorted({level for _, level in shown}))
    count = f"{len(drawn)}" if len(drawn) <= most else f"{most} heaviest of {len(drawn)}"
    axes.set_title(f"{count} sampled patches: number and weight" + rows * "\n", loc="left", fontsize=10)


def _draw_legend(axes: Axes, geometry: PatchGeometry, levels: Sequence[int]) -> int:
    """Name these magnifications above the axes; how many rows that takes, at least one."""
    lines = [Line2D([], [], color=colour(j), lw=3, path_effects=outline(5)) for j in levels]
    names = [geometry.names[j] for j in levels]
    narrow: dict[str, Any] = {"handlelength": 1.2, "columnspacing": 1.0, "labelspacing": 0.2, "borderpad": 0}
    axes.legend(
        lines, names, loc="lower left", bbox_to_anchor=(0, 1), ncols=_NAMES, frameon=False, fontsize=9, **narrow
    )
    return max(1, -(-len(names) // _NAMES))


def _within(box: Box, place: Box) -> Box:
    """A box of the picture where the picture lies, without what reaches beyond it."""
    height, width = min(box.height, place.height - box.row), min(box.width, place.width - box.col)
    return Box(place.row + box.row, place.col + box.col, height, width)


def _label_size(axes: Axes, text: str, place: Box) -> tuple[float, float]:
    """Height and width of a label in level-0 pixels."""
    inch = place.width / inches_wide(axes)
    return 0.22 * inch, (0.08 * len(text) + 0.12) * inch


def _draw_label(axes: Axes, text: str, box: Box, place: Box, taken: list[Box]) -> None:
    """Write ``text`` inside ``box`` where no other label stands, and note its place in ``taken``."""
    height, width = _label_size(axes, text, place)
    free_rows, free_cols = max(box.height - height, 0), max(box.width - width, 0)
    spots = [
        Box(
            min(box.row + down * free_rows, place.row + place.height - height),
            min(box.col + right * free_cols, place.col + place.width - width),
            height,
            width,
        )
        for down in (0, 1, 0.5, 0.25, 0.75)
        for right in (0, 1, 0.5)
    ]
    spot = next((s for s in spots if not any(_overlap(s, t) for t in taken)), spots[0])
    taken.append(spot)
    middle = spot.col + width / 2, spot.row + height / 2
    axes.text(
        *middle,
        text,
        ha="center",
        va="center",
        color="white",
        fontsize=9,
        fontweight="bold",
        zorder=4,
        path_effects=outline(),
    )


def _overlap(one: Box, other: Box) -> bool:
    rows = one.row < other.row + other.height and other.row < one.row + one.height
    return rows and one.col < other.col + other.width and other.col < one.col + one.width


def patch_boxes_image(
    thumbnail: np.ndarray,
    geometry: PatchGeometry,
    cells: np.ndarray,
    weights: np.ndarray,
    *,
    frame: Frame = (0, 0),
    most: int = 16,
) -> np.ndarray:
    """A picture ``(height, width, 3)`` uint8 of :func:`draw_boxes`."""
    height, width = picture_inches(geometry.size)
    figure = Figure(figsize=(max(0.9 + width + 0.4, 4.2), 0.7 + height + 0.6), dpi=100)
    axes = axes_at(figure, 0.9, 0.7, height, width)
    draw_boxes(axes, thumbnail, geometry, cells, weights, frame=frame, most=most)
    return figure_image(figure)


def _per_row(width: float) -> int:
    return max(1, int((width - _GAP) / (_PATCH + _GAP)))


def strip_height(patches: int, width: float) -> float:
    """Inches that :func:`draw_strip` needs for a number of patches within ``width`` inches."""
    return -(-patches // _per_row(width)) * (_PATCH + _CAPTION) + _GAP


def draw_strip(
    figure: Figure, top: float, patches: np.ndarray, geometry: PatchGeometry, cells: np.ndarray, weights: np.ndarray
) -> None:
    """Draw the patches by falling weight, each framed in the colour of its magnification, ``top`` inches from the edge.

    Args:
        figure: where to draw; its width gives the number of patches in a row.
        top: where the strip begins, in inches from the figure's upper edge.
        patches: pixels of the cells, uint8 ``(k, 3, patch, patch)``.
        geometry: the picture's cells.
        cells: flat indices of the drawn cells ``(k,)``.
        weights: their weights ``(k,)``.

    Raises:
        ValueError: if there is not one patch for each cell.
    """
    if len(patches) != len(cells):
        raise ValueError(f"{len(cells)} cells were drawn, but {len(patches)} patches are given.")
    columns = _per_row(figure.get_figwidth())
    for number, (cell, weight) in enumerate(zip(*drawn_patches(cells, weights))):
        row, col = divmod(number, columns)
        level = geometry.cell(int(cell)).level
        left, above = _GAP + col * (_PATCH + _GAP), top + _GAP + row * (_PATCH + _CAPTION)
        axes = axes_at(figure, left, above, _PATCH, _PATCH)
        axes.imshow(patches[list(cells).index(cell)].transpose(1, 2, 0), aspect="auto")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        edge = Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, clip_on=False)
        axes.add_patch(edge).set(edgecolor=colour(level), linewidth=3, path_effects=outline(4.5))
        um = geometry.patch_size * to_mpp(geometry.magnifications[level])
        length = f"{um / 1000:.3g} mm" if um >= 1000 else f"{um:.3g} µm"
        axes.set_xlabel(f"{number + 1}: {_written(weight)}\n{geometry.names[level]}, {length} wide", fontsize=9)


def patch_strip_image(
    patches: np.ndarray, geometry: PatchGeometry, cells: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """A picture ``(height, width, 3)`` uint8 of :func:`draw_strip`, up to eight patches in a row."""
    drawn = len(drawn_patches(cells, weights)[0])
    width = min(max(drawn, 1), 8) * (_PATCH + _GAP) + _GAP + 0.01
    figure = Figure(figsize=(width, strip_height(max(drawn, 1), width)), dpi=100)
    draw_strip(figure, 0, patches, geometry, cells, weights)
    return figure_image(figure)


def _written(weight: float) -> str:
    return f"{weight:.2g}" if weight >= 0.005 else "<0.01"
