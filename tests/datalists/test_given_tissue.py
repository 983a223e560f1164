# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A mask takes the place of the search for tissue: its pixels lie where they should, and a wrong one is an error."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from slide_files import levels_of, write_pyramid

from monai_jsma.__main__ import main
from monai_jsma.datalists import find_tissue, load_datalist, whole_slide_items
from monai_jsma.datalists.given_tissue import read_given_tissue
from monai_jsma.geometry import Box
from monai_jsma.transforms import FindTissue, FindTissued, LoadPyramid

SIZE = (512, 384)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """A gray slide, on which no tissue is found, of 8 um per pixel."""
    path = tmp_path_factory.mktemp("slide") / "a.tif"
    pixels = np.full((*SIZE, 3), 128, np.uint8)
    return write_pyramid(path, levels_of(pixels, (2,)), compression="zlib", mpp=8.0)


def write_mask(path, factor=4, box=(128, 64, 256, 128)):
    """A mask that is coarser by a factor, with tissue in a box (row, column, height, width) of level 0."""
    mask = np.zeros((SIZE[0] // factor, SIZE[1] // factor), np.uint8)
    row, col, height, width = (value // factor for value in box)
    mask[row : row + height, col : col + width] = 1
    Image.fromarray(mask).save(path)
    return str(path)


def write_outline(path, frame=None):
    ring = [[64, 128], [192, 128], [192, 384], [64, 384], [64, 128]]
    hole = [[96, 256], [128, 256], [128, 288], [96, 288], [96, 256]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring, hole]}, "properties": {}}
    content = {"type": "FeatureCollection", "features": [feature], **({"frame": frame} if frame else {})}
    path.write_text(json.dumps(content))
    return str(path)


def test_an_image_is_sampled_at_the_centers_of_pixels(tmp_path):
    """By a loop over pixels, in windows inside and beside the scanned part, at other resolutions."""
    rng = np.random.default_rng(0)
    mask = rng.random((20, 30)) < 0.5
    Image.fromarray(mask).save(tmp_path / "mask.png")
    bounds = Box(40, 60, 200, 300)
    for window, shape in ((Box(0, 0, 400, 500), (37, 41)), (Box(90, 70, 120, 160), (48, 16)), (bounds, (20, 30))):
        found = read_given_tissue(tmp_path / "mask.png", window, shape, size=(400, 500), bounds=bounds)
        for i, j in np.ndindex(shape):
            row = window.row + (i + 0.5) * window.height / shape[0] - bounds.row
            col = window.col + (j + 0.5) * window.width / shape[1] - bounds.col
            is_inside = 0 <= row < bounds.height and 0 <= col < bounds.width
            assert found[i, j] == (is_inside and mask[int(row // 10), int(col // 10)])
    assert np.array_equal(found, mask)


def test_outlines_are_filled_but_for_their_holes(tmp_path):
    path = write_outline(tmp_path / "a.geojson")
    found = read_given_tissue(path, Box(0, 0, *SIZE), (128, 96), size=SIZE)
    expected = np.zeros((128, 96), bool)
    expected[32:96, 16:48] = True
    expected[64:72, 24:32] = False
    assert np.array_equal(found, expected)
    moved = read_given_tissue(path, Box(0, 0, 600, 500), (150, 125), size=(600, 500), bounds=Box(40, 60, *SIZE))
    assert np.array_equal(moved[10:138, 15:111], expected)
    canvas = read_given_tissue(
        write_outline(tmp_path / "b.geojson", "canvas"),
        Box(0, 0, *SIZE),
        (128, 96),
        size=SIZE,
        bounds=Box(8, 8, 400, 300),
    )
    assert np.array_equal(canvas, expected)


@pytest.mark.parametrize("write", [write_mask, write_outline])
def test_the_mask_of_an_item_is_used_where_none_is_found(slide, tmp_path, write):
    mask = write(tmp_path / ("mask.png" if write is write_mask else "mask.geojson"))
    pyramid = LoadPyramid([8.0], patch_size=64)(slide)
    with pytest.raises(ValueError, match="no tissue found"):
        FindTissue()(pyramid)
    tissue = FindTissue()(pyramid, mask).tissue
    assert tissue.mask[200, 70]
    assert not tissue.mask[100, 70]
    item = FindTissued("image")({"image": pyramid, "mask": mask})
    assert np.array_equal(item["image"].tissue.mask, tissue.mask)
    assert np.array_equal(find_tissue(pyramid.oriented(3), mask=mask).mask, tissue.mask)
    regions, faults = whole_slide_items([{"image": slide, "mask": mask}], (64, 64), 8.0)
    assert not faults
    assert {(r["location"][0] // 64, r["location"][1] // 64) for r in regions} == {
        (r, c) for r in range(2, 6) for c in (1, 2)
    }


def test_paths_of_masks_are_relative_to_the_images(slide, tmp_path, capsys):
    write_mask(tmp_path / "mask.png")
    path = tmp_path / "datalist.json"
    item = {"image": slide, "mask": "mask.png", "mask_frame": "canvas"}
    path.write_text(json.dumps({"test": [item]}))
    (loaded,) = load_datalist(path, "test")
    assert loaded["mask"] == str(tmp_path / "mask.png")
    assert main(["verify", str(path)]) == 0
    path.write_text(json.dumps({"test": [{**item, "mask": "other.png"}]}))
    with pytest.raises(FileNotFoundError, match="other.png"):
        load_datalist(path, "test")
    assert main(["verify", str(path)]) == 1
    path.write_text(json.dumps({"test": [{**item, "mask_frame": "corner"}]}))
    with pytest.raises(ValueError, match="'bounds'"):
        load_datalist(path, "test")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: write_mask(p, box=(0, 0, 0, 0)), "marks no tissue"),
        (lambda p: Image.new("L", (128, 96), 1).save(p), "does not have the shape of the slide's 512 x 384"),
        (lambda p: p.write_bytes(b"no image"), "the mask cannot be read"),
        (lambda p: None, "there is no such mask"),
    ],
)
def test_a_wrong_mask(tmp_path, make, message):
    path = tmp_path / "mask.png"
    make(path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_given_tissue(path, Box(0, 0, *SIZE), (64, 48), size=SIZE)


def test_a_lossy_mask_is_refused(tmp_path):
    Image.new("L", (96, 128), 1).save(tmp_path / "mask.jpg")
    with pytest.raises(ValueError, match="a mask is a file without losses"):
        read_given_tissue(tmp_path / "mask.jpg", Box(0, 0, *SIZE), (64, 48), size=SIZE)
