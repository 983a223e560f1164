# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Slides through OpenSlide: what no other reader can put together or color (Hamamatsu, Leica, MIRAX, Philips, DICOM).

OpenSlide gives the stored pixels where the downsample of a level is a whole number; elsewhere it shifts by a part of a
pixel and blends, so ``exact`` is False for that level.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openslide
from PIL import Image

from monai_jsma.slides.base import Header, Layout, SlideInfo, SlideReader, check_levels, to_rgb
from monai_jsma.slides.errors import COPY_AGAIN, SlideError
from monai_jsma.slides.frame import read_bounds
from monai_jsma.slides.spacing import read_openslide_spacings
from monai_jsma.slides.tiff import TiffHeader, find_color_fault, is_tiff
from monai_jsma.slides.tifffile_reader import TileFile

__all__ = ["OpenSlideReader"]

_OPAQUE = 0xFF000000  # an RGBA pixel as one number is at least this where it is opaque
_JPEG2000 = {33003, 33004, 33005, 34712}  # Compression
_PRECISION = 1 / 256  # pixels: OpenSlide's


class OpenSlideReader(SlideReader):
    """Everything that OpenSlide opens. Transparent parts are laid on white."""

    name = "openslide"

    def __init__(self, info: SlideInfo) -> None:
        super().__init__(info)
        self.exact = tuple(self._is_exact(level) for level in range(len(info.level_sizes)))

    @classmethod
    def refuses(cls, header: Header) -> str | None:
        """Why OpenSlide cannot read the file correctly, or None if it can."""
        if header.vendor is not None:
            return None
        if not isinstance(header, TiffHeader):
            return "OpenSlide does not know its format"
        for level in header.levels:
            fault = find_color_fault(level)
            if fault is not None:
                return fault
            if level.orientation != 1:
                return "OpenSlide turns some images by their orientation tag, others not"
            if level.bits == 16 and level.depth != 16:
                return "OpenSlide takes all 16-bit samples for 16 bits of data, which the file does not state"
            if level.extra_samples:
                return "OpenSlide lays only some transparent images on white"
        if header.is_aperio and header.num_empty_tiles:
            return "OpenSlide fills empty tiles from other levels"
        try:
            openslide.OpenSlide(header.file).close()
        except openslide.OpenSlideError as e:
            return f"OpenSlide refuses it: {e}"
        return None

    @classmethod
    def describe(cls, header: Header) -> Layout:
        """Levels, spacings and bounds of the slide, as OpenSlide gives it."""
        try:
            with openslide.OpenSlide(header.file) as slide:
                sizes = tuple((height, width) for width, height in slide.level_dimensions)
                spacings = read_openslide_spacings(slide.properties)
                bounds = read_bounds(slide.properties, path=header.path)
        except openslide.OpenSlideError as e:
            raise SlideError(
                f"{header.path}: OpenSlide cannot open it ({e}); check that all files of the slide are there."
            ) from e
        if header.vendor == "dicom" and set(sizes) != set(header.level_sizes):
            raise SlideError(
                f"{header.path}: OpenSlide finds levels of {sizes}, but the files of the slide are levels of "
                f"{header.level_sizes}; check that no file is damaged, and that none of another slide is among them."
            )
        return Layout(sizes, (*header.spacings, *spacings), bounds)

    @staticmethod
    def _open(info: SlideInfo) -> Any:
        try:
            slide = openslide.OpenSlide(info.file)
        except openslide.OpenSlideError as e:
            raise SlideError(f"{info.path}: OpenSlide cannot open it ({e}); {COPY_AGAIN}") from e
        check_levels(info, "OpenSlide", tuple((height, width) for width, height in slide.level_dimensions))
        return slide, _open_tiles(info)

    def _read(self, level: int, location: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        row, col = location
        height, width = size
        down = self._downsample(level)
        corner = round(col * down), round(row * down)  # x and y at level 0
        slide, tiles = self.open_file()
        if tiles is not None:
            tiles.check_tiles(level, location, size)
        try:
            return _convert_to_rgb(slide.read_region(corner, level, (width, height)))
        except openslide.OpenSlideError:
            self.close()  # an error stays with an open slide, and may be that of another window: ask a fresh one
        try:
            slide, _ = self._open(self.info)
            return _convert_to_rgb(slide.read_region(corner, level, (width, height)))
        except openslide.OpenSlideError as e:
            raise SlideError(
                f"{self.path}: the window of {height} x {width} pixels at row {row}, column {col} of level {level} is "
                f"damaged ({e}); {COPY_AGAIN}"
            ) from e

    def _is_exact(self, level: int) -> bool:
        """Whether a location at level 0 hits every pixel of a level within OpenSlide's precision."""
        down = self._downsample(level)
        drift = abs(down - round(down)) * max(self.level_sizes[level])  # at the last pixel, in pixels of level 0
        return drift < down * _PRECISION

    def _downsample(self, level: int) -> float:
        height, width = self.level_sizes[level]
        full_height, full_width = self.level_sizes[0]
        return (full_height / height + full_width / width) / 2


def _open_tiles(info: SlideInfo) -> TileFile | None:
    """The tiles of a TIFF file of JPEG 2000, whose headers OpenSlide does not check; None for other files."""
    if not is_tiff(info.file):
        return None
    header = TiffHeader.recall(info.file)
    if not any(level.compression in _JPEG2000 for level in header.levels):
        return None
    return TileFile(header)


def _convert_to_rgb(window: Image.Image) -> np.ndarray:
    """RGB of OpenSlide's RGBA. Nearly all windows are opaque: whole pixels are tested fastest, Pillow packs fastest."""
    if np.asarray(window).view("<u4").min() >= _OPAQUE:
        return np.asarray(window.convert("RGB"))
    return to_rgb(np.asarray(window))
