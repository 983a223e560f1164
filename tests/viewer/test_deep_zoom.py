# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Tiles cover the image once at every level, and show what an area mean of the whole image shows."""

from __future__ import annotations

import numpy as np
import pytest
from slide_files import picture

from monai_jsma.geometry import Box
from monai_jsma.slides.base import ArrayReader
from monai_jsma.slides.resample import area_resample
from monai_jsma.viewer.deep_zoom import DeepZoom, TileIndex
from monai_jsma.viewer.slide_tiles import find_first_level

SIZES = [(1, 1), (1, 2), (256, 256), (257, 256), (300, 1000), (1023, 1025), (4097, 3)]


@pytest.mark.parametrize("size", SIZES)
def test_the_tiles_of_each_level_cover_every_pixel_once(size):
    zoom = DeepZoom(size)
    for level in range(zoom.max_level + 1):
        counts = np.zeros(size, int)
        rows, cols = zoom.grid(level)
        for row in range(rows):
            for col in range(cols):
                box, (height, width) = zoom.tile(TileIndex(level, row, col))
                counts[box.row : box.row + box.height, box.col : box.col + box.width] += 1
                assert max(height, width) <= 256
                assert (height, width) == (
                    np.ceil(box.height / zoom.scale(level)),
                    np.ceil(box.width / zoom.scale(level)),
                )
        assert (counts == 1).all()


@pytest.mark.parametrize("size", SIZES)
def test_the_first_level_is_one_pixel_and_the_last_the_image(size):
    zoom = DeepZoom(size)
    assert zoom.tile(TileIndex(0, 0, 0)) == (Box(0, 0, *size), (1, 1))
    assert zoom.scale(zoom.max_level) == 1
    assert zoom.scale(0) >= max(size) > zoom.scale(0) / 2


@pytest.mark.parametrize(
    "index", [(-1, 0, 0), (11, 0, 0), (10**9, 0, 0), (10, 2, 0), (10, 0, 4), (10, -1, 0), (0, 0, 1)]
)
def test_there_are_no_other_tiles(index):
    with pytest.raises(IndexError, match="level"):
        DeepZoom((300, 1000)).tile(TileIndex(*index))


def test_a_tile_never_needs_more_stored_pixels_than_allowed():
    class Slide:
        exact = (True,) * 3

        def __init__(self, *downs: int) -> None:
            self.level_sizes = tuple((100_000 // down, 100_000 // down) for down in downs)

    zoom = DeepZoom((100_000, 100_000))
    for slide in (Slide(1), Slide(1, 16), Slide(1, 4, 64)):
        first = find_first_level(slide, zoom, max_pixels=2048 * 2048)
        for level in range(first, zoom.max_level + 1):
            box, _ = zoom.tile(TileIndex(level, 0, 0))
            scale = zoom.scale(level)
            down = max(100_000 / height for height, _ in slide.level_sizes if 100_000 / height <= 1.01 * scale)
            assert box.height / down * box.width / down <= 2048 * 2048
    assert find_first_level(Slide(1), zoom, max_pixels=2048 * 2048) == zoom.max_level - 3
    assert find_first_level(Slide(1, 16, 64), zoom, max_pixels=2048 * 2048) == 0
    small = ArrayReader(picture(40, 30))
    assert find_first_level(small, DeepZoom((40, 30))) == 0


def test_area_mean_of_tiles_is_that_of_the_image():
    """What the viewer's tests of pixels rest on: a level cut to tiles is the level."""
    pixels = picture(512, 768)
    zoom = DeepZoom((512, 768))
    level = zoom.max_level - 1
    rows, cols = zoom.grid(level)
    strips = []
    for row in range(rows):
        tiles = []
        for col in range(cols):
            box, size = zoom.tile(TileIndex(level, row, col))
            tiles.append(area_resample(pixels, box, size))
        strips.append(np.concatenate(tiles, axis=1))
    whole = area_resample(pixels, Box(0, 0, 512, 768), (256, 384))
    np.testing.assert_array_equal(np.concatenate(strips), whole)
