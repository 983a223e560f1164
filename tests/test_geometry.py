# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Patch grids: the paper's numbers, and what must hold for every size."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_jsma.geometry import Box, GridCell, Magnification, PatchGeometry, grid_size, patch_start, to_mpp

BACH = PatchGeometry((1536, 2048), 0.42, (0.42, 1.68, 0.84), 299)
TCGA = PatchGeometry((2000, 2000), 0.25, (0.25, 1.0, 0.5), 299)
STARTS = {
    512: [0, 213],
    384: [0, 85],
    1024: [0, 234, 490, 725],
    768: [0, 234, 469],
    2048: [0, 289, 582, 874, 1167, 1460, 1749],
    1536: [0, 234, 490, 746, 1002, 1237],
}
axes = st.integers(1, 60).flatmap(lambda patch: st.tuples(st.integers(1, 40 * patch), st.just(patch)))


@pytest.mark.parametrize(("length", "starts"), STARTS.items())
def test_starts_of_the_papers_patches(length, starts):
    cells = grid_size(length, 299)
    assert [patch_start(c, num_cells=cells, length=length, patch_size=299) for c in range(cells)] == starts


def test_grids_of_the_paper():
    assert BACH.level_sizes == ((384, 512), (768, 1024), (1536, 2048))
    assert (BACH.grids, BACH.num_cells) == (((2, 2), (3, 4), (6, 7)), 58)
    assert BACH.names == ("50X", "100X", "200X")
    assert (TCGA.grids, TCGA.num_cells) == (((2, 2), (4, 4), (7, 7)), 69)
    assert BACH.offsets == (0, 4, 16, 58)


def test_cells_count_coarse_to_fine_and_row_by_row():
    assert [BACH.cell(i) for i in (0, 1, 2, 4, 8, 16, 57)] == [
        GridCell(0, 0, 0),
        GridCell(0, 0, 1),
        GridCell(0, 1, 0),
        GridCell(1, 0, 0),
        GridCell(1, 1, 0),
        GridCell(2, 0, 0),
        GridCell(2, 5, 6),
    ]


def test_boxes_in_the_pixels_of_a_level_and_of_level_0():
    assert BACH.level_box(16 + 8) == Box(234, 289, 299, 299)
    assert BACH.box(16 + 8) == Box(234, 289, 299, 299)
    assert BACH.level_box(4 + 4 + 2) == Box(234, 490, 299, 299)
    assert BACH.box(4 + 4 + 2) == Box(468, 980, 598, 598)
    assert BACH.cell_box(4 + 4 + 2) == Box(512, 1024, 512, 512)


@settings(deadline=None, max_examples=300)
@given(axes)
def test_patches_of_an_axis(axis):
    """They cover it without a gap, stay inside, contain their cells, and lie where the rounded formula puts them."""
    length, patch = axis
    cells = grid_size(length, patch)
    starts = [patch_start(c, num_cells=cells, length=length, patch_size=patch) for c in range(cells)]
    assert cells == max(1, math.ceil(length / patch))
    assert starts[0] == 0
    assert starts[-1] + patch == max(length, patch)
    assert all(0 < b - a <= patch for a, b in zip(starts, starts[1:]))
    for c, start in enumerate(starts):
        assert start - 0.5 <= c * length / cells
        assert (c + 1) * length / cells <= start + patch + 0.5
        wanted = min(max((c + 0.5) * length / cells - patch / 2, 0), max(length - patch, 0))
        assert abs(start - wanted) <= 0.5


geometries = st.builds(
    lambda size, mpp, steps, patch: PatchGeometry(size, mpp, [mpp * s for s in steps], patch),
    st.tuples(st.integers(1, 500), st.integers(1, 500)),
    st.floats(0.1, 2),
    st.sets(st.sampled_from([1, 1.7, 2, 4, 8.3]), min_size=1),
    st.integers(7, 64),
)


@settings(deadline=None, max_examples=150)
@given(geometries)
def test_index_and_cell_are_inverse_and_cells_tile_the_picture(geometry):
    assert [geometry.index(geometry.cell(i)) for i in range(geometry.num_cells)] == list(range(geometry.num_cells))
    assert sorted(geometry.magnifications, reverse=True) == list(geometry.magnifications)
    height, width = geometry.size
    for level, (rows, cols) in enumerate(geometry.grids):
        indices = range(*geometry.offsets[level : level + 2])
        boxes = {geometry.cell(i): geometry.cell_box(i) for i in indices}
        assert len(boxes) == rows * cols
        for (_, row, col), box in boxes.items():
            down, right = boxes.get(GridCell(level, row + 1, col)), boxes.get(GridCell(level, row, col + 1))
            assert box.row + box.height == pytest.approx(down.row if down else height)
            assert box.col + box.width == pytest.approx(right.col if right else width)
        assert boxes[GridCell(level, 0, 0)][:2] == (0, 0)


@settings(deadline=None, max_examples=150)
@given(geometries)
def test_patches_contain_their_cells_and_stay_in_the_picture(geometry):
    height, width = geometry.size
    for i in range(geometry.num_cells):
        (level_height, level_width), p = geometry.level_sizes[geometry.cell(i).level], geometry.patch_size
        patch, cell, inner = geometry.box(i), geometry.cell_box(i), geometry.level_box(i)
        down, right = height / level_height, width / level_width
        assert inner == tuple(map(int, inner))
        assert inner[2:] == (p, p)
        assert 0 <= inner.row <= max(level_height - p, 0)
        assert 0 <= inner.col <= max(level_width - p, 0)
        assert patch == pytest.approx((inner.row * down, inner.col * right, p * down, p * right))
        assert patch.row - 0.501 * down <= cell.row
        assert cell.row + cell.height <= patch.row + patch.height + 0.501 * down
        assert patch.col - 0.501 * right <= cell.col
        assert cell.col + cell.width <= patch.col + patch.width + 0.501 * right


def test_a_picture_smaller_than_a_patch_has_one_cell():
    small = PatchGeometry((100, 700), 0.5, (0.5, 4.0), 299)
    assert small.grids == ((1, 1), (1, 3))
    assert small.level_box(0) == Box(0, 0, 299, 299)
    assert small.box(0) == pytest.approx((0, 0, 299 * 100 / 12, 299 * 700 / 88))
    assert PatchGeometry((1, 1), 1.0, (1000.0,), 8).level_sizes == ((1, 1),)


@pytest.mark.parametrize(
    ("mpp", "name"), [(0.42, "200X"), (0.84, "100X"), (1.68, "50X"), (0.25, "400X"), (1.0, "100X"), (8.0, "12.5X")]
)
def test_names_of_magnifications(mpp, name):
    assert Magnification(mpp).name == name
    assert str(Magnification(mpp)) == f"{name} ({mpp:g} um/px)"


def test_magnifications_of_one_name_are_told_apart_by_spacing():
    assert PatchGeometry((500, 500), 0.8, (0.8, 1.0, 2.0), 64).names == ("50X-2um", "100X-1um", "100X-0.8um")


@pytest.mark.parametrize(
    ("value", "mpp"),
    [("100X", 1.0), ("200x", 0.5), (" 12.5 X ", 8.0), (0.42, 0.42), (2, 2.0), (Magnification(0.3), 0.3)],
)
def test_to_mpp(value, mpp):
    assert to_mpp(value) == mpp


@pytest.mark.parametrize("value", ["", "X", "100", "0X", "-1X", "fine", 0.0, -1.0, math.nan, math.inf])
def test_what_is_no_magnification(value):
    with pytest.raises(ValueError, match="is no magnification: give um per pixel|mpp must be a positive number"):
        to_mpp(value)


def test_errors():
    for magnifications in ((), (1.0, "100X")):
        with pytest.raises(ValueError, match="magnifications must be different and at least one"):
            PatchGeometry((10, 10), 0.5, magnifications, 8)
    for size, patch in (((0, 5), 8), ((5, 5), 0)):
        with pytest.raises(ValueError, match=r"size \(.*\) and patch_size \d must be positive"):
            PatchGeometry(size, 0.5, (1.0,), patch)
    for index in (-1, 58):
        with pytest.raises(IndexError, match=f"cell {index} is outside the 58 cells"):
            BACH.cell(index)
