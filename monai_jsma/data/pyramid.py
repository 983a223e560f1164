# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""An image at many magnifications, read lazily: a thumbnail, and the patches of the cells that are asked for.

A :class:`Pyramid` joins three things: a reader (pixels of stored levels at integer coordinates), a geometry (where the
patches lie) and a view (region, orientation, stain). It is immutable: ``cropped``, ``oriented`` and ``stained`` return
views of the same file, so thumbnail and patches always agree. Pixels are ``uint8`` RGB, channel first; coordinates are
(row, column) at level 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from monai_jsma.data.stain import StainMap, StainNormalization
from monai_jsma.geometry import (
    MAX_UPSAMPLING,
    Box,
    GridCell,
    Magnification,
    PatchGeometry,
    check_fine_enough,
    check_region,
    is_inside,
    orient,
    oriented_size,
    stored_cell,
)
from monai_jsma.slides.base import Reader
from monai_jsma.slides.resample import find_source_level, read_averaged
from monai_jsma.zoom_geometry import RegionGrid, TissueMap, find_patch_spans, make_region_grid

__all__ = ["Pyramid", "empty_patches"]

_BACKGROUND = 255  # the background of a slide is white; black padding would look like ink
_WHOLE_PIXEL = 1e-6  # a position this close to a whole pixel is meant to be one


class _LevelOrigin(NamedTuple):
    """A stored level that has exactly the pixels of a magnification, and where the region begins in it."""

    level: int
    row: int
    col: int


class Pyramid:
    """One image, slide or region of a slide, at every magnification.

    Args:
        reader: reader of the stored levels.
        mpp: spacing of level 0, in um per pixel.
        magnifications: spacings to offer, in um per pixel, or names ("100X").
        patch_size: height and width of a patch, in pixels of its magnification.
        path: path of the file, for messages and records.
        mpp_source: where ``mpp`` came from.
        origin: row and column of the region's top-left corner in the file's level 0.
        size: height and width of the region in level-0 pixels; by default all that lies right of and below ``origin``.
        max_upsampling: how much finer than level 0 a magnification may be before it is refused.
        aligned: put the patches side by side from the region's corner, see :class:`~monai_jsma.geometry.PatchGeometry`.
        identity: text that differs for every other content of the file; without it the pyramid has no ``key``.

    Raises:
        ValueError: if the region leaves the file, or a magnification is finer than the file.
    """

    # MONAI's decollate_batch takes apart whatever is no tensor, string or number; what has no dimension is left whole.
    ndim = 0

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
        full_size = reader.level_sizes[0]
        row, col = origin
        if size is None:
            size = (full_size[0] - row, full_size[1] - col)
        check_region(full_size, origin, size, path=path)
        self.reader = reader
        self.path = str(path)
        self.mpp_source = mpp_source
        self.identity = identity
        self.origin = (int(row), int(col))
        self.orientation = 0
        self.stain: StainMap | None = None
        self.normalization: StainNormalization | None = None
        self.tissue: TissueMap | None = None
        self._stored = PatchGeometry(size, mpp, magnifications, patch_size, aligned)
        # Thumbnails as stored, shared by all views; one size at a time.
        self._thumbnails: dict[tuple[int, int], np.ndarray] = {}
        finest = self._stored.spacings[-1]
        check_fine_enough(mpp, finest, path=path, mpp_source=mpp_source, max_upsampling=max_upsampling)

    # ------------------------------------------------------------------------------------------------------- views

    def oriented(self, orientation: int) -> Pyramid:
        """The same image in one of the eight orientations of :mod:`monai_jsma.geometry`, counted from as stored."""
        return self._view(orientation=orientation)

    def stained(self, stain: StainMap | None) -> Pyramid:
        """The same image with its stains changed."""
        return self._view(stain=stain)

    def normalized(self, normalization: StainNormalization | None) -> Pyramid:
        """The same image with its stains taken to those of a reference; other changes of them come after it."""
        return self._view(normalization=normalization)

    def cropped(self, origin: tuple[int, int], size: tuple[int, int]) -> Pyramid:
        """A part of the image, in the same orientation and stain.

        Args:
            origin: row and column of the part's top-left corner in the image as stored, in level-0 pixels.
            size: height and width of the part as stored, in level-0 pixels.

        Raises:
            ValueError: if the part leaves the image.
        """
        if not is_inside(self._stored.size, origin, size):
            raise ValueError(f"{self.path}: a crop at {origin} of {size} leaves the image of {self._stored.size}.")
        row, col = self.origin
        in_file = (row + int(origin[0]), col + int(origin[1]))
        geometry = _resize(self._stored, (int(size[0]), int(size[1])))
        return self._view(origin=in_file, _stored=geometry, identity="", _thumbnails={})

    def with_tissue(self, tissue: TissueMap | None) -> Pyramid:
        """The same image, of which it is known where its tissue lies."""
        return self._view(tissue=tissue)

    def region(self, index: int, region_size: int) -> Pyramid:
        """A region of the image, in the same orientation and stain.

        It is a fixed part of the file: it keeps its identity, and its :attr:`key` is that of the same region opened by
        its location and size.

        Args:
            index: number of the region in :meth:`region_grid`, row by row.
            region_size: height and width of a region, in pixels of the finest magnification.

        Raises:
            IndexError: if there is no such region.
        """
        rows, cols = self.region_grid(region_size)
        if not 0 <= index < rows * cols:
            raise IndexError(f"{self.path}: region {index} is outside the {rows} x {cols} regions.")
        seen = GridCell(0, *divmod(index, cols))
        stored = stored_cell(seen, (rows, cols), self.orientation)
        row, col, height, width = self._stored_regions(region_size).box(stored.row, stored.col)
        top, left = self.origin
        in_file = (top + int(row), left + int(col))
        geometry = _resize(self._stored, (int(height), int(width)))
        return self._view(origin=in_file, _stored=geometry, _thumbnails={})

    def _view(self, **changes: Any) -> Pyramid:
        """A copy with other attributes; what was computed from the old ones is computed again."""
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        for name in ("geometry", "_level_origins"):
            view.__dict__.pop(name, None)
        view.__dict__.update(changes)
        return view

    @property
    def key(self) -> bytes | None:
        """16 bytes that distinguish the patches of this view, cell by cell, from those of any other view.

        None without an ``identity``, and for views that were cropped or stained: they are random and never come again.
        """
        if not self.identity or self.stain is not None:
            return None
        view: tuple[object, ...] = (
            self.identity,
            type(self.reader).__name__,
            self.origin,
            self._stored,
            self.orientation,
        )
        if self.normalization is not None:
            view = (*view, self.normalization)
        return hashlib.blake2b(repr(view).encode(), digest_size=16).digest()

    def item(self) -> Pyramid:
        """The pyramid itself, as MONAI's ``decollate_batch`` asks for it."""
        return self

    def __deepcopy__(self, memo: dict) -> Pyramid:
        return self  # immutable: MONAI's CacheDataset deep-copies its items, which would copy the pixels

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_thumbnails": {}}

    @property
    def bounds(self) -> Box | None:
        """The scanned part of the file's canvas (:mod:`monai_jsma.slides.frame`) at level 0; None if it is all."""
        return self.reader.bounds

    @property
    def mpp(self) -> float:
        """Micrometers per pixel of level 0."""
        return self._stored.mpp

    @property
    def stored_geometry(self) -> PatchGeometry:
        """Grids and cells of the image as stored, whatever its orientation."""
        return self._stored

    @cached_property
    def geometry(self) -> PatchGeometry:
        """Grids and cells of the image as it is oriented now."""
        return _resize(self._stored, oriented_size(self._stored.size, self.orientation))

    # ------------------------------------------------------------------------------------------------- coordinates

    def stored_index(self, cell: int) -> int:
        """The flat index, in the image as stored, of a cell of the image as it is oriented now."""
        if self.orientation == 0:
            return cell
        oriented = self.geometry.cell(cell)
        grid = self.geometry.grids[oriented.level]
        return self._stored.index(stored_cell(oriented, grid, self.orientation))

    def box(self, cell: int) -> Box:
        """The patch of a cell in level-0 pixels of the file, whatever the orientation and region."""
        return self._in_file(self._stored.box(self.stored_index(cell)))

    def cell_box(self, cell: int) -> Box:
        """The cell itself in level-0 pixels of the file."""
        return self._in_file(self._stored.cell_box(self.stored_index(cell)))

    def _in_file(self, box: Box) -> Box:
        row, col = self.origin
        return Box(box.row + row, box.col + col, box.height, box.width)

    # ------------------------------------------------------------------------------------------------------ regions

    def region_grid(self, region_size: int) -> tuple[int, int]:
        """Rows and columns of the regions that cover the image as it is oriented now.

        Args:
            region_size: height and width of a region, in pixels of the finest magnification.
        """
        grid = self._stored_regions(region_size).grid
        return oriented_size(grid, self.orientation)

    def tissue_shares(self, region_size: int) -> np.ndarray:
        """Share of tissue of each region, row by row: float64 ``(regions,)``; 1 where nothing is known of tissue.

        Args:
            region_size: height and width of a region, in pixels of the finest magnification.
        """
        regions = self._stored_regions(region_size)
        if self.tissue is None:
            return np.ones(len(regions.boxes))
        top, left = self.origin
        rows = [(top + row, height) for row, height in regions.rows]
        cols = [(left + col, width) for col, width in regions.cols]
        shares = self.tissue.measure(rows, cols)
        return orient(shares, self.orientation).ravel()

    def tissue_cells(self) -> np.ndarray:
        """Whether the patch of each cell holds tissue: bool ``(cells,)``; True where nothing is known of tissue."""
        if self.tissue is None:
            return np.ones(self.geometry.num_cells, bool)
        top, left = self.origin
        held = []
        for level in range(len(self._stored.grids)):
            rows, cols = find_patch_spans(self._stored, level)
            in_file_rows = [(top + row, height) for row, height in rows]
            in_file_cols = [(left + col, width) for col, width in cols]
            shares = self.tissue.measure(in_file_rows, in_file_cols)
            held.append(orient(shares > 0, self.orientation).ravel())
        return np.concatenate(held)

    def as_regions(self, region_size: int) -> Pyramid:
        """The same image at one coarse magnification, of which each patch is a region.

        Args:
            region_size: height and width of a region, in pixels of the finest magnification.
        """
        return self._view(_stored=self._stored_regions(region_size).patches)

    def _stored_regions(self, region_size: int) -> RegionGrid:
        return make_region_grid(self._stored, region_size)

    # ------------------------------------------------------------------------------------------------------ pixels

    def thumbnail(self, size: tuple[int, int], *, keep: bool = True) -> np.ndarray:
        """The whole image averaged down to ``size``: ``uint8`` of shape ``(3, height, width)``.

        Args:
            size: height and width of the thumbnail in pixels.
            keep: whether it is kept in memory, in place of one of another size, for the next call. A picture for people
                is read once, and must not take the place of the network's thumbnail.
        """
        stored_size = oriented_size(size, self.orientation)
        pixels = self._thumbnails.get(stored_size)
        if pixels is None:
            region = self._in_file(Box(0, 0, *self._stored.size))
            pixels = read_averaged(self.reader, region, stored_size, exact=False, path=self.path)
            if keep:
                self._thumbnails.clear()
                self._thumbnails[stored_size] = pixels
        return self._as_seen(pixels).copy()

    def read(self, cells: Iterable[int]) -> np.ndarray:
        """The patches of ``cells`` (flat indices): ``uint8`` of shape ``(len(cells), 3, patch_size, patch_size)``.

        Only what these cells need is decoded. Beyond the edge of an image smaller than a patch the pixels are white.
        """
        cells = list(cells)
        patches = empty_patches(len(cells), self._stored.patch_size)
        for patch, cell in zip(patches, cells):
            self.read_into(patch, cell)
        return patches

    def read_into(self, patch: np.ndarray, cell: int) -> None:
        """Write the patch of one cell into ``patch``, ``uint8`` of shape ``(3, patch_size, patch_size)``."""
        pixels = self._read_stored(self.stored_index(int(cell)))
        patch[...] = self._as_seen(pixels)  # the only copy: it takes as long as everything else

    def _read_stored(self, index: int) -> np.ndarray:
        """The patch of a cell of the image as stored, ``(patch_size, patch_size, 3)``."""
        geometry = self._stored
        level, box = geometry.patch(index)
        height, width = geometry.level_sizes[level]
        rows = int(min(box.height, height - box.row))
        cols = int(min(box.width, width - box.col))

        origin = self._level_origins[level]
        if origin is not None:
            row = origin.row + int(box.row)
            col = origin.col + int(box.col)
            pixels = self.reader.read(origin.level, (row, col), (rows, cols))
        else:
            region = self._in_file(geometry.to_level_0(Box(box.row, box.col, rows, cols), level))
            pixels = read_averaged(self.reader, region, (rows, cols), exact=True, path=self.path)
        return _pad_white(pixels, geometry.patch_size)

    @cached_property
    def _level_origins(self) -> list[_LevelOrigin | None]:
        """For each magnification the stored level that has its pixels; None where they must be averaged."""
        return [self._find_level_origin(size) for size in self._stored.level_sizes]

    def _find_level_origin(self, level_size: tuple[int, int]) -> _LevelOrigin | None:
        height, width = self._stored.size
        level, down, right = find_source_level(self.reader, height / level_size[0], width / level_size[1], exact=True)
        whole = []
        for position in (self.origin[0] / down, self.origin[1] / right, height / down, width / right):
            nearest = round(position)
            if abs(position - nearest) >= _WHOLE_PIXEL:
                return None
            whole.append(nearest)
        row, col, rows, cols = whole
        if (rows, cols) != level_size:
            return None
        return _LevelOrigin(level, row, col)

    def _as_seen(self, pixels: np.ndarray) -> np.ndarray:
        """Stored pixels as this view shows them, channel first; a view of ``pixels`` where no stain is changed."""
        if self.normalization is not None:
            pixels = self.normalization(pixels)
        if self.stain is not None:
            pixels = self.stain(pixels)
        return orient(pixels, self.orientation).transpose(2, 0, 1)


@lru_cache(maxsize=256)
def _resize(geometry: PatchGeometry, size: tuple[int, int]) -> PatchGeometry:
    """The geometry of an image of another size; regions of a slide, nearly all of one size, share what it computes."""
    return replace(geometry, size=size)


def _pad_white(pixels: np.ndarray, patch_size: int) -> np.ndarray:
    """Pixels ``(height, width, 3)`` with white below and beside them where they are smaller than a patch."""
    height, width, _ = pixels.shape
    if height == patch_size and width == patch_size:
        return pixels
    padding = ((0, patch_size - height), (0, patch_size - width), (0, 0))
    return np.pad(pixels, padding, constant_values=_BACKGROUND)


def empty_patches(number: int, size: int) -> np.ndarray:
    """Memory for ``number`` patches: ``uint8`` ``(number, 3, size, size)``, stored channel last as files have it."""
    return np.empty((number, size, size, 3), np.uint8).transpose(0, 3, 1, 2)
