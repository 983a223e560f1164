# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The random transforms: how often each view is drawn, for which pictures, and that a seed repeats it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from monai.transforms import Compose
from monai.utils import set_determinism
from pyramid_cases import LevelsReader, every_cell, in_blocks, noise
from scipy.stats import chisquare
from slide_files import picture

from monai_jsma import transforms
from monai_jsma.data import ArrayReader, Pyramid, StainMap
from monai_jsma.transforms import (
    PyramidThumbnaild,
    RandPyramidCrop,
    RandPyramidCropd,
    RandPyramidOrientation,
    RandPyramidOrientationd,
    RandPyramidStain,
    RandPyramidStaind,
)


def pyramid_of(height=40, width=40, seed=0) -> Pyramid:
    reader = ArrayReader(noise(height, width, seed))
    return Pyramid(reader, mpp=0.5, magnifications=(1.0, 0.5), patch_size=8)


@pytest.mark.parametrize(("size", "allowed"), [((40, 40), 8), ((40, 48), 4)])
def test_orientations_are_equally_frequent(size, allowed):
    it, transform = pyramid_of(*size), RandPyramidOrientation().set_random_state(0)
    counts = Counter(transform(it).orientation for _ in range(1600))
    assert sorted(counts) == list(range(allowed))
    assert chisquare(list(counts.values())).pvalue > 0.01


def test_a_picture_that_is_no_square_keeps_height_and_width():
    transform = RandPyramidOrientation().set_random_state(0)
    for start in (0, 3, 4, 6):
        it = pyramid_of(40, 48).oriented(start)
        seen = {transform(it).orientation for _ in range(60)}
        assert seen == ({4, 5, 6, 7} if start & 4 else {0, 1, 2, 3})


def test_stains_fill_their_range():
    transform = RandPyramidStain(scale=0.2, shift=0.05).set_random_state(0)
    stains = [transform(pyramid_of()).stain for _ in range(2000)]
    scale, shift = np.array([s.scale for s in stains]), np.array([s.shift for s in stains])
    for values, low, high in ((scale, 0.8, 1.2), (shift, -0.05, 0.05)):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high >= values.max() > high - 0.01 * (high - low)
        np.testing.assert_allclose(values.mean(axis=0), (low + high) / 2, atol=0.02 * (high - low))
    assert np.abs(np.corrcoef(np.hstack([scale, shift]).T) - np.eye(6)).max() < 0.1  # drawn one by one


def test_crops_fill_their_range_and_stay_inside():
    transform = RandPyramidCrop(min_scale=0.6).set_random_state(0)
    crops = [transform(pyramid_of(100, 200).oriented(5)) for _ in range(2000)]
    assert {crop.orientation for crop in crops} == {5}
    sizes, origins = np.array([c.stored_geometry.size for c in crops]), np.array([c.origin for c in crops])
    for full, size, start in zip((100, 200), sizes.T, origins.T):
        assert (size.min(), size.max()) == (0.6 * full, full)
        np.testing.assert_allclose(size.mean(), 0.8 * full, rtol=0.01)
        room = full - size
        assert (start >= 0).all()
        assert (start <= room).all()
        assert set(start[room == 2]) == {0, 2}
        assert not (size % 2).any()  # the coarsest of its magnifications has half of its pixels
        np.testing.assert_allclose(start[room > 0].mean() / room[room > 0].mean(), 0.5, atol=0.02)
    assert abs(np.corrcoef(sizes.T)[0, 1]) < 0.1  # drawn one by one


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 5)])
def test_a_crop_of_a_tiny_picture(size):
    transform = RandPyramidCrop(min_scale=0.01).set_random_state(0)
    for _ in range(50):
        it = transform(pyramid_of(*size))
        for full, origin, length in zip(size, it.origin, it.geometry.size):
            assert 0 < length <= full - origin
            assert length % 2 == 0 or full == 1


def test_a_crop_is_read_as_fast_as_the_picture():
    """From stored levels as they are, and never resampled."""
    reader = LevelsReader(in_blocks(96, 128, (2, 4)))
    whole = Pyramid(reader, mpp=0.5, magnifications=(2.0, 1.0, 0.5), patch_size=8)
    crop = RandPyramidCrop(min_scale=0.5).set_random_state(1)(whole)
    assert crop.geometry.size != whole.geometry.size
    reader.windows.clear()
    crop.read(every_cell(crop))
    assert [window[0] for window in reader.windows] == [2 - crop.geometry.cell(i).level for i in every_cell(crop)]
    assert {window[3:] for window in reader.windows} == {(8, 8)}


@pytest.mark.parametrize("min_scale", [0, -0.5, 1.1])
def test_a_wrong_scale_of_a_crop(min_scale):
    with pytest.raises(ValueError, match=f"min_scale must be in \\(0, 1\\], but got {min_scale}"):
        RandPyramidCropd("image", min_scale)


@pytest.mark.parametrize("make", [RandPyramidCrop, RandPyramidOrientation, RandPyramidStain])
@pytest.mark.parametrize("dictionary", [False, True])
def test_probability(make, dictionary):
    it = pyramid_of()

    def changed(prob, n) -> int:
        transform = getattr(transforms, make.__name__ + "d")("image", prob=prob) if dictionary else make(prob=prob)
        transform.set_random_state(0)
        results = [transform({"image": it})["image"] if dictionary else transform(it) for _ in range(n)]
        return sum(result is not it for result in results)

    assert changed(0.0, 50) == 0
    assert changed(1.0, 50) == 50
    assert 250 < changed(0.7, 400) < 310  # 280, standard deviation 9.2


def test_all_keys_get_the_same_draw():
    data = {"a": pyramid_of(seed=1), "b": pyramid_of(seed=2), "wide": pyramid_of(40, 50), "label": 1}
    keys = ["a", "b", "wide"]
    both = Compose([RandPyramidOrientationd(keys, prob=0.8), RandPyramidStaind(keys, prob=0.8)]).set_random_state(1)
    results = [both(data) for _ in range(100)]
    for result in results:
        a, b, wide = (result[key] for key in keys)
        assert a.orientation == b.orientation
        assert wide.orientation == a.orientation % 4
        assert a.stain == b.stain == wide.stain
        assert result["label"] == 1
    assert {r["a"].orientation for r in results} == set(range(8))
    assert len({r["a"].stain for r in results}) > 50
    assert data["a"].orientation == 0
    assert data["a"].stain is None


def test_array_and_dictionary_form_draw_alike():
    it = pyramid_of()
    for array, dictionary in (
        (RandPyramidOrientation(0.5), RandPyramidOrientationd("image", 0.5)),
        (RandPyramidStain(0.2, 0.1, 0.5), RandPyramidStaind("image", 0.2, 0.1, prob=0.5)),
        (RandPyramidCrop(0.4, 0.5), RandPyramidCropd("image", 0.4, 0.5)),
    ):
        array.set_random_state(3)
        dictionary.set_random_state(3)
        for _ in range(20):
            one, other = array(it), dictionary({"image": it})["image"]
            assert (one.orientation, one.stain) == (other.orientation, other.stain)
            assert (one.origin, one.geometry) == (other.origin, other.geometry)


def test_a_draw_can_be_used_again():
    transform, it = RandPyramidStain().set_random_state(0), pyramid_of()
    assert transform(it).stain == transform(it, randomize=False).stain != transform(it).stain
    assert isinstance(transform(it).stain, StainMap)


def draws(pipeline, n=6) -> list:
    results = [pipeline({"image": pyramid_of()}) for _ in range(n)]
    return [(r["pyramid"].orientation, r["pyramid"].stain, r["image"].sum().item()) for r in results]


def pipeline() -> Compose:
    return Compose([RandPyramidOrientationd("image"), RandPyramidStaind("image"), PyramidThumbnaild("image", (5, 7))])


def test_seeds_repeat_the_draws():
    one, two, other = (draws(pipeline().set_random_state(seed)) for seed in (5, 5, 6))
    assert one == two != other
    assert len(set(one)) == len(one)
    states = np.random.RandomState(8), np.random.RandomState(8)
    one, two = (RandPyramidStaind("image").set_random_state(state=state) for state in states)
    assert one({"image": pyramid_of()})["image"].stain == two({"image": pyramid_of()})["image"].stain


def test_set_determinism_repeats_the_draws():
    results = []
    for _ in range(2):
        set_determinism(seed=11)
        results.append(draws(pipeline()))
    set_determinism(seed=None)
    assert results[0] == results[1]
    assert len({orientation for orientation, *_ in results[0]}) > 1


def test_pixels_of_a_random_view_agree_with_its_thumbnail():
    """The mean colour of all patches is that of the thumbnail, whatever was drawn."""
    stored = Pyramid(ArrayReader(picture(50, 70)), mpp=0.5, magnifications=(0.5,), patch_size=10)
    draw, seen = pipeline().set_random_state(2), set()
    for _ in range(12):
        data = draw({"image": stored})
        it = data["pyramid"]
        patches = it.read(every_cell(it)).reshape(*it.geometry.grids[0], 3, 10, 10)
        whole = patches.transpose(2, 0, 3, 1, 4).reshape(3, 50, 70)
        blocks = whole.reshape(3, 5, 10, 7, 10).mean(axis=(2, 4))
        assert np.abs(blocks - data["image"].numpy()).max() < 4  # a stain is no linear map of colours
        seen.add(it.orientation)
    assert len(seen) > 2
