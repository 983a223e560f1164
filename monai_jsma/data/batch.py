# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The pyramids of a batch, from which a network reads patches of several pictures at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data._utils.collate import default_collate_fn_map

from monai_jsma._io import count_cores
from monai_jsma.data.prediction_dataset import PatchError
from monai_jsma.data.pyramid import Pyramid, empty_patches
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.readers import ArrayReader

__all__ = ["PyramidBatch"]


class PyramidBatch(list[Pyramid]):
    """The pyramids of a batch. PyTorch's and MONAI's collate functions make one out of single pyramids."""

    @property
    def grids(self) -> list[tuple[tuple[int, int], ...]]:
        """Per picture the rows and columns of every magnification."""
        return [pyramid.geometry.grids for pyramid in self]

    def read(self, pictures: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
        """Patches of ``cells[i]`` of picture ``pictures[i]``, both ``(n,)``: ``uint8`` ``(n, 3, patch, patch)``.

        Raises:
            PatchError: when some cannot be read; it tells of which pictures.
        """
        patches = empty_patches(len(cells), self[0].geometry.patch_size)
        jobs = pictures.tolist(), patches, cells.tolist()
        in_threads = len(cells) > 1 and not all(isinstance(p.reader, ArrayReader) for p in self)
        faults = (_threads(os.getpid()).map if in_threads else map)(self._read_into, *jobs)
        errors: dict[int, Exception] = {}
        for picture, fault in zip(jobs[0], faults):
            if fault is not None:
                errors.setdefault(picture, fault)
        if errors:
            raise PatchError(errors)
        return torch.from_numpy(patches)

    @property
    def keys(self) -> list[bytes | None]:
        """Per picture what tells its patches from any other's, see :attr:`Pyramid.key`."""
        return [pyramid.key for pyramid in self]

    def _read_into(self, picture: int, patch: np.ndarray, cell: int) -> Exception | None:
        try:
            self[picture].read_into(patch, cell)
        except (SlideError, OSError, ValueError) as error:
            return error
        return None


@lru_cache(maxsize=1)
def _threads(process: int) -> ThreadPoolExecutor:
    """Threads for all reading of this process, since decoding releases the interpreter lock: one for each core.

    ``process`` is the key, so that a forked child starts its own.
    """
    return ThreadPoolExecutor(count_cores(), "read patches")


def _collate_pyramids(batch: Sequence[Pyramid], *, collate_fn_map: dict | None = None) -> PyramidBatch:
    return PyramidBatch(batch)


default_collate_fn_map[Pyramid] = _collate_pyramids  # PyTorch's own extension point; MONAI registers MetaTensor so
