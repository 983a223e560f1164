# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The readers, and whose pixels they give.

cuCIM and tifffile give the stored pixels at every level, OpenSlide where the level's downsample is a whole number;
elsewhere it shifts by a part of a pixel and blends, so ``exact`` is False. Coordinates are (row, column) of the level.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import openslide
from PIL import Image

from monai_jsma.slides.base import ArrayReader, Reader, SlideInfo, SlideReader, check_levels
from monai_jsma.slides.errors import COPY_AGAIN, SlideError
from monai_jsma.slides.image_reader import read_picture
from monai_jsma.slides.pixels import to_rgb
from monai_jsma.slides.tiles import TileFile

__all__ = ["CuCIMReader", "OpenSlideReader", "TiffReader", "open_reader"]

_CACHE_BYTES = 8_000_000  # decoded tiles kept per open slide by tifffile: neighbouring patches share tiles


class TiffReader(SlideReader):
    """Tiled TIFF through tifffile and imagecodecs: decodes the tiles under the window, and no others."""

    @staticmethod
    def _open(info: SlideInfo) -> Any:
        tiles = TileFile(info.path, info.pages)
        check_levels(info, "the file", tuple(level.size for level in tiles.levels))
        tile_bytes = 3 * max(math.prod(level.tile) for level in tiles.levels)
        return tiles, lru_cache(max(1, _CACHE_BYTES // tile_bytes))(tiles.pixels)

    def _read(self, level: int, row: int, col: int, height: int, width: int) -> np.ndarray:
        tiles, pixels_of = self._opened()
        window = np.empty((height, width, 3), np.uint8)
        for index, top, left in tiles.touched(level, row, col, height, width):
            tile = pixels_of(level, index)
            inner = tile[max(row - top, 0) : row + height - top, max(col - left, 0) : col + width - left]
            down, right = max(top - row, 0), max(left - col, 0)
            window[down : down + inner.shape[0], right : right + inner.shape[1]] = inner
        return window


class CuCIMReader(SlideReader):
    """Tiled TIFF through cuCIM, for files that :mod:`monai_jsma.slides.choice` found fit for it.

    cuCIM takes a location at level 0 and reads pixel ``int(location / downsample)``, so pixel k is what lies at
    ``ceil(k * downsample)``. It paints damaged JPEG tiles with whatever is in memory; their markers are checked first.
    """

    @staticmethod
    def _open(info: SlideInfo) -> Any:
        tiles = TileFile(info.path, info.pages, whole_tiles=True)
        try:
            image = importlib.import_module("cucim").CuImage(info.path)
        except (RuntimeError, ValueError) as e:
            raise SlideError(f"{info.path}: cuCIM cannot open it ({e}); choose reader='tifffile'.") from e
        check_levels(info, "cuCIM", tuple((height, width) for width, height in image.resolutions["level_dimensions"]))
        tiles.check(0, 0, 0, 1, 1)
        first = tiles.pixels(0, 0)[: info.size[0], : info.size[1]]
        if not np.array_equal(image.read_region((0, 0), first.shape[1::-1], level=0), first):
            raise SlideError(f"{info.path}: cuCIM and tifffile see different pixels; choose reader='tifffile'.")
        return tiles, image, image.resolutions["level_downsamples"]

    def _read(self, level: int, row: int, col: int, height: int, width: int) -> np.ndarray:
        tiles, image, downsamples = self._opened()
        tiles.check(level, row, col, height, width)
        location = math.ceil(col * downsamples[level]), math.ceil(row * downsamples[level])
        try:
            return np.asarray(image.read_region(location, (width, height), level=level))
        except (RuntimeError, ValueError) as e:
            raise SlideError(f"{self.path}: cuCIM cannot read {location} of level {level} ({e}).") from e


class OpenSlideReader(SlideReader):
    """Everything that OpenSlide opens. Transparent parts are laid on white."""

    def __init__(self, info: SlideInfo) -> None:
        super().__init__(info)
        self.exact = tuple(_is_whole(self._downsample(i), size) for i, size in enumerate(self.level_sizes))

    def _downsample(self, level: int) -> float:
        (height, width), full = self.level_sizes[level], self.level_sizes[0]
        return (full[0] / height + full[1] / width) / 2

    @staticmethod
    def _open(info: SlideInfo) -> Any:
        try:
            slide = openslide.OpenSlide(info.path)
        except openslide.OpenSlideError as e:
            raise SlideError(f"{info.path}: OpenSlide cannot open it ({e}); {COPY_AGAIN}") from e
        check_levels(info, "OpenSlide", tuple((height, width) for width, height in slide.level_dimensions))
        return slide

    def _read(self, level: int, row: int, col: int, height: int, width: int) -> np.ndarray:
        down = self._downsample(level)
        request = (round(col * down), round(row * down)), level, (width, height)
        try:
            return _on_white(self._opened().read_region(*request))
        except openslide.OpenSlideError:
            self.close()  # an error stays with an open slide, and may be another window's: ask one that nobody has used
        try:
            return _on_white(self._open(self.info).read_region(*request))
        except openslide.OpenSlideError as e:
            raise SlideError(
                f"{self.path}: the window of {height} x {width} pixels at row {row}, column {col} of level {level} is "
                f"damaged ({e}); {COPY_AGAIN}"
            ) from e


def _on_white(window: Image.Image) -> np.ndarray:
    """RGB of OpenSlide's RGBA. Nearly all windows are opaque: whole pixels tell so soonest, Pillow packs fastest."""
    if np.asarray(window).view("<u4").min() >= 0xFF000000:
        return np.asarray(window.convert("RGB"))
    return to_rgb(np.asarray(window))


def _is_whole(downsample: float, size: tuple[int, int]) -> bool:
    """Whether a level-0 location hits every pixel of a level to 1/256 of a pixel, OpenSlide's precision."""
    return abs(downsample - round(downsample)) * max(size) < downsample / 256


def open_reader(info: SlideInfo) -> Reader:
    """The reader that ``info`` names; a plain picture is decoded now, a slide is opened at the first read."""
    if info.reader == "pil":
        return ArrayReader(read_picture(info.path), info.path)
    readers: dict[str, Callable[[SlideInfo], Reader]] = {
        "cucim": CuCIMReader,
        "tifffile": TiffReader,
        "openslide": OpenSlideReader,
    }
    return readers[info.reader](info)
