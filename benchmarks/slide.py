# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The slides of the benchmarks: a tissue of a few tiles repeated to a tiled pyramid of any size.

Arrays are ``uint8`` (height, width, 3), sizes pixels, spacings um per pixel (mpp).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, product, repeat

import numpy as np
import tifffile

from monai_jsma.geometry import Box
from monai_jsma.slides import area_resample, inspect_slide, open_slide

__all__ = ["TILE", "make_slide", "tissue", "write_slide"]

TILE = 256
_SIDE = 2048  # of the tissue, at most


def make_slide(
    path: str, source: str | None, *, size: int, mpp: float, downsamples: Sequence[int], once: bool = True
) -> None:
    """Write a JPEG slide of repeated tissue.

    Args:
        path: file to write.
        source: image or slide whose pixels are repeated; None for synthetic tissue.
        size: height and width of level 0.
        mpp: spacing of level 0.
        downsamples: downsamples of the levels.
        once: store each different tile once, see :func:`write_slide`.
    """
    write_slide(
        path,
        tissue(source),
        size=size,
        mpp=mpp,
        downsamples=downsamples,
        compression="jpeg",
        once=once,
    )


def tissue(path: str | None) -> np.ndarray:
    """Pixels to repeat: the middle of an image or slide, or synthetic waves and noise that compress as tissue does.

    Raises:
        ValueError: if the image is too small.
    """
    if path is None:
        return _draw_waves()

    reader = open_slide(inspect_slide(path))
    height, width = reader.level_sizes[0]
    unit = 4 * TILE  # whole tiles, or whole parts of one, at every level
    rows = min(height, _SIDE) // unit * unit
    cols = min(width, _SIDE) // unit * unit
    if min(rows, cols) == 0:
        raise ValueError(f"{path}: is {height} x {width} pixels; give an image of at least {unit} x {unit}.")
    return reader.read(0, ((height - rows) // 2, (width - cols) // 2), (rows, cols))


def _draw_waves() -> np.ndarray:
    rows, cols = np.mgrid[:_SIDE, :_SIDE]
    channels = []
    for c in range(3):
        along_rows = np.sin(rows / 17 + c)
        along_cols = np.cos(cols / (11 + c))
        channels.append(along_rows + along_cols)
    waves = np.stack(channels, axis=-1)

    rng = np.random.default_rng(0)
    noise = rng.normal(0, 6, waves.shape)
    color = np.array([200, 150, 190])
    pixels = color + 25 * waves + noise
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write_slide(
    path: str,
    pixels: np.ndarray,
    *,
    size: int,
    mpp: float,
    downsamples: Sequence[int],
    compression: str | None,
    once: bool,
) -> None:
    """Write ``pixels``, repeated to a square of ``size``, as a BigTIFF pyramid.

    Args:
        path: file to write.
        pixels: tissue; its sides are multiples of 1024.
        size: height and width of level 0.
        mpp: spacing of level 0.
        downsamples: downsamples of the levels.
        compression: "jpeg" (4:2:0, quality 80) or None.
        once: store each different tile once, and let all its repetitions point to the same bytes.

    Raises:
        ValueError: if ``once`` is set for a slide smaller than its tissue.
    """
    if once and size < max(pixels.shape):
        raise ValueError(
            f"a slide of {size} pixels a side is smaller than its tissue; give at least {max(pixels.shape)}."
        )

    options = {"photometric": "rgb"}
    if compression:
        options = {"photometric": "ycbcr", "subsampling": (2, 2), "compressionargs": {"level": 80}}

    grids = []
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        for down in downsamples:
            side = size // down
            tiles = _cut_tiles(pixels, down)
            grids.append(tiles.shape[:2])
            tif.write(
                _order_tiles(tiles, -(-side // TILE), once),
                shape=(side, side, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                compression=compression,
                resolution=(1e4 / (mpp * down),) * 2,
                resolutionunit="CENTIMETER",
                subfiletype=int(down > 1),  # 1: reduced
                metadata=None,
                **options,
            )
    if once:
        _share_bytes(path, grids)


def _cut_tiles(pixels: np.ndarray, down: int) -> np.ndarray:
    """The different tiles of the reduced tissue, ``(rows, columns, TILE, TILE, 3)``."""
    height, width = pixels.shape[:2]
    rows = height // down
    cols = width // down
    level = area_resample(pixels, Box(0, 0, height, width), (rows, cols))

    repeats_down = max(TILE // rows, 1)  # until there is at least one tile
    repeats_across = max(TILE // cols, 1)
    level = np.tile(level, (repeats_down, repeats_across, 1))
    tile_rows = len(level) // TILE
    return level.reshape(tile_rows, TILE, -1, TILE, 3).swapaxes(1, 2)


def _order_tiles(tiles: np.ndarray, count: int, once: bool) -> Iterator[np.ndarray | None]:
    """The ``count`` x ``count`` tiles of a level, row by row; or the different ones first, and None for the rest."""
    rows, cols = tiles.shape[:2]
    if once:
        different = tiles.reshape(-1, *tiles.shape[2:])
        num_repeated = count * count - rows * cols
        return chain(different, repeat(None, num_repeated))
    locations = product(range(count), repeat=2)
    return (tiles[i % rows, j % cols] for i, j in locations)


def _share_bytes(path: str, grids: Sequence[tuple[int, ...]]) -> None:
    """Let all repetitions of a tile point to its bytes."""
    with tifffile.TiffFile(path, mode="r+") as tif:
        for page, (rows, cols) in zip(tif.pages, grids):
            num_rows, num_cols = page.chunked[:2]
            i, j = np.ogrid[:num_rows, :num_cols]
            first = i % rows * cols + j % cols
            different = first.ravel()
            for name in ("TileOffsets", "TileByteCounts"):
                tag = page.tags[name]
                values = np.array(tag.value)
                tag.overwrite(values[different].tolist())
