# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A picture at many magnifications, read lazily: a thumbnail, and the patches of the cells that were asked for.

A :class:`Pyramid` joins three things: a reader (pixels of stored levels at integer coordinates), a geometry (where the
patches lie) and a view (orientation, stain). It is immutable: ``oriented`` and ``stained`` return views of the same
file, so thumbnail and patches always agree. Pixels are ``uint8`` RGB, channel first; coordinates are (row, column) at
level 0.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from monai_jsma.data.geometry import Box, Magnification, PatchGeometry, to_mpp
from monai_jsma.data.orientation import orient, oriented_size, stored_cell
from monai_jsma.data.readers import Reader
from monai_jsma.data.resample import area_resample
from monai_jsma.data.stain import StainMap

__all__ = ["Pyramid", "check_fine_enough", "check_region", "empty_patches"]

_BACKGROUND = 255  # a slide's background is white; black padding would look like ink
_BAND_PIXELS = 16_000_000  # pixels decoded at once, so that a thumbnail of a huge level needs little memory
_MAX_PIXELS = 1_000_000_000  # a thumbnail that needs more than this is refused: the file lacks coarse levels
_MAX_UPSAMPLING = 1.05


def check_region(path: str, full: tuple[int, int], origin: Sequence[int], size: Sequence[int]) -> None:
    """Check that a region lies inside its picture.

    Args:
        path: the file, for the message.
        full: height and width of the picture.
        origin: row and column of the region's top-left corner, in level-0 pixels.
        size: its height and width, in level-0 pixels.

    Raises:
        ValueError: if it does not.
    """
    if min(origin) < 0 or min(size) < 1 or origin[0] + size[0] > full[0] or origin[1] + size[1] > full[1]:
        raise ValueError(
            f"{path}: the region at (row, column) {tuple(origin)} of (height, width) {tuple(size)} leaves the "
            f"picture of {full}; correct 'location' and 'size' in the datalist (level-0 pixels)."
        )


def check_fine_enough(
    path: str, mpp: float, source: str, finest: float | str | Magnification, max_upsampling: float = _MAX_UPSAMPLING
) -> None:
    """Check that a picture of ``mpp`` um per pixel can serve the magnification ``finest``.

    Raises:
        ValueError: if it is too coarse.
    """
    wanted = Magnification(to_mpp(finest))
    if mpp > wanted.mpp * max_upsampling:
        raise ValueError(
            f"{path}: {wanted} is finer than the file's {mpp:g} um/px ({source}); choose coarser "
            "magnifications, or correct 'mpp' in the datalist."
        )


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
        aligned: put the patches side by side from the region's corner, see :class:`~monai_jsma.data.PatchGeometry`.
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
        max_upsampling: float = _MAX_UPSAMPLING,
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
        """The same picture in one of the eight orientations of :mod:`monai_jsma.data.orientation`, from as stored."""
        return self._view(orientation=orientation)

    def stained(self, stain: StainMap | None) -> Pyramid:
        """The same picture with its stains changed."""
        return self._view(stain=stain)

    def _view(self, **changes: Any) -> Pyramid:
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view.__dict__.pop("geometry", None)
        view.__dict__.update(changes)
        return view

    @property
    def key(self) -> bytes | None:
        """16 bytes that tell the patches of this view, cell by cell, from those of any other; None if nothing can.

        So it is without an ``identity``, and where the stain was changed: those views are drawn, and never come again.
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
            pixels = self._resampled(region, stored_size, exact=False)
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
            pixels = self._resampled(self._in_file(region), inside, exact=True)
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
            level, down, right = self._source_level(size[0] / height, size[1] / width, exact=True)
            box = np.array([self.origin[0] / down, self.origin[1] / right, size[0] / down, size[1] / right])
            row, col, *whole = np.rint(box).astype(int).tolist()
            found = whole == [height, width] and np.abs(box - box.round()).max() < 1e-6
            same.append((level, row, col) if found else None)
        return same

    def _seen(self, pixels: np.ndarray) -> np.ndarray:
        """Stored pixels as this view has them, channel first: a view of ``pixels`` where no stain is changed."""
        return orient(pixels if self.stain is None else self.stain(pixels), self.orientation).transpose(2, 0, 1)

    def _resampled(self, region: Box, size: tuple[int, int], *, exact: bool) -> np.ndarray:
        """Level-0 ``region`` averaged to ``size``, from the coarsest stored level that is fine enough, band by band."""
        level, down, right = self._source_level(region.height / size[0], region.width / size[1], exact=exact)
        top, left = region.row / down, region.col / right
        height, width = region.height / down, region.width / right
        if height * width > _MAX_PIXELS:
            raise ValueError(
                f"{self.path}: {size[0]} x {size[1]} pixels of this region would be averaged from {height * width:.2g} "
                "pixels of the coarsest level that will do; convert the file to a tiled pyramid with coarser levels."
            )
        bands = min(size[0], math.ceil(height * width / _BAND_PIXELS))
        edges = [size[0] * i // bands for i in range(bands + 1)]
        scale = height / size[0]
        parts = [
            self._averaged(level, Box(top + a * scale, left, (b - a) * scale, width), (b - a, size[1]))
            for a, b in zip(edges, edges[1:])
        ]
        return parts[0] if bands == 1 else np.concatenate(parts)

    def _averaged(self, level: int, box: Box, size: tuple[int, int]) -> np.ndarray:
        full = self.reader.level_sizes[level]
        # 1e-6 pixels: rounding of the arithmetic must not fetch another row of pixels, and with it another tile.
        row, col = max(math.floor(box.row + 1e-6), 0), max(math.floor(box.col + 1e-6), 0)
        end_row = min(math.ceil(box.row + box.height - 1e-6), full[0])
        end_col = min(math.ceil(box.col + box.width - 1e-6), full[1])
        pixels = self.reader.read(level, row, col, end_row - row, end_col - col)
        top, left = max(box.row - row, 0.0), max(box.col - col, 0.0)
        height, width = min(box.height, pixels.shape[0] - top), min(box.width, pixels.shape[1] - left)
        return area_resample(pixels, Box(top, left, height, width), size)

    def _source_level(self, row_scale: float, col_scale: float, *, exact: bool) -> tuple[int, float, float]:
        """Level to read for ``scale`` level-0 pixels an output pixel, and the level's own scales (rows, columns)."""
        full = self.reader.level_sizes[0]
        scales = [(full[0] / h, full[1] / w) for h, w in self.reader.level_sizes]
        fine_enough = [
            level
            for level, (down, right) in enumerate(scales)
            if down <= 1.01 * row_scale and right <= 1.01 * col_scale and (self.reader.exact[level] or not exact)
        ]
        level = max(fine_enough, default=0, key=lambda i: scales[i])
        return level, *scales[level]


def empty_patches(number: int, size: int) -> np.ndarray:
    """Room for ``number`` patches: ``uint8`` ``(number, 3, size, size)``, in memory channel last as files have it."""
    return np.empty((number, size, size, 3), np.uint8).transpose(0, 3, 1, 2)
