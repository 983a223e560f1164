# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Tissue that is given, not searched: a mask of a slide as an image, or as outlines of any tool.

An image without losses, such as a PNG, covers all of its frame (:mod:`monai_jsma.slides.frame`): the scanned part of
the canvas, as QuPath exports it, or the canvas. Where it is not 0 there is tissue. Outlines (GeoJSON, ImageScope XML,
CSV of boxes) are those of :mod:`monai_jsma.datalists.annotations`, whatever the names of their classes.

Pen marks, folds and blur are not found by this package: a mask is how another tool leaves them out.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from monai_jsma.datalists.annotations import read_annotations
from monai_jsma.datalists.regions import find_outside_fault, mark_inside
from monai_jsma.geometry import Box
from monai_jsma.slides.frame import FRAME_NAMES, Frame, check_frame

__all__ = ["MASK_SUFFIXES", "read_given_tissue"]

MASK_SUFFIXES = (".bmp", ".gif", ".png", ".tif", ".tiff")  # without losses: in a JPEG the background is not 0
_OUTLINE_SUFFIXES = (".geojson", ".json", ".gz", ".xml", ".csv")


def read_given_tissue(
    path: str | os.PathLike[str],
    window: Box,
    shape: tuple[int, int],
    *,
    size: tuple[int, int],
    bounds: Box | None = None,
    frame: str | None = None,
) -> np.ndarray:
    """Read which pixels of a part of a slide are tissue.

    Args:
        path: file of the mask.
        window: the part of the slide, in level-0 pixels.
        shape: height and width of the result, which covers the window; each pixel is decided at its center.
        size: height and width of level 0.
        bounds: the scanned part of the canvas; None if it is all.
        frame: the corner that the mask counts from, ``"bounds"`` or ``"canvas"``; None: that of the tool, which for
            images is ``"bounds"``.

    Returns:
        bool ``shape``.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no mask, has another shape than the slide, or marks no tissue in the window.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such mask.")
    known_frame = None if frame is None else check_frame(frame)
    if path.suffix.lower() in _OUTLINE_SUFFIXES:
        mask = _mark_outlines(path, window, shape, size=size, bounds=bounds, frame=known_frame)
    else:
        mask = _sample_image(path, window, shape, size=size, bounds=bounds, frame=known_frame or "bounds")
    if not mask.any():
        raise ValueError(
            f"{path}: the mask marks no tissue in the {window.height} x {window.width} pixels from row {window.row}, "
            f"column {window.col}; correct it, take the slide out of the datalist, or leave 'mask' out."
        )
    return mask


def _sample_image(
    path: Path, window: Box, shape: tuple[int, int], *, size: tuple[int, int], bounds: Box | None, frame: Frame
) -> np.ndarray:
    """The pixels of a mask at the centers of the pixels of a window; there is no tissue outside its frame."""
    pixels = _read_image(path)
    covered = Box(0, 0, *size) if frame == "canvas" or bounds is None else bounds
    _check_shape(path, pixels, covered, frame=frame)
    rows = _find_pixels(window.row, window.height, shape[0], begin=covered.row, length=covered.height)
    cols = _find_pixels(window.col, window.width, shape[1], begin=covered.col, length=covered.width)
    row_lines, is_row_inside = _find_lines(rows, pixels.shape[0])
    col_lines, is_col_inside = _find_lines(cols, pixels.shape[1])
    nearest = pixels[row_lines[:, None], col_lines]
    return nearest & is_row_inside[:, None] & is_col_inside


def _find_pixels(start: float, extent: float, number: int, *, begin: float, length: float) -> np.ndarray:
    """Where the centers of the pixels of an axis lie in another span: from 0 to 1 inside it."""
    centers = start + (np.arange(number) + 0.5) * extent / number
    return (centers - begin) / length


def _find_lines(places: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """For places from 0 to 1 the rows or columns of an image that hold them, and which are not outside it."""
    lines = np.floor(places * number).astype(int)
    is_inside = (places >= 0) & (places < 1)
    return lines.clip(0, number - 1), is_inside


def _read_image(path: Path) -> np.ndarray:
    """Whether each pixel of a mask is tissue: bool ``(height, width)``."""
    if path.suffix.lower() not in MASK_SUFFIXES:
        suffixes = ", ".join((*MASK_SUFFIXES, *_OUTLINE_SUFFIXES))
        raise ValueError(f"{path}: a mask is a file without losses, or one of outlines: {suffixes}.")
    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            has_palette_or_alpha = image.mode in ("RGBA", "LA", "PA", "P")
            flat = image.convert("RGB") if has_palette_or_alpha else image  # what is opaque is no tissue by that
            pixels = np.asarray(flat)
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: the mask cannot be read: {error}.") from error
    except Image.DecompressionBombWarning as error:
        raise ValueError(f"{path}: the mask is too large ({error}); a pixel of 8 um is fine enough.") from error
    is_tissue = pixels != 0
    return is_tissue.any(axis=2) if is_tissue.ndim == 3 else is_tissue


def _check_shape(path: Path, pixels: np.ndarray, covered: Box, *, frame: Frame) -> None:
    """Check that a mask has the shape of what it covers, up to a pixel of rounding."""
    height, width = pixels.shape
    row_error = abs(height - width * covered.height / covered.width)
    col_error = abs(width - height * covered.width / covered.height)
    is_larger = height > covered.height or width > covered.width
    if min(row_error, col_error) <= 1 and not is_larger:
        return
    raise ValueError(
        f"{path}: a mask of {height} x {width} pixels does not have the shape of the slide's {covered.height} x "
        f"{covered.width} pixels, counted from {FRAME_NAMES[frame]}; is it of another slide, turned, or does it count "
        "from the other corner ('mask_frame': 'bounds' or 'canvas')?"
    )


def _mark_outlines(
    path: Path, window: Box, shape: tuple[int, int], *, size: tuple[int, int], bounds: Box | None, frame: Frame | None
) -> np.ndarray:
    """The pixels of a window whose centers an outline encloses, and no hole of it."""
    areas = [area for of_slide in read_annotations(path, frame=frame).values() for area in of_slide]
    step = np.array([window.height / shape[0], window.width / shape[1]])
    first_center = np.array([window.row, window.col]) + step / 2
    mask = np.zeros(shape, bool)
    for area in areas:
        fault = find_outside_fault(area, size, bounds)
        if fault is not None:
            raise ValueError(fault)
        on_canvas = area.on_canvas(bounds)
        inside = mark_inside((on_canvas.ring - first_center) / step, shape)
        for hole in on_canvas.holes:
            inside &= ~mark_inside((hole - first_center) / step, shape)
        mask |= inside
    return mask
