# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The evidence of a prediction: what a network made of one image, and where it looked.

This is the one form in which predictions are passed on. :func:`~monai_jsma.predictions.collect_evidence` makes it of an
engine's batch, and a saved :class:`~monai_jsma.predictions.PredictionRecord` holds it too
(:attr:`~monai_jsma.predictions.PredictionRecord.evidence`). Records, tables, metrics and figures are made of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from monai_jsma.data.pyramid import Pyramid
from monai_jsma.geometry import Box, PatchGeometry, oriented_size, stored_cell
from monai_jsma.tasks import MULTICLASS, Label, pick_label

__all__ = ["Evidence", "InnerPatch", "SeenRegion"]


@dataclass(frozen=True, kw_only=True)
class InnerPatch:
    """A patch that was read inside a region of a slide.

    Args:
        magnification: name of its magnification, such as ``"100X"``.
        mpp: spacing of its magnification in um per pixel.
        box: the patch in level-0 pixels of the file.
        weight: aggregation weight of its features; of several draws their sum.
    """

    magnification: str
    mpp: float
    box: Box
    weight: float


@dataclass(frozen=True, kw_only=True)
class SeenRegion:
    """A region of a slide that was looked at, and where the network looked in it.

    Args:
        stage: stage of the zoom that it belongs to; 1 for the regions of the slide.
        box: the region in level-0 pixels of the file.
        probability: probability of coming to it, from the slide down.
        magnifications: spacings of its patches in um per pixel, coarse to fine; of an upper stage, whose patches are
            the regions of the next stage, the only one.
        patch_size: height and width of a patch, in pixels of its magnification.
        aligned: whether the patches lie side by side.
        attention: probability of each of its own cells, which are numbered as in the file; together they have 1.
    """

    stage: int
    box: Box
    probability: float
    magnifications: tuple[float, ...]
    patch_size: int
    aligned: bool
    attention: tuple[float, ...]

    def make_geometry(self, mpp: float) -> PatchGeometry:
        """Patch grids of the region, to which :attr:`attention` belongs.

        Args:
            mpp: spacing of level 0 of the file, in um per pixel.
        """
        size = (int(self.box.height), int(self.box.width))
        return PatchGeometry(size, mpp, self.magnifications, patch_size=self.patch_size, aligned=self.aligned)


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """What a network made of one image or region, and from which patches.

    Cells are flat indices of :attr:`geometry`, that is, of the image as the network saw it. In training the image may
    be turned or mirrored; :attr:`stored_cells` gives the cells of the image as it is stored.

    Args:
        file: path of the image.
        location: row and column of the region's top-left corner in level-0 pixels of the file; (0, 0) for a whole
            image.
        geometry: patch grids of the image.
        orientation: orientation of the image, see :mod:`monai_jsma.geometry`; 0 is as stored.
        mpp_source: where the spacing of level 0 came from.
        bounds: the scanned part of the file's canvas, in level-0 pixels; None if it is all
            (:mod:`monai_jsma.slides.frame`).
        attention: probability of every cell, float64 ``(cells,)``.
        cells: flat indices of the drawn cells, int64 ``(k,)``, in the order of drawing.
        weights: aggregation weights of the drawn cells, float64 ``(k,)``; 0 where nothing was drawn.
        scores: probability of each class, float64 ``(classes,)``; logits if the engine has no postprocessing, or the
            index of the class alone, ``(1,)``. None if the engine gives no predictions.
        label: index of the true class, of multi-label those of all classes that are present; None if unknown.
        certified: whether the prediction is certainly, or at the confidence that was asked for, that of all patches;
            None without certified stopping.
        confidence: confidence that the prediction is that of all patches; None if it was not read by ``Confident``.
        intervals: lower and upper bound of each class's probability of all patches, ``(classes, 2)``; None without.
        draw_probabilities: probabilities of each repeated draw, ``(draws, classes)``; None without repeated draws.
        true_cells: flat indices, in the image as stored, of the cells that tell the class, where this is known.
        true_magnification: name of the magnification that tells the class, where this is known.
        thumbnail: the thumbnail that was attended to, ``(3, height, width)``; None if it was not kept.
        pyramid: the image, to read patches again; None if the evidence comes from a record.
        inner_patches: the patches that were read of a slide, by falling weight, where the network zooms into regions:
            then cells and attention are those of the regions of its first stage. None of other networks.
        regions_looked_at: number of regions of all stages whose thumbnails were looked at; None of other networks.
        seen_regions: these regions with the attention in them, those of the first stage first; None of other networks,
            in training, and in records of versions that did not keep them.
        task: what was asked: ``"multiclass"``, ``"ordinal"`` or ``"multilabel"``.
        thresholds: of multi-label, the probability from which each class is predicted; None of other tasks.
    """

    file: str
    location: tuple[int, int]
    geometry: PatchGeometry
    attention: np.ndarray
    cells: np.ndarray
    weights: np.ndarray
    orientation: int = 0
    mpp_source: str = "given"
    bounds: Box | None = None
    scores: np.ndarray | None = None
    label: Label | None = None
    certified: bool | None = None
    confidence: float | None = None
    intervals: np.ndarray | None = None
    draw_probabilities: np.ndarray | None = None
    true_cells: np.ndarray | None = None
    true_magnification: str | None = None
    thumbnail: np.ndarray | None = None
    pyramid: Pyramid | None = None
    inner_patches: tuple[InnerPatch, ...] | None = None
    regions_looked_at: int | None = None
    seen_regions: tuple[SeenRegion, ...] | None = None
    task: str = MULTICLASS
    thresholds: tuple[float, ...] | None = None

    @property
    def prediction(self) -> Label | None:
        """Index of the class with the highest score, of multi-label of all that are predicted; None without scores.

        Raises:
            ValueError: if the scores of multi-label are no probabilities, which the thresholds are.
        """
        if self.scores is None:
            return None
        if self.thresholds is not None and not ((self.scores >= 0) & (self.scores <= 1)).all():
            raise ValueError(
                f"{self.file}: multi-label needs probabilities, but the scores are {self.scores.tolist()}: let the "
                "postprocessing apply the sigmoid (Activationsd with sigmoid=True)."
            )
        if self.thresholds is None and len(self.scores) == 1:
            return int(self.scores[0])
        return pick_label(self.scores, self.thresholds)

    @property
    def patches_read(self) -> int:
        """Number of patches that were read; a cell that was drawn twice was read once."""
        if self.inner_patches is not None:
            return len(self.inner_patches)
        is_read = self.weights > 0
        cells = np.unique(self.cells[is_read])
        return len(cells)

    @property
    def frame(self) -> tuple[int, int] | None:
        """The :attr:`location`, for the axes of a figure; None if the image is turned or mirrored."""
        if self.orientation:
            return None
        return self.location

    @property
    def stored_geometry(self) -> PatchGeometry:
        """Patch grids of the image as it is stored."""
        size = oriented_size(self.geometry.size, self.orientation)
        return replace(self.geometry, size=size)

    @property
    def stored_cells(self) -> np.ndarray:
        """Flat index, in the image as stored, of each cell of :attr:`geometry`: int64 ``(cells,)``."""
        if self.orientation == 0:
            return np.arange(self.geometry.num_cells)
        stored_geometry = self.stored_geometry
        indices = []
        for index in range(self.geometry.num_cells):
            cell = self.geometry.cell(index)
            grid = self.geometry.grids[cell.level]
            stored = stored_cell(cell, grid, self.orientation)
            indices.append(stored_geometry.index(stored))
        return np.array(indices, np.int64)

    def read_patches(self, cells: Iterable[int]) -> np.ndarray:
        """Read patches again: uint8 ``(number of cells, 3, patch_size, patch_size)``.

        Raises:
            ValueError: if the evidence has no pyramid.
        """
        if self.pyramid is None:
            raise ValueError(f"{self.file}: evidence of a record has no pyramid to read patches from.")
        return self.pyramid.read(cells)
