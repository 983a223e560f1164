# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Plain pictures: right pixels from every format, and a clear error for every one that cannot be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile
from slide_files import encode_jpeg, overwrite, picture, shared_slide, tile_range, write_pyramid, zero_tile

from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.image_reader import read_image
from monai_jsma.slides.open import inspect_slide

PIXELS = picture(90, 120)


def save(path: Path, image: Image.Image, **options: Any) -> str:
    image.save(path, **options)
    return str(path)


# ------------------------------------------------------------------------------------------------------ right pixels


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"optimize": True}])
def test_jpeg_is_as_stored_whatever_exif_says(tmp_path: Path, options: dict[str, Any]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = tmp_path / "a.jpg"
    path.write_bytes(encode_jpeg(PIXELS, exif=exif, **options))
    np.testing.assert_array_equal(read_image(path), np.asarray(Image.open(path)))
    assert inspect_slide(path).size == (90, 120)


def test_modes_become_rgb(tmp_path: Path) -> None:
    grey = Image.fromarray(PIXELS[..., 0])
    expected = np.repeat(PIXELS[..., :1], 3, axis=2)
    np.testing.assert_array_equal(read_image(save(tmp_path / "grey.png", grey)), expected)
    palette = Image.fromarray(PIXELS).quantize(50)
    path = save(tmp_path / "palette.png", palette)
    np.testing.assert_array_equal(read_image(path), np.asarray(palette.convert("RGB")))
    bilevel = Image.fromarray(PIXELS[..., 0] > 127)
    path = save(tmp_path / "bilevel.png", bilevel)
    np.testing.assert_array_equal(read_image(path)[..., 1], 255 * (PIXELS[..., 0] > 127))
    deep = np.random.default_rng(0).integers(0, 65536, (90, 120), dtype=np.uint16)
    path = save(tmp_path / "deep.png", Image.fromarray(deep))
    np.testing.assert_array_equal(read_image(path)[..., 2], np.floor(deep / 257 + 0.5))


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    alpha = np.random.default_rng(0).integers(0, 256, (90, 120), dtype=np.uint8)
    share = alpha[..., None] / 255
    expected = np.floor(PIXELS * share + 255 * (1 - share) + 0.5)
    path = save(tmp_path / "rgba.png", Image.fromarray(np.dstack([PIXELS, alpha])))
    np.testing.assert_array_equal(read_image(path), expected)
    path = save(tmp_path / "la.png", Image.fromarray(np.dstack([PIXELS[..., 0], alpha])))
    np.testing.assert_array_equal(read_image(path), np.repeat(expected[..., :1], 3, axis=2))
    keyed = PIXELS.copy()
    keyed[:9] = (1, 2, 3)
    path = save(tmp_path / "key.png", Image.fromarray(keyed), transparency=(1, 2, 3))
    assert (read_image(path)[:9] == 255).all()
    np.testing.assert_array_equal(read_image(path)[9:], keyed[9:])


def test_a_real_strip_tiff() -> None:
    path = shared_slide("kidney-48-5.tif")
    np.testing.assert_array_equal(read_image(path), np.asarray(Image.open(path)))


# ------------------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.jpg", "a.tif"])
def test_cut_pictures_are_refused(tmp_path: Path, name: str) -> None:
    """Wherever a file is cut, it is refused; only the last bytes, which hold no pixels but checksums, may go."""
    path = tmp_path / name
    Image.fromarray(PIXELS).save(path)
    whole, expected = path.read_bytes(), read_image(path)
    end = sum(tile_range(path, 0, 0)) if name == "a.tif" else len(whole)
    for size in (*np.linspace(1, end - 24, 25, dtype=int), *range(end - 24, end)):
        path.write_bytes(whole[:size])
        try:
            np.testing.assert_array_equal(read_image(path), expected)
        except SlideError:
            continue
        assert size >= end - 22


def test_a_jpeg_with_a_foreign_marker_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encode_jpeg(PIXELS))
    overwrite(path, path.stat().st_size // 2 + 200, b"\xff\x45")
    with pytest.raises(SlideError, match=r"a\.jpg: the image is damaged \(JPEG stream has marker 0x45 among"):
        read_image(path)


def test_large_pictures_are_refused(tmp_path: Path) -> None:
    for name in ("a.png", "a.tif"):
        Image.fromarray(PIXELS).save(tmp_path / name)
        assert read_image(tmp_path / name, max_pixels=90 * 120).shape == PIXELS.shape
        with pytest.raises(SlideError, match=r"90 x 120 pixels are too many to decode as a whole .* tiled pyramid"):
            read_image(tmp_path / name, max_pixels=90 * 120 - 1)


def test_pillow_must_not_hide_cut_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", Image.fromarray(PIXELS))
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(SlideError, match="LOAD_TRUNCATED_IMAGES is set, which hides cut images; unset it"):
        read_image(path)


def test_parts_that_were_never_written_are_refused(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", [PIXELS], tile=(32, 32))
    zero_tile(path, 0, 1)
    with pytest.raises(SlideError, match="parts of it were never written"):
        read_image(path)
