# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Tissue is found where it was drawn and nowhere else; its regions cover it, as few as can, and lie in the slide."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from places import SHARED
from scipy.ndimage import uniform_filter
from skimage.filters import threshold_otsu
from slide_files import shared_slide

from monai_jsma.data import inspect_slide, tissue_mask, tissue_regions
from monai_jsma.slides import open_slide

GLASS = (244, 243, 245)
YELLOW = (250, 245, 225)
PINK, PURPLE, PALE = (215, 150, 195), (120, 80, 150), (240, 205, 232)
ROWS, COLS = np.mgrid[:300, :400]
ELLIPSE = ((ROWS - 130) / 90) ** 2 + ((COLS - 240) / 110) ** 2 < 1


def noisy(picture: np.ndarray, quality: int = 60, seed: int = 0) -> np.ndarray:
    """A picture as a scanner would store it: with noise, then JPEG."""
    noise = np.random.default_rng(seed).normal(0, 3, picture.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(picture + noise, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def blank(colour: tuple[int, int, int] = GLASS) -> np.ndarray:
    return np.full((*ELLIPSE.shape, 3), colour, np.uint8)


def stained(colour: tuple[int, int, int] = PINK, glass: tuple[int, int, int] = GLASS) -> np.ndarray:
    """An ellipse of tissue, a tenth of it nuclei."""
    picture = blank(glass)
    picture[ELLIPSE] = colour
    picture[ELLIPSE & (np.random.default_rng(1).random(ELLIPSE.shape) < 0.1)] = PURPLE
    return picture


def framed(picture: np.ndarray) -> np.ndarray:
    """With a scanner's black border on two sides, not quite black."""
    picture = picture.copy()
    picture[:25] = picture[:, -25:] = np.random.default_rng(2).integers(0, 6, 3)
    return picture


def dusty(picture: np.ndarray) -> np.ndarray:
    """With grey dirt and scratches, and specks of colour up to 4 x 4 pixels."""
    picture = picture.copy()
    picture[240:270, 20:60], picture[5:8] = 90, 160
    for i in range(8):
        picture[50 + 30 * i : 54 + 30 * i, 30:34] = PURPLE
    return picture


def overlap(found: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union."""
    return (found & truth).sum() / (found | truth).sum()


SLIDES = {
    "clean": stained(),
    "noise": noisy(stained()),
    "tinted": noisy(stained(glass=YELLOW)),
    "border": noisy(framed(stained())),
    "dust": noisy(dusty(stained())),
    "pale": noisy(stained(PALE)),
    "dark": noisy(stained(PURPLE)),
}


@pytest.mark.parametrize("name", SLIDES)
def test_tissue_is_found_where_it_was_drawn(name):
    assert overlap(tissue_mask(SLIDES[name]), ELLIPSE) > 0.96


def mask_by_the_book(pixels):
    """Each step on all pixels at once, in floating point."""
    brightest = np.percentile(pixels, 99, axis=(0, 1))
    if brightest.min() >= 205:
        pixels = np.minimum(pixels * np.float32(255 / brightest), 255)
    saturation = (pixels.max(axis=2) - pixels.min(axis=2)).astype(np.uint8)
    colored = saturation > np.clip(threshold_otsu(saturation), 15, 25)
    return uniform_filter(colored.astype(np.float32), 7) > 0.5


@pytest.mark.parametrize("glass", [0, 150, 203, 230])
@pytest.mark.parametrize("seed", range(5))
def test_tissue_is_that_of_every_step_on_all_pixels(seed, glass):
    random = np.random.default_rng(seed)
    coarse = random.integers(glass, min(glass + 60, 256), (8, 9, 3))
    smooth = coarse.repeat(8, axis=0).repeat(8, axis=1)
    pixels = np.clip(smooth + random.integers(-12, 12, smooth.shape), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(tissue_mask(pixels), mask_by_the_book(pixels))


BLANK = {
    "white": blank((255, 255, 255)),
    "glass": noisy(blank()),
    "tinted": blank(YELLOW),
    "tinted, noise": noisy(blank(YELLOW)),
    "bluish, noise": noisy(blank((225, 232, 245))),
    "border": noisy(framed(blank())),
    "dust": noisy(dusty(blank())),
    "black": noisy(blank((0, 0, 0))),
    "grey": np.repeat(stained()[..., 1:2], 3, axis=2),
    "one pixel": blank()[:1, :1],
}


@pytest.mark.parametrize("name", BLANK)
def test_nothing_is_found_where_there_is_nothing(name):
    assert not tissue_mask(BLANK[name]).any()


def test_a_picture_full_of_tissue_is_not_halved():
    picture = np.where((COLS < 200)[..., None], PINK, PURPLE).astype(np.uint8)
    assert tissue_mask(noisy(picture)).all()


def test_specks_go_and_holes_of_their_size_close_but_larger_ones_stay():
    picture = stained()
    picture[100:104, 200:204] = picture[120:150, 250:280] = GLASS
    mask = tissue_mask(picture)
    assert mask[102, 202]
    assert not mask[123:147, 253:277].any()
    speck = blank()
    speck[100:104, 200:204] = speck[200:230, 300:330] = PURPLE
    found = tissue_mask(speck)
    assert not found[90:115, 190:215].any()
    assert found[203:227, 303:327].all()


# ------------------------------------------------------------------------------------------------------ real pictures


def field(name: str) -> np.ndarray:
    """A field of the osteosarcoma pictures at 8 um per pixel."""
    path = SHARED / "data" / "osteosarcoma" / name
    if not path.exists():
        pytest.skip(f"{name} is not in ../shared/data/osteosarcoma")
    return np.asarray(Image.open(path).reduce(8))


@pytest.mark.parametrize(
    "name",
    [
        "Non-Tumor___Case-4-C22-42649-20389_117.jpg",
        "Non-Tumor___Case-48-P5-C20-44108-28521_119.jpg",
        "Non-Viable-Tumor___Case-3-A8-27422-14386_120.jpg",
        "Viable___Case-48-P5-C14-54171-23668_115.jpg",
    ],
)
def test_a_real_field_full_of_tissue_is_kept_where_otsu_alone_loses_a_third(name):
    picture = field(name)
    saturation = np.ptp(picture, axis=-1)
    assert (saturation > threshold_otsu(saturation)).mean() < 0.67
    assert tissue_mask(picture).mean() > 0.85


@pytest.mark.parametrize(("name", "factor"), [("cmu-1-small-region.svs", 16), ("tcga-cr-7395-01a-01-ts1.svs", 4)])
def test_saturation_finds_what_darkness_finds_on_a_clean_slide(name, factor):
    reader = open_slide(inspect_slide(shared_slide(name)))
    picture = np.asarray(Image.fromarray(reader.read(0, (0, 0), reader.level_sizes[0])).reduce(factor))
    assert overlap(tissue_mask(picture), picture.min(-1) < 215) > 0.85


def test_the_one_real_piece_is_found_among_dust_and_a_hair():
    picture = np.asarray(Image.open(shared_slide("kidney-48-5.tif")))
    rows, cols = np.nonzero(tissue_mask(picture))
    assert 490 < rows.min() < rows.max() < 575
    assert 275 < cols.min() < cols.max() < 410


# ------------------------------------------------------------------------------------------------------------ regions


@given(
    st.integers(0, 10**6), st.tuples(st.integers(1, 40), st.integers(1, 40)), st.floats(1, 9), st.floats(1, 9),
    st.tuples(st.integers(1, 200), st.integers(1, 200)), st.floats(0.01, 1),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_regions_cover_all_tissue_and_no_fewer_could(seed, shape, down, right, region, least):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < rng.choice([0.02, 0.3])
    assume(mask.any())
    size = int(shape[0] * down), int(shape[1] * right)
    regions = tissue_regions(mask, size, region, min_tissue=1e-9)
    line = [np.arange(size[i]) * shape[i] // size[i] for i in (0, 1)]
    every = mask[line[0][:, None], line[1]]  # the mask in level-0 pixels
    covered = np.zeros(size, dtype=bool)
    for r in regions:
        assert (r.height, r.width) == (min(region[0], size[0]), min(region[1], size[1]))
        assert min(r.row, r.col) >= 0
        assert r.row + r.height <= size[0]
        assert r.col + r.width <= size[1]
        covered[r.row : r.row + r.height, r.col : r.col + r.width] = True
    assert covered[every].all()
    extent = [np.ptp(np.flatnonzero(every.any(axis=1 - i))) + 1 for i in (0, 1)]
    for axis in (0, 1):
        assert len({r[axis] for r in regions}) <= -(-(extent[axis] + 2) // min(region[axis], size[axis]))
    assert regions == sorted(regions)
    assert tissue_regions(mask, size, region, min_tissue=least) == [r for r in regions if r.tissue >= least]


def test_regions_of_a_known_mask():
    mask = np.zeros((100, 80), dtype=bool)
    mask[10:60, 20:40] = True
    mask[10:12, 40:70] = True
    # Level 0 is four times as large: tissue in rows 40 to 240 and columns 80 to 280, two regions of 120 along each.
    first, second, third = tissue_regions(mask, (400, 320), (120, 120), min_tissue=0.01)
    assert first[:4] == (40, 80, 120, 120)
    assert second[:4] == (40, 160, 120, 120)
    assert third[:4] == (120, 80, 120, 120)
    assert first.tissue == (30 * 20 + 2 * 10) / 900
    assert second.tissue == 2 * 30 / 900
    assert third.tissue == 30 * 20 / 900


@pytest.mark.parametrize(("top", "row"), [(40, 140), (0, 0), (90, 320)])
def test_a_small_piece_lies_in_the_middle_of_its_region_where_the_slide_has_room(top, row):
    mask = np.zeros((100, 80), dtype=bool)
    mask[top : top + 10, 30:35] = True
    (found,) = tissue_regions(mask, (400, 320), (80, 60), min_tissue=0.01)
    # 40 rows from 4 * top and 20 columns from 120, in 80 and 60: 20 before, 20 behind
    assert found == (row, 100, 80, 60, 10 * 5 / (20 * 15))
