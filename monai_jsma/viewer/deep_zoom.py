# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Where the tiles of a zoomable image lie: pure arithmetic, no file is known here.

The last level is the image itself, each level before it is half as large, and level 0 is one pixel: the layout of Deep
Zoom images, which OpenSeadragon knows. Sizes are (height, width), tiles are counted by level, row and column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from monai_jsma.geometry import Box

__all__ = ["TILE_SIZE", "DeepZoom", "TileIndex"]

TILE_SIZE = 256


class TileIndex(NamedTuple):
    """One tile: its level (0 is the coarsest), row and column."""

    level: int
    row: int
    col: int


@dataclass(frozen=True)
class DeepZoom:
    """The tiles of an image.

    Args:
        size: height and width of the image in pixels.

    Example::

        >>> zoom = DeepZoom((300, 1000))
        >>> zoom.max_level, zoom.scale(8), zoom.grid(8)
        (10, 4, (1, 1))
        >>> zoom.tile(TileIndex(10, 1, 3))
        (Box(row=256, col=768, height=44, width=232), (44, 232))
    """

    size: tuple[int, int]

    @property
    def max_level(self) -> int:
        """The level that is the image itself."""
        return (max(self.size) - 1).bit_length()

    def scale(self, level: int) -> int:
        """Pixels of the image along a pixel of a level."""
        return 1 << (self.max_level - level)

    def grid(self, level: int) -> tuple[int, int]:
        """Rows and columns of tiles of a level."""
        extent = TILE_SIZE * self.scale(level)
        height, width = self.size
        rows = _divide_up(height, extent)
        cols = _divide_up(width, extent)
        return rows, cols

    def tile(self, index: TileIndex) -> tuple[Box, tuple[int, int]]:
        """What a tile shows, in pixels of the image, and its height and width.

        The last tile of a row or column ends where the image does; a part of a pixel is one there.

        Raises:
            IndexError: if there is no such tile.
        """
        self._check(index)
        scale = self.scale(index.level)
        rows = _find_span(index.row, scale, self.size[0])
        cols = _find_span(index.col, scale, self.size[1])
        box = Box(rows.start, cols.start, len(rows), len(cols))
        size = (
            _divide_up(len(rows), scale),
            _divide_up(len(cols), scale),
        )
        return box, size

    def _check(self, index: TileIndex) -> None:
        if index.level not in range(self.max_level + 1):
            raise IndexError(f"level {index.level} is not one of 0 to {self.max_level}")
        rows, cols = self.grid(index.level)
        if index.row in range(rows) and index.col in range(cols):
            return
        raise IndexError(
            f"tile {index.row}, {index.col} is outside the {rows} x {cols} tiles (rows x columns) of level "
            f"{index.level}"
        )


def _find_span(number: int, scale: int, length: int) -> range:
    """The pixels of the image under a tile, along one axis."""
    extent = TILE_SIZE * scale
    start = number * extent
    end = min(start + extent, length)
    return range(start, end)


def _divide_up(number: int, divisor: int) -> int:
    """The quotient, rounded up."""
    return -(-number // divisor)
