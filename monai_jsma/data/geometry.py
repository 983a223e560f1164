# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Where the patches of a picture lie: magnifications, patch grids, cells and boxes (paper, Sections 3.1 and 4.2).

Pure arithmetic: no file and no network is known here. Sizes are ``(height, width)``, positions ``(row, column)`` of the
top-left corner, and the pixels are those of level 0 (the finest stored resolution) unless a name says otherwise. A
magnification is a physical spacing in micrometres per pixel (mpp); names such as "100X" are aliases for display.

The cells of all magnifications form one flat index, coarse to fine and row-major inside a magnification; the joint
attention distribution ``P_i^j`` of the paper is a vector over that index.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from monai_jsma.data.magnification import Magnification, sorted_magnifications, to_mpp

__all__ = ["Box", "GridCell", "PatchGeometry", "grid_size", "patch_start"]


class Box(NamedTuple):
    """A rectangle: top-left ``row`` and ``col``, then ``height`` and ``width``, in the pixels of its level."""

    row: float
    col: float
    height: float
    width: float


class GridCell(NamedTuple):
    """One cell of the joint attention map: the index of its magnification (0 is the coarsest), its row and column."""

    level: int
    row: int
    col: int


def grid_size(length: int, patch: int) -> int:
    """Number of cells along an axis of ``length`` pixels: enough patches to cover it, at least one."""
    return max(1, -(-length // patch))


def patch_start(cell: int, cells: int, length: int, patch: int) -> int:
    """First pixel of the patch of ``cell``: centred on the cell ``[cell, cell + 1) * length / cells``, then clamped.

    Integer arithmetic (halves round down), so that every platform agrees. A picture shorter than the patch starts at 0.
    """
    twice = (2 * cell + 1) * length - patch * cells  # 2 * cells * (centre of the cell - patch / 2)
    start = -((cells - twice) // (2 * cells))
    return min(max(start, 0), max(length - patch, 0))


@dataclass(frozen=True)
class PatchGeometry:
    """The patch grids of one picture at every magnification, and the flat index over all their cells.

    At a magnification of ``m`` um/px a picture of ``height`` pixels and ``mpp`` um/px is ``round(height * mpp / m)``
    pixels high. ``ceil`` of that over ``patch_size`` gives the rows; each patch is centred on its cell and clamped to
    the picture, so that the patches cover the picture, contain their cells and never leave it. A picture smaller than a
    patch has one cell, whose patch reaches beyond the right and bottom edge.

    Aligned patches lie side by side from the top left, so that they start on the borders of a file's tiles where
    ``patch_size`` is that of the tiles. The last of a row or column is moved back into the picture, and begins between
    borders where its length is no multiple of ``patch_size``; there the patches before it overlap their cells without
    containing them. They still cover the picture.

    Args:
        size: height and width of the picture at level 0, in pixels.
        mpp: spacing of level 0, in um per pixel.
        magnifications: spacings in um per pixel, or names ("100X"); kept coarse to fine.
        patch_size: height and width of a patch at its magnification, in pixels.
        aligned: put the patches side by side, on multiples of ``patch_size``, instead of on the centres of their cells.

    Raises:
        ValueError: when a size, a spacing or the list of magnifications is empty, repeated or not positive.

    Example::

        >>> bach = PatchGeometry((1536, 2048), 0.42, (1.68, 0.84, 0.42), 299)
        >>> bach.grids, bach.num_cells
        (((2, 2), (3, 4), (6, 7)), 58)
    """

    size: tuple[int, int]
    mpp: float
    magnifications: Sequence[float | str | Magnification]
    patch_size: int
    aligned: bool = False

    def __post_init__(self) -> None:
        magnifications = sorted_magnifications(self.magnifications)
        if min(self.size) < 1 or self.patch_size < 1:
            raise ValueError(f"size {self.size} and patch_size {self.patch_size} must be positive numbers of pixels.")
        object.__setattr__(self, "mpp", to_mpp(self.mpp))
        object.__setattr__(self, "size", (int(self.size[0]), int(self.size[1])))
        object.__setattr__(self, "magnifications", magnifications)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the magnifications, coarse to fine; with the spacing where two would be called the same."""
        names = [m.name for m in self.magnifications]  # type: ignore[union-attr]
        unique = len(set(names)) == len(names)
        return tuple(n if unique else f"{n}-{m.mpp:g}um" for n, m in zip(names, self.magnifications))  # type: ignore[union-attr]

    @cached_property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of the picture at each magnification, in the pixels of that magnification."""
        scales = [self.mpp / m.mpp for m in self.magnifications]  # type: ignore[union-attr]
        return tuple((max(1, round(self.size[0] * s)), max(1, round(self.size[1] * s))) for s in scales)

    @cached_property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of cells at each magnification."""
        return tuple((grid_size(h, self.patch_size), grid_size(w, self.patch_size)) for h, w in self.level_sizes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Flat index of the first cell of each magnification, then the number of all cells."""
        total = [0]
        for rows, cols in self.grids:
            total.append(total[-1] + rows * cols)
        return tuple(total)

    @property
    def num_cells(self) -> int:
        """Number of cells over all magnifications."""
        return self.offsets[-1]

    def cell(self, index: int) -> GridCell:
        """The cell of a flat index.

        Raises:
            IndexError: when ``index`` is outside ``[0, num_cells)``.
        """
        if not 0 <= index < self.num_cells:
            raise IndexError(f"cell {index} is outside the {self.num_cells} cells of grids {self.grids}.")
        level = bisect_right(self.offsets, index) - 1
        row, col = divmod(index - self.offsets[level], self.grids[level][1])
        return GridCell(level, row, col)

    def index(self, cell: GridCell) -> int:
        """The flat index of a cell."""
        level, row, col = cell
        return self.offsets[level] + row * self.grids[level][1] + col

    def patch(self, index: int) -> tuple[int, Box]:
        """The level of a cell, and its :meth:`level_box`."""
        level, row, col = self.cell(index)
        (height, width), (rows, cols), p = self.level_sizes[level], self.grids[level], self.patch_size
        return level, Box(self._start(row, rows, height), self._start(col, cols, width), p, p)

    def level_box(self, index: int) -> Box:
        """The patch of a cell in the pixels of its own magnification: integers, ``patch_size`` high and wide."""
        return self.patch(index)[1]

    def _start(self, cell: int, cells: int, length: int) -> int:
        if self.aligned:
            return min(cell * self.patch_size, max(length - self.patch_size, 0))
        return patch_start(cell, cells, length, self.patch_size)

    def box(self, index: int) -> Box:
        """The patch of a cell in level-0 pixels: fractional; beyond the picture where that is smaller than a patch."""
        level, box = self.patch(index)
        height, width = self.level_sizes[level]
        down, right = self.size[0] / height, self.size[1] / width
        return Box(box.row * down, box.col * right, box.height * down, box.width * right)

    def cell_box(self, index: int) -> Box:
        """The cell itself, without its patch's overlap, in level-0 pixels: the cells of a grid tile the picture."""
        level, row, col = self.cell(index)
        height, width = self.size[0] / self.grids[level][0], self.size[1] / self.grids[level][1]
        return Box(row * height, col * width, height, width)
