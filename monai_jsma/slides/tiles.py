# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The stored tiles of a slide: their bytes, whether these are sound, and their pixels by tifffile and imagecodecs."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Sequence

import numpy as np
from tifffile import TiffPage

from monai_jsma.slides.codec import JpegHeader, check_jpeg
from monai_jsma.slides.errors import COPY_AGAIN, SlideError
from monai_jsma.slides.pixels import to_rgb
from monai_jsma.slides.tiff import JPEG, open_tiff, page_size

__all__ = ["TileFile"]

_BACKGROUND = 255  # a tile that was never written is white, as a slide's background
_UNDECODABLE = (RuntimeError, ValueError, TypeError, IndexError, struct.error, OSError)


class _Level:
    """The tags of one page that reading needs, taken while the file was open in tifffile."""

    def __init__(self, page: TiffPage) -> None:
        self.size, self.tile = page_size(page), (page.tilelength, page.tilewidth)
        self.columns = -(-page.imagewidth // page.tilewidth)
        self.offsets, self.counts = np.asarray(page.dataoffsets), np.asarray(page.databytecounts)
        self.is_jpeg = int(page.compression) in JPEG
        self.tables, self.decode = page.jpegtables, page.decode
        self.premultiplied = 1 in [int(sample) for sample in page.extrasamples]
        self.header: JpegHeader | None = None  # of the tile that was checked last
        self.sound = bytearray(len(self.offsets))  # 1 for a tile that has been checked


class TileFile:
    """The tiles of a file's levels. Threads may share it; a process should not share it with another.

    Args:
        path: the TIFF file.
        pages: byte offset of the tags of each level, finest first.
        whole_tiles: also refuse JPEG tiles smaller than the others, which some writers store at a level's edges.
    """

    def __init__(self, path: str, pages: Sequence[int], *, whole_tiles: bool = False) -> None:
        self.path, self.whole_tiles = path, whole_tiles
        with open_tiff(path) as tif:
            self.levels: list[_Level] = []
            for offset in pages:
                tif.filehandle.seek(offset)
                self.levels.append(_Level(TiffPage(tif, len(self.levels))))
        self._file, self._lock = open(path, "rb"), threading.Lock()  # noqa: SIM115

    def touched(self, level: int, row: int, col: int, height: int, width: int) -> Iterator[tuple[int, int, int]]:
        """Index, first row and first column of every tile under a window of a level."""
        (down, right), columns = self.levels[level].tile, self.levels[level].columns
        for i in range(row // down, (row + height - 1) // down + 1):
            for j in range(col // right, (col + width - 1) // right + 1):
                yield i * columns + j, i * down, j * right

    def check(self, level: int, row: int, col: int, height: int, width: int) -> None:
        """Raise :class:`SlideError` if a JPEG tile under the window is damaged. Each tile is looked at once."""
        here = self.levels[level]
        if here.is_jpeg:
            for index, _, _ in self.touched(level, row, col, height, width):
                if not here.sound[index]:
                    self._bytes(level, index)

    def _bytes(self, level: int, index: int) -> bytes:
        """The bytes of a tile; none for one that was never written."""
        here = self.levels[level]
        with self._lock:
            self._file.seek(here.offsets[index])
            data = self._file.read(here.counts[index])
        if len(data) < here.counts[index]:
            raise SlideError(f"{self.path}: the file was cut short at tile {index} of level {level} while in use.")
        if here.is_jpeg and data and not here.sound[index]:
            try:
                header = check_jpeg(data, here.tables, here.tile, here.header)
            except ValueError as e:
                raise self._damaged(level, index, str(e)) from e
            here.header, size = header, header.size
            if self.whole_tiles and size != here.tile:
                why = f"JPEG stream of {size[0]} x {size[1]} in a tile of {here.tile}; reader='tifffile' may read it"
                raise self._damaged(level, index, why)
            here.sound[index] = 1
        return data

    def pixels(self, level: int, index: int) -> np.ndarray:
        """RGB of a tile: ``uint8`` (height, width, 3), at the level's edges perhaps smaller than a tile."""
        here = self.levels[level]
        data = self._bytes(level, index)
        if not data:
            return np.full((*here.tile, 3), _BACKGROUND, np.uint8)
        try:
            options = {"jpegtables": here.tables} if here.is_jpeg else {}
            pixels: np.ndarray = here.decode(data, index, **options)[0]  # type: ignore[assignment]
        except _UNDECODABLE as e:
            raise self._damaged(level, index, str(e)) from e
        return to_rgb(pixels[0], premultiplied=here.premultiplied)

    def _damaged(self, level: int, index: int, why: str) -> SlideError:
        row, col = divmod(index, self.levels[level].columns)
        down, right = self.levels[level].tile
        return SlideError(
            f"{self.path}: tile {index} of level {level} (from row {row * down}, column {col * right}) is damaged: "
            f"{why}; {COPY_AGAIN}"
        )

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()
