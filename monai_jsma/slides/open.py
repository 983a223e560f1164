# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Look before opening: what a picture file holds, which reader gets it and why, and how large its pixels are.

The tags are read first, in Python. A C library sees a file only when it is known to read this kind of file rightly:

* cuCIM: tiled TIFF, raw or JPEG, uint8 RGB. There it equals tifffile to the last bit at every level.
* tifffile with imagecodecs: all other tiled TIFF, and those too where cuCIM is not installed.
* OpenSlide: what tifffile cannot put together or colour (Hamamatsu, Leica, MIRAX, Philips, Ventana, DICOM, ...).
* Pillow, or tifffile for strips: plain pictures, decoded whole ("pil").

Sizes are (height, width) in pixels, spacings um per pixel (mpp) of level 0.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import openslide

from monai_jsma.slides.base import SlideInfo
from monai_jsma.slides.choice import empty_tiles, foreign_vendor, why_not_cucim, why_not_openslide
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.identity import file_stamp
from monai_jsma.slides.image_reader import inspect_picture
from monai_jsma.slides.sound import check_complete, sound_pages
from monai_jsma.slides.spacing import (
    StatedSpacing,
    resolve_mpp,
    spacing_of_dpi,
    spacings_of_openslide,
    spacings_of_tiff,
)
from monai_jsma.slides.tiff import describe, find_levels, is_tiff, open_tiff, page_size, unreadable

__all__ = ["inspect_slide", "known_mpp"]

_READERS = ("cucim", "tifffile", "openslide", "pil")  # in order of preference for tiled TIFF
_logger = logging.getLogger(__name__)


def inspect_slide(path: str | os.PathLike[str], *, reader: str | None = None, mpp: float | None = None) -> SlideInfo:
    """Look at a file's header and choose how to read it.

    Args:
        path: a picture or slide.
        reader: insist on this reader instead of the best one; an error if it cannot read the file rightly.
        mpp: um per pixel of level 0, if better known than the file states it.

    Raises:
        FileNotFoundError: if there is no such file.
        SlideError: if the file is empty, cut short, damaged, or of a kind that no reader (or not ``reader``) can read.
        ValueError: if ``reader`` is no reader, or ``mpp`` is out of range.
    """
    path = os.fspath(path)
    if reader is not None and reader not in _READERS:
        raise ValueError(f"reader='{reader}' is not one of {', '.join(_READERS)}.")
    stamp = file_stamp(path)
    look = _look_at_tiff(path, reader) if is_tiff(path) else _look_at_other(path, reader)
    if look.reader == "openslide":
        level_sizes, spacings = _look_in_openslide(path)
        look = look._replace(level_sizes=level_sizes, spacings=[*look.spacings, *spacings], pages=())
    resolved, source = resolve_mpp(path, look.spacings, mpp)
    found = path, look.reader, look.reason, look.level_sizes, resolved, source, look.pages, stamp
    info = SlideInfo(*found, spacings=tuple(look.spacings))
    # A plain picture is opened anew in every epoch, and nothing was chosen: that line would only be noise.
    _logger.log(logging.INFO if info.lazy else logging.DEBUG, "%s: reader=%s: %s", path, info.reader, info.reason)
    return info


def known_mpp(info: SlideInfo, default: float | None = None) -> tuple[float, str]:
    """Um per pixel of level 0 and who says so: the file or whoever gave it, else ``default``.

    Raises:
        ValueError: if it is unknown.
    """
    if info.mpp is not None:
        return info.mpp, info.mpp_source
    if default is not None:
        return default, "default"
    found = f" ({info.mpp_source})" if info.mpp_source else ""
    raise ValueError(
        f"{info.path}: the file does not tell its spacing{found}; give 'mpp' (um/px of level 0) in the datalist."
    )


class _Look(NamedTuple):
    """What the header of a file says, and the choice made from it."""

    reader: str
    reason: str
    level_sizes: tuple[tuple[int, int], ...]
    spacings: Sequence[StatedSpacing]
    pages: tuple[int, ...] = ()


def _look_at_tiff(path: str, reader: str | None) -> _Look:
    with open_tiff(path) as tif:
        pages = sound_pages(path, tif)
        vendor = foreign_vendor(path)
        if vendor is not None:
            return _only(path, "openslide", f"{vendor} slide, which only OpenSlide can put together", reader)
        levels = find_levels(path, pages)
        check_complete(path, tif, levels)
        page = levels[0]
        why_not = {
            "cucim": lambda: why_not_cucim(path, tif, levels),
            "tifffile": lambda: unreadable(levels) if page.is_tiled else "it has no tiles",
            "openslide": lambda: why_not_openslide(path, levels),
            "pil": lambda: unreadable(levels[:1]),
        }
        order = (reader,) if reader else ("cucim", "tifffile", "openslide") if page.is_tiled else ("pil",)
        name, reason = _first_able(path, order, why_not, describe(page))
        if name != "pil" and (empty := empty_tiles(levels)):
            _logger.warning("%s: %d tiles were never written; they are read as white.", path, empty)
        used = levels[:1] if name == "pil" else levels
        spacings = list(spacings_of_tiff(tif, page))
        return _Look(name, reason, tuple(map(page_size, used)), spacings, tuple(p.offset for p in used if p.is_tiled))


def _look_at_other(path: str, reader: str | None) -> _Look:
    vendor = foreign_vendor(path)
    if vendor is not None:
        return _only(path, "openslide", f"{vendor} slide", reader)
    picture = inspect_picture(path)
    look = _only(path, "pil", f"plain picture, {picture.what}", reader)
    return look._replace(level_sizes=(picture.size,), spacings=list(spacing_of_dpi(picture.dpi)))


def _only(path: str, name: str, what: str, reader: str | None) -> _Look:
    if reader not in (None, name):
        raise SlideError(f"{path}: reader='{reader}' cannot read it: {what}; leave 'reader' out or use '{name}'.")
    return _Look(name, what, (), ())


def _first_able(
    path: str, order: Sequence[str], why_not: Mapping[str, Callable[[], str | None]], what: str
) -> tuple[str, str]:
    turned_down: dict[str, None] = {}  # keeps their order, each once
    for name in order:
        obstacle = why_not[name]()
        if obstacle is None:
            return name, "; ".join([what, *turned_down])
        turned_down[obstacle] = None
    wanted = f"reader='{order[0]}' cannot read it" if len(order) == 1 else "no reader can read it rightly"
    raise SlideError(f"{path}: {wanted} ({what}): {'; '.join(turned_down)}; convert it to tiled uint8 RGB.")


def _look_in_openslide(path: str) -> tuple[tuple[tuple[int, int], ...], list[StatedSpacing]]:
    try:
        with openslide.OpenSlide(path) as slide:
            sizes = tuple((height, width) for width, height in slide.level_dimensions)
            return sizes, list(spacings_of_openslide(slide.properties))
    except openslide.OpenSlideError as e:
        raise SlideError(f"{path}: OpenSlide cannot open it ({e}); check that all files of the slide are there.") from e
