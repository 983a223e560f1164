# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The attention over a whole slide as layers: one for each magnification and for each stage of a zoom.

A slide is predicted in one of two ways. As regions, each of which has a record and an attention of its own that sums to
1. Or by a network that zooms, as one record: then the attention of a stage lies over regions, and that of the
magnifications in those regions of the last stage that were looked at, as far as it is known: the probability of a cell
is that of coming to its region times that of the cell in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from monai_jsma.geometry import Box, PatchGeometry
from monai_jsma.predictions.evidence import SeenRegion
from monai_jsma.predictions.records import PredictionRecord
from monai_jsma.visualize.attention import find_cell_edges
from monai_jsma.visualize.blocks import ColorScale

__all__ = ["AttentionGrid", "MapLayer", "find_scale", "list_layers", "paint_grid"]

_QUANTILE = 0.995  # of the cells, above which all have the last color


@dataclass(frozen=True, eq=False)
class AttentionGrid:
    """Attention of the cells of one grid.

    Args:
        values: probability of each cell ``(rows, columns)``.
        row_edges: rows between which the cells lie, in level-0 pixels of the file ``(rows + 1,)``.
        col_edges: columns between which they lie ``(columns + 1,)``.
    """

    values: np.ndarray
    row_edges: np.ndarray
    col_edges: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class MapLayer:
    """One map of a slide.

    Args:
        title: what it shows, and how much of the attention that is.
        note: second line.
        kind: what the cells are; layers of one kind have one scale of colors.
        level: index of the magnification, 0 is the coarsest; None for a stage of a zoom.
        grids: the attention.
        outlines: the regions outside of which nothing is known, in level-0 pixels; empty if all is known.
    """

    title: str
    note: str
    kind: Literal["cell", "region"]
    level: int | None
    grids: tuple[AttentionGrid, ...]
    outlines: tuple[Box, ...] = ()


def find_scale(layers: Sequence[MapLayer]) -> ColorScale:
    """The scale of colors of some layers.

    A slide has tens of thousands of cells, and one of them may have far more attention than all others, which would
    then look as if they had none. So the few highest share the last color, down to a tenth of the highest.

    Args:
        layers: layers that are to be compared.
    """
    values: list[np.ndarray] = []
    for layer in layers:
        values += [grid.values.ravel() for grid in layer.grids]
    if not values:
        return ColorScale(0.0, 0.0)

    together = np.concatenate(values)
    highest = float(together.max())
    num_above = len(together) * (1 - _QUANTILE)
    if num_above < 1:
        return ColorScale(highest, highest)
    quantile = float(np.quantile(together, _QUANTILE))
    end = max(quantile, highest / 10)
    return ColorScale(end, highest)


def list_layers(records: Sequence[PredictionRecord]) -> list[MapLayer]:
    """The layers of one slide: stages of the zoom if there are any, then magnifications, coarse to fine.

    Args:
        records: all records of the slide.
    """
    first = records[0]
    if first.inner_patches is None:
        return list(_list_magnifications(records))
    return [*_list_stages(first), *_list_seen_magnifications(first)]


# ------------------------------------------------------------------------------------------------------------- regions


def _list_magnifications(records: Sequence[PredictionRecord]) -> Iterator[MapLayer]:
    """A layer for each magnification of regions that were predicted one by one."""
    names: dict[float, str] = {}
    for record in records:
        pairs = zip(record.magnifications, record.geometry.names)
        names.update(pairs)

    for level, spacing in enumerate(sorted(names, reverse=True)):
        name = names[spacing]
        grids = []
        for record in records:
            if spacing in record.magnifications:
                number = record.magnifications.index(spacing)
                grids.append(_make_record_grid(record, number))
        shares = [record.shares.get(name, 0.0) for record in records]
        priors = [record.prior_shares.get(name, 0.0) for record in records]
        share = math.fsum(shares) / len(records)
        prior = math.fsum(priors) / len(records)
        yield MapLayer(
            title=f"{name}: {share:.1%} of all attention",
            note=f"{share / prior:.2f} times its share of the cells",
            kind="cell",
            level=level,
            grids=tuple(grids),
        )


def _make_record_grid(record: PredictionRecord, level: int) -> AttentionGrid:
    """The attention of one magnification of a record."""
    attention = np.array(record.attention)
    return _make_grid(record.geometry, attention, level, corner=record.location)


def _make_grid(
    geometry: PatchGeometry, attention: np.ndarray, level: int, *, corner: tuple[float, float]
) -> AttentionGrid:
    """The attention of one magnification of a region that begins at a corner (row, column)."""
    name = geometry.names[level]
    of_level = attention[geometry.slices[name]]
    values = of_level.reshape(geometry.grids[level])
    row, col = corner
    row_edges, col_edges = find_cell_edges(geometry, level)
    return AttentionGrid(values, row_edges + row, col_edges + col)


# ---------------------------------------------------------------------------------------------------------------- zoom


def _list_stages(record: PredictionRecord) -> Iterator[MapLayer]:
    """A layer for each stage of a zoom: the attention over regions."""
    seen = record.seen_regions or ()
    for stage in range(1, max(1, record.zoom_depth) + 1):
        of_stage = [region for region in seen if region.stage == stage]
        if stage == 1:
            grids = [_make_record_grid(record, 0)]
            outlines: list[Box] = []
        else:
            parents = [region for region in seen if region.stage == stage - 1]
            grids = [_make_seen_grid(region, record.mpp, 0) for region in parents]
            outlines = [region.box for region in parents]
        num_regions = sum(grid.values.size for grid in grids)
        note = f"{record.regions_looked_at} were looked at"  # all that records of earlier versions know
        if seen:
            share = math.fsum(region.probability for region in of_stage)
            note = f"{len(of_stage)} looked into, with {share:.1%} of all attention"
        yield MapLayer(
            title=f"Stage {stage}: attention over {num_regions} regions",
            note=note,
            kind="region",
            level=None,
            grids=tuple(grids),
            outlines=tuple(outlines),
        )


def _list_seen_magnifications(record: PredictionRecord) -> Iterator[MapLayer]:
    """A layer for each magnification of the regions of the last stage that were looked at."""
    last = record.last_regions
    if not last:
        return
    known = math.fsum(region.probability for region in last) or 1.0
    names = last[0].make_geometry(record.mpp).names
    for level, name in enumerate(names):
        grids = [_make_seen_grid(region, record.mpp, level) for region in last]
        share = math.fsum(float(grid.values.sum()) for grid in grids) / known
        yield MapLayer(
            title=f"{name}: {share:.1%} of the attention",
            note=f"in the {len(last)} regions that were looked into",
            kind="cell",
            level=level,
            grids=tuple(grids),
            outlines=tuple(region.box for region in last),
        )


def _make_seen_grid(region: SeenRegion, mpp: float, level: int) -> AttentionGrid:
    attention = region.probability * np.array(region.attention)
    geometry = region.make_geometry(mpp)
    corner = (region.box.row, region.box.col)
    return _make_grid(geometry, attention, level, corner=corner)


# ------------------------------------------------------------------------------------------------------------- drawing


def paint_grid(layer: np.ndarray, grid: AttentionGrid, *, view: Box) -> None:
    """Paint the attention of a grid onto a layer.

    Each pixel shows the cell at its center. Where cells are smaller than pixels none is lost: a pixel shows the highest
    of those whose centers lie in it. What is there already stays if it is higher, as where regions overlap.

    Args:
        layer: the layer ``(height, width)``, NaN where nothing was painted; it is changed.
        grid: the attention.
        view: what the layer shows, in level-0 pixels of the file.
    """
    height, width = layer.shape
    rows_below = grid.row_edges - view.row
    cols_beside = grid.col_edges - view.col
    row_edges = rows_below * height / view.height
    col_edges = cols_beside * width / view.width

    rows, row_cells = _find_pixels(row_edges, height)
    cols, col_cells = _find_pixels(col_edges, width)
    window = layer[rows, cols]
    of_pixels = grid.values[np.ix_(row_cells, col_cells)]
    np.fmax(window, of_pixels, out=window)

    center_rows = _find_centers(row_edges, height)
    center_cols = _find_centers(col_edges, width)
    np.fmax.at(layer, np.ix_(center_rows, center_cols), grid.values)


def _find_pixels(edges: np.ndarray, length: int) -> tuple[slice, np.ndarray]:
    """The pixels of an axis whose centers lie between the edges, and the cell of each."""
    first = math.ceil(edges[0] - 0.5)
    first = max(0, first)
    end = math.ceil(edges[-1] - 0.5)
    end = max(first, min(length, end))
    centers = np.arange(first, end) + 0.5
    cells = np.searchsorted(edges, centers, side="right") - 1
    last = len(edges) - 2
    return slice(first, end), cells.clip(0, last)


def _find_centers(edges: np.ndarray, length: int) -> np.ndarray:
    """The pixel of an axis in which the center of each cell lies."""
    sums = edges[:-1] + edges[1:]
    pixels = np.floor(sums / 2)
    last = length - 1
    return pixels.astype(np.int64).clip(0, last)
