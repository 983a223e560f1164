# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Slides of vendors, put together by OpenSlide: levels, spacing and bounds are theirs, and no preview is the slide."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
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
