# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What pictures for people are put together from: lines of text, frames, labels, scales, and blocks beside each other.

They are drawn with Pillow, in a fraction of the time that a figure takes. All lengths are pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from monai_jsma.geometry import Box
from monai_jsma.visualize.attention import make_color_map
from monai_jsma.visualize.canvas import choose_bar_length, format_length

__all__ = [
    "GAP",
    "TEXT_SIZE",
    "TITLE_SIZE",
    "choose_patch_side",
    "draw_color_scale",
    "draw_frame",
    "draw_patch_tile",
    "make_scale_bar",
    "frame_page",
    "make_swatch",
    "measure_label",
    "put_beside",
    "put_in_rows",
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
_WHITE = (255, 255, 255)
_BLACK = (0, 0, 0)


def resize_pixels(thumbnail: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """An image at the size at which it is drawn.

    Args:
        thumbnail: uint8 ``(3, height, width)``.
        size: height and width of the drawing.
    """
    height, width = size
    pixels = np.ascontiguousarray(thumbnail.transpose(1, 2, 0))
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)


# ---------------------------------------------------------------------------------------------------------- text


def write_lines(lines: Sequence[str], *, width: int | None = None, size: int = TEXT_SIZE) -> Image.Image:
    """Lines of text, the first of a title in bold letters; lines that are too long get smaller letters.

    Args:
        lines: the lines.
        width: width of the block; by default that of the text.
        size: size of the letters; :data:`TITLE_SIZE` for a title.
    """
    bold = size == TITLE_SIZE
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


def measure_label(text: str) -> tuple[float, float]:
    """Height and width of a label.

    Args:
        text: the label.
    """
    width = _load_font(TEXT_SIZE, bold=True).getlength(text)
    return 1.2 * TEXT_SIZE, width + 16


def write_label(image: Image.Image, text: str, spot: Box) -> None:
    """Write a label, white with a black outline.

    Args:
        image: image to draw on.
        text: the label.
        spot: where it stands, of the size of :func:`measure_label`.
    """
    middle = (spot.col + spot.width / 2, spot.row + spot.height / 2)
    ImageDraw.Draw(image).text(
        middle,
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
    draw_frame(swatch, Box(0, 0, TEXT_SIZE, TEXT_SIZE), color)
    return swatch


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
    block = Image.new("RGB", (length + GAP // 2 + text.width, text.height), _WHITE)
    middle = text.height // 2
    ImageDraw.Draw(block).rectangle((0, middle - 5, length - 1, middle + 4), fill=_BLACK)
    block.paste(text, (length + GAP // 2, 0))
    return block


def draw_color_scale(
    highest: float, *, width: int, text: str = "attention of a cell", and_more: bool = False
) -> Image.Image:
    """What the colors of maps mean: probabilities from 0 to the highest.

    Args:
        highest: the probability of the last color.
        width: width of the block.
        text: what the probabilities are.
        and_more: whether higher ones have the last color too.
    """
    before = write_lines([f"{text}: 0"])
    after = write_lines([f"{highest:.2g} and more" if and_more else f"{highest:.2g}"])
    width = width - 2 * GAP - before.width - after.width
    colors = make_color_map()(np.linspace(0, 1, width))
    opacity = colors[:, 3:]
    line = (1 - opacity + opacity * colors[:, :3]) * 255
    pixels = np.repeat(line[None].round().astype(np.uint8), _SCALE_HEIGHT, axis=0)
    return put_beside([before, Image.fromarray(pixels), after], align="center")


# ---------------------------------------------------------------------------------------------------------- blocks


def stack_images(blocks: Sequence[Image.Image], *, gap: int = 0) -> Image.Image:
    """Blocks below each other, aligned at the left.

    Args:
        blocks: the blocks.
        gap: distance between them.
    """
    width = max(block.width for block in blocks)
    height = sum(block.height for block in blocks) + gap * (len(blocks) - 1)
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
    width = sum(block.width for block in blocks) + gap * (len(blocks) - 1)
    row = Image.new("RGB", (width, height), _WHITE)
    left = 0
    for block in blocks:
        free = height - block.height
        top = {"top": 0, "center": free // 2, "bottom": free}[align]
        row.paste(block, (left, top))
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
    return stack_images([put_beside(row, gap=gap) for row in rows], gap=gap)


def draw_patch_tile(pixels: np.ndarray, color: str, lines: Sequence[str], *, side: int) -> Image.Image:
    """A patch, framed in the color of its magnification, above what there is to say of it.

    Args:
        pixels: uint8 ``(3, height, width)``.
        color: color of the frame.
        lines: lines below it.
        side: height and width of the drawn patch.
    """
    patch = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    patch = patch.resize((side, side), Image.Resampling.NEAREST)
    draw_frame(patch, Box(0, 0, side, side), color)
    return stack_images([patch, write_lines(lines, width=side)], gap=6)


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
    page = Image.new("RGB", (width, content.height + 2 * GAP), _WHITE)
    page.paste(content, (GAP, GAP))
    return page
