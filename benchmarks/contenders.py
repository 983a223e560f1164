# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Who reads in the reading benchmark: the bare libraries, MONAI's WSIReader and our pyramid, each opened once.

A contender returns the patches of a list of windows as one ``uint8`` array ``(windows, 3, size, size)``, which is what
a network takes. Coordinates are (row, column); libraries with the opposite order are called accordingly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import cucim
import numpy as np
import openslide
import tifffile
import torch
from monai.data import WSIReader
from PIL import Image

from monai_jsma.data import Pyramid, PyramidBatch
from monai_jsma.geometry import Box
from monai_jsma.slides import inspect_slide, open_slide

__all__ = ["CONTENDERS", "DOWNSAMPLES", "MPP", "SIZE", "Contender", "Read", "Window", "find_windows", "open_pyramid"]

MPP = 0.5  # of level 0
DOWNSAMPLES = (1, 2, 4)
SIZE = 299


class Region(NamedTuple):
    """Whole pixels of a stored level."""

    level: int
    row: int
    col: int
    height: int
    width: int


class Window(NamedTuple):
    """A patch to read: its cell in the pyramid, the stored level it comes from, and its box in the level's pixels."""

    cell: int
    level: int
    box: Box


ReadRegion = Callable[[Region], np.ndarray]  # (height, width, 3)
Read = Callable[[Sequence[Window]], np.ndarray]


class Contender(NamedTuple):
    """A way to read; ``library`` decodes the pixels, ``averages`` says whether it can average as well."""

    name: str
    library: str
    averages: bool
    open: Callable[[str, Sequence[float]], Read]  # path, magnifications


def open_pyramid(path: str, library: str, magnifications: Sequence[float]) -> Pyramid:
    """Open a slide as a pyramid, with the reader of a library."""
    reader = open_slide(inspect_slide(path, reader=library))
    return Pyramid(reader, mpp=MPP, magnifications=magnifications, patch_size=SIZE, path=path)


def find_windows(pyramid: Pyramid, cells: Sequence[int]) -> list[Window]:
    """Find the windows of cells, in the coarsest stored level that is fine enough."""
    windows = []
    for cell in cells:
        box = pyramid.box(cell)
        downsample = box.height / SIZE
        fine_enough = [i for i, down in enumerate(DOWNSAMPLES) if down <= downsample * (1 + 1e-9)]
        level = max(fine_enough)
        down = DOWNSAMPLES[level]
        stored = Box(box.row / down, box.col / down, box.height / down, box.width / down)
        windows.append(Window(cell, level, stored))
    return windows


# ------------------------------------------------------------------------------------------- the bare libraries, MONAI


def _open_cucim(path: str) -> ReadRegion:
    image = cucim.CuImage(path)

    def read(region: Region) -> np.ndarray:
        down = DOWNSAMPLES[region.level]
        location = (region.col * down, region.row * down)
        size = (region.width, region.height)
        pixels = image.read_region(location, size, region.level)
        return np.asarray(pixels)

    return read


def _open_openslide(path: str) -> ReadRegion:
    slide = openslide.OpenSlide(path)

    def read(region: Region) -> np.ndarray:
        down = DOWNSAMPLES[region.level]
        location = (region.col * down, region.row * down)
        size = (region.width, region.height)
        image = slide.read_region(location, region.level, size)
        return np.asarray(image.convert("RGB"))

    return read


def _open_tifffile(path: str) -> ReadRegion:
    tif = tifffile.TiffFile(path)
    pages = list(tif.pages)

    @lru_cache(maxsize=40)  # 8 MB of tiles
    def decode(level: int, index: int) -> np.ndarray:
        page = pages[level]
        tif.filehandle.seek(page.dataoffsets[index])
        data = tif.filehandle.read(page.databytecounts[index])
        return page.decode(data, index, jpegtables=page.jpegtables)[0][0]

    def read(region: Region) -> np.ndarray:
        page = pages[region.level]
        height, width = page.tilelength, page.tilewidth
        first_row = region.row // height
        first_col = region.col // width
        end_row = math.ceil((region.row + region.height) / height)
        end_col = math.ceil((region.col + region.width) / width)

        strips = []
        for i in range(first_row, end_row):
            strip = []
            for j in range(first_col, end_col):
                index = i * page.chunked[1] + j
                strip.append(decode(region.level, index))
            strips.append(np.hstack(strip))
        pixels = np.vstack(strips)

        row = region.row - first_row * height
        col = region.col - first_col * width
        return pixels[row : row + region.height, col : col + region.width]

    return read


def _open_monai(path: str, backend: str) -> ReadRegion:
    reader = WSIReader(backend)
    slide = reader.read(path)

    def read(region: Region) -> np.ndarray:
        down = DOWNSAMPLES[region.level]
        location = (region.row * down, region.col * down)
        size = (region.height, region.width)
        patch, _ = reader.get_data(slide, location=location, size=size, level=region.level)
        return patch.transpose(1, 2, 0)

    return read


def _open_bare(path: str, magnifications: Sequence[float], library: Callable[[str], ReadRegion]) -> Read:
    """Fill a batch, patch by patch. What is not a stored level is averaged by Pillow."""
    read_region = library(path)

    def read(windows: Sequence[Window]) -> np.ndarray:
        patches = np.empty((len(windows), 3, SIZE, SIZE), np.uint8)
        for patch, window in zip(patches, windows):
            region = _enclose(window)
            pixels = read_region(region)
            if pixels.shape[:2] != (SIZE, SIZE):
                pixels = _average(pixels, region, window.box)
            patch[...] = pixels.transpose(2, 0, 1)
        return patches

    return read


def _enclose(window: Window) -> Region:
    """The whole pixels that hold a window."""
    box = window.box
    row = math.floor(box.row)
    col = math.floor(box.col)
    end_row = math.ceil(box.row + box.height - 1e-6)
    end_col = math.ceil(box.col + box.width - 1e-6)
    return Region(window.level, row, col, end_row - row, end_col - col)


def _average(pixels: np.ndarray, region: Region, box: Box) -> np.ndarray:
    """Resize the box inside the pixels of a region to a patch."""
    left = box.col - region.col
    top = box.row - region.row
    inner = (left, top, left + box.width, top + box.height)
    image = Image.fromarray(pixels)
    patch = image.resize((SIZE, SIZE), Image.Resampling.BOX, inner)
    return np.asarray(patch)


# ------------------------------------------------------------------------------------------------------------- our own


def _open_pyramid(path: str, magnifications: Sequence[float], library: str) -> Read:
    pyramid = open_pyramid(path, library, magnifications)

    def read(windows: Sequence[Window]) -> np.ndarray:
        return pyramid.read([window.cell for window in windows])

    return read


def _open_batch(path: str, magnifications: Sequence[float], library: str) -> Read:
    pyramid = open_pyramid(path, library, magnifications)
    batch = PyramidBatch([pyramid])

    def read(windows: Sequence[Window]) -> np.ndarray:
        images = torch.zeros(len(windows), dtype=torch.long)
        cells = torch.tensor([window.cell for window in windows])
        patches = batch.read(images, cells)
        return patches.numpy()

    return read


def _bare(library: Callable[[str], ReadRegion]) -> Callable[[str, Sequence[float]], Read]:
    return partial(_open_bare, library=library)


def _wsi_reader(backend: str) -> Callable[[str, Sequence[float]], Read]:
    return _bare(partial(_open_monai, backend=backend))


CONTENDERS = (
    Contender("cuCIM, bare", "cucim", True, _bare(_open_cucim)),
    Contender("cuCIM, WSIReader of MONAI", "cucim", False, _wsi_reader("cucim")),
    Contender("cuCIM, Pyramid", "cucim", True, partial(_open_pyramid, library="cucim")),
    Contender("cuCIM, PyramidBatch", "cucim", True, partial(_open_batch, library="cucim")),
    Contender("OpenSlide, bare", "openslide", True, _bare(_open_openslide)),
    Contender("OpenSlide, WSIReader of MONAI", "openslide", False, _wsi_reader("openslide")),
    Contender("OpenSlide, Pyramid", "openslide", True, partial(_open_pyramid, library="openslide")),
    Contender("tifffile, bare", "tifffile", True, _bare(_open_tifffile)),
    Contender("tifffile, Pyramid", "tifffile", True, partial(_open_pyramid, library="tifffile")),
)
