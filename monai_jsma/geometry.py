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

import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import NamedTuple

import numpy as np

__all__ = [
    "Box",
    "GridCell",
    "MAX_UPSAMPLING",
    "Magnification",
    "ORIENTATIONS",
    "PatchGeometry",
    "automatic_magnifications",
    "check_fine_enough",
    "check_region",
    "grid_size",
    "lies_inside",
    "orient",
    "oriented_size",
    "patch_start",
    "sorted_magnifications",
    "stored_cell",
    "to_mpp",
]

# "100X" of a 10x objective and a 10x eyepiece is about 1 um per pixel; the field's other steps are doublings of it.
_MPP_OF_100X = 1.0


@dataclass(frozen=True, order=True)
class Magnification:
    """A magnification of a picture, keyed by its spacing.

    Args:
        mpp: micrometres per pixel, positive.

    Example::

        >>> Magnification(0.84).name
        '100X'
    """

    mpp: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mpp) and self.mpp > 0):
            raise ValueError(f"mpp must be a positive number of micrometres per pixel, but got {self.mpp}.")

    @property
    def name(self) -> str:
        """The field's name of the nearest doubling of 100X (1 um/px): 0.42 um/px is "200X", as the paper calls it."""
        # The fraction of a float is that of its doublings too: no two of them share a name, as rounded logarithms may.
        fraction, exponent = math.frexp(self.mpp / _MPP_OF_100X)
        return f"{100 * 2.0 ** ((fraction <= math.sqrt(0.5)) - exponent):.10g}X"

    def __str__(self) -> str:
        return f"{self.name} ({self.mpp:g} um/px)"


def to_mpp(magnification: float | str | Magnification) -> float:
    """Micrometres per pixel of a number (already mpp), of a name such as ``"100X"`` or of a :class:`Magnification`.

    Raises:
        ValueError: for a number that is not positive, a string that is not a number followed by ``X``, or neither.
    """
    if isinstance(magnification, Magnification):
        return magnification.mpp
    if isinstance(magnification, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*[xX]\s*", magnification)
        if match is None or float(match[1]) == 0:
            raise ValueError(f"'{magnification}' is no magnification: give um per pixel (1.0) or a name ('100X').")
        return 100 * _MPP_OF_100X / float(match[1])
    if not isinstance(magnification, Real):
        raise ValueError(f"{magnification!r} is no magnification: give um per pixel (1.0) or a name ('100X').")
    return Magnification(float(magnification)).mpp


def sorted_magnifications(magnifications: Sequence[float | str | Magnification]) -> tuple[Magnification, ...]:
    """Spacings in um per pixel, or names ("100X"), as magnifications from coarse to fine.

    Raises:
        ValueError: when they are no list, there is none, or one is repeated.
    """
    if isinstance(magnifications, str) or not isinstance(magnifications, Iterable):
        raise ValueError(
            f"magnifications must be a list such as [2.0, 1.0] or ['50X', '100X'], but got {magnifications!r}; "
            "automatic_magnifications chooses those for pictures of a size."
        )
    found = sorted((Magnification(to_mpp(m)) for m in magnifications), reverse=True)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"magnifications must be different and at least one, but got {list(magnifications)}.")
    return tuple(found)


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


ORIENTATIONS = tuple(range(8))


def oriented_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Height and width after orienting something of ``size``."""
    return (size[1], size[0]) if orientation & 4 else size


def orient(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels ``(height, width, channels)`` as stored, oriented (a view)."""
    if orientation & 4:
        pixels = pixels.swapaxes(0, 1)
    return pixels[:: -1 if orientation & 2 else 1, :: -1 if orientation & 1 else 1]


def stored_cell(cell: GridCell, grid: tuple[int, int], orientation: int) -> GridCell:
    """The cell of the stored picture that lies at ``cell`` of the oriented one, whose grid (rows, columns) is given."""
    row = grid[0] - 1 - cell.row if orientation & 2 else cell.row
    col = grid[1] - 1 - cell.col if orientation & 1 else cell.col
    return GridCell(cell.level, col, row) if orientation & 4 else GridCell(cell.level, row, col)


MAX_UPSAMPLING = 1.05  # so much finer than level 0 a magnification may be


def lies_inside(full: Sequence[int], origin: Sequence[int], size: Sequence[int]) -> bool:
    """Whether a region has pixels and lies inside a picture; all in (row, column) and (height, width)."""
    return min(origin) >= 0 and min(size) >= 1 and all(o + n <= m for o, n, m in zip(origin, size, full))


def check_region(path: str, full: tuple[int, int], origin: Sequence[int], size: Sequence[int]) -> None:
    """Check that a region lies inside its picture.

    Args:
        path: the file, for the message.
        full: height and width of the picture.
        origin: row and column of the region's top-left corner, in level-0 pixels.
        size: its height and width, in level-0 pixels.

    Raises:
        ValueError: if it does not.
    """
    if not lies_inside(full, origin, size):
        raise ValueError(
            f"{path}: the region at (row, column) {tuple(origin)} of (height, width) {tuple(size)} leaves the "
            f"picture of {full}; correct 'location' and 'size' in the datalist (level-0 pixels)."
        )


def check_fine_enough(
    path: str, mpp: float, source: str, finest: float | str | Magnification, max_upsampling: float = MAX_UPSAMPLING
) -> None:
    """Check that a picture of ``mpp`` um per pixel can serve the magnification ``finest``.

    Raises:
        ValueError: if it is too coarse.
    """
    wanted = Magnification(to_mpp(finest))
    if mpp > wanted.mpp * max_upsampling:
        raise ValueError(
            f"{path}: {wanted} is finer than the file's {mpp:g} um/px ({source}); choose coarser "
            "magnifications, or correct 'mpp' in the datalist."
        )


def automatic_magnifications(
    size: Sequence[int],
    mpp: float | str | Magnification,
    patch_size: int,
    finest: float | str | Magnification | None = None,
) -> tuple[float, ...]:
    """The magnifications of pictures of a size: each shows half as much detail as the next, the first fits one patch.

    A network has weights of its own for each magnification, so they are chosen once, for the pictures of its training.
    Others are looked at with the same: in a smaller picture several of them have one cell, in a larger one none has.

    Args:
        size: height and width of the pictures, in pixels of ``mpp``.
        mpp: their spacing in um per pixel, or a name ("100X").
        patch_size: height and width of a patch, in pixels of its magnification.
        finest: the finest magnification; ``mpp`` by default.

    Returns:
        spacings in um per pixel, coarse to fine. All but the coarsest have more than one cell. If one patch covers the
        pictures at the finest, that is all.

    Raises:
        ValueError: when a size or spacing is missing or not positive.

    Example::

        >>> automatic_magnifications((1536, 2048), 0.42, 299)
        (3.36, 1.68, 0.84, 0.42)
    """
    if (
        not isinstance(size, Sequence)
        or len(size) != 2
        or not all(isinstance(n, Real) and 1 <= n < math.inf for n in size)
    ):
        raise ValueError(f"size must be the height and width of the pictures, in pixels, but got {size!r}.")
    height, width = size
    spacings = [to_mpp(mpp if finest is None else finest)]
    while PatchGeometry((height, width), to_mpp(mpp), spacings[-1:], patch_size).num_cells > 1:
        spacings.append(2 * spacings[-1])
    return tuple(reversed(spacings))
