# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What a TIFF file holds, read from its tags once: levels, tiles, codecs, spacings, and whether all of it is there.

The tags are read in Python before any C library sees the file: absurd tags hang or abort some of them. Everything later
(which reader, which spacing, which bytes are a tile's and how they are decoded) works from the :class:`TiffHeader`.
Sizes are (height, width) in pixels.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from monai_jsma.slides.base import MAX_OPEN, Header
from monai_jsma.slides.codec import TileForm
from monai_jsma.slides.depth import read_tiff_depth
from monai_jsma.slides.dicom import is_dicom, read_magic
from monai_jsma.slides.errors import COPY_AGAIN, SlideError
from monai_jsma.slides.identity import Stamp, file_stamp, find_vendor
from monai_jsma.slides.ome import find_ome_fault
from monai_jsma.slides.spacing import read_tiff_spacings

__all__ = ["GRAY", "RGB", "YCBCR", "PageEntry", "TiffHeader", "TiffLevel", "find_color_fault", "is_tiff"]

GRAY, RGB, YCBCR = 1, 2, 6  # PhotometricInterpretation
_COLOR_SAMPLES = {0: 1, GRAY: 1, RGB: 3, 3: 1, YCBCR: 3}  # without alpha, of what can become RGB; 3 is a palette
_PREMULTIPLIED, _ALPHA = 1, 2  # ExtraSamples
_RAW = 1  # Compression
_JPEG = {7, 34892, 33007}  # compressions whose tiles and strips are JPEG streams
_CODECS = {1: "raw", 8: "Deflate", 32946: "Deflate", 33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000"}

_APERIO = "Aperio "  # begins the description of every page that an Aperio scanner wrote
_REDUCED, _MASK, _MACRO = 1, 4, 8  # bits of NewSubfileType; the last is Aperio's own
# Sizes, codec and colors, where the strips and tiles are, and the JPEG tables.
_LAYOUT_TAGS = {254, 256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 338, 339, 347, 530}
_TILE_TAGS = {322: "TileWidth", 323: "TileLength", 324: "TileOffsets", 325: "TileByteCounts"}
_STRIP_TAGS = {273: "StripOffsets", 279: "StripByteCounts"}
_OLD_JPEG = 6  # Compression; its stream may be elsewhere
_MAX_TILE = 1 << 26  # pixels
_MAX_TILE_BYTES = 1 << 28
_MOST_CLASSIC = (1 << 32) - 1  # bytes of a TIFF file that is no BigTIFF

_DAMAGE = (struct.error, OSError, ArithmeticError, ValueError, KeyError, IndexError, TypeError, AttributeError)


# -------------------------------------------------------------------------------------------------- what is known


@dataclass(frozen=True, eq=False, kw_only=True)
class TiffLevel:
    """One level: what the tags of its page say. The numbers of codecs and colors are those of the TIFF tags.

    Attributes:
        offset: byte offset of its tags.
        size: height and width.
        is_tiled: whether it is stored in tiles, else in strips.
        tile: height and width of a tile or strip.
        columns: number of tiles or strips in a row of them.
        offsets: first byte of every tile or strip, row by row.
        byte_counts: number of its bytes, 0 where it was never written.
        num_tiles: number of tiles or strips that the size needs.
        raw_bytes: bytes of every tile that is stored without compression, else None.
        compression: number of the codec.
        photometric: number of the kind of color.
        dtype: NumPy type of a sample, or None if there is none like it.
        bits: bits of a sample; several where they differ.
        depth: bits of a sample that hold data, if the file states it: 12 for values of 0 to 4095; else None.
        samples: samples of a pixel, alpha included.
        extra_samples: meaning of the samples that are no color.
        planar: 1 if the samples of a pixel lie together, 2 if the colors are stored apart.
        fill_order: 2 if the bits of every byte are reversed.
        orientation: 1 if the first row is at the top, as usual.
        is_volume: whether it has a depth.
        is_jfif: whether its first JPEG stream is of a kind that is YCbCr whatever the tags say.
        jpeg_tables: the JPEG tables that all tiles share, or None.
        decode: tifffile's decoder of a tile, or None if it has none.
    """

    offset: int
    size: tuple[int, int]
    is_tiled: bool
    tile: tuple[int, int]
    columns: int
    offsets: np.ndarray
    byte_counts: np.ndarray
    num_tiles: int
    raw_bytes: int | None
    compression: int
    photometric: int
    dtype: np.dtype | None
    bits: int
    depth: int | None
    samples: int
    extra_samples: tuple[int, ...]
    planar: int
    fill_order: int
    orientation: int
    is_volume: bool
    is_jfif: bool
    jpeg_tables: bytes | None
    decode: Callable[..., Any] | None

    @cached_property  # asked for every tile that is read
    def is_jpeg(self) -> bool:
        """Whether its tiles are JPEG streams."""
        return self.compression in _JPEG

    @cached_property
    def is_premultiplied(self) -> bool:
        """Whether the colors were already multiplied by alpha."""
        return _PREMULTIPLIED in self.extra_samples

    def find_form(self, index: int) -> TileForm:
        """What the tags promise of a tile or strip."""
        row, column = divmod(index, self.columns)
        height, width = self.tile
        inside = (min(height, self.size[0] - row * height), min(width, self.size[1] - column * width))
        samples = self.samples if self.planar == 1 else 1
        return TileForm(self.tile, inside, self.bits, samples)

    @property
    def codec(self) -> str:
        """Name of the compression: "JPEG", "LZW", "Deflate", or its number where tifffile knows no name."""
        return _CODECS.get(self.compression) or _name_value(COMPRESSION, self.compression)

    @property
    def color(self) -> str:
        """tifffile's name of the kind of color: "MINISBLACK", "RGB", "PALETTE"."""
        return _name_value(PHOTOMETRIC, self.photometric)

    @property
    def summary(self) -> str:
        """One phrase about it: "tiled JPEG, RGB, uint8"."""
        layout = "tiled" if self.is_tiled else "strip"
        colors = {GRAY: "gray", RGB: "RGB", YCBCR: "RGB"}  # YCbCr is decoded to RGB
        color = colors.get(self.photometric, self.color)
        alpha = "A" if self.extra_samples else ""
        return f"{layout} {self.codec}, {color}{alpha}, {self.dtype}"


class PageEntry(NamedTuple):
    """One entry of a file's list of pages: byte offset of its tags, size, layout and the bits of NewSubfileType."""

    offset: int
    size: tuple[int, int]
    is_tiled: bool
    subfile_type: int


@dataclass(frozen=True, eq=False, kw_only=True)
class TiffHeader(Header):
    """What the tags of a TIFF file say, beside what every :class:`~monai_jsma.slides.base.Header` says.

    Attributes:
        levels: the levels, finest first; none in the files of a vendor that only OpenSlide can put together.
        pages: all entries of the list of pages, in order.
        is_aperio: whether an Aperio scanner wrote the file.
        is_utf8: whether the texts of the first page are UTF-8.
    """

    levels: tuple[TiffLevel, ...] = ()
    pages: tuple[PageEntry, ...] = ()
    is_aperio: bool = False
    is_utf8: bool = True

    @classmethod
    def read(cls, path: str, *, stamp: Stamp | None = None) -> TiffHeader:
        """Read the tags of a file, and check that all that they promise is there.

        Args:
            path: the file.
            stamp: length and time of the last change of the file, if they are known already.

        Raises:
            FileNotFoundError: if there is no such file.
            SlideError: if the tags are damaged or make no sense, a part of the file is missing, or it holds several
                images.
        """
        if stamp is None:
            stamp = file_stamp(path)
        try:
            with TiffFile(path) as tif:
                header = _read_header(path, stamp, tif)
        except SlideError as e:
            raise SlideError(f"{e}{_find_name_hint(path, stamp[0])}") from e
        except _DAMAGE as e:
            hint = _find_name_hint(path, stamp[0])
            raise SlideError(f"{path}: the TIFF tags are damaged ({e}); {COPY_AGAIN}{hint}") from e

        _last_header(path, stamp)[:] = [header]
        return header

    @classmethod
    def recall(cls, path: str) -> TiffHeader:
        """The header that this process has read last, if the file has not changed since, or else :meth:`read`.

        No header is ever pickled, since a slide may have 100,000 tiles: a worker process reads it again, once.
        """
        last = _last_header(path, file_stamp(path))
        return last[0] if last else cls.read(path)

    @property
    def num_empty_tiles(self) -> int:
        """Number of tiles that were never written (byte count 0), over all levels."""
        return sum(int((level.byte_counts == 0).sum()) for level in self.levels)


@lru_cache(maxsize=MAX_OPEN)
def _last_header(path: str, stamp: Stamp) -> list[TiffHeader]:
    """Room for the header of a file, empty at first; the cache drops it after others were read."""
    return []


def _find_name_hint(path: str, num_bytes: int) -> str:
    """What to do with a file that may be an NDPI slide under another name: its suffix makes its offsets 64 bits."""
    is_classic = read_magic(path)[:4] in (b"II*\0", b"MM\0*")
    if not is_classic or num_bytes <= _MOST_CLASSIC or path.lower().endswith(".ndpi"):
        return ""
    return " If it is a Hamamatsu slide of more than 4 GB, its name must end in .ndpi."


def is_tiff(path: str) -> bool:
    """Whether the first bytes are those of a TIFF file, classic or BigTIFF, of either byte order.

    A DICOM file may begin with the header of a TIFF file, which then shows one of its levels: it is no TIFF file.
    """
    magic = read_magic(path)
    return magic[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") and not is_dicom(magic)


def _name_value(names: type[IntEnum], value: int) -> str:
    """Name of a tag's value: "LZW"; where tifffile knows none, that of the tag and the number: "compression 9"."""
    try:
        return names(value).name
    except ValueError:
        return f"{names.__name__.lower()} {value}"


def find_color_fault(level: TiffLevel) -> str | None:
    """Why the pixels of a level cannot become 8-bit RGB without guessing, or None if they can."""
    if level.photometric not in _COLOR_SAMPLES:
        return f"{level.color} pixels are not gray, RGB or RGBA"

    if level.dtype is None or level.dtype.kind not in "bu" or level.bits not in (1, 2, 4, 8, 16):
        return f"{level.bits}-bit {level.dtype} pixels are not 8 or 16 bit unsigned"

    num_extra = level.samples - _COLOR_SAMPLES[level.photometric]
    is_alpha = level.extra_samples in ((), (_PREMULTIPLIED,), (_ALPHA,))
    if len(level.extra_samples) != num_extra or not is_alpha:
        return f"{level.samples} samples a pixel are not gray, RGB or RGBA"

    return "it is a volume" if level.is_volume else None


# ------------------------------------------------------------------------------------------------ reading the tags


def _read_header(path: str, stamp: Stamp, tif: TiffFile) -> TiffHeader:
    pages = _read_pages(path, tif)
    for page in pages:
        _check_tags(path, tif, page)
        _check_layout(path, page)
    vendor = find_vendor(path)  # asked only now: OpenSlide aborts the process on absurd tiles
    if vendor is not None:
        _check_tile_numbers(path, pages)
        return TiffHeader(path=path, stamp=stamp, summary=f"{vendor} slide", lazy=True, vendor=vendor)

    if tif.is_ome:
        fault = find_ome_fault(tif.ome_metadata or "")
        if fault:
            raise SlideError(f"{path}: {fault}")
    level_pages = _find_level_pages(path, pages)
    levels = tuple(_read_level(page, tif) for page in level_pages)
    _check_page_list(path, tif)
    _check_tiles(path, tif.filehandle.size, levels)
    return TiffHeader(
        path=path,
        stamp=stamp,
        summary=levels[0].summary,
        lazy=levels[0].is_tiled,
        level_sizes=tuple(level.size for level in levels),
        spacings=tuple(read_tiff_spacings(tif, level_pages[0])),
        levels=levels,
        pages=tuple(PageEntry(page.offset, _page_size(page), page.is_tiled, page.subfiletype) for page in pages),
        is_aperio=_is_aperio(pages),
        is_utf8=_has_utf8_texts(tif),
    )


def _read_pages(path: str, tif: TiffFile) -> list[TiffPage]:
    """All pages of a file, none of which can hang or abort a library that reads it."""
    pages: dict[int, TiffPage] = {}
    num_read = 0
    for number, page in enumerate(tif.pages):
        num_read += 1
        if page.offset in pages:  # tifffile would go round for ever
            raise SlideError(
                f"{path}: the list of pages returns to an earlier one after page {number - 1}; {COPY_AGAIN}"
            )
        if isinstance(page, TiffPage):
            _check_page(path, page)
            pages[page.offset] = page
    if num_read < len(tif.pages):  # tifffile goes no further than a page without pixels
        raise SlideError(f"{path}: the tags of page {num_read} are damaged; {COPY_AGAIN}")
    if not pages:
        raise SlideError(f"{path}: the TIFF file holds no image; {COPY_AGAIN}")
    return list(pages.values())


def _check_page(path: str, page: TiffPage) -> None:
    """Raise :class:`SlideError` if a page has no pixels or absurd tiles."""
    size = _page_size(page)
    if min(size) < 1:
        raise SlideError(f"{path}: page {page.index} states {size} pixels; {COPY_AGAIN}")

    if page.is_tiled and not 0 < page.tilelength * page.tilewidth <= _MAX_TILE:
        tile = f"{page.tilelength} x {page.tilewidth}"
        raise SlideError(f"{path}: page {page.index} states tiles of {tile} pixels; {COPY_AGAIN}")

    sample_bytes = page.dtype.itemsize if page.dtype is not None else 1
    num_bytes = page.tilelength * page.tilewidth * page.samplesperpixel * sample_bytes
    if page.is_tiled and num_bytes > _MAX_TILE_BYTES:
        raise SlideError(
            f"{path}: page {page.index} states tiles of {num_bytes} bytes (limit {_MAX_TILE_BYTES}); {COPY_AGAIN}, or "
            "write it with smaller tiles."
        )


def _check_tags(path: str, tif: TiffFile, page: TiffPage) -> None:
    """Raise :class:`SlideError` if tifffile left out a tag that says how pixels are stored, because it is damaged."""
    layout = tif.tiff
    file = tif.filehandle
    file.seek(page.offset)
    (num_tags,) = struct.unpack(layout.tagnoformat, file.read(layout.tagnosize))
    entries = file.read(num_tags * layout.tagsize)
    for position in range(0, len(entries), layout.tagsize):
        (code,) = struct.unpack_from(f"{layout.byteorder}H", entries, position)
        if code in _LAYOUT_TAGS and code not in page.tags:
            raise SlideError(f"{path}: tag {code} of page {page.index} cannot be read; {COPY_AGAIN}")


def _check_layout(path: str, page: TiffPage) -> None:
    """Raise :class:`SlideError` if a page lacks a tag that says where its pixels are, or how many samples they have.

    A level with such tags would be taken for something else, and the slide were coarser, or had fewer levels.
    """
    needed = _TILE_TAGS if any(code in page.tags for code in _TILE_TAGS) else _STRIP_TAGS
    lacking = [name for code, name in needed.items() if code not in page.tags]
    if lacking and page.compression != _OLD_JPEG:
        raise SlideError(f"{path}: page {page.index} lacks the tags {', '.join(lacking)}; {COPY_AGAIN}")
    if needed is _TILE_TAGS and not page.is_tiled:
        tile = f"{page.tilelength} x {page.tilewidth}"
        raise SlideError(f"{path}: page {page.index} states tiles of {tile} pixels; {COPY_AGAIN}")
    bits = page.tags.get("BitsPerSample")
    if bits is not None and bits.count not in (1, page.samplesperpixel):
        raise SlideError(
            f"{path}: page {page.index} states bits of {bits.count} samples a pixel, but {page.samplesperpixel} "
            f"samples; {COPY_AGAIN}"
        )


def _check_tile_numbers(path: str, pages: Sequence[TiffPage]) -> None:
    """Raise :class:`SlideError` if a page lists too few tiles for its size: OpenSlide would leave the level out."""
    for page in pages:
        num_tiles = math.prod(page.chunked)
        num_listed = page.tags["TileOffsets"].count if page.is_tiled else num_tiles
        if num_listed < num_tiles:
            raise SlideError(f"{path}: page {page.index} lists {num_listed} of {num_tiles} tiles; {COPY_AGAIN}")


def _read_level(page: TiffPage, tif: TiffFile) -> TiffLevel:
    tile = (page.tilelength, page.tilewidth)
    if not page.is_tiled:
        tile = (min(page.rowsperstrip, page.imagelength), page.imagewidth)
    try:
        decode = page.decode
    except (ValueError, NotImplementedError):
        decode = None
    return TiffLevel(
        offset=page.offset,
        size=_page_size(page),
        is_tiled=page.is_tiled,
        tile=tile,
        columns=-(-page.imagewidth // tile[1]),
        offsets=np.asarray(page.dataoffsets, np.int64),
        byte_counts=np.asarray(page.databytecounts, np.int64),
        num_tiles=math.prod(page.chunked),
        raw_bytes=_compute_raw_bytes(page),
        compression=int(page.compression),
        photometric=int(page.photometric),
        dtype=page.dtype,
        bits=page.bitspersample,
        depth=read_tiff_depth(page, tif.pages.first.description),
        samples=int(page.samplesperpixel),
        extra_samples=tuple(int(sample) for sample in page.extrasamples),
        planar=int(page.planarconfig),
        fill_order=int(page.fillorder),
        orientation=int(page.tags.valueof("Orientation", 1)),
        is_volume=page.imagedepth != 1 or page.is_volumetric,
        is_jfif=page.is_jfif,
        jpeg_tables=page.jpegtables,
        decode=decode,
    )


def _compute_raw_bytes(page: TiffPage) -> int | None:
    if not page.is_tiled or page.compression != _RAW:
        return None
    samples = math.prod(page.chunks)
    if page.photometric == YCBCR:
        subsampling = math.prod(page.tags.valueof("YCbCrSubSampling", (2, 2)))
        samples *= (1 + 2 / subsampling) / 3  # a third is kept whole, of the other two one sample in so many
    return round(samples * page.bitspersample / 8)


def _has_utf8_texts(tif: TiffFile) -> bool:
    tags = tif.pages.first.tags
    for name in ("ImageDescription", "Software", "Model"):
        tag = tags.get(name)
        if tag is None:
            continue
        tif.filehandle.seek(tag.valueoffset)
        try:
            tif.filehandle.read(tag.valuebytecount).decode()
        except UnicodeDecodeError:
            return False
    return True


def _page_size(page: TiffPage) -> tuple[int, int]:
    return page.imagelength, page.imagewidth


# --------------------------------------------------------------------------------------------- which pages are levels


def _find_level_pages(path: str, pages: Sequence[TiffPage]) -> list[TiffPage]:
    """The pages of one image, finest first: its tiled pages and sub-pages of decreasing size and the same shape.

    Thumbnails, labels, macro images and masks are left out. A file without tiles has one level, its largest page.
    tifffile's ``series`` does not do: it takes no page of a plain pyramid for a level of another, and no file that is
    damaged is refused.
    """
    is_aperio = _is_aperio(pages)
    tiled = [page for page in pages if page.is_tiled and not page.subfiletype & (_MASK | _MACRO)]
    strips = [page for page in pages if not page.is_tiled]
    largest_tiled = max(map(_page_area, tiled), default=0)
    largest_strip = max(map(_page_area, strips), default=0)
    if not tiled or (largest_strip > largest_tiled and not is_aperio):
        return [_find_finest(path, strips)]

    finest = _find_finest(path, tiled)
    coarser = [page for page in tiled if is_aperio or page.subfiletype & _REDUCED]
    coarser += _read_sub_pages(path, finest)
    levels = [finest]
    for page in sorted(coarser, key=_page_area, reverse=True):
        if _is_next_level(page, levels[-1], finest):
            _check_pixels_alike(path, page, finest)
            levels.append(page)
    return levels


def _find_finest(path: str, pages: Sequence[TiffPage]) -> TiffPage:
    finest = max(pages, key=_page_area)
    size = _page_size(finest)
    images = [page for page in pages if _page_size(page) == size and not page.subfiletype & _REDUCED]
    if len(images) > 1:
        raise SlideError(
            f"{path}: holds {len(images)} images (pages) of {size[0]} x {size[1]} pixels; save the one you mean as a "
            "file of its own."
        )
    return finest


def _read_sub_pages(path: str, page: TiffPage) -> list[TiffPage]:
    if not page.subifds:
        return []
    sub_pages = [sub_page for sub_page in page.pages or () if isinstance(sub_page, TiffPage)]
    for sub_page in sub_pages:
        _check_page(path, sub_page)
    stored = len(page.subifds)
    missing = stored - len(sub_pages)
    if missing:
        raise SlideError(f"{path}: {missing} of {stored} levels are missing; {COPY_AGAIN}")
    return sub_pages


def _is_next_level(page: TiffPage, previous: TiffPage, finest: TiffPage) -> bool:
    """Whether ``page`` is the image of ``finest``, smaller than ``previous``, with its size rounded to a pixel."""
    if not page.is_tiled:
        return False

    height, width = _page_size(page)
    if height > previous.imagelength or width > previous.imagewidth or _page_area(page) == _page_area(previous):
        return False

    full_height, full_width = _page_size(finest)
    shift = abs(height * full_width - width * full_height)  # 0 where both axes are reduced alike
    return shift <= full_height + full_width


def _check_pixels_alike(path: str, page: TiffPage, finest: TiffPage) -> None:
    """Raise :class:`SlideError` unless a level has pixels of the same form as the finest."""
    form = (page.dtype, page.samplesperpixel)
    expected = (finest.dtype, finest.samplesperpixel)
    if form != expected:
        raise SlideError(
            f"{path}: page {page.index} has the shape of a level, but its pixels ({page.bitspersample} bits, "
            f"{page.samplesperpixel} samples) are not those of the image ({finest.bitspersample} bits, "
            f"{finest.samplesperpixel} samples); {COPY_AGAIN} If it is another picture, save the image as a file of "
            "its own."
        )


def _is_aperio(pages: Sequence[TiffPage]) -> bool:
    return pages[0].description.startswith(_APERIO)


def _page_area(page: TiffPage) -> int:
    return page.imagelength * page.imagewidth


# ---------------------------------------------------------------------------------------------- is all of it there


def _check_page_list(path: str, tif: TiffFile) -> None:
    """Raise :class:`SlideError` if the list of pages leads to a page that is not in the file."""
    link = tif.pages.next_page_offset
    if link is None:
        return
    file = tif.filehandle
    file.seek(link)
    next_page = file.read(tif.tiff.offsetsize)
    if any(next_page) or file.tell() > file.size:
        raise SlideError(f"{path}: the list of pages breaks off after page {len(tif.pages) - 1}; {COPY_AGAIN}")


def _check_tiles(path: str, file_size: int, levels: Sequence[TiffLevel]) -> None:
    """Raise :class:`SlideError` unless every tile and strip that the tags promise lies within the file."""
    for number, level in enumerate(levels):
        piece = "tile" if level.is_tiled else "strip"
        offsets = level.offsets
        counts = level.byte_counts
        if len(offsets) != level.num_tiles or len(counts) != level.num_tiles:
            raise SlideError(f"{path}: level {number} lists {len(offsets)} of {level.num_tiles} {piece}s; {COPY_AGAIN}")

        is_outside = (offsets <= 0) | (offsets > file_size - counts)
        cut_off = np.flatnonzero(is_outside & (counts > 0))
        if len(cut_off):
            first = cut_off[0]
            begin = int(offsets[first])
            end = begin + int(counts[first])
            raise SlideError(
                f"{path}: {piece} {first} of level {number} should be bytes {begin} to {end}, but the file has "
                f"{file_size} bytes ({len(cut_off)} of {level.num_tiles} {piece}s are cut off); {COPY_AGAIN}"
            )

        if level.raw_bytes is not None:
            wrong = counts[(counts > 0) & (counts != level.raw_bytes)]
            if len(wrong):
                raise SlideError(
                    f"{path}: a tile of level {number} should have {level.raw_bytes} bytes, but has {wrong[0]}; "
                    f"{COPY_AGAIN}"
                )
