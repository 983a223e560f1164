# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The regions of a slide cover it, lie in it and hold their cells; their tissue is counted pixel by pixel."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_jsma.geometry import Box, PatchGeometry
from monai_jsma.zoom_geometry import RegionGrid, TissueMap, find_patch_spans, make_region_grid

LENGTHS = st.integers(1, 300)


@settings(max_examples=300, deadline=None)
@given(st.tuples(LENGTHS, LENGTHS), st.integers(1, 12), st.integers(1, 7))
def test_regions_cover_the_window_and_contain_their_cells(size, steps, unit):
    regions = RegionGrid(PatchGeometry(size, 1.0, [float(unit)], patch_size=steps), unit)
    covered = np.zeros(size, bool)
    rows, cols = regions.grid
    for number, box in enumerate(regions.boxes):
        row, col = divmod(number, cols)
        assert regions.box(row, col) == box
        top, left, height, width = box
        assert (height, width) == (min(steps * unit, size[0]), min(steps * unit, size[1]))
        assert top % unit == left % unit == 0
        assert top + height <= size[0]
        assert left + width <= size[1]
        covered[top : top + height, left : left + width] = True
        patch = regions.patches.box(number)
        assert abs(patch.row - top) <= unit
        assert abs(patch.col - left) <= unit
        for start, extent, place, count, length in (
            (top, height, row, rows, size[0]),
            (left, width, col, cols, size[1]),
        ):
            assert start <= place * length / count + unit
            assert start + extent > (place + 1) * length / count - 2 * unit
    missing = np.argwhere(~covered)
    assert all(row > size[0] - unit or col > size[1] - unit for row, col in missing)


def test_regions_of_whole_units_never_leave_a_gap():
    regions = RegionGrid(PatchGeometry((1, 999), 1.0, [2.0], patch_size=100), 2)
    assert [box.col for box in regions.boxes] == [0, 200, 400, 600, 798]


def test_regions_are_laid_as_the_patches_of_an_image():
    image = PatchGeometry((1536, 2048), 1.0, [1.0], patch_size=299)
    regions = make_region_grid(image, 299)
    assert regions.grid == image.grids[0]
    assert regions.boxes == [image.box(cell) for cell in range(image.num_cells)]


def test_regions_begin_on_whole_pixels_of_the_coarsest_magnification():
    regions = make_region_grid(PatchGeometry((5000, 7000), 0.25, [2.0, 1.0, 0.5], patch_size=256), 1000)
    assert regions.unit == 8
    assert regions.grid == (3, 4)
    assert {(box.height, box.width) for box in regions.boxes} == {(2000, 2000)}
    assert all(box.row % 8 == box.col % 8 == 0 for box in regions.boxes)


def test_a_region_size_that_is_none_is_refused():
    with pytest.raises(ValueError, match="region_size must be the height and width"):
        make_region_grid(PatchGeometry((9, 9), 1.0, [1.0], patch_size=4), 0)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**31),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(LENGTHS, LENGTHS),
    st.integers(3, 90),
)
def test_tissue_is_the_mean_of_the_mask_under_a_region(seed, mask_size, size, region):
    mask = np.random.default_rng(seed).random(mask_size) < 0.5
    origin = (7, 11)
    tissue = TissueMap(mask, Box(*origin, *size))
    regions = make_region_grid(PatchGeometry(size, 1.0, [1.0], patch_size=5), region)
    rows = [(origin[0] + row, height) for row, height in regions.rows]
    cols = [(origin[1] + col, width) for col, width in regions.cols]
    shares = tissue.measure(rows, cols).ravel()
    for share, (top, left, height, width) in zip(shares, regions.boxes, strict=True):
        lines = [int(top * mask_size[0] // size[0]), -int(-(top + height) * mask_size[0] // size[0])]
        columns = [int(left * mask_size[1] // size[1]), -int(-(left + width) * mask_size[1] // size[1])]
        np.testing.assert_allclose(share, mask[slice(*lines), slice(*columns)].mean())


def test_the_tissue_of_a_large_mask_takes_little_memory():
    mask = np.ones((1000, 1000), bool)
    tracemalloc.start()
    tissue = TissueMap(mask, Box(0, 0, 1000, 1000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak <= 9 * mask.size  # sums of 4 bytes, along one axis and along both
    assert tissue.measure([(0, 1000)], [(0, 1000)]).tolist() == [[1.0]]


def test_the_patches_of_a_slide_are_laid_out_once():
    geometry = PatchGeometry((300, 200), 1.0, [2.0, 1.0], patch_size=32)
    same = PatchGeometry((300, 200), 1.0, [2.0, 1.0], patch_size=32)
    rows, cols = find_patch_spans(geometry, 1)
    assert (len(rows), len(cols)) == geometry.grids[1]
    assert find_patch_spans(same, 1)[0] is rows
