# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Which reader a file gets, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from slide_files import (
    HAS_CUCIM,
    levels_of,
    picture,
    shared_slide,
    write_pyramid,
    write_trestle,
)

from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.open import inspect_slide

PIXELS = picture(200, 260)
LEVELS = levels_of(PIXELS, [2, 4.1])
SIZES = tuple(level.shape[:2] for level in LEVELS)


# ------------------------------------------------------------------------------------------------------ which reader


def write_planar(path: Path, levels: Sequence[np.ndarray]) -> str:
    return write_pyramid(path, [np.ascontiguousarray(levels[0].transpose(2, 0, 1))], planarconfig="separate")


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (write_planar, "its colors are stored apart"),
        (write_trestle, "trestle slide; only OpenSlide can put it together"),
    ],
)
def test_openslide_gets_what_tifffile_cannot_put_together(tmp_path: Path, write: Callable, reason: str) -> None:
    path = write(tmp_path / "a.tif", LEVELS)
    info = inspect_slide(path)
    assert info.reader == "openslide"
    assert reason in info.reason
    assert info.size == (200, 260)
    for forced in ("cucim", "tifffile"):
        with pytest.raises(SlideError, match=f"reader='{forced}' cannot read it"):
            inspect_slide(path, reader=forced)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
def test_plain_pictures(tmp_path: Path, name: str) -> None:
    Image.fromarray(PIXELS).save(tmp_path / name)
    info = inspect_slide(tmp_path / name)
    assert (info.reader, info.level_sizes, info.lazy, info.mpp) == ("pil", ((200, 260),), False, None)
    assert info.reason.startswith("plain image, ")
    for reader in ("cucim", "tifffile", "openslide"):
        with pytest.raises(SlideError, match=rf"reader='{reader}' cannot read it \(plain image, "):
            inspect_slide(tmp_path / name, reader=reader)


def test_strips_are_a_plain_picture(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", [PIXELS], tile=None, rowsperstrip=16, compression="lzw", mpp=0.42)
    info = inspect_slide(path)
    assert (info.reader, info.reason, info.level_sizes) == ("pil", "strip LZW, RGB, uint8", ((200, 260),))
    assert info.mpp == pytest.approx(0.42)
    with pytest.raises(SlideError, match="reader='tifffile' cannot read it .*it has no tiles"):
        inspect_slide(path, reader="tifffile")
    with pytest.raises(SlideError, match="reader='openslide' cannot read it .*OpenSlide refuses it"):
        inspect_slide(path, reader="openslide")


def test_a_reader_can_be_forced(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tiff", LEVELS, compression="jpeg")
    for reader in ("tifffile", "openslide"):
        info = inspect_slide(path, reader=reader)
        assert (info.reader, info.reason, info.level_sizes) == (reader, "tiled JPEG, RGB, uint8", SIZES)
    whole = inspect_slide(path, reader="pil")
    assert (whole.lazy, whole.level_sizes) == (False, SIZES[:1])
    with pytest.raises(ValueError, match="reader='zarr' is not one of cucim, tifffile, openslide, pil"):
        inspect_slide(path, reader="zarr")


@pytest.mark.parametrize(
    ("name", "reader", "sizes", "mpp"),
    [
        ("cmu-1-small-region.svs", "cucim", [(2967, 2220)], 0.499),
        ("tcga-cr-7395-01a-01-ts1.svs", "tifffile", [(3567, 4443), (1783, 2221)], None),
        ("os_boxes.tiff", "tifffile", [(250, 300), (125, 150), (62, 75), (31, 37)], None),
        ("os_small.svs", "cucim", [(16, 16)], 0.499),
        ("kidney-48-5.tif", "pil", [(901, 1493)], None),
    ],
)
def test_real_slides(name: str, reader: str, sizes: list[tuple[int, int]], mpp: float | None) -> None:
    info = inspect_slide(shared_slide(name))
    assert info.reader == (reader if HAS_CUCIM or reader != "cucim" else "tifffile")
    assert (list(info.level_sizes), info.mpp) == (sizes, mpp)
    if name == "os_boxes.tiff":
        assert "rejected: outside 0.05-20" in info.mpp_source
        if HAS_CUCIM:
            with pytest.raises(SlideError, match="crashes on Deflate with predictor"):
                inspect_slide(info.path, reader="cucim")
