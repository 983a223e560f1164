# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Numbers that follow from a prediction: shares of the magnifications, uncertainty, pointing score.

**Shares** (paper, Tables 3 and 4). The share of a magnification is the attention summed over its cells. Its prior share
is its number of cells over that of all magnifications, which is the share that uniform attention would give.

**Uncertainty**, in nats. The predictive entropy is the entropy of the probabilities (of repeated draws, of their mean):
all of the uncertainty. The mutual information of label and draw is the predictive entropy minus the mean entropy of the
single draws: the part that comes from which patches were drawn. It is 0 where all draws agree, however uncertain each
of them is. Of multi-label both are sums over the classes. Nine decimals are kept, as many as a record has: a smaller
difference is a tie, not an order.

**Pointing score.** How much attention lies inside the areas that a pathologist annotated, and how much would lie there
by chance. A cell gives its attention to an area in proportion to its surface inside it. (Cells, not patches, because
cells tile the image.) By chance it is the annotated share of the image's surface. Overlapping areas count once, holes
do not count. Areas are polygons of (row, column) in level-0 pixels of the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import ArrayLike
from scipy.special import entr

from monai_jsma.datalists.regions import Area, merge_areas
from monai_jsma.geometry import PatchGeometry
from monai_jsma.predictions.evidence import Evidence

__all__ = [
    "Pointing",
    "covered_shares",
    "magnification_shares",
    "mutual_information",
    "pointing_scores",
    "predictive_entropy",
    "prior_shares",
]

_DECIMALS = 9


# --------------------------------------------------------------------------------------------------------------- shares


def magnification_shares(geometry: PatchGeometry, attention: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Share of the attention of each magnification, by name, coarse to fine.

    Args:
        geometry: patch grids of the image.
        attention: probability of every cell, ``(cells,)``.
    """
    shares = {}
    for name, cells in geometry.slices.items():
        shares[name] = math.fsum(attention[cells])
    return shares


def prior_shares(geometry: PatchGeometry) -> dict[str, float]:
    """Share of the cells of each magnification, by name, coarse to fine: the share that uniform attention would have.

    Args:
        geometry: patch grids of the image.
    """
    shares = {}
    for name, cells in geometry.slices.items():
        num_cells = cells.stop - cells.start
        shares[name] = num_cells / geometry.num_cells
    return shares


# ---------------------------------------------------------------------------------------------------------- uncertainty


def predictive_entropy(probabilities: ArrayLike, *, multi_label: bool = False) -> np.ndarray:
    """Entropy ``(...)`` of probabilities ``(..., classes)``: 0 for a certain class, log(classes) for equal ones.

    Args:
        probabilities: probability of each class.
        multi_label: whether each class is present or absent by itself: then the sum of the entropies of the classes,
            ``classes * log(2)`` at most.
    """
    entropy = _entropy(np.asarray(probabilities), multi_label=multi_label)
    return np.round(entropy, _DECIMALS)


def mutual_information(draw_probabilities: ArrayLike, *, multi_label: bool = False) -> np.ndarray:
    """Mutual information ``(...)`` of label and draw, from the probabilities of each draw ``(..., draws, classes)``.

    Args:
        draw_probabilities: probability of each class in each draw.
        multi_label: see :func:`predictive_entropy`.
    """
    draws = np.asarray(draw_probabilities)
    mean_probabilities = draws.mean(axis=-2)
    entropy_of_mean = _entropy(mean_probabilities, multi_label=multi_label)
    mean_entropy = _entropy(draws, multi_label=multi_label).mean(axis=-1)
    information = np.round(entropy_of_mean - mean_entropy, _DECIMALS)
    return np.abs(information)  # never negative except by rounding: no -0.0


def _entropy(probabilities: np.ndarray, *, multi_label: bool) -> np.ndarray:
    entropy = entr(probabilities)
    if multi_label:
        entropy = entropy + entr(1 - probabilities)
    return entropy.sum(axis=-1)


# ------------------------------------------------------------------------------------------------------- pointing score


class Pointing(NamedTuple):
    """Pointing score.

    Args:
        share: share of the attention that lies inside the annotated areas; None if there is no attention.
        expected: share of the image's surface that lies inside them.
    """

    share: float | None
    expected: float

    @property
    def enrichment(self) -> float | None:
        """Share over expected share: above 1 the attention points to the areas; None where it is not defined."""
        if self.share is None or not self.expected:
            return None
        return self.share / self.expected


def pointing_scores(evidence: Evidence, areas: Iterable[Area]) -> dict[str, Pointing]:
    """Pointing scores of an image: ``""`` for all of its attention, then one for each magnification, coarse to fine.

    Args:
        evidence: evidence of the image as it is stored.
        areas: annotated areas; those that count from the bounds of the slide are moved to the canvas.
    """
    geometry = evidence.geometry
    attention = np.asarray(evidence.attention)
    areas = [area.on_canvas(evidence.bounds) for area in areas]
    covered = covered_shares(geometry, evidence.location, areas)
    # All cells of a magnification are equally large, so that their mean is the share of the surface.
    first_name = geometry.names[0]
    coarsest = geometry.slices[first_name]
    expected = float(covered[coarsest].mean())

    total_share = _share_inside(attention, covered)
    scores = {"": Pointing(total_share, expected)}
    for name, cells in geometry.slices.items():
        share = _share_inside(attention[cells], covered[cells])
        scores[name] = Pointing(share, expected)
    return scores


def covered_shares(geometry: PatchGeometry, location: tuple[int, int], areas: Iterable[Area]) -> np.ndarray:
    """Share of each cell's surface that lies inside any of the areas, float64 ``(cells,)``.

    Args:
        geometry: patch grids of an image or region.
        location: row and column of the region's top-left corner in level-0 pixels of the file.
        areas: annotated areas, in level-0 pixels of the file.
    """
    top, left = location
    height, width = geometry.size
    bottom = top + height
    right = left + width
    region = shapely.box(top, left, bottom, right)
    annotated = merge_areas(areas).intersection(region)
    shapely.prepare(annotated)

    boxes = [geometry.cell_box(index) for index in range(geometry.num_cells)]
    rows, cols, heights, widths = np.array(boxes).T
    tops = rows + top
    lefts = cols + left
    bottoms = tops + heights
    rights = lefts + widths
    cells = shapely.box(tops, lefts, bottoms, rights)

    is_inside = shapely.covers(annotated, cells)
    is_touched = shapely.intersects(annotated, cells)
    is_partly = is_touched & ~is_inside  # few: an exact overlay costs most
    partly = cells[is_partly]
    overlap = shapely.intersection(annotated, partly)
    share_of_partly = shapely.area(overlap) / shapely.area(partly)

    shares = is_inside.astype(np.float64)
    shares[is_partly] = share_of_partly
    return shares


def _share_inside(attention: np.ndarray, covered: np.ndarray) -> float | None:
    total = attention.sum()
    if total <= 0:
        return None
    return float(attention @ covered / total)
