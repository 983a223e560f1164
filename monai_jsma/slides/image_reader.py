# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Plain images, decoded whole: PNG, JPEG, JPEG 2000, BMP, GIF, PPM and WebP by Pillow, and TIFF by tifffile.

The pixels are those stored in the file, row by row: an EXIF orientation is ignored, so that coordinates mean the same
to every program. An image that is cut short is an error, never filled up. Sizes are (height, width) in pixels.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from monai_jsma.slides.base import ArrayReader, Header, Layout, Reader, SlideInfo, to_rgb
from monai_jsma.slides.codec import scan_jpeg
from monai_jsma.slides.errors import COPY_AGAIN, SlideError
from monai_jsma.slides.identity import file_stamp, find_vendor, refuse_preview, refuse_unknown_vendor
from monai_jsma.slides.spacing import StatedSpacing, read_dpi_spacings, read_exif_spacings
from monai_jsma.slides.tiff import TiffHeader, is_tiff
from monai_jsma.slides.tifffile_reader import TileFile, find_decoding_fault, paste_tile

__all__ = ["PlainImageReader", "read_image", "read_image_header"]

_MAX_PIXELS = 400_000_000  # 1.2 GB as RGB
# Those that begin with bytes of their own: Pillow takes any file for some others, and runs Ghostscript for EPS.
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "WEBP")
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "I;16B", "I;16L"}
_EXPANDED_MODES = {"1": "L", "P": "RGB"}  # what Pillow makes of black and white, and of a palette
_UNDECODABLE = (OSError, RuntimeError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error)


class PlainImageReader:
    """Plain images, and tiled TIFF if it is asked to: decodes level 0 whole, into an :class:`ArrayReader`."""

    name: ClassVar[str] = "pil"
    lazy: ClassVar[bool] = False

    @classmethod
    def refuses(cls, header: Header) -> str | None:
        """Why the image cannot be decoded, or None if it can."""
        if header.vendor is not None:
            return "only OpenSlide can put it together"
        if isinstance(header, TiffHeader):
            return find_decoding_fault(header.levels[0])
        return None

    @classmethod
    def describe(cls, header: Header) -> Layout:
        """Size of the one level, and the statements about its spacing."""
        return Layout(header.level_sizes[:1], header.spacings)

    @classmethod
    def open(cls, info: SlideInfo) -> Reader:
        """Decode the image now."""
        if is_tiff(info.path):
            pixels = _read_tiff(TiffHeader.recall(info.path), _MAX_PIXELS)
        else:
            pixels = _read_other(info.path, _MAX_PIXELS)
        return ArrayReader(pixels, info.path)


def read_image_header(path: str) -> Header:
    """Read the header of an image that is not a TIFF file.

    Raises:
        SlideError: if Pillow does not know the format, or its pixels are not gray, RGB or RGBA.
    """
    stamp = file_stamp(path)
    with _open(path) as image:
        return Header(
            path=path,
            stamp=stamp,
            summary=f"plain image, {image.format}, {image.mode}",
            level_sizes=((image.height, image.width),),
            spacings=tuple(_read_spacings(image)),
        )


def read_image(path: str | Path, *, max_pixels: int = _MAX_PIXELS) -> np.ndarray:
    """Decode a whole image; of a TIFF pyramid the finest level.

    Args:
        path: the file.
        max_pixels: largest number of pixels; larger images should be tiled pyramids.

    Returns:
        ``uint8`` RGB of shape ``(height, width, 3)``, by the rules of :mod:`monai_jsma.slides.base`.

    Raises:
        SlideError: if the image is too large, cut short, damaged, or of a kind that cannot be read.
    """
    path = str(path)
    refuse_unknown_vendor(path)
    if is_tiff(path):
        return _read_tiff(TiffHeader.read(path), max_pixels)
    vendor = find_vendor(path)
    refuse_preview(path, vendor)
    if vendor is not None:
        raise SlideError(
            f"{path}: a {vendor} slide, which is not one image; open it with inspect_slide and open_slide."
        )
    return _read_other(path, max_pixels)


def _read_tiff(header: TiffHeader, max_pixels: int) -> np.ndarray:
    reason = PlainImageReader.refuses(header)
    if reason is None and not header.levels[0].byte_counts.all():
        reason = "parts of it were never written"
    if reason is not None:
        raise SlideError(f"{header.path}: {reason}; convert it to uint8 RGB first.")

    size = header.levels[0].size
    _check_size(header.path, size, max_pixels)
    tiles = TileFile(header)
    pixels = np.empty((*size, 3), np.uint8)
    for tile in tiles.find_tiles(0, (0, 0), size):
        paste_tile(pixels, tiles.read_tile(0, tile.number), offset=(tile.row, tile.col))
    return pixels


def _read_other(path: str, max_pixels: int) -> np.ndarray:
    with _open(path) as image:
        _check_size(path, (image.height, image.width), max_pixels)
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            raise SlideError(f"{path}: PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, which hides cut images; unset it.")
        try:
            if image.format == "JPEG":
                scan_jpeg(Path(path).read_bytes())
            return _convert_to_rgb(image)
        except _UNDECODABLE as e:
            raise SlideError(f"{path}: the image is damaged ({e}); {COPY_AGAIN}") from e


def _open(path: str) -> Image.Image:
    try:
        image = Image.open(path, formats=_FORMATS)
    except (UnidentifiedImageError, Image.DecompressionBombError, *_UNDECODABLE) as e:
        raise SlideError(f"{path}: no reader can open it as an image or slide ({e}); check that it is one.") from e

    frames = getattr(image, "n_frames", 1)
    is_one_image = frames == 1 or image.format == "MPO"
    if image.mode not in _MODES or not is_one_image:
        image.close()
        raise SlideError(
            f"{path}: {image.format} of mode {image.mode} with {frames} frame(s) is not one gray, RGB or RGBA image; "
            "convert it to RGB first."
        )
    return image


def _read_spacings(image: Image.Image) -> list[StatedSpacing]:
    """What the format's own field says of the spacing, and what EXIF says."""
    spacings = []
    # Without a unit in the JFIF header, Pillow takes "dpi" from EXIF: only along a row, and 72 where it cannot be read.
    if image.format not in ("JPEG", "MPO") or image.info.get("jfif_unit"):
        spacings += read_dpi_spacings(image.info.get("dpi"))
    if "exif" in image.info:
        with suppress(*_UNDECODABLE):  # damaged EXIF says nothing, and the pixels do not depend on it
            spacings += read_exif_spacings(image.getexif())
    return spacings


def _convert_to_rgb(image: Image.Image) -> np.ndarray:
    """The pixels of a Pillow image; decodes it."""
    if "transparency" in image.info or image.mode == "PA":
        return to_rgb(np.asarray(image.convert("RGBA")))

    pixels = np.asarray(image.convert(_EXPANDED_MODES.get(image.mode, image.mode)))
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    height, width = pixels.shape[:2]
    return to_rgb(pixels.reshape(height, width, -1))


def _check_size(path: str, size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise SlideError(
            f"{path}: {size[0]} x {size[1]} pixels are too many to decode as a whole (limit {max_pixels / 1e6:g} "
            "million); convert it to a tiled pyramid (for example: vips tiffsave IN OUT.tif --tile --pyramid "
            "--compression jpeg)."
        )
