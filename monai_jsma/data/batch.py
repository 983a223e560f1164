# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The pyramids of a batch, from which a network reads patches of several images at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data._utils.collate import default_collate_fn_map

from monai_jsma._io import count_cores
from monai_jsma.data.prediction_dataset import PatchError
from monai_jsma.data.pyramid import Pyramid, empty_patches
from monai_jsma.slides.base import ArrayReader
from monai_jsma.slides.errors import SlideError

__all__ = ["PyramidBatch", "reading_threads"]


class PyramidBatch(list[Pyramid]):
    """The pyramids of a batch. PyTorch's and MONAI's collate functions make one of single pyramids."""

    @property
    def grids(self) -> list[tuple[tuple[int, int], ...]]:
        """For each image the rows and columns of every magnification."""
        return [pyramid.geometry.grids for pyramid in self]

    @property
    def keys(self) -> list[bytes | None]:
        """For each image the bytes that distinguish its patches from all others, see :attr:`Pyramid.key`."""
        return [pyramid.key for pyramid in self]

    def read(self, images: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """Patches of a batch, read in parallel where they come from files.

        Args:
            images: number of the image in the batch, for each patch ``(n,)``.
            cells: flat index of the cell, for each patch ``(n,)``.

        Returns:
            ``uint8`` patches ``(n, 3, patch_size, patch_size)``; of a batch without images ``(0, 3, 0, 0)``.

        Raises:
            PatchError: when some patches cannot be read; it has the first error of each image.
        """
        if not self:
            return torch.zeros(0, 3, 0, 0, dtype=torch.uint8)
        patches = empty_patches(len(cells), self[0].geometry.patch_size)
        jobs = list(zip(images.tolist(), patches, cells.tolist()))
        self._read_all(self._read_into, jobs)
        return torch.from_numpy(patches)

    def thumbnails(self, size: tuple[int, int]) -> torch.Tensor:
        """Thumbnails of all images, read in parallel where they come from files.

        Args:
            size: height and width of a thumbnail.

        Returns:
            ``uint8`` ``(images, 3, height, width)``.

        Raises:
            PatchError: when some cannot be read; it has the error of each image.
        """
        height, width = size
        thumbnails = np.empty((len(self), 3, height, width), np.uint8)
        jobs = list(enumerate(thumbnails))
        self._read_all(self._read_thumbnail, jobs)
        return torch.from_numpy(thumbnails)

    def region_grids(self, region_size: int) -> list[tuple[int, int]]:
        """For each image the rows and columns of its regions, see :meth:`Pyramid.region_grid`."""
        return [pyramid.region_grid(region_size) for pyramid in self]

    def tissue_shares(self, region_size: int) -> list[np.ndarray]:
        """For each image the share of tissue of its regions, see :meth:`Pyramid.tissue_shares`."""
        return [pyramid.tissue_shares(region_size) for pyramid in self]

    def tissue_cells(self) -> list[np.ndarray] | None:
        """For each image which cells hold tissue, see :meth:`Pyramid.tissue_cells`; None if it is known of none."""
        if all(pyramid.tissue is None for pyramid in self):
            return None
        return [pyramid.tissue_cells() for pyramid in self]

    def regions(self, images: Sequence[int], regions: Sequence[int], region_size: int) -> PyramidBatch:
        """Regions of a batch as a batch of their own; no pixel is read.

        Args:
            images: number of the image in the batch, for each region.
            regions: number of the region in its image, row by row.
            region_size: height and width of a region, in pixels of the finest magnification.
        """
        return PyramidBatch(self[image].region(region, region_size) for image, region in zip(images, regions))

    def _read_all(self, read: Callable[..., Exception | None], jobs: Sequence[tuple]) -> None:
        """Call ``read`` for each job, which begins with the number of its image, in threads where that helps.

        Raises:
            PatchError: when some jobs fail; it has the first error of each image.
        """
        # Slices of memory are not worth a thread, nor is a single job.
        in_memory = all(isinstance(pyramid.reader, ArrayReader) for pyramid in self)
        arguments = zip(*jobs)
        results: Iterable[Exception | None]
        if in_memory or len(jobs) <= 1:
            results = map(read, *arguments) if jobs else ()
        else:
            results = reading_threads(os.getpid()).map(read, *arguments)

        errors: dict[int, Exception] = {}
        for job, error in zip(jobs, results):
            if error is not None:
                errors.setdefault(job[0], error)
        if errors:
            raise PatchError(errors)

    def _read_into(self, number: int, patch: np.ndarray, cell: int) -> Exception | None:
        """Read one patch; an error is returned, so that the other images of the batch are still read."""
        try:
            self[number].read_into(patch, cell)
        except (SlideError, OSError, ValueError) as error:
            return error
        return None

    def _read_thumbnail(self, number: int, thumbnail: np.ndarray) -> Exception | None:
        """Read one thumbnail; an error is returned."""
        height, width = thumbnail.shape[1:]
        try:
            thumbnail[...] = self[number].thumbnail((height, width))
        except (SlideError, OSError, ValueError) as error:
            return error
        return None


@lru_cache(maxsize=1)
def reading_threads(process: int) -> ThreadPoolExecutor:
    """Threads for all reading of this process, one for each core: decoding releases the interpreter lock.

    ``process`` is the key of the cache, so that a forked child starts threads of its own.
    """
    return ThreadPoolExecutor(count_cores(), "read patches")


def _collate_pyramids(batch: Sequence[Pyramid], *, collate_fn_map: dict | None = None) -> PyramidBatch:
    return PyramidBatch(batch)


default_collate_fn_map[Pyramid] = _collate_pyramids  # PyTorch's own extension point; MONAI registers MetaTensor so
