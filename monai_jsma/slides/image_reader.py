# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Plain images, decoded whole: PNG, JPEG, JPEG 2000, BMP, GIF, PPM and WebP by Pillow, and TIFF by tifffile.

The pixels are those stored in the file, row by row: an EXIF orientation is ignored, so that coordinates mean the same
to every program. An image that is cut short is an error, never filled up. Sizes are (height, width) in pixels.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import imagecodecs
import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from monai_jsma.slides.base import ArrayReader, Header, Layout, Reader, SlideInfo, to_rgb
from monai_jsma.slides.codec import (
    StreamForm,
    is_complete_jpeg,
    looks_unfinished,
    read_jpeg2000,
    read_png,
    scan_jpeg,
)
from monai_jsma.slides.depth import choose_depth, read_png_depth
from monai_jsma.slides.errors import COPY_AGAIN, SlideError
from monai_jsma.slides.identity import Stamp, find_vendor, refuse_preview, refuse_unknown_vendor
from monai_jsma.slides.spacing import StatedSpacing, read_dpi_spacings, read_exif_spacings
from monai_jsma.slides.tiff import TiffHeader, TiffLevel, is_tiff
from monai_jsma.slides.tifffile_reader import TileFile, find_decoding_fault, paste_tile

__all__ = ["PlainImageReader", "read_image", "read_image_header"]

_MAX_PIXELS = 400_000_000  # 1.2 GB as RGB
_MAX_BYTES = 1_400_000_000  # of memory that a decoder and the RGB take together
_BLOCK_PIXELS = 1 << 22
# Those that begin with bytes of their own: Pillow takes any file for some others, and runs Ghostscript for EPS.
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "WEBP")
_CHECKED = ("JPEG", "JPEG2000", "PNG")  # whose streams are looked at before they are decoded
_DEEP: dict[str | None, tuple[Callable[[bytes], StreamForm], Callable[[bytes], np.ndarray]]] = {
    "JPEG2000": (read_jpeg2000, imagecodecs.jpeg2k_decode),
    "PNG": (read_png, imagecodecs.png_decode),
}
_DEEP_BITS = 16
_TILE_IT = "convert it to a tiled pyramid (for example: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg)."
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
            pixels = _read_tiff(TiffHeader.recall(info.path), _MAX_PIXELS, strict=info.strict)
        else:
            pixels = _read_other(info.path, _MAX_PIXELS, strict=info.strict)
        return ArrayReader(pixels, info.path)


def read_image_header(path: str, *, stamp: Stamp) -> Header:
    """Read the header of an image that is not a TIFF file.

    Args:
        path: the file.
        stamp: length and time of the last change of the file.

    Raises:
        SlideError: if Pillow does not know the format, or its pixels are not gray, RGB or RGBA.
    """
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


def _read_tiff(header: TiffHeader, max_pixels: int, *, strict: bool = False) -> np.ndarray:
    reason = PlainImageReader.refuses(header)
    if reason is None and not header.levels[0].byte_counts.all():
        reason = "parts of it were never written"
    if reason is not None:
        raise SlideError(f"{header.path}: {reason}; convert it to uint8 RGB first.")

    size = header.levels[0].size
    _check_size(header.path, size, max_pixels)
    _check_bytes(header.path, 3 * math.prod(size) + _count_tile_bytes(header.levels[0]))
    tiles = TileFile(header, strict=strict)
    pixels = np.empty((*size, 3), np.uint8)
    for tile in tiles.find_tiles(0, (0, 0), size):
        paste_tile(pixels, tiles.read_tile(0, tile.number), offset=(tile.row, tile.col))
    return pixels


def _read_other(path: str, max_pixels: int, *, strict: bool = False) -> np.ndarray:
    with _open(path) as image:
        _check_size(path, (image.height, image.width), max_pixels)
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            raise SlideError(f"{path}: PIL.ImageFile.LOAD_TRUNCATED_IMAGES is set, which hides cut images; unset it.")
        try:
            _check_bytes(path, _count_bytes(image))
            data = b"" if image.format not in _CHECKED else Path(path).read_bytes()
            if image.format == "JPEG":
                return _decode_jpeg(image, data, strict=strict)
            if image.format in _DEEP:
                read_form, decode = _DEEP[image.format]
                form = read_form(data)
                if form.size != (image.height, image.width):
                    raise ValueError(f"its header states {form.size} and {(image.height, image.width)} pixels")
                if form.bits > 8:
                    return _decode_deep(path, data, form, decode)
            return _convert_to_rgb(image)
        except (MemoryError, *_UNDECODABLE) as e:
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
    """The pixels of a Pillow image; decodes it, and converts it in blocks of rows."""
    mode = _EXPANDED_MODES.get(image.mode, image.mode)
    if "transparency" in image.info or image.mode == "PA":
        mode = "RGBA"

    result = np.empty((image.height, image.width, 3), np.uint8)
    step = max(1, _BLOCK_PIXELS // image.width)
    for begin in range(0, image.height, step):
        end = min(begin + step, image.height)
        block = image.crop((0, begin, image.width, end))
        pixels = np.asarray(block.convert(mode))
        result[begin:end] = to_rgb(pixels.reshape(end - begin, image.width, -1))
    return result


def _decode_jpeg(image: Image.Image, data: bytes, *, strict: bool) -> np.ndarray:
    header = scan_jpeg(data)
    pixels = _convert_to_rgb(image)
    is_checked = strict or not header.is_sequential or looks_unfinished(pixels, has_restarts=header.has_restarts)
    if is_checked and not is_complete_jpeg(data):
        raise ValueError("the coded pixels of its JPEG stream end early")
    return pixels


def _decode_deep(path: str, data: bytes, form: StreamForm, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
    """RGB of samples of more than 8 bits, of which Pillow would cut off the lower ones instead of rounding."""
    pixels = decode(data)
    pixels = pixels.reshape(*form.size, -1)
    samples = pixels.shape[2]
    colors = pixels[..., :-1] if samples in (2, 4) else pixels
    largest = int(colors.max())
    stated = form.bits if form.bits < _DEEP_BITS else None
    if stated is None and data.startswith(b"\x89PNG"):
        stated = read_png_depth(data, largest)
    try:
        depth = choose_depth(largest, stated)
    except ValueError as e:
        raise SlideError(f"{path}: {e}.") from e
    return to_rgb(pixels, depth=depth)


def _count_bytes(image: Image.Image) -> int:
    """Bytes of memory that decoding an image takes at most, with its RGB."""
    per_pixel = 3 + (1 if image.mode in ("1", "L", "P") else 4)
    if image.format == "JPEG2000":
        per_pixel += 4 * len(image.getbands())  # the decoder's own numbers
    if image.format == "PNG" and image.mode != "P":
        per_pixel = max(per_pixel, 3 + 2 * len(image.getbands()))  # it may have 16 bits
    return per_pixel * image.width * image.height


def _count_tile_bytes(level: TiffLevel) -> int:
    """Bytes of memory that decoding one tile or strip takes at most, with its RGB."""
    sample_bytes = 1 if level.dtype is None else level.dtype.itemsize
    per_pixel = 3 + 2 * level.samples * sample_bytes
    return per_pixel * math.prod(level.tile)


def _check_bytes(path: str, num_bytes: int) -> None:
    if num_bytes > _MAX_BYTES:
        raise SlideError(
            f"{path}: decoding it as a whole takes {num_bytes / 1e9:.1f} GB of memory (limit {_MAX_BYTES / 1e9:g} GB); "
            f"{_TILE_IT}"
        )


def _check_size(path: str, size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        raise SlideError(
            f"{path}: {size[0]} x {size[1]} pixels are too many to decode as a whole (limit {max_pixels / 1e6:g} "
            f"million); {_TILE_IT}"
        )
