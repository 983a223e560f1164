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
        return -(-height // extent), -(-width // extent)

    def tile(self, index: TileIndex) -> tuple[Box, tuple[int, int]]:
        """What a tile shows, in pixels of the image, and its height and width.

        The last tile of a row or column ends where the image does; a part of a pixel is one there.

        Raises:
            IndexError: if there is no such tile.
        """
        if not 0 <= index.level <= self.max_level:
            raise IndexError(f"level {index.level} is not one of 0 to {self.max_level}")
        rows, cols = self.grid(index.level)
        if not (0 <= index.row < rows and 0 <= index.col < cols):
            raise IndexError(
                f"tile {index.row}, {index.col} is outside the {rows} x {cols} tiles (rows x columns) of level "
                f"{index.level}"
            )
        scale = self.scale(index.level)
        top, height = _find_span(index.row, scale, self.size[0])
        left, width = _find_span(index.col, scale, self.size[1])
        size = (-(-height // scale), -(-width // scale))
        return Box(top, left, height, width), size


def _find_span(number: int, scale: int, length: int) -> tuple[int, int]:
    """First pixel and number of pixels of the image under a tile, along one axis."""
    extent = TILE_SIZE * scale
    start = number * extent
    return start, min(extent, length - start)
