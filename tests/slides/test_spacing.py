# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""How large the pixels are, and whose word is taken for it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import tifffile
from PIL import Image
from slide_files import levels_of, overwrite, page_of, picture, write_pyramid, write_trestle

from monai_jsma.slides.base import SlideInfo
from monai_jsma.slides.open import inspect_slide

PIXELS = picture(200, 260)
LEVELS = levels_of(PIXELS, [2])


def spacing(tmp_path: Path, *, given: float | None = None, **options: Any) -> SlideInfo:
    return inspect_slide(write_pyramid(tmp_path / "spacing.tif", LEVELS[:1], **options), mpp=given)


def test_sources_of_the_spacing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = spacing(tmp_path, mpp=0.5)
    assert (found.mpp, found.mpp_source) == (pytest.approx(0.5), "TIFF resolution")
    found = spacing(tmp_path, resolution=(50800, 50800), resolutionunit="INCH")
    assert (found.mpp, found.mpp_source) == (0.5, "TIFF resolution")
    overwrite(found.path, page_of(found.path, 0).tags["ResolutionUnit"].offset, (297).to_bytes(2, "little"))
    assert inspect_slide(found.path).mpp == 0.5  # without the tag the unit is the inch
    found = spacing(tmp_path, aperio_mpp=0.25, mpp=0.2505)
    assert (found.mpp, found.mpp_source) == (0.25, "Aperio MPP")
    found = spacing(tmp_path, aperio_mpp=0.25, given=0.2525)
    assert (found.mpp, found.mpp_source) == (0.2525, "given")
    assert not caplog.records
    found = spacing(tmp_path, resolution=(2, 2), resolutionunit="NONE")
    assert (found.mpp, found.mpp_source) == (None, "")
    found = spacing(tmp_path, aperio_mpp=0)
    assert (found.mpp, found.mpp_source) == (None, "")


def test_sources_that_disagree_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert spacing(tmp_path, aperio_mpp=0.25, mpp=0.26).mpp == 0.25
    assert spacing(tmp_path, aperio_mpp=0.25, given=0.5).mpp == 0.5
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "Aperio MPP is 0.25 um/px but TIFF resolution is 0.26; using the former" in messages[0]
    assert "given is 0.5 um/px but Aperio MPP is 0.25; using the former" in messages[1]


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    found = spacing(tmp_path, resolution=(20000, 10000), resolutionunit="CENTIMETER", given=0.7)
    assert (found.mpp, found.mpp_source) == (0.7, "given")
    found = spacing(tmp_path, resolution=(20000, 20100), resolutionunit="CENTIMETER")
    assert found.mpp == pytest.approx(0.49876, abs=1e-5)
    with pytest.raises(ValueError, match=r"mpp=0\.0005 is outside 0\.05-20 um per pixel"):
        spacing(tmp_path, given=0.0005)


@pytest.mark.parametrize(
    ("x", "unit", "mpp"),
    [(0.25, "µm", 0.25), (0.25, None, 0.25), (250.0, "nm", 0.25), (0.00025, "mm", 0.25), (1, "pixel", None)],
)
def test_spacing_of_ome(tmp_path: Path, x: float, unit: str | None, mpp: float | None) -> None:
    units = {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit} if unit else {}
    metadata = {"axes": "YXS", "PhysicalSizeX": x, "PhysicalSizeY": x, **units}
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, PIXELS, ome=True, tile=(64, 64), photometric="rgb", metadata=metadata)
    info = inspect_slide(path)
    assert info.mpp == (None if mpp is None else pytest.approx(mpp))
    assert info.mpp_source == (
        "OME PhysicalSizeX" if mpp else "OME PhysicalSizeX nan x nan um/px rejected: outside 0.05-20"
    )


def test_spacing_of_openslide_and_of_pictures(tmp_path: Path) -> None:
    aperio = write_pyramid(tmp_path / "a.svs", LEVELS, compression="jpeg", aperio_mpp=0.4)
    forced = inspect_slide(aperio, reader="openslide")
    assert (forced.mpp, forced.mpp_source) == (0.4, "Aperio MPP")
    trestle = inspect_slide(write_trestle(tmp_path / "trestle.tif", LEVELS))
    assert (trestle.mpp, trestle.mpp_source) == (1.0, "openslide.mpp-x")
    Image.fromarray(PIXELS).save(tmp_path / "a.png", dpi=(50800, 50800))
    assert inspect_slide(tmp_path / "a.png").mpp == pytest.approx(0.5, rel=1e-4)
