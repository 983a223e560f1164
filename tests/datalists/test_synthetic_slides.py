# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Synthetic slides: their answer is known, a thumbnail does not tell it, and every reader reads them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from slide_files import HAS_CUCIM, open_with

from monai_jsma.datalists.annotations import read_annotations
from monai_jsma.datalists.schema import load_datalist
from monai_jsma.datalists.synthetic import GEOMETRY, list_layouts
from monai_jsma.datalists.synthetic_slides import (
    KINDS,
    SlideSettings,
    make_slide,
    make_slides,
    rearrange_slide,
    write_slide,
)
from monai_jsma.datalists.tissue import tissue_mask
from monai_jsma.slides.shared_tiles import SharedLevel, write_shared_tiles

PLAIN, DISTRACTOR, INFORMATIVE = (KINDS.index(name) for name in ("plain", "distractor", "informative"))
SMALL = SlideSettings(side=6, tissue=0.6, informative=0.2, variants=3)


def paint(slide) -> np.ndarray:
    """All pixels of level 0, region by region."""
    side = len(slide.numbers)
    pixels = np.zeros((256 * side, 256 * side, 3), np.uint8)
    for row in range(side):
        for col in range(side):
            pixels[256 * row : 256 * row + 256, 256 * col : 256 * col + 256] = slide.pictures[slide.numbers[row, col]]
    return pixels


def reduce(pixels: np.ndarray, factor: int) -> np.ndarray:
    height, width, _ = pixels.shape
    blocks = pixels.reshape(height // factor, factor, width // factor, factor, 3).astype(float)
    return np.rint(blocks.mean((1, 3))).astype(np.uint8)


def levels_by_tifffile(path: Path) -> list[np.ndarray]:
    with tifffile.TiffFile(path) as tif:
        return [page.asarray() for page in tif.pages]


# ------------------------------------------------------------------------------------------------------- the answer


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.25, 0.5])
def test_the_share_of_informative_regions(share):
    kinds = make_slide(0, (3,), SlideSettings(side=20, tissue=0.5, informative=share, variants=2)).kinds
    counts = np.bincount(kinds.ravel(), minlength=4)
    number = round(share * 200)
    assert counts.tolist() == [200, 200 - 2 * number, number, number]


@pytest.mark.parametrize("label", range(4))
def test_no_informative_region_lacks_textures(label):
    settings = SlideSettings(side=2, tissue=1.0, informative=0.5, variants=40)
    pictures = make_slide(label, (1,), settings).pictures
    _, distractors, informative = np.split(pictures[1:], 3)
    assert (informative != distractors).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_slide_is_rearranged_to_that_of_another_share(share):
    seed = (4, 2)
    other = SlideSettings(side=6, tissue=0.6, informative=share, variants=3)
    made = make_slide(1, seed, other)
    rearranged = rearrange_slide(make_slide(1, seed, SMALL), seed, other)
    for name in ("kinds", "numbers", "pictures"):
        np.testing.assert_array_equal(getattr(rearranged, name), getattr(made, name), err_msg=name)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_only_informative_regions_show_the_class(level):
    """Textures are what an informative region has and its distractor has not, and their layout is one of the class."""
    for label in range(4):
        slide = make_slide(label, (1,), SlideSettings(side=4, level=level, variants=4, informative=0.4))
        plain, distractors, informative = np.split(slide.pictures[1:].astype(int), 3)
        textures = informative - distractors
        for one in textures:
            assert np.abs(one).max() in (60, 45, 0)
        shown = {tuple((np.abs(one).reshape(-1, 3) > 0).any(axis=0)) for one in textures}
        assert shown <= {(True, True, True), (True, False, True), (False, True, False), (False, False, False)}
        size = 128 >> level
        for one in textures:
            rows, cols, _ = np.nonzero(one)
            if len(rows):
                assert rows.min() // size == rows.max() // size  # in one cell
                assert cols.min() // size == cols.max() // size
                top, left = rows.min() // size * size, cols.min() // size * size
                cell = one[top : top + size, left : left + size]
                quarters = np.abs(cell).reshape(2, size // 2, 2, size // 2, 3).max((1, 3)) > 0
                layout = np.stack([quarters[..., 1], quarters[..., 0]]).astype(int)
                assert any(np.array_equal(layout, known) for known in list_layouts(label))
        assert not np.array_equal(plain, distractors)


@pytest.mark.parametrize("reduction", [4, 8, 16])
def test_a_thumbnail_tells_neither_the_class_nor_which_tinted_regions_are_informative(reduction):
    settings = SlideSettings(side=5, informative=0.3, tissue=0.8, variants=3)
    slides = [make_slide(label, (7,), settings) for label in range(4)]
    first = reduce(paint(slides[0]), reduction)
    for other in slides[1:]:
        assert not np.array_equal(other.pictures, slides[0].pictures)
        assert np.array_equal(other.numbers, slides[0].numbers)
        np.testing.assert_array_equal(reduce(paint(other), reduction), first)
    swapped = np.where(slides[0].kinds == DISTRACTOR, slides[0].numbers + 3, slides[0].numbers)
    swapped = np.where(slides[0].kinds == INFORMATIVE, slides[0].numbers - 3, swapped)
    slides[0].numbers[:] = swapped
    np.testing.assert_array_equal(reduce(paint(slides[0]), reduction), first)


def test_regions_of_tissue_hang_together_and_are_found():
    slide = make_slide(0, (2,), SlideSettings(side=16, tissue=0.4))
    is_tissue = slide.kinds > 0
    edges = (is_tissue[1:] != is_tissue[:-1]).sum() + (is_tissue[:, 1:] != is_tissue[:, :-1]).sum()
    shuffled = np.random.default_rng(0).permutation(is_tissue.ravel()).reshape(16, 16)
    of_shuffled = (shuffled[1:] != shuffled[:-1]).sum() + (shuffled[:, 1:] != shuffled[:, :-1]).sum()
    assert edges < of_shuffled / 2
    found = tissue_mask(reduce(paint(slide), 16)).reshape(16, 16, 16, 16).mean((1, 3))
    assert (found[is_tissue] > 0.5).all()
    assert (found[~is_tissue] < 0.5).all()


# --------------------------------------------------------------------------------------------------------- the file


def test_every_reader_reads_what_was_painted(tmp_path):
    slide = make_slide(1, (0,), SMALL)
    path = tmp_path / "slide.tif"
    write_slide(path, slide)
    pixels = paint(slide)
    expected = [pixels, reduce(pixels, 16)]
    for level, found in zip(expected, levels_by_tifffile(path), strict=True):
        np.testing.assert_array_equal(found, level)
    for name in ("openslide", "tifffile"):
        reader = open_with(path, name)
        assert reader.info.mpp == pytest.approx(GEOMETRY.mpp)
        assert reader.level_sizes == ((1536, 1536), (96, 96))
        for number, level in enumerate(expected):
            np.testing.assert_array_equal(reader.read(number, (0, 0), level.shape[:2]), level)
        reader.close()


@pytest.mark.skipif(not HAS_CUCIM, reason="cuCIM is not installed")
def test_cucim_reads_the_same(tmp_path):
    from cucim import CuImage

    slide = make_slide(1, (0,), SMALL)
    write_slide(tmp_path / "slide.tif", slide)
    image = CuImage(str(tmp_path / "slide.tif"))
    np.testing.assert_array_equal(np.asarray(image.read_region((0, 0), (1536, 1536), 0)), paint(slide))
    np.testing.assert_array_equal(np.asarray(image.read_region((0, 0), (96, 96), 1)), reduce(paint(slide), 16))


def test_large_slides_have_one_more_level_and_store_equal_tiles_once(tmp_path):
    slide = make_slide(0, (0,), SlideSettings(side=70, tissue=0.2, informative=0.05, variants=2))
    path = tmp_path / "slide.tif"
    write_slide(path, slide)
    assert path.stat().st_size < 0.01 * (70 * 256) ** 2 * 3
    with tifffile.TiffFile(path) as tif:
        sizes = [page.shape[:2] for page in tif.pages]
        assert sizes == [(17920, 17920), (1120, 1120), (280, 280)]
        offsets = [len(set(page.dataoffsets)) for page in tif.pages]
        assert offsets[0] == len(np.unique(slide.numbers)) == 7
        region = tif.pages[0]
        places = np.reshape(region.dataoffsets, (70, 70))
        for number in np.unique(slide.numbers):
            assert len(set(places[slide.numbers == number])) == 1
        small = np.concatenate([np.concatenate(list(reduce_each(slide, 16)[row]), axis=1) for row in slide.numbers])
        np.testing.assert_array_equal(tif.pages[1].asarray(), small)
        small = np.concatenate([np.concatenate(list(reduce_each(slide, 64)[row]), axis=1) for row in slide.numbers])
        np.testing.assert_array_equal(tif.pages[2].asarray(), small)


def reduce_each(slide, factor: int) -> np.ndarray:
    return np.stack([reduce(picture, factor) for picture in slide.pictures])


def test_tiles_that_are_shared_need_not_fill_the_image(tmp_path):
    tiles = [np.full((256, 256, 3), value, np.uint8) for value in (10, 200)]
    level = SharedLevel((300, 700), np.array([[0, 1, 0], [1, 1, 0]]), iter(tiles))
    write_shared_tiles(tmp_path / "a.tif", [level], mpp=0.25)
    reader = open_with(tmp_path / "a.tif")
    assert reader.info.mpp == pytest.approx(0.25)
    found = reader.read(0, (0, 0), (300, 700))
    assert found[::255, ::256][:, :, 0].tolist() == [[10, 200, 10], [10, 200, 10]]
    assert found[256:, :, 0].max() == 200
    assert (found[256:, :512] == 200).all()
    assert (found[256:, 512:] == 10).all()


# ------------------------------------------------------------------------------------------------------ the data set


def test_the_data_set(tmp_path):
    options = {"num_train": 3, "num_validation": 1, "num_test": 2, "settings": SMALL}
    datalist = make_slides(tmp_path / "a", seed=4, **options)
    again = make_slides(tmp_path / "b", seed=4, **options)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 13
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    content = json.loads(again.read_text())
    items = [item for split in ("training", "validation", "test") for item in content[split]]
    assert [item["label"] for item in items] == [0, 1, 0, 0, 0, 1]
    assert len({item["group"] for item in items}) == len({item["sha256"] for item in items}) == 6
    assert content["settings"]["informative"] == 0.2
    assert len(load_datalist(datalist, "training")) == 3

    kinds = make_slide(1, (4, 0, 1), SMALL).kinds
    item = content["training"][1]
    areas = read_annotations(tmp_path / "a" / item["annotations"])["0001"]
    for name in ("informative", "distractor"):
        corners = {tuple(area.ring.min(axis=0).tolist()) for area in areas if area.names == (name,)}
        expected = {(row * 256, col * 256) for row, col in np.argwhere(kinds == KINDS.index(name)).tolist()}
        assert corners == expected
    assert item["num_informative"] == (kinds == INFORMATIVE).sum()


def test_more_slides_change_no_other(tmp_path):
    few = make_slides(tmp_path / "a", num_train=1, num_validation=1, num_test=1, settings=SMALL)
    many = make_slides(tmp_path / "b", num_train=3, num_validation=2, num_test=1, settings=SMALL)
    few, many = (json.loads(path.read_text()) for path in (few, many))
    for split in ("training", "validation", "test"):
        assert few[split][0] == many[split][0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"side": 1}, "2 to 512 regions along a side, but got 1"),
        ({"side": 4.5}, r"2 to 512 regions along a side, but got 4\.5"),
        ({"side": 513}, "2 to 512 regions along a side, but got 513"),
        ({"tissue": 0.0}, "share of tissue must be above 0 and at most 1, but got 0.0"),
        ({"informative": 0.6}, r"above 0 and at most 0\.5, .* but got 0\.6"),
        ({"level": 3}, "level must be 0, 1 or 2"),
        ({"variants": 0}, "variants at least 1"),
        ({"side": 2, "tissue": 0.25}, "have no room for an informative one and a distractor"),
    ],
)
def test_numbers_out_of_range(change, reason):
    with pytest.raises(ValueError, match=reason):
        SlideSettings(**change)


def test_classes_and_slides_out_of_range(tmp_path):
    for wrong in ({"num_classes": 5}, {"num_classes": 1}, {"num_test": 0}):
        with pytest.raises(ValueError, match="Each split needs at least 1 slide and 2 to 4 classes"):
            make_slides(tmp_path, **wrong)
    with pytest.raises(ValueError, match="seed must be at least 0, but is -1"):
        make_slides(tmp_path, seed=-1)
    assert not any(tmp_path.iterdir())
