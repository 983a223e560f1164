# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Thumbnails and patches against slow exact averages of the stored pixels, and what is read to make them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyramid_cases import LevelsReader, every_cell, in_blocks, noise, slow_patch, slow_thumbnail
from slide_files import levels_of

from monai_jsma.data import ArrayReader, Pyramid


def of_levels(levels, magnifications=(1.0,), patch_size=8, mpp=1.0, exact=None, **region) -> Pyramid:
    reader = LevelsReader(levels, exact)
    return Pyramid(reader, mpp=mpp, magnifications=magnifications, patch_size=patch_size, path="case", **region)


# ------------------------------------------------------------------------------------------------------------- values

PLAIN = [
    ((24, 40), (1.0, 2.0, 4.0), {}),
    ((33, 41), (1.0, 2.0, 4.0), {}),  # 33 / 2 and 41 / 4 are no numbers of pixels
    ((30, 22), (1.5, 3.1), {}),
    ((30, 22), (0.96,), {}),  # a little finer than stored
    ((40, 50), (1.0, 2.0), {"origin": (7, 3), "size": (25, 33)}),
    ((40, 50), (1.7,), {"origin": (7, 3)}),
    ((40, 50), (2.0,), {"origin": (39, 49), "size": (1, 1)}),
]


@pytest.mark.parametrize(("size", "magnifications", "region"), PLAIN)
def test_pixels_of_a_picture_in_memory(size, magnifications, region):
    picture = noise(*size)
    it = Pyramid(ArrayReader(picture), mpp=1.0, magnifications=magnifications, patch_size=8, **region)
    patches = it.read(every_cell(it))
    assert patches.dtype == np.uint8
    assert patches.transpose(
        0, 2, 3, 1
    ).flags.c_contiguous  # channels last, as PyTorch calls it: copied, not rearranged
    np.testing.assert_array_equal(patches, [slow_patch(it, [picture], cell) for cell in every_cell(it)])
    for thumbnail in ((5, 7), (8, 8), (60, 3)):
        np.testing.assert_array_equal(it.thumbnail(thumbnail), slow_thumbnail(it, [picture], thumbnail))


@st.composite
def regions(draw):
    """A picture of levels 1, 2 and 4 in blocks, and a region of it anywhere."""
    height, width = 4 * draw(st.integers(1, 16)), 4 * draw(st.integers(1, 24))
    row, col = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    size = draw(st.integers(1, height - row)), draw(st.integers(1, width - col))
    steps = draw(st.sets(st.sampled_from([1, 1.3, 2, 3.7, 4, 9]), min_size=1))
    levels = in_blocks(height, width, (2, 4), draw(st.integers(0, 99)))
    return of_levels(levels, [0.5 * s for s in steps], draw(st.integers(5, 14)), 0.5, origin=(row, col), size=size)


@settings(deadline=None, max_examples=60)
@given(regions(), st.tuples(st.integers(1, 12), st.integers(1, 12)))
def test_whichever_level_is_read_the_pixels_are_averages_of_level_0(it, thumbnail):
    levels = it.reader.levels
    np.testing.assert_array_equal(it.read(every_cell(it)), [slow_patch(it, levels, c) for c in every_cell(it)])
    np.testing.assert_array_equal(it.thumbnail(thumbnail), slow_thumbnail(it, levels, thumbnail))


def test_patches_of_a_magnification_come_from_the_coarsest_level_that_is_fine_enough():
    levels = levels_of(noise(96, 128), (2, 4))  # no two of them agree
    source = {8.0: 2, 4.0: 2, 3.97: 2, 3.9: 1, 2.0: 1, 1.9: 0, 1.0: 0}
    it = of_levels(levels, tuple(source))
    for cell in every_cell(it):
        level = list(source.values())[it.geometry.cell(cell).level]
        np.testing.assert_array_equal(it.read([cell])[0], slow_patch(it, levels, cell, level))
        assert [window[0] for window in it.reader.windows] == [level]
        it.reader.windows.clear()


def test_levels_between_whole_downsamples():
    levels = levels_of(noise(101, 77), (2.5, 4.0))  # of 40 x 30 and 25 x 19 pixels: 101 / 25 and 77 / 19 differ
    it = of_levels(levels, (2.6, 5.0), origin=(3, 5), size=(90, 61))
    for cell in every_cell(it):
        level = {5.0: 2, 2.6: 1}[it.geometry.magnifications[it.geometry.cell(cell).level].mpp]
        np.testing.assert_array_equal(it.read([cell])[0], slow_patch(it, levels, cell, level))
    np.testing.assert_array_equal(it.thumbnail((9, 9)), slow_thumbnail(it, levels, (9, 9), 2))


def test_levels_that_are_only_near_serve_thumbnails_but_not_patches():
    levels = levels_of(noise(96, 128), (2, 4))
    it = of_levels(levels, (4.0, 2.0, 1.0), exact=(True, False, True))
    for cell in every_cell(it):
        level = {4.0: 2, 2.0: 0, 1.0: 0}[it.geometry.magnifications[it.geometry.cell(cell).level].mpp]
        np.testing.assert_array_equal(it.read([cell])[0], slow_patch(it, levels, cell, level))
    np.testing.assert_array_equal(it.thumbnail((48, 64)), slow_thumbnail(it, levels, (48, 64), 1))


@pytest.mark.parametrize(("size", "magnification"), [((5, 20), 1.0), ((20, 5), 1.0), ((5, 6), 1.0), ((9, 9), 1.7)])
def test_beyond_a_picture_smaller_than_a_patch_is_white(size, magnification):
    picture = noise(30, 30) // 2
    it = of_levels([picture], (magnification,), origin=(2, 3), size=size)
    patches = it.read(every_cell(it))
    height, width = it.geometry.level_sizes[0]
    assert it.geometry.grids[0] == (math.ceil(height / 8), math.ceil(width / 8))
    assert (patches[:, :, height:] == 255).all()
    assert (patches[:, :, :, width:] == 255).all()
    assert patches[:, :, :height, :width].max() < 128
    np.testing.assert_array_equal(patches, [slow_patch(it, [picture], cell) for cell in every_cell(it)])


@pytest.mark.parametrize("pixels", [1, 200, 1000])
@pytest.mark.parametrize(("region", "size"), [({}, (24, 32)), ({"origin": (5, 7), "size": (83, 90)}, (17, 30))])
def test_bands_change_nothing(monkeypatch, pixels, region, size):
    levels = levels_of(noise(96, 128), (2,))
    whole, banded = of_levels(levels, (9.0,), **region), of_levels(levels, (9.0,), **region)
    expected = whole.thumbnail(size), whole.read(every_cell(whole))
    monkeypatch.setattr("monai_jsma.slides.resample._BAND_PIXELS", pixels)
    np.testing.assert_array_equal(banded.thumbnail(size), expected[0])
    np.testing.assert_array_equal(banded.read(every_cell(banded)), expected[1])
    assert len(banded.reader.windows) > len(whole.reader.windows)
    scale = 4.5  # level-1 pixels a row of a patch, of a thumbnail less
    assert all(height * width < pixels + (scale + 2) * width for _, _, _, height, width in banded.reader.windows)


def test_cells_come_in_the_order_they_are_asked_for_and_none_is_no_error():
    it = of_levels([noise(40, 40)], (1.0, 2.0))
    every = it.read(every_cell(it))
    np.testing.assert_array_equal(it.read(np.array([3, 30, 3, 0])), every[[3, 30, 3, 0]])
    nothing = it.read([])
    assert nothing.shape == (0, 3, 8, 8)
    assert nothing.dtype == np.uint8


def test_boxes_are_those_of_the_file():
    it = of_levels([noise(60, 70)], (1.0, 2.0), origin=(11, 13), size=(40, 48))
    for cell in every_cell(it):
        for box, inner in ((it.box(cell), it.geometry.box(cell)), (it.cell_box(cell), it.geometry.cell_box(cell))):
            assert box == (inner.row + 11, inner.col + 13, inner.height, inner.width)


# --------------------------------------------------------------------------------------------------- what is decoded


@settings(deadline=None, max_examples=60)
@given(regions())
def test_a_cell_needs_one_window_no_larger_than_its_patch_and_a_pixel_on_each_side(it):
    g, full = it.geometry, it.reader.level_sizes
    for cell in every_cell(it):
        it.read([cell])
        (level, row, col, height, width) = it.reader.windows.pop()
        assert not it.reader.windows
        box = it.box(cell)
        down, right = full[0][0] / full[level][0], full[0][1] / full[level][1]
        assert height <= math.ceil(min(box.height, g.size[0]) / down) + 1
        assert width <= math.ceil(min(box.width, g.size[1]) / right) + 1
        assert abs(row - box.row / down) < 1
        assert abs(col - box.col / right) < 1


@pytest.mark.parametrize(("length", "magnification", "patch", "window"), [(84, 7 / 5, 5, 7), (87, 29 / 7, 7, 29)])
def test_windows_that_end_on_pixels_are_no_pixel_larger(length, magnification, patch, window):
    """Else a patch that fills its tile would touch nine of them: 84 / 60 * 15 is 20.999999999999996."""
    it = of_levels([noise(length, length)], (magnification,), patch)
    it.read(every_cell(it))
    starts = range(0, length, window)
    assert it.reader.windows == [(0, row, col, window, window) for row in starts for col in starts]


@pytest.mark.parametrize(
    ("size", "level"),
    [((12, 16), 2), ((24, 32), 2), ((24, 33), 1), ((25, 32), 1), ((48, 64), 1), ((60, 10), 0), ((200, 200), 0)],
)
def test_a_thumbnail_is_made_from_the_smallest_level_that_is_large_enough(size, level):
    levels = levels_of(noise(96, 128), (2, 4))
    it = of_levels(levels)
    np.testing.assert_array_equal(it.thumbnail(size), slow_thumbnail(it, levels, size, level))
    assert it.reader.windows == [(level, 0, 0, *levels[level].shape[:2])]


def test_a_thumbnail_of_a_region_reads_the_region():
    it = of_levels(levels_of(noise(96, 128), (2, 4)), origin=(17, 40), size=(33, 40))
    it.thumbnail((8, 10))
    assert it.reader.windows == [(2, 4, 10, 9, 10)]  # rows 17 / 4 to 50 / 4


def test_a_thumbnail_is_made_once_while_its_size_is_the_same():
    it = of_levels([noise(40, 40)])
    first, again = it.thumbnail((5, 7)), it.thumbnail((5, 7))
    assert len(it.reader.windows) == 1
    again[:] = 0  # is the caller's
    np.testing.assert_array_equal(it.thumbnail((5, 7)), first)
    it.thumbnail((1, 1))[:] = 0
    assert it.thumbnail((1, 1)).any()


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "region",
    [
        {"origin": (-1, 0)},
        {"origin": (0, 50)},
        {"size": (41, 50)},
        {"origin": (1, 1), "size": (40, 10)},
        {"origin": (0, 1), "size": (40, 50)},
        {"size": (0, 10)},
    ],
)
def test_regions_that_leave_the_picture(region):
    with pytest.raises(ValueError, match=r"^case: the region at .* leaves the image of \(40, 50\); correct 'loc"):
        of_levels([noise(40, 50)], **region)


def test_magnifications_finer_than_the_file():
    with pytest.raises(ValueError, match=r"^case: 100X \(0.9 um/px\) is finer than the file's 1 um/px \(given\); c"):
        of_levels([noise(40, 50)], (0.9, 2.0))
    assert of_levels([noise(40, 50)], (0.96, 2.0)).geometry.level_sizes[1] == (42, 52)
    assert of_levels([noise(40, 50)], (0.5,), max_upsampling=2).geometry.level_sizes == ((80, 100),)


def test_a_level_too_large_for_a_thumbnail_is_refused_before_it_is_read():
    class Huge(LevelsReader):
        level_sizes = ((100_000, 90_000),)

        def __init__(self) -> None:
            self.exact, self.windows = (True,), []

    it = Pyramid(Huge(), mpp=0.25, magnifications=(0.25,), patch_size=64, path="huge.svs")
    with pytest.raises(ValueError, match=r"^huge.svs: 224 x 299 pixels .* from 9e\+09 pixels .*; convert the file"):
        it.thumbnail((224, 299))
    assert not it.reader.windows


def test_cells_that_are_not_there():
    with pytest.raises(IndexError, match=r"cell 25 is outside the 25 cells"):
        of_levels([noise(40, 40)]).read([25])
