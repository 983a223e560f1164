# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Where the regions of a slide lie, and how much tissue each of them holds: one stage of a zoom.

Pure arithmetic, as in :mod:`monai_jsma.geometry`. A window, which is a slide or a region of it, is covered by a grid of
regions, as an image is covered by patches. So the place of a thumbnail's feature map and the region that it stands for
lie on the same cell of the grid. A region is a window again: any number of stages follow each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from monai_jsma.geometry import Box, PatchGeometry, grid_size, patch_start, rescale_span

__all__ = ["RegionGrid", "TissueMap", "make_region_grid"]


@dataclass(frozen=True, kw_only=True)
class RegionGrid:
    """The regions that cover a window, row by row.

    There are as few as suffice. Each is centered on its cell and moved inside the window, so that neighbors overlap
    evenly, and begins on a multiple of ``unit``. Of the window's last pixels fewer than ``unit`` may be left out. A
    window that is shorter than a region is taken whole along that axis.

    Args:
        size: height and width of the window in level-0 pixels.
        region: height and width of a region in level-0 pixels, multiples of ``unit``.
        unit: pixels of level 0 that regions begin on multiples of.

    Raises:
        ValueError: if a number is below 1, or ``region`` no multiple of ``unit``.

    Example::

        >>> RegionGrid(size=(1000, 250), region=(400, 400)).boxes[1]
        Box(row=300, col=0, height=400, width=250)
    """

    size: tuple[int, int]
    region: tuple[int, int]
    unit: int = 1

    def __post_init__(self) -> None:
        if min(*self.size, *self.region, self.unit) < 1:
            raise ValueError(
                f"size {self.size}, region {self.region} and unit {self.unit} must be positive numbers of pixels."
            )
        height, width = self.region
        if height % self.unit or width % self.unit:
            raise ValueError(f"a region of {self.region} pixels is no multiple of the unit of {self.unit} pixels.")

    @cached_property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of regions."""
        rows = grid_size(self.size[0], self.region[0])
        cols = grid_size(self.size[1], self.region[1])
        return rows, cols

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
        return [Box(row, col, height, width) for row, height in self.rows for col, width in self.cols]

    def box(self, row: int, col: int) -> Box:
        """The region of a cell in level-0 pixels of the window."""
        top, height = self.rows[row]
        left, width = self.cols[col]
        return Box(top, left, height, width)

    def _find_spans(self, axis: int) -> list[tuple[int, int]]:
        length = self.size[axis]
        region = min(self.region[axis], length)
        num_cells = self.grid[axis]
        last = (length - region) // self.unit
        spans = []
        for cell in range(num_cells):
            start = patch_start(cell, num_cells=num_cells, length=length, patch_size=region)
            # Halves are all rounded up: neighbors that touch or overlap still do, a region being whole units long.
            nearest = (2 * start + self.unit) // (2 * self.unit)
            step = min(nearest, last)
            spans.append((step * self.unit, region))
        return spans


def make_region_grid(geometry: PatchGeometry, region_size: Sequence[int]) -> RegionGrid:
    """The regions of an image.

    They begin, as far as they can, on whole pixels of the coarsest magnification: so patches that need no resampling in
    the image need none in its regions.

    Args:
        geometry: patch grids of the image.
        region_size: height and width of a region, in pixels of the finest magnification.

    Raises:
        ValueError: if ``region_size`` is no pair of positive numbers.
    """
    if len(region_size) != 2 or min(region_size) < 1:
        raise ValueError(f"region_size must be the height and width of a region in pixels, but is {region_size!r}.")
    unit = max(1, round(geometry.spacings[0] / geometry.mpp))
    to_level_0 = geometry.spacings[-1] / geometry.mpp
    height, width = (unit * max(1, round(length * to_level_0 / unit)) for length in region_size)
    return RegionGrid(size=geometry.size, region=(height, width), unit=unit)


class TissueMap:
    """Which part of a file is tissue.

    Args:
        mask: the tissue, bool ``(height, width)``, of any resolution.
        box: what the mask covers, in level-0 pixels of the file.
    """

    def __init__(self, mask: np.ndarray, box: Box) -> None:
        self.mask = mask
        self.box = box
        sums = mask.astype(np.int64).cumsum(axis=0).cumsum(axis=1)
        self._sums = np.pad(sums, ((1, 0), (1, 0)))  # of all that lies above and left of a corner

    def measure(self, rows: Sequence[tuple[int, int]], cols: Sequence[tuple[int, int]]) -> np.ndarray:
        """Shares of tissue of the regions of a grid ``(rows, columns)``: of all pixels of the mask that they touch.

        Args:
            rows: first pixel and height of each row, in level-0 pixels of the file.
            cols: first pixel and width of each column.
        """
        tops, bottoms = self._find_lines(rows, 0)
        lefts, rights = self._find_lines(cols, 1)
        below = self._sums[bottoms]
        above = self._sums[tops]
        strips = below - above
        tissue = strips[:, rights] - strips[:, lefts]
        area = np.outer(bottoms - tops, rights - lefts)
        return tissue / area

    def _find_lines(self, spans: Sequence[tuple[int, int]], axis: int) -> tuple[np.ndarray, np.ndarray]:
        """First line of the mask under each span of an axis, and the line after its last."""
        begin = int(self.box[axis])
        length = int(self.box[axis + 2])
        num_lines = self.mask.shape[axis]
        starts = []
        ends = []
        for start, extent in spans:
            first = start - begin
            start_line, end_line = rescale_span(first, first + extent, length=length, new_length=num_lines)
            starts.append(start_line)
            ends.append(end_line)
        return np.array(starts), np.array(ends)
