# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Pyramids of files: the same pixels from every reader, and those of OpenSlide at level 0."""

from __future__ import annotations

import importlib.util

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image
from pyramid_cases import every_cell, slow_patch, slow_thumbnail
from slide_files import levels_of, picture, shared_slide, write_pyramid

from monai_jsma.data import Pyramid
from monai_jsma.transforms import LoadPyramid

READERS = ["tifffile", "openslide"] + ["cucim"] * (importlib.util.find_spec("cucim") is not None)
CODECS = [{}, {"compression": "jpeg"}, {"compression": "jpeg", "aperio_mpp": 0.5}]
REGIONS = [
    {},
    {"location": (21, 34), "size": (131, 110)},
    {"location": (20, 32), "size": (128, 112)},
]  # odd, and whole at every level


def stored_levels(path) -> list[np.ndarray]:
    with tifffile.TiffFile(path) as tif:
        return [page.asarray() for page in tif.pages]


def load(path, reader=None, magnifications=(0.5, 1.0, 1.5, 2.6), patch_size=40, **options) -> Pyramid:
    return LoadPyramid(magnifications, patch_size, reader)(path, **{"mpp": 0.5, **options})


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("region", REGIONS)
def test_downsamples_that_are_no_whole_numbers(tmp_path, reader, region):
    """OpenSlide blends pixels of such levels, so its patches come from level 0; its thumbnail of a region is near."""
    path = write_pyramid(tmp_path / "slide.tif", levels_of(picture(203, 257), (2.003, 4.4)), compression="jpeg")
    it, levels = load(path, reader, (1.02, 2.6), **region), stored_levels(path)
    for cell in every_cell(it):
        coarse = it.geometry.magnifications[it.geometry.cell(cell).level].mpp == 2.6
        level = 0 if reader == "openslide" else 2 if coarse else 1
        np.testing.assert_array_equal(it.read([cell])[0], slow_patch(it, levels, cell, level))
    difference = it.thumbnail((20, 24)) - slow_thumbnail(it, levels, (20, 24), 2).astype(int)
    assert np.abs(difference).mean() < (6 if reader == "openslide" and region else 1e-9)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_plain_pictures_are_decoded_whole(tmp_path, suffix):
    pixels = picture(90, 110)
    Image.fromarray(pixels).save(tmp_path / f"picture.{suffix}")
    it = load(tmp_path / f"picture.{suffix}", location=(5, 8), size=(85, 102))
    assert it.reader.array.shape == (90, 110, 3)
    np.testing.assert_array_equal(it.read(every_cell(it)), [slow_patch(it, [pixels], c) for c in every_cell(it)])
    np.testing.assert_array_equal(it.thumbnail((9, 11)), slow_thumbnail(it, [pixels], (9, 11)))


def test_a_jpeg_is_what_pillow_decodes():
    path = shared_slide("../osteosarcoma/Non-Tumor___Case-3-A15-2939-11262_112.jpg")
    it = load(path, magnifications=(2.0, 0.5), patch_size=256)
    assert it.geometry.grids == ((1, 1), (4, 4))
    with Image.open(path) as image:
        pixels = np.asarray(image)
    np.testing.assert_array_equal(it.read([1 + 4 + 2])[0].transpose(1, 2, 0), pixels[256:512, 512:768])
    blocks = pixels.reshape(256, 4, 256, 4, 3).sum(axis=(1, 3), dtype=int)
    np.testing.assert_array_equal(it.read([0])[0].transpose(1, 2, 0), (blocks + 8) // 16)


@pytest.mark.parametrize(
    "name", ["cmu-1-small-region.svs", "tcga-cr-7395-01a-01-ts1.svs", "os_boxes.tiff", "os_small.svs"]
)
def test_level_0_patches_are_those_of_openslide(name):
    path = shared_slide(name)
    it = load(path, magnifications=(0.499,), patch_size=299, mpp=0.499)
    n = it.geometry.num_cells
    with openslide.OpenSlide(path) as slide:
        assert it.geometry.size == slide.dimensions[::-1]
        for cell in {0, n // 3, n // 2, n - 1, *range(0, n, 7)}:
            row, col, height, width = map(int, it.box(cell))
            inside = min(height, it.geometry.size[0]), min(width, it.geometry.size[1])
            expected = np.full((299, 299, 3), 255, np.uint8)
            region = slide.read_region((col, row), 0, inside[::-1]).convert("RGB")
            expected[: inside[0], : inside[1]] = np.asarray(region)
            np.testing.assert_array_equal(it.read([cell])[0].transpose(1, 2, 0), expected)
