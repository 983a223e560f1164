# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Counts the tiles that lie under what a pyramid reads."""

from __future__ import annotations

import numpy as np

from monai_jsma.data import Pyramid
from monai_jsma.slides.tiff import TiffHeader, TiffLevel
from monai_jsma.slides.tifffile_reader import TileFile

__all__ = ["Decoded", "Window"]

Window = tuple[int, int, int, int, int]  # level, row, column, height, width, as Reader.read takes them


class Decoded:
    """Records what a pyramid of a tiled slide reads from now on."""

    def __init__(self, pyramid: Pyramid) -> None:
        self.path = pyramid.path
        self.windows: list[Window] = []
        read = pyramid.reader.read

        def read_and_record(*window: int) -> np.ndarray:
            self.windows.append(window)  # type: ignore[arg-type]
            return read(*window)

        pyramid.reader.read = read_and_record  # type: ignore[method-assign]

    def tiles(self) -> list[Window]:
        """The tiles under every window, as often as they are touched: a library that caches none decodes so many."""
        file = TileFile(TiffHeader.read(self.path))
        tiles = []
        for level, row, col, height, width in self.windows:
            for _, tile_row, tile_col in file.find_tiles(level, (row, col), (height, width)):
                tiles.append(_crop_tile(file.levels[level], level, (tile_row, tile_col)))
        return tiles


def _crop_tile(stored: TiffLevel, level: int, location: tuple[int, int]) -> Window:
    """A tile without what lies beyond the level."""
    row, col = location
    height = min(stored.tile[0], stored.size[0] - row)
    width = min(stored.tile[1], stored.size[1] - col)
    return level, row, col, height, width
