# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Is a TIFF file sound? Whether its tags make sense and all that they promise is there, before a library reads it."""

from __future__ import annotations

import math

import numpy as np
from tifffile import TiffFile, TiffPage

from monai_jsma.slides.errors import COPY_AGAIN, SlideError

__all__ = ["check_complete", "sound_page", "sound_pages"]

_MAX_TILE = 1 << 26  # pixels
_RAW, _YCBCR = 1, 6  # Compression, PhotometricInterpretation


def sound_pages(path: str, tif: TiffFile) -> list[TiffPage]:
    """All pages of a file, none of which can hang or abort a library that reads it.

    Raises:
        SlideError: if there is none, their list is a circle, or one has no pixels or absurd tiles.
    """
    pages: dict[int, TiffPage] = {}
    for number, page in enumerate(tif.pages):
        if page.offset in pages:  # tifffile would go round for ever
            raise SlideError(
                f"{path}: the list of pages returns to an earlier one after page {number - 1}; {COPY_AGAIN}"
            )
        if isinstance(page, TiffPage):
            pages[page.offset] = sound_page(path, page)
    if not pages:
        raise SlideError(f"{path}: the TIFF file holds no picture; {COPY_AGAIN}")
    return list(pages.values())


def sound_page(path: str, page: TiffPage) -> TiffPage:
    """The page itself; :class:`SlideError` if it has no pixels or absurd tiles."""
    size = page.imagelength, page.imagewidth
    if min(size) < 1:
        raise SlideError(f"{path}: page {page.index} states {size} pixels; {COPY_AGAIN}")
    if page.is_tiled and not 0 < page.tilelength * page.tilewidth <= _MAX_TILE:  # OpenSlide would abort the process
        tile = f"{page.tilelength} x {page.tilewidth}"
        raise SlideError(f"{path}: page {page.index} states tiles of {tile} pixels; {COPY_AGAIN}")
    return page


def check_complete(path: str, tif: TiffFile, levels: list[TiffPage]) -> None:
    """Raise :class:`SlideError` unless every page, tile and strip that the tags promise lies within the file."""
    file, link = tif.filehandle, tif.pages.next_page_offset
    if link is not None:
        file.seek(link)
        if any(file.read(tif.tiff.offsetsize)) or file.tell() > file.size:
            raise SlideError(f"{path}: the list of pages breaks off after page {len(tif.pages) - 1}; {COPY_AGAIN}")
    for level, page in enumerate(levels):
        piece, count = ("tile" if page.is_tiled else "strip"), int(np.prod(page.chunked))
        begins, sizes = np.asarray(page.dataoffsets, np.int64), np.asarray(page.databytecounts, np.int64)
        if len(begins) != count or len(sizes) != count:
            raise SlideError(f"{path}: level {level} lists {len(begins)} of {count} {piece}s; {COPY_AGAIN}")
        bad = np.flatnonzero((sizes > 0) & ((begins > file.size - sizes) | (begins <= 0)))
        if len(bad):
            begin, size = int(begins[bad[0]]), int(sizes[bad[0]])
            raise SlideError(
                f"{path}: {piece} {bad[0]} of level {level} should be bytes {begin} to {begin + size}, but the file "
                f"has {file.size} bytes ({len(bad)} of {count} {piece}s are cut off); {COPY_AGAIN}"
            )
        stated = _raw_tile_bytes(page)
        if stated is not None and (wrong := sizes[(sizes > 0) & (sizes != stated)]).size:
            raise SlideError(
                f"{path}: a tile of level {level} should have {stated} bytes, but has {wrong[0]}; {COPY_AGAIN}"
            )


def _raw_tile_bytes(page: TiffPage) -> int | None:
    """Bytes of every tile where that is known without decoding."""
    if not page.is_tiled or int(page.compression) != _RAW:
        return None
    share = 1.0  # of the colours that is kept
    if int(page.photometric) == _YCBCR:
        share = (1 + 2 / math.prod(page.tags.valueof("YCbCrSubSampling", (2, 2)))) / 3
    return round(math.prod(page.chunks) * page.bitspersample * share / 8)
