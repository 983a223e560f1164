# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""How large the pixels are, and whose word is taken for it."""

from __future__ import annotations

import logging
import math
import struct
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from PIL.TiffImagePlugin import IFDRational
from slide_files import levels_of, overwrite, page_of, picture, write_pyramid, write_trestle

from monai_jsma.slides.base import SlideInfo
from monai_jsma.slides.open import inspect_slide
from monai_jsma.slides.spacing import parse_decimal, read_openslide_spacings, to_float
from monai_jsma.transforms import LoadPyramid

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
    assert info.mpp_source == ("OME PhysicalSizeX" if mpp else "OME PhysicalSizeX '1 pixel' rejected: not a spacing")


def test_spacing_of_openslide_and_of_pictures(tmp_path: Path) -> None:
    aperio = write_pyramid(tmp_path / "a.svs", LEVELS, compression="jpeg", aperio_mpp=0.4)
    forced = inspect_slide(aperio, reader="openslide")
    assert (forced.mpp, forced.mpp_source) == (0.4, "Aperio MPP")
    trestle = inspect_slide(write_trestle(tmp_path / "trestle.tif", LEVELS))
    assert (trestle.mpp, trestle.mpp_source) == (1.0, "openslide.mpp-x")
    Image.fromarray(PIXELS).save(tmp_path / "a.png", dpi=(50800, 50800))
    assert inspect_slide(tmp_path / "a.png").mpp == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("text", "mpp"),
    [
        ("0,2520", 0.252),
        ("0.2520", 0.252),
        ("2,52e-1", 0.252),
        (",25", 0.25),
        (" 0,5 ", 0.5),
        ("０.２５", 0.25),
        ("1,234", 1.234),
    ],
)
def test_a_decimal_comma_is_read(text: str, mpp: float) -> None:
    assert parse_decimal(text) == mpp


@pytest.mark.parametrize("text", ["1,234.5", "1.234,5", "0,25,2", "0_25", "fine", "", "0.25 um", "nan", "inf"])
def test_what_is_not_one_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a number.*write it such as 0\.252"):
        parse_decimal(text)


def test_decimal_commas_of_vendors(tmp_path: Path) -> None:
    info = spacing(tmp_path, aperio_mpp="0,2520")
    assert (info.mpp, info.mpp_source) == (0.252, "Aperio MPP")
    info = spacing(tmp_path, aperio_mpp="0,2520 um")
    assert info.mpp == 0.252
    assert read_openslide_spacings({"openslide.mpp-x": "0,25", "openslide.mpp-y": "0,25"})[0].mpp == 0.25
    info = spacing(tmp_path, aperio_mpp="1.234,5")
    assert (info.mpp, info.mpp_source) == (None, "Aperio MPP '1.234,5' rejected: not a spacing")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (IFDRational(50800, 1), 50800.0),
        (Fraction(1, 4), 0.25),
        (Decimal("0.25"), 0.25),
        (np.float32(0.25), 0.25),
        ((508000, 10), 50800.0),
        ((20000.0,), 20000.0),
        ("0,25", 0.25),
        (True, 1.0),
    ],
)
def test_numbers_of_libraries_become_floats(value: Any, expected: float) -> None:
    number = to_float(value)
    assert type(number) is float
    assert number == expected


@pytest.mark.parametrize("value", [None, (1, 0), IFDRational(0, 0), "x", b"\0", [], object(), 10**400])
def test_what_is_no_number_is_nan(value: Any) -> None:
    assert math.isnan(to_float(value))


def write_exif(path: Path, *, x: Any, y: Any = None, unit: int = 2, **options: Any) -> Path:
    exif = Image.Exif()
    exif[0x011A] = x
    if y is not None:
        exif[0x011B] = y
    exif[0x0128] = unit
    Image.fromarray(PIXELS).save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_resolution(tmp_path: Path, suffix: str) -> None:
    info = inspect_slide(write_exif(tmp_path / f"a.{suffix}", x=IFDRational(50800), y=IFDRational(50800)))
    assert (info.mpp, info.mpp_source) == (0.5, "EXIF resolution")
    info = inspect_slide(write_exif(tmp_path / f"cm.{suffix}", x=IFDRational(20000), unit=3))
    assert info.mpp == 0.5
    info = inspect_slide(write_exif(tmp_path / f"camera.{suffix}", x=IFDRational(300), y=IFDRational(300)))
    assert (info.mpp, info.mpp_source) == (None, "EXIF resolution 84.667 um/px rejected: outside 0.05-20")
    info = inspect_slide(write_exif(tmp_path / f"flat.{suffix}", x=IFDRational(50800), y=IFDRational(25400)))
    assert info.mpp_source == "EXIF resolution 1 x 0.5 um/px rejected: pixels are not square"
    for number, (numerator, denominator) in enumerate([(0, 0), (300, 0), (0, 1)]):
        ratio = IFDRational(numerator, denominator)
        info = inspect_slide(write_exif(tmp_path / f"{number}.{suffix}", x=ratio, y=ratio))
        assert (info.mpp, info.mpp_source) == (None, "")
    info = inspect_slide(write_exif(tmp_path / f"half.{suffix}", x=IFDRational(50800), y=IFDRational(1, 0)))
    assert "rejected" in info.mpp_source


def test_exif_beside_another_statement(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    jfif = write_exif(tmp_path / "a.jpg", x=IFDRational(50800), dpi=(72, 72))
    assert inspect_slide(jfif).mpp == 0.5
    both = write_exif(tmp_path / "b.jpg", x=IFDRational(25400), dpi=(50800, 50800))
    assert inspect_slide(both).mpp == 0.5
    assert "50800 dpi: is 0.5 um/px but EXIF resolution is 1" in caplog.text
    damaged = tmp_path / "c.jpg"
    Image.fromarray(PIXELS).save(damaged, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert (inspect_slide(damaged).mpp, inspect_slide(damaged).mpp_source) == (None, "")


def test_a_resolution_of_floats(tmp_path: Path) -> None:
    """TIFF tags of type FLOAT, as some writers have them: no pair of numerator and denominator."""
    path = write_pyramid(tmp_path / "float.tif", LEVELS[:1], mpp=1.0)
    for name in ("XResolution", "YResolution"):
        offset = page_of(path, 0).tags[name].offset
        overwrite(path, offset + 2, struct.pack("<HIf", 11, 1, 20000.0))  # its type, count and value
    assert inspect_slide(path).mpp == 0.5


def test_a_default_in_place_of_a_statement_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    camera = write_exif(tmp_path / "camera.jpg", x=IFDRational(300))
    load = LoadPyramid(["100X"], 64, default_mpp=0.5)
    for _ in range(3):
        assert load(camera).mpp == 0.5
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"{camera}: EXIF resolution 84.667 um/px rejected: outside 0.05-20; the default of 0.5")
    assert "give 'mpp'" in message

    caplog.clear()
    aperio = write_pyramid(tmp_path / "a.svs", LEVELS, aperio_mpp="2.520,0")
    assert load(aperio).mpp == 0.5
    assert "Aperio MPP '2.520,0' rejected: not a spacing; the default of 0.5 um/px" in caplog.text

    caplog.clear()
    Image.fromarray(PIXELS).save(tmp_path / "silent.png")
    assert load(tmp_path / "silent.png").mpp == 0.5
    assert not caplog.records  # it states nothing


def test_a_given_spacing_in_place_of_a_scanners_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert spacing(tmp_path, aperio_mpp="25.2", given=0.252).mpp == 0.252
    assert "Aperio MPP 25.2 um/px rejected: outside 0.05-20; using the given 0.252 um/px" in caplog.text


@pytest.mark.parametrize("value", [(0.5, 0.5), [0.5, 0.5], [0.5], True, "0.5 um", None.__class__, 0.5j, float("nan")])
def test_what_is_not_one_number_cannot_be_given(tmp_path: Path, value: Any) -> None:
    """A pair is a row and a column, not a fraction: never is it read as 0.5 / 0.5."""
    path = write_pyramid(tmp_path / "a.tif", LEVELS)
    with pytest.raises(ValueError, match=r"is not one number of um per pixel, such as 0\.25"):
        inspect_slide(path, mpp=value)
    with pytest.raises(ValueError, match=r"default_mpp: .* is not one number of um per pixel"):
        LoadPyramid(["100X"], 64, default_mpp=value)(path)


def test_spacings_of_other_types_can_be_given(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", LEVELS)
    for value in (Fraction(1, 2), np.float32(0.5), "0,5", torch.tensor(0.5)):
        pyramid = LoadPyramid(["100X"], 64, default_mpp=value)(path)
        assert (type(pyramid.mpp), pyramid.mpp) == (float, 0.5)
        assert LoadPyramid(["100X"], 64)(path, mpp=value).mpp == 0.5
