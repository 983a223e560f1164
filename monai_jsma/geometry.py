# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Where the patches of an image lie: magnifications, grids, cells, boxes, orientations (paper, Sections 3.1 and 4.2).

Pure arithmetic: no file and no network is known here. Sizes are ``(height, width)``, positions ``(row, column)`` of the
top-left corner, and pixels are those of level 0 (the finest stored resolution) unless a name says otherwise. A
magnification is a physical spacing in micrometres per pixel (mpp); names such as "100X" are aliases for display.

The cells of all magnifications share one flat index, coarse to fine and row-major inside a magnification. The joint
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
    "MAX_UPSAMPLING",
    "ORIENTATIONS",
    "Box",
    "GridCell",
    "Magnification",
    "PatchGeometry",
    "automatic_magnifications",
    "check_fine_enough",
    "check_region",
    "grid_size",
    "is_inside",
    "orient",
    "oriented_size",
    "patch_start",
    "rescale_span",
    "sorted_magnifications",
    "stored_cell",
    "to_mpp",
]

MAX_UPSAMPLING = 1.05  # a magnification may be this much finer than level 0
ORIENTATIONS = tuple(range(8))

# "100X" of a 10x objective and a 10x eyepiece is about 1 um per pixel; the field's other steps are doublings of it.
_MPP_OF_100X = 1.0
_NAME = re.compile(r"\s*(\d+(?:\.\d+)?)\s*[xX]\s*")


# ------------------------------------------------------------------------------------------------------ magnifications


@dataclass(frozen=True, order=True)
class Magnification:
    """A magnification of an image, identified by its spacing.

    Args:
        mpp: spacing in micrometres per pixel, positive.

    Example::

        >>> Magnification(0.84).name
        '100X'
    """

    mpp: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.mpp) or self.mpp <= 0:
            raise ValueError(f"mpp must be a positive number of micrometres per pixel, but got {self.mpp}.")

    @property
    def name(self) -> str:
        """The field's name of the nearest doubling of 100X (1 um/px): 0.42 um/px is "200X", as the paper calls it."""
        # frexp is exact: doublings of a spacing never share a name, as they may with rounded logarithms.
        fraction, exponent = math.frexp(self.mpp / _MPP_OF_100X)
        doublings = -exponent
        if fraction <= math.sqrt(0.5):
            doublings += 1
        return f"{100 * 2.0**doublings:.10g}X"

    def __str__(self) -> str:
        return f"{self.name} ({self.mpp:g} um/px)"


def to_mpp(magnification: float | str | Magnification) -> float:
    """Micrometres per pixel of a number (already mpp), of a name such as ``"100X"`` or of a :class:`Magnification`.

    Raises:
        ValueError: for a number that is not positive, or a string that is not a number followed by ``X``.
    """
    if isinstance(magnification, Magnification):
        return magnification.mpp
    if isinstance(magnification, str):
        match = _NAME.fullmatch(magnification)
        if match is None or float(match[1]) == 0:
            raise ValueError(f"'{magnification}' is no magnification: give um per pixel (1.0) or a name ('100X').")
        return 100 * _MPP_OF_100X / float(match[1])
    if not isinstance(magnification, Real):
        raise ValueError(f"{magnification!r} is no magnification: give um per pixel (1.0) or a name ('100X').")
    return Magnification(float(magnification)).mpp


def sorted_magnifications(magnifications: Sequence[float | str | Magnification]) -> tuple[Magnification, ...]:
    """Spacings in um per pixel, or names ("100X"), as magnifications from coarse to fine.

    Raises:
        ValueError: when they are not a list, the list is empty, or one is repeated.
    """
    if isinstance(magnifications, str) or not isinstance(magnifications, Iterable):
        raise ValueError(
            f"magnifications must be a list such as [2.0, 1.0] or ['50X', '100X'], but got {magnifications!r}; "
            "automatic_magnifications chooses those for images of a size."
        )
    result = sorted((Magnification(to_mpp(m)) for m in magnifications), reverse=True)
    if not result or len(set(result)) < len(result):
        raise ValueError(f"magnifications must be different and at least one, but got {list(magnifications)}.")
    return tuple(result)


def may_be_decimal_commas(numbers: Sequence[int]) -> bool:
    """Whether whole numbers in a list of spacings are likely the parts of numbers with a decimal comma.

    Magnifications differ by powers of 2 as a rule, and none is 0.

    Example::

        >>> may_be_decimal_commas([0, 25]), may_be_decimal_commas([1, 68]), may_be_decimal_commas([4, 2, 1])
        (True, True, False)
    """
    if len(numbers) < 2:
        return False
    smallest = min(numbers)
    if smallest <= 0:
        return True
    return any(not math.log2(number / smallest).is_integer() for number in numbers)


def automatic_magnifications(
    size: Sequence[int],
    mpp: float | str | Magnification,
    patch_size: int,
    *,
    finest: float | str | Magnification | None = None,
) -> tuple[float, ...]:
    """Magnifications for images of a size: each halves the next, and one patch covers the image at the coarsest.

    This is a rule for the paper's future work (Section 5). A network has weights of its own for each magnification, so
    the magnifications are chosen once, for the images it is trained on. In a smaller image several of them then have
    one cell; in a larger one none has.

    Args:
        size: height and width of the images, in pixels of ``mpp``.
        mpp: spacing of the images in um per pixel, or a name ("100X").
        patch_size: height and width of a patch, in pixels of its magnification.
        finest: the finest magnification; ``mpp`` by default.

    Returns:
        spacings in um per pixel, coarse to fine. All but the coarsest have more than one cell. If one patch covers the
        images at the finest, it is the only one.

    Raises:
        ValueError: when a size or spacing is missing or not positive.

    Example::

        >>> automatic_magnifications((1536, 2048), 0.42, 299)
        (3.36, 1.68, 0.84, 0.42)
    """
    if not _is_size(size):
        raise ValueError(f"size must be the height and width of the images, in pixels, but got {size!r}.")
    height, width = size
    spacing = to_mpp(mpp if finest is None else finest)
    spacings = [spacing]
    while PatchGeometry((height, width), to_mpp(mpp), [spacing], patch_size=patch_size).num_cells > 1:
        spacing = 2 * spacing
        spacings.append(spacing)
    return tuple(reversed(spacings))


def _is_size(value: object) -> bool:
    if not isinstance(value, Sequence) or len(value) != 2:
        return False
    return all(isinstance(n, Real) and 1 <= float(n) < math.inf for n in value)


# ------------------------------------------------------------------------------------------------------ grids and boxes


class Box(NamedTuple):
    """A rectangle: top-left ``row`` and ``col``, then ``height`` and ``width``, in the pixels of its level."""

    row: float
    col: float
    height: float
    width: float

    @property
    def bottom(self) -> float:
        """The row after its last."""
        return self.row + self.height

    @property
    def right(self) -> float:
        """The column after its last."""
        return self.col + self.width

    @property
    def ring(self) -> list[list[float]]:
        """Its corners as a closed ring of (x, y), as GeoJSON has polygons."""
        top_left = [self.col, self.row]
        top_right = [self.right, self.row]
        bottom_right = [self.right, self.bottom]
        bottom_left = [self.col, self.bottom]
        return [top_left, top_right, bottom_right, bottom_left, top_left]


class GridCell(NamedTuple):
    """One cell of the joint attention map: the index of its magnification (0 is the coarsest), its row and column."""

    level: int
    row: int
    col: int


def grid_size(length: int, patch_size: int) -> int:
    """Number of cells along an axis of ``length`` pixels: enough patches to cover it, at least one."""
    return max(1, math.ceil(length / patch_size))


def patch_start(cell: int, *, num_cells: int, length: int, patch_size: int) -> int:
    """First pixel of the patch of a cell along one axis.

    The patch is centered on the cell ``[cell, cell + 1) * length / num_cells``, then moved inside ``[0, length)``; on
    an axis shorter than a patch it starts at 0. Integer arithmetic (halves round down): every platform agrees.
    """
    # start = center of the cell - patch_size / 2, written over the common denominator 2 * num_cells
    numerator = (2 * cell + 1) * length - num_cells * patch_size
    denominator = 2 * num_cells
    start = -((num_cells - numerator) // denominator)
    last = max(length - patch_size, 0)
    return min(max(start, 0), last)


def rescale_span(start: int, end: int, *, length: int, new_length: int) -> tuple[int, int]:
    """Find the pixels that a span of an axis touches at another resolution.

    Args:
        start: first pixel of the span.
        end: pixel after its last.
        length: length of the axis in these pixels.
        new_length: length of the axis in pixels of the other resolution.

    Returns:
        start and end in pixels of the other resolution, rounded outward.
    """
    new_start = start * new_length // length
    new_end = -(-end * new_length // length)  # rounded up
    return new_start, new_end


@dataclass(frozen=True)
class PatchGeometry:
    """The patch grids of one image at every magnification, and the flat index over all their cells.

    At a magnification of ``m`` um/px an image of ``height`` pixels of ``mpp`` um/px is ``round(height * mpp / m)``
    pixels high, and ``ceil`` of that over ``patch_size`` gives the rows. Each patch is centered on its cell and moved
    inside the image. So the patches cover the image, never leave it, and contain their cells up to half a pixel of
    rounding. An image smaller than a patch has one cell, whose patch reaches beyond the right and bottom edge.

    Aligned patches lie side by side from the top left, so that they start on the borders of a file's tiles where
    ``patch_size`` is that of the tiles. The last of a row or column is moved back into the image, and begins between
    borders where its length is no multiple of ``patch_size``; there the patches before it overlap their cells without
    containing them. They still cover the image.

    Args:
        size: height and width of the image at level 0, in pixels.
        mpp: spacing of level 0, in um per pixel.
        magnifications: spacings in um per pixel, or names ("100X"); kept coarse to fine.
        patch_size: height and width of a patch at its magnification, in pixels.
        aligned: put the patches side by side, on multiples of ``patch_size``, instead of on the centers of their cells.

    Raises:
        ValueError: when a size, a spacing or the list of magnifications is empty, repeated or not positive.

    Example::

        >>> bach = PatchGeometry((1536, 2048), 0.42, (1.68, 0.84, 0.42), patch_size=299)
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
        height, width = self.size
        object.__setattr__(self, "mpp", to_mpp(self.mpp))
        object.__setattr__(self, "size", (int(height), int(width)))
        object.__setattr__(self, "magnifications", magnifications)

    @cached_property
    def spacings(self) -> tuple[float, ...]:
        """Spacing of each magnification in um per pixel, coarse to fine."""
        return tuple(map(to_mpp, self.magnifications))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the magnifications, coarse to fine; with the spacing where two would have the same name."""
        names = [Magnification(mpp).name for mpp in self.spacings]
        if len(set(names)) == len(names):
            return tuple(names)
        return tuple(f"{name}-{mpp:g}um" for name, mpp in zip(names, self.spacings))

    @cached_property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of the image at each magnification, in the pixels of that magnification."""
        height, width = self.size
        sizes = []
        for spacing in self.spacings:
            scale = self.mpp / spacing
            sizes.append((max(1, round(height * scale)), max(1, round(width * scale))))
        return tuple(sizes)

    @cached_property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of cells at each magnification."""
        return tuple((grid_size(h, self.patch_size), grid_size(w, self.patch_size)) for h, w in self.level_sizes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Flat index of the first cell of each magnification, then the number of all cells."""
        offsets = [0]
        for rows, cols in self.grids:
            offsets.append(offsets[-1] + rows * cols)
        return tuple(offsets)

    @cached_property
    def slices(self) -> dict[str, slice]:
        """Where the cells of each magnification lie in the flat index, by name, coarse to fine."""
        return {name: slice(*self.offsets[level : level + 2]) for level, name in enumerate(self.names)}

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
        _, cols = self.grids[level]
        row, col = divmod(index - self.offsets[level], cols)
        return GridCell(level, row, col)

    def index(self, cell: GridCell) -> int:
        """The flat index of a cell."""
        _, cols = self.grids[cell.level]
        return self.offsets[cell.level] + cell.row * cols + cell.col

    def patch(self, index: int) -> tuple[int, Box]:
        """The magnification (its index) of a cell, and the cell's patch in the pixels of that magnification.

        The box holds integers and is ``patch_size`` high and wide.
        """
        level, row, col = self.cell(index)
        height, width = self.level_sizes[level]
        rows, cols = self.grids[level]
        top = self._start(row, rows, height)
        left = self._start(col, cols, width)
        return level, Box(top, left, self.patch_size, self.patch_size)

    def level_box(self, index: int) -> Box:
        """The patch of a cell in the pixels of its own magnification, see :meth:`patch`."""
        _, box = self.patch(index)
        return box

    def _start(self, cell: int, num_cells: int, length: int) -> int:
        if self.aligned:
            return min(cell * self.patch_size, max(length - self.patch_size, 0))
        return patch_start(cell, num_cells=num_cells, length=length, patch_size=self.patch_size)

    def box(self, index: int) -> Box:
        """The patch of a cell in level-0 pixels: fractional; beyond the image where that is smaller than a patch."""
        level, box = self.patch(index)
        return self.to_level_0(box, level)

    def to_level_0(self, box: Box, level: int) -> Box:
        """A box in the pixels of a magnification (index ``level``) as a box in level-0 pixels."""
        height, width = self.level_sizes[level]
        down = self.size[0] / height
        right = self.size[1] / width
        return Box(box.row * down, box.col * right, box.height * down, box.width * right)

    def cell_box(self, index: int) -> Box:
        """The cell itself, without its patch's overlap, in level-0 pixels: the cells of a grid tile the image."""
        level, row, col = self.cell(index)
        rows, cols = self.grids[level]
        height = self.size[0] / rows
        width = self.size[1] / cols
        return Box(row * height, col * width, height, width)


# --------------------------------------------------------------------------------------------------------- orientations
#
# An orientation is a number from 0 to 7. Bit 4 transposes rows and columns; then bit 2 reverses the rows and bit 1 the
# columns. 0 leaves everything as stored.


def oriented_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Height and width after orienting something of ``size``."""
    height, width = size
    return (width, height) if orientation & 4 else (height, width)


def orient(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels ``(height, width, channels)`` in an orientation: a view, not a copy."""
    if orientation & 4:
        pixels = pixels.swapaxes(0, 1)
    if orientation & 2:
        pixels = pixels[::-1]
    if orientation & 1:
        pixels = pixels[:, ::-1]
    return pixels


def stored_cell(cell: GridCell, grid: tuple[int, int], orientation: int) -> GridCell:
    """The cell of the stored image that lies at ``cell`` of the oriented one, which has ``grid`` (rows, columns)."""
    level, row, col = cell
    rows, cols = grid
    if orientation & 2:
        row = rows - 1 - row
    if orientation & 1:
        col = cols - 1 - col
    if orientation & 4:
        return GridCell(level, col, row)
    return GridCell(level, row, col)


# --------------------------------------------------------------------------------------------------------------- checks


def is_inside(full_size: Sequence[int], location: Sequence[int], size: Sequence[int]) -> bool:
    """Whether a region, (row, column) and (height, width), has pixels and lies inside an image of ``full_size``."""
    if min(location) < 0 or min(size) < 1:
        return False
    return location[0] + size[0] <= full_size[0] and location[1] + size[1] <= full_size[1]


def check_region(full_size: tuple[int, int], location: Sequence[int], size: Sequence[int], *, path: str) -> None:
    """Check that a region lies inside its image.

    Args:
        full_size: height and width of the image, in level-0 pixels.
        location: row and column of the region's top-left corner, in level-0 pixels.
        size: height and width of the region, in level-0 pixels.
        path: file of the image, for the message.

    Raises:
        ValueError: if it does not.
    """
    if not is_inside(full_size, location, size):
        raise ValueError(
            f"{path}: the region at (row, column) {tuple(location)} of (height, width) {tuple(size)} leaves the "
            f"image of {full_size}; correct 'location' and 'size' in the datalist (level-0 pixels)."
        )


def check_fine_enough(
    mpp: float,
    finest: float | str | Magnification,
    *,
    path: str,
    mpp_source: str,
    max_upsampling: float = MAX_UPSAMPLING,
) -> None:
    """Check that an image of ``mpp`` um per pixel can serve the magnification ``finest``.

    Args:
        mpp: spacing of the image's level 0 in um per pixel.
        finest: the finest magnification, in um per pixel or a name ("100X").
        path: file of the image, for the message.
        mpp_source: where ``mpp`` came from, for the message.
        max_upsampling: how much finer than level 0 the magnification may be.

    Raises:
        ValueError: if the image is too coarse.
    """
    magnification = Magnification(to_mpp(finest))
    if mpp > magnification.mpp * max_upsampling:
        raise ValueError(
            f"{path}: {magnification} is finer than the file's {mpp:g} um/px ({mpp_source}); choose coarser "
            "magnifications, or correct 'mpp' in the datalist."
        )
