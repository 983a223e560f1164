# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""LoadPyramid of arrays, tensors and what MONAI's LoadImage gives: the pyramid of the file, or one error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImage, Resize
from PIL import Image
from pyramid_cases import noise

from monai_jsma.transforms import LoadPyramid, LoadPyramidd

LOAD = LoadPyramid((2.0, 1.0), 8)
PIXELS = noise(20, 30)
CHANNEL_FIRST = torch.from_numpy(PIXELS.transpose(2, 0, 1).copy())


@pytest.fixture
def png(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


@pytest.mark.parametrize(
    "image",
    [
        PIXELS,
        PIXELS[::1, ::-1][:, ::-1],  # of negative strides between
        PIXELS.astype(np.float32),
        PIXELS.astype(np.int64),
        PIXELS / 255,
        PIXELS.transpose(2, 0, 1),
        CHANNEL_FIRST,
        CHANNEL_FIRST.float(),
        CHANNEL_FIRST / 255,
        CHANNEL_FIRST.permute(1, 2, 0),
        MetaTensor(CHANNEL_FIRST.float()),
    ],
    ids=lambda image: f"{type(image).__name__} {image.dtype} {tuple(image.shape)}",
)
def test_an_image_in_memory_is_that_of_its_file(png, image):
    expected = LOAD(png, 1.0)
    pyramid = LOAD(image, 1.0)
    assert pyramid.geometry == expected.geometry
    assert (pyramid.mpp, pyramid.mpp_source, pyramid.key) == (1.0, "given", None)
    cells = range(expected.geometry.num_cells)
    np.testing.assert_array_equal(pyramid.read(cells), expected.read(cells))
    np.testing.assert_array_equal(pyramid.thumbnail((5, 6)), expected.thumbnail((5, 6)))


def test_what_load_image_gives(png):
    load = LoadImage("PILReader", image_only=True, ensure_channel_first=True, reverse_indexing=False)
    image = load(png)
    assert (image.dtype, tuple(image.shape)) == (torch.float32, (3, 20, 30))
    item = LoadPyramidd("image", (2.0, 1.0), 8)({"image": image, "mpp": 1.0, "location": [4, 6], "size": [8, 9]})
    pyramid = item["image"]
    assert (pyramid.path, pyramid.origin, pyramid.geometry.size) == (png, (4, 6), (8, 9))
    np.testing.assert_array_equal(pyramid.read([0]), LOAD(png, 1.0, (4, 6), (8, 9)).read([0]))

    turned = LoadImage("PILReader", image_only=True, ensure_channel_first=True)(png)
    with pytest.raises(ValueError, match=r"a\.png: rows and columns .* are exchanged.*reverse_indexing=False"):
        LOAD(turned, 1.0)


def test_a_square_image_does_not_show_whether_it_is_turned(tmp_path):
    Image.fromarray(noise(9, 9)).save(tmp_path / "a.png")
    image = LoadImage("PILReader", image_only=True, ensure_channel_first=True)(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="cannot be seen in a square image"):
        LOAD(image, 1.0)


def test_a_resized_image_keeps_its_place_in_the_world():
    image = Resize((10, 15), mode="area")(MetaTensor(CHANNEL_FIRST.float() / 255))
    assert LOAD(image, 0.5).mpp == 1.0
    stretched = Resize((10, 30), mode="area")(MetaTensor(CHANNEL_FIRST.float() / 255))
    with pytest.raises(ValueError, match="an image in memory: its affine says that a pixel is 2 high and 1 wide"):
        LOAD(stretched, 0.5)


def test_default_spacing_of_an_image_in_memory():
    pyramid = LoadPyramid((2.0, 1.0), 8, default_mpp=1.0)(PIXELS)
    assert (pyramid.mpp, pyramid.mpp_source) == (1.0, "default")


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (PIXELS, {}, "an image in memory states no spacing; give 'mpp'"),
        (PIXELS, {"mpp": 500.0}, "an image in memory: mpp=500"),
        (PIXELS[:, :, 0], {"mpp": 1.0}, r"the shape \(20, 30\); convert it to RGB"),
        (np.zeros((20, 30, 4), np.uint8), {"mpp": 1.0}, r"the shape \(20, 30, 4\)"),
        (CHANNEL_FIRST[None], {"mpp": 1.0}, r"the shape \(1, 3, 20, 30\)"),
        (PIXELS.astype(np.float32) + 0.5, {"mpp": 1.0}, "an image in memory: float images must be in"),
        (PIXELS.astype(np.int32) * 257, {"mpp": 1.0}, "an image in memory: images of torch.int32: give uint8"),
        (PIXELS / 255 - 0.5, {"mpp": 1.0}, "leave out the normalization"),
        (PIXELS, {"mpp": 1.0, "location": (0, 0)}, "an image in memory: 'location' .* is without 'size'"),
        (PIXELS, {"mpp": 1.0, "location": (9, 9), "size": (12, 8)}, "leaves the image"),
        (PIXELS, {"mpp": 1.0, "size": (21, 8)}, "leaves the image"),
    ],
)
def test_images_in_memory_that_are_refused(image, options, message):
    with pytest.raises(ValueError, match=message):
        LOAD(image, **options)


def test_an_item_of_patch_wsi_dataset_is_named_without_its_pixels():
    image = MetaTensor(CHANNEL_FIRST, meta={"filename_or_obj": "slide.svs"})
    with pytest.raises(ValueError, match=r"^slide\.svs: 'location' with 'level' 0"):
        LoadPyramidd("image", (1.0,), 8)({"image": image, "mpp": 1.0, "location": [0, 0], "level": 0})
