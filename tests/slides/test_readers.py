# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Every reader against tifffile's whole levels: the same pixels in every window of every level."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slide_files import (
    JPEG,
    LEVELS,
    PIXELS,
    levels_of,
    needs_cucim,
    open_with,
    picture,
    shared_slide,
    stored_levels,
    windows,
    write_pyramid,
    zero_tile,
)

from monai_jsma.slides.base import Reader
from monai_jsma.slides.open import inspect_slide, open_slide
from monai_jsma.slides.openslide_reader import OpenSlideReader
from monai_jsma.slides.tifffile_reader import TiffReader


def assert_reads(reader: Reader, expected: list[np.ndarray], count: int = 40) -> None:
    assert reader.level_sizes == tuple(level.shape[:2] for level in expected)
    for index, level in enumerate(expected):
        for row, col, h, w in windows(level.shape[:2], count):
            window = reader.read(index, (row, col), (h, w))
            assert window.dtype == np.uint8
            np.testing.assert_array_equal(window, level[row : row + h, col : col + w])


@pytest.mark.parametrize("options", [{}, JPEG])
@pytest.mark.parametrize("reader", [pytest.param("cucim", marks=needs_cucim), "tifffile"])
def test_the_stored_pixels_of_levels_between_whole_downsamples(tmp_path: Path, options: dict, reader: str) -> None:
    path = write_pyramid(tmp_path / "a.tiff", LEVELS, **options)
    opened = open_with(path, reader)
    assert opened.exact == (True,) * 4
    assert_reads(opened, stored_levels(path))


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
                reader.read(index, (row, col), (h, w)), expected[index][row : row + h, col : col + w]
            )
    blended = [
        np.abs(reader.read(2, (row, col), (h, w)).astype(int) - expected[2][row : row + h, col : col + w]).mean()
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
    np.testing.assert_array_equal(open_with(path).read(0, (0, 0), level0.shape[:2]), level0)
    np.testing.assert_array_equal(open_with(path, "openslide").read(0, (0, 0), level0.shape[:2]), level0)


def test_openslide_lays_transparency_on_white(tmp_path: Path) -> None:
    alpha = np.full((330, 420, 1), 0, np.uint8)
    path = write_pyramid(tmp_path / "a.tif", [np.concatenate([PIXELS, alpha], axis=2)], extrasamples=["assocalpha"])
    info = replace(inspect_slide(path), reader="openslide")  # which gets only other vendors' slides with transparency
    assert (open_slide(info).read(0, (0, 0), (330, 420)) == 255).all()


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
    np.testing.assert_array_equal(open_with(path, "openslide").read(0, (0, 0), (330, 420)), levels[0])
    aperio = write_pyramid(tmp_path / "a.svs", LEVELS[:2], aperio_mpp=0.5, **JPEG)
    zero_tile(aperio, 0, columns + 2)
    np.testing.assert_array_equal(open_with(aperio).read(0, (0, 0), (330, 420)), levels[0])
