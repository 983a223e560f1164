# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""All evidence of one image as one picture of fixed width, for TensorBoard and the like.

Such pages show pictures in cards of some 400 pixels, so letters are large. The picture is drawn with Pillow, in a
fraction of the time that the figure of :mod:`~monai_jsma.visualize.overview` takes: it is drawn anew after every epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from monai_jsma.geometry import Box, to_mpp
from monai_jsma.predictions.evidence import Evidence
from monai_jsma.visualize.attention import describe_share, find_cell_edges, make_color_map
from monai_jsma.visualize.background import read_background
from monai_jsma.visualize.canvas import check_thumbnail, choose_bar_length, format_length, make_gray, pick_color
from monai_jsma.visualize.patches import find_free_spot, format_weight, rank_patches

__all__ = ["draw_card"]

# All lengths in pixels.
_WIDTH = 1280
_GAP = 20
_STRIP_GAP = 14  # four patches of 299 pixels in a row
_PANEL_WIDTH = (_WIDTH - 3 * _GAP) // 2  # two in a row
_MAX_PANEL_HEIGHT = 900
_TITLE_SIZE = 48  # of letters
_TEXT_SIZE = 36
_MIN_TEXT_SIZE = 24  # below, a line is shortened
_PATCH_SIDE = 300  # at most, unless patches have more pixels
_FRAME = 12  # around boxes and patches
_SCALE_HEIGHT = 30  # of the scale of colors
_WHITE = (255, 255, 255)
_BLACK = (0, 0, 0)


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
    background = _resize(thumbnail, (height, width))
    gray = _resize(make_gray(thumbnail), (height, width))

    panels = [_draw_boxes_panel(evidence, background, max_patches=max_patches)]
    for level in range(len(evidence.geometry.grids)):
        panels.append(_draw_map_panel(evidence, gray, level))

    blocks = [_write_lines(title.split("\n"), width=_WIDTH - 2 * _GAP, size=_TITLE_SIZE)]
    for first in range(0, len(panels), 2):
        blocks.append(_put_beside(panels[first : first + 2]))
    blocks.append(_draw_color_scale(float(evidence.attention.max())))
    blocks += _draw_strip(evidence, max_patches=max_patches)
    return np.asarray(_put_below(blocks))


def _fit_panel(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which an image is drawn."""
    height, width = size
    scale = min(_PANEL_WIDTH / width, _MAX_PANEL_HEIGHT / height)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resize(thumbnail: np.ndarray, size: tuple[int, int]) -> Image.Image:
    height, width = size
    pixels = np.ascontiguousarray(thumbnail.transpose(1, 2, 0))
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)


def _draw_boxes_panel(evidence: Evidence, background: Image.Image, *, max_patches: int) -> Image.Image:
    """The image with the patches that were read as boxes, numbered by falling weight, and a scale bar."""
    image = background.copy()
    cells, _ = rank_patches(evidence.cells, evidence.weights)
    shown = cells[:max_patches].tolist()
    levels = [evidence.geometry.cell(cell).level for cell in shown]
    boxes = [_scale_box(evidence.geometry.box(cell), evidence, image.size) for cell in shown]
    for number in np.argsort(levels, kind="stable"):  # the finest are drawn last
        _draw_frame(image, boxes[number], pick_color(levels[number]))

    place = Box(0, 0, image.height, image.width)
    occupied: list[Box] = []
    for number in np.argsort(np.negative(levels), kind="stable"):  # the finest have least room for a label
        text = str(number + 1)
        label = _measure_label(text)
        spot = find_free_spot(boxes[number], label, place, occupied=occupied)
        occupied.append(spot)
        _write_label(image, text, spot)

    count = len(cells)
    heading = f"{count} {'patch' if count == 1 else 'patches'} read"
    if evidence.inner_patches is not None:
        heading = f"{count} regions, {len(evidence.inner_patches)} patches read"
    if count > len(shown):
        heading += f", {len(shown)} shown"
    caption = _stack([_write_lines([heading], width=_PANEL_WIDTH), _draw_scale_bar(evidence, image.width)])
    return _stack([caption, image], gap=6)


def _draw_map_panel(evidence: Evidence, gray: Image.Image, level: int) -> Image.Image:
    """The attention of one magnification over the gray image, below what it gets of all attention."""
    geometry = evidence.geometry
    name = geometry.names[level]
    share, enrichment = describe_share(evidence, level)
    swatch = Image.new("RGB", (_TEXT_SIZE, _TEXT_SIZE), _WHITE)
    _draw_frame(swatch, Box(0, 0, _TEXT_SIZE, _TEXT_SIZE), pick_color(level))
    share_line = _write_lines([f"{name}: {share}"], width=_PANEL_WIDTH - _TEXT_SIZE - _GAP)
    caption = _stack(
        [
            _put_beside([swatch, share_line], center=True),
            _write_lines([enrichment], width=_PANEL_WIDTH),
        ]
    )

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
    return _stack([caption, image], gap=6)


def _find_cells(edges: np.ndarray, num_pixels: int) -> np.ndarray:
    """Number of the cell that each pixel lies in, int64 ``(num_pixels,)``."""
    centers = (np.arange(num_pixels) + 0.5) * edges[-1] / num_pixels
    return np.searchsorted(edges, centers, side="right") - 1


def _draw_color_scale(highest: float) -> Image.Image:
    """What the colors of the maps mean: probabilities from 0 to the highest."""
    before = _write_lines(["attention of a cell: 0"])
    after = _write_lines([f"{highest:.2g}"])
    width = _WIDTH - 4 * _GAP - before.width - after.width
    colors = make_color_map()(np.linspace(0, 1, width))
    opacity = colors[:, 3:]
    line = (1 - opacity + opacity * colors[:, :3]) * 255
    pixels = np.repeat(line[None].round().astype(np.uint8), _SCALE_HEIGHT, axis=0)
    return _put_beside([before, Image.fromarray(pixels), after], center=True)


def _draw_strip(evidence: Evidence, *, max_patches: int) -> list[Image.Image]:
    """Rows of the patches that were read, heaviest first, each with its number, weight and magnification."""
    geometry = evidence.geometry
    cells, weights = rank_patches(evidence.cells, evidence.weights)
    cells = cells[:max_patches]
    if len(cells) == 0:
        return []
    side = _choose_side(geometry.patch_size)
    per_row = max(1, (_WIDTH - 2 * _GAP + _STRIP_GAP) // (side + _STRIP_GAP))
    tiles = []
    for number, (cell, pixels) in enumerate(zip(cells.tolist(), evidence.read_patches(cells)), start=1):
        level = geometry.cell(cell).level
        patch = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
        patch = patch.resize((side, side), Image.Resampling.NEAREST)
        _draw_frame(patch, Box(0, 0, side, side), pick_color(level))
        mpp = to_mpp(geometry.magnifications[level])
        length = format_length(geometry.patch_size * mpp, digits=3)
        lines = [f"{number}: weight {format_weight(weights[number - 1])}", f"{geometry.names[level]}, {length}"]
        tiles.append(_stack([patch, _write_lines(lines, width=side)], gap=6))
    return [_put_beside(tiles[first : first + per_row], gap=_STRIP_GAP) for first in range(0, len(tiles), per_row)]


def _choose_side(patch_size: int) -> int:
    """Pixels of a patch as it is drawn: small ones are enlarged by a whole factor, others keep their pixels."""
    if patch_size > _WIDTH - 2 * _GAP:
        return _WIDTH - 2 * _GAP
    return patch_size * max(1, _PATCH_SIDE // patch_size)


def _draw_scale_bar(evidence: Evidence, width: int) -> Image.Image:
    """A scale bar and its length, above the image: no box can cover it."""
    level_0_pixels = evidence.geometry.size[1]
    length_um = choose_bar_length(level_0_pixels * evidence.geometry.mpp)
    length = round(length_um / evidence.geometry.mpp * width / level_0_pixels)
    text = _write_lines([format_length(length_um)])
    block = Image.new("RGB", (length + _GAP // 2 + text.width, text.height), _WHITE)
    middle = text.height // 2
    ImageDraw.Draw(block).rectangle((0, middle - 5, length - 1, middle + 4), fill=_BLACK)
    block.paste(text, (length + _GAP // 2, 0))
    return block


def _scale_box(box: Box, evidence: Evidence, size: tuple[int, int]) -> Box:
    """A box of the image in pixels of a drawing of ``size`` (width, height), without what reaches beyond it."""
    height, width = evidence.geometry.size
    down = size[1] / height
    across = size[0] / width
    return Box(
        row=box.row * down,
        col=box.col * across,
        height=min(box.height, height - box.row) * down,
        width=min(box.width, width - box.col) * across,
    )


def _draw_frame(image: Image.Image, box: Box, color: str) -> None:
    """Draw a frame inside a box, black outside and colored inside, so that it is seen on any ground.

    No line is thinner than what is left of the picture when TensorBoard, which leaves out pixels, makes it small.
    """
    left = round(box.col)
    top = round(box.row)
    right = max(left, round(box.col + box.width) - 1)
    bottom = max(top, round(box.row + box.height) - 1)
    shorter_side = 1 + min(right - left, bottom - top)
    width = max(3, min(_FRAME, shorter_side // 4))  # a small box still has an inside
    outside = width // 3
    draw = ImageDraw.Draw(image)
    draw.rectangle((left, top, right, bottom), outline=_BLACK, width=width)
    if shorter_side >= 2 * width:
        inner = (left + outside, top + outside, right - outside, bottom - outside)
        draw.rectangle(inner, outline=ImageColor.getrgb(color), width=width - outside)


def _measure_label(text: str) -> tuple[float, float]:
    """Height and width of a label."""
    width = _load_font(_TEXT_SIZE, bold=True).getlength(text)
    return 1.2 * _TEXT_SIZE, width + 16


def _write_label(image: Image.Image, text: str, spot: Box) -> None:
    middle = (spot.col + spot.width / 2, spot.row + spot.height / 2)
    ImageDraw.Draw(image).text(
        middle,
        text,
        fill=_WHITE,
        font=_load_font(_TEXT_SIZE, bold=True),
        anchor="mm",
        stroke_width=4,
        stroke_fill=_BLACK,
    )


def _write_lines(lines: Sequence[str], *, width: int | None = None, size: int = _TEXT_SIZE) -> Image.Image:
    """Lines of text, the first of a title in bold letters; lines that are too long get smaller letters.

    Args:
        lines: the lines.
        width: width of the block; by default that of the text.
        size: size of the letters.
    """
    bold = size == _TITLE_SIZE
    if width is None:
        width = max(int(np.ceil(_load_font(size).getlength(line))) for line in lines)
    line_height = round(1.25 * size)
    block = Image.new("RGB", (width, line_height * len(lines)), _WHITE)
    draw = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        is_bold = bold and number == 0
        text, font = _fit_text(line, width, size=size, bold=is_bold)
        draw.text((0, (number + 0.5) * line_height), text, fill=_BLACK, font=font, anchor="lm")
    return block


def _fit_text(text: str, width: int, *, size: int, bold: bool) -> tuple[str, ImageFont.FreeTypeFont]:
    """The text and its font: smaller letters if needed, and if they are not enough, without its middle."""
    font = _load_font(size, bold=bold)
    length = font.getlength(text)
    if length <= width:
        return text, font
    smaller = max(_MIN_TEXT_SIZE, int(size * width / length))
    font = _load_font(smaller, bold=bold)
    keep = len(text)
    short = text
    while font.getlength(short) > width and keep > 2:
        keep -= 1
        short = f"{text[: keep // 2]}…{text[len(text) - (keep - keep // 2) :]}"
    return short, font


@lru_cache(maxsize=64)
def _load_font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib has with it: the same letters on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(mpl.get_data_path()) / "fonts" / "ttf" / name
    return ImageFont.truetype(path, size)


def _stack(blocks: Sequence[Image.Image], *, gap: int = 0) -> Image.Image:
    """Blocks below each other, aligned at the left."""
    width = max(block.width for block in blocks)
    height = sum(block.height for block in blocks) + gap * (len(blocks) - 1)
    page = Image.new("RGB", (width, height), _WHITE)
    top = 0
    for block in blocks:
        page.paste(block, (0, top))
        top += block.height + gap
    return page


def _put_beside(blocks: Sequence[Image.Image], *, gap: int = _GAP, center: bool = False) -> Image.Image:
    """Blocks beside each other, aligned at the top or by their middles, with gaps between them."""
    height = max(block.height for block in blocks)
    width = sum(block.width for block in blocks) + gap * (len(blocks) - 1)
    row = Image.new("RGB", (width, height), _WHITE)
    left = 0
    for block in blocks:
        top = (height - block.height) // 2 if center else 0
        row.paste(block, (left, top))
        left += block.width + gap
    return row


def _put_below(blocks: Sequence[Image.Image]) -> Image.Image:
    """Rows of the page below each other, with a margin around all."""
    content = _stack(blocks, gap=_GAP)
    page = Image.new("RGB", (_WIDTH, content.height + 2 * _GAP), _WHITE)
    page.paste(content, (_GAP, _GAP))
    return page
