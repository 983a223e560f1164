# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Any box at any magnification of one picture, in the form of each reader: the same patch, and the true average.

Sizes are (height, width), boxes (row, column, height, width) in level-0 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyramid_cases import in_blocks
from slide_files import HAS_CUCIM, picture, write_pyramid

from monai_jsma.data import Pyramid
from monai_jsma.transforms import LoadPyramid

READERS = ["tifffile", "openslide", "pil"] + ["cucim"] * HAS_CUCIM
SIZE, MPP = (160, 208), 0.5
HALF = 0.5 + 1e-3  # of a grey level: rounding, and edges that snap to a pixel's border 1e-6 away
NEAR = 12  # grey levels: pixels of a level lie across those of the patch, and hold the mean of both sides
BLENDED = 40  # the same, of pixels that OpenSlide has mixed with their neighbours


def average(pixels: np.ndarray, box: Sequence[float], size: Sequence[int]) -> np.ndarray:
    """Mean of all that each pixel of the result covers, in float64: ``(*size, 3)``."""
    parts = []
    for start, length, out, full in zip(box[:2], box[2:], size, pixels.shape):
        edges, pixel = start + np.arange(out + 1) * length / out, np.arange(full)
        shared = np.minimum(pixel + 1, edges[1:, None]) - np.maximum(pixel, edges[:-1, None])
        parts.append(np.clip(shared, 0, None) / (length / out))
    return np.einsum("ry,yxk,cx->rck", parts[0], pixels.astype(np.float64), parts[1], optimize=True)


def true_patch(it: Pyramid, pixels: np.ndarray, cell: int) -> np.ndarray:
    """The patch of a cell as floats: white beyond a region that is smaller than a patch."""
    g, box = it.geometry, it.box(cell)
    size, p, corner = g.level_sizes[g.cell(cell).level], g.patch_size, g.level_box(cell)[:2]
    inside = [int(min(p, size[i] - corner[i])) for i in (0, 1)]
    patch = np.full((p, p, 3), 255.0)
    covered = (box.row, box.col, box.height * inside[0] / p, box.width * inside[1] / p)
    patch[: inside[0], : inside[1]] = average(pixels, covered, inside)
    return patch.transpose(2, 0, 1)


@st.composite
def views(draw: st.DrawFn) -> tuple[tuple[float, int], dict[str, tuple[int, int]], tuple[int, int]]:
    """A spacing and a size of patches, any region, and a size for its thumbnail."""
    row, col = (draw(st.integers(0, full - 1)) for full in SIZE)
    size = draw(st.integers(1, SIZE[0] - row)), draw(st.integers(1, SIZE[1] - col))
    mpp, patch = draw(st.floats(0.48, 8)), draw(st.integers(5, 40))
    return (mpp, patch), {"location": (row, col), "size": size}, (draw(st.integers(1, 30)), draw(st.integers(1, 30)))


def store(folder: Path, levels: Sequence[np.ndarray]) -> tuple[dict[str, Path], np.ndarray]:
    """The picture as a pyramid and as PNG, which file each reader gets, and level 0."""
    write_pyramid(folder / "a.tif", levels)
    Image.fromarray(levels[0]).save(folder / "a.png")
    return {reader: folder / ("a.png" if reader == "pil" else "a.tif") for reader in READERS}, levels[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], np.ndarray]:
    """Downsamples 2 and 4 of a picture in blocks, so that every level holds the same picture without rounding."""
    return store(tmp_path_factory.mktemp("whole"), in_blocks(*SIZE, (2, 4)))


@pytest.fixture(scope="module")
def fractional(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Path], np.ndarray]:
    """Downsamples 2.03 and 4.3 of a smooth picture, each level its rounded average."""
    pixels = picture(*SIZE)
    levels = [average(pixels, (0, 0, *SIZE), (int(SIZE[0] / d), int(SIZE[1] / d))).round() for d in (2.03, 4.3)]
    return store(tmp_path_factory.mktemp("fractional"), [pixels, *(level.astype(np.uint8) for level in levels)])


def read_all(paths: dict[str, Path], view: tuple) -> dict[str, tuple[Pyramid, np.ndarray, np.ndarray]]:
    """Per reader the pyramid, the patches of all cells and the thumbnail."""
    (mpp, patch), region, thumbnail = view
    pyramids = {reader: LoadPyramid([mpp], patch, reader)(path, mpp=MPP, **region) for reader, path in paths.items()}
    return {r: (it, it.read(range(it.geometry.num_cells)), it.thumbnail(thumbnail)) for r, it in pyramids.items()}


@settings(deadline=None, max_examples=60)
@given(views())
def test_every_reader_gives_the_average_of_the_box(whole, view):
    paths, pixels = whole
    for it, patches, thumbnail in read_all(paths, view).values():
        expected = [true_patch(it, pixels, cell) for cell in range(it.geometry.num_cells)]
        assert np.abs(patches - np.array(expected)).max() <= HALF
        region = average(pixels, (*it.origin, *it.geometry.size), thumbnail.shape[1:]).transpose(2, 0, 1)
        assert np.abs(thumbnail - region).max() <= HALF


@settings(deadline=None, max_examples=60)
@given(views())
def test_levels_between_pixels(fractional, view):
    """cuCIM and tifffile read the same level; OpenSlide, which would blend it, reads level 0 like a plain picture."""
    paths, pixels = fractional
    found = read_all(paths, view)
    it, patches, thumbnail = found["tifffile"]
    if HAS_CUCIM:
        np.testing.assert_array_equal(found["cucim"][1], patches)
        np.testing.assert_array_equal(found["cucim"][2], thumbnail)
    np.testing.assert_array_equal(found["openslide"][1], found["pil"][1])
    expected = np.array([true_patch(it, pixels, cell) for cell in range(it.geometry.num_cells)])
    assert np.abs(found["pil"][1] - expected).max() <= HALF
    assert np.abs(patches - expected).max() <= NEAR
    assert np.abs(thumbnail - found["pil"][2].astype(int)).max() <= NEAR
    assert np.abs(found["openslide"][2] - found["pil"][2].astype(int)).max() <= BLENDED
