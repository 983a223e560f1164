# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The transforms alone: what they make of a file, how they draw, and that a seed repeats it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform, RandomizableTransform
from PIL import Image
from pyramid_cases import noise, slow_patch, slow_thumbnail
from slide_files import picture, write_pyramid

from monai_jsma import transforms
from monai_jsma.data import ArrayReader, Pyramid, SlideError
from monai_jsma.transforms import (
    LoadPyramid,
    LoadPyramidd,
    PyramidThumbnail,
    PyramidThumbnaild,
    RandPyramidOrientationd,
    RandPyramidStaind,
)

NAMES = ["LoadPyramid", "PyramidThumbnail", "RandPyramidOrientation", "RandPyramidStain"]
MAGNIFICATIONS = (1.0, 0.5)


def pyramid_of(height=40, width=40, seed=0) -> Pyramid:
    """A region of that size, two rows below the top of its file."""
    reader = ArrayReader(noise(height + 2, width, seed))
    return Pyramid(reader, mpp=0.5, magnifications=MAGNIFICATIONS, patch_size=8, path=f"{seed}.png", origin=(2, 0))


@pytest.fixture
def png(tmp_path) -> str:
    Image.fromarray(picture(50, 70)).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


@pytest.mark.parametrize("name", NAMES)
def test_pairs_and_aliases(name):
    array, dictionary = getattr(transforms, name), getattr(transforms, f"{name}d")
    assert getattr(transforms, f"{name}D") is getattr(transforms, f"{name}Dict") is dictionary
    assert {name, f"{name}d", f"{name}D", f"{name}Dict"} <= set(transforms.__all__)
    assert issubclass(dictionary, MapTransform)
    assert array.backend == dictionary.backend
    for one in (array, dictionary):
        assert issubclass(one, RandomizableTransform) == name.startswith("Rand")
        assert not issubclass(one, InvertibleTransform)
        assert not hasattr(one, "inverse")


# --------------------------------------------------------------------------------------------------------------- load


@pytest.mark.parametrize("as_type", [str, Path])
def test_load(png, as_type):
    it = LoadPyramid(MAGNIFICATIONS, 8)(as_type(png), mpp=0.5, location=(3, 4), size=(40, 50))
    assert (it.path, it.mpp, it.mpp_source, it.origin) == (png, 0.5, "given", (3, 4))
    assert it.geometry.size == (40, 50)
    assert it.geometry.patch_size == 8
    assert [m.mpp for m in it.geometry.magnifications] == [1.0, 0.5]
    np.testing.assert_array_equal(it.read([9])[0], slow_patch(it, [picture(50, 70)], 9))


def test_load_takes_region_and_spacing_from_the_item(png):
    item = {"image": png, "mpp": 0.5, "location": [3, 4], "size": [40, 50], "label": 1}
    same = {"image": png, "um": 0.5, "at": [3, 4], "extent": [40, 50], "mpp": 9.0}
    for loader, data in (
        (LoadPyramidd("image", MAGNIFICATIONS, 8), item),
        (LoadPyramidd("image", MAGNIFICATIONS, 8, mpp_key="um", location_key="at", size_key="extent"), same),
    ):
        loaded = loader(data)
        assert loaded.keys() == data.keys()
        assert data["image"] == png  # the item that came in is left alone
        it = loaded["image"]
        assert (it.mpp, it.origin, it.geometry.size) == (0.5, (3, 4), (40, 50))
    assert LoadPyramidd("image", MAGNIFICATIONS, 8)({"image": png, "mpp": 0.4})["image"].geometry.size == (50, 70)


def test_load_takes_the_spacing_of_the_file(tmp_path):
    path = write_pyramid(tmp_path / "slide.tif", [picture(50, 70)], aperio_mpp=0.499)
    it = LoadPyramid(MAGNIFICATIONS)(path)
    assert (it.mpp, it.mpp_source) == (0.499, "Aperio MPP")
    assert LoadPyramid(MAGNIFICATIONS)(path, mpp=0.4).mpp == 0.4
    for reader, name in (("tifffile", "TiffReader"), ("openslide", "OpenSlideReader")):
        assert type(LoadPyramid(MAGNIFICATIONS, reader=reader)(path).reader).__name__ == name


def test_load_takes_no_region_that_may_lie_elsewhere(png):
    load = LoadPyramid(MAGNIFICATIONS, 8)
    for options, message in [
        ({"location": (3, 4)}, r"a\.png: 'location' \(3, 4\) is without 'size'"),
        ({"location": (3.5, 4), "size": (10, 10)}, r"a\.png: 'location' must be two whole numbers .* \(3\.5, 4\)"),
        ({"location": (3, 4), "size": 10}, r"a\.png: 'size' must be two whole numbers .* but is 10"),
    ]:
        with pytest.raises(ValueError, match=message):
            load(png, mpp=0.5, **options)
    for pair in (np.array, torch.tensor):
        region = load(png, mpp=0.5, location=pair([3, 4]), size=pair([40, 50]))
        assert (region.origin, region.geometry.size) == ((3, 4), (40, 50))
    corner = load(png, mpp=0.5, size=(20, 30))
    assert (corner.origin, corner.geometry.size) == ((0, 0), (20, 30))


@pytest.mark.parametrize(
    "keys", [{"level": 0}, {"level": torch.tensor(1)}, {"patch_level": 2}, {"patch_size": [20, 20]}, {"level": [0]}]
)
def test_an_item_of_monai_is_not_read_at_another_place(png, keys):
    """Locations of PatchWSIDataset are centers, its sizes count pixels of a level."""
    load = LoadPyramidd("image", MAGNIFICATIONS, 8)
    item = {"image": png, "mpp": 0.5, "location": [25, 30], "size": [20, 20]}
    assert load({**item, "level": "100X"})["image"].origin == (25, 30)  # the true magnification of a synthetic image
    (name,) = keys
    message = rf"a\.png: 'location' with '{name}' .* MONAI's PatchWSIDataset, .* center .*leave '{name}' out"
    with pytest.raises(ValueError, match=message):
        load({**item, **keys})
    load_other = LoadPyramidd("image", MAGNIFICATIONS, 8, location_key="at", size_key="extent")
    with pytest.raises(ValueError, match="'at' with"):
        load_other({"image": png, "mpp": 0.5, "at": [25, 30], "extent": [20, 20], **keys})
    assert load({"image": png, "mpp": 0.5, **keys})["image"].geometry.size == (50, 70)  # all of the image
    with pytest.raises(ValueError, match=r"a\.png: 'patch_location' \[9, 9\], .* give 'location' \(row, column\)"):
        load({"image": png, "mpp": 0.5, "patch_location": [9, 9], **keys})


def test_load_errors_name_file_value_and_way_out(png, tmp_path):
    load = LoadPyramid(MAGNIFICATIONS, 8)
    (tmp_path / "text.png").write_text("no picture")
    for error, match, path, options in [
        (FileNotFoundError, r"gone\.png: there is no such file; correct the path", tmp_path / "gone.png", {}),
        (SlideError, r"text\.png: no reader can open it .*check that it is one", tmp_path / "text.png", {"mpp": 0.5}),
        (ValueError, r"a\.png: the file does not tell its spacing; give 'mpp' \(um/px of level 0\)", png, {}),
        (ValueError, r"a\.png: 200X \(0\.5 um/px\) is finer than the file's 0\.6 um/px \(given\)", png, {"mpp": 0.6}),
        (ValueError, r"a\.png: the region at .*\(1, 0\) .*\(50, 70\) leaves .*correct 'loc", png,
         {"mpp": 0.5, "location": (1, 0), "size": (50, 70)}),
    ]:  # fmt: skip
        with pytest.raises(error, match=match):
            load(path, **options)
    assert LoadPyramid((0.3,), 8, max_upsampling=2.0)(png, mpp=0.6).geometry.level_sizes == ((100, 140),)


def test_a_spacing_that_was_turned_down_is_told(tmp_path):
    Image.fromarray(picture(50, 70)).save(tmp_path / "screen.png", dpi=(72, 72))
    with pytest.raises(ValueError, match=r"screen\.png: the file does not tell its spacing \(.*352\.73 um/px.*\); g"):
        LoadPyramid(MAGNIFICATIONS)(tmp_path / "screen.png")


def test_default_spacing_is_for_files_that_tell_none(png, tmp_path):
    Image.fromarray(picture(50, 70)).save(tmp_path / "screen.png", dpi=(72, 72))
    slide = write_pyramid(tmp_path / "slide.tif", [picture(50, 70)], aperio_mpp=0.499)
    load = LoadPyramid(MAGNIFICATIONS, 8, default_mpp=0.5)
    dictionary = LoadPyramidd("image", MAGNIFICATIONS, 8, default_mpp=0.5)
    for path, mpp, expected in [
        (png, None, (0.5, "default")),
        (tmp_path / "screen.png", None, (0.5, "default")),  # 352 um per pixel is not credible
        (slide, None, (0.499, "Aperio MPP")),
        (png, 0.4, (0.4, "given")),
        (slide, 0.4, (0.4, "given")),
    ]:
        for it in (load(path, mpp=mpp), dictionary({"image": path, "mpp": mpp})["image"]):
            assert (it.mpp, it.mpp_source) == expected
    with pytest.raises(ValueError, match="default_mpp"):
        LoadPyramid(MAGNIFICATIONS, default_mpp=352.8)


# ---------------------------------------------------------------------------------------------------------- thumbnail


def test_thumbnail_and_its_metadata():
    it = pyramid_of(40, 60).oriented(5)
    image = PyramidThumbnail((10, 8))(it)
    assert isinstance(image, MetaTensor)
    assert image.dtype == torch.uint8
    np.testing.assert_array_equal(image.numpy(), it.thumbnail((10, 8)))
    assert image.meta["filename_or_obj"] == "0.png"
    assert (image.meta["mpp"], image.meta["mpp_source"], image.meta["orientation"]) == (0.5, "given", 5)
    assert image.meta["location"].tolist() == [2, 0]
    assert image.meta["size"].tolist() == [60, 40]  # as oriented
    # Orientation 5 transposes, then reverses columns: 40 rows are 8 columns, from below; 60 columns are 10 rows.
    assert image.affine.tolist() == [[0, -5, 0, 39], [6, 0, 0, 2.5], [0, 0, 1, 0], [0, 0, 0, 1]]
    np.testing.assert_array_equal(
        PyramidThumbnail([10, 8])(pyramid_of()).numpy(), slow_thumbnail(pyramid_of(), [noise(42, 40)], (10, 8))
    )


@pytest.mark.parametrize("orientation", range(8))
@pytest.mark.parametrize("crop", [None, ((6, 12), (24, 36))])
def test_affine_takes_thumbnail_pixels_to_level_0(orientation, crop):
    """Each pixel of level 0 holds its own row or column: a thumbnail's mean is the center of the pixels under it."""
    rows, cols = np.mgrid[:50, :60]
    pixels = np.stack([rows, cols, rows], axis=2).astype(np.uint8)
    it = Pyramid(ArrayReader(pixels), mpp=0.5, magnifications=(0.5,), patch_size=8, origin=(2, 0), size=(48, 60))
    it = it.oriented(orientation)
    if crop is not None:
        it = it.cropped(*crop)
    height, width = it.geometry.size
    image = PyramidThumbnail((height // 3, width // 3))(it)  # means of 3 x 3 pixels are whole numbers
    for row in range(height // 3):
        for col in range(width // 3):
            place = image.affine @ torch.tensor([row, col, 0, 1.0], dtype=torch.float64)
            assert place[:2].tolist() == pytest.approx(image[:2, row, col].tolist())
    assert image.pixdim[:2].tolist() == [3, 3]


def test_affine_of_a_region_at_level_0_is_its_place():
    it = Pyramid(ArrayReader(noise(9, 9)), mpp=0.5, magnifications=(0.5,), patch_size=2, origin=(4, 3), size=(4, 5))
    affine = PyramidThumbnail((4, 5))(it).affine
    assert affine.tolist() == [[1, 0, 0, 4], [0, 1, 0, 3], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_thumbnails_of_several_pictures():
    a, b = pyramid_of(seed=1), pyramid_of(seed=2)
    data = PyramidThumbnaild(["he", "ihc"], (5, 5), ["he_pyramid", "ihc_pyramid"])({"he": a, "ihc": b, "label": 3})
    assert data.keys() == {"he", "ihc", "he_pyramid", "ihc_pyramid", "label"}
    assert data["he_pyramid"] is a
    assert data["ihc_pyramid"] is b
    assert [data[key].meta["filename_or_obj"] for key in ("he", "ihc")] == ["1.png", "2.png"]
    np.testing.assert_array_equal(data["ihc"].numpy(), b.thumbnail((5, 5)))
    assert PyramidThumbnaild("image", (5, 5))({"image": a})["pyramid"] is a
    with pytest.raises(ValueError, match=r"2 keys need as many pyramid_key names, but got \('pyramid',\)"):
        PyramidThumbnaild(["he", "ihc"], (5, 5))


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda **options: LoadPyramidd(["a", "b"], MAGNIFICATIONS, 8, **options), "png"),
        (lambda **options: PyramidThumbnaild(["a", "b"], (5, 5), ["a_pyramid", "b_pyramid"], **options), pyramid_of()),
        (lambda **options: RandPyramidOrientationd(["a", "b"], **options), pyramid_of()),
        (lambda **options: RandPyramidStaind(["a", "b"], **options), pyramid_of()),
    ],
)
def test_missing_keys(png, make, value):
    data = {"b": png if isinstance(value, str) else value, "mpp": 0.5}
    with pytest.raises(KeyError, match="`a`.*allow_missing_keys"):
        make()(data)
    result = make(allow_missing_keys=True)(data)
    assert result.keys() - {"b_pyramid"} == data.keys()
    assert result["b"] is not data["b"]


# -------------------------------------------------------------------------------------------------------- whole images


@pytest.mark.parametrize(("height", "width"), [(50, 70), (70, 50), (64, 64), (333, 20), (9, 12), (16, 16), (1, 300)])
def test_an_image_of_any_size_is_one_patch(tmp_path, height, width):
    pixels = noise(height, width, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for load, source in ((LoadPyramid, str(tmp_path / "a.png")), (LoadPyramid, pixels)):
        pyramid = load(MAGNIFICATIONS, 16, whole_image=True)(source, 0.5)
        geometry = pyramid.geometry
        assert geometry.grids == ((1, 1),)
        assert geometry.spacings == pytest.approx((max(0.5 * max(height, width) / 16, 0.5),))
        assert max(geometry.level_sizes[0]) == min(16, max(height, width))
        np.testing.assert_array_equal(pyramid.read([0])[0], slow_patch(pyramid, [pixels], 0))
        rows, cols = geometry.level_sizes[0]
        assert (pyramid.read([0])[0, :, rows:] == 255).all()
        assert (pyramid.read([0])[0, :, :, cols:] == 255).all()


def test_a_region_is_one_patch(png):
    item = {"image": png, "mpp": 0.5, "location": (8, 4), "size": (32, 40)}
    pyramid = LoadPyramidd("image", MAGNIFICATIONS, 16, whole_image=True)(item)["image"]
    assert pyramid.geometry.level_sizes == ((13, 16),)
    assert tuple(pyramid.box(0))[:2] == (8, 4)
