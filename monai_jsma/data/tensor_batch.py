# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Whole pictures on the device, read as a batch of pyramids: for small pictures and for ``network(image)`` alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from monai_jsma.geometry import Box, Magnification, PatchGeometry, sorted_magnifications
from monai_jsma.slides.resample import area_resample_tensor

__all__ = ["TensorPyramidBatch"]


class TensorPyramidBatch:
    """The same reading interface as :class:`monai_jsma.data.PyramidBatch`, over a tensor of pictures of equal size.

    Args:
        images: ``(batch, 3, height, width)``, ``uint8`` or float in [0, 1].
        magnifications: spacings in um per pixel, or names ("100X").
        patch_size: height and width of a patch, in pixels of its magnification.
        mpp: spacing of the pictures; by default that of the finest magnification.
        aligned: put the patches side by side, see :class:`~monai_jsma.geometry.PatchGeometry`.
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
        self.images = images
        mpp = sorted_magnifications(magnifications)[-1].mpp if mpp is None else mpp
        self.geometry = PatchGeometry((images.shape[2], images.shape[3]), mpp, magnifications, patch_size, aligned)

    @property
    def grids(self) -> list[tuple[tuple[int, int], ...]]:
        """Per picture the rows and columns of every magnification."""
        return [self.geometry.grids] * len(self.images)

    def thumbnail(self, size: tuple[int, int]) -> Tensor:
        """The pictures averaged to ``size`` (height, width): float in [0, 1], ``(batch, 3, height, width)``."""
        return area_resample_tensor(self._float(self.images), Box(0, 0, *self.geometry.size), size)

    def read(self, pictures: Tensor, cells: Tensor) -> Tensor:
        """Patches of ``cells[i]`` of ``pictures[i]``, both ``(n,)``: float in [0, 1] ``(n, 3, patch, patch)``."""
        patches = [self._patch(picture, cell) for picture, cell in zip(pictures.tolist(), cells.tolist())]
        size = self.geometry.patch_size
        return torch.stack(patches) if patches else self.images.new_zeros((0, 3, size, size), dtype=torch.float32)

    def _patch(self, picture: int, cell: int) -> Tensor:
        g = self.geometry
        level, box = g.patch(cell)
        height, width = g.level_sizes[level]
        inside = int(min(g.patch_size, height - box.row)), int(min(g.patch_size, width - box.col))
        down, right = g.size[0] / height, g.size[1] / width
        top, left = int(box.row * down), int(box.col * right)
        bottom, end = -int(-(box.row + inside[0]) * down // 1), -int(-(box.col + inside[1]) * right // 1)
        window = self._float(self.images[picture, :, top:bottom, left:end])
        region = Box(box.row * down - top, box.col * right - left, inside[0] * down, inside[1] * right)
        patch = area_resample_tensor(window, region, inside)
        pad = (0, g.patch_size - inside[1], 0, g.patch_size - inside[0])
        return torch.nn.functional.pad(patch, pad, value=1.0)

    @staticmethod
    def _float(images: Tensor) -> Tensor:
        return images.float() / 255 if images.dtype == torch.uint8 else images.float()
