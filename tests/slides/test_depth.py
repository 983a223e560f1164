# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""16-bit samples: how many of their bits hold data, one rule of rounding for every format, and little memory."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from slide_files import picture, write_pyramid

from monai_jsma.slides import image_reader
from monai_jsma.slides.base import to_rgb
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.image_reader import read_image
from monai_jsma.slides.open import inspect_slide, open_slide

DEEP = np.random.default_rng(0).integers(0, 65536, (90, 120, 4), dtype=np.uint16)
CAMERA = np.random.default_rng(0).integers(0, 4096, (96, 128, 3), dtype=np.uint16)  # of 12 bits
CAMERA8 = np.floor(CAMERA * (255 / 4095) + 0.5).astype(np.uint8)
MAX_SAMPLE, S_MAX_SAMPLE = 281, 341


def state(tag: int, value: int) -> dict[str, Any]:
    return {"extratags": [(tag, "H", 3, (value,) * 3, True)]}


def read_all(path: Path) -> np.ndarray:
    info = inspect_slide(path)
    return open_slide(info).read(0, (0, 0), info.size)


def write_png(path: Path, pixels: np.ndarray, *, significant: int | None = None) -> Path:
    """A 16-bit PNG file, with the chunk sBIT if ``significant``."""
    data = imagecodecs.png_encode(pixels)
    if significant is not None:
        body = b"sBIT" + bytes([significant] * 3)
        chunk = struct.pack(">I", 3) + body + struct.pack(">I", zlib.crc32(body))
        data = data[:33] + chunk + data[33:]
    path.write_bytes(data)
    return path


# --------------------------------------------------------------------------------------------------------- rounding


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_png_and_tiff_of_16_bits_are_rounded_alike(tmp_path: Path, samples: int) -> None:
    pixels = np.ascontiguousarray(DEEP[..., :samples])
    write_png(tmp_path / "a.png", pixels)
    options: dict[str, Any] = {"extrasamples": ["unassalpha"]} if samples in (2, 4) else {}
    if samples > 1:
        options["planarconfig"] = "contig"
    photometric = "rgb" if samples > 2 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric, **options)
    png = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(png, read_image(tmp_path / "a.tif"))
    if samples == 3:
        np.testing.assert_array_equal(png, np.floor(pixels / 257 + 0.5))


def test_jpeg_2000_of_16_bits_is_rounded_as_tiff(tmp_path: Path) -> None:
    pixels = np.ascontiguousarray(DEEP[..., :3])
    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(pixels, reversible=True, level=0, codecformat="jp2"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.jp2"), np.floor(pixels / 257 + 0.5))


# ------------------------------------------------------------------------------------------------------------ depth


@pytest.mark.parametrize("tag", [MAX_SAMPLE, S_MAX_SAMPLE])
@pytest.mark.parametrize("tile", [(32, 32), None])
def test_tiff_states_its_depth_by_its_largest_value(tmp_path: Path, tag: int, tile: tuple[int, int] | None) -> None:
    path = write_pyramid(tmp_path / "a.tif", [CAMERA], tile=tile, **state(tag, 4095))
    np.testing.assert_array_equal(read_all(Path(path)), CAMERA8)


@pytest.mark.parametrize("bits", [10, 14])
def test_other_depths(tmp_path: Path, bits: int) -> None:
    pixels = (CAMERA.astype(int) * (2**bits - 1) // 4095).astype(np.uint16)
    path = write_pyramid(tmp_path / "a.tif", [pixels], compression="lzw", **state(MAX_SAMPLE, 2**bits - 1))
    np.testing.assert_array_equal(read_all(Path(path)), np.floor(pixels * (255 / (2**bits - 1)) + 0.5))


def test_ome_states_its_significant_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(
        path, CAMERA, ome=True, tile=(32, 32), photometric="rgb", metadata={"axes": "YXS", "SignificantBits": 12}
    )
    assert "SignificantBits" in tifffile.TiffFile(path).pages.first.description
    np.testing.assert_array_equal(read_all(path), CAMERA8)


def test_png_states_its_significant_bits(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", CAMERA, significant=12)
    np.testing.assert_array_equal(read_image(path), CAMERA8)
    scaled = CAMERA << 4 | CAMERA >> 8  # as the specification of PNG asks for
    write_png(path, scaled, significant=12)
    np.testing.assert_array_equal(read_image(path), np.floor(scaled / 257 + 0.5))


def test_jpeg_2000_states_its_precision(tmp_path: Path) -> None:
    data = imagecodecs.jpeg2k_encode(CAMERA, reversible=True, level=0, codecformat="jp2", bitspersample=12)
    (tmp_path / "a.jp2").write_bytes(data)
    np.testing.assert_array_equal(read_image(tmp_path / "a.jp2"), CAMERA8)


@pytest.mark.parametrize("tile", [(32, 32), None])
@pytest.mark.parametrize("options", [{}, state(MAX_SAMPLE, 4000)], ids=["nothing", "brightest pixel"])
def test_a_depth_that_is_not_stated_is_asked_for(
    tmp_path: Path, tile: tuple[int, int] | None, options: dict[str, Any]
) -> None:
    path = write_pyramid(tmp_path / "a.tif", [CAMERA], tile=tile, **options)
    with pytest.raises(
        SlideError, match=r"a\.tif: its 16-bit pixels reach only 4095, .* convert it to uint8, or state"
    ):
        read_all(Path(path))


def test_a_depth_of_png_that_is_not_stated_is_asked_for(tmp_path: Path) -> None:
    path = write_png(tmp_path / "a.png", CAMERA)
    with pytest.raises(SlideError, match=r"a\.png: its 16-bit pixels reach only 4095, .* sBIT in PNG"):
        read_image(path)


def test_a_statement_of_16_bits_is_believed(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", [CAMERA], **state(MAX_SAMPLE, 65535))
    np.testing.assert_array_equal(read_all(Path(path)), np.floor(CAMERA / 257 + 0.5))


def test_pixels_above_the_stated_depth_are_an_error(tmp_path: Path) -> None:
    pixels = CAMERA.copy()
    pixels[50, 60, 1] = 4096
    path = write_pyramid(tmp_path / "a.tif", [pixels], **state(MAX_SAMPLE, 4095))
    with pytest.raises(SlideError, match=r"a\.tif: the file states 12 bits of data, but has a pixel of 4096; convert"):
        read_all(Path(path))


def test_black_pixels_are_black_in_every_depth(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", [np.zeros_like(CAMERA)])
    assert not read_all(Path(path)).any()


# ----------------------------------------------------------------------------------------------------------- memory


def test_conversion_takes_little_memory() -> None:
    """16-bit RGBA once took 37 bytes a pixel."""
    pixels = np.random.default_rng(0).integers(0, 65536, (3000, 4000, 4), dtype=np.uint16)
    tracemalloc.start()
    to_rgb(pixels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 12e6 + 80e6


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jp2", "a.bmp"])
def test_memory_is_bounded_in_bytes(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(picture(90, 120)).save(tmp_path / name)
    read_image(tmp_path / name)
    monkeypatch.setattr(image_reader, "_MAX_BYTES", 5 * 90 * 120)
    with pytest.raises(SlideError, match=rf"{name}: decoding it as a whole takes .* GB of memory .* tiled pyramid"):
        read_image(tmp_path / name)


def test_blocks_of_a_large_image_fit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = picture(97, 120)
    buffer = io.BytesIO()
    Image.fromarray(pixels).quantize(50).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    whole = read_image(tmp_path / "a.png")
    monkeypatch.setattr(image_reader, "_BLOCK_PIXELS", 1000)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), whole)
