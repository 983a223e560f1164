# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""OpenSlide: where it gives the stored pixels, transparency on white, and recovery from a damaged tile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from slide_files import (
    JPEG,
    LEVELS,
    PIXELS,
    levels_of,
    open_with,
    overwrite,
    picture,
    stored_levels,
    tile_range,
    windows,
    write_pyramid,
)

from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.open import inspect_slide, open_slide
from monai_jsma.slides.openslide_reader import OpenSlideReader


@pytest.mark.parametrize("options", [{}, JPEG, {"compression": "lzw", "predictor": True}, {"compression": "zlib"}])
def test_openslide_tells_where_it_is_exact(tmp_path: Path, options: dict[str, Any]) -> None:
    whole = picture(352, 416)
    path = write_pyramid(tmp_path / "a.tiff", [whole, *levels_of(whole, [2, 4.003, 8])[1:]], **options)
    reader = open_with(path, "openslide")
    assert isinstance(reader, OpenSlideReader)
    assert reader.exact == (True, True, False, True)
    expected = stored_levels(path)
    for index in (0, 1, 3):
        for row, col, h, w in windows(expected[index].shape[:2], 40):
            np.testing.assert_array_equal(
                reader.read(index, (row, col), (h, w)), expected[index][row : row + h, col : col + w]
            )
    blended = [
        np.abs(reader.read(2, (row, col), (h, w)).astype(int) - expected[2][row : row + h, col : col + w]).mean()
        for row, col, h, w in windows(expected[2].shape[:2], 40)
    ]
    assert 0 < max(blended) < 10  # not the stored pixels, but no other place either


def test_openslide_lays_transparency_on_white(tmp_path: Path) -> None:
    alpha = np.full((330, 420, 1), 0, np.uint8)
    path = write_pyramid(tmp_path / "a.tif", [np.concatenate([PIXELS, alpha], axis=2)], extrasamples=["assocalpha"])
    info = replace(inspect_slide(path), reader="openslide")  # which gets only other vendors' slides with transparency
    assert (open_slide(info).read(0, (0, 0), (330, 420)) == 255).all()


def test_openslide_recovers_from_a_damaged_tile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSlide keeps an error for ever; good tiles must read before and after, also beside a second reader."""
    path = write_pyramid(tmp_path / "a.tif", LEVELS[:1], compression="lzw")
    begin, size = tile_range(path, 0, 9)
    overwrite(path, begin, bytes(size))
    one, other = open_with(path, "openslide"), open_with(path, "openslide")
    for reader in (one, one, other):
        with pytest.raises(SlideError, match="row 70, column 130 of level 0 is damaged"):
            reader.read(0, (70, 130), (5, 5))
        np.testing.assert_array_equal(reader.read(0, (0, 0), (50, 50)), PIXELS[:50, :50])
        np.testing.assert_array_equal(one.read(0, (200, 0), (50, 50)), PIXELS[200:250, :50])
    monkeypatch.setattr("openslide.OpenSlide", None)
    np.testing.assert_array_equal(
        one.read(0, (0, 0), (50, 50)), PIXELS[:50, :50]
    )  # from the slide opened afresh before
