# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Resampling as an area average: an output pixel is the mean of all that it covers, pixels at its edge in part.

This is free of aliasing, keeps the mean colour, and for whole factors is the plain mean of a box of pixels. It is
separable: the rows are summed first, then the columns. Axis order is (row, column, colour).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.sparse import csr_array

from monai_jsma.geometry import Box

__all__ = ["area_resample"]

_SNAP = 1e-6  # pixels: an edge this close to a pixel's border is meant to lie on it
_BLOCK_ROWS = 64  # of input at a time, so that floats and sums stay in the processor's cache


def area_resample(pixels: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Average a box of a picture to ``size``.

    Args:
        pixels: ``uint8`` of shape ``(height, width, 3)``.
        box: the part to average, in pixels of ``pixels``; its edges may be fractional.
        size: height and width of the result.

    Returns:
        ``uint8`` of shape ``(*size, 3)``, halves rounded up.

    Raises:
        ValueError: if the box is empty or leaves the picture.

    Example::

        >>> area_resample(np.uint8([[[0] * 3, [9] * 3, [50] * 3]]), Box(0, 0, 1, 1.5), (1, 1)).ravel().tolist()
        [3, 3, 3]
    """
    (top, bottom), (left, right) = _ends(box.row, box.height), _ends(box.col, box.width)
    if not (0 <= top < bottom <= pixels.shape[0] and 0 <= left < right <= pixels.shape[1]) or min(size) < 1:
        raise ValueError(f"cannot average {box} of {pixels.shape[0]} x {pixels.shape[1]} pixels to {size}.")
    row, col = int(top), int(left)
    pixels = pixels[row : -int(-bottom // 1), col : -int(-right // 1)]
    down, across = (bottom - top) / size[0], (right - left) / size[1]
    if all(value.is_integer() for value in (top, left, down, across)):
        return _box_mean(pixels, int(down), int(across))
    columns = _weights(left - col, right - left, size[1])
    result = np.empty((*size, 3), np.uint8)
    for out, source, weights in _row_blocks(top - row, bottom - top, size[0]):
        block = pixels[source]
        sums = (weights @ block.reshape(len(block), -1).astype(np.float64)).reshape(-1, block.shape[1], 3)
        sums = columns @ sums.transpose(1, 0, 2).reshape(block.shape[1], -1)
        means = sums.reshape(size[1], -1, 3).transpose(1, 0, 2) / (down * across)
        result[out] = np.floor(means + (0.5 + 1e-9))  # 1e-9: more than the rounding errors, so that halves go up
    return result


def _ends(start: float, length: float) -> tuple[float, float]:
    """Both ends of an interval as floats, snapped to whole pixels where very near."""
    ends = (float(start), float(start + length))
    return tuple(float(round(end)) if abs(end - round(end)) < _SNAP else end for end in ends)  # type: ignore[return-value]


def _box_mean(pixels: np.ndarray, down: int, across: int) -> np.ndarray:
    """Mean of boxes of ``down`` x ``across`` pixels, in integers."""
    count = down * across
    if count == 1:
        return pixels.copy()
    total = pixels[::down].astype(np.min_scalar_type(256 * count))
    for i in range(1, down):
        total += pixels[i::down]
    rows, total = total, total[:, ::across].copy()
    for i in range(1, across):
        total += rows[:, i::across]
    return ((total + count // 2) // count).astype(np.uint8)


@lru_cache(maxsize=256)
def _weights(start: float, length: float, out: int) -> csr_array:
    """Part of each pixel from 0 on in each of ``out`` equal parts of ``[start, start + length)``: ``(out, pixels)``."""
    edges = start + np.arange(out + 1) * (length / out)
    edges[-1] = start + length
    edges = np.where(np.abs(edges - edges.round()) < _SNAP, edges.round(), edges)
    first, last = np.floor(edges[:-1]).astype(int), np.ceil(edges[1:]).astype(int)
    pixel = first[:, None] + np.arange((last - first).max())
    part = np.minimum(pixel + 1, edges[1:, None]) - np.maximum(pixel, edges[:-1, None])
    row, _ = used = np.nonzero(part > 0)
    return csr_array((part[used], (row, pixel[used])), shape=(out, last[-1]))


@lru_cache(maxsize=256)
def _row_blocks(start: float, length: float, out: int) -> tuple[tuple[slice, slice, csr_array], ...]:
    """The same weights cut into blocks: output rows, the input rows they need, and the weights between these."""
    weights, blocks = _weights(start, length, out), []
    step = max(1, int(_BLOCK_ROWS * out / length))
    for begin in range(0, out, step):
        block = weights[begin : begin + step]
        source = slice(block.indices.min(), block.indices.max() + 1)
        blocks.append((slice(begin, begin + block.shape[0]), source, block[:, source].tocsr()))
    return tuple(blocks)
