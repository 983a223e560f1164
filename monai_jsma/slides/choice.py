# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Why a reader cannot have a TIFF file: one sentence, or None where it can. Nothing here opens a file in cuCIM."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence

import numpy as np
import openslide
from tifffile import TiffFile, TiffPage

from monai_jsma.slides.tiff import APERIO, compression_name, not_rgb, page_size

__all__ = ["empty_tiles", "foreign_vendor", "why_not_cucim", "why_not_openslide"]

_CUCIM_SUFFIXES = (".tif", ".tiff", ".svs")  # cuCIM goes by the name alone, and by small letters
_CUCIM_CODECS = {
    5: "cuCIM hides damage in LZW tiles",
    8: "cuCIM crashes on Deflate with predictor, and is slower without",
    32946: "cuCIM crashes on Deflate with predictor, and is slower without",
    33003: "cuCIM rounds the colours of JPEG 2000 otherwise than the other readers",
    33005: "cuCIM rounds JPEG 2000 otherwise than the other readers",
}
_OURS = {None, "generic-tiff", "aperio"}  # what OpenSlide calls the files whose tags say all


def foreign_vendor(path: str) -> str | None:
    """OpenSlide's name of a vendor whose files only OpenSlide can put together, or None."""
    vendor = openslide.OpenSlide.detect_format(path)
    return None if vendor in _OURS else vendor


def empty_tiles(levels: Sequence[TiffPage]) -> int:
    """Number of tiles that were never written (byte count 0)."""
    return sum(int((np.asarray(page.databytecounts) == 0).sum()) for page in levels)


def why_not_cucim(path: str, tif: TiffFile, levels: Sequence[TiffPage]) -> str | None:
    """Why cuCIM cannot have this file, or None if it reads every pixel rightly and cannot crash on it."""
    if not path.endswith(_CUCIM_SUFFIXES):
        return f"cuCIM opens only files named {', '.join(_CUCIM_SUFFIXES)}"
    for page in levels:
        why_not = not_rgb(page) or _page_not_for_cucim(page)
        if why_not is not None:
            return why_not
    seen = _pages_in_cucim(tif)
    if [page.offset for page in seen] != [page.offset for page in levels]:
        return "cuCIM takes other pages for levels"
    if empty_tiles(levels):
        return "cuCIM paints empty tiles black"
    if not _is_utf8(tif):
        return "cuCIM refuses text that is not UTF-8"
    return _cucim_missing()


def _page_not_for_cucim(page: TiffPage) -> str | None:
    codec, photometric = int(page.compression), int(page.photometric)
    if codec not in (1, 7):
        return _CUCIM_CODECS.get(codec, f"cuCIM does not know {compression_name(page)}")
    rgb = (photometric == 2 and not page.is_jfif) or (photometric == 6 and codec == 7)
    if not (page.is_tiled and page.dtype == "uint8" and page.samplesperpixel == 3 and page.planarconfig == 1 and rgb):
        return "cuCIM reads only tiled uint8 RGB rightly"
    if page.fillorder != 1:
        return "cuCIM does not turn the bits of its bytes around"
    return None


def _pages_in_cucim(tif: TiffFile) -> list[TiffPage]:
    """The pages that cuCIM takes for levels: all of them, or the tiled ones of an Aperio file; never sub-pages."""
    pages = [page for page in tif.pages if isinstance(page, TiffPage)]
    if pages[0].description.startswith(APERIO):
        pages = [pages[0], *(page for page in pages[1:] if page.is_tiled)]
    elif sum(page.subfiletype == 0 for page in pages) != 1:
        return []
    return sorted(pages, key=lambda page: page_size(page)[::-1], reverse=True)


def _is_utf8(tif: TiffFile) -> bool:
    for tag in (tif.pages.first.tags.get(name) for name in ("ImageDescription", "Software", "Model")):
        if tag is not None:
            tif.filehandle.seek(tag.valueoffset)
            try:
                tif.filehandle.read(tag.valuebytecount).decode()
            except UnicodeDecodeError:
                return False
    return True


def _cucim_missing() -> str | None:
    if os.environ.get("ENABLE_CUSLIDE2") == "1":
        return "ENABLE_CUSLIDE2=1 selects a cuCIM plugin that reads wrong pixels; unset it"
    try:
        importlib.import_module("cucim")
    except ImportError as e:
        return f"cuCIM is not installed ({e})"
    return None


def why_not_openslide(path: str, levels: Sequence[TiffPage]) -> str | None:
    """Why OpenSlide cannot have this TIFF file, or None."""
    for page in levels:
        why_not = not_rgb(page)
        if why_not is not None:
            return why_not
        if page.tags.valueof("Orientation", 1) != 1:
            return "OpenSlide turns some pictures by their orientation tag, others not"
        if page.extrasamples:
            return "OpenSlide lays only some transparent pictures on white"
    if levels[0].description.startswith(APERIO) and empty_tiles(levels):
        return "OpenSlide fills empty tiles from other levels"
    try:
        openslide.OpenSlide(path).close()
    except openslide.OpenSlideError as e:
        return f"OpenSlide refuses it: {e}"
    return None
