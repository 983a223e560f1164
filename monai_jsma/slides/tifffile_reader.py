# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Tiled TIFF through tifffile and imagecodecs: the stored tiles, whether they are sound, and their pixels.

This reader gives the stored pixels of every level, and decodes the tiles under a window and no others.
"""

from __future__ import annotations

import logging
import math
import os
import struct
import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import tifffile

from monai_jsma.slides.base import Header, SlideInfo, SlideReader, check_levels, to_rgb
from monai_jsma.slides.codec import (
    JpegHeader,
    check_jpeg,
    check_stream,
    is_complete_jpeg,
    is_known_codec,
    looks_unfinished,
    states_size,
)
from monai_jsma.slides.depth import choose_depth
from monai_jsma.slides.errors import COPY_AGAIN, SlideError
from monai_jsma.slides.tiff import GRAY, RGB, YCBCR, TiffHeader, TiffLevel, find_color_fault

__all__ = ["TiffReader", "TileFile", "TilePlace", "find_decoding_fault", "is_serious", "paste_tile"]

_CACHE_BYTES = 8_000_000  # decoded tiles kept per open slide: neighboring patches share tiles
_NUM_SAMPLED = 64  # tiles that are looked at for the largest value of 16-bit samples
_BACKGROUND = 255  # a tile that was never written is white, as the background of a slide
_OLD_JPEG, _YCBCR_JPEG2000 = 6, 33003  # Compression
_TOO_MANY = "extraneous bytes before marker"  # libjpeg's words
_UNDECODABLE = (RuntimeError, ValueError, TypeError, IndexError, struct.error, OSError)

_logger = logging.getLogger(__name__)


def find_decoding_fault(level: TiffLevel) -> str | None:
    """Why tifffile cannot give RGB of a level, or None if it can."""
    fault = find_color_fault(level)
    if fault is not None:
        return fault
    if level.compression == _OLD_JPEG:
        return "JPEG in the style of TIFF 6.0 is left to OpenSlide"
    if level.compression == _YCBCR_JPEG2000 or (level.photometric == YCBCR and not level.is_jpeg):
        return f"tifffile leaves the colors of {level.codec} in YCbCr"
    if level.compression not in tifffile.TIFF.DECOMPRESSORS:
        return f"{level.codec} is unknown to tifffile and imagecodecs"
    if not is_known_codec(level.compression):
        return f"the header of {level.codec} tiles cannot be checked"
    if level.photometric not in (GRAY, RGB, YCBCR) or level.bits not in (8, 16):
        return f"tifffile does not make RGB of {level.bits}-bit {level.color}"
    if level.samples > 1 and level.planar != 1:
        return "its colors are stored apart (planar configuration 2)"
    if level.decode is None:
        return f"tifffile does not decode this kind of {level.codec}"
    return None


class TilePlace(NamedTuple):
    """Where a tile is stored in its level: its number, and its first row and column in pixels."""

    number: int
    row: int
    col: int


class TileFile:
    """The tiles (or strips) of a TIFF file. Threads may share it; a process should not share it with another.

    Args:
        header: the tags of the file.
        whole_tiles: also refuse JPEG tiles smaller than the others, which some writers store at the edges of a level.
        strict: decode every JPEG tile twice more, to see whether its coded pixels reach to its end.
    """

    def __init__(self, header: TiffHeader, *, whole_tiles: bool = False, strict: bool = False) -> None:
        self.path = header.path
        self.levels = header.levels
        self.whole_tiles = whole_tiles
        self.strict = strict
        self._is_sound = [bytearray(len(level.offsets)) for level in header.levels]  # 1 for a tile that was checked
        self._has_sound_header = [bytearray(len(level.offsets)) for level in header.levels]
        self._is_complete = [bytearray(len(level.offsets)) for level in header.levels]  # 1 for a tile that is complete
        self._has_restarts = [False] * len(header.levels)  # of any JPEG tile that was checked
        self._last_jpeg: list[JpegHeader | None] = [None] * len(header.levels)  # of the tile that was checked last
        self._has_warned = False  # of a tile with bytes too many
        self._depth: int | None = None  # bits of data where the file states none
        self._lock = threading.Lock()
        self._file = open(header.path, "rb")  # noqa: SIM115

    def find_tiles(self, level: int, location: tuple[int, int], size: tuple[int, int]) -> Iterator[TilePlace]:
        """Every tile under a window of a level, row by row."""
        stored = self.levels[level]
        tile_height, tile_width = stored.tile
        row, col = location
        height, width = size
        first_i = row // tile_height
        first_j = col // tile_width
        last_i = (row + height - 1) // tile_height
        last_j = (col + width - 1) // tile_width
        for i in range(first_i, last_i + 1):
            for j in range(first_j, last_j + 1):
                number = i * stored.columns + j
                yield TilePlace(number, i * tile_height, j * tile_width)

    def check_tiles(self, level: int, location: tuple[int, int], size: tuple[int, int]) -> None:
        """Raise :class:`SlideError` if a tile under the window is damaged. Each tile is checked once.

        Tiles of codecs that state no size (raw, LZW, Deflate) have nothing to check.
        """
        if not states_size(self.levels[level].compression):
            return
        is_sound = self._is_sound[level]
        for tile in self.find_tiles(level, location, size):
            if not is_sound[tile.number]:
                self._read_bytes(level, tile.number)

    def check_headers(self, level: int, location: tuple[int, int], size: tuple[int, int]) -> None:
        """As :meth:`check_tiles`, but only the headers of JPEG tiles: for a decoder that tells of all other damage."""
        stored = self.levels[level]
        if not stored.is_jpeg:
            return
        is_known = self._has_sound_header[level]
        for first, end in self._find_runs(level, location, size):
            new = is_known.find(0, first, end)
            while new >= 0:
                self._check_header(level, new)
                is_known[new] = 1
                new = is_known.find(0, new, end)

    def _find_runs(self, level: int, location: tuple[int, int], size: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """First number and end of the tiles under a window, in each row of tiles."""
        stored = self.levels[level]
        tile_height, tile_width = stored.tile
        row, col = location
        height, width = size
        first_j = col // tile_width
        last_j = (col + width - 1) // tile_width
        for i in range(row // tile_height, (row + height - 1) // tile_height + 1):
            begin = i * stored.columns
            yield begin + first_j, begin + last_j + 1

    def _check_header(self, level: int, index: int) -> None:
        stored = self.levels[level]
        like = self._last_jpeg[level]
        num_bytes = int(stored.byte_counts[index])
        data = os.pread(self._file.fileno(), num_bytes, int(stored.offsets[index]))  # all, lest the file be cut short
        is_alike = like is not None and like.size == stored.tile and data.startswith(like.data)
        if not is_alike or len(data) < num_bytes:
            self._read_bytes(level, index)

    def check_pixels(self, level: int, location: tuple[int, int], pixels: np.ndarray) -> None:
        """Raise :class:`SlideError` if coded pixels of a JPEG tile are missing, and gray ones were painted instead.

        Args:
            level: number of the level.
            location: first row and column of a window.
            pixels: what was decoded of it, ``(height, width, 3)``; its tiles were checked.
        """
        stored = self.levels[level]
        if not stored.is_jpeg:
            return
        row, col = location
        height, width = stored.tile
        has_restarts = self._has_restarts[level]
        for tile in self.find_tiles(level, location, pixels.shape[:2]):
            down = tile.row - row
            right = tile.col - col
            part = pixels[max(down, 0) : down + height, max(right, 0) : right + width]
            if looks_unfinished(part, has_restarts=has_restarts):
                self._check_complete(level, tile.number, self._read_bytes(level, tile.number))

    def examine(self, level: int, index: int, message: str) -> None:
        """Look closely at a JPEG tile of which a decoder said something: raise :class:`SlideError`, or warn once.

        Bytes too many before the end may be changed bits, after which the decoder lost its place. Some encoders write
        such bytes, and other readers do not mind: they are no more than a warning.
        """
        self._is_sound[level][index] = 0
        data = self._read_bytes(level, index)
        if is_serious(message):
            self._check_complete(level, index, data)
            raise self._damage(level, index, message)
        if not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "%s: tile %d of level %d is read, but changed bits are likely in it (%s); compare the checksum of the "
                "file with its source's.",
                *(self.path, index, level, message),
            )

    def read_tile(self, level: int, index: int) -> np.ndarray:
        """RGB of a tile: ``uint8`` (height, width, 3), at the edges of a level perhaps smaller than a tile."""
        stored = self.levels[level]
        data = self._read_bytes(level, index)
        if not data:
            return np.full((*stored.tile, 3), _BACKGROUND, np.uint8)

        pixels = self._decode(level, index, data)
        depth = 16
        if pixels.dtype == np.uint16:
            depth = self._find_depth(level, pixels)
        rgb = to_rgb(pixels, premultiplied=stored.is_premultiplied, depth=depth)
        if stored.is_jpeg and looks_unfinished(rgb, has_restarts=self._has_restarts[level]):
            self._check_complete(level, index, data)
        return rgb

    def _decode(self, level: int, index: int, data: bytes) -> np.ndarray:
        stored = self.levels[level]
        options = {"jpegtables": stored.jpeg_tables} if stored.is_jpeg else {}
        try:
            pixels = stored.decode(data, index, **options)[0]  # type: ignore[misc]
        except (*_UNDECODABLE, MemoryError) as e:
            raise self._damage(level, index, str(e)) from e
        return pixels[0]

    def _find_depth(self, level: int, pixels: np.ndarray) -> int:
        """Bits of data of the 16-bit samples of a tile."""
        stated = self.levels[level].depth
        try:
            if stated is not None:
                return choose_depth(_find_largest(pixels, self.levels[level].samples), stated)
            if self._depth is None:
                self._depth = choose_depth(self._sample_largest(), None)
        except ValueError as e:
            raise SlideError(f"{self.path}: {e}.") from e
        return self._depth

    def _sample_largest(self) -> int:
        """Largest color value of the coarsest level, from tiles spread over it."""
        level = len(self.levels) - 1
        stored = self.levels[level]
        written = np.flatnonzero(stored.byte_counts)
        step = -(-len(written) // _NUM_SAMPLED)
        largest = 0
        for index in written[:: max(1, step)]:
            pixels = self._decode(level, int(index), self._read_bytes(level, int(index)))
            largest = max(largest, _find_largest(pixels, stored.samples))
        return largest

    def _read_bytes(self, level: int, index: int) -> bytes:
        """The bytes of a tile, checked if its codec states a size; none for a tile that was never written."""
        stored = self.levels[level]
        num_bytes = stored.byte_counts[index]
        with self._lock:
            self._file.seek(stored.offsets[index])
            data = self._file.read(num_bytes)
        if len(data) < num_bytes:
            raise SlideError(f"{self.path}: the file was cut short at tile {index} of level {level} while in use.")

        if data and not self._is_sound[level][index]:
            if stored.is_jpeg:
                self._check_jpeg(level, index, data)
            else:
                self._check_stream(level, index, data)
            self._is_sound[level][index] = 1
        return data

    def _check_complete(self, level: int, index: int, data: bytes) -> None:
        """Raise :class:`SlideError` unless the coded pixels of a JPEG tile reach to its end; each is checked once."""
        if self._is_complete[level][index]:
            return
        try:
            is_complete = is_complete_jpeg(data, tables=self.levels[level].jpeg_tables)
        except ValueError as e:
            raise self._damage(level, index, str(e)) from e
        if not is_complete:
            raise self._damage(level, index, "the coded pixels of its JPEG stream end early")
        self._is_complete[level][index] = 1

    def _check_stream(self, level: int, index: int, data: bytes) -> None:
        stored = self.levels[level]
        try:
            check_stream(data, stored.compression, stored.find_form(index))
        except ValueError as e:
            raise self._damage(level, index, str(e)) from e

    def _check_jpeg(self, level: int, index: int, data: bytes) -> None:
        stored = self.levels[level]
        try:
            jpeg = check_jpeg(data, stored.find_form(index), tables=stored.jpeg_tables, like=self._last_jpeg[level])
        except ValueError as e:
            raise self._damage(level, index, str(e)) from e

        self._last_jpeg[level] = jpeg
        self._has_restarts[level] |= jpeg.has_restarts
        if self.strict or not jpeg.is_sequential:
            self._check_complete(level, index, data)
        if self.whole_tiles and jpeg.size != stored.tile:
            height, width = jpeg.size
            reason = f"JPEG stream of {height} x {width} in a tile of {stored.tile}; reader='tifffile' may read it"
            raise self._damage(level, index, reason)

    def _damage(self, level: int, index: int, reason: str) -> SlideError:
        stored = self.levels[level]
        row, col = divmod(index, stored.columns)
        piece = "tile" if stored.is_tiled else "strip"
        return SlideError(
            f"{self.path}: {piece} {index} of level {level} (from row {row * stored.tile[0]}, column "
            f"{col * stored.tile[1]}) is damaged: {reason}; {COPY_AGAIN}"
        )

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


def is_serious(message: str) -> bool:
    """Whether a JPEG decoder speaks of pixels that it made up, not only of bytes too many."""
    return _TOO_MANY not in message


def _find_largest(pixels: np.ndarray, samples: int) -> int:
    """Largest value of the colors of a tile, without its alpha."""
    colors = pixels[..., :-1] if samples in (2, 4) else pixels
    return int(colors.max())


class TiffReader(SlideReader):
    """Tiled TIFF through tifffile and imagecodecs: decodes the tiles under the window, and no others."""

    name = "tifffile"

    @classmethod
    def refuses(cls, header: Header) -> str | None:
        """Why tifffile cannot read the file correctly, or None if it can."""
        if header.vendor is not None:
            return "only OpenSlide can put it together"
        if not isinstance(header, TiffHeader):
            return "it is not a TIFF file"
        if not header.lazy:
            return "it has no tiles"
        for level in header.levels:
            fault = find_decoding_fault(level)
            if fault is not None:
                return fault
        return None

    @staticmethod
    def _open(info: SlideInfo) -> Any:
        tiles = TileFile(TiffHeader.recall(info.path), strict=info.strict)
        check_levels(info, "the file", tuple(level.size for level in tiles.levels))
        largest = max(math.prod(level.tile) for level in tiles.levels)
        num_kept = _CACHE_BYTES // (3 * largest)
        keep = lru_cache(maxsize=max(1, num_kept))
        return tiles, keep(tiles.read_tile)

    def _read(self, level: int, location: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        tiles, read_tile = self.open_file()
        row, col = location
        window = np.empty((*size, 3), np.uint8)
        for tile in tiles.find_tiles(level, location, size):
            pixels = read_tile(level, tile.number)
            paste_tile(window, pixels, offset=(tile.row - row, tile.col - col))
        return window


def paste_tile(window: np.ndarray, pixels: np.ndarray, *, offset: tuple[int, int]) -> None:
    """Copy a tile into a window, as far as it lies in it.

    Args:
        window: pixels to write to, ``(height, width, 3)``.
        pixels: pixels of the tile, ``(tile height, tile width, 3)``.
        offset: row and column of the tile's top-left corner in the window, which may be negative.
    """
    down, right = offset
    height, width = window.shape[:2]
    inside = pixels[max(-down, 0) : height - down, max(-right, 0) : width - right]
    top = max(down, 0)
    left = max(right, 0)
    window[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
