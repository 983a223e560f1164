# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Plain pictures, decoded whole: PNG, JPEG, JPEG 2000, BMP, GIF, PPM and WebP by Pillow, and TIFF by tifffile.

The pixels are those stored in the file, row by row: an EXIF orientation is ignored, so that coordinates mean the same
to every program. A picture that is cut short is an error, never filled up. Sizes are (height, width) in pixels.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError
from tifffile import TiffFile, TiffPage

from monai_jsma.slides.codec import check_jpeg, scan_jpeg
from monai_jsma.slides.errors import COPY_AGAIN, SlideError
from monai_jsma.slides.pixels import to_rgb
from monai_jsma.slides.sound import check_complete, sound_pages
from monai_jsma.slides.tiff import JPEG, find_levels, is_tiff, open_tiff, page_size, unreadable

__all__ = ["PictureInfo", "inspect_picture", "read_picture"]

_MAX_PIXELS = 400_000_000  # 1.2 GB as RGB
# Those that begin with bytes of their own: Pillow takes any file for some others, and runs Ghostscript for EPS.
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "WEBP")
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "I;16B", "I;16L"}
_UNDECODABLE = (OSError, RuntimeError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error)


class PictureInfo(NamedTuple):
    """What the header of a plain picture says: height and width, a phrase about it, dots per inch (x, y) or None."""

    size: tuple[int, int]
    what: str
    dpi: tuple[float, float] | None


def inspect_picture(path: str) -> PictureInfo:
    """Look at the header of a picture that is not a TIFF file.

    Raises:
        SlideError: if Pillow does not know the format, or its pixels are not grey, RGB or RGBA.
    """
    with _open(path) as image:
        return PictureInfo((image.height, image.width), f"{image.format}, {image.mode}", image.info.get("dpi"))


def read_picture(path: str | Path, *, max_pixels: int = _MAX_PIXELS) -> np.ndarray:
    """Decode a whole picture; of a TIFF pyramid the finest level.

    Args:
        path: the file.
        max_pixels: larger pictures are refused, since they should be tiled pyramids.

    Returns:
        ``uint8`` RGB of shape ``(height, width, 3)``, by the rules of :mod:`monai_jsma.slides.pixels`.

    Raises:
        SlideError: if the picture is too large, cut short, damaged, or of a kind that is not read.
    """
    path = str(path)
    return _read_tiff(path, max_pixels) if is_tiff(path) else _read_other(path, max_pixels)


def _open(path: str) -> Image.Image:
    try:
        image = Image.open(path, formats=_FORMATS)
    except (UnidentifiedImageError, Image.DecompressionBombError, *_UNDECODABLE) as e:
        raise SlideError(f"{path}: no reader can open it as a picture or slide ({e}); check that it is one.") from e
    if image.mode not in _MODES or (getattr(image, "n_frames", 1) > 1 and image.format != "MPO"):
        frames = getattr(image, "n_frames", 1)
        image.close()
        raise SlideError(
            f"{path}: {image.format} of mode {image.mode} with {frames} frame(s) is not one grey, RGB or RGBA picture; "
            "convert it to RGB first."
        )
    return image


def _read_other(path: str, max_pixels: int) -> np.ndarray:
    with _open(path) as image:
        _check_size(path, (image.height, image.width), max_pixels)
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            raise SlideError(f"{path}: PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, which hides cut pictures; unset it.")
        try:
            if image.format == "JPEG":
                scan_jpeg(Path(path).read_bytes())
            if "transparency" in image.info or image.mode == "PA":
                return to_rgb(np.asarray(image.convert("RGBA")))
            pixels = np.asarray(image.convert({"1": "L", "P": "RGB"}.get(image.mode, image.mode)))
        except _UNDECODABLE as e:
            raise SlideError(f"{path}: the picture is damaged ({e}); {COPY_AGAIN}") from e
    return to_rgb(pixels.astype(pixels.dtype.newbyteorder("="), copy=False).reshape(*pixels.shape[:2], -1))


def _read_tiff(path: str, max_pixels: int) -> np.ndarray:
    with open_tiff(path) as tif:
        page = find_levels(path, sound_pages(path, tif))[0]
        _check_size(path, page_size(page), max_pixels)
        check_complete(path, tif, [page])
        why_not = unreadable([page])
        if why_not is None and not all(page.databytecounts):
            why_not = "parts of it were never written"
        if why_not is not None:
            raise SlideError(f"{path}: {why_not}; convert it to uint8 RGB first.")
        try:
            _check_jpegs(tif, page)
            pixels = page.asarray(maxworkers=1)
        except _UNDECODABLE as e:
            raise SlideError(f"{path}: the picture is damaged ({e}); {COPY_AGAIN}") from e
        premultiplied = 1 in [int(sample) for sample in page.extrasamples]
        return to_rgb(pixels.reshape(*page_size(page), -1), premultiplied=premultiplied)


def _check_jpegs(tif: TiffFile, page: TiffPage) -> None:
    if int(page.compression) in JPEG:
        for begin, count in zip(page.dataoffsets, page.databytecounts):
            tif.filehandle.seek(begin)
            check_jpeg(tif.filehandle.read(count), page.jpegtables, (page.chunks[0], page.chunks[1]))


def _check_size(path: str, size: tuple[int, int], limit: int) -> None:
    if size[0] * size[1] > limit:
        raise SlideError(
            f"{path}: {size[0]} x {size[1]} pixels are too many to decode as a whole (limit {limit / 1e6:g} million); "
            "convert it to a tiled pyramid (for example: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg)."
        )
