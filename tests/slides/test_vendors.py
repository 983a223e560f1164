# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Slides of vendors, put together by OpenSlide: levels, spacing and bounds are theirs, and no preview is the slide."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from corpus import VENDOR_SLIDES
from mirax_files import write_mirax
from PIL import Image
from slide_files import encode_jpeg, picture, write_ndpi, write_scn

from monai_jsma.slides import SlideError, inspect_slide, open_slide, read_image

PIXELS = picture(256, 512)
HALF = np.ascontiguousarray(PIXELS[::2, ::2])
MACRO = picture(300, 800, 3)


def decode(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encode_jpeg(pixels, quality=90, subsampling=0))))


@pytest.mark.parametrize(("name", "gap"), [("a.ndpi", 0), ("a.tif", 0), ("a.ndpi", 5 << 30)])
def test_hamamatsu_ndpi(tmp_path: Path, name: str, gap: int) -> None:
    """Also with offsets of more than 32 bits, and renamed; the larger macro image is not the slide."""
    path = write_ndpi(tmp_path / name, [PIXELS, HALF], MACRO, gap=gap)
    info = inspect_slide(path)
    assert (info.reader, info.mpp, info.mpp_source) == ("openslide", 0.5, "openslide.mpp-x")
    assert info.level_sizes[:2] == ((256, 512), (128, 256))
    reader = open_slide(info)
    np.testing.assert_array_equal(reader.read(0, (0, 0), (256, 512)), decode(PIXELS))
    np.testing.assert_array_equal(reader.read(1, (0, 0), (128, 256)), decode(HALF))
    with pytest.raises(SlideError, match="only OpenSlide can put it together"):
        read_image(path)


def test_a_large_ndpi_slide_under_another_name_is_told(tmp_path: Path) -> None:
    path = Path(write_ndpi(tmp_path / "a.ndpi", [PIXELS, HALF], MACRO, gap=5 << 30))
    renamed = path.rename(tmp_path / "a.tif")
    with pytest.raises(SlideError, match=r"a\.tif: .* of more than 4 GB, its name must end in \.ndpi"):
        inspect_slide(renamed)


def test_an_ndpi_slide_with_a_lost_level_is_refused(tmp_path: Path) -> None:
    path = Path(write_ndpi(tmp_path / "a.ndpi", [PIXELS, HALF], MACRO))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(SlideError, match=r"a\.ndpi: "):
        inspect_slide(path)


def test_leica_scn_has_the_bounds_of_its_image(tmp_path: Path) -> None:
    """Level 0 is the canvas; the macro image is no level."""
    path = write_scn(tmp_path / "a.scn", PIXELS, location=(1024, 512), canvas=(4096, 2048))
    info = inspect_slide(path)
    assert (info.reader, info.mpp, len(info.level_sizes)) == ("openslide", 0.5, 1)
    assert info.bounds is not None
    assert info.bounds[:4] == (1024, 512, 256, 512)


def read_image_of(path: str) -> np.ndarray:
    return open_slide(inspect_slide(path)).read(0, (128, 256), (256, 512))


def test_mirax_has_the_bounds_and_the_pixels_of_its_image(tmp_path: Path) -> None:
    """On a canvas of white; its preview, an ordinary JPEG, is not the slide."""
    path = write_mirax(tmp_path / "a.mrxs", PIXELS, location=(128, 256), canvas=(640, 896))
    info = inspect_slide(path)
    assert (info.reader, info.mpp, info.mpp_source) == ("openslide", 0.5, "openslide.mpp-x")
    assert info.level_sizes == ((640, 896), (320, 448))
    assert info.bounds is not None
    assert info.bounds[:4] == (128, 256, 256, 512)
    assert len(info.files) == 4
    for level, step in enumerate((1, 2)):
        window = open_slide(info).read(level, (128 // step, 256 // step), (256 // step, 512 // step))
        assert np.abs(window.astype(int) - PIXELS[::step, ::step]).mean() < 6
        np.testing.assert_array_equal(open_slide(info).read(level, (0, 0), (40, 50)), np.full((40, 50, 3), 255))
    with pytest.raises(SlideError, match="a mirax slide, which is not one image"):
        read_image(path)


@pytest.mark.parametrize("name", ["Data0000.dat", "Index.dat", "Slidedat.ini"])
def test_a_mirax_slide_that_lacks_a_file_is_refused(tmp_path: Path, name: str) -> None:
    path = write_mirax(tmp_path / "a.mrxs", PIXELS, location=(128, 256), canvas=(640, 896))
    (tmp_path / "a" / name).unlink()
    with pytest.raises(SlideError, match=r"a\.mrxs: "):
        read_image_of(path)


@pytest.mark.parametrize("name", VENDOR_SLIDES)
def test_slides_of_vendors_are_read_as_they_were_written(tmp_path: Path, name: str) -> None:
    sample = VENDOR_SLIDES[name]
    info = inspect_slide(sample.make(tmp_path))
    assert (info.reader, info.mpp) == ("openslide", 0.5)
    for level, expected in enumerate(sample.levels):
        assert info.level_sizes[level] == expected.shape[:2]
        pixels = open_slide(info).read(level, (0, 0), expected.shape[:2])
        assert np.abs(pixels.astype(int) - expected).mean() < sample.near
