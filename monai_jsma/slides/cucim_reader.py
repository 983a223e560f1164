# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Tiled TIFF through cuCIM, the fastest reader, and all that is known of the files that it cannot read correctly.

On the files that it is not refused, it equals tifffile to the last bit at every level. On others it crashes, paints
damage without an error, or gives other colors; so a file is refused by its tags, before cuCIM sees it.
"""

from __future__ import annotations

import importlib
import math
import os
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from monai_jsma.slides.base import Header, SlideInfo, SlideReader, check_levels
from monai_jsma.slides.decoder_messages import Heard, listen
from monai_jsma.slides.errors import COPY_AGAIN, SlideError
from monai_jsma.slides.tiff import RGB, YCBCR, TiffHeader, TiffLevel, find_color_fault
from monai_jsma.slides.tifffile_reader import TileFile, is_serious

__all__ = ["CuCIMReader", "tells_of_damage"]

_SUFFIXES = (".tif", ".tiff", ".svs")  # cuCIM goes by the name alone, and by small letters
_RAW, _JPEG = 1, 7  # Compression
_CODEC_FAULTS = {
    5: "cuCIM hides damage in LZW tiles",
    8: "cuCIM crashes on Deflate with predictor, and is slower without",
    32946: "cuCIM crashes on Deflate with predictor, and is slower without",
    33003: "cuCIM rounds the colors of JPEG 2000 otherwise than the other readers",
    33005: "cuCIM rounds JPEG 2000 otherwise than the other readers",
}


class CuCIMReader(SlideReader):
    """Tiled TIFF through cuCIM.

    cuCIM takes a location at level 0 and reads pixel ``int(location / downsample)``, so pixel k is what lies at
    ``ceil(k * downsample)``. It paints JPEG tiles with damaged headers with whatever is in memory; so headers are
    checked first. What its decoder makes up within a tile, it prints; that is heard, and then the tile is examined.
    """

    name = "cucim"

    @classmethod
    def refuses(cls, header: Header) -> str | None:
        """Why cuCIM cannot read the file correctly, or None if it reads every pixel and cannot crash on it."""
        if header.vendor is not None:
            return "only OpenSlide can put it together"
        if not isinstance(header, TiffHeader):
            return "it is not a TIFF file"
        if not header.path.endswith(_SUFFIXES):
            return f"cuCIM opens only files named {', '.join(_SUFFIXES)}"
        for level in header.levels:
            fault = find_color_fault(level) or _find_level_fault(level)
            if fault is not None:
                return fault
        if _find_cucim_levels(header) != [level.offset for level in header.levels]:
            return "cuCIM takes other pages for levels"
        if header.num_empty_tiles:
            return "cuCIM paints empty tiles black"
        if not header.is_utf8:
            return "cuCIM refuses text that is not UTF-8"
        return _find_library_fault()

    @staticmethod
    def _open(info: SlideInfo) -> Any:
        tiles = TileFile(TiffHeader.recall(info.path), whole_tiles=True, strict=info.strict)
        try:
            image = importlib.import_module("cucim").CuImage(info.path)
        except (RuntimeError, ValueError) as e:
            raise SlideError(f"{info.path}: cuCIM cannot open it ({e}); choose reader='tifffile'.") from e

        dimensions = image.resolutions["level_dimensions"]
        sizes = tuple((height, width) for width, height in dimensions)
        check_levels(info, "cuCIM", sizes)

        full_height, full_width = info.size
        expected = tiles.read_tile(0, 0)[:full_height, :full_width]
        height, width = expected.shape[:2]
        first_tile, _ = listen(partial(image.read_region, (0, 0), (width, height), level=0))
        if not np.array_equal(first_tile, expected):
            raise SlideError(f"{info.path}: cuCIM and tifffile see different pixels; choose reader='tifffile'.")
        return tiles, image, image.resolutions["level_downsamples"]

    def _read(self, level: int, location: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        tiles, image, downsamples = self.open_file()
        relies_on_decoder = not self.info.strict and tells_of_damage()
        if relies_on_decoder:
            tiles.check_headers(level, location, size)
        else:
            tiles.check_tiles(level, location, size)
        row, col = location
        height, width = size
        down = downsamples[level]
        y = math.ceil(row * down)
        x = math.ceil(col * down)
        try:
            region, heard = listen(partial(image.read_region, (x, y), (width, height), level=level))
        except (RuntimeError, ValueError) as e:
            raise SlideError(f"{self.path}: cuCIM cannot read {(x, y)} of level {level} ({e}).") from e
        if heard.messages:
            self._find_damage(level, location, size, heard=heard)
        pixels = np.asarray(region)
        if not relies_on_decoder:
            tiles.check_pixels(level, location, pixels)
        return pixels

    def _find_damage(self, level: int, location: tuple[int, int], size: tuple[int, int], *, heard: Heard) -> None:
        """Read the tiles under a window one by one, and report what cuCIM's decoder says of each."""
        tiles, image, downsamples = self.open_file()
        down = downsamples[level]
        is_found = False
        for tile in tiles.find_tiles(level, location, size):
            first_pixel = (math.ceil(tile.col * down), math.ceil(tile.row * down))
            _, of_tile = listen(partial(image.read_region, first_pixel, (1, 1), level=level), alone=True)
            for message in of_tile.messages:
                tiles.examine(level, tile.number, message)
                is_found = True
        serious = [message for message in heard.messages if is_serious(message)]
        if heard.was_alone and serious and not is_found:  # the tiles are in cuCIM's cache, and not decoded again
            raise SlideError(
                f"{self.path}: a tile at row {location[0]}, column {location[1]} of level {level} is damaged "
                f"({serious[0]}); {COPY_AGAIN}"
            )


@cache
def tells_of_damage() -> bool:
    """Whether cuCIM's JPEG decoder prints what it makes up, and that is heard: tried once, with half of a tile."""
    gradient = np.arange(64 * 64 * 3, dtype=np.uint32).reshape(64, 64, 3) % 251
    stream = bytes(imagecodecs.jpeg8_encode(gradient.astype(np.uint8), level=90, subsampling="444"))
    half = stream[: len(stream) - len(stream) // 4].rstrip(b"\xff") + b"\xff\xd9"
    form: dict[str, Any] = {
        "shape": (64, 64, 3),
        "dtype": "uint8",
        "tile": (64, 64),
        "compression": "jpeg",
        "photometric": "ycbcr",
    }
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "damaged.tif")
            tifffile.imwrite(path, iter([half]), subsampling=(1, 1), metadata=None, **form)
            image = importlib.import_module("cucim").CuImage(str(path))
            _, heard = listen(partial(image.read_region, (0, 0), (64, 64), level=0))
    except (OSError, RuntimeError, ValueError):
        return False
    return bool(heard.messages)


def _find_level_fault(level: TiffLevel) -> str | None:
    """Why cuCIM cannot read one level correctly, or None."""
    if level.compression not in (_RAW, _JPEG):
        return _CODEC_FAULTS.get(level.compression, f"cuCIM does not know {level.codec}")

    is_rgb = level.photometric == RGB and not level.is_jfif
    is_ycbcr_jpeg = level.photometric == YCBCR and level.compression == _JPEG
    is_usual = level.is_tiled and level.dtype == "uint8" and level.samples == 3 and level.planar == 1
    if not (is_usual and (is_rgb or is_ycbcr_jpeg)):
        return "cuCIM reads only tiled uint8 RGB correctly"

    if level.fill_order != 1:
        return "cuCIM does not turn the bits of its bytes around"
    return None


def _find_cucim_levels(header: TiffHeader) -> list[int]:
    """Offsets of the pages that cuCIM takes for levels: all, or the tiled ones of an Aperio file; never sub-pages."""
    pages = list(header.pages)
    if header.is_aperio:
        pages = [pages[0], *(page for page in pages[1:] if page.is_tiled)]
    elif sum(page.subfile_type == 0 for page in pages) != 1:
        return []  # it refuses files of several images

    pages.sort(key=lambda page: (page.size[1], page.size[0]), reverse=True)
    return [page.offset for page in pages]


def _find_library_fault() -> str | None:
    if os.environ.get("ENABLE_CUSLIDE2") == "1":
        return "ENABLE_CUSLIDE2=1 selects a cuCIM plugin that reads wrong pixels; unset it"
    try:
        importlib.import_module("cucim")
    except ImportError as e:
        return f"cuCIM is not installed ({e})"
    return None
