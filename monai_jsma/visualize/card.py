# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""All evidence of one image as one picture of fixed width, for TensorBoard and the like.

Such pages show pictures in cards of some 400 pixels, so letters are large. The picture is drawn with Pillow, in a
fraction of the time that the figure of :mod:`~monai_jsma.visualize.overview` takes: it is drawn anew after every epoch.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from monai_jsma.geometry import Box, to_mpp
from monai_jsma.predictions.evidence import Evidence
from monai_jsma.visualize.attention import describe_share, find_cell_edges, make_color_map
from monai_jsma.visualize.background import read_background
from monai_jsma.visualize.blocks import (
    GAP,
    TITLE_SIZE,
    ColorScale,
    choose_patch_side,
    draw_color_scale,
    draw_frame,
    draw_patch_tile,
    frame_page,
    make_scale_bar,
    make_swatch,
    measure_label,
    put_beside,
    put_swatch,
    resize_pixels,
    scale_box,
    stack_images,
    write_label,
    write_lines,
)
from monai_jsma.visualize.canvas import check_thumbnail, format_length, make_gray, pick_color
from monai_jsma.visualize.patches import find_free_spot, format_weight, rank_patches

__all__ = ["draw_card"]

# All lengths in pixels.
_WIDTH = 1280
_STRIP_GAP = 14  # four patches of 299 pixels in a row
_PANEL_WIDTH = (_WIDTH - 3 * GAP) // 2  # two in a row
_MAX_PANEL_HEIGHT = 900


def draw_card(evidence: Evidence, *, title: str = "", max_patches: int = 8) -> np.ndarray:
    """A picture of the image with numbered boxes, a map for each magnification, and the patches with their weights.

    Background and patches are read from the pyramid: the background at the size at which it is drawn, the patches at
    their own resolution.

    Args:
        evidence: evidence of the image, with its pyramid.
        title: lines above the picture, such as the file and the classes.
        max_patches: maximum number of patches; those of highest weight are shown.

    Returns:
        uint8 ``(height, 1280, 3)``.

    Raises:
        ValueError: if the evidence has neither pyramid nor thumbnail.
    """
    height, width = _fit_panel(evidence.geometry.size)
    evidence = read_background(evidence, longer_side=max(height, width))
    thumbnail = check_thumbnail(evidence)
    background = resize_pixels(thumbnail, (height, width))
    gray = resize_pixels(make_gray(thumbnail), (height, width))

    panels = [_draw_boxes_panel(evidence, background, max_patches=max_patches)]
    for level in range(len(evidence.geometry.grids)):
        panels.append(_draw_map_panel(evidence, gray, level))

    blocks = [write_lines(title.split("\n"), width=_WIDTH - 2 * GAP, size=TITLE_SIZE)]
    for first in range(0, len(panels), 2):
        blocks.append(put_beside(panels[first : first + 2]))
    highest = float(evidence.attention.max())
    blocks.append(draw_color_scale(ColorScale(highest, highest), width=_WIDTH - 2 * GAP))
    blocks += _draw_strip(evidence, max_patches=max_patches)
    return np.asarray(frame_page(blocks, _WIDTH))


def _fit_panel(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which an image is drawn."""
    height, width = size
    scale = min(_PANEL_WIDTH / width, _MAX_PANEL_HEIGHT / height)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _draw_boxes_panel(evidence: Evidence, background: Image.Image, *, max_patches: int) -> Image.Image:
    """The image with the patches that were read as boxes, numbered by falling weight, and a scale bar."""
    image = background.copy()
    cells, _ = rank_patches(evidence.cells, evidence.weights)
    shown = cells[:max_patches].tolist()
    levels = [evidence.geometry.cell(cell).level for cell in shown]
    boxes = [scale_box(evidence.geometry.box(cell), evidence.geometry.size, image.size) for cell in shown]
    for number in np.argsort(levels, kind="stable"):  # the finest are drawn last
        draw_frame(image, boxes[number], pick_color(levels[number]))

    place = Box(0, 0, image.height, image.width)
    occupied: list[Box] = []
    for number in np.argsort(np.negative(levels), kind="stable"):  # the finest have least room for a label
        text = str(number + 1)
        label = measure_label(text)
        spot = find_free_spot(boxes[number], label, place, occupied=occupied)
        occupied.append(spot)
        write_label(image, text, spot)

    count = len(cells)
    heading = f"{count} {'patch' if count == 1 else 'patches'} read"
    if evidence.inner_patches is not None:
        heading = f"{count} regions, {len(evidence.inner_patches)} patches read"
    if count > len(shown):
        heading += f", {len(shown)} shown"
    width_um = evidence.geometry.size[1] * evidence.geometry.mpp
    caption = stack_images([write_lines([heading], width=_PANEL_WIDTH), make_scale_bar(width_um, image.width)])
    return stack_images([caption, image], gap=6)


def _draw_map_panel(evidence: Evidence, gray: Image.Image, level: int) -> Image.Image:
    """The attention of one magnification over the gray image, below what it gets of all attention."""
    geometry = evidence.geometry
    name = geometry.names[level]
    share, enrichment = describe_share(evidence, level)
    swatch = make_swatch(pick_color(level))
    share_line = put_swatch(swatch, f"{name}: {share}", _PANEL_WIDTH)
    caption = stack_images([share_line, write_lines([enrichment], width=_PANEL_WIDTH)])

    highest = evidence.attention.max() or 1
    values = evidence.attention[geometry.slices[name]].reshape(geometry.grids[level])
    colors = make_color_map()(values / highest)  # (rows, columns, RGBA)
    row_edges, col_edges = find_cell_edges(geometry, level)
    rows = _find_cells(row_edges, gray.height)
    cols = _find_cells(col_edges, gray.width)
    overlay = colors[rows[:, None], cols]
    opacity = overlay[..., 3:]
    blended = (1 - opacity) * np.asarray(gray) + opacity * overlay[..., :3] * 255
    image = Image.fromarray(blended.round().astype(np.uint8))
    return stack_images([caption, image], gap=6)


def _find_cells(edges: np.ndarray, num_pixels: int) -> np.ndarray:
    """Number of the cell that each pixel lies in, int64 ``(num_pixels,)``."""
    centers = (np.arange(num_pixels) + 0.5) * edges[-1] / num_pixels
    return np.searchsorted(edges, centers, side="right") - 1


def _draw_strip(evidence: Evidence, *, max_patches: int) -> list[Image.Image]:
    """Rows of the patches that were read, heaviest first, each with its number, weight and magnification."""
    geometry = evidence.geometry
    cells, weights = rank_patches(evidence.cells, evidence.weights)
    cells = cells[:max_patches]
    if len(cells) == 0:
        return []
    width = _WIDTH - 2 * GAP
    side = choose_patch_side(geometry.patch_size, width)
    tiles = []
    for number, (cell, pixels) in enumerate(zip(cells.tolist(), evidence.read_patches(cells)), start=1):
        level = geometry.cell(cell).level
        mpp = to_mpp(geometry.magnifications[level])
        length = format_length(geometry.patch_size * mpp, digits=3)
        lines = [f"{number}: weight {format_weight(weights[number - 1])}", f"{geometry.names[level]}, {length}"]
        tiles.append(draw_patch_tile(pixels, pick_color(level), lines, side=side))
    per_row = max(1, (width + _STRIP_GAP) // (side + _STRIP_GAP))
    return [put_beside(tiles[first : first + per_row], gap=_STRIP_GAP) for first in range(0, len(tiles), per_row)]
