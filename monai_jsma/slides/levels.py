# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Any region of a stored pyramid at any size, averaged from the coarsest level that is fine enough."""

from __future__ import annotations

import math

import numpy as np

from monai_jsma.geometry import Box
from monai_jsma.slides.readers import Reader
from monai_jsma.slides.resample import area_resample

__all__ = ["read_averaged", "source_level"]

_BAND_PIXELS = 16_000_000  # pixels decoded at once, so that a thumbnail of a huge level needs little memory
_MAX_PIXELS = 1_000_000_000  # a thumbnail that needs more than this is refused: the file lacks coarse levels


def read_averaged(reader: Reader, region: Box, size: tuple[int, int], *, exact: bool, path: str = "") -> np.ndarray:
    """A region averaged down to ``size``, band by band, from the coarsest stored level that is fine enough.

    Args:
        reader: gives pixels of the stored levels.
        region: in level-0 pixels; its edges may be fractional.
        size: height and width of the result.
        exact: only from levels whose pixels the reader gives as they are stored.
        path: the file, for the message.

    Returns:
        ``uint8`` of shape ``(*size, 3)``.

    Raises:
        ValueError: when the file lacks coarse levels, so that too many pixels would have to be read.
    """
    level, down, right = source_level(reader, region.height / size[0], region.width / size[1], exact=exact)
    top, left = region.row / down, region.col / right
    height, width = region.height / down, region.width / right
    if height * width > _MAX_PIXELS:
        raise ValueError(
            f"{path}: {size[0]} x {size[1]} pixels of this region would be averaged from {height * width:.2g} "
            "pixels of the coarsest level that will do; convert the file to a tiled pyramid with coarser levels."
        )
    bands = min(size[0], math.ceil(height * width / _BAND_PIXELS))
    edges = [size[0] * i // bands for i in range(bands + 1)]
    scale = height / size[0]
    parts = [
        _averaged(reader, level, Box(top + a * scale, left, (b - a) * scale, width), (b - a, size[1]))
        for a, b in zip(edges, edges[1:])
    ]
    return parts[0] if bands == 1 else np.concatenate(parts)


def _averaged(reader: Reader, level: int, box: Box, size: tuple[int, int]) -> np.ndarray:
    full = reader.level_sizes[level]
    # 1e-6 pixels: rounding of the arithmetic must not fetch another row of pixels, and with it another tile.
    row, col = max(math.floor(box.row + 1e-6), 0), max(math.floor(box.col + 1e-6), 0)
    end_row = min(math.ceil(box.row + box.height - 1e-6), full[0])
    end_col = min(math.ceil(box.col + box.width - 1e-6), full[1])
    pixels = reader.read(level, row, col, end_row - row, end_col - col)
    top, left = max(box.row - row, 0.0), max(box.col - col, 0.0)
    height, width = min(box.height, pixels.shape[0] - top), min(box.width, pixels.shape[1] - left)
    return area_resample(pixels, Box(top, left, height, width), size)


def source_level(reader: Reader, row_scale: float, col_scale: float, *, exact: bool) -> tuple[int, float, float]:
    """Level to read for ``scale`` level-0 pixels an output pixel, and the level's own scales (rows, columns)."""
    full = reader.level_sizes[0]
    scales = [(full[0] / h, full[1] / w) for h, w in reader.level_sizes]
    fine_enough = [
        level
        for level, (down, right) in enumerate(scales)
        if down <= 1.01 * row_scale and right <= 1.01 * col_scale and (reader.exact[level] or not exact)
    ]
    level = max(fine_enough, default=0, key=lambda i: scales[i])
    return level, *scales[level]
