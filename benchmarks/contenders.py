# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Who reads in the reading benchmark: the bare libraries, MONAI's WSIReader and our pyramid, each opened once.

A contender gives the patches of a list of windows as one ``uint8`` array ``(windows, 3, size, size)``, which is what a
network takes. Coordinates are (row, column), those of a library's own order are turned here.
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

from monai_jsma.data import Box, Pyramid, PyramidBatch, inspect_slide
from monai_jsma.slides import open_slide

__all__ = ["CONTENDERS", "DOWNSAMPLES", "MPP", "SIZE", "Contender", "Read", "Window", "open_pyramid", "windows_of"]

MPP = 0.5  # of level 0
DOWNSAMPLES = (1, 2, 4)
SIZE = 299

Region = Callable[[int, int, int, int, int], np.ndarray]  # level, row, column (in its pixels), height, width
Read = Callable[[Sequence["Window"]], np.ndarray]


class Window(NamedTuple):
    """A patch to read: its cell in the pyramid, the stored level it comes from, and its box in the level's pixels."""

    cell: int
    level: int
    box: Box


class Contender(NamedTuple):
    """A way to read; ``library`` decodes the pixels, ``averages`` says whether it can average as well."""

    name: str
    library: str
    averages: bool
    open: Callable[[str, Sequence[float]], Read]


def open_pyramid(path: str, library: str, magnifications: Sequence[float]) -> Pyramid:
    reader = open_slide(inspect_slide(path, reader=library))
    return Pyramid(reader, mpp=MPP, magnifications=magnifications, patch_size=SIZE, path=path)


def windows_of(pyramid: Pyramid, cells: Sequence[int]) -> list[Window]:
    """The windows of cells, in the coarsest stored level that is fine enough."""
    windows = []
    for cell in cells:
        box = pyramid.box(cell)
        level = max(i for i, down in enumerate(DOWNSAMPLES) if down * SIZE <= box.height * (1 + 1e-9))
        windows.append(Window(cell, level, Box(*(value / DOWNSAMPLES[level] for value in box))))
    return windows


# ------------------------------------------------------------------------------------------- the bare libraries, MONAI


def _cucim(path: str) -> Region:
    image = cucim.CuImage(path)

    def region(level: int, row: int, col: int, height: int, width: int) -> np.ndarray:
        location = col * DOWNSAMPLES[level], row * DOWNSAMPLES[level]
        return np.asarray(image.read_region(location, (width, height), level))

    return region


def _openslide(path: str) -> Region:
    slide = openslide.OpenSlide(path)

    def region(level: int, row: int, col: int, height: int, width: int) -> np.ndarray:
        location = col * DOWNSAMPLES[level], row * DOWNSAMPLES[level]
        return np.asarray(slide.read_region(location, level, (width, height)).convert("RGB"))

    return region


def _tifffile(path: str) -> Region:
    tif = tifffile.TiffFile(path)
    pages = list(tif.pages)

    @lru_cache(maxsize=40)  # 8 MB of tiles
    def tile(level: int, index: int) -> np.ndarray:
        page = pages[level]
        tif.filehandle.seek(page.dataoffsets[index])
        data = tif.filehandle.read(page.databytecounts[index])
        return page.decode(data, index, jpegtables=page.jpegtables)[0][0]

    def region(level: int, row: int, col: int, height: int, width: int) -> np.ndarray:
        page = pages[level]
        top, left = row // page.tilelength, col // page.tilewidth
        rows, cols = -(-(row + height) // page.tilelength), -(-(col + width) // page.tilewidth)
        strips = [
            np.hstack([tile(level, i * page.chunked[1] + j) for j in range(left, cols)]) for i in range(top, rows)
        ]
        row, col = row - top * page.tilelength, col - left * page.tilewidth
        return np.vstack(strips)[row : row + height, col : col + width]

    return region


def _monai(path: str, backend: str) -> Region:
    reader = WSIReader(backend)
    slide = reader.read(path)

    def region(level: int, row: int, col: int, height: int, width: int) -> np.ndarray:
        location = row * DOWNSAMPLES[level], col * DOWNSAMPLES[level]
        patch, _ = reader.get_data(slide, location=location, size=(height, width), level=level)
        return patch.transpose(1, 2, 0)

    return region


def _bare(path: str, magnifications: Sequence[float], library: Callable[[str], Region]) -> Read:
    """Fill a batch, patch by patch. What is no stored level is averaged by Pillow."""
    region = library(path)

    def read(windows: Sequence[Window]) -> np.ndarray:
        patches = np.empty((len(windows), 3, SIZE, SIZE), np.uint8)
        for patch, (_, level, box) in zip(patches, windows):
            row, col = math.floor(box.row), math.floor(box.col)
            end_row, end_col = math.ceil(box.row + box.height - 1e-6), math.ceil(box.col + box.width - 1e-6)
            pixels = region(level, row, col, end_row - row, end_col - col)
            if pixels.shape[:2] != (SIZE, SIZE):
                inner = box.col - col, box.row - row, box.col - col + box.width, box.row - row + box.height
                pixels = np.asarray(Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BOX, inner))
            patch[...] = pixels.transpose(2, 0, 1)
        return patches

    return read


# ------------------------------------------------------------------------------------------------------------- our own


def _ours(path: str, magnifications: Sequence[float], library: str) -> Read:
    pyramid = open_pyramid(path, library, magnifications)
    return lambda windows: pyramid.read([window.cell for window in windows])


def _our_batch(path: str, magnifications: Sequence[float], library: str) -> Read:
    batch = PyramidBatch([open_pyramid(path, library, magnifications)])
    return lambda windows: batch.read(
        torch.zeros(len(windows), dtype=torch.long), torch.tensor([window.cell for window in windows])
    ).numpy()


CONTENDERS = (
    Contender("cuCIM, bare", "cucim", True, partial(_bare, library=_cucim)),
    Contender("cuCIM, WSIReader of MONAI", "cucim", False, partial(_bare, library=partial(_monai, backend="cucim"))),
    Contender("cuCIM, Pyramid", "cucim", True, partial(_ours, library="cucim")),
    Contender("cuCIM, PyramidBatch", "cucim", True, partial(_our_batch, library="cucim")),
    Contender("OpenSlide, bare", "openslide", True, partial(_bare, library=_openslide)),
    Contender(
        "OpenSlide, WSIReader of MONAI",
        "openslide",
        False,
        partial(_bare, library=partial(_monai, backend="openslide")),
    ),
    Contender("OpenSlide, Pyramid", "openslide", True, partial(_ours, library="openslide")),
    Contender("tifffile, bare", "tifffile", True, partial(_bare, library=_tifffile)),
    Contender("tifffile, Pyramid", "tifffile", True, partial(_ours, library="tifffile")),
)
