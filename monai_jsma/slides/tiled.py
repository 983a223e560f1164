# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Tiled pyramids are written level by level and strip by strip, so that huge images need little memory.

Tiles are RGB, either as they are or as JPEG without chroma subsampling. cuCIM, tifffile and OpenSlide read both alike,
to the last bit. Sizes are (height, width) in pixels, spacings um per pixel of level 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import tifffile

from monai_jsma.geometry import Box
from monai_jsma.slides.resample import area_resample

__all__ = ["TILE", "StoredLevel", "cut_to_strips", "describe_level", "reduce_to_strips", "write_levels"]

TILE = 256  # pixels; patches of 299 touch four or nine of them
_MAX_CLASSIC = 2**32 - 2**25  # bytes of pixels; a classic TIFF has offsets of 32 bits


class StoredLevel(NamedTuple):
    """A level to write: its size, and its pixels in strips of ``TILE`` rows, ``uint8`` ``(rows, width, 3)``."""

    size: tuple[int, int]
    strips: Iterable[np.ndarray]


def cut_to_strips(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Cut an image ``(height, width, 3)`` into strips of ``TILE`` rows; the last one may have fewer."""
    for top in range(0, len(pixels), TILE):
        yield pixels[top : top + TILE]


def reduce_to_strips(
    read_rows: Callable[[int, int], np.ndarray], size: tuple[int, int], reduction: int
) -> Iterator[np.ndarray]:
    """The strips of a level of an image: exact means of ``reduction`` x ``reduction`` pixels, rounded once.

    About ``TILE`` rows of the image are held at a time.

    Args:
        read_rows: function from the first row and the row after the last to these rows of level 0,
            ``uint8`` ``(rows, width, 3)``.
        size: height and width of level 0, multiples of ``reduction``.
        reduction: pixels of level 0 along a pixel of the level.
    """
    height = size[0] // reduction
    width = size[1] // reduction
    step = max(1, TILE // reduction)
    for top in range(0, height, TILE):
        bottom = min(top + TILE, height)
        bands = []
        for begin in range(top, bottom, step):
            end = min(begin + step, bottom)
            rows = read_rows(begin * reduction, end * reduction)
            whole = Box(0, 0, len(rows), size[1])
            bands.append(area_resample(rows, whole, (end - begin, width)))
        yield np.concatenate(bands)


def write_levels(
    path: str | Path,
    levels: Sequence[StoredLevel],
    *,
    mpp: float,
    quality: int | None = None,
    description: str | None = None,
) -> None:
    """Write the levels of a pyramid to a TIFF file.

    Args:
        path: the file, which is overwritten.
        levels: the levels, finest first.
        mpp: um per pixel of level 0, stored as the resolution.
        quality: quality of JPEG, 1 to 100; None stores the pixels as they are.
        description: text to store with level 0, in ASCII.
    """
    full_size = levels[0].size
    full_height, full_width = full_size
    num_bytes = 4 * full_height * full_width  # at most: three for a pixel of level 0, and a third more for the others
    is_big = num_bytes > _MAX_CLASSIC
    with tifffile.TiffWriter(path, bigtiff=is_big) as tif:
        for number, level in enumerate(levels):
            tif.write(
                description=None if number else description,
                **describe_level(level.size, full_size, mpp=mpp),
                **_encode_tiles(level.strips, quality),
            )


def describe_level(size: tuple[int, int], full_size: tuple[int, int], *, mpp: float) -> dict[str, Any]:
    """What tifffile's ``write`` must know of a level of tiles, beside its pixels and their compression.

    Args:
        size: height and width of the level.
        full_size: those of level 0.
        mpp: um per pixel of level 0, stored as the resolution.
    """
    height, width = size
    spacing = mpp * full_size[0] / height
    return {
        "shape": (height, width, 3),
        "dtype": np.uint8,
        "tile": (TILE, TILE),
        "resolution": (1e4 / spacing, 1e4 / spacing),
        "resolutionunit": "CENTIMETER",
        "subfiletype": int(size != full_size),  # 1: reduced
        "metadata": None,
        "software": "monai_jsma",
    }


def _encode_tiles(strips: Iterable[np.ndarray], quality: int | None) -> dict[str, Any]:
    """The tiles of strips and the tags of their form, as tifffile's ``write`` takes them."""
    tiles = _cut_to_tiles(strips)
    if quality is None:
        return {"data": tiles, "photometric": "rgb"}
    streams = (_encode_tile(tile, quality) for tile in tiles)
    return {"data": streams, "photometric": "ycbcr", "subsampling": (1, 1), "compression": "jpeg"}


def _cut_to_tiles(strips: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The tiles of strips, from left to right; the last one of a strip may be narrower."""
    for strip in strips:
        for left in range(0, strip.shape[1], TILE):
            yield strip[:, left : left + TILE]


def _encode_tile(tile: np.ndarray, quality: int) -> bytes:
    """A tile as JPEG; at the edge of the image its last pixels are repeated, which costs fewest bytes."""
    height, width = tile.shape[:2]
    padding = ((0, TILE - height), (0, TILE - width), (0, 0))
    whole = np.pad(tile, padding, mode="edge")
    stream = imagecodecs.jpeg8_encode(whole, level=quality, colorspace="RGB", outcolorspace="YCBCR", subsampling="444")
    return bytes(stream)
