# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Resampling as an area average: an output pixel is the mean of all that it covers, pixels at its edge in part.

This is free of aliasing, keeps the mean color, and for whole factors is the plain mean of a box of pixels. It is
separable: the rows are summed first, then the columns. The weights are the same for arrays, for tensors on a device,
and for any region of a stored pyramid. Axis order is (row, column, color).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.sparse import csr_array

from monai_jsma.geometry import Box
from monai_jsma.slides.base import Reader

if TYPE_CHECKING:
    import torch

__all__ = ["SourceLevel", "area_resample", "area_resample_tensor", "find_source_level", "read_averaged"]

_SNAP = 1e-6  # pixels: an edge this close to the border of a pixel is meant to lie on it
_HALF = 0.5 + 1e-9  # 1e-9 is more than the rounding errors, so that halves go up
_BLOCK_ROWS = 64  # of input at a time, so that floats and sums stay in the cache of the processor
_BAND_PIXELS = 16_000_000  # pixels decoded at once, so that a thumbnail of a huge level needs little memory
_MAX_PIXELS = 1_000_000_000  # a thumbnail that needs more than this is refused: the file lacks coarse levels


# ---------------------------------------------------------------------------------------------------------- arrays


def area_resample(pixels: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Average a box of an image to ``size``.

    Args:
        pixels: the image, ``uint8`` of shape ``(height, width, 3)``.
        box: the part to average, in pixels of ``pixels``; its edges may be fractional.
        size: height and width of the result.

    Returns:
        ``uint8`` of shape ``(*size, 3)``, halves rounded up.

    Raises:
        ValueError: if the box is empty or leaves the image.

    Example::

        >>> area_resample(np.uint8([[[0] * 3, [9] * 3, [50] * 3]]), Box(0, 0, 1, 1.5), (1, 1)).ravel().tolist()
        [3, 3, 3]
    """
    top, bottom = _snap_ends(box.row, box.height)
    left, right = _snap_ends(box.col, box.width)
    rows_inside = 0 <= top < bottom <= pixels.shape[0]
    cols_inside = 0 <= left < right <= pixels.shape[1]
    if not (rows_inside and cols_inside) or min(size) < 1:
        raise ValueError(f"cannot average {box} of {pixels.shape[0]} x {pixels.shape[1]} pixels to {size}.")

    rows = slice(math.floor(top), math.ceil(bottom))
    cols = slice(math.floor(left), math.ceil(right))
    pixels = pixels[rows, cols]
    height = bottom - top
    width = right - left
    down = height / size[0]
    across = width / size[1]
    if all(value.is_integer() for value in (top, left, down, across)):
        return _average_boxes(pixels, int(down), int(across))

    row_blocks = _cut_to_blocks(top - rows.start, height, size[0])
    col_weights = _area_weights(left - cols.start, width, size[1])
    result = np.empty((*size, 3), np.uint8)
    for block in row_blocks:
        sums = _sum_weighted(pixels[block.source], block.weights, col_weights)
        means = sums / (down * across)
        result[block.target] = np.floor(means + _HALF)
    return result


def _sum_weighted(pixels: np.ndarray, row_weights: csr_array, col_weights: csr_array) -> np.ndarray:
    """Weighted sums over the rows, then over the columns: float64 ``(out rows, out columns, 3)``."""
    height, width = pixels.shape[:2]
    out_rows = row_weights.shape[0]
    out_cols = col_weights.shape[0]
    sums = pixels.reshape(height, width * 3).astype(np.float64)
    sums = row_weights @ sums  # (out rows, width * 3)
    sums = sums.reshape(out_rows, width, 3)
    sums = sums.transpose(1, 0, 2)
    sums = sums.reshape(width, out_rows * 3)
    sums = col_weights @ sums  # (out columns, out rows * 3)
    sums = sums.reshape(out_cols, out_rows, 3)
    return sums.transpose(1, 0, 2)


def _snap_ends(start: float, length: float) -> tuple[float, float]:
    """Both ends of an interval as floats, moved to whole pixels where very near."""
    return _snap(start), _snap(start + length)


def _snap(position: float) -> float:
    nearest = round(position)
    return float(nearest if abs(position - nearest) < _SNAP else position)


def _average_boxes(pixels: np.ndarray, down: int, across: int) -> np.ndarray:
    """Mean of boxes of ``down`` x ``across`` pixels, in integers."""
    count = down * across
    if count == 1:
        return pixels.copy()

    rows = pixels[::down].astype(np.min_scalar_type(256 * count))
    for i in range(1, down):
        rows += pixels[i::down]

    total = rows[:, ::across].copy()
    for i in range(1, across):
        total += rows[:, i::across]
    return ((total + count // 2) // count).astype(np.uint8)


@lru_cache(maxsize=256)
def _area_weights(start: float, length: float, size: int) -> csr_array:
    """Part of each pixel in each of ``size`` equal parts of ``[start, start + length)``: ``(size, pixels from 0)``."""
    edges = start + np.arange(size + 1) * (length / size)
    edges[-1] = start + length
    whole = edges.round()
    is_whole = np.abs(edges - whole) < _SNAP
    edges = np.where(is_whole, whole, edges)
    begin = edges[:-1, None]  # (size, 1)
    end = edges[1:, None]

    first = np.floor(begin).astype(int)
    last = np.ceil(end).astype(int)
    most = (last - first).max()  # pixels that one part touches
    pixel = first + np.arange(most)  # (size, most)
    part = np.minimum(pixel + 1, end) - np.maximum(pixel, begin)
    covered = np.nonzero(part > 0)
    row = covered[0]
    col = pixel[covered]
    return csr_array((part[covered], (row, col)), shape=(size, last[-1, 0]))


class _Block(NamedTuple):
    """Output rows, the input rows that they need, and the weights between these."""

    target: slice
    source: slice
    weights: csr_array


@lru_cache(maxsize=256)
def _cut_to_blocks(start: float, length: float, size: int) -> tuple[_Block, ...]:
    """The weights of :func:`_area_weights`, cut into blocks of rows."""
    weights = _area_weights(start, length, size)
    step = max(1, int(_BLOCK_ROWS * size / length))
    blocks = []
    for begin in range(0, size, step):
        end = min(begin + step, size)
        rows = weights[begin:end]
        source = slice(rows.indices.min(), rows.indices.max() + 1)
        block = _Block(
            target=slice(begin, end),
            source=source,
            weights=rows[:, source].tocsr(),
        )
        blocks.append(block)
    return tuple(blocks)


# --------------------------------------------------------------------------------------------------------- tensors


def area_resample_tensor(pixels: torch.Tensor, box: Box, size: tuple[int, int]) -> torch.Tensor:
    """Average a box of images on their device to ``size``, as :func:`area_resample` does, but without rounding.

    Args:
        pixels: images, float of shape ``(..., height, width)``.
        box: the part to average, in pixels; its edges may be fractional.
        size: height and width of the result.

    Returns:
        float of shape ``(..., *size)``.
    """
    height, width = pixels.shape[-2:]
    rows = _mean_weights(box.row, box.height, size[0], num_pixels=height)
    cols = _mean_weights(box.col, box.width, size[1], num_pixels=width)
    rows = rows.to(pixels.device)
    cols = cols.to(pixels.device)
    return rows @ pixels @ cols.T


def _mean_weights(start: float, length: float, size: int, *, num_pixels: int) -> torch.Tensor:
    """Share of each of ``num_pixels`` in the mean of each part: ``(size, num_pixels)``, rows of sum 1."""
    import torch  # reading needs none

    weights = _area_weights(start, length, size).toarray()
    touched = weights.shape[1]
    parts = torch.zeros(size, num_pixels, dtype=torch.float64)
    parts[:, :touched] = torch.from_numpy(weights)
    shares = parts / parts.sum(dim=1, keepdim=True)
    return shares.float()


# -------------------------------------------------------------------------------------------------- stored pyramids


class SourceLevel(NamedTuple):
    """A stored level to average from, and its own scales: level-0 pixels per pixel, down a column and along a row."""

    number: int
    down: float
    across: float


def find_source_level(reader: Reader, row_scale: float, col_scale: float, *, exact: bool) -> SourceLevel:
    """The coarsest stored level that is fine enough, else level 0.

    Args:
        reader: gives the sizes of the stored levels.
        row_scale: level-0 pixels per output pixel down a column.
        col_scale: level-0 pixels per output pixel along a row.
        exact: only levels whose pixels the reader gives as they are stored.
    """
    is_allowed = tuple(reader.exact) if exact else (True,) * len(reader.level_sizes)
    return _choose_level(tuple(reader.level_sizes), is_allowed, (row_scale, col_scale))


@lru_cache(maxsize=1024)
def _choose_level(
    level_sizes: tuple[tuple[int, int], ...], is_allowed: tuple[bool, ...], scales: tuple[float, float]
) -> SourceLevel:
    """See :func:`find_source_level`: the regions of a slide, and slides of one scanner, ask for the same."""
    row_scale, col_scale = scales
    full_height, full_width = level_sizes[0]
    best = SourceLevel(0, 1.0, 1.0)
    for index, (height, width) in enumerate(level_sizes):
        level = SourceLevel(index, full_height / height, full_width / width)
        is_fine_enough = level.down <= 1.01 * row_scale and level.across <= 1.01 * col_scale
        is_coarser = (level.down, level.across) > (best.down, best.across)
        if is_fine_enough and is_coarser and is_allowed[index]:
            best = level
    return best


def read_averaged(reader: Reader, region: Box, size: tuple[int, int], *, exact: bool, path: str = "") -> np.ndarray:
    """A region averaged down to ``size``, band by band, from the coarsest stored level that is fine enough.

    Args:
        reader: gives pixels of the stored levels.
        region: the part to average, in level-0 pixels; its edges may be fractional.
        size: height and width of the result.
        exact: only from levels whose pixels the reader gives as they are stored.
        path: the file, for the message.

    Returns:
        ``uint8`` of shape ``(*size, 3)``.

    Raises:
        ValueError: if the file lacks coarse levels, so that too many pixels would have to be read.
    """
    level = find_source_level(reader, region.height / size[0], region.width / size[1], exact=exact)
    top = region.row / level.down
    left = region.col / level.across
    height = region.height / level.down
    width = region.width / level.across
    if height * width > _MAX_PIXELS:
        raise ValueError(
            f"{path}: {size[0]} x {size[1]} pixels of this region would be averaged from {height * width:.2g} "
            "pixels of the coarsest level that will do; convert the file to a tiled pyramid with coarser levels."
        )

    num_bands = min(size[0], math.ceil(height * width / _BAND_PIXELS))
    if num_bands == 1:
        return _read_averaged_band(reader, level.number, Box(top, left, height, width), size)

    scale = height / size[0]
    bands = []
    for i in range(num_bands):
        begin = size[0] * i // num_bands
        end = size[0] * (i + 1) // num_bands
        band = Box(top + begin * scale, left, (end - begin) * scale, width)
        bands.append(_read_averaged_band(reader, level.number, band, (end - begin, size[1])))
    return np.concatenate(bands)


def _read_averaged_band(reader: Reader, level: int, box: Box, size: tuple[int, int]) -> np.ndarray:
    full_height, full_width = reader.level_sizes[level]
    row, num_rows = _find_span(box.row, box.height, full_height)
    col, num_cols = _find_span(box.col, box.width, full_width)
    pixels = reader.read(level, (row, col), (num_rows, num_cols))

    top = max(box.row - row, 0.0)
    left = max(box.col - col, 0.0)
    height = min(box.height, num_rows - top)
    width = min(box.width, num_cols - left)
    return area_resample(pixels, Box(top, left, height, width), size)


def _find_span(start: float, length: float, full: int) -> tuple[int, int]:
    """First pixel and number of pixels that cover an interval.

    Rounding of the arithmetic must not fetch another row of pixels, and with it another tile.
    """
    first = math.floor(start + _SNAP)
    end = math.ceil(start + length - _SNAP)
    first = max(first, 0)
    end = min(end, full)
    return first, end - first
