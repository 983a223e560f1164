# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What a TIFF file holds, read from its tags alone: which pages are the levels of a slide, and which can become RGB.

Sizes are (height, width) in pixels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import tifffile
from tifffile import TiffFile, TiffPage

from monai_jsma.slides.errors import COPY_AGAIN, SlideError
from monai_jsma.slides.sound import sound_page

__all__ = [
    "APERIO",
    "JPEG",
    "compression_name",
    "describe",
    "find_levels",
    "is_tiff",
    "not_rgb",
    "open_tiff",
    "page_size",
    "unreadable",
]

APERIO = "Aperio "  # begins the description of every page that an Aperio scanner wrote
_REDUCED, _MASK, _MACRO = 1, 4, 8  # bits of NewSubfileType; the last is Aperio's own
_GREY, _RGB, _YCBCR = 1, 2, 6  # PhotometricInterpretation
_SAMPLES = {0: 1, _GREY: 1, _RGB: 3, 3: 1, _YCBCR: 3}  # without alpha, of what can become RGB; 3 is a palette
_PREMULTIPLIED, _ALPHA = 1, 2  # ExtraSamples
JPEG = {7, 34892, 33007}  # compressions whose tiles and strips are JPEG streams
_OLD_JPEG, _YCBCR_JPEG2000 = 6, 33003
_CODECS = {1: "raw", 8: "Deflate", 32946: "Deflate", 33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000"}
_DAMAGE = (struct.error, OSError, ArithmeticError, ValueError, KeyError, IndexError, TypeError, AttributeError)


@contextmanager
def open_tiff(path: str) -> Iterator[TiffFile]:
    """Open a TIFF file; tags that make no sense raise :class:`SlideError`."""
    try:
        with TiffFile(path) as tif:
            yield tif
    except SlideError:
        raise
    except _DAMAGE as e:
        raise SlideError(f"{path}: the TIFF tags are damaged ({e}); copy the file again from its source.") from e


def page_size(page: TiffPage) -> tuple[int, int]:
    """Height and width of a page."""
    return page.imagelength, page.imagewidth


def compression_name(page: TiffPage) -> str:
    """Name of a page's compression: "JPEG", "LZW", "Deflate", or its number where tifffile knows no name."""
    number = page.compression
    return _CODECS.get(int(number)) or _name(number, "compression")


def _name(value: int, kind: str) -> str:
    """Name of a tag's value; tifffile gives plain numbers where it knows no name."""
    return str(getattr(value, "name", f"{kind} {int(value)}"))


def describe(page: TiffPage) -> str:
    """One phrase about a page: "tiled JPEG, RGB, uint8"."""
    kinds = {_GREY: "grey", _RGB: "RGB", _YCBCR: "RGB"}  # YCbCr is decoded to RGB
    kind = kinds.get(int(page.photometric), _name(page.photometric, "photometric")) + "A" * bool(page.extrasamples)
    return f"{'tiled' if page.is_tiled else 'strip'} {compression_name(page)}, {kind}, {page.dtype}"


def find_levels(path: str, pages: Sequence[TiffPage]) -> list[TiffPage]:
    """The pages of one picture, finest first: its tiled pages and sub-pages of decreasing size and the same shape.

    Thumbnails, labels, macro pictures and masks are left out. A file without tiles has one level, its largest page.

    Raises:
        SlideError: if several pictures are as large as the largest.
    """
    is_aperio = pages[0].description.startswith(APERIO)
    tiled = [page for page in pages if page.is_tiled and not page.subfiletype & (_MASK | _MACRO)]
    strips = [page for page in pages if not page.is_tiled]
    if not tiled or (not is_aperio and max(map(_area, strips), default=0) > max(map(_area, tiled))):
        return [_finest(path, strips)]
    levels = [_finest(path, tiled)]
    others = [*(page for page in tiled if is_aperio or page.subfiletype & _REDUCED), *_sub_pages(path, levels[0])]
    for page in sorted(others, key=_area, reverse=True):
        if _continues(page, levels[-1], levels[0]):
            levels.append(page)
    return levels


def _finest(path: str, pages: Sequence[TiffPage]) -> TiffPage:
    finest = max(pages, key=_area)
    alike = [page for page in pages if page_size(page) == page_size(finest) and not page.subfiletype & _REDUCED]
    if len(alike) > 1:
        raise SlideError(
            f"{path}: holds {len(alike)} pictures (pages) of {finest.imagelength} x {finest.imagewidth} pixels; save "
            "the one you mean as a file of its own."
        )
    return finest


def _area(page: TiffPage) -> int:
    return page.imagelength * page.imagewidth


def _sub_pages(path: str, page: TiffPage) -> list[TiffPage]:
    stored = len(page.subifds or ())
    found = [sound_page(path, sub) for sub in page.pages or () if isinstance(sub, TiffPage)] if stored else []
    if len(found) != stored:
        raise SlideError(f"{path}: {stored - len(found)} of {stored} levels are missing; {COPY_AGAIN}")
    return found


def _continues(page: TiffPage, previous: TiffPage, finest: TiffPage) -> bool:
    """Whether ``page`` is the picture of ``finest``, smaller than ``previous``, with its size rounded to a pixel."""
    (height, width), full = page_size(page), page_size(finest)
    smaller = height <= previous.imagelength and width <= previous.imagewidth and _area(page) < _area(previous)
    shift = abs(height * full[1] - width * full[0])  # 0 where both axes are reduced alike
    same = (page.dtype, page.samplesperpixel) == (finest.dtype, finest.samplesperpixel)
    return page.is_tiled and smaller and same and shift <= full[0] + full[1]


def not_rgb(page: TiffPage) -> str | None:
    """Why this page's pixels cannot become 8-bit RGB without guessing, or None if they can."""
    samples = page.samplesperpixel
    if int(page.photometric) not in _SAMPLES:
        return f"{_name(page.photometric, 'photometric')} pixels are not grey, RGB or RGBA"
    if page.dtype is None or page.dtype.kind not in "bu" or page.bitspersample not in (1, 2, 4, 8, 16):
        return f"{page.bitspersample}-bit {page.dtype} pixels are not 8 or 16 bit unsigned"
    extra = [int(sample) for sample in page.extrasamples]
    if len(extra) != samples - _SAMPLES[int(page.photometric)] or extra not in ([], [_PREMULTIPLIED], [_ALPHA]):
        return f"{samples} samples a pixel are not grey, RGB or RGBA"
    if page.imagedepth != 1 or page.is_volumetric:
        return "it is a volume"
    return None


def unreadable(pages: Sequence[TiffPage]) -> str | None:
    """Why tifffile cannot give RGB of these pages by the rules of :mod:`.pixels`, or None if it can."""
    return next((why_not for page in pages if (why_not := not_rgb(page) or _undecodable(page)) is not None), None)


def _undecodable(page: TiffPage) -> str | None:
    number, photometric = int(page.compression), int(page.photometric)
    if number == _OLD_JPEG:
        return "JPEG in the style of TIFF 6.0 is left to OpenSlide"
    if number == _YCBCR_JPEG2000 or (photometric == _YCBCR and number not in JPEG):
        return f"tifffile leaves the colours of {compression_name(page)} in YCbCr"
    if number not in tifffile.TIFF.DECOMPRESSORS:
        return f"{compression_name(page)} is unknown to tifffile and imagecodecs"
    if photometric not in (_GREY, _RGB, _YCBCR) or page.bitspersample not in (8, 16):
        return f"tifffile does not make RGB of {page.bitspersample}-bit {_name(page.photometric, 'photometric')}"
    if page.samplesperpixel > 1 and page.planarconfig != 1:
        return "its colours are stored apart (planar configuration 2)"
    return None


def is_tiff(path: str) -> bool:
    """Whether the first bytes are those of a TIFF file, classic or BigTIFF, of either byte order."""
    with open(path, "rb") as file:
        return file.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
