# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Stored tiles: damaged ones are refused and named, and no more are checked or decoded than needed."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from slide_files import (
    JPEG,
    LEVELS,
    PIXELS,
    needs_cucim,
    open_with,
    overwrite,
    tile_range,
    write_pyramid,
)

from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.tifffile_reader import TiffReader, TileFile


def damaged_jpeg(data: bytes, kind: str) -> bytes:
    """The stored bytes of a JPEG tile, damaged in one of the ways that decoders pass over."""
    frame, scan, table = (data.index(bytes((0xFF, marker))) for marker in (0xC0, 0xDA, 0xC4))
    middle = scan + (len(data) - scan) // 2
    return {
        "no begin": b"\0\0" + data[2:],
        "cut": data[:middle] + bytes(len(data) - middle),
        "other size": data[: frame + 5] + b"\x04\0\x04\0" + data[frame + 9 :],  # 1024 x 1024: cuCIM would overflow
        "smaller": data[: frame + 5] + b"\0\x20\0\x20" + data[frame + 9 :],
        "marker": data[:middle] + b"\xff\xa5" + data[middle + 2 :],
        "table": data[: table + 5] + b"\xff" * 16 + data[table + 21 :],
        "code": data[: table + 6] + b"\x06\0" + data[table + 8 :],  # six codes of two bits
        "scan": data[: scan + 5] + b"\x77" + data[scan + 6 :],
        "length": data[: scan + 2] + b"\xff\xff" + data[scan + 4 :],
    }[kind]


@pytest.mark.parametrize("reader", [pytest.param("cucim", marks=needs_cucim), "tifffile"])
@pytest.mark.parametrize(
    "kind", ["no begin", "cut", "other size", "smaller", "marker", "table", "code", "scan", "length"]
)
def test_damaged_jpeg_tiles_are_named(tmp_path: Path, reader: str, kind: str) -> None:
    path = write_pyramid(tmp_path / "a.tif", LEVELS[:2], **JPEG)
    begin, size = tile_range(path, 0, 9)  # columns 128 to 191 of rows 64 to 127
    overwrite(path, begin, damaged_jpeg(Path(path).read_bytes()[begin : begin + size], kind))
    opened = open_with(path, reader)
    with pytest.raises(SlideError, match=r"a\.tif: tile 9 of level 0 \(from row 64, column 128\) is damaged"):
        opened.read(0, (100, 100), (50, 50))
    with pytest.raises(SlideError, match="tile 9 of level 0"):  # and again: it is not remembered as sound
        opened.read(0, (64, 128), (1, 1))
    assert opened.read(0, (0, 0), (64, 420)).shape == (64, 420, 3)
    assert opened.read(1, (0, 0), (20, 20)).shape == (20, 20, 3)


@needs_cucim
def test_each_tile_is_checked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = open_with(write_pyramid(tmp_path / "a.tif", LEVELS, **JPEG), "cucim")
    reader.read(0, (0, 0), (1, 1))
    checked: list[int] = []
    read = os.pread

    def count(descriptor: int, length: int, offset: int) -> bytes:
        checked.append(offset)
        return read(descriptor, length, offset)

    monkeypatch.setattr("monai_jsma.slides.tifffile_reader.os.pread", count)
    for _ in range(3):
        reader.read(0, (0, 0), (100, 100))
    assert len(checked) == len(set(checked)) == 3  # four tiles, of which one was read before


def test_jpeg_of_ycbcr_in_tags_of_rgb_has_right_colours(tmp_path: Path) -> None:
    """Some writers call tiles RGB that state by their JFIF header to be YCbCr; cuCIM would believe the tag."""
    tiles = []
    for row in (0, 64):
        for col in (0, 64):
            buffer = io.BytesIO()
            Image.fromarray(PIXELS[row : row + 64, col : col + 64]).save(buffer, "JPEG", quality=95)
            tiles.append(buffer.getvalue())
    path = tmp_path / "a.tif"
    shape = {"shape": (128, 128, 3), "dtype": "uint8", "tile": (64, 64), "metadata": None}
    tifffile.imwrite(path, iter(tiles), compression="jpeg", photometric="rgb", **shape)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[0].tags["PhotometricInterpretation"].overwrite(2)
    reader = open_with(path)
    assert isinstance(reader, TiffReader)
    assert np.abs(reader.read(0, (0, 0), (128, 128)).astype(int) - PIXELS[:128, :128]).mean() < 6


def test_tifffile_decodes_only_the_tiles_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[int, int]] = []
    read_tile = TileFile.read_tile
    monkeypatch.setattr(TileFile, "read_tile", lambda self, *tile: decoded.append(tile) or read_tile(self, *tile))
    reader = open_with(write_pyramid(tmp_path / "a.tif", LEVELS, compression="lzw"))
    columns = -(-420 // 64)
    reader.read(0, (64, 64), (64, 64))
    assert decoded == [(0, columns + 1)]
    reader.read(0, (63, 64), (2, 64))
    reader.read(1, (0, 0), (1, 1))
    assert decoded == [(0, columns + 1), (0, 1), (1, 0)]  # the first one was kept
