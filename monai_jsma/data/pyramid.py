# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A picture at many magnifications, read lazily: a thumbnail, and the patches of the cells that were asked for.

A :class:`Pyramid` joins three things: a reader (pixels of stored levels at integer coordinates), a geometry (where the
patches lie) and a view (part, orientation, stain). It is immutable: ``cropped``, ``oriented`` and ``stained`` return
views of the same file, so thumbnail and patches always agree. Pixels are ``uint8`` RGB, channel first; coordinates are
(row, column) at level 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from monai_jsma.data.stain import StainMap
from monai_jsma.geometry import (
    MAX_UPSAMPLING,
    Box,
    Magnification,
    PatchGeometry,
    check_fine_enough,
    check_region,
    lies_inside,
    orient,
    oriented_size,
    stored_cell,
)
from monai_jsma.slides.levels import read_averaged, source_level
from monai_jsma.slides.readers import Reader

__all__ = ["Pyramid", "empty_patches"]

_BACKGROUND = 255  # a slide's background is white; black padding would look like ink


class Pyramid:
    """One picture, slide or region of a slide, at every magnification.

    Args:
        reader: gives pixels of the stored levels.
        mpp: um per pixel of level 0.
        magnifications: spacings to offer, in um per pixel, or names ("100X").
        patch_size: height and width of a patch, in pixels of its magnification.
        path: the file, for messages and records.
        mpp_source: where ``mpp`` came from.
        origin: row and column of the region's top-left corner in the file's level 0.
        size: height and width of the region in level-0 pixels; by default all that lies right and below of ``origin``.
        max_upsampling: how much finer than level 0 a magnification may be before it is refused.
        aligned: put the patches side by side from the region's corner, see :class:`~monai_jsma.geometry.PatchGeometry`.
        identity: tells the file's content from any other's; without it the pyramid has no ``key``.

    Raises:
        ValueError: if the region leaves the file, or a magnification is finer than the file.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        mpp: float,
        magnifications: Sequence[float | str | Magnification],
        patch_size: int,
        path: str = "",
        mpp_source: str = "given",
        origin: tuple[int, int] = (0, 0),
        size: tuple[int, int] | None = None,
        max_upsampling: float = MAX_UPSAMPLING,
        aligned: bool = False,
        identity: str = "",
    ) -> None:
        full = reader.level_sizes[0]
        size = size or (full[0] - origin[0], full[1] - origin[1])
        check_region(path, full, origin, size)
        self.reader, self.path, self.mpp_source, self.identity = reader, str(path), mpp_source, identity
        self.origin = (int(origin[0]), int(origin[1]))
        self.orientation = 0
        self.stain: StainMap | None = None
        self._stored = PatchGeometry(size, mpp, magnifications, patch_size, aligned)
        self._thumbnails: dict[tuple[int, int], np.ndarray] = {}  # as stored: shared by all views, one size at a time
        check_fine_enough(path, mpp, mpp_source, self._stored.magnifications[-1], max_upsampling)

    # ------------------------------------------------------------------------------------------------------- views

    def oriented(self, orientation: int) -> Pyramid:
        """The same picture in one of the eight orientations of :mod:`monai_jsma.geometry`, from as stored."""
        return self._view(orientation=orientation)

    def stained(self, stain: StainMap | None) -> Pyramid:
        """The same picture with its stains changed."""
        return self._view(stain=stain)

    def cropped(self, origin: tuple[int, int], size: tuple[int, int]) -> Pyramid:
        """A part of the picture, in the same orientation and stain.

        Args:
            origin: row and column of its top-left corner in the picture as stored, in level-0 pixels.
            size: its height and width as stored.

        Raises:
            ValueError: if it leaves the picture.
        """
        if not lies_inside(self._stored.size, origin, size):
            raise ValueError(f"{self.path}: a crop at {origin} of {size} leaves the picture of {self._stored.size}.")
        in_file = self.origin[0] + int(origin[0]), self.origin[1] + int(origin[1])
        view = self._view(_stored=replace(self._stored, size=size), origin=in_file, identity="", _thumbnails={})
        view.__dict__.pop("_same_levels", None)
        return view

    def _view(self, **changes: Any) -> Pyramid:
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view.__dict__.pop("geometry", None)
        view.__dict__.update(changes)
        return view

    @property
    def key(self) -> bytes | None:
        """16 bytes that tell the patches of this view, cell by cell, from those of any other; None if nothing can.

        So it is without an ``identity``, and in views that were cropped or stained: those are drawn, and never come
        again.
        """
        if not self.identity or self.stain is not None:
            return None
        view = (self.identity, type(self.reader).__name__, self.origin, self._stored, self.orientation)
        return hashlib.blake2b(repr(view).encode(), digest_size=16).digest()

    # MONAI's decollate_batch takes apart whatever is no tensor, string or number; what has no dimension is left whole.
    ndim = 0

    def item(self) -> Pyramid:
        """The pyramid itself."""
        return self

    def __deepcopy__(self, memo: dict) -> Pyramid:
        return self  # immutable: MONAI's CacheDataset deep-copies its items, which would copy the pixels

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_thumbnails": {}}

    @property
    def mpp(self) -> float:
        """Micrometres per pixel of level 0."""
        return self._stored.mpp

    @property
    def stored_geometry(self) -> PatchGeometry:
        """Grids and cells of the picture as stored, whatever its orientation."""
        return self._stored

    @cached_property
    def geometry(self) -> PatchGeometry:
        """Grids and cells of the picture as it is oriented now."""
        return replace(self._stored, size=oriented_size(self._stored.size, self.orientation))

    # ------------------------------------------------------------------------------------------------ coordinates

    def stored_index(self, cell: int) -> int:
        """The flat index, in the picture as stored, of a cell of the picture as it is oriented now."""
        if self.orientation == 0:
            return cell
        there = self.geometry.cell(cell)
        return self._stored.index(stored_cell(there, self.geometry.grids[there.level], self.orientation))

    def box(self, cell: int) -> Box:
        """The patch of a cell in level-0 pixels of the file, whatever the orientation and region."""
        return self._in_file(self._stored.box(self.stored_index(cell)))

    def cell_box(self, cell: int) -> Box:
        """The cell itself in level-0 pixels of the file."""
        return self._in_file(self._stored.cell_box(self.stored_index(cell)))

    def _in_file(self, box: Box) -> Box:
        return Box(box.row + self.origin[0], box.col + self.origin[1], box.height, box.width)

    # ------------------------------------------------------------------------------------------------------ pixels

    def thumbnail(self, size: tuple[int, int]) -> np.ndarray:
        """The whole picture averaged down to ``size`` (height, width): ``uint8`` of shape ``(3, height, width)``."""
        stored_size = oriented_size(size, self.orientation)
        pixels = self._thumbnails.get(stored_size)
        if pixels is None:
            region = self._in_file(Box(0, 0, *self._stored.size))
            pixels = read_averaged(self.reader, region, stored_size, exact=False, path=self.path)
            self._thumbnails.clear()
            self._thumbnails[stored_size] = pixels
        return self._seen(pixels).copy()

    def read(self, cells: Iterable[int]) -> np.ndarray:
        """The patches of ``cells`` (flat indices): ``uint8`` of shape ``(len(cells), 3, patch_size, patch_size)``.

        Only what these cells need is decoded. Beyond the edge of a picture smaller than a patch the pixels are white.
        """
        cells = list(cells)
        patches = empty_patches(len(cells), self._stored.patch_size)
        for patch, cell in zip(patches, cells):
            self.read_into(patch, cell)
        return patches

    def read_into(self, patch: np.ndarray, cell: int) -> None:
        """Write the patch of one cell into ``patch``, ``uint8`` of shape ``(3, patch_size, patch_size)``."""
        patch[...] = self._seen(self._patch(self.stored_index(int(cell))))  # the one copy: it takes as long as the rest

    def _patch(self, index: int) -> np.ndarray:
        g, (level, box) = self._stored, self._stored.patch(index)
        height, width = g.level_sizes[level]
        inside = int(min(g.patch_size, height - box.row)), int(min(g.patch_size, width - box.col))
        if (same := self._same_levels[level]) is not None:
            pixels = self.reader.read(same[0], same[1] + int(box.row), same[2] + int(box.col), *inside)
        else:
            down, right = g.size[0] / height, g.size[1] / width
            region = Box(box.row * down, box.col * right, inside[0] * down, inside[1] * right)
            region = self._in_file(region)
            pixels = read_averaged(self.reader, region, inside, exact=True, path=self.path)
        below, beside = g.patch_size - inside[0], g.patch_size - inside[1]
        return (
            np.pad(pixels, ((0, below), (0, beside), (0, 0)), constant_values=_BACKGROUND) if below + beside else pixels
        )

    @cached_property
    def _same_levels(self) -> list[tuple[int, int, int] | None]:
        """Per magnification the stored level that has its pixels, with the region's first row and column there."""
        same: list[tuple[int, int, int] | None] = []
        for height, width in self._stored.level_sizes:
            size = self._stored.size
            level, down, right = source_level(self.reader, size[0] / height, size[1] / width, exact=True)
            box = np.array([self.origin[0] / down, self.origin[1] / right, size[0] / down, size[1] / right])
            row, col, *whole = np.rint(box).astype(int).tolist()
            found = whole == [height, width] and np.abs(box - box.round()).max() < 1e-6
            same.append((level, row, col) if found else None)
        return same

    def _seen(self, pixels: np.ndarray) -> np.ndarray:
        """Stored pixels as this view has them, channel first: a view of ``pixels`` where no stain is changed."""
        return orient(pixels if self.stain is None else self.stain(pixels), self.orientation).transpose(2, 0, 1)


def empty_patches(number: int, size: int) -> np.ndarray:
    """Room for ``number`` patches: ``uint8`` ``(number, 3, size, size)``, in memory channel last as files have it."""
    return np.empty((number, size, size, 3), np.uint8).transpose(0, 3, 1, 2)
