# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Annotated areas of a slide, and square regions inside them (paper, Section 4.1: 2000 x 2000 pixels at 100X).

Pure geometry: this module reads no file. Outlines are float arrays of (row, column), sizes are (height, width), all in
level-0 pixels. An area may count from the bounds of the slide instead (:mod:`monai_jsma.slides.frame`), until
:meth:`Area.on_canvas` moves it. Every choice is seeded.

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
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import shapely

from monai_jsma.geometry import Box
from monai_jsma.slides.frame import Frame, describe_bounds, find_origin

__all__ = [
    "Area",
    "Region",
    "choose_balanced",
    "find_outside_fault",
    "mark_inside",
    "merge_areas",
    "place_regions",
]

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
        frame: the corner from which its coordinates count, see :mod:`monai_jsma.slides.frame`.
        path: file of annotations that it comes from, for messages; "" if none.
        item: which object of the file it is, such as "feature 3".
    """

    names: tuple[str, ...]
    ring: np.ndarray
    holes: tuple[np.ndarray, ...] = ()
    frame: Frame = field(default="canvas", kw_only=True)
    path: str = field(default="", kw_only=True)
    item: str = field(default="", kw_only=True)

    def on_canvas(self, bounds: Box | None) -> Area:
        """The area with coordinates that count from the canvas, that is, in level-0 pixels of the file.

        Args:
            bounds: the scanned part of the canvas, as :class:`~monai_jsma.slides.SlideInfo` has it.
        """
        if self.frame == "canvas":
            return self
        origin = find_origin(self.frame, bounds)
        holes = tuple(hole + origin for hole in self.holes)
        return replace(self, ring=self.ring + origin, holes=holes, frame="canvas")


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

    # The rows of the lattice that each edge crosses: from its upper end to its lower end, without the latter.
    first_row = _find_index(np.minimum(rows, next_rows), num_rows)
    end_row = _find_index(np.maximum(rows, next_rows), num_rows)
    num_crossings = end_row - first_row

    # From here on, one entry for each crossing of an edge with a row.
    edge = np.repeat(np.arange(len(ring)), num_crossings)
    first_crossing = np.cumsum(num_crossings) - num_crossings  # of each edge
    row_of_edge = np.arange(len(edge)) - first_crossing[edge]
    row = first_row[edge] + row_of_edge
    height = (next_rows - rows)[edge]  # not zero, because a level edge crosses no row
    width = (next_cols - cols)[edge]
    distance = row - rows[edge]
    col = _find_index(cols[edge] + distance * (width / height), num_cols)

    flips = np.zeros((num_rows, num_cols + 1), dtype=np.uint8)
    np.add.at(flips, (row, col), 1)  # an overflow keeps the parity
    num_left = np.cumsum(flips, axis=1, dtype=np.uint8)
    is_odd = num_left[:, :-1] & 1
    return is_odd.astype(bool)


def _find_index(positions: np.ndarray, end: int) -> np.ndarray:
    """The first index of the lattice at or after each position, from 0 to ``end``."""
    index = np.ceil(positions)
    return np.clip(index, 0, end).astype(np.int64)


def find_outside_fault(area: Area, size: tuple[int, int], bounds: Box | None) -> str | None:
    """Find whether an area lies outside the image of its slide; None if a part of it may lie inside.

    Args:
        area: an annotated area.
        size: height and width of the slide.
        bounds: the scanned part of the canvas; None if it is all.
    """
    on_canvas = area.on_canvas(bounds)
    low = on_canvas.ring.min(axis=0)
    high = on_canvas.ring.max(axis=0)
    image = bounds or Box(0, 0, *size)
    is_before = high <= (image.row, image.col)
    is_behind = low >= (image.bottom, image.right)
    if not (is_before | is_behind).any():
        return None

    start = f"{area.path}: {area.item}" if area.path else "an annotation"
    place = f"at row {low[0]:g}, column {low[1]:g}"
    if bounds is None:
        return f"{start} {place} is outside the slide of {size}: is it of another slide, or not in level-0 pixels?"
    return (
        f"{start} {place} of the canvas is outside the image, which is {describe_bounds(bounds)}: is it of another "
        f"slide, or do its coordinates not count from the '{area.frame}' (--frame)?"
    )


def merge_areas(areas: Iterable[Area]) -> shapely.Geometry:
    """Merge areas to one geometry, whose x is the row and whose y is the column; overlaps count once."""
    polygons = []
    for area in areas:
        _check_canvas(area)
        polygon = _make_polygon(area.ring)
        holes = [_make_polygon(hole) for hole in area.holes]
        polygons.append(polygon.difference(shapely.union_all(holes)))
    return shapely.union_all(polygons)


def _check_canvas(area: Area) -> None:
    if area.frame != "canvas":
        raise ValueError(
            f"the coordinates of an area count from the '{area.frame}' of its slide, not from the canvas; convert it "
            "first: area.on_canvas(inspect_slide(path).bounds)."
        )


def _make_polygon(ring: np.ndarray) -> shapely.Geometry:
    """What an outline encloses, even if it crosses itself."""
    polygon = shapely.Polygon(ring)
    if polygon.is_valid:
        return polygon

    # shapely.make_valid forgets how often the outline runs along the same edge, so it breaks the even-odd rule there.
    line = shapely.LineString([*ring, ring[0]])
    edges = shapely.get_parts(shapely.unary_union(line))  # cut where they cross
    faces = shapely.get_parts(shapely.polygonize(edges))
    enclosed = []
    for face in faces:
        if _encloses(ring, face.representative_point()):
            enclosed.append(face)
    return shapely.union_all(enclosed)


def _encloses(ring: np.ndarray, point: shapely.Point) -> bool:
    around_point = ring - (point.x, point.y)
    inside = mark_inside(around_point, (1, 1))
    return bool(inside.item())


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
        num_starts = length - side + 1
        num_offsets = min(side // _STEPS, num_starts)
        offset = int(rng.integers(max(1, num_offsets)))

        first_touching = math.floor((low - side - offset) * _STEPS / side)
        last_touching = math.ceil((high - offset) * _STEPS / side)
        num_inside = -(-_STEPS * (num_starts - offset) // side)  # rounded up
        first = max(0, first_touching)
        last = min(num_inside - 1, last_touching)
        num_steps = max(0, last - first + 1)
        return cls(side, offset, first, num_steps)

    @property
    def num_points(self) -> int:
        """Number of lattice points along all regions."""
        covered_steps = self.num_steps + _STEPS - 1
        return _POINTS * covered_steps

    def start(self, step: int) -> int:
        # Integers, so that starts 8 steps apart are exactly one side apart.
        steps = self.first + step
        return self.offset + steps * self.side // _STEPS

    def to_lattice(self, pixels: np.ndarray) -> np.ndarray:
        """Convert positions in pixels to lattice indices; a lattice point is the center of its cell."""
        points_per_pixel = _POINTS * _STEPS / self.side
        first_point = _POINTS * self.first
        return (pixels - self.offset) * points_per_pixel - first_point - 0.5


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
    corners = _list_corners(areas)
    if len(corners) == 0 or side > min(size):
        return []

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
        covered_by = shares[:, row_step, col_step]
        region = Region(
            row=rows.start(row_step),
            col=cols.start(col_step),
            label=labels[covered_by.argmax()],
            cover=float(covered_by.max()),
        )
        placed.append(region)
    return placed


def _list_corners(areas: Mapping[int, Sequence[Area]]) -> np.ndarray:
    """The corners of all outlines, float ``(corners, 2)``."""
    rings = [np.empty((0, 2))]
    for of_class in areas.values():
        for area in of_class:
            _check_canvas(area)
            rings.append(area.ring)
    return np.concatenate(rings)


def _covered_shares(areas: Iterable[Area], rows: _Axis, cols: _Axis) -> np.ndarray:
    """Share of each possible region that lies in any of the areas, float ``(row steps, column steps)``."""
    inside = np.zeros((rows.num_points, cols.num_points), dtype=bool)
    for area in areas:
        in_area = _mark_ring(area.ring, rows, cols)
        for hole in area.holes:
            in_area &= ~_mark_ring(hole, rows, cols)
        inside |= in_area

    # Number of points inside above and left of each point, so that four of them give the number in any rectangle.
    above = inside.cumsum(axis=0, dtype=np.int32)
    above_and_left = above.cumsum(axis=1, dtype=np.int32)
    padded = np.pad(above_and_left, ((1, 0), (1, 0)))
    corners = padded[::_POINTS, ::_POINTS]
    in_rows = corners[_STEPS:] - corners[:-_STEPS]
    in_region = in_rows[:, _STEPS:] - in_rows[:, :-_STEPS]
    return in_region / (_POINTS * _STEPS) ** 2


def _mark_ring(ring: np.ndarray, rows: _Axis, cols: _Axis) -> np.ndarray:
    lattice_rows = rows.to_lattice(ring[:, 0])
    lattice_cols = cols.to_lattice(ring[:, 1])
    on_lattice = np.stack([lattice_rows, lattice_cols], axis=1)
    return mark_inside(on_lattice, (rows.num_points, cols.num_points))


def _choose_apart(candidates: np.ndarray, share: np.ndarray, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Choose start steps whose regions do not overlap, by falling share; equal shares are in random order."""
    shuffled = rng.permutation(candidates)
    row_steps, col_steps = shuffled.T
    order = np.argsort(-share[row_steps, col_steps], kind="stable")

    num_rows, num_cols = share.shape
    is_free = np.ones((num_rows + _STEPS, num_cols + _STEPS), dtype=bool)
    chosen = []
    for row_step, col_step in shuffled[order].tolist():
        rows = slice(row_step, row_step + _STEPS)
        cols = slice(col_step, col_step + _STEPS)
        window = is_free[rows, cols]
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
    queues = {}
    for slide in slides:
        for label in labels:
            queues[slide, label] = deque(region for region in placed[slide] if region.label == label)
    chosen: dict[str, list[Region]] = {slide: [] for slide in slides}
    num_chosen: Counter[tuple[str, int]] = Counter()

    def find_next_slide(label: int) -> str | None:
        best = None
        fewest = (math.inf, math.inf)
        for slide in slides:
            num_in_all = len(chosen[slide])
            counts = (num_chosen[slide, label], num_in_all)
            if queues[slide, label] and num_in_all < per_slide and counts < fewest:
                best = slide
                fewest = counts
        return best

    for _ in range(per_class):
        before_round = {slide: list(regions) for slide, regions in chosen.items()}
        for label in labels:
            slide = find_next_slide(label)
            if slide is None:
                return _sort_regions(before_round)  # an unfinished round would leave the classes uneven
            chosen[slide].append(queues[slide, label].popleft())
            num_chosen[slide, label] += 1
    return _sort_regions(chosen)


def _sort_regions(regions: Mapping[str, Sequence[Region]]) -> dict[str, list[Region]]:
    """Sort the regions of each slide that has any by row and column, and the slides by name."""
    result = {}
    for slide in sorted(regions):
        if regions[slide]:
            result[slide] = sorted(regions[slide])
    return result
