# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Regions lie in the slide and in their class, do not overlap, leave no room for another, and are chosen evenly."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import shapely
from annotation_files import box, covered
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_jsma.datalists.regions import (
    Area,
    Region,
    choose_balanced,
    mark_inside,
    merge_areas,
    place_regions,
)


def star(rng: np.random.Generator, size: tuple[int, int], corners: int) -> np.ndarray:
    """A polygon that may be concave, with its middle in the slide and corners that may be outside."""
    angle = np.sort(rng.random(corners)) * 2 * np.pi
    radius = rng.uniform(0.1, 0.7, corners) * max(size)
    middle = rng.uniform(0.2, 0.8, 2) * size
    return middle + radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)


def overlap(a: Region, row: int, col: int, side: int) -> bool:
    return abs(a.row - row) < side and abs(a.col - col) < side


@given(
    st.integers(0, 10**6), st.tuples(st.integers(30, 300), st.integers(30, 300)), st.integers(15, 90),
    st.floats(0.05, 1), st.integers(1, 3),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_regions_are_inside_and_apart(seed, size, side, cover, classes):
    rng = np.random.default_rng(seed)
    areas = {c: [Area((), star(rng, size, 7)) for _ in range(2)] for c in range(classes)}
    placed = place_regions(areas, size, side, cover=cover, rng=np.random.default_rng(seed))
    drawn = np.zeros(size, dtype=int)
    for r in placed:
        drawn[r.row : r.row + side, r.col : r.col + side] += 1
        assert 0 <= r.row <= size[0] - side
        assert 0 <= r.col <= size[1] - side
        assert isinstance(r.row, int)
        assert r.cover >= cover
    assert drawn.max() <= 1
    assert drawn.sum() == len(placed) * side * side
    assert [r.cover for r in placed] == sorted((r.cover for r in placed), reverse=True)


@given(st.integers(0, 10**6), st.sampled_from([16, 32, 64]))
@settings(max_examples=12, deadline=None)
def test_against_asking_every_point(seed, side):
    """Cover, class and that no other region fits, by brute force. With a side of 8n a step is whole pixels."""
    rng, size, cover = np.random.default_rng(seed), (150, 120), 0.55
    areas = {c: [Area((), star(rng, size, 6), (star(rng, (40, 40), 5) + 30,)) for _ in range(2)] for c in (4, 7)}
    placed = place_regions(areas, size, side, cover=cover, rng=rng)
    for r in placed:
        shares = {c: covered(areas[c], r.row, r.col, side) for c in areas}
        assert shares[r.label] == r.cover
        assert shares[r.label] > max(s for c, s in shares.items() if c != r.label)
    if placed:
        step = side // 8
        for row in range(placed[0].row % step, size[0] - side + 1, step):
            for col in range(placed[0].col % step, size[1] - side + 1, step):
                if not any(overlap(r, row, col, side) for r in placed):
                    first, second = (covered(areas[c], row, col, side) for c in areas)
                    assert max(first, second) < cover or first == second


@given(st.integers(0, 10**6), st.integers(3, 12))
@settings(max_examples=25, deadline=None)
def test_the_lattice_and_the_polygons_follow_one_rule(seed, corners):
    """Outlines that cross themselves and run along their own edges, with holes that do so too."""
    rng = np.random.default_rng(seed)
    area = Area((), rng.integers(0, 6, (corners, 2)) * 10.0, (rng.integers(0, 6, (corners, 2)) * 10.0,))
    merged = merge_areas([area])
    shift = np.array([0.417, 0.2831])  # so that no point is on an outline
    rows, cols = np.meshgrid(np.arange(60) + shift[0], np.arange(60) + shift[1], indexing="ij")
    inside = mark_inside(area.ring - shift, (60, 60)) & ~mark_inside(area.holes[0] - shift, (60, 60))
    np.testing.assert_array_equal(shapely.contains_xy(merged, rows, cols), inside)


def test_an_edge_drawn_twice_is_no_edge():
    square = box(0, 0, 40, 40)
    assert merge_areas([Area((), np.concatenate([square, square]))]).area == 0
    inner = box(0, 0, 20, 20)
    assert merge_areas([Area((), np.concatenate([square, inner]))]).area == 1200  # the inner part is crossed twice


def test_cover_is_the_share_of_the_area():
    """A region that an outline cuts in known parts; the lattice is as fine as 1/32 of a side."""
    rng = np.random.default_rng(0)
    for side in (101, 400):
        rows = side // 4 * 3
        (region,) = place_regions({0: [Area((), box(0, 0, rows, side))]}, (side, side), side, cover=0.5, rng=rng)
        assert region[:3] == (0, 0, 0)
        assert region.cover == pytest.approx(rows / side, abs=1 / 64)
    triangle = Area((), np.array([(0, 0), (0, 400.0), (400.0, 400.0)]))
    (region,) = place_regions({0: [triangle]}, (400, 400), 400, cover=0.3, rng=rng)
    assert region.cover == pytest.approx(0.5, abs=1 / 32)


def test_holes_and_islands():
    side = 64

    def shares(*areas: Area) -> list[float]:
        regions = place_regions({0: areas}, (side, side), side, cover=0.01, rng=np.random.default_rng(0))
        return [r.cover for r in regions]

    whole, half, island = box(-9, -9, 99, 99), box(-9, -9, 99, 41), box(-9, -9, 99, 25)
    assert shares(Area((), whole)) == [1.0]
    assert shares(Area((), whole, (half,))) == [0.5]
    assert shares(Area((), whole, (half,)), Area((), island)) == [0.75]
    assert shares(Area((), half), Area((), half)) == [0.5]  # drawn twice is no more
    assert shares(Area((), whole, (whole,))) == []


def test_the_class_that_covers_most():
    size, side = (64, 64), 64
    both = {0: [Area((), box(-1, -1, 66, 66))], 1: [Area((), box(-1, -1, 66, 50))]}
    (region,) = place_regions(both, size, side, cover=0.5, rng=np.random.default_rng(0))
    assert region.label == 0
    both[1] = both[0]
    assert place_regions(both, size, side, cover=0.5, rng=np.random.default_rng(0)) == []


def test_seeds_differ_and_regions_fill_the_area():
    whole = {0: [Area((), box(0, 0, 1000, 1000))]}
    found = {tuple(place_regions(whole, (1000, 1000), 80, cover=0.9, rng=np.random.default_rng(s))) for s in range(4)}
    assert len(found) == 4
    again = place_regions(whole, (1000, 1000), 80, cover=0.9, rng=np.random.default_rng(0))
    assert tuple(again) in found
    # A side below 8 pixels has no room for an offset: here the order alone is drawn.
    orders = [place_regions(whole, (60, 60), 7, cover=0.9, rng=np.random.default_rng(s)) for s in range(2)]
    assert orders[0] != orders[1]
    assert all(len(regions) >= (1000 // 80) ** 2 / 2.5 for regions in found)


def test_what_cannot_be():
    rng, areas = np.random.default_rng(0), {0: [Area((), box(0, 0, 50, 50))]}
    assert place_regions(areas, (40, 90), 41, cover=0.1, rng=rng) == []
    assert place_regions({}, (90, 90), 40, cover=0.1, rng=rng) == []
    assert place_regions({0: [Area((), box(900, 900, 9, 9))]}, (90, 90), 40, cover=0.1, rng=rng) == []
    for side, cover in ((0, 0.5), (9, 0.0), (9, 1.1)):
        with pytest.raises(ValueError, match=f"but got {side} and {cover}"):
            place_regions(areas, (90, 90), side, cover=cover, rng=rng)
    with pytest.raises(ValueError, match="regions of 10 pixels are too small"):
        place_regions({0: [Area((), box(0, 0, 90000, 90000))]}, (90000, 90000), 10, cover=0.5, rng=rng)


def pool(*counts: tuple[int, ...]) -> dict[str, list[Region]]:
    """For each slide, so many regions of each class; the best covered first."""
    return {
        f"S{s}": [Region(100 * i, 100 * c, c, 1 - i / 100) for c, n in enumerate(of_slide) for i in range(n)]
        for s, of_slide in enumerate(counts)
    }


def choose(placed, labels, per_class=9, per_slide=9, seed=0):
    return choose_balanced(placed, labels, per_class=per_class, per_slide=per_slide, rng=np.random.default_rng(seed))


def test_equally_many_of_each_class():
    chosen = choose(pool((5, 0, 1), (5, 2, 0), (0, 2, 1)), range(3))
    assert Counter(r.label for regions in chosen.values() for r in regions) == {0: 2, 1: 2, 2: 2}
    assert Counter(r.label for r in chosen["S1"]) == {0: 1, 1: 1}  # both slides with class 0 give one
    assert choose(pool((5, 2), (1, 0)), range(3)) == {}


def test_best_covered_regions_spread_over_the_slides():
    chosen = choose(pool((9,), (9,), (9,)), [0], per_class=7)
    assert sorted(map(len, chosen.values())) == [2, 2, 3]
    for regions in chosen.values():
        assert [r.row for r in regions] == [100 * i for i in range(len(regions))]


def test_limits():
    chosen = choose(pool((9, 9), (9, 9)), range(2), per_slide=3)
    assert {s: len(r) for s, r in chosen.items()} == {"S0": 3, "S1": 3}
    chosen = choose(pool((9, 9), (9, 9)), range(2), per_class=2)
    assert Counter(r.label for regions in chosen.values() for r in regions) == {0: 2, 1: 2}
    assert len({tuple(choose(pool(*[(1,)] * 6), [0], per_class=2, seed=s)) for s in range(5)}) > 1
