# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Look before opening: which reader a file gets and why, and how large its pixels are.

The tags are read first, in Python. A C library sees a file only when it is known to read this kind of file correctly.
The readers are asked in order, and each answers for itself:

* cuCIM: tiled TIFF, raw or JPEG, uint8 RGB. There it equals tifffile to the last bit at every level.
* tifffile with imagecodecs: all other tiled TIFF, and those too where cuCIM is not installed.
* OpenSlide: what tifffile cannot put together or color (Hamamatsu, Leica, MIRAX, Philips, Ventana, DICOM, ...).
* Pillow, or tifffile for strips: plain images, decoded whole ("pil").

Sizes are (height, width) in pixels, spacings um per pixel (mpp) of level 0.
"""

from __future__ import annotations

import logging
import os
from functools import cache

from monai_jsma.slides.base import Header, Reader, SlideInfo, SlideReader
from monai_jsma.slides.cucim_reader import CuCIMReader
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.identity import SlideFiles, find_slide_files, find_vendor, refuse_preview
from monai_jsma.slides.image_reader import PlainImageReader, read_image_header
from monai_jsma.slides.openslide_reader import OpenSlideReader
from monai_jsma.slides.spacing import resolve_mpp
from monai_jsma.slides.tiff import TiffHeader, is_tiff
from monai_jsma.slides.tifffile_reader import TiffReader

__all__ = ["READERS", "choose_reader", "inspect_slide", "known_mpp", "open_slide"]

AnyReader = type[SlideReader] | type[PlainImageReader]

READERS: dict[str, AnyReader] = {  # in order of preference
    reader.name: reader for reader in (CuCIMReader, TiffReader, OpenSlideReader, PlainImageReader)
}

_logger = logging.getLogger(__name__)


def inspect_slide(
    path: str | os.PathLike[str], *, reader: str | None = None, mpp: float | None = None, strict: bool = False
) -> SlideInfo:
    """Read the header of a file and choose how to read its pixels.

    Args:
        path: an image or slide; of a slide of several files the index (MIRAX, VMS), any file of a DICOM series, or the
            folder of the one series in it.
        reader: name of the reader to use instead of the best one; an error if it cannot read the file correctly.
        mpp: um per pixel of level 0, if better known than the file states it.
        strict: whether every JPEG tile is decoded twice more when it is first read, to see whether its coded pixels
            reach to its end. Without it, that is seen only where they end more than a block early.

    Raises:
        FileNotFoundError: if there is no such file.
        SlideError: if the file is empty, cut short, damaged, or of a kind that no reader (or not ``reader``) can read.
        ValueError: if ``reader`` is no reader, or ``mpp`` is out of range.
    """
    path = os.fspath(path)
    if reader is not None and reader not in READERS:
        raise ValueError(f"reader='{reader}' is not one of {', '.join(READERS)}.")

    slide = find_slide_files(path)
    header = _read_header(slide)
    chosen, reason = choose_reader(header, reader)
    if chosen.lazy and isinstance(header, TiffHeader) and header.num_empty_tiles:
        _logger.warning("%s: %d tiles were never written; they are read as white.", path, header.num_empty_tiles)

    layout = chosen.describe(header)
    known, source = resolve_mpp(path, layout.spacings, mpp)
    # A plain image is opened again in every epoch, and nothing was chosen: its line would only be noise.
    _logger.log(logging.INFO if chosen.lazy else logging.DEBUG, "%s: reader=%s: %s", path, chosen.name, reason)
    return SlideInfo(
        path=path,
        reader=chosen.name,
        reason=reason,
        level_sizes=layout.level_sizes,
        mpp=known,
        mpp_source=source,
        stamp=slide.stamp,
        identity=slide.identity,
        spacings=layout.spacings,
        bounds=layout.bounds,
        files=header.files,
        strict=strict,
    )


def open_slide(info: SlideInfo) -> Reader:
    """The reader that ``info`` names; a plain image is decoded now, a slide is opened at the first read."""
    return READERS[info.reader].open(info)


def known_mpp(info: SlideInfo, default: float | None = None) -> tuple[float, str]:
    """Um per pixel of level 0 and its source: the file or the user, else ``default``.

    Where the default takes the place of what the file says, a warning names both, once for each file.

    Raises:
        ValueError: if it is unknown.
    """
    if info.mpp is not None:
        return info.mpp, info.mpp_source
    if default is not None:
        if info.mpp_source:
            _warn_of_default(info.path, info.mpp_source, default)
        return default, "default"

    rejected = f" ({info.mpp_source})" if info.mpp_source else ""
    raise ValueError(
        f"{info.path}: the file does not tell its spacing{rejected}; give 'mpp' (um/px of level 0) in the datalist."
    )


@cache  # once for each file: it is opened again in every epoch
def _warn_of_default(path: str, rejected: str, default: float) -> None:
    _logger.warning(
        "%s: %s; the default of %.5g um/px takes its place. If that is wrong, give 'mpp' (um/px of level 0) in the "
        "datalist.",
        *(path, rejected, default),
    )


def _read_header(slide: SlideFiles) -> Header:
    path = slide.path
    if is_tiff(slide.files[0]):
        header = TiffHeader.read(path, stamp=slide.stamp)
        refuse_preview(path, header.vendor)
        return header

    vendor = find_vendor(slide.files[0])
    refuse_preview(path, vendor)
    if vendor is None:
        return read_image_header(path, stamp=slide.stamp)
    summary = f"{vendor} slide"
    if len(slide.files) > 1:
        summary += f" of {len(slide.files)} files"
    return Header(
        path=path,
        stamp=slide.stamp,
        summary=summary,
        lazy=True,
        vendor=vendor,
        level_sizes=slide.level_sizes,
        files=slide.files,
    )


def choose_reader(header: Header, name: str | None) -> tuple[AnyReader, str]:
    """The first reader that does not refuse the file, and why: what the file is, and what the others refused.

    Args:
        header: what is known of the file.
        name: the reader to use instead of the best one; None for that.

    Raises:
        SlideError: if no reader, or not this one, reads the file correctly.
    """
    if name is not None:
        candidates = [READERS[name]]
    else:
        candidates = [reader for reader in READERS.values() if reader.lazy == header.lazy]

    refusals: list[str] = []
    for reader in candidates:
        refusal = reader.refuses(header)
        if refusal is None:
            return reader, "; ".join([header.summary, *refusals])
        if refusal not in refusals:
            refusals.append(refusal)

    reasons = "; ".join(refusals)
    if name is not None:
        raise SlideError(
            f"{header.path}: reader='{name}' cannot read it ({header.summary}): {reasons}; leave 'reader' out, or "
            "convert it to tiled uint8 RGB."
        )
    raise SlideError(
        f"{header.path}: no reader can read it correctly ({header.summary}): {reasons}; convert it to tiled uint8 RGB."
    )
