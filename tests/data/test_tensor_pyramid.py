# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Patches of a tensor against a slow area average of the whole picture, written with loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from slow_patches import slow_patches, slow_resample

from monai_jsma.data.tensor_batch import TensorPyramidBatch
from monai_jsma.geometry import PatchGeometry

CASES = [
    ((24, 20), (1.0, 2.0), None),
    ((33, 41), (1.0, 2.0, 4.0), None),  # 41 / 2 is no number of pixels
    ((30, 22), (1.5, 3.1), 1.0),  # no integer factors at all
    ((5, 30), (1.0, 4.0), None),  # smaller than a patch in one direction
    ((3, 4), (1.0,), None),  # and in both
    ((12, 9), (0.8,), 1.0),  # a little finer than stored
]


@pytest.mark.parametrize(("size", "magnifications", "mpp"), CASES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_patches_and_thumbnail_are_area_averages(size, magnifications, mpp, dtype):
    images = torch.randint(256, (2, 3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = images if dtype == torch.uint8 else images.float() / 255
    pyramid = TensorPyramidBatch(images, magnifications, 8, mpp=mpp)
    assert pyramid.geometry == PatchGeometry(size, mpp or 1.0, magnifications, 8)
    assert pyramid.grids == [pyramid.geometry.grids] * 2
    floats = (images / 255 if dtype == torch.uint8 else images).double().numpy()
    n = pyramid.geometry.num_cells
    patches = pyramid.read(torch.arange(2).repeat_interleave(n), torch.arange(n).repeat(2)).view(2, n, 3, 8, 8)
    for picture, read in zip(floats, patches.numpy()):
        np.testing.assert_allclose(read, slow_patches(picture, pyramid.geometry), atol=1e-5)
    for picture, read in zip(floats, pyramid.thumbnail((5, 7)).numpy()):
        np.testing.assert_allclose(read, slow_resample(picture, (5, 7)), atol=1e-5)


def test_beyond_a_small_picture_is_white():
    patch = TensorPyramidBatch(torch.zeros(1, 3, 5, 6), (1.0,), 8).read(torch.tensor([0]), torch.tensor([0]))[0]
    assert not patch[:, :5, :6].any()
    assert (patch[:, 5:] == 1).all()
    assert (patch[:, :, 6:] == 1).all()


def test_cells_are_read_in_the_order_they_are_asked_for():
    images = torch.rand(3, 3, 24, 24)
    pyramid = TensorPyramidBatch(images, ("100X",), 8)
    patches = pyramid.read(torch.tensor([2, 0, 2]), torch.tensor([8, 5, 0]))
    torch.testing.assert_close(patches[0], images[2, :, 16:, 16:])
    torch.testing.assert_close(patches[1], images[0, :, 8:16, 16:])
    torch.testing.assert_close(patches[2], images[2, :, :8, :8])


def test_nothing_asked_for():
    nothing = torch.zeros(0, dtype=torch.long)
    patches = TensorPyramidBatch(torch.zeros(1, 3, 24, 24, dtype=torch.uint8), (1.0,), 8).read(nothing, nothing)
    assert patches.shape == (0, 3, 8, 8)
    assert patches.dtype == torch.float32
