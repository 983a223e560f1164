# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Tiled pyramids in which equal tiles are stored once: huge slides that are small on disk.

A TIFF file lists where the bytes of each tile are, and several tiles may have the same bytes. cuCIM, OpenSlide and
tifffile read such a file as any other. Tiles are RGB, compressed without loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile

from monai_jsma.slides.tiled import describe_level

__all__ = ["SharedLevel", "write_shared_tiles"]


class SharedLevel(NamedTuple):
    """A level to write.

    Attributes:
        size: height and width in pixels.
        numbers: number of the different tile at each place, int ``(rows, columns)``.
        tiles: the different tiles in the order of their numbers, each once, ``uint8`` ``(TILE, TILE, 3)``.
    """

    size: tuple[int, int]
    numbers: np.ndarray
    tiles: Iterable[np.ndarray]


def write_shared_tiles(path: str | Path, levels: Sequence[SharedLevel], *, mpp: float) -> None:
    """Write the levels of a pyramid; at a time one tile is in memory.

    Args:
        path: the file, which is overwritten.
        levels: the levels, finest first.
        mpp: um per pixel of level 0, stored as the resolution.
    """
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for level in levels:
            tif.write(
                _fill_up(level),
                photometric="rgb",
                compression="adobe_deflate",
                **describe_level(level.size, levels[0].size, mpp=mpp),
            )
    _share_bytes(path, levels)


def _fill_up(level: SharedLevel) -> Iterator[np.ndarray | None]:
    """The different tiles, and None for all other places."""
    num_tiles = int(level.numbers.max()) + 1
    yield from level.tiles
    yield from repeat(None, level.numbers.size - num_tiles)


def _share_bytes(path: str | Path, levels: Sequence[SharedLevel]) -> None:
    """Let each place point to the bytes of its tile."""
    with tifffile.TiffFile(path, mode="r+") as tif:
        for page, level in zip(tif.pages, levels, strict=True):
            places = level.numbers.ravel()
            for name in ("TileOffsets", "TileByteCounts"):
                tag = page.tags[name]  # type: ignore[union-attr]
                values = np.array(tag.value)
                tag.overwrite(values[places].tolist())
