# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Files for the corpus: how each is written, what pixels went in, and the ways to damage it.

Arrays are ``(height, width, 3)``; levels are stored finest first, with downsamples 1, 2 and 4.003.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from dicom_files import list_places, write_dicom
from mirax_files import write_mirax
from PIL import Image
from slide_files import (
    levels_of,
    overwrite,
    page_of,
    picture,
    tile_range,
    write_ndpi,
    write_pyramid,
    write_scn,
    write_trestle,
)

from monai_jsma.slides.codec import scan_jpeg

__all__ = [
    "DEEP",
    "GREY",
    "LEVELS",
    "PIXELS",
    "Sample",
    "cut",
    "dicom",
    "end_early",
    "flip",
    "holding",
    "link_pages",
    "mirax",
    "moved",
    "ndpi",
    "ome",
    "on_white",
    "pillow",
    "retag",
    "scn",
    "single",
    "tiled",
    "trestle",
    "ycbcr_jpeg2000",
    "zero",
]

PIXELS = picture(160, 224)
LEVELS = levels_of(PIXELS, [2, 4.003])
GREY = PIXELS[..., 0]
DEEP = np.random.default_rng(1).integers(0, 65536, PIXELS.shape, dtype=np.uint16)
HALVES = levels_of(picture(128, 256), [2])  # of slides that need whole tiles
_DICOM_UIDS = ("SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
TILE = 5  # the one that is damaged: rows and columns 64 to 127 of level 0; the last one where there are not as many


@dataclass(frozen=True)
class Sample:
    """A file to be: its name, how it is written, the RGB that goes in, by how much it may change, what is done to it.

    ``near`` is 0 where the compression keeps every value, else the largest mean difference that it may make.
    """

    name: str
    write: Callable[[Path], object]
    levels: Sequence[np.ndarray] = ()
    near: float = 0
    damage: Callable[[Path], object] | None = None

    def make(self, folder: Path, *, sound: bool = False) -> Path:
        """Write the file, without its damage if ``sound``; its path."""
        path = folder / self.name
        self.write(path)
        if self.damage and not sound:
            self.damage(path)
        return path

    def but(self, damage: Callable[[Path], object]) -> Sample:
        """The same file with something done to it."""
        return replace(self, damage=damage)


def tiled(name: str = "a.tif", *, near: float = 0, **options: Any) -> Sample:
    """The pyramid in tiles of 64 x 64."""
    return Sample(name, lambda path: write_pyramid(path, LEVELS, **options), LEVELS, near)


def single(stored: np.ndarray = PIXELS, expected: np.ndarray = PIXELS, *, near: float = 0, **options: Any) -> Sample:
    """One level, as ``stored``, of which readers make ``expected``; ``tile=None`` makes strips of 32 rows."""
    if options.get("tile", True) is None:
        options["rowsperstrip"] = 32
    return Sample("a.tif", lambda path: write_pyramid(path, [stored], **options), [expected], near)


def pillow(name: str, image: Any = PIXELS, expected: np.ndarray = PIXELS, *, near: float = 0, **options: Any) -> Sample:
    """A plain picture written by Pillow."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return Sample(name, lambda path: image.save(path, **options), [expected], near)


def ome(metadata: dict[str, Any], stored: np.ndarray = PIXELS, **options: Any) -> Sample:
    """An OME-TIFF file of one level."""
    options = {"ome": True, "tile": (64, 64), "photometric": "rgb", "metadata": metadata, **options}
    return Sample("a.ome.tif", lambda path: tifffile.imwrite(path, stored, **options), [PIXELS])


def holding(data: bytes, name: str = "a.svs") -> Sample:
    """A file of any bytes."""
    return Sample(name, lambda path: path.write_bytes(data))


def trestle() -> Sample:
    """A TIFF file of another vendor."""
    return Sample("a.tif", lambda path: write_trestle(path, LEVELS), LEVELS, near=5)


def ndpi() -> Sample:
    """A Hamamatsu slide of two levels, with a macro image."""
    macro = picture(75, 200, 3)
    return Sample("a.ndpi", lambda path: write_ndpi(path, HALVES, macro), HALVES, near=5)


def scn() -> Sample:
    """A Leica slide whose image lies on a larger canvas."""
    location = (64, 128)
    canvas = np.full((512, 640, 3), 255, np.uint8)
    height, width = HALVES[0].shape[:2]
    canvas[64 : 64 + height, 128 : 128 + width] = HALVES[0]
    write = partial(write_scn, pixels=HALVES[0], location=location, canvas=canvas.shape[:2])
    return Sample("a.scn", write, [canvas], near=5)


def mirax() -> Sample:
    """A MIRAX slide of two levels, whose image lies on a larger canvas."""
    levels = []
    for step in (1, 2):
        canvas = np.full((512 // step, 640 // step, 3), 255, np.uint8)
        canvas[128 // step : 256 // step, 256 // step : 512 // step] = HALVES[0][::step, ::step]
        levels.append(canvas)
    write = partial(write_mirax, pixels=HALVES[0], location=(128, 256), canvas=(512, 640))
    return Sample("a.mrxs", write, levels, near=5)


def dicom(*, parts: int = 1, is_sparse: bool = False) -> Sample:
    """A DICOM slide of two levels, the finest one in so many files.

    Args:
        parts: number of files that the frames of the finest level are divided over.
        is_sparse: whether each frame states its place.
    """
    write = partial(_write_dicom, parts=parts, is_sparse=is_sparse)
    return Sample("level0.dcm", write, HALVES, near=5)


def _write_dicom(path: Path, *, parts: int, is_sparse: bool) -> None:
    series = {name: f"1.2.3.{i}" for i, name in enumerate(_DICOM_UIDS, start=1)}  # always the same bytes
    fine, coarse = HALVES
    places = list_places(fine.shape[:2])
    each = len(places) // parts
    for part in range(parts):
        frames = slice(part * each, (part + 1) * each)
        attributes: dict[str, Any] = {"SOPInstanceUID": f"1.2.3.9.{part}"}
        if parts > 1:
            attributes.update(
                ConcatenationUID="1.2.3.8",
                InConcatenationNumber=part + 1,
                InConcatenationTotalNumber=parts,
                ConcatenationFrameOffsetNumber=part * each,
            )
        file = path if part == 0 else path.with_name(f"level0_{part}.dcm")
        where = places[frames] if is_sparse else ()
        write_dicom(file, fine, series, frames=frames, places=where, **attributes)
    write_dicom(path.with_name("level1.dcm"), coarse, series, mpp=1.0, SOPInstanceUID="1.2.3.9.100")


def ycbcr_jpeg2000() -> Sample:
    """Compression 33003 as old Aperio scanners wrote it, without loss but for the change of colours."""
    pixels = PIXELS[:128, :192]
    ycbcr = np.asarray(Image.fromarray(pixels).convert("YCbCr"))
    tiles = [np.ascontiguousarray(ycbcr[r : r + 64, c : c + 64]) for r in (0, 64) for c in (0, 64, 128)]
    encoded = [imagecodecs.jpeg2k_encode(tile, codecformat="j2k", reversible=True, level=0) for tile in tiles]
    kind = {"shape": ycbcr.shape, "dtype": "uint8", "tile": (64, 64), "compression": 33003, "photometric": "ycbcr"}
    text = {"description": "Aperio Image Library v11\r\n192x128|MPP = 0.5", "metadata": None}
    return Sample("a.svs", lambda path: tifffile.imwrite(path, iter(encoded), **kind, **text), [pixels], near=1)


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colours under their alpha on white, rounded."""
    return np.floor(colour * (alpha / 255) + 255 - alpha + 0.5).astype(np.uint8)


# ------------------------------------------------------------------------------------------------------------ damage


def _place(path: Path) -> tuple[int, int]:
    """First byte and number of bytes of a tile or strip; of a file that is no TIFF, of its second half."""
    if path.suffix in (".tif", ".svs"):
        count = len(page_of(path, 0).dataoffsets)
        return tile_range(path, 0, min(TILE, count - 1))
    size = path.stat().st_size
    return size // 2, size // 2


def zero(path: Path) -> None:
    """Zeros in place of a tile's bytes."""
    begin, size = _place(path)
    overwrite(path, begin, bytes(size))


def flip(path: Path) -> None:
    """Change one bit in the middle of a tile's bytes."""
    begin, size = _place(path)
    at = begin + size // 2
    overwrite(path, at, bytes([path.read_bytes()[at] ^ 1]))


def end_early(path: Path) -> None:
    """Lose the second half of the coded pixels of a JPEG stream, whose end marker stays."""
    begin, size = _place(path)
    data = path.read_bytes()[begin : begin + size]
    if path.suffix == ".jpg":
        begin = 0
        data = path.read_bytes()
    first = len(scan_jpeg(data).data)
    half = first + (len(data) - first) // 2
    if data[half - 1] == 0xFF:
        half -= 1
    overwrite(path, begin, data[:half] + b"\xff\xd9" + bytes(len(data) - half - 2))


def cut(path: Path) -> None:
    """Lose the last third of the file."""
    os.truncate(path, path.stat().st_size * 2 // 3)


def retag(name: str, change: Any, page: int = 0, **options: Any) -> Callable[[Path], None]:
    """Give a tag another value, or the one that ``change`` makes of its own."""

    def damage(path: Path) -> None:
        with tifffile.TiffFile(path, mode="r+") as tif:
            tag = tif.pages[page].tags[name]
            tag.overwrite(change(tag.value) if callable(change) else change, **options)

    return damage


def link_pages(page: int, target: int | None) -> Callable[[Path], None]:
    """Let ``page`` of a little-endian file say that page ``target`` comes next; None is beyond the end."""

    def damage(path: Path) -> None:
        tags = page_of(path, page)
        offset = 10**8 if target is None else page_of(path, target).offset
        overwrite(path, tags.offset + 2 + 12 * len(tags.tags), offset.to_bytes(4, "little"))

    return damage


def moved(offset: int) -> Callable[[Path], None]:
    """Let the last tile of level 0 begin at ``offset``."""
    return retag("TileOffsets", lambda offsets: (*offsets[:-1], offset))
