# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The corpus: every kind of file by name, one line each, and what becomes of it.

A file is read (by which reader, and why), lacks a spacing, is refused when it is looked at, fails when the damaged
place is read, or hides its damage from all but its checksum.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from corpus_files import (
    DEEP,
    GREY,
    PIXELS,
    Sample,
    cut,
    dicom,
    end_early,
    flip,
    holding,
    link_pages,
    mirax,
    moved,
    ndpi,
    ome,
    on_white,
    pillow,
    retag,
    scn,
    single,
    tiled,
    trestle,
    ycbcr_jpeg2000,
    zero,
)
from PIL import Image

__all__ = ["CASES", "VENDOR_SLIDES", "Fails", "Hidden", "NoSpacing", "Reads", "Refused"]


class Reads(NamedTuple):
    """Read rightly by ``reader``, for a ``reason`` (a part of it)."""

    reader: str
    reason: str = ""


class NoSpacing(NamedTuple):
    """Read, if only the datalist gives the spacing; what is said without."""

    message: str


class Refused(NamedTuple):
    """Refused before a pixel is read, with this message."""

    message: str


class Fails(NamedTuple):
    """Opened, but the damaged place is an error when it is read."""

    message: str


class Hidden(NamedTuple):
    """Read as something else, without any error: only a checksum sees it."""


JPEG = {"compression": "jpeg"}
RGB_JPEG = {**JPEG, "compressionargs": {"outcolorspace": "rgb"}}
ALPHA = np.random.default_rng(0).integers(0, 256, (160, 224, 1), dtype=np.uint8)
RGBA, GREYA, CLEAR = np.dstack([PIXELS, ALPHA]), np.dstack([GREY, ALPHA]), np.full_like(ALPHA, 255)
LAID = np.minimum(PIXELS + (255.0 - ALPHA), 255)  # premultiplied colours on white
YCBCR, CMYK = (Image.fromarray(PIXELS).convert(mode) for mode in ("YCbCr", "CMYK"))
GREY3, DEEP8 = np.repeat(GREY[..., None], 3, axis=2), np.floor(DEEP / 257 + 0.5).astype(np.uint8)
APART = np.ascontiguousarray(PIXELS.transpose(2, 0, 1))
COLOURS = np.random.default_rng(2).integers(0, 256, (3, 256), dtype=np.uint16)
PALETTE = {"photometric": "palette", "colormap": COLOURS * 257}
BLACK, CONTIG, APARTS = {"photometric": "minisblack"}, {"planarconfig": "contig"}, {"planarconfig": "separate"}
VEIL = {"extrasamples": ["unassalpha"]}
TURNED = {"extratags": [(274, "H", 1, 3, True)]}  # by 180 degrees
OTHER = Image.fromarray(GREY)
OBLONG = {"resolution": (20000, 10000), "resolutionunit": "CENTIMETER"}
APERIO = {**JPEG, "aperio_mpp": 0.5, "near": 5}
TWICE = [(PIXELS[::-1], {"tile": (64, 64), "photometric": "rgb"})]
STRIPS = [(PIXELS[::-1], {"photometric": "rgb"})]
LABEL = [(PIXELS[:60, :90], {"rowsperstrip": 16, "photometric": "rgb"})]
QUARTER = Image.Exif()
QUARTER[0x0112] = 6  # to be turned by a quarter
IN_TILE = r"tile 5 of level 0 \(from row 64, column 64\) is damaged"
CUT_OFF = r"cut off\); copy the file again"

# fmt: off
CASES: dict[str, tuple[Sample, Any]] = {
    # -------------------------------------------------------------------------------------------------- tiled, by codec
    "raw": (tiled(), Reads("cucim", "tiled raw, RGB, uint8")),
    "JPEG": (tiled(near=5, **JPEG), Reads("cucim", "tiled JPEG, RGB, uint8")),
    "JPEG, half the colours": (tiled(near=9, subsampling=(2, 2), **JPEG), Reads("cucim")),
    "JPEG of RGB": (tiled(near=5, compressionargs={"outcolorspace": "rgb"}, **JPEG), Reads("cucim")),
    "LZW": (tiled(compression="lzw"), Reads("tifffile", "cuCIM hides damage in LZW")),
    "LZW, predictor": (tiled(compression="lzw", predictor=True), Reads("tifffile", "hides damage")),
    "Deflate": (tiled(compression="zlib"), Reads("tifffile", "cuCIM crashes on Deflate")),
    "Deflate, predictor": (tiled(compression="zlib", predictor=True), Reads("tifffile", "crashes on Deflate with")),
    "Zstd": (tiled(compression="zstd"), Reads("tifffile", "cuCIM does not know ZSTD")),
    "Zstd, predictor": (tiled(compression="zstd", predictor=True), Reads("tifffile")),
    "WebP": (tiled(compression="webp", compressionargs={"lossless": True}), Reads("tifffile", "know WEBP")),
    "WebP, lossy": (tiled(near=9, compression="webp", compressionargs={"level": 90}), Reads("tifffile")),
    "JPEG 2000, 33005": (tiled(compression=33005), Reads("tifffile", "cuCIM rounds JPEG 2000")),
    "JPEG 2000, 33003": (ycbcr_jpeg2000(), Reads("openslide", "tifffile leaves the colors of JPEG 2000 in YCbCr")),
    "JPEG 2000, 34712": (tiled(compression=34712), Reads("tifffile", "does not know JPEG 2000")),
    "JPEG XL": (tiled(compression="jpegxl"), Reads("tifffile")),
    "PackBits": (tiled(compression="packbits"), Reads("tifffile")),
    "LZMA": (tiled(compression="lzma"), Reads("tifffile")),
    "PNG in TIFF": (tiled(compression="png"), Reads("tifffile")),
    # --------------------------------------------------------------------------------------------------- tiled, by form
    "BigTIFF": (tiled(near=5, bigtiff=True, **JPEG), Reads("cucim")),
    "big-endian": (tiled(byteorder=">"), Reads("cucim")),
    "big-endian LZW": (tiled(byteorder=">", compression="lzw"), Reads("tifffile")),
    "big-endian BigTIFF": (tiled(near=5, bigtiff=True, byteorder=">", tile=(48, 96), **JPEG), Reads("cucim")),
    "Aperio": (tiled("a.svs", extra=LABEL, **APERIO), Reads("cucim")),
    "Aperio, big name": (tiled("a.SVS", **APERIO), Reads("tifffile", "opens only files named")),
    "levels in sub-pages": (tiled(near=5, subifds=True, **JPEG), Reads("tifffile", "takes other pages for levels")),
    "pages of other pictures": (tiled(extra=LABEL), Reads("tifffile", "takes other pages for levels")),
    "OME": (ome({"axes": "YXS"}), Reads("cucim")),
    "other vendor": (trestle(), Reads("openslide", "trestle")),
    "turned by a tag": (tiled(**TURNED), Reads("cucim")),
    # ------------------------------------------------------------------------------------------------ tiled, by colours
    "grey": (single(GREY, GREY3, **BLACK), Reads("tifffile", "tiled raw, gray, uint8")),
    "grey JPEG": (single(GREY, GREY3, near=5, **BLACK, **JPEG), Reads("tifffile")),
    "RGBA": (single(RGBA, on_white(PIXELS, ALPHA), **VEIL), Reads("tifffile")),
    "RGBA, opaque": (single(np.dstack([PIXELS, CLEAR]), **VEIL), Reads("tifffile")),
    "RGBA, premultiplied": (single(RGBA, LAID, extrasamples=["assocalpha"]), Reads("tifffile")),
    "grey and alpha": (single(GREYA, on_white(GREY3, ALPHA), **VEIL, **CONTIG, **BLACK), Reads("tifffile")),
    "16 bit": (single(DEEP, DEEP8), Reads("tifffile", "tiled raw, RGB, uint16")),
    "palette": (single(GREY, COLOURS.T[GREY], **PALETTE), Reads("openslide")),
    "white is zero": (single(255 - GREY, GREY3, photometric="miniswhite"), Reads("openslide")),
    "colours apart": (single(APART, **APARTS), Reads("openslide", "its colors are stored apart")),
    "YCbCr": (single(np.asarray(YCBCR), near=1, photometric="ycbcr"), Reads("openslide")),
    "CMYK": (single(RGBA, photometric="separated"), Refused("SEPARATED pixels are not gray, RGB or RGBA; convert it")),
    "float": (single(PIXELS.astype(np.float32)), Refused("32-bit float32 pixels are not 8 or 16 bit unsigned; conv")),
    "four colours": (single(RGBA, extrasamples=["unspecified"]), Refused("4 samples a pixel are not gray, RGB or")),
    "1 bit": (single(GREY > 127, **BLACK), Refused("not make RGB of 1-bit MINISBLACK; .*convert")),
    "palette, turned": (single(GREY, **PALETTE, **TURNED), Refused("by their orientation tag")),
    "volume": (single(np.stack([PIXELS] * 16), tile=(16, 64, 64), volumetric=True), Refused("it is a volume; convert")),
    # --------------------------------------------------------------------------------------------------- plain pictures
    "strips": (single(tile=None), Reads("pil", "strip raw, RGB, uint8")),
    "LZW strips": (single(tile=None, compression="lzw", predictor=True), Reads("pil", "strip LZW")),
    "Deflate strips": (single(tile=None, compression="zlib"), Reads("pil")),
    "JPEG strips": (single(near=5, tile=None, **JPEG), Reads("pil")),
    "big-endian strips": (single(tile=None, byteorder=">"), Reads("pil")),
    "RGBA strips": (single(RGBA, on_white(PIXELS, ALPHA), tile=None, **VEIL), Reads("pil")),
    "16 bit strips": (single(DEEP, DEEP8, tile=None), Reads("pil")),
    "palette strips": (single(GREY, tile=None, **PALETTE), Refused("8-bit PALETTE; conv")),
    "strips, colours apart": (single(APART, tile=None, **APARTS), Refused("are stored apart .*; conv")),
    "CMYK strips": (single(RGBA, tile=None, photometric="separated"), Refused("SEPARATED pixels are not gray, RGB")),
    "PNG": (pillow("a.png"), Reads("pil", "plain image, PNG, RGB")),
    "PNG, RGBA": (pillow("a.png", RGBA, on_white(PIXELS, ALPHA)), Reads("pil")),
    "PNG named .svs": (pillow("a.svs", format="PNG"), Reads("pil", "plain image, PNG, RGB")),
    "BMP": (pillow("a.bmp"), Reads("pil")),
    "PPM": (pillow("a.ppm"), Reads("pil")),
    "WebP picture": (pillow("a.webp", lossless=True), Reads("pil")),
    "JPEG picture": (pillow("a.jpg", near=5), Reads("pil")),
    "JPEG picture, turned": (pillow("a.jpg", near=5, exif=QUARTER), Reads("pil")),
    "CMYK JPEG": (pillow("a.jpg", CMYK), Refused("mode CMYK .*convert it to RGB")),
    "animated GIF": (pillow("a.gif", save_all=True, append_images=[OTHER]), Refused("2 frame.*convert it")),
    "PostScript": (pillow("a.eps"), Refused("no reader can open it as an image or slide")),
    # ---------------------------------------------------------------------------------------------------------- spacing
    "no mpp": (tiled(), NoSpacing("")),
    "no mpp, Aperio": (tiled("a.svs", near=5, aperio_mpp=0, **JPEG), NoSpacing("")),
    "72 dpi": (tiled(resolution=(72, 72), resolutionunit="INCH"), NoSpacing("352.78 um/px rejected: outside 0.05-20")),
    "72 dpi, JPEG picture": (pillow("a.jpg", near=5, dpi=(72, 72)), NoSpacing("72 dpi: 352.78 um/px rejected: outsi")),
    "anisotropic mpp": (tiled(**OBLONG), NoSpacing("1 x 0.5 .* pixels are not square")),
    "OME in pixels": (
        ome({"axes": "YXS", "PhysicalSizeX": 1, "PhysicalSizeXUnit": "pixel"}),
        NoSpacing("not a spacing"),
    ),
    # ------------------------------------------------------------------------------------------------------- no picture
    "zero bytes": (holding(b""), Refused(r"the file is empty \(0 bytes\); copy it again")),
    "text named .svs": (holding(b"a text, not a slide\n"), Refused("no reader can open it as an image .*check")),
    "page of an error": (holding(b"<html>404 not found</html>", "a.jpg"), Refused("no reader can open it")),
    "only zeros": (holding(bytes(5000)), Refused("no reader can open it")),
    "only a head": (holding(b"II*\0\x08\0\0\0", "a.tif"), Refused("copy the file again")),
    "several pictures": (tiled(extra=TWICE), Refused(r"holds 2 images \(pages\) of 160 x 224 pixels; save the one")),
    "several strip pictures": (single(tile=None, extra=STRIPS), Refused("holds 2 images .* save the one")),
    "OME of channels": (ome({"axes": "CYX"}, APART, **BLACK), Refused("holds 3 images .* save the")),
    # ------------------------------------------------------------------------------------------------ damage that shows
    "truncated": (tiled().but(cut), Refused("copy the file again")),
    "truncated JPEG tiles": (tiled(**JPEG).but(cut), Refused("copy the file again")),
    "truncated strips": (single(tile=None).but(cut), Refused(CUT_OFF)),
    "truncated PNG": (pillow("a.png").but(cut), Fails("the image is damaged")),
    "truncated JPEG picture": (pillow("a.jpg").but(cut), Fails("damaged .JPEG stream is cut short")),
    "truncated BMP": (pillow("a.bmp").but(cut), Fails("the image is damaged")),
    "zeroed JPEG tile": (tiled(**JPEG).but(zero), Fails(IN_TILE)),
    "zeroed JPEG strip": (single(tile=None, **JPEG).but(zero), Fails("does not begin as a JPEG")),
    "JPEG tile that ends early": (tiled(**JPEG).but(end_early), Fails(f"{IN_TILE}: the coded pixels of its JPEG str")),
    "JPEG of RGB that ends early": (tiled(**RGB_JPEG).but(end_early), Fails(f"{IN_TILE}: the coded pixels of its")),
    "JPEG strip that ends early": (single(tile=None, **JPEG).but(end_early), Fails("the coded pixels of its JPEG str")),
    "JPEG picture that ends early": (pillow("a.jpg").but(end_early), Fails("the coded pixels of its JPEG stream end")),
    "zeroed LZW tile": (tiled(compression="lzw").but(zero), Fails(IN_TILE)),
    "zeroed Deflate tile": (tiled(compression="zlib").but(zero), Fails(IN_TILE)),
    "zeroed Zstd tile": (tiled(compression="zstd").but(zero), Fails(IN_TILE)),
    "zeroed WebP tile": (tiled(compression="webp").but(zero), Fails(IN_TILE)),
    "zeroed JPEG 2000 tile": (tiled(compression=33005).but(zero), Fails(IN_TILE)),
    "zeroed JPEG 2000 tile, 33003": (ycbcr_jpeg2000().but(zero), Fails("tile 5 of level 0 .* is damaged")),
    "zeroed LZW, colours apart": (single(APART, **APARTS, compression="lzw").but(zero), Fails("level 0 is damaged")),
    "flipped bit, Deflate": (tiled(compression="zlib").but(flip), Fails(IN_TILE)),
    "flipped bit, PNG": (pillow("a.png").but(flip), Fails("the image is damaged")),
    # ---------------------------------------------------------------------------------------------------- tags that lie
    "unknown codec": (tiled().but(retag("Compression", 52479)), Refused("52479 is unknown to tifffile .*; convert it")),
    "no width": (tiled().but(retag("ImageWidth", 0)), Refused(r"page 0 states \(160, 0\) pixels; copy")),
    "more width than tiles": (tiled().but(retag("ImageWidth", 9999)), Refused("lists 12 of .* tiles; copy")),
    "narrow tiles": (tiled().but(retag("TileWidth", 63)), Refused("should have 12096 bytes, but has 12288; copy")),
    "huge tiles": (tiled().but(retag("TileWidth", 2**31)), Refused("states tiles of 64 x 2147483648 pixels")),
    "huge tiles, other vendor": (trestle().but(retag("TileWidth", 2**31)), Refused("states tiles of 64 x 2147483648")),
    "JPEG called raw": (tiled(**JPEG).but(retag("Compression", 1)), Refused("a tile of level 0 should have .* bytes")),
    "JPEG called LZW": (tiled(**JPEG).but(retag("Compression", 5)), Fails("level 0 is damaged")),
    "LZW called JPEG": (tiled(compression="lzw").but(retag("Compression", 7)), Fails("not begin as a JPEG stream")),
    "tile beyond the end": (tiled().but(moved(10**8)), Refused(CUT_OFF)),
    "tile beyond any end": (tiled(bigtiff=True).but(moved(2**63 - 5)), Refused(CUT_OFF)),
    "tile at offset 0": (tiled(**JPEG).but(moved(0)), Refused(CUT_OFF)),
    "pages in a circle": (tiled().but(link_pages(2, 0)), Refused("returns to an earlier one after page 2; copy")),
    "page that follows itself": (tiled().but(link_pages(0, 0)), Refused("returns to an earlier one after page 0")),
    "page beyond the end": (tiled().but(link_pages(0, None)), Refused("breaks off after page 0; copy")),
    "lost sub-pages": (tiled(subifds=True).but(retag("SubIFDs", (10**8, 10**8))), Refused("2 of 2 levels are missing")),
    # --------------------------------------------------------------------------------------- damage for a checksum only
    "zeroed raw tile": (tiled().but(zero), Hidden()),
    "zeroed strip": (single(tile=None).but(zero), Hidden()),
    "flipped bit, raw": (tiled().but(flip), Hidden()),
    "flipped bit, JPEG": (tiled(**JPEG).but(flip), Hidden()),
    "flipped bit, LZW": (tiled(compression="lzw").but(flip), Hidden()),
    "flipped bit, Zstd": (tiled(compression="zstd").but(flip), Hidden()),
    "flipped bit, WebP": (tiled(compression="webp").but(flip), Hidden()),
    "flipped bit, JPEG 2000": (tiled(compression=33005).but(flip), Hidden()),
    "flipped bit, JPEG picture": (pillow("a.jpg").but(flip), Hidden()),
    "flipped bit, BMP": (pillow("a.bmp").but(flip), Hidden()),
    "lost predictor": (tiled(compression="lzw", predictor=True).but(retag("Predictor", 1)), Hidden()),
    "tile never written": (tiled(**JPEG).but(retag("TileByteCounts", lambda v: (0, *v[1:]))), Hidden()),
}
# fmt: on

VENDOR_SLIDES: dict[str, Sample] = {  # that OpenSlide puts together
    "NDPI": ndpi(),
    "SCN": scn(),
    "MIRAX": mirax(),
    "DICOM": dicom(),
    "DICOM, sparse": dicom(is_sparse=True),
    "DICOM, concatenated": dicom(parts=2),
}
