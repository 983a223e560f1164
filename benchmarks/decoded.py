# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Counts the tiles that lie under what a pyramid reads."""

from __future__ import annotations

import numpy as np

from monai_jsma.data import Pyramid, inspect_slide
from monai_jsma.slides.tifffile_reader import TileFile

__all__ = ["Decoded", "Window"]

Window = tuple[int, int, int, int, int]  # level, row, column, height, width, as Reader.read takes them


class Decoded:
    """What a pyramid of a tiled slide reads from now on."""

    def __init__(self, pyramid: Pyramid) -> None:
        self.path, self.windows = pyramid.path, list[Window]()
        read = pyramid.reader.read

        def recorded(*window: int) -> np.ndarray:
            self.windows.append(window)  # type: ignore[arg-type]
            return read(*window)

        pyramid.reader.read = recorded  # type: ignore[method-assign]

    def tiles(self) -> list[Window]:
        """The tiles under every window, as often as they are touched: a library that keeps none decodes so many."""
        file = TileFile(self.path, inspect_slide(self.path, reader="tifffile").pages)
        return [_tile(file, level, row, col) for level, *w in self.windows for _, row, col in file.touched(level, *w)]


def _tile(file: TileFile, level: int, row: int, col: int) -> Window:
    (height, width), (down, right) = file.levels[level].size, file.levels[level].tile
    return level, row, col, min(down, height - row), min(right, width - col)
