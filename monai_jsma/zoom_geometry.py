# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Where the regions of a slide lie, and how much tissue each of them holds: one stage of a zoom.

Pure arithmetic, as in :mod:`monai_jsma.geometry`. A window, which is a slide or a region of it, is covered by a grid of
regions, as an image is covered by patches. So the place of a thumbnail's feature map and the region that it stands for
lie on the same cell of the grid. A region is a window again: any number of stages follow each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from monai_jsma.geometry import Box, PatchGeometry, patch_start, rescale_span

__all__ = ["RegionGrid", "TissueMap", "find_patch_spans", "make_region_grid"]

Span = tuple[int, int]  # first pixel and extent

_ROUNDING = 1e-6  # pixels: a position this close to a whole pixel is meant to be one


@dataclass(frozen=True)
class RegionGrid:
    """The regions that cover a window, row by row: its patches at a coarse magnification, of whole pixels of level 0.

    There are as few as suffice. Each is centered on its cell and moved inside the window, so that neighbors overlap
    evenly. Of the window's last pixels fewer than one of the coarse magnification may be left out. A window that is
    shorter than a region is taken whole along that axis.

    Args:
        patches: the grid of the window at that magnification, the only one.
        unit: pixels of level 0 along a pixel of that magnification.

    Example::

        >>> RegionGrid(PatchGeometry((1000, 250), 1.0, [2.0], patch_size=200), 2).boxes[1]
        Box(row=300, col=0, height=400, width=250)
    """

    patches: PatchGeometry
    unit: int

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of regions."""
        return self.patches.grids[0]

    @cached_property
    def rows(self) -> list[tuple[int, int]]:
        """First pixel and height of each row of regions."""
        return self._find_spans(0)

    @cached_property
    def cols(self) -> list[tuple[int, int]]:
        """First pixel and width of each column of regions."""
        return self._find_spans(1)

    @property
    def boxes(self) -> list[Box]:
        """All regions in level-0 pixels of the window, row by row."""
        boxes = []
        for top, height in self.rows:
            for left, width in self.cols:
                boxes.append(Box(top, left, height, width))
        return boxes

    def box(self, row: int, col: int) -> Box:
        """The region of a cell in level-0 pixels of the window."""
        top, height = self.rows[row]
        left, width = self.cols[col]
        return Box(top, left, height, width)

    def _find_spans(self, axis: int) -> list[tuple[int, int]]:
        length = self.patches.size[axis]
        level_length = self.patches.level_sizes[0][axis]
        patch_size = self.patches.patch_size
        num_cells = self.grid[axis]
        extent = min(patch_size * self.unit, length)
        last = (length - extent) // self.unit
        spans = []
        for cell in range(num_cells):
            start = patch_start(cell, num_cells=num_cells, length=level_length, patch_size=patch_size)
            spans.append((min(start, last) * self.unit, extent))
        return spans


@lru_cache(maxsize=256)
def make_region_grid(geometry: PatchGeometry, region_size: int) -> RegionGrid:
    """The regions of an image; those of the same geometry are computed once, as a slide has very many.

    They begin on whole pixels of the coarsest magnification: patches that need no resampling in the image need none in
    its regions.

    Args:
        geometry: patch grids of the image.
        region_size: height and width of a region, in pixels of the finest magnification; it is rounded to whole pixels
            of the coarsest.

    Raises:
        ValueError: if ``region_size`` is below 1.
    """
    if region_size < 1:
        raise ValueError(f"region_size must be the height and width of a region in pixels, but is {region_size!r}.")
    unit = max(1, round(geometry.spacings[0] / geometry.mpp))
    in_level_0 = region_size * geometry.spacings[-1] / geometry.mpp
    patches = PatchGeometry(
        geometry.size,
        geometry.mpp,
        [unit * geometry.mpp],
        patch_size=max(1, round(in_level_0 / unit)),
    )
    return RegionGrid(patches, unit)


@lru_cache(maxsize=256)
def find_patch_spans(geometry: PatchGeometry, level: int) -> tuple[Sequence[Span], Sequence[Span]]:
    """First pixel and extent of the patches of each row, and of each column, in whole pixels of level 0.

    Those of the same geometry are computed once: a slide is asked for them each time that it is looked at.

    A patch is as large as all pixels that it touches; what lies beyond the image is left out.

    Args:
        geometry: patch grids of the image.
        level: number of the magnification.
    """
    first = geometry.offsets[level]
    num_rows, num_cols = geometry.grids[level]
    height, width = geometry.size
    rows = []
    for row in range(num_rows):
        box = geometry.box(first + row * num_cols)
        rows.append(_cover(box.row, box.height, height))
    cols = []
    for col in range(num_cols):
        box = geometry.box(first + col)
        cols.append(_cover(box.col, box.width, width))
    return tuple(rows), tuple(cols)


def _cover(start: float, extent: float, length: int) -> tuple[int, int]:
    """First pixel and number of the whole pixels under a span, as far as there are any."""
    first = math.floor(start + _ROUNDING)
    end = min(math.ceil(start + extent - _ROUNDING), length)
    return first, end - first


class TissueMap:
    """Which part of a file is tissue.

    Args:
        mask: the tissue, bool ``(height, width)``, of any resolution.
        box: what the mask covers, in level-0 pixels of the file.
    """

    def __init__(self, mask: np.ndarray, box: Box) -> None:
        self.mask = mask
        self.box = box
        self._sums = _sum_above_and_left(mask)

    def measure(self, rows: Sequence[tuple[int, int]], cols: Sequence[tuple[int, int]]) -> np.ndarray:
        """Shares of tissue of the regions of a grid ``(rows, columns)``: of all pixels of the mask that they touch.

        Args:
            rows: first pixel and height of each row, in level-0 pixels of the file.
            cols: first pixel and width of each column.
        """
        row_lines = self._find_lines(rows, 0)
        col_lines = self._find_lines(cols, 1)
        strips = np.diff(self._sums[row_lines], axis=1)[:, 0]  # (rows, columns of the mask + 1)
        tissue = np.diff(strips[:, col_lines], axis=2)[:, :, 0]
        heights = np.diff(row_lines, axis=1)
        widths = np.diff(col_lines, axis=1)
        return tissue / (heights * widths.T)

    def _find_lines(self, spans: Sequence[tuple[int, int]], axis: int) -> np.ndarray:
        """First line of the mask under each span of an axis, and the line after its last: ``(spans, 2)``."""
        begin = int(self.box[axis])
        length = int(self.box[axis + 2])
        num_lines = self.mask.shape[axis]
        lines = []
        for start, extent in spans:
            first = start - begin
            lines.append(rescale_span(first, first + extent, length=length, new_length=num_lines))
        return np.array(lines)


def _sum_above_and_left(mask: np.ndarray) -> np.ndarray:
    """For each corner of the pixels, how many are True above and left of it: int32, or int64 where there are more.

    Args:
        mask: bool ``(height, width)``.

    Returns:
        ``(height + 1, width + 1)``; 0 along the first row and column.
    """
    height, width = mask.shape
    most = np.iinfo(np.int32).max
    sums = np.zeros((height + 1, width + 1), np.int32 if mask.size <= most else np.int64)
    inner = sums[1:, 1:]
    np.cumsum(mask, axis=0, dtype=sums.dtype, out=inner)
    np.cumsum(inner, axis=1, out=inner)
    return sums
