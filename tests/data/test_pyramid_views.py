# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Orientation and stain: thumbnail, patches and boxes of a view agree, and the picture itself stays as it is."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from pyramid_cases import LevelsReader, every_cell, in_blocks, noise
from skimage.color import hed_from_rgb, rgb_from_hed
from slide_files import picture, write_pyramid

from monai_jsma.data import ORIENTATIONS, ArrayReader, Pyramid, StainMap, orient
from monai_jsma.transforms import LoadPyramid

STAIN = StainMap((1.3, 0.8, 1.1), (0.02, -0.03, 0.01))


def pyramid_of(pixels, magnifications=(1.0, 2.0), **region) -> Pyramid:
    return Pyramid(ArrayReader(pixels), mpp=1.0, magnifications=magnifications, patch_size=8, path="case", **region)


def turned(patch: np.ndarray, orientation: int) -> np.ndarray:
    """``(3, height, width)`` in another orientation."""
    return orient(patch.transpose(1, 2, 0), orientation).transpose(2, 0, 1)


# -------------------------------------------------------------------------------------------------------- orientation


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_view_is_what_a_turned_picture_would_be(orientation):
    pixels = noise(20, 36)  # sizes at which no patch has to be rounded to one side
    view, other = pyramid_of(pixels).oriented(orientation), pyramid_of(orient(pixels, orientation))
    assert view.geometry == other.geometry
    np.testing.assert_array_equal(view.read(every_cell(view)), other.read(every_cell(other)))
    np.testing.assert_array_equal(view.thumbnail((5, 7)), other.thumbnail((5, 7)))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_patches_of_a_view_are_those_of_the_stored_picture(orientation):
    """In every cell: the very patch that lies there in the picture as stored, turned. Sizes round to one side."""
    stored = pyramid_of(noise(60, 70), (1.0, 1.7, 3.1), origin=(11, 5), size=(28, 43))
    patches = {stored.box(cell): stored.read([cell])[0] for cell in every_cell(stored)}
    cells = {stored.box(cell): stored.cell_box(cell) for cell in every_cell(stored)}
    view = stored.oriented(orientation)
    assert len({view.box(cell) for cell in every_cell(view)}) == len(patches) == stored.geometry.num_cells
    for cell, patch in zip(every_cell(view), view.read(every_cell(view))):
        np.testing.assert_array_equal(patch, turned(patches[view.box(cell)], orientation))
        assert view.cell_box(cell) == cells[view.box(cell)]


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_boxes_of_a_view_lie_in_the_file_where_its_cells_show(orientation):
    rows, cols = np.mgrid[:60, :70]
    pixels = np.stack([rows, cols, rows], axis=-1).astype(np.uint8)  # each pixel tells where it lies
    view = pyramid_of(pixels, (1.0,), origin=(11, 5), size=(28, 43)).oriented(orientation)
    for cell, patch in zip(every_cell(view), view.read(every_cell(view))):
        box = view.box(cell)
        assert (patch[0].min(), patch[0].max()) == (box.row, box.row + box.height - 1)
        assert (patch[1].min(), patch[1].max()) == (box.col, box.col + box.width - 1)
    whole = orient(pixels[11:39, 5:48], orientation)
    for cell in every_cell(view):  # the middle of a cell of the view is in the middle of that cell in the file
        inner, outer = view.geometry.cell_box(cell), view.cell_box(cell)
        row, col = whole[int(inner.row + inner.height / 2), int(inner.col + inner.width / 2)][:2]
        assert abs(row + 0.5 - outer.row - outer.height / 2) <= 1
        assert abs(col + 0.5 - outer.col - outer.width / 2) <= 1


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("size", [(5, 7), (8, 8), (1, 3)])
def test_thumbnail_of_a_view(orientation, size):
    stored = pyramid_of(noise(33, 41), origin=(2, 3))
    as_stored = stored.thumbnail(size[::-1] if orientation & 4 else size)
    np.testing.assert_array_equal(stored.oriented(orientation).thumbnail(size), turned(as_stored, orientation))


def test_an_orientation_counts_from_the_stored_picture():
    stored = pyramid_of(noise(20, 36))
    again, once = stored.oriented(5).oriented(3), stored.oriented(3)
    np.testing.assert_array_equal(again.thumbnail((4, 9)), once.thumbnail((4, 9)))
    assert stored.oriented(5).oriented(0).geometry == stored.geometry


# -------------------------------------------------------------------------------------------------------------- stain


def colours() -> np.ndarray:
    """Every 5th value of each colour, black and white among them: ``(52 ** 3, 3)``."""
    return np.stack(np.meshgrid(*[np.arange(0, 256, 5, dtype=np.uint8)] * 3), axis=-1).reshape(-1, 3)


def test_the_unchanged_stain_is_exact():
    np.testing.assert_array_equal(StainMap()(colours()), colours())


@pytest.mark.parametrize("stain", [STAIN, StainMap((0.9, 1.1, 1.0)), StainMap(shift=(0.1, 0.0, -0.1))])
def test_a_stain_scales_and_shifts_amounts(stain):
    """Pixel by pixel in float64: density, amounts of the three stains, changed amounts, density, pixel."""
    for pixel in colours()[::97]:
        amounts = -np.log((pixel + 1.0) / 256) @ hed_from_rgb
        density = (amounts * stain.scale + stain.shift) @ rgb_from_hed
        value = np.clip(256 * np.exp(-density) - 1, 0, 255)
        assert np.abs(stain(pixel) - value).max() <= 0.501


def test_more_hematoxylin_is_more_of_its_colour():
    light, dark = (np.rint(256 * np.exp(-amount * rgb_from_hed[0]) - 1).astype(np.uint8) for amount in (0.5, 1.0))
    assert np.abs(StainMap((2, 1, 1))(light).astype(int) - dark).max() <= 1
    assert np.abs(StainMap((1, 2, 2))(light).astype(int) - light).max() <= 1
    assert np.abs(StainMap(shift=(0.5, 0, 0))(light).astype(int) - dark).max() <= 1


@pytest.mark.parametrize("stain", [StainMap((s,) * 3, (t,) * 3) for s in (-1e3, 0, 1e3) for t in (-1e4, 0, 1e4)])
def test_extreme_stains_stay_in_range(stain):
    with np.errstate(all="raise", under="ignore"):
        result = stain(colours())
    assert result.dtype == np.uint8
    density = (-np.log((colours() + 1.0) / 256) @ hed_from_rgb * stain.scale + stain.shift) @ rgb_from_hed
    assert (result[density < -0.01] == 255).all()
    assert (result[density > 10] == 0).all()


def test_thumbnail_and_patches_are_stained_alike():
    plain = pyramid_of(noise(30, 41), (1.0, 2.0, 6.0))  # a patch of the coarsest reaches beyond the edge
    stained = plain.stained(STAIN)
    for one, other in (
        (stained.thumbnail((5, 7)), plain.thumbnail((5, 7))),
        *zip(stained.read(every_cell(plain)), plain.read(every_cell(plain))),
    ):
        np.testing.assert_array_equal(one.transpose(1, 2, 0), STAIN(other.transpose(1, 2, 0)))
        assert (one != other).any()
    np.testing.assert_array_equal(stained.stained(None).thumbnail((5, 7)), plain.thumbnail((5, 7)))


def test_stain_and_orientation_do_not_care_which_comes_first():
    plain = pyramid_of(noise(30, 41))
    one, other = plain.stained(STAIN).oriented(6), plain.oriented(6).stained(STAIN)
    np.testing.assert_array_equal(one.read(every_cell(one)), other.read(every_cell(other)))
    np.testing.assert_array_equal(one.thumbnail((5, 7)), other.thumbnail((5, 7)))


# --------------------------------------------------------------------------------------------------------------- crop


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_crop_is_the_region_opened_by_itself(orientation):
    levels = in_blocks(96, 128, (2, 4))
    options = {"mpp": 1.0, "magnifications": (4.0, 2.0, 1.0), "patch_size": 8}
    whole = Pyramid(LevelsReader(levels), origin=(8, 16), size=(80, 96), identity="a file", **options)
    whole.thumbnail((5, 7)), whole.read(every_cell(whole))  # what it keeps is not the crop's
    crop = whole.oriented(orientation).stained(STAIN).cropped((4, 12), (41, 60))
    region = Pyramid(LevelsReader(levels), origin=(12, 28), size=(41, 60), **options)
    region = region.oriented(orientation).stained(STAIN)
    assert crop.geometry == region.geometry
    assert [crop.box(cell) for cell in every_cell(crop)] == [region.box(cell) for cell in every_cell(region)]
    np.testing.assert_array_equal(crop.read(every_cell(crop)), region.read(every_cell(region)))
    np.testing.assert_array_equal(crop.thumbnail((5, 7)), region.thumbnail((5, 7)))
    assert (whole.origin, whole.geometry.size) == ((8, 16), (80, 96))
    assert whole.key is not None is crop.key


@pytest.mark.parametrize("crop", [((-1, 0), (5, 5)), ((16, 0), (5, 5)), ((0, 26), (5, 5)), ((0, 0), (0, 5))])
def test_a_crop_that_leaves_the_region(crop):
    it = pyramid_of(noise(60, 70), origin=(11, 5), size=(20, 30))
    with pytest.raises(ValueError, match=r"case: a crop at .* leaves the image of \(20, 30\)"):
        it.cropped(*crop)


# ------------------------------------------------------------------------------------------------------------ sharing


def test_views_share_the_file_and_the_thumbnail_and_leave_the_picture_alone():
    stored = Pyramid(LevelsReader(in_blocks(40, 40, (2, 4))), mpp=1.0, magnifications=(1.0,), patch_size=8)
    before = stored.geometry, stored.thumbnail((5, 7)), stored.read(every_cell(stored))
    stored.reader.windows.clear()
    for orientation in ORIENTATIONS:
        view = stored.oriented(orientation).stained(STAIN)
        assert view.reader is stored.reader
        view.thumbnail((7, 5) if orientation & 4 else (5, 7))[:] = 0
    assert not stored.reader.windows  # the thumbnail that was made once served all
    assert (stored.orientation, stored.stain) == (0, None)
    assert stored.geometry is before[0]
    np.testing.assert_array_equal(stored.thumbnail((5, 7)), before[1])
    np.testing.assert_array_equal(stored.read(every_cell(stored)), before[2])


def test_a_deep_copy_is_the_pyramid_itself():
    it = pyramid_of(noise(20, 20))
    assert copy.deepcopy({"image": [it]})["image"][0] is it


def test_pickles_carry_the_view_but_no_thumbnail():
    it = pyramid_of(noise(30, 41)).oriented(6).stained(STAIN)
    before = len(pickle.dumps(it))
    it.thumbnail((100, 100))
    packed = pickle.dumps(it)
    assert len(packed) < before + 1000
    twin = pickle.loads(packed)
    assert (twin.orientation, twin.stain, twin.path, twin.geometry) == (6, STAIN, "case", it.geometry)
    np.testing.assert_array_equal(twin.read(every_cell(it)), it.read(every_cell(it)))
    np.testing.assert_array_equal(twin.thumbnail((5, 7)), it.thumbnail((5, 7)))


def test_pickles_of_slides_open_them_again(tmp_path):
    path = write_pyramid(tmp_path / "slide.tif", [picture(100, 120)], mpp=0.5)
    it = LoadPyramid((0.5, 1.0), 32)(path, location=(3, 4), size=(97, 116)).oriented(3)
    patches = it.read(every_cell(it))  # the file is open now
    packed = pickle.dumps(it)
    assert len(packed) < 3000
    twin = pickle.loads(packed)
    assert (twin.mpp, twin.mpp_source, twin.origin) == (it.mpp, it.mpp_source, (3, 4))
    np.testing.assert_array_equal(twin.read(every_cell(it)), patches)
