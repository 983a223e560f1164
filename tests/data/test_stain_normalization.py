# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Stains taken to those of a reference: as MONAI does it for one array, but the same for all parts of an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.apps.pathology.transforms.stain.array import NormalizeHEStains
from tiny_networks import mil_net, tiny_net

from monai_jsma.data import Pyramid, PyramidBatch, StainMap, StainNormalization
from monai_jsma.datalists.tissue import find_tissue
from monai_jsma.geometry import orient
from monai_jsma.slides.base import ArrayReader
from monai_jsma.transforms import NormalizePyramidStain, NormalizePyramidStaind

STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])  # absorbance of hematoxylin and of eosin


def stained_picture(*, seed: int = 0, strength: float = 1.0, size: tuple[int, int] = (40, 48)) -> np.ndarray:
    """Pixels ``(height, width, 3)`` of two stains in random amounts."""
    amounts = np.random.default_rng(seed).gamma(2.0, 0.4 * strength, (*size, 2))
    return (240 * np.exp(-amounts @ STAINS) - 1).clip(0, 255).astype(np.uint8)


def pyramid_of(pixels: np.ndarray, **options) -> Pyramid:
    return Pyramid(ArrayReader(pixels), mpp=1.0, magnifications=(2.0, 1.0), patch_size=8, path="slide.tif", **options)


def test_hematoxylin_becomes_that_of_the_reference_and_eosin_too():
    """Pixels of one stain alone get its reference color; the densest 1 % of an image get the reference amount."""
    reference = np.array(NormalizeHEStains().target_he).T  # absorbance of hematoxylin and of eosin
    normalization = StainNormalization.fit(stained_picture(size=(200, 200)))
    for own, wanted in zip(STAINS, reference):
        pixel = (240 * np.exp(-own) - 1).astype(np.uint8)
        absorbance = -np.log((normalization(pixel) + 1.0) / 240)
        cosine = absorbance @ wanted / np.linalg.norm(absorbance) / np.linalg.norm(wanted)
        assert cosine > 0.99

    dense = normalization(stained_picture(size=(200, 200), seed=1))
    amounts = -np.log((dense + 1.0) / 240) @ np.linalg.pinv(reference)
    np.testing.assert_allclose(np.percentile(amounts, 99, axis=(0, 1)), NormalizeHEStains().max_cref, rtol=0.1)


def test_what_is_normal_already_stays():
    """An image of the reference's stains, as dense as those, differs by rounding and by the estimate."""
    usual = NormalizeHEStains()
    amounts = np.random.default_rng(0).gamma(2.0, 0.4, (200, 200, 2))
    amounts *= usual.max_cref / np.percentile(amounts, 99, axis=(0, 1))
    pixels = (240 * np.exp(-amounts @ np.array(usual.target_he).T) - 1).clip(0, 255).astype(np.uint8)
    assert np.abs(StainNormalization.fit(pixels)(pixels).astype(int) - pixels).mean() < 5


def test_colors_are_estimated_from_the_finest_patches_that_hold_tissue():
    """The right half is glass. Of the patches of the left half 32 are looked at, evenly chosen."""
    pixels = np.full((80, 64, 3), 255, np.uint8)
    pixels[:, :32] = stained_picture(size=(80, 32))
    pyramid = pyramid_of(pixels, aligned=True)
    known = pyramid.with_tissue(find_tissue(pyramid))
    finest = range(*known.geometry.offsets[-2:])
    held = [cell for cell in finest if known.tissue_cells()[cell]]
    assert 32 < len(held) < len(finest)
    chosen = [held[round(place)] for place in np.linspace(0, len(held) - 1, 32)]
    expected = StainNormalization.fit(np.concatenate(list(pyramid.read(chosen).transpose(0, 2, 3, 1))))
    assert NormalizePyramidStain()(pyramid).normalization == expected
    assert NormalizePyramidStain()(known).normalization == expected


def test_two_stainings_of_one_tissue_become_alike():
    """Differences of the slides' own amounts go away: what the normalization is for."""
    pale = stained_picture(strength=0.5)
    dark = stained_picture(strength=1.0)
    before = np.abs(pale.astype(int) - dark).mean()
    normalize = NormalizePyramidStain()
    thumbnails = [normalize(pyramid_of(pixels)).thumbnail((40, 48)).astype(int) for pixels in (pale, dark)]
    assert np.abs(thumbnails[0] - thumbnails[1]).mean() < before / 5


def test_thumbnail_and_patches_are_mapped_by_the_same_map():
    plain = pyramid_of(stained_picture())
    normalized = NormalizePyramidStain()(plain)
    of_pixels = normalized.normalization
    cells = range(len(plain.read(range(13))))
    for view, normal in ((plain, normalized), (plain.oriented(5), normalized.oriented(5))):
        expected = of_pixels(view.read(cells).transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(normal.read(cells), expected)
        expected = of_pixels(view.thumbnail((10, 12)).transpose(1, 2, 0)).transpose(2, 0, 1)
        np.testing.assert_array_equal(normal.thumbnail((10, 12)), expected)
    part = normalized.cropped((8, 8), (16, 16))
    np.testing.assert_array_equal(
        part.read([0]), of_pixels(plain.cropped((8, 8), (16, 16)).read([0]).transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    )


def test_a_random_stain_comes_after_it():
    stain = StainMap((1.1, 0.9, 1.0), (0.01, 0.0, 0.0))
    normalized = NormalizePyramidStain()(pyramid_of(stained_picture()))
    expected = stain(normalized.thumbnail((10, 12)).transpose(1, 2, 0)).transpose(2, 0, 1)
    np.testing.assert_array_equal(normalized.stained(stain).thumbnail((10, 12)), expected)


def test_it_is_estimated_from_the_image_as_it_is_stored():
    """So it does not depend on what was changed before."""
    pyramid = pyramid_of(stained_picture())
    normalize = NormalizePyramidStain()
    first = normalize(pyramid).normalization
    changed = normalize(pyramid).oriented(3).stained(StainMap((1.2, 1.0, 1.0)))
    assert normalize(changed).normalization == first


def test_features_are_kept_by_it():
    """A normalized view has a key, which is that of no other view, and the same in the next run."""
    plain = pyramid_of(stained_picture(), identity="one")
    normalize = NormalizePyramidStain()
    keys = {plain.key, normalize(plain).key, normalize(pyramid_of(stained_picture(strength=0.9), identity="one")).key}
    assert None not in keys
    assert len(keys) == 3
    assert normalize(plain).key == normalize(pyramid_of(stained_picture(), identity="one")).key
    assert plain.key == pyramid_of(stained_picture(), identity="one").key


@pytest.mark.parametrize(
    ("color", "reason"),
    [
        ((255, 255, 255), "no tissue found"),
        ((200, 100, 150), "its stains cannot be normalized: hematoxylin and eosin cannot be told apart in it"),
    ],
)
def test_a_picture_without_two_stains_is_an_error_that_names_it(color, reason):
    pixels = np.full((40, 48, 3), color, np.uint8)
    with pytest.raises(ValueError, match=f"slide.tif: {reason}"):
        NormalizePyramidStain()(pyramid_of(pixels))


def test_another_method_is_refused():
    with pytest.raises(ValueError, match="unknown stain normalization 'reinhard'; choose 'macenko'"):
        NormalizePyramidStaind("image", "reinhard")


def test_the_dictionary_form_does_the_same():
    pyramid = pyramid_of(stained_picture())
    item = NormalizePyramidStaind(["image", "other"], allow_missing_keys=True)({"image": pyramid, "name": 1})
    assert item["image"].normalization == NormalizePyramidStain()(pyramid).normalization
    assert item["name"] == 1


@pytest.mark.parametrize("make", [tiny_net, mil_net])
def test_a_network_sees_images_as_in_its_training(make):
    plain = pyramid_of(stained_picture())
    normalized = NormalizePyramidStain()(plain)
    thumbnail = torch.from_numpy(normalized.thumbnail((16, 16)))[None]
    trained = make(stain_norm="macenko").eval()
    other = make().eval()
    assert trained(thumbnail, PyramidBatch([normalized])).shape == (1, 3)
    with pytest.raises(ValueError, match="slide.tif: its stain normalization is None, but that of the network macenko"):
        trained(thumbnail, PyramidBatch([plain]))
    with pytest.raises(ValueError, match="slide.tif: its stain normalization is macenko, but that of the network None"):
        other(thumbnail, PyramidBatch([normalized]))
    with pytest.raises(ValueError, match="give 'pyramid'"):
        trained(torch.rand(1, 3, 40, 48))


def test_it_travels_with_the_weights():
    trained = tiny_net(stain_norm="macenko")
    weights = trained.state_dict()
    tiny_net(stain_norm="macenko").load_state_dict(weights)
    with pytest.raises(ValueError, match="stain_norm"):
        tiny_net().load_state_dict(weights)
    with pytest.raises(ValueError, match="unknown stain_norm 'vahadane'"):
        tiny_net(stain_norm="vahadane")


def test_weights_of_before_were_trained_without():
    weights = tiny_net().state_dict()
    network = tiny_net(stain_norm="macenko")
    del weights["trained_with"]
    with pytest.raises(ValueError, match="stain_norm"):
        network.load_state_dict(weights)


def test_orientations_do_not_change_it():
    pixels = stained_picture()
    turned = NormalizePyramidStain()(pyramid_of(pixels)).oriented(6).thumbnail((48, 40))
    as_stored = NormalizePyramidStain()(pyramid_of(pixels)).thumbnail((40, 48))
    np.testing.assert_array_equal(turned.transpose(1, 2, 0), orient(as_stored.transpose(1, 2, 0), 6))
