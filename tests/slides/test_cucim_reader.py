# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""cuCIM: the files that it does not get, where it finds a pixel, and that it is compared with tifffile."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from slide_files import JPEG, LEVELS, needs_cucim, open_with, overwrite, page_of, write_pyramid, zero_tile

from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.open import inspect_slide


@needs_cucim
def test_other_reasons_against_cucim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pyramid(tmp_path / "a.tiff", LEVELS, compression="jpeg")
    named = shutil.copy(path, tmp_path / "a.TIFF")
    assert "opens only files named" in inspect_slide(named).reason
    sparse = shutil.copy(path, tmp_path / "sparse.tiff")
    zero_tile(sparse, 1, 2)
    assert "empty tiles black" in inspect_slide(sparse).reason
    bits = write_pyramid(tmp_path / "bits.tiff", LEVELS[:1], extratags=[(263, "H", 1, 2, True)])
    overwrite(
        bits, page_of(bits, 0).tags[263].offset, (266).to_bytes(2, "little")
    )  # FillOrder, which tifffile won't write
    assert "turn the bits of its bytes around" in inspect_slide(bits).reason
    text = write_pyramid(tmp_path / "text.tiff", LEVELS[:1], software=b"Gr\xfcn")
    assert "not UTF-8" in inspect_slide(text).reason
    monkeypatch.setenv("ENABLE_CUSLIDE2", "1")
    assert "ENABLE_CUSLIDE2=1" in inspect_slide(path).reason


def test_without_cucim_tifffile_reads_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pyramid(tmp_path / "a.tiff", LEVELS, compression="jpeg")
    monkeypatch.setitem(sys.modules, "cucim", None)
    info = inspect_slide(path)
    assert info.reader == "tifffile"
    assert "cuCIM is not installed" in info.reason
    with pytest.raises(SlideError, match="cuCIM is not installed"):
        inspect_slide(path, reader="cucim")


@needs_cucim
@given(st.floats(1.1, 70), st.integers(0, 2**24 // 70))
def test_location_of_a_pixel_in_cucim(downsample: float, pixel: int) -> None:
    """cuCIM divides in single precision; ``ceil(k * D)`` comes back as k for levels of any size."""
    single = np.float32(downsample)
    location = int(np.ceil(pixel * float(single)))
    assert int(np.float32(location) / single) == pixel


@needs_cucim
def test_cucim_is_not_believed_where_it_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pyramid(tmp_path / "a.tif", LEVELS[:1], **JPEG)
    reader = open_with(path, "cucim")
    monkeypatch.setattr("monai_jsma.slides.tifffile_reader.to_rgb", lambda pixels, **_: pixels ^ 1)
    with pytest.raises(SlideError, match="cuCIM and tifffile see different pixels; choose reader='tifffile'"):
        reader.read(0, (0, 0), (5, 5))
