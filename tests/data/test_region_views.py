# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Regions of a slide: fixed parts of its file, with its identity; read in parallel, and nothing else is decoded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyramid_cases import LevelsReader, every_cell, in_blocks, noise
from slide_files import levels_of, picture, write_pyramid

from monai_jsma.data import NotFiniteError, PatchError, Pyramid, PyramidBatch, StainMap, TensorPyramidBatch
from monai_jsma.geometry import ORIENTATIONS, Box, orient
from monai_jsma.slides.base import ArrayReader
from monai_jsma.transforms import LoadPyramid
from monai_jsma.zoom_geometry import TissueMap, make_region_grid

SETTINGS = {"mpp": 1.0, "magnifications": (2.0, 1.0), "patch_size": 8}


def in_memory(pixels: np.ndarray, **options) -> Pyramid:
    return Pyramid(ArrayReader(pixels), **SETTINGS, **options)


def test_a_region_has_the_key_of_the_same_region_opened_by_its_location(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", levels_of(picture(96, 130, seed=3), (2,)), tile=(16, 16), mpp=1.0)
    load = LoadPyramid((2.0, 1.0), patch_size=8)
    slide = load(path)
    rows, cols = slide.region_grid(32)
    assert (rows, cols) == (3, 5)
    keys = set()
    for index in range(rows * cols):
        region = slide.region(index, 32)
        opened = load(path, location=region.origin, size=region.stored_geometry.size)
        assert region.key is not None
        assert region.key == opened.key != slide.key
        assert region.oriented(3).key == opened.oriented(3).key
        assert region.stained(StainMap((1.1, 1.0, 1.0))).key is None
        np.testing.assert_array_equal(region.read([0, 5]), opened.read([0, 5]))
        keys.add(region.key)
    assert len(keys) == rows * cols


def test_the_geometry_of_regions_is_computed_once_for_all_of_a_size():
    slide = in_memory(noise(64, 48))
    regions = [slide.region(index, 16) for index in range(12)]
    assert len({id(region.stored_geometry) for region in regions}) == 1
    assert make_region_grid(slide.stored_geometry, 16) is make_region_grid(slide.stored_geometry, 16)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_regions_of_a_turned_slide_are_those_of_the_turned_pixels(orientation):
    """The slide is 64 x 48, regions are 16 x 16: every orientation has the same regions, elsewhere."""
    pixels = noise(64, 48)
    turned = in_memory(np.ascontiguousarray(orient(pixels, orientation)))
    view = in_memory(pixels).oriented(orientation)
    grid = turned.region_grid(16)
    assert view.region_grid(16) == grid
    for index in range(grid[0] * grid[1]):
        expected = turned.region(index, 16)
        region = view.region(index, 16)
        assert region.orientation == orientation
        np.testing.assert_array_equal(region.read(every_cell(region)), expected.read(every_cell(expected)))
        np.testing.assert_array_equal(region.thumbnail((8, 8)), expected.thumbnail((8, 8)))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_tissue_turns_with_its_slide(orientation):
    pixels = noise(64, 48)
    mask = np.random.default_rng(0).random((64, 48)) < 0.3
    slide = in_memory(pixels).with_tissue(TissueMap(mask, Box(0, 0, 64, 48))).oriented(orientation)
    shares = slide.tissue_shares(16)
    turned = orient(mask, orientation)
    rows, cols = slide.region_grid(16)
    blocks = turned.reshape(rows, 16, cols, 16).mean(axis=(1, 3))
    np.testing.assert_allclose(shares, blocks.ravel())
    region = slide.region(1, 16)
    np.testing.assert_allclose(region.tissue_shares(8).mean(), shares[1])


def test_without_a_map_every_region_may_hold_tissue():
    assert in_memory(noise(20, 30)).tissue_shares(10).tolist() == [1.0] * 6


def test_a_region_of_a_region_lies_in_it():
    slide = in_memory(noise(128, 128), origin=(16, 32), size=(100, 90))
    inner = slide.region(5, 40).region(3, 20)
    outer = slide.region(5, 40)
    assert outer.origin == (16 + 30, 32 + 50)
    assert inner.origin == (outer.origin[0] + 20, outer.origin[1] + 20)


def test_a_region_that_does_not_exist_is_refused():
    with pytest.raises(IndexError, match="region 6 is outside the 2 x 3 regions"):
        in_memory(noise(20, 30)).region(6, 10)


def test_only_pixels_of_the_regions_are_read():
    levels = in_blocks(256, 256, (2, 4))
    reader = LevelsReader(levels)
    slide = Pyramid(reader, **SETTINGS)
    batch = PyramidBatch([slide]).regions([0, 0], [6, 9], 64)
    batch.thumbnails((16, 16))
    batch.read(torch.tensor([0, 1]), torch.tensor([3, 0]))
    boxes = [(64, 128), (128, 64)]
    assert reader.windows
    for level, row, col, height, width in reader.windows:
        scale = 2**level
        top, left = row * scale, col * scale
        inside = [
            y <= top and top + height * scale <= y + 64 and x <= left and left + width * scale <= x + 64
            for y, x in boxes
        ]
        assert any(inside)


def test_thumbnails_of_a_batch_are_those_of_its_images(tmp_path):
    path = write_pyramid(tmp_path / "a.tif", levels_of(picture(96, 130, seed=3), (2,)), tile=(16, 16), mpp=1.0)
    slide = LoadPyramid((2.0, 1.0), patch_size=8)(path)
    batch = PyramidBatch([slide, slide]).regions([0, 1, 1], [0, 4, 11], 32)
    thumbnails = batch.thumbnails((16, 12))
    assert thumbnails.dtype == torch.uint8
    for pyramid, thumbnail in zip(batch, thumbnails, strict=True):
        np.testing.assert_array_equal(thumbnail, pyramid.thumbnail((16, 12)))
    assert PyramidBatch().thumbnails((16, 12)).shape == (0, 3, 16, 12)


def test_a_thumbnail_that_cannot_be_read_names_its_image():
    class Damaged(LevelsReader):
        def _read(self, level, location, size):
            raise ValueError(f"damaged at {location}")

    good = in_memory(noise(64, 64))
    bad = Pyramid(Damaged([noise(64, 64)]), **SETTINGS)
    with pytest.raises(PatchError, match="damaged") as caught:
        PyramidBatch([good, bad]).thumbnails((8, 8))
    assert set(caught.value.errors) == {1}
    assert not isinstance(caught.value, NotFiniteError)


def test_regions_of_tensors_are_those_of_pyramids():
    pixels = noise(60, 45)
    tensors = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    whole = TensorPyramidBatch(tensors, (2.0, 1.0), 8)
    slides = PyramidBatch([in_memory(pixels)])
    assert whole.region_grids(24) == slides.region_grids(24) == [(3, 2)]
    assert [shares.tolist() for shares in whole.tissue_shares(24)] == [[1.0] * 6]
    ours = whole.regions([0, 0], [1, 4], 24)
    ours.extend(whole.regions([0], [5], 24))
    theirs = slides.regions([0, 0, 0], [1, 4, 5], 24)
    assert list(ours.grids) == theirs.grids
    images = torch.tensor([0, 1, 2])
    cells = torch.tensor([0, 6, 3])
    torch.testing.assert_close(ours.read(images, cells), theirs.read(images, cells).float() / 255, rtol=0, atol=1 / 255)
    torch.testing.assert_close(ours.thumbnails((8, 8)), theirs.thumbnails((8, 8)).float() / 255, rtol=0, atol=1 / 255)
    assert whole.regions([], [], 24).thumbnails((8, 8)).shape == (0, 3, 8, 8)
