# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Pyramids in memory that note what is read, and slow exact averages to compare them with.

Arrays are uint8 ``(height, width, 3)``, levels are stored finest first, boxes are ``(row, col, height, width)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from monai_jsma.data import Pyramid, Reader

__all__ = ["LevelsReader", "every_cell", "in_blocks", "noise", "slow_average", "slow_patch", "slow_thumbnail"]


class LevelsReader(Reader):
    """Levels in memory; ``windows`` notes ``(level, row, col, height, width)`` of all that was read."""

    def __init__(self, levels: Sequence[np.ndarray], exact: Sequence[bool] | None = None) -> None:
        self.path, self.levels, self.windows = "levels in memory", levels, []
        self.level_sizes = tuple(level.shape[:2] for level in levels)
        self.exact = (True,) * len(levels) if exact is None else tuple(exact)

    def _read(self, level: int, location: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        row, col = location
        height, width = size
        self.windows.append((level, row, col, height, width))
        return self.levels[level][row : row + height, col : col + width]

    def close(self) -> None:
        """Nothing is open."""


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Pixels of any colour."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def in_blocks(height: int, width: int, downsamples: Sequence[int], seed: int = 0) -> list[np.ndarray]:
    """Levels of blocks of one colour, as large as the last downsample: each level is an exact average of level 0."""
    coarsest = noise(height // downsamples[-1], width // downsamples[-1], seed)
    return [coarsest.repeat(downsamples[-1] // d, 0).repeat(downsamples[-1] // d, 1) for d in (1, *downsamples)]


def every_cell(pyramid: Pyramid) -> range:
    """All flat indices."""
    return range(pyramid.geometry.num_cells)


def slow_average(pixels: np.ndarray, box: Sequence[Fraction], size: Sequence[int]) -> np.ndarray:
    """Mean of what each pixel of the result covers, in exact arithmetic, halves up: ``uint8 (*size, 3)``."""
    top, left = math.floor(box[0]), math.floor(box[1])
    pixels = pixels[top : math.ceil(box[0] + box[2]), left : math.ceil(box[1] + box[3])]
    rows = _shares(box[0] - top, box[2], size[0], pixels.shape[0])
    cols = _shares(box[1] - left, box[3], size[1], pixels.shape[1])
    sums = np.einsum("ry,yck->rck", rows, np.einsum("yxk,cx->yck", pixels.astype(np.int64), cols))
    area = int(rows[0].sum() * cols[0].sum())
    assert (rows.sum(1) == rows[0].sum()).all(), "the box must lie inside"
    assert (cols.sum(1) == cols[0].sum()).all(), "the box must lie inside"
    return ((2 * sums + area) // (2 * area)).astype(np.uint8)


def _shares(start: Fraction, length: Fraction, out: int, full: int) -> np.ndarray:
    """How much of each of ``full`` pixels is in each of ``out`` equal parts, in a unit of its own: ``(out, full)``."""
    edges = [Fraction(start) + Fraction(length) * i / out for i in range(out + 1)]
    unit = math.lcm(*(edge.denominator for edge in edges))
    ends = [int(edge * unit) for edge in edges]
    return np.array(
        [[max(0, min(b, (x + 1) * unit) - max(a, x * unit)) for x in range(full)] for a, b in zip(ends, ends[1:])]
    )


def _in_level(box: Sequence[Fraction], levels: Sequence[np.ndarray], level: int) -> list[Fraction]:
    """A level-0 box in the pixels of ``level``."""
    scale = [Fraction(levels[level].shape[i], levels[0].shape[i]) for i in (0, 1)]
    return [value * scale[i % 2] for i, value in enumerate(box)]


def slow_thumbnail(pyramid: Pyramid, levels: Sequence[np.ndarray], size: tuple[int, int], level: int = 0) -> np.ndarray:
    """Thumbnail ``(3, *size)`` of a pyramid that is not oriented, averaged from ``level``."""
    box = _in_level([*pyramid.origin, *pyramid.geometry.size], levels, level)
    return slow_average(levels[level], box, size).transpose(2, 0, 1)


def slow_patch(pyramid: Pyramid, levels: Sequence[np.ndarray], cell: int, level: int = 0) -> np.ndarray:
    """Patch ``(3, p, p)`` of a pyramid that is not oriented, averaged from ``level``; white beyond the picture."""
    g = pyramid.geometry
    size, p, corner = g.level_sizes[g.cell(cell).level], g.patch_size, g.level_box(cell)[:2]
    down = [Fraction(g.size[i], size[i]) for i in (0, 1)]
    inside = [min(p, int(size[i] - corner[i])) for i in (0, 1)]
    box = [pyramid.origin[i] + int(corner[i]) * down[i] for i in (0, 1)] + [inside[i] * down[i] for i in (0, 1)]
    patch = np.full((p, p, 3), 255, np.uint8)
    patch[: inside[0], : inside[1]] = slow_average(levels[level], _in_level(box, levels, level), inside)
    return patch.transpose(2, 0, 1)
