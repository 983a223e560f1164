# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Annotated areas of a slide, and square regions inside them (paper, Section 4.1: 2000 x 2000 pixels at 100X).

Pure geometry: this module reads no file. Outlines are float arrays of (row, column), sizes are (height, width), all in
level-0 pixels. Every choice is seeded.

What an outline encloses follows the even-odd rule: a point is inside if a line from it outward crosses the outline an
odd number of times. :func:`mark_inside` applies the rule to a lattice of points, :func:`merge_areas` gives exact
polygons.

A region may start at every eighth of its side from a random offset, inside the slide. The share of it that lies in an
area is counted on a lattice of 32 x 32 points. Its class is the one that covers most of it, and at least ``cover``; a
region that two classes cover equally has none. Regions are taken from the best covered down, equal ones in random
order, and no two overlap.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import shapely

__all__ = ["Area", "Region", "choose_balanced", "mark_inside", "merge_areas", "place_regions"]

_STEPS = 8  # start positions per side of a region
_POINTS = 4  # lattice points per step and axis
_MAX_POINTS = 2**26  # of a slide's lattice: some hundred MB


@dataclass(frozen=True)
class Area:
    """An annotated polygon.

    Args:
        names: candidate names of its class, the most specific first; empty if it has none.
        ring: its outline, float ``(points, 2)``, closed or not.
        holes: outlines of the parts that are cut out of it.
    """

    names: tuple[str, ...]
    ring: np.ndarray
    holes: tuple[np.ndarray, ...] = ()


class Region(NamedTuple):
    """The top-left corner of a region in level-0 pixels, its class, and the share of it that lies in that class."""

    row: int
    col: int
    label: int
    cover: float


def mark_inside(ring: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Mark the points of a lattice that an outline encloses.

    Each edge flips the points right of it, in the rows that it crosses. The time grows with the number of these
    crossings and of points, not with their product, because hand-drawn outlines have thousands of corners. (Testing
    16 million points with ``shapely.contains_xy`` takes 12 times as long, with the same result.)

    Args:
        ring: the outline, float ``(points, 2)``, in units of the lattice; its points have whole coordinates.
        shape: rows and columns of the lattice.

    Returns:
        bool ``shape``.
    """
    num_rows, num_cols = shape
    rows, cols = ring.T
    next_rows, next_cols = np.roll(ring, -1, axis=0).T

    # The lattice rows that each edge crosses: those from its upper end to its lower end, without the latter.
    upper = np.ceil(np.minimum(rows, next_rows))
    lower = np.ceil(np.maximum(rows, next_rows))
    first_row = np.clip(upper, 0, num_rows).astype(np.int64)
    end_row = np.clip(lower, 0, num_rows).astype(np.int64)
    num_crossed = end_row - first_row

    # One entry for each crossing of an edge with a row.
    edge = np.repeat(np.arange(len(ring)), num_crossed)
    before_edge = np.cumsum(num_crossed) - num_crossed
    row = np.arange(len(edge)) - before_edge[edge] + first_row[edge]
    slope = (next_cols - cols)[edge] / (next_rows - rows)[edge]  # an edge that crosses a row is not level
    crossing = cols[edge] + (row - rows[edge]) * slope
    col = np.clip(np.ceil(crossing), 0, num_cols).astype(np.int64)

    flips = np.zeros((num_rows, num_cols + 1), dtype=np.uint8)
    np.add.at(flips, (row, col), 1)  # an overflow keeps the parity
    num_left = np.cumsum(flips, axis=1, dtype=np.uint8)[:, :-1]
    return (num_left & 1).astype(bool)


def merge_areas(areas: Iterable[Area]) -> shapely.Geometry:
    """Merge areas to one geometry, whose x is the row and whose y is the column; overlaps count once."""
    polygons = []
    for area in areas:
        holes = [_outline_polygon(hole) for hole in area.holes]
        polygon = _outline_polygon(area.ring).difference(shapely.union_all(holes))
        polygons.append(polygon)
    return shapely.union_all(polygons)


def _outline_polygon(ring: np.ndarray) -> shapely.Geometry:
    """What an outline encloses, even if it crosses itself."""
    polygon = shapely.Polygon(ring)
    if polygon.is_valid:
        return polygon

    # shapely.make_valid forgets how often the outline runs along the same edge, so it breaks the even-odd rule there.
    closed = shapely.LineString([*ring, ring[0]])
    edges = shapely.unary_union(closed)  # cut where they cross
    faces = shapely.get_parts(shapely.polygonize(shapely.get_parts(edges)))
    enclosed = [face for face in faces if _encloses(ring, face.representative_point())]
    return shapely.union_all(enclosed)


def _encloses(ring: np.ndarray, point: shapely.Point) -> bool:
    around_point = ring - (point.x, point.y)
    return bool(mark_inside(around_point, (1, 1)).item())


@dataclass(frozen=True)
class _Axis:
    """Start positions along one axis: ``offset + step * side // 8``, for ``num_steps`` steps from ``first``."""

    side: int
    offset: int
    first: int
    num_steps: int

    @classmethod
    def find(cls, length: int, side: int, *, low: float, high: float, rng: np.random.Generator) -> _Axis:
        """Find the starts whose region lies in the slide and touches the pixels ``low`` to ``high``."""
        room = length - side
        num_offsets = max(1, min(side // _STEPS, room + 1))
        offset = int(rng.integers(num_offsets))

        first_touching = math.floor((low - side - offset) * _STEPS / side)
        last_touching = math.ceil((high - offset) * _STEPS / side)
        end_inside = -(-_STEPS * (room - offset + 1) // side)  # rounded up
        first = max(0, first_touching)
        last = min(end_inside - 1, last_touching)
        return cls(side, offset, first, max(0, last - first + 1))

    @property
    def num_points(self) -> int:
        """Number of lattice points along all regions."""
        return _POINTS * (self.num_steps + _STEPS - 1)

    def start(self, step: int) -> int:
        # Integers, so that starts 8 steps apart are exactly one side apart.
        return self.offset + (self.first + step) * self.side // _STEPS

    def to_lattice(self, pixels: np.ndarray) -> np.ndarray:
        """Convert positions in pixels to lattice indices; a lattice point is the center of its cell."""
        points_per_pixel = _POINTS * _STEPS / self.side
        return (pixels - self.offset) * points_per_pixel - _POINTS * self.first - 0.5


def place_regions(
    areas: Mapping[int, Sequence[Area]], size: tuple[int, int], side: int, *, cover: float, rng: np.random.Generator
) -> list[Region]:
    """Place as many regions as the rule of this module finds.

    Args:
        areas: annotated areas of each class.
        size: height and width of the slide.
        side: height and width of a region.
        cover: minimum share of a region that lies in its class, above 0 and at most 1.
        rng: random source of the offset and of the order of equally covered regions.

    Returns:
        the regions, best covered first.

    Raises:
        ValueError: when ``side`` or ``cover`` is out of range, or ``side`` is too small for such a large area.
    """
    if side < 1 or not 0 < cover <= 1:
        raise ValueError(f"side must be at least 1 pixel and cover above 0 and at most 1, but got {side} and {cover}.")
    rings = [area.ring for of_class in areas.values() for area in of_class]
    if not rings or side > min(size):
        return []

    corners = np.concatenate(rings)
    low = corners.min(axis=0)
    high = corners.max(axis=0)
    rows = _Axis.find(size[0], side, low=low[0], high=high[0], rng=rng)
    cols = _Axis.find(size[1], side, low=low[1], high=high[1], rng=rng)
    if rows.num_steps == 0 or cols.num_steps == 0:
        return []
    if rows.num_points * cols.num_points > _MAX_POINTS:
        raise ValueError(f"regions of {side} pixels are too small for an annotated area of {high - low} pixels.")

    labels = sorted(areas)
    shares = np.stack([_covered_shares(areas[label], rows, cols) for label in labels])
    best = shares.max(axis=0)
    is_unique = (shares == best).sum(axis=0) == 1
    candidates = np.argwhere((best >= cover) & is_unique)

    placed = []
    for row_step, col_step in _choose_apart(candidates, best, rng):
        label = labels[int(shares[:, row_step, col_step].argmax())]
        region = Region(rows.start(row_step), cols.start(col_step), label, float(best[row_step, col_step]))
        placed.append(region)
    return placed


def _covered_shares(areas: Iterable[Area], rows: _Axis, cols: _Axis) -> np.ndarray:
    """Share of each possible region that lies in any of the areas, float ``(row steps, column steps)``."""
    inside = np.zeros((rows.num_points, cols.num_points), dtype=bool)
    for area in areas:
        in_area = _mark_ring(area.ring, rows, cols)
        for hole in area.holes:
            in_area &= ~_mark_ring(hole, rows, cols)
        inside |= in_area

    # Number of points inside above and left of each point, so that four of them give the number in any rectangle.
    total = np.zeros((rows.num_points + 1, cols.num_points + 1), dtype=np.int32)
    total[1:, 1:] = inside.cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32)
    corners = total[::_POINTS, ::_POINTS]
    left = corners[_STEPS:, :-_STEPS] - corners[:-_STEPS, :-_STEPS]
    right = corners[_STEPS:, _STEPS:] - corners[:-_STEPS, _STEPS:]
    return (right - left) / (_POINTS * _STEPS) ** 2


def _mark_ring(ring: np.ndarray, rows: _Axis, cols: _Axis) -> np.ndarray:
    on_lattice = np.stack([rows.to_lattice(ring[:, 0]), cols.to_lattice(ring[:, 1])], axis=1)
    return mark_inside(on_lattice, (rows.num_points, cols.num_points))


def _choose_apart(candidates: np.ndarray, share: np.ndarray, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Choose start steps whose regions do not overlap, by falling share; equal shares are in random order."""
    shuffled = rng.permutation(candidates)
    order = np.argsort(-share[shuffled[:, 0], shuffled[:, 1]], kind="stable")
    is_free = np.ones((share.shape[0] + _STEPS, share.shape[1] + _STEPS), dtype=bool)
    chosen = []
    for row_step, col_step in shuffled[order].tolist():
        window = is_free[row_step : row_step + _STEPS, col_step : col_step + _STEPS]
        if window.all():
            window[:] = False
            chosen.append((row_step, col_step))
    return chosen


def choose_balanced(
    placed: Mapping[str, Sequence[Region]],
    labels: Sequence[int],
    *,
    per_class: int,
    per_slide: int,
    rng: np.random.Generator,
) -> dict[str, list[Region]]:
    """Choose equally many regions of each class, spread over the slides.

    In each round every class takes one region: from the slide that gave this class the fewest so far, then the fewest
    of all classes (ties in a random order of the slides), and of that slide the first region left. The rounds end when
    a class finds none.

    Args:
        placed: regions of each slide, in order of preference.
        labels: the classes.
        per_class: maximum number of regions of a class.
        per_slide: maximum number of regions of a slide.
        rng: random source of the order of the slides.

    Returns:
        the chosen regions of each slide that gave any, by row and column.
    """
    names = sorted(placed)
    slides = [names[i] for i in rng.permutation(len(names))]
    queues = {(slide, label): _regions_of(label, placed[slide]) for slide in slides for label in labels}
    chosen: dict[str, list[Region]] = {slide: [] for slide in slides}
    num_chosen: Counter[tuple[str, int]] = Counter()

    def find_next_slide(label: int) -> str | None:
        able = [slide for slide in slides if queues[slide, label] and len(chosen[slide]) < per_slide]
        return min(able, key=lambda slide: (num_chosen[slide, label], len(chosen[slide])), default=None)

    for _ in range(per_class):
        before_round = {slide: list(regions) for slide, regions in chosen.items()}
        for label in labels:
            slide = find_next_slide(label)
            if slide is None:
                return _sort_regions(before_round)  # an unfinished round would leave the classes uneven
            chosen[slide].append(queues[slide, label].popleft())
            num_chosen[slide, label] += 1
    return _sort_regions(chosen)


def _regions_of(label: int, regions: Iterable[Region]) -> deque[Region]:
    return deque(region for region in regions if region.label == label)


def _sort_regions(regions: Mapping[str, Sequence[Region]]) -> dict[str, list[Region]]:
    """Sort the regions of each slide that has any by row and column, and the slides by name."""
    return {slide: sorted(regions[slide]) for slide in sorted(regions) if regions[slide]}
