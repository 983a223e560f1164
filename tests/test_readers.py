# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Every reader against tifffile's whole levels: the same pixels in every window of every level."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from slide_files import (
    levels_of,
    picture,
    shared_slide,
    stored_levels,
    windows,
    write_pyramid,
    zero_tile,
)

from monai_jsma.data.readers import CuCIMReader, OpenSlideReader, Reader, TiffReader, open_reader
from monai_jsma.data.slides import inspect_slide

HAS_CUCIM = importlib.util.find_spec("cucim") is not None
needs_cucim = pytest.mark.skipif(not HAS_CUCIM, reason="cuCIM is not installed")
PIXELS = picture(330, 420)
LEVELS = levels_of(PIXELS, [2.0005, 4.003, 7.9])
JPEG = {"compression": "jpeg"}


def open_with(path: Path | str, reader: str | None = None) -> Reader:
    return open_reader(inspect_slide(path, reader=reader))


def assert_reads(reader: Reader, expected: list[np.ndarray], count: int = 40) -> None:
    assert reader.level_sizes == tuple(level.shape[:2] for level in expected)
    for index, level in enumerate(expected):
        for row, col, h, w in windows(level.shape[:2], count):
            window = reader.read(index, row, col, h, w)
            assert window.dtype == np.uint8
            np.testing.assert_array_equal(window, level[row : row + h, col : col + w])


CUCIM_KINDS: list[dict[str, Any]] = [
    {},
    {"byteorder": ">"},
    JPEG,
    {**JPEG, "subsampling": (2, 2)},
    {**JPEG, "compressionargs": {"outcolorspace": "rgb"}},
    {**JPEG, "bigtiff": True, "byteorder": ">", "tile": (48, 96)},
    {**JPEG, "aperio_mpp": 0.5},
]
TIFF_KINDS: list[dict[str, Any]] = [
    {"compression": "lzw", "predictor": True},
    {"compression": "lzw", "byteorder": ">"},
    {"compression": "zlib"},
    {"compression": "zlib", "predictor": True},
    {"compression": "zstd"},
    {"compression": 33005},
    {"compression": 34712},
    {"compression": "webp", "compressionargs": {"lossless": True}},
    {**JPEG, "subifds": True},
]


@needs_cucim
@pytest.mark.parametrize("options", CUCIM_KINDS)
def test_cucim_gives_the_stored_pixels_of_every_level(tmp_path: Path, options: dict[str, Any]) -> None:
    path = write_pyramid(tmp_path / "a.tiff", LEVELS, **options)
    reader = open_with(path)
    assert isinstance(reader, CuCIMReader)
    assert reader.exact == (True,) * 4
    assert_reads(reader, stored_levels(path))


@pytest.mark.parametrize("options", CUCIM_KINDS + TIFF_KINDS)
def test_tifffile_gives_the_stored_pixels_of_every_level(tmp_path: Path, options: dict[str, Any]) -> None:
    path = write_pyramid(tmp_path / "a.tiff", LEVELS, **options)
    reader = open_with(path, "tifffile")
    assert isinstance(reader, TiffReader)
    assert reader.exact == (True,) * 4
    assert_reads(reader, stored_levels(path), count=15)


@pytest.mark.parametrize("options", [{}, JPEG, {"compression": "lzw", "predictor": True}, {"compression": "zlib"}])
def test_openslide_tells_where_it_is_exact(tmp_path: Path, options: dict[str, Any]) -> None:
    whole = picture(352, 416)
    path = write_pyramid(tmp_path / "a.tiff", [whole, *levels_of(whole, [2, 4.003, 8])[1:]], **options)
    reader = open_with(path, "openslide")
    assert isinstance(reader, OpenSlideReader)
    assert reader.exact == (True, True, False, True)
    expected = stored_levels(path)
    for index in (0, 1, 3):
        for row, col, h, w in windows(expected[index].shape[:2], 40):
            np.testing.assert_array_equal(
                reader.read(index, row, col, h, w), expected[index][row : row + h, col : col + w]
            )
    blended = [
        np.abs(reader.read(2, row, col, h, w).astype(int) - expected[2][row : row + h, col : col + w]).mean()
        for row, col, h, w in windows(expected[2].shape[:2], 40)
    ]
    assert 0 < max(blended) < 10  # not the stored pixels, but no other place either


@needs_cucim
@given(st.floats(1.1, 70), st.integers(0, 2**24 // 70))
def test_location_of_a_pixel_in_cucim(downsample: float, pixel: int) -> None:
    """cuCIM divides in single precision; ``ceil(k * D)`` comes back as k for levels of any size."""
    single = np.float32(downsample)
    location = int(np.ceil(pixel * float(single)))
    assert int(np.float32(location) / single) == pixel


@pytest.mark.parametrize(
    "name", ["cmu-1-small-region.svs", "tcga-cr-7395-01a-01-ts1.svs", "os_boxes.tiff", "os_small.svs"]
)
def test_real_slides(name: str) -> None:
    path = shared_slide(name)
    expected = stored_levels(path)
    assert_reads(open_with(path), expected, count=3)
    with openslide.OpenSlide(path) as slide:
        size = min(slide.dimensions[0], 700), min(slide.dimensions[1], 500)
        level0 = np.asarray(slide.read_region((0, 0), 0, size))[..., :3]
    np.testing.assert_array_equal(open_with(path).read(0, 0, 0, *level0.shape[:2]), level0)
    np.testing.assert_array_equal(open_with(path, "openslide").read(0, 0, 0, *level0.shape[:2]), level0)


def test_colours_of_ycbcr_jpeg_2000_are_right(tmp_path: Path) -> None:
    """Old Aperio slides: only OpenSlide converts the colours of compression 33003."""
    imagecodecs = pytest.importorskip("imagecodecs")
    ycbcr = np.asarray(Image.fromarray(PIXELS[:128, :192]).convert("YCbCr"))
    tiles = [ycbcr[r : r + 64, c : c + 64].copy() for r in (0, 64) for c in (0, 64, 128)]
    encoded = [imagecodecs.jpeg2k_encode(tile, codecformat="j2k", reversible=True, level=0) for tile in tiles]
    path = tmp_path / "a.svs"
    with tifffile.TiffWriter(path) as tif:
        text = {"description": "Aperio Image Library v11\r\n192x128|MPP = 0.5", "metadata": None}
        tif.write(
            iter(encoded),
            shape=ycbcr.shape,
            dtype="uint8",
            tile=(64, 64),
            compression=33003,
            photometric="ycbcr",
            **text,
        )
    reader = open_with(path)
    assert isinstance(reader, OpenSlideReader)
    assert np.abs(reader.read(0, 0, 0, 128, 192).astype(int) - PIXELS[:128, :192]).max() <= 3


def on_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.floor(colour * (alpha / 255) + 255 - alpha + 0.5).astype(int)


@pytest.mark.parametrize("tile", [(64, 64), None])
def test_grey_alpha_and_16_bit_become_rgb(tmp_path: Path, tile: tuple[int, int] | None) -> None:
    grey, alpha = PIXELS[..., :1], np.random.default_rng(0).integers(0, 256, (330, 420, 1), dtype=np.uint8)
    deep = np.random.default_rng(1).integers(0, 65536, (330, 420, 3), dtype=np.uint16)
    rgba = np.concatenate([PIXELS, alpha], axis=2)
    cases = {
        "grey": (grey[..., 0], {"photometric": "minisblack"}, np.repeat(grey, 3, axis=2)),
        "grey_alpha": (
            np.concatenate([grey, alpha], axis=2),
            {"photometric": "minisblack", "extrasamples": ["unassalpha"], "planarconfig": "contig"},
            np.repeat(on_white(grey, alpha), 3, axis=2),
        ),
        "rgba": (rgba, {"extrasamples": ["unassalpha"]}, on_white(PIXELS, alpha)),
        "premultiplied": (
            rgba,
            {"extrasamples": ["assocalpha"]},
            np.minimum(PIXELS.astype(int) + 255 - alpha, 255),
        ),
        "opaque": (np.concatenate([PIXELS, np.full_like(grey, 255)], axis=2), {"extrasamples": ["unassalpha"]}, PIXELS),
        "deep": (deep, {}, np.floor(deep / 257 + 0.5)),
    }
    for name, (stored, options, expected) in cases.items():
        path = write_pyramid(tmp_path / f"{name}.tif", [stored], tile=tile, compression="zlib", **options)
        np.testing.assert_array_equal(open_with(path).read(0, 0, 0, 330, 420), expected, err_msg=name)
        if tile and name in ("grey", "deep", "opaque"):  # the same rules as OpenSlide's
            np.testing.assert_array_equal(open_with(path, "openslide").read(0, 0, 0, 330, 420), expected, err_msg=name)


def test_openslide_lays_transparency_on_white(tmp_path: Path) -> None:
    alpha = np.full((330, 420, 1), 0, np.uint8)
    path = write_pyramid(tmp_path / "a.tif", [np.concatenate([PIXELS, alpha], axis=2)], extrasamples=["assocalpha"])
    assert (open_with(path, "openslide").read(0, 0, 0, 330, 420) == 255).all()


def test_empty_tiles_are_white_in_every_reader(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", LEVELS[:2], **JPEG)
    columns, levels = -(-420 // 64), stored_levels(path)
    zero_tile(path, 0, columns + 2)
    zero_tile(path, 1, 0)
    levels[0][64:128, 128:192] = 255
    levels[1][:64, :64] = 255
    reader = open_with(path)
    assert isinstance(reader, TiffReader)
    assert_reads(reader, levels)
    np.testing.assert_array_equal(open_with(path, "openslide").read(0, 0, 0, 330, 420), levels[0])
    aperio = write_pyramid(tmp_path / "a.svs", LEVELS[:2], aperio_mpp=0.5, **JPEG)
    zero_tile(aperio, 0, columns + 2)
    np.testing.assert_array_equal(open_with(aperio).read(0, 0, 0, 330, 420), levels[0])
