# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Synthetic slides for the tests: tiled pyramids of every kind written with tifffile, and the ways they break.

Arrays are uint8 ``(height, width, 3)``; levels are stored finest first.
"""

from __future__ import annotations

import importlib.util
import io
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import tifffile
from PIL import Image
from places import SHARED

from monai_jsma.data import Reader, inspect_slide
from monai_jsma.slides import open_slide

__all__ = [
    "APERIO",
    "HAS_CUCIM",
    "JPEG",
    "LEVELS",
    "PIXELS",
    "encode_jpeg",
    "levels_of",
    "needs_cucim",
    "open_with",
    "overwrite",
    "page_of",
    "picture",
    "shared_slide",
    "tile_range",
    "stored_levels",
    "windows",
    "write_ndpi",
    "write_pyramid",
    "write_scn",
    "write_trestle",
    "zero_tile",
]

HAS_CUCIM = importlib.util.find_spec("cucim") is not None
needs_cucim = pytest.mark.skipif(not HAS_CUCIM, reason="cuCIM is not installed")
JPEG: dict[str, Any] = {"compression": "jpeg"}
APERIO = "Aperio Image Library v11.2.1 \r\n{width}x{height} (240x240) JPEG/RGB Q=90|AppMag = 20|MPP = {mpp}"


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A picture whose every pixel differs from its neighbours, smooth enough for JPEG: uint8 (height, width, 3)."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:height, :width]
    waves = np.stack([np.sin(rows / 17 + c) + np.cos(cols / (11 + c)) for c in range(3)], axis=-1)
    return np.clip(127 + 50 * waves + rng.normal(0, 6, waves.shape), 0, 255).astype(np.uint8)


def encode_jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    """Pixels as a JPEG stream."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def levels_of(pixels: np.ndarray, downsamples: Sequence[float]) -> list[np.ndarray]:
    """``pixels`` and its reductions: level l takes every ``downsamples[l]``-th pixel, so that no two levels agree."""
    levels = [pixels]
    for down in downsamples:
        rows = (np.arange(int(pixels.shape[0] / down)) * down).astype(int)
        cols = (np.arange(int(pixels.shape[1] / down)) * down).astype(int)
        levels.append(np.ascontiguousarray(pixels[rows][:, cols]))
    return levels


PIXELS = picture(330, 420)
LEVELS = levels_of(PIXELS, [2.0005, 4.003, 7.9])  # as scanners make them: no whole numbers


def open_with(path: Path | str, reader: str | None = None) -> Reader:
    """A reader of a file: the one that it gets, or the one that is named."""
    return open_slide(inspect_slide(path, reader=reader))


def write_pyramid(
    path: Path | str,
    levels: Sequence[np.ndarray],
    *,
    tile: tuple[int, int] | None = (64, 64),
    mpp: float | None = None,
    aperio_mpp: float | str | None = None,
    subifds: bool = False,
    bigtiff: bool = False,
    byteorder: str = "<",
    extra: Sequence[tuple[np.ndarray, dict[str, Any]]] = (),
    **options: Any,
) -> str:
    """Write ``levels`` as the pages (or sub-IFDs) of a TIFF file.

    Args:
        tile: height and width of the tiles; None writes strips.
        mpp: um per pixel of level 0, stored as the TIFF resolution; None stores none.
        aperio_mpp: writes an Aperio description with this MPP (0 leaves the MPP out).
        extra: further pages, ``(array, tifffile options)``, written after the levels.
        options: passed to ``TiffWriter.write``: compression, compressionargs, predictor, photometric, ...

    Returns:
        The path as text.
    """
    options = {"photometric": "rgb", "metadata": None, **options}
    height, width = levels[0].shape[:2]
    with tifffile.TiffWriter(path, bigtiff=bigtiff, byteorder=byteorder) as tif:
        for index, level in enumerate(levels):
            page = dict(options, tile=tile)
            if mpp is not None:
                page.update(resolution=(1e4 * level.shape[1] / width / mpp,) * 2, resolutionunit="CENTIMETER")
            if aperio_mpp is not None:
                text = APERIO.format(width=width, height=height, mpp=aperio_mpp)
                page["description"] = text if aperio_mpp else text.split("|MPP")[0]
            if index == 0 and subifds:
                page["subifds"] = len(levels) - 1
            if index and aperio_mpp is None:
                page["subfiletype"] = 1
            tif.write(level, **page)
        for array, page in extra:
            tif.write(array, **{"metadata": None, **page})
    return str(path)


def write_trestle(path: Path | str, levels: Sequence[np.ndarray]) -> str:
    """A slide that is TIFF outside but, by its vendor's rules for tiles, one only OpenSlide puts together."""
    description = "OverlapsXY= 0 0 0 0;Background Color=ffffff"
    return write_pyramid(path, levels, compression="jpeg", software="MedScan 1.0", description=description)


def page_of(path: Path | str, level: int) -> tifffile.TiffPage:
    """Tags of a page; the file is closed."""
    with tifffile.TiffFile(path) as tif:
        return tif.pages.get(level)


def tile_range(path: Path | str, level: int, tile: int) -> tuple[int, int]:
    """First byte and number of bytes of a stored tile of page ``level``."""
    page = page_of(path, level)
    return page.dataoffsets[tile], page.databytecounts[tile]


def zero_tile(path: Path | str, level: int, tile: int) -> None:
    """Make a tile of a little-endian file sparse: offset and byte count 0, as GDAL and some scanners do."""
    with tifffile.TiffFile(path, mode="r+") as tif:
        for name in ("TileOffsets", "TileByteCounts"):
            tag = tif.pages[level].tags[name]
            values = list(tag.value)
            values[tile] = 0
            tag.overwrite(values)


def overwrite(path: Path | str, offset: int, data: bytes) -> None:
    """Replace bytes of a file."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def shared_slide(name: str) -> str:
    """Path of a real slide beside the repository; skips the test where it is absent."""
    path = SHARED / "data" / "slides" / name
    if not path.exists():
        pytest.skip(f"{name} is not in ../shared/data/slides")
    return str(path)


def stored_levels(path: str) -> list[np.ndarray]:
    """Whole levels as tifffile decodes them: the reference."""
    with tifffile.TiffFile(path) as tif:
        pages = [*tif.pages, *(tif.pages[0].pages or ())]
        return [page.asarray() for page in pages if page.is_tiled]


def windows(size: tuple[int, int], count: int, seed: int = 0) -> Iterator[tuple[int, int, int, int]]:
    """Random windows inside a level, its four corners, and all of it."""
    rng, (height, width) = np.random.default_rng(seed), size
    yield 0, 0, height, width
    yield from ((row, col, 1, 1) for row in (0, height - 1) for col in (0, width - 1))
    for _ in range(count):
        h, w = int(rng.integers(1, min(height, 150) + 1)), int(rng.integers(1, min(width, 150) + 1))
        yield int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w


_SCN = """<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01" uuid="urn:uuid:1">
<collection name="c" uuid="urn:uuid:2" sizeX="{width}" sizeY="{height}"><barcode>x</barcode>
{macro}{image}</collection></scn>"""
_SCN_IMAGE = """<image name="{name}" uuid="urn:uuid:{name}"><creationDate>2012</creationDate>
<device model="Leica SCN400;Leica SCN" version="1.0"/><pixels sizeX="{cols}" sizeY="{rows}">
<dimension sizeX="{cols}" sizeY="{rows}" r="0" ifd="{page}"/></pixels>
<view sizeX="{width}" sizeY="{height}" offsetX="{left}" offsetY="{top}" spacingZ="0"/><scanSettings><objectiveSettings>
<objective>{power}</objective></objectiveSettings><illuminationSettings><numericalAperture>0.4</numericalAperture>
<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"""


def write_scn(path: Path, pixels: np.ndarray, *, location: tuple[int, int], canvas: tuple[int, int]) -> str:
    """A Leica SCN slide of 0.5 um per pixel, whose picture lies at ``location`` (row, column) of a larger canvas."""
    nm = 500
    rows, cols = pixels.shape[:2]
    whole = {"height": canvas[0] * nm, "width": canvas[1] * nm}
    part = {"height": rows * nm, "width": cols * nm, "top": location[0] * nm, "left": location[1] * nm}
    macro = _SCN_IMAGE.format(name="macro", rows=256, cols=256, page=0, top=0, left=0, power=0.6, **whole)
    image = _SCN_IMAGE.format(name="main", rows=rows, cols=cols, page=1, power=20, **part)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path, bigtiff=True) as tif:
        options: dict[str, Any] = {"tile": (256, 256), "compression": "jpeg", "metadata": None, "photometric": "rgb"}
        description = _SCN.format(**whole, macro=macro, image=image)
        tif.write(np.full((256, 256, 3), 240, np.uint8), description=description, **options)
        dots = 1e7 / nm
        tif.write(pixels, resolution=(dots, dots), resolutionunit="CENTIMETER", **options)
    return str(path)


_SHORT = 3  # types of TIFF tags
_LONG = 4
_RATIONAL = 5
_SLONG = 9
_FLOAT = 11


def write_ndpi(path: Path, levels: Sequence[np.ndarray], macro: np.ndarray, *, gap: int = 0) -> str:
    """A Hamamatsu NDPI slide of 0.5 um per pixel: each level is one JPEG stream, the macro image has no magnification.

    Args:
        gap: bytes that are left out before the pixels of level 0, to have offsets of more than 32 bits.
    """
    with path.open("wb") as file:
        file.write(b"II*\0" + bytes(8))
        link = 4
        for number, pixels in enumerate([*levels, macro]):
            is_macro = number == len(levels)
            scale = pixels.shape[1] / levels[0].shape[1]
            lens = -1.0 if is_macro else 20.0 * scale
            if number == 0:
                file.seek(gap, io.SEEK_CUR)
            link = _write_ndpi_page(file, pixels, link=link, lens=lens, per_cm=int(20000 * scale))
    return str(path)


def _write_ndpi_page(file: BinaryIO, pixels: np.ndarray, *, link: int, lens: float, per_cm: int) -> int:
    """Write a page whose offset is put at ``link``; returns where that of the next page will be."""
    stream = encode_jpeg(pixels, quality=90, subsampling=0)
    begin = file.tell()
    file.write(stream + bytes(len(stream) % 2))
    bits = file.tell()
    file.write(struct.pack("<3H2x2I", 8, 8, 8, per_cm, 1))
    resolution = bits + 8
    height, width = pixels.shape[:2]
    tags = [
        (254, _LONG, 1, 0), (256, _LONG, 1, width), (257, _LONG, 1, height), (258, _SHORT, 3, bits),
        (259, _SHORT, 1, 7), (262, _SHORT, 1, 6), (273, _LONG, 1, begin), (277, _SHORT, 1, 3), (278, _LONG, 1, height),
        (279, _LONG, 1, len(stream)), (282, _RATIONAL, 1, resolution), (283, _RATIONAL, 1, resolution),
        (284, _SHORT, 1, 1), (296, _SHORT, 1, 3), (65420, _LONG, 1, 1),
        (65421, _FLOAT, 1, int.from_bytes(struct.pack("<f", lens), "little")), (65424, _SLONG, 1, 0),
    ]  # fmt: skip
    page = file.tell()
    file.write(struct.pack("<H", len(tags)))
    for code, kind, count, value in tags:
        file.write(struct.pack("<HHII", code, kind, count, value & 0xFFFFFFFF))
    next_link = file.tell()
    high = [value >> 32 for *_, value in tags]  # the upper halves of the values follow the offset of the next page
    file.write(bytes(8) + struct.pack(f"<{len(high)}I", *high))
    end = file.tell()
    file.seek(link)
    file.write(struct.pack("<Q", page))
    file.seek(end)
    return next_link
