# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A plain picture and its tiled pyramid show the same, and no half or foreign file is taken for one."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import tifffile
from slide_files import overwrite, picture, tile_range

from monai_jsma.data import inspect_slide
from monai_jsma.slides import convert as tiled_module
from monai_jsma.slides.convert import tile_image
from monai_jsma.slides.errors import SlideError
from monai_jsma.transforms import LoadPyramid


def means(pixels: np.ndarray, by: int) -> np.ndarray:
    """Mean of boxes of ``by`` x ``by`` pixels, halves rounded up."""
    height, width = pixels.shape[0] // by, pixels.shape[1] // by
    boxes = pixels.astype(int).reshape(height, by, width, by, 3)
    return np.floor(boxes.sum((1, 3)) / by**2 + 0.5).astype(np.uint8)


@pytest.fixture
def source(tmp_path):
    pixels = picture(384, 600)
    tifffile.imwrite(tmp_path / "b001.tif", pixels, photometric="rgb", rowsperstrip=7)
    return tmp_path / "b001.tif", pixels


def test_levels_pixels_and_spacing(tmp_path, source):
    path, pixels = source
    out = tmp_path / "out" / "b001.tif"
    assert tile_image(path, out, 0.42)
    with tifffile.TiffFile(out) as tif:
        assert all(page.is_tiled and page.compression == 1 for page in tif.pages)
        for page, by in zip(tif.pages, (1, 2, 4), strict=True):
            np.testing.assert_array_equal(page.asarray(), means(pixels, by))
    info = inspect_slide(out)
    assert info.lazy
    assert info.reader == ("cucim" if importlib.util.find_spec("cucim") else "tifffile")
    assert (info.mpp, info.mpp_source) == (pytest.approx(0.42, rel=1e-7), "TIFF resolution")
    assert [p.name for p in out.parent.iterdir()] == ["b001.tif"]


def test_patches_and_thumbnail_are_those_of_the_plain_picture(tmp_path, source):
    path, _ = source
    tile_image(path, tmp_path / "tiled.tif", 0.42)
    load = LoadPyramid((1.68, 0.84, 0.42), 64)
    flat, lazy = load(path, mpp=0.42), load(tmp_path / "tiled.tif")
    assert flat.geometry == lazy.geometry
    cells = range(flat.geometry.num_cells)
    np.testing.assert_array_equal(flat.read(cells), lazy.read(cells))
    np.testing.assert_allclose(flat.thumbnail((48, 75)).astype(int), lazy.thumbnail((48, 75)), atol=1)


@pytest.mark.parametrize(("size", "levels"), [((6, 10), 2), ((5, 8), 1), ((8, 12), 3)])
def test_only_levels_that_divide_the_picture(tmp_path, size, levels):
    tifffile.imwrite(tmp_path / "a.tif", picture(*size), photometric="rgb")
    tile_image(tmp_path / "a.tif", tmp_path / "b.tif", 1.0)
    assert inspect_slide(tmp_path / "b.tif").level_sizes == tuple(
        (size[0] // 2**i, size[1] // 2**i) for i in range(levels)
    )


def test_twice_gives_the_same_bytes_and_a_finished_one_is_left_alone(tmp_path, source):
    path, _ = source
    assert tile_image(path, tmp_path / "1.tif", 0.42)
    assert tile_image(path, tmp_path / "2.tif", 0.42)
    assert (tmp_path / "1.tif").read_bytes() == (tmp_path / "2.tif").read_bytes()
    before = (tmp_path / "1.tif").stat().st_mtime_ns
    assert not tile_image(path, tmp_path / "1.tif", 0.42)
    assert (tmp_path / "1.tif").stat().st_mtime_ns == before


def test_what_is_there_is_never_overwritten(tmp_path, source):
    path, _ = source
    out = tmp_path / "out.tif"
    tile_image(path, out, 0.42)
    with pytest.raises(ValueError, match=r"out\.tif: is no pyramid of .*b001\.tif \(its spacing is 0\.42"):
        tile_image(path, out, 0.5)
    offset, _ = tile_range(out, 1, 0)
    overwrite(out, offset + 1000, b"\xff\x00\xff")
    damaged = out.read_bytes()
    with pytest.raises(ValueError, match=r"out\.tif: is no pyramid of .*\(level 1 has other pixels\); remove it"):
        tile_image(path, out, 0.42)
    assert out.read_bytes() == damaged
    with pytest.raises(ValueError, match="would overwrite the image itself"):
        tile_image(path, path, 0.42)
    out.write_bytes(b"notes")
    with pytest.raises(ValueError, match=r"out\.tif: is no pyramid of"):
        tile_image(path, out, 0.42)


def test_a_write_that_fails_leaves_nothing(tmp_path, source, monkeypatch):
    path, _ = source
    write = tiled_module._write

    def damage(part, levels, mpp):
        write(part, levels, mpp)
        overwrite(part, tile_range(part, 0, 1)[0] + 5, b"\x01\x02")

    monkeypatch.setattr(tiled_module, "_write", damage)
    with pytest.raises(SlideError, match=r"out\.tif: was not written correctly \(level 0 has other pixels\)"):
        tile_image(path, tmp_path / "out.tif", 0.42)
    assert [p.name for p in tmp_path.iterdir()] == ["b001.tif"]
    monkeypatch.undo()
    (tmp_path / ".out.part.tif").write_bytes(b"of a run that was killed")
    assert tile_image(path, tmp_path / "out.tif", 0.42)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b001.tif", "out.tif"]
