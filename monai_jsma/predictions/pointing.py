# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Pointing score: how much attention lies inside what a pathologist annotated, and how much chance would put there.

A cell gives its attention to the annotation in proportion to its area inside; cells, not patches, since they tile the
picture. Expected is the annotated share of the picture's area, which is that of every magnification too. Overlapping
areas count once, holes do not count. Areas are polygons of (row, column) in level-0 pixels of the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import shapely

from monai_jsma.datalists.regions import Area, merge_areas
from monai_jsma.geometry import PatchGeometry
from monai_jsma.predictions.records import PredictionRecord

__all__ = ["Pointing", "covered_shares", "pointing_scores"]


class Pointing(NamedTuple):
    """Share of the attention that lies inside an annotation, None where there is no attention; share of the area."""

    share: float | None
    expected: float

    @property
    def enrichment(self) -> float | None:
        """The one over the other: above 1 the attention points to the annotation. None where it is not defined."""
        return self.share / self.expected if self.share is not None and self.expected else None


def covered_shares(geometry: PatchGeometry, location: tuple[int, int], areas: Iterable[Area]) -> np.ndarray:
    """Share of each cell that lies inside any of the areas, float64 ``(cells,)``.

    Args:
        geometry: the cells of a picture or region.
        location: row and column of the region in its file.
        areas: in level-0 pixels of the file.
    """
    boxes = np.array([geometry.cell_box(i) for i in range(geometry.num_cells)]) + [*location, 0, 0]
    cells = shapely.box(boxes[:, 0], boxes[:, 1], boxes[:, 0] + boxes[:, 2], boxes[:, 1] + boxes[:, 3])
    (top, left), (height, width) = location, geometry.size
    annotated = merge_areas(areas).intersection(shapely.box(top, left, top + height, left + width))
    shapely.prepare(annotated)
    shares = shapely.covers(annotated, cells).astype(np.float64)
    partly = shapely.intersects(annotated, cells) & (shares == 0)  # few: an exact overlay costs most
    shares[partly] = shapely.area(shapely.intersection(annotated, cells[partly])) / shapely.area(cells[partly])
    return shares


def pointing_scores(record: PredictionRecord, areas: Iterable[Area]) -> dict[str, Pointing]:
    """The score of a record: ``""`` for all of its attention, then by name of the magnification, coarse to fine."""
    geometry, attention = record.geometry, np.array(record.attention)
    covered = covered_shares(geometry, record.location, areas)
    ends = geometry.offsets
    parts = {"": slice(None), **{n: slice(a, b) for n, a, b in zip(geometry.names, ends, ends[1:], strict=False)}}
    expected = float(covered[parts[geometry.names[0]]].mean())  # the cells of a magnification are equally large
    return {name: Pointing(_share(attention[part], covered[part]), expected) for name, part in parts.items()}


def _share(attention: np.ndarray, covered: np.ndarray) -> float | None:
    total = attention.sum()
    return float(attention @ covered / total) if total > 0 else None
