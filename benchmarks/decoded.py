# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Counts the tiles that lie under what a pyramid reads."""

from __future__ import annotations

import numpy as np

from monai_jsma.data import Pyramid
from monai_jsma.slides.tiff import TiffHeader, TiffLevel
from monai_jsma.slides.tifffile_reader import TileFile, TilePlace

__all__ = ["Decoded", "Window"]

Window = tuple[int, tuple[int, int], tuple[int, int]]  # level, location, size, as Reader.read takes them


class Decoded:
    """Records what a pyramid of a tiled slide reads from now on."""

    def __init__(self, pyramid: Pyramid) -> None:
        self.path = pyramid.path
        self.windows: list[Window] = []
        read = pyramid.reader.read

        def read_and_record(level: int, location: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
            self.windows.append((level, location, size))
            return read(level, location, size)

        pyramid.reader.read = read_and_record  # type: ignore[method-assign]

    def tiles(self) -> list[Window]:
        """The tiles under every window, as often as they are touched: a library that caches none decodes so many."""
        file = TileFile(TiffHeader.read(self.path))
        tiles = []
        for level, location, size in self.windows:
            for tile in file.find_tiles(level, location, size):
                tiles.append((level, (tile.row, tile.col), _size_inside(file.levels[level], tile)))
        return tiles


def _size_inside(level: TiffLevel, tile: TilePlace) -> tuple[int, int]:
    """Size of a tile without what lies beyond the level."""
    height = min(level.tile[0], level.size[0] - tile.row)
    width = min(level.tile[1], level.size[1] - tile.col)
    return height, width
