# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The slides of the reading benchmarks: a tissue of a few tiles repeated to a tiled pyramid of any size.

Arrays are ``uint8`` (height, width, 3), sizes pixels, spacings um per pixel (mpp).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, product, repeat

import numpy as np
import tifffile

from monai_jsma.data import Box, area_resample, inspect_slide
from monai_jsma.slides import open_slide

__all__ = ["TILE", "tissue", "write_slide"]

TILE = 256
_SIDE = 2048  # of the tissue, at most


def tissue(path: str | None) -> np.ndarray:
    """Pixels to repeat: the middle of a picture or slide, or waves and noise that take as many bytes as tissue does."""
    if path is None:
        rows, cols = np.mgrid[:_SIDE, :_SIDE]
        waves = np.stack([np.sin(rows / 17 + c) + np.cos(cols / (11 + c)) for c in range(3)], axis=-1)
        noise = np.random.default_rng(0).normal(0, 6, waves.shape)
        return np.clip(np.array([200, 150, 190]) + 25 * waves + noise, 0, 255).astype(np.uint8)
    reader = open_slide(inspect_slide(path))
    (height, width), unit = reader.level_sizes[0], 4 * TILE  # whole tiles, or whole parts of one, at every level
    inside = min(height, _SIDE) // unit * unit, min(width, _SIDE) // unit * unit
    if min(inside) == 0:
        raise ValueError(f"{path}: is {height} x {width} pixels; give a picture of at least {unit} x {unit}.")
    return reader.read(0, (height - inside[0]) // 2, (width - inside[1]) // 2, *inside)


def write_slide(
    path: str,
    pixels: np.ndarray,
    size: int,
    mpp: float,
    downsamples: Sequence[int],
    compression: str | None,
    once: bool,
) -> None:
    """Write ``pixels``, repeated to a square of ``size``, as a BigTIFF pyramid.

    Args:
        path: of the slide.
        pixels: the tissue; its sides are multiples of 1024.
        size: height and width of level 0.
        mpp: of level 0.
        downsamples: of the levels.
        compression: "jpeg" (4:2:0, quality 80) or None.
        once: store each different tile once, and let all its repetitions point to the same bytes.

    Raises:
        ValueError: when ``once`` is asked of a slide smaller than its tissue.
    """
    if once and size < max(pixels.shape):
        raise ValueError(
            f"a slide of {size} pixels a side is smaller than its tissue; give at least {max(pixels.shape)}."
        )
    jpeg = {"photometric": "ycbcr", "subsampling": (2, 2), "compressionargs": {"level": 80}}
    grids = []
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for down in downsamples:
            side, tiles = size // down, _different_tiles(pixels, down)
            grids.append(tiles.shape[:2])
            tif.write(
                _in_order(tiles, -(-side // TILE), once),
                shape=(side, side, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                compression=compression,
                resolution=(1e4 / (mpp * down),) * 2,
                resolutionunit="CENTIMETER",
                subfiletype=int(down > 1),  # 1: reduced
                metadata=None,
                **(jpeg if compression else {"photometric": "rgb"}),
            )
    if once:
        _point_to_same(path, grids)


def _different_tiles(pixels: np.ndarray, down: int) -> np.ndarray:
    """The tiles of the reduced tissue, ``(rows, columns, TILE, TILE, 3)``."""
    size = len(pixels) // down, pixels.shape[1] // down
    level = area_resample(pixels, Box(0, 0, *pixels.shape[:2]), size)
    level = np.tile(level, (max(TILE // size[0], 1), max(TILE // size[1], 1), 1))
    return level.reshape(len(level) // TILE, TILE, -1, TILE, 3).swapaxes(1, 2)


def _in_order(tiles: np.ndarray, count: int, once: bool) -> Iterator[np.ndarray | None]:
    """The ``count`` x ``count`` tiles of a level, row by row; or the different ones first, and None for the rest."""
    rows, cols = tiles.shape[:2]
    if once:
        return chain(tiles.reshape(-1, *tiles.shape[2:]), repeat(None, count * count - rows * cols))
    return (tiles[i % rows, j % cols] for i, j in product(range(count), repeat=2))


def _point_to_same(path: str, grids: Sequence[tuple[int, ...]]) -> None:
    with tifffile.TiffFile(path, mode="r+") as tif:
        for page, (rows, cols) in zip(tif.pages, grids):
            i, j = np.ogrid[: page.chunked[0], : page.chunked[1]]
            which = (i % rows * cols + j % cols).ravel()
            for name in ("TileOffsets", "TileByteCounts"):
                page.tags[name].overwrite(np.array(page.tags[name].value)[which].tolist())
