# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Pyramids that are written strip by strip: exact means, and the same pixels for every reader."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile
from PIL import Image
from slide_files import HAS_CUCIM, encode_jpeg, picture

from monai_jsma.slides import inspect_slide, open_slide
from monai_jsma.slides.tiled import StoredLevel, cut_to_strips, reduce_to_strips, write_levels

READERS = [*(["cucim"] if HAS_CUCIM else []), "tifffile", "openslide"]


def mean_of_boxes(pixels: np.ndarray, by: int) -> np.ndarray:
    height, width = pixels.shape[0] // by, pixels.shape[1] // by
    boxes = pixels.astype(int).reshape(height, by, width, by, 3)
    return np.floor(boxes.sum((1, 3)) / by**2 + 0.5).astype(np.uint8)


@pytest.mark.parametrize("reduction", [1, 2, 16, 64])
def test_a_level_is_the_exact_mean_of_level_0(reduction):
    pixels = picture(1280, 640)
    most_rows = 0

    def read_rows(begin: int, end: int) -> np.ndarray:
        nonlocal most_rows
        most_rows = max(most_rows, end - begin)
        return pixels[begin:end]

    strips = list(reduce_to_strips(read_rows, (1280, 640), reduction))
    np.testing.assert_array_equal(np.concatenate(strips), mean_of_boxes(pixels, reduction))
    assert all(len(strip) == 256 for strip in strips[:-1])
    assert most_rows <= 256


def pillow_loss(pixels: np.ndarray, quality: int | None) -> float:
    """Mean difference after JPEG without chroma subsampling."""
    if quality is None:
        return 0.0
    stream = encode_jpeg(pixels, quality=quality, subsampling=0)
    return float(np.abs(np.array(Image.open(io.BytesIO(stream))).astype(int) - pixels).mean())


@pytest.fixture(params=[None, 95], ids=["lossless", "jpeg"])
def pyramid(request, tmp_path):
    """A file, the pixels that were written to it, and the quality."""
    pixels = picture(704, 832)
    levels = [pixels, mean_of_boxes(pixels, 2)]
    stored = [StoredLevel(level.shape[:2], cut_to_strips(level)) for level in levels]
    write_levels(tmp_path / "a.tif", stored, mpp=0.5, quality=request.param, description="what it is")
    return tmp_path / "a.tif", levels, request.param


def test_all_readers_read_the_same(pyramid):
    path, levels, quality = pyramid
    read = {}
    for name in READERS:
        info = inspect_slide(path, reader=name)
        assert info.level_sizes == ((704, 832), (352, 416))
        assert info.mpp == pytest.approx(0.5, rel=1e-6)
        reader = open_slide(info)
        read[name] = [reader.read(level, (0, 0), size) for level, size in enumerate(info.level_sizes)]
    for level, pixels in enumerate(levels):
        for name in READERS:
            np.testing.assert_array_equal(read[name][level], read["tifffile"][level])
        loss = np.abs(read["tifffile"][level].astype(int) - pixels).mean()
        assert loss <= 1.05 * pillow_loss(pixels, quality)
    assert inspect_slide(path).lazy


def test_the_description_is_of_level_0(pyramid):
    with tifffile.TiffFile(pyramid[0]) as tif:
        assert [page.description for page in tif.pages] == ["what it is", ""]
        assert not tif.is_bigtiff
