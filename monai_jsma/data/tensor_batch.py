# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Whole images on the device, read as a batch of pyramids: for small images, and for ``network(image)`` alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from monai_jsma.data.pyramid import Pyramid
from monai_jsma.geometry import Box, Magnification, PatchGeometry, sorted_magnifications
from monai_jsma.slides.base import ArrayReader
from monai_jsma.slides.resample import area_resample_tensor
from monai_jsma.zoom_geometry import make_region_grid

__all__ = ["TensorPyramidBatch", "check_images", "round_to_uint8"]

_TOLERANCE = 0.1  # by which an interpolated float image may leave [0, 1]


class TensorPyramidBatch:
    """The same reading interface as :class:`monai_jsma.data.PyramidBatch`, over a tensor of images of equal size.

    Args:
        images: ``(batch, 3, height, width)``, ``uint8`` or float in [0, 1].
        magnifications: spacings in um per pixel, or names ("100X").
        patch_size: height and width of a patch, in pixels of its magnification.
        mpp: spacing of the images in um per pixel; by default that of the finest magnification.
        aligned: put the patches side by side, see :class:`~monai_jsma.geometry.PatchGeometry`.

    Raises:
        ValueError: if the images are neither ``uint8`` nor floats in [0, 1].
    """

    def __init__(
        self,
        images: Tensor,
        magnifications: Sequence[float | str | Magnification],
        patch_size: int,
        *,
        mpp: float | None = None,
        aligned: bool = False,
    ) -> None:
        check_images(images)
        finest = sorted_magnifications(magnifications)[-1]
        height, width = images.shape[2:]
        self.images = images
        self.geometry = PatchGeometry(
            (height, width), finest.mpp if mpp is None else mpp, magnifications, patch_size, aligned
        )

        self.mpp_source = "the finest magnification" if mpp is None else "given"

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Pyramid]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Pyramid:
        """The pyramid of one image, in the memory of the CPU: so that MONAI can take the batch apart."""
        pixels = round_to_uint8(self.images[number]).cpu().numpy().transpose(1, 2, 0)
        return Pyramid(
            ArrayReader(np.ascontiguousarray(pixels)),
            mpp=self.geometry.mpp,
            magnifications=self.geometry.magnifications,
            patch_size=self.geometry.patch_size,
            mpp_source=self.mpp_source,
            max_upsampling=math.inf,
            aligned=self.geometry.aligned,
        )

    @property
    def grids(self) -> list[tuple[tuple[int, int], ...]]:
        """For each image the rows and columns of every magnification."""
        return [self.geometry.grids] * len(self.images)

    def thumbnail(self, size: tuple[int, int]) -> Tensor:
        """The images averaged to ``size`` (height, width): float in [0, 1], ``(batch, 3, height, width)``."""
        whole = Box(0, 0, *self.geometry.size)
        return area_resample_tensor(_to_float(self.images), whole, size)

    def thumbnails(self, size: tuple[int, int]) -> Tensor:
        """As :meth:`thumbnail`, by the name that :class:`monai_jsma.data.PyramidBatch` has for it."""
        return self.thumbnail(size)

    def region_grids(self, region_size: int) -> list[tuple[int, int]]:
        """For each image the rows and columns of its regions, see :meth:`monai_jsma.data.Pyramid.region_grid`."""
        grid = make_region_grid(self.geometry, region_size).grid
        return [grid] * len(self.images)

    def tissue_shares(self, region_size: int) -> list[np.ndarray]:
        """For each image the share of tissue of its regions: 1, as nothing is known of it."""
        num_regions = len(make_region_grid(self.geometry, region_size).boxes)
        return [np.ones(num_regions)] * len(self.images)

    def regions(self, images: Sequence[int], regions: Sequence[int], region_size: int) -> TensorPyramidBatch:
        """Regions of a batch as a batch of their own, see :meth:`monai_jsma.data.PyramidBatch.regions`."""
        grid = make_region_grid(self.geometry, region_size)
        height, width = grid.boxes[0][2:]
        size = (int(height), int(width))
        parts = []
        for image, region in zip(images, regions):
            top, left, _, _ = grid.boxes[region]
            rows = slice(int(top), int(top) + size[0])
            cols = slice(int(left), int(left) + size[1])
            parts.append(self.images[image, :, rows, cols])
        batch = copy(self)
        batch.images = torch.stack(parts) if parts else self.images.new_zeros((0, 3, *size))
        batch.geometry = replace(self.geometry, size=size)
        return batch

    def extend(self, other: TensorPyramidBatch) -> None:
        """Add the images of another batch, of the same size."""
        self.images = torch.cat((self.images, other.images))

    def read(self, images: Tensor, cells: Tensor) -> Tensor:
        """Patches of ``cells[i]`` of image ``images[i]``, both ``(n,)``: float in [0, 1] ``(n, 3, patch, patch)``."""
        patch_size = self.geometry.patch_size
        if len(cells) == 0:
            return self.images.new_zeros((0, 3, patch_size, patch_size), dtype=torch.float32)
        patches = [self._read_patch(number, cell) for number, cell in zip(images.tolist(), cells.tolist())]
        return torch.stack(patches)

    def _read_patch(self, number: int, cell: int) -> Tensor:
        geometry = self.geometry
        level, box = geometry.patch(cell)
        height, width = geometry.level_sizes[level]
        rows = int(min(box.height, height - box.row))
        cols = int(min(box.width, width - box.col))

        # Only the pixels under the patch are converted and averaged.
        region = geometry.to_level_0(Box(box.row, box.col, rows, cols), level)
        top = math.floor(region.row)
        left = math.floor(region.col)
        bottom = math.ceil(region.bottom)
        right = math.ceil(region.right)
        window = _to_float(self.images[number, :, top:bottom, left:right])
        in_window = Box(region.row - top, region.col - left, region.height, region.width)
        patch = area_resample_tensor(window, in_window, (rows, cols))

        # White below and beside an image that is smaller than a patch.
        padding = (0, geometry.patch_size - cols, 0, geometry.patch_size - rows)
        return torch.nn.functional.pad(patch, padding, value=1.0)


def check_images(images: Tensor) -> None:
    """Check that images are a batch of RGB, or of gray that is repeated, ``uint8`` or floats in [0, 1].

    Raises:
        TypeError: if they are no tensor.
        ValueError: if they have another shape or other numbers.
    """
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images are a tensor (batch, 3, height, width), but this is a {type(images).__name__}; torch.as_tensor "
            "makes one of an array."
        )
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(
            f"images have the shape (batch, 3, height, width), but these have {tuple(images.shape)}: "
            f"{_find_way_out(images)}."
        )
    if images.dtype != torch.uint8:
        check_pixel_range(images)


def _find_way_out(images: Tensor) -> str:
    """What to do about images of another shape."""
    if images.ndim == 3:
        return "make a batch of a single image (image[None])"
    if images.ndim == 4 and images.shape[3] in (1, 3):
        return "put the colors first (images.permute(0, 3, 1, 2))"
    if images.ndim == 4 and images.shape[1] == 4:
        return "lay RGBA on white, or leave alpha out (images[:, :3])"
    return "give red, green and blue"


def check_pixel_range(images: Tensor) -> None:
    """Check that images that are not ``uint8`` are floats in [0, 1], nearly: interpolation may overshoot.

    Raises:
        ValueError: if they are not: images of 0..255, or normalized before, would be taken for others.
    """
    if not images.is_floating_point():
        raise ValueError(f"images of {images.dtype}: give uint8, or floats in [0, 1] (divide by the largest value).")
    if not images.numel() or images.is_meta:  # a tensor on the meta device has a shape and no numbers
        return
    extremes = images.detach().aminmax()
    low = float(extremes.min)
    high = float(extremes.max)
    if math.isinf(low) or math.isinf(high):
        return  # the network names the image that holds them
    if low < -_TOLERANCE:
        raise ValueError(
            f"float images must be in [0, 1], but these begin at {low:.4g}: leave out the normalization by mean and "
            "standard deviation, which the network does itself."
        )
    if high > 1 + _TOLERANCE:
        raise ValueError(
            f"float images must be in [0, 1], but these reach {high:.4g}: divide images of 0..255 by 255 (MONAI's "
            "ScaleIntensityRange), or give them as uint8."
        )


def round_to_uint8(images: Tensor) -> Tensor:
    """Images as ``uint8``, of any shape: ``uint8`` as it is, floats in [0, 1] times 255.

    Raises:
        ValueError: if they are neither.
    """
    if isinstance(images, MetaTensor):
        images = images.as_tensor()
    if images.dtype == torch.uint8:
        return images
    check_pixel_range(images)
    return (images.detach().float() * 255).round().clamp(0, 255).to(torch.uint8)


def _to_float(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        return images.float() / 255
    return images.float()
