# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The eight orientations of a square, on pixels and on cells.

An orientation is a number from 0 to 7. Bit 4 transposes rows and columns; then bit 2 reverses the rows and bit 1 the
columns. 0 leaves everything as stored. Pixels have shape ``(height, width, channels)``.
"""

from __future__ import annotations

import numpy as np

from monai_jsma.data.geometry import GridCell

__all__ = ["ORIENTATIONS", "oriented_size", "orient", "stored_cell"]

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
