# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Square regions inside annotated areas of a slide (paper, Section 4.1: regions of 2000x2000 pixels at 100X).

Pure geometry: no file is known here. Polygons are float arrays of (row, column), sizes (height, width), all in level-0
pixels. Every choice is seeded.

A region may start at every eighth of its side from a drawn offset, inside the slide. How much of it lies in an area is
counted on a lattice of 32x32 points of the region. Its class is the one that covers most of it, and at least ``cover``;
where two cover it alike it has none. Regions are taken from the best covered down, ties in drawn order, and none
overlaps another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

__all__ = ["Area", "Region", "choose_balanced", "place_regions"]

_STEPS = 8  # start positions per side of a region
_POINTS = 4  # lattice points per step and axis
_MOST_POINTS = 2**26  # of a slide's lattice: some hundred MB


@dataclass(frozen=True)
class Area:
    """An annotated polygon.

    Args:
        names: what may be the name of its class, the most specific first; empty where it has none.
        ring: its outline, float ``(points, 2)``, closed or not; a point inside is one that the even-odd rule finds so.
        holes: outlines of what is cut out of it.
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


class _Axis(NamedTuple):
    """Start positions ``offset + step * side // 8`` along one axis, for ``steps`` steps from ``first``."""

    offset: int
    first: int
    steps: int

    def start(self, step: int, side: int) -> int:
        # Whole numbers: starts that are 8 steps apart are exactly a side apart.
        return self.offset + (self.first + step) * side // _STEPS

    def points(self) -> int:
        return _POINTS * (self.steps + _STEPS - 1)

    def on_lattice(self, values: np.ndarray, side: int) -> np.ndarray:
        """Positions in pixels as indices of the lattice, whose points are the centres of its cells."""
        return (values - self.offset) * (_POINTS * _STEPS / side) - _POINTS * self.first - 0.5


def _axis(length: int, side: int, low: float, high: float, rng: np.random.Generator) -> _Axis:
    """The starts whose region lies in the slide and touches the pixels ``low`` to ``high``."""
    room = length - side
    offset = int(rng.integers(0, max(1, min(side // _STEPS, room + 1))))
    last_inside = -(-_STEPS * (room - offset + 1) // side) - 1
    first = max(0, int(np.floor((low - side - offset) * _STEPS / side)))
    last = min(last_inside, int(np.ceil((high - offset) * _STEPS / side)))
    return _Axis(offset, first, max(0, last - first + 1))


def _inside(rows: np.ndarray, cols: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Lattice points inside an outline by the even-odd rule, bool ``shape``.

    Each edge flips the points right of it, in the rows that it crosses. The time grows with the number of such
    crossings and of points, not with their product: outlines drawn by hand have thousands of corners.
    """
    next_rows, next_cols = np.roll(rows, -1), np.roll(cols, -1)
    first = np.clip(np.ceil(np.minimum(rows, next_rows)), 0, shape[0]).astype(np.int64)
    crossed = np.clip(np.ceil(np.maximum(rows, next_rows)), 0, shape[0]).astype(np.int64) - first
    edge = np.repeat(np.arange(len(rows)), crossed)
    row = np.arange(len(edge)) + np.repeat(first + crossed - np.cumsum(crossed), crossed)
    slope = (next_cols - cols)[edge] / (next_rows - rows)[edge]  # an edge that crosses a row is not level
    col = np.clip(np.ceil(cols[edge] + (row - rows[edge]) * slope), 0, shape[1]).astype(np.int64)
    flips = np.zeros((shape[0], shape[1] + 1), dtype=np.uint8)
    np.add.at(flips, (row, col), 1)  # modulo 256 keeps what is odd
    return (np.cumsum(flips, axis=1, dtype=np.uint8)[:, :-1] & 1).astype(bool)


def _shares(areas: Iterable[Area], rows: _Axis, cols: _Axis, side: int) -> np.ndarray:
    """Share of each possible region that lies in any of the areas, float ``(row steps, column steps)``."""
    shape = (rows.points(), cols.points())
    inside = np.zeros(shape, dtype=bool)

    def find(ring: np.ndarray) -> np.ndarray:
        return _inside(rows.on_lattice(ring[:, 0], side), cols.on_lattice(ring[:, 1], side), shape)

    for area in areas:
        one = find(area.ring)
        for hole in area.holes:
            one &= ~find(hole)
        inside |= one
    total = np.zeros((shape[0] + 1, shape[1] + 1), dtype=np.int32)
    total[1:, 1:] = inside.cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32)
    corner, k = total[::_POINTS, ::_POINTS], _STEPS
    return (corner[k:, k:] - corner[:-k, k:] - corner[k:, :-k] + corner[:-k, :-k]) / (_POINTS * _STEPS) ** 2


def place_regions(
    areas: Mapping[int, Sequence[Area]], size: tuple[int, int], side: int, *, cover: float, rng: np.random.Generator
) -> list[Region]:
    """Place as many regions as the rule of this module finds.

    Args:
        areas: the annotated areas of each class.
        size: height and width of the slide.
        side: height and width of a region.
        cover: the smallest share of a region that lies in its class, above 0 and at most 1.
        rng: source of the offset and of the order of regions that are covered alike.

    Returns:
        the regions, best covered first.

    Raises:
        ValueError: when ``side`` or ``cover`` is out of range, or ``side`` too small for an area as large as this.
    """
    if side < 1 or not 0 < cover <= 1:
        raise ValueError(f"side must be at least 1 pixel and cover above 0 and at most 1, but got {side} and {cover}.")
    rings = [area.ring for of_class in areas.values() for area in of_class]
    if not rings or side > min(size):
        return []
    low, high = np.min([r.min(0) for r in rings], axis=0), np.max([r.max(0) for r in rings], axis=0)
    rows, cols = (_axis(size[i], side, low[i], high[i], rng) for i in (0, 1))
    if not (rows.steps and cols.steps):
        return []
    if rows.points() * cols.points() > _MOST_POINTS:
        raise ValueError(f"regions of {side} pixels are too small for an annotated area of {high - low} pixels.")
    labels = sorted(areas)
    shares = np.stack([_shares(areas[label], rows, cols, side) for label in labels])
    best = shares.max(0)
    fit = (best >= cover) & ((shares == best).sum(0) == 1)
    steps = rng.permutation(np.argwhere(fit))
    steps = steps[np.argsort(-best[tuple(steps.T)], kind="stable")]
    free, placed = np.ones((rows.steps + _STEPS, cols.steps + _STEPS), dtype=bool), []
    for i, j in steps.tolist():
        window = free[i : i + _STEPS, j : j + _STEPS]
        if window.all():
            window[:] = False
            label = labels[int(shares[:, i, j].argmax())]
            placed.append(Region(rows.start(i, side), cols.start(j, side), label, float(best[i, j])))
    return placed


def choose_balanced(
    placed: Mapping[str, Sequence[Region]],
    labels: Sequence[int],
    *,
    per_class: int,
    per_slide: int,
    rng: np.random.Generator,
) -> dict[str, list[Region]]:
    """Choose equally many regions of each class, spread over the slides.

    In each round every class takes one region, of the slide that gave it the fewest (then: gave the fewest in all;
    ties in an order drawn once), and of that slide the first left. The rounds end when a class finds none.

    Args:
        placed: the regions of each slide, in order of preference.
        labels: the classes.
        per_class: largest number of regions of a class.
        per_slide: largest number of regions of a slide.
        rng: source of the order of the slides.

    Returns:
        the chosen regions of each slide that gave any, by row and column.
    """
    slides = [sorted(placed)[i] for i in rng.permutation(len(placed))]
    left = {(s, c): [r for r in placed[s] if r.label == c][::-1] for s in slides for c in labels}
    given = dict.fromkeys(left, 0)
    chosen: dict[str, list[Region]] = {s: [] for s in slides}
    for _ in range(per_class):
        taken: list[tuple[str, Region]] = []
        for label in labels:
            able = [s for s in slides if left[s, label] and len(chosen[s]) < per_slide]
            if not able:
                for slide, region in taken:
                    chosen[slide].remove(region)
                return {s: sorted(chosen[s]) for s in sorted(slides) if chosen[s]}
            slide = min(able, key=lambda s, c=label: (given[s, c], len(chosen[s])))  # type: ignore[misc]
            taken.append((slide, left[slide, label].pop()))
            given[slide, label] += 1
            chosen[slide].append(taken[-1][1])
    return {s: sorted(chosen[s]) for s in sorted(slides) if chosen[s]}
