# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Synthetic MIRAX slides of 0.5 um per pixel: a preview, and a folder with tiles, their index and settings."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from slide_files import encode_jpeg

__all__ = ["TILE", "write_mirax"]

TILE = 64
_VERSION = b"01.02"
_IDENT = b"0123456789ABCDEF" * 2
_HEADER_BYTES = 256  # of a data file
_SETTINGS = """[GENERAL]
SLIDE_VERSION = 01.02
SLIDE_ID = {ident}
IMAGENUMBER_X = {cols}
IMAGENUMBER_Y = {rows}
OBJECTIVE_MAGNIFICATION = 20
[HIERARCHICAL]
HIER_COUNT = 1
NONHIER_COUNT = 0
INDEXFILE = Index.dat
HIER_0_NAME = Slide zoom level
HIER_0_COUNT = 2
HIER_0_VAL_0_SECTION = LEVEL_0
HIER_0_VAL_1_SECTION = LEVEL_1
[DATAFILE]
FILE_COUNT = 1
FILE_0 = Data0000.dat
"""
_LEVEL = """[LEVEL_{number}]
OVERLAP_X = 0
OVERLAP_Y = 0
MICROMETER_PER_PIXEL_X = {mpp}
MICROMETER_PER_PIXEL_Y = {mpp}
IMAGE_FORMAT = JPEG
IMAGE_FILL_COLOR_BGR = 16777215
DIGITIZER_WIDTH = 64
DIGITIZER_HEIGHT = 64
IMAGE_CONCAT_FACTOR = {number}
"""


class _Entry(NamedTuple):
    """Where a tile is: the number of its image on the canvas, its first byte, its length, the number of its file."""

    image: int
    begin: int
    length: int
    file: int = 0


def write_mirax(path: Path, pixels: np.ndarray, *, location: tuple[int, int], canvas: tuple[int, int]) -> str:
    """A slide whose image lies at ``location`` (row, column) of a larger canvas, with every second pixel as a level.

    Locations and sizes are multiples of 128, so that every tile is whole.
    """
    folder = path.with_suffix("")
    folder.mkdir(parents=True)
    Image.fromarray(np.ascontiguousarray(pixels[::4, ::4])).save(path, "JPEG")  # as the scanner does: a preview
    rows = canvas[0] // TILE
    cols = canvas[1] // TILE
    data = bytearray((_VERSION + _IDENT).ljust(_HEADER_BYTES, b"\0"))
    levels = []
    for number in (0, 1):
        step = 2**number
        entries = []
        for row in range(0, pixels.shape[0], TILE * step):
            for col in range(0, pixels.shape[1], TILE * step):
                tile = pixels[row : row + TILE * step : step, col : col + TILE * step : step]
                stream = encode_jpeg(np.ascontiguousarray(tile), quality=90, subsampling=0)
                image = (location[0] + row) // TILE * cols + (location[1] + col) // TILE
                entries.append(_Entry(image, len(data), len(stream)))
                data += stream
        levels.append(entries)
    settings = _SETTINGS.format(ident=_IDENT.decode(), rows=rows, cols=cols)
    settings += "".join(_LEVEL.format(number=number, mpp=0.5 * 2**number) for number in (0, 1))
    (folder / "Data0000.dat").write_bytes(data)
    (folder / "Index.dat").write_bytes(_make_index(levels))
    (folder / "Slidedat.ini").write_bytes(b"\xef\xbb\xbf" + settings.replace("\n", "\r\n").encode())
    return str(path)


def _make_index(levels: list[list[_Entry]]) -> bytes:
    """The index: its name, a pointer to the table of levels, and of each level a page of its tiles."""
    head = _VERSION + _IDENT
    table = len(head) + 8
    page = table + 4 * len(levels)
    pointers = b""
    pages = b""
    for entries in levels:
        pointers += struct.pack("<i", page + len(pages))
        own = page + len(pages) + 8
        pages += struct.pack("<iiii", 0, own, len(entries), 0)
        for entry in entries:
            pages += struct.pack("<iiii", *entry)
    return head + struct.pack("<ii", table, 0) + pointers + pages
