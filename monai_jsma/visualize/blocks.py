# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What pictures for people are put together from: lines of text, frames, labels, scales, and blocks beside each other.

They are drawn with Pillow, in a fraction of the time that a figure takes. All lengths are pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from monai_jsma.geometry import Box
from monai_jsma.visualize.attention import make_color_map
from monai_jsma.visualize.canvas import choose_bar_length, format_length

__all__ = [
    "GAP",
    "TEXT_SIZE",
    "TITLE_SIZE",
    "ColorScale",
    "blend_colors",
    "choose_patch_side",
    "draw_color_scale",
    "draw_frame",
    "draw_patch_tile",
    "make_scale_bar",
    "frame_page",
    "make_swatch",
    "measure_label",
    "outline_box",
    "put_beside",
    "put_in_rows",
    "put_swatch",
    "resize_pixels",
    "scale_box",
    "stack_images",
    "write_label",
    "write_lines",
]

GAP = 20
TITLE_SIZE = 48  # of letters
TEXT_SIZE = 36
_MIN_TEXT_SIZE = 24  # below, a line is shortened
_FRAME = 12  # around boxes and patches
_PATCH_SIDE = 300  # at most, unless patches have more pixels
_SCALE_HEIGHT = 30  # of the scale of colors
_BAR_HEIGHT = 10  # of a scale bar
_WHITE = (255, 255, 255)
_BLACK = (0, 0, 0)


def resize_pixels(thumbnail: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """An image at the size at which it is drawn.

    Args:
        thumbnail: uint8 ``(3, height, width)``.
        size: height and width of the drawing.
    """
    height, width = size
    return _make_image(thumbnail).resize((width, height), Image.Resampling.BILINEAR)


def _make_image(pixels: np.ndarray) -> Image.Image:
    """An image of uint8 ``(3, height, width)``."""
    channels_last = pixels.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(channels_last))


def blend_colors(values: np.ndarray, below: np.ndarray | float = 255.0) -> Image.Image:
    """Attention in colors, over what lies below it.

    Args:
        values: share of the highest ``(height, width)``, 0 to 1; what is above has the last color.
        below: the pixels below ``(height, width, 3)``, by default white.
    """
    colors = make_color_map()(values)  # (height, width, RGBA)
    opacity = colors[..., 3:]
    above = 255 * opacity * colors[..., :3]
    blended = (1 - opacity) * below + above
    return Image.fromarray(blended.round().astype(np.uint8))


# ---------------------------------------------------------------------------------------------------------- text


def write_lines(lines: Sequence[str], *, width: int | None = None, size: int = TEXT_SIZE) -> Image.Image:
    """Lines of text, the first of a title in bold letters; lines that are too long get smaller letters.

    Args:
        lines: the lines.
        width: width of the block; by default that of the text.
        size: size of the letters; :data:`TITLE_SIZE` for a title.
    """
    if width is None:
        font = _load_font(size)
        widths = [font.getlength(line) for line in lines]
        width = math.ceil(max(widths))
    line_height = round(1.25 * size)
    height = line_height * len(lines)
    block = Image.new("RGB", (width, height), _WHITE)
    draw = ImageDraw.Draw(block)
    middle = line_height / 2
    bold = size == TITLE_SIZE
    for line in lines:
        text, font = _fit_text(line, width, size=size, bold=bold)
        draw.text((0, middle), text, fill=_BLACK, font=font, anchor="lm")
        middle += line_height
        bold = False  # the first alone is
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
        begin = keep // 2
        end = len(text) - (keep - begin)
        short = f"{text[:begin]}…{text[end:]}"
    return short, font


@lru_cache(maxsize=64)
def _load_font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib has with it: the same letters on every machine."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    data = Path(mpl.get_data_path())
    return ImageFont.truetype(data / "fonts" / "ttf" / name, size)


# -------------------------------------------------------------------------------------------------- frames and labels


def scale_box(box: Box, size: tuple[int, int], drawn_size: tuple[int, int]) -> Box:
    """A box of an image in pixels of its drawing, without what reaches beyond it.

    Args:
        box: the box in pixels of the image.
        size: height and width of the image.
        drawn_size: width and height of the drawing, as Pillow has them.
    """
    height, width = size
    down = drawn_size[1] / height
    across = drawn_size[0] / width
    return Box(
        row=box.row * down,
        col=box.col * across,
        height=min(box.height, height - box.row) * down,
        width=min(box.width, width - box.col) * across,
    )


def draw_frame(image: Image.Image, box: Box, color: str) -> None:
    """Draw a frame inside a box, black outside and colored inside, so that it is seen on any ground.

    No line is thinner than what is left of the picture when TensorBoard, which leaves out pixels, makes it small.

    Args:
        image: image to draw on.
        box: where the frame lies.
        color: its color.
    """
    left = round(box.col)
    top = round(box.row)
    right = max(left + 1, round(box.right))
    bottom = max(top + 1, round(box.bottom))
    shorter_side = min(right - left, bottom - top)
    width = max(3, min(_FRAME, shorter_side // 4))  # a small box still has an inside
    place = Box(top, left, bottom - top, right - left)
    outline_box(image, place, _BLACK, width=width)
    if shorter_side >= 2 * width:
        outside = width // 3
        outline_box(image, place, color, width=width - outside, inset=outside)


def outline_box(image: Image.Image, box: Box, color: str | tuple[int, int, int], *, width: int, inset: int = 0) -> None:
    """Draw an outline inside a box.

    Args:
        image: image to draw on.
        box: the box.
        color: color of the line.
        width: width of the line.
        inset: distance of the line from the edge of the box.
    """
    left = box.col + inset
    top = box.row + inset
    right = box.right - 1 - inset
    bottom = box.bottom - 1 - inset
    draw = ImageDraw.Draw(image)
    draw.rectangle((left, top, right, bottom), outline=color, width=width)


def measure_label(text: str) -> tuple[float, float]:
    """Height and width of a label.

    Args:
        text: the label.
    """
    font = _load_font(TEXT_SIZE, bold=True)
    width = font.getlength(text) + 16
    return 1.2 * TEXT_SIZE, width


def write_label(image: Image.Image, text: str, spot: Box) -> None:
    """Write a label, white with a black outline.

    Args:
        image: image to draw on.
        text: the label.
        spot: where it stands, of the size of :func:`measure_label`.
    """
    across = spot.col + spot.width / 2
    down = spot.row + spot.height / 2
    ImageDraw.Draw(image).text(
        (across, down),
        text,
        fill=_WHITE,
        font=_load_font(TEXT_SIZE, bold=True),
        anchor="mm",
        stroke_width=4,
        stroke_fill=_BLACK,
    )


def make_swatch(color: str) -> Image.Image:
    """A square in the height of a line, framed in a color as boxes are."""
    swatch = Image.new("RGB", (TEXT_SIZE, TEXT_SIZE), _WHITE)
    whole = Box(0, 0, TEXT_SIZE, TEXT_SIZE)
    draw_frame(swatch, whole, color)
    return swatch


def put_swatch(swatch: Image.Image, text: str, width: int | None = None) -> Image.Image:
    """A line of a legend: a swatch and what it means.

    Args:
        swatch: the swatch, see :func:`make_swatch`.
        text: what it means.
        width: width of both; by default that of the text decides.
    """
    room = None if width is None else width - swatch.width - GAP
    line = write_lines([text], width=room)
    return put_beside([swatch, line], align="center")


# ---------------------------------------------------------------------------------------------------------- scales


def make_scale_bar(width_um: float, width: int) -> Image.Image:
    """A scale bar and its length, to stand above an image: there no box can cover it.

    Args:
        width_um: width of the image in um.
        width: width of its drawing.
    """
    length_um = choose_bar_length(width_um)
    length = round(length_um * width / width_um)
    text = write_lines([format_length(length_um)])
    top = text.height // 2 - _BAR_HEIGHT // 2
    bar = Image.new("RGB", (length, text.height), _WHITE)
    bar.paste(_BLACK, (0, top, length, top + _BAR_HEIGHT))
    return put_beside([bar, text], gap=GAP // 2)


class ColorScale(NamedTuple):
    """Colors run from 0 to ``end``; what is above, up to ``highest``, has the last one."""

    end: float
    highest: float


def draw_color_scale(scale: ColorScale, *, width: int, text: str = "attention of a cell") -> Image.Image:
    """What the colors of maps mean.

    Args:
        scale: the probabilities of the first and the last color.
        width: width of the block.
        text: what the probabilities are.
    """
    end = f"{scale.end:.2g}"
    if scale.end < scale.highest:
        end += " and more"
    before = write_lines([f"{text}: 0"])
    after = write_lines([end])
    length = width - 2 * GAP - before.width - after.width
    shares = np.linspace(0, 1, length)
    colors = blend_colors(np.tile(shares, (_SCALE_HEIGHT, 1)))
    return put_beside([before, colors, after], align="center")


# ---------------------------------------------------------------------------------------------------------- blocks


def stack_images(blocks: Sequence[Image.Image], *, gap: int = 0) -> Image.Image:
    """Blocks below each other, aligned at the left.

    Args:
        blocks: the blocks.
        gap: distance between them.
    """
    width = max(block.width for block in blocks)
    heights = [block.height for block in blocks]
    height = sum(heights) + gap * (len(blocks) - 1)
    page = Image.new("RGB", (width, height), _WHITE)
    top = 0
    for block in blocks:
        page.paste(block, (0, top))
        top += block.height + gap
    return page


def put_beside(blocks: Sequence[Image.Image], *, gap: int = GAP, align: str = "top") -> Image.Image:
    """Blocks beside each other.

    Args:
        blocks: the blocks.
        gap: distance between them.
        align: what of them is at one height, ``"top"``, ``"center"`` or ``"bottom"``.
    """
    height = max(block.height for block in blocks)
    widths = [block.width for block in blocks]
    width = sum(widths) + gap * (len(blocks) - 1)
    row = Image.new("RGB", (width, height), _WHITE)
    left = 0
    for block in blocks:
        free = height - block.height
        tops = {"top": 0, "center": free // 2, "bottom": free}
        row.paste(block, (left, tops[align]))
        left += block.width + gap
    return row


def put_in_rows(blocks: Sequence[Image.Image], width: int, *, gap: int = GAP) -> Image.Image:
    """Blocks beside each other, in as many rows as the width demands.

    Args:
        blocks: the blocks, at least one.
        width: width of all.
        gap: distance between blocks and between rows.
    """
    rows: list[list[Image.Image]] = [[]]
    left = 0
    for block in blocks:
        if rows[-1] and left + block.width > width:
            rows.append([])
            left = 0
        rows[-1].append(block)
        left += block.width + gap
    joined = [put_beside(row, gap=gap) for row in rows]
    return stack_images(joined, gap=gap)


def draw_patch_tile(pixels: np.ndarray, color: str, lines: Sequence[str], *, side: int) -> Image.Image:
    """A patch, framed in the color of its magnification, above what there is to say of it.

    Args:
        pixels: uint8 ``(3, height, width)``.
        color: color of the frame.
        lines: lines below it.
        side: height and width of the drawn patch.
    """
    patch = _make_image(pixels).resize((side, side), Image.Resampling.NEAREST)
    whole = Box(0, 0, side, side)
    draw_frame(patch, whole, color)
    text = write_lines(lines, width=side)
    return stack_images([patch, text], gap=6)


def choose_patch_side(patch_size: int, width: int) -> int:
    """Pixels of a patch as it is drawn: small ones are enlarged by a whole factor, others keep their pixels.

    Args:
        patch_size: height and width of the patch.
        width: width that it must not exceed.
    """
    if patch_size > width:
        return width
    return patch_size * max(1, _PATCH_SIDE // patch_size)


def frame_page(blocks: Sequence[Image.Image], width: int) -> Image.Image:
    """Rows of a page below each other, with a margin around all.

    Args:
        blocks: the rows.
        width: width of the page.
    """
    content = stack_images(blocks, gap=GAP)
    height = content.height + 2 * GAP
    page = Image.new("RGB", (width, height), _WHITE)
    page.paste(content, (GAP, GAP))
    return page
