# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Which pages of a TIFF file are its levels, and every way in which a file is refused before a pixel is read."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from slide_files import levels_of, overwrite, page_of, picture, shared_slide, tile_range, write_pyramid, zero_tile

from monai_jsma.data.slides import SlideError, inspect_slide

HAS_CUCIM = importlib.util.find_spec("cucim") is not None
PIXELS = picture(200, 260)
LEVELS = levels_of(PIXELS, [2, 4.1])
SIZES = tuple(level.shape[:2] for level in LEVELS)


# ------------------------------------------------------------------------------------------------------------ levels


def test_pages_that_are_no_levels_are_left_out(tmp_path: Path) -> None:
    strip = (PIXELS[:60, :90], {"rowsperstrip": 16, "photometric": "rgb"})
    tiled_label = (PIXELS[:100, :100], {"tile": (64, 64), "photometric": "rgb", "subfiletype": 1})
    second = (PIXELS[:100, :130], {"tile": (64, 64), "photometric": "rgb"})  # of the same shape, but not marked reduced
    mask = (PIXELS[:100, :130, 0] > 99, {"tile": (64, 64), "photometric": "minisblack", "subfiletype": 5})
    aperio = write_pyramid(tmp_path / "a.svs", LEVELS, aperio_mpp=0.5, compression="jpeg", extra=[strip])
    assert inspect_slide(aperio).level_sizes == SIZES
    for number, page in enumerate((strip, tiled_label, second, mask)):
        path = write_pyramid(tmp_path / f"{number}.tif", [LEVELS[0], LEVELS[2]], extra=[page])
        info = inspect_slide(path)
        assert (info.level_sizes, info.reader) == ((SIZES[0], SIZES[2]), "tifffile")
        if HAS_CUCIM:
            assert "cuCIM takes other pages for levels" in info.reason


def test_levels_are_sorted_and_may_be_sub_pages(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(LEVELS[0], tile=(64, 64), photometric="rgb", metadata=None)
        for level in (LEVELS[2], LEVELS[1]):
            tif.write(level, tile=(64, 64), photometric="rgb", metadata=None, subfiletype=1)
    assert inspect_slide(path).level_sizes == SIZES
    assert inspect_slide(write_pyramid(tmp_path / "b.tif", LEVELS, subifds=True)).level_sizes == SIZES


@pytest.mark.parametrize("tile", [(64, 64), None])
def test_several_pictures_in_a_file_are_refused(tmp_path: Path, tile: tuple[int, int] | None) -> None:
    page = {"tile": tile, "photometric": "rgb"}
    path = write_pyramid(tmp_path / "a.tif", [PIXELS], tile=tile, extra=[(PIXELS[::-1], page), (PIXELS[:, ::-1], page)])
    with pytest.raises(SlideError, match=r"holds 3 pictures \(pages\) of 200 x 260 pixels; save the one you mean"):
        inspect_slide(path)


# --------------------------------------------------------------------------------------------------------- bad files


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.svs: there is no such file; correct the path"):
        inspect_slide(tmp_path / "none.svs")
    with pytest.raises(SlideError, match="is a folder"):
        inspect_slide(tmp_path)
    (tmp_path / "empty.svs").touch()
    with pytest.raises(SlideError, match=r"empty\.svs: the file is empty \(0 bytes\)"):
        inspect_slide(tmp_path / "empty.svs")
    (tmp_path / "text.svs").write_text("a text, not a slide")
    with pytest.raises(SlideError, match=r"text\.svs: no reader can open it as a picture or slide"):
        inspect_slide(tmp_path / "text.svs")
    (tmp_path / "head.tif").write_bytes(b"II*\0\x08\0\0\0")
    with pytest.raises(SlideError, match=r"head\.tif: .*copy the file again"):
        inspect_slide(tmp_path / "head.tif")


@pytest.mark.parametrize("name", ["broken.svs", "os_unopenable.tiff"])
def test_real_files_that_no_reader_opens(name: str) -> None:
    with pytest.raises(SlideError, match=f"{name}: .*(no reader can open it|compression 52479 is unknown to tifffile)"):
        inspect_slide(shared_slide(name))


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_tile_beyond_the_end_is_named(tmp_path: Path, level: int) -> None:
    path = write_pyramid(tmp_path / "a.tif", LEVELS, compression="jpeg")
    length, tiles = os.path.getsize(path), len(page_of(path, level).dataoffsets)
    first, last = length - 5, length - 5 + tile_range(path, level, tiles - 1)[1]
    with tifffile.TiffFile(path, mode="r+") as tif:  # the last tile of this level now ends beyond the file
        tag = tif.pages[level].tags["TileOffsets"]
        tag.overwrite([*tag.value[:-1], first] if tiles > 1 else first)
    match = (
        rf"a\.tif: tile {tiles - 1} of level {level} should be bytes {first} to {last}, but the file has {length} bytes"
    )
    for reader in (None, "tifffile", "openslide"):
        with pytest.raises(SlideError, match=match):
            inspect_slide(path, reader=reader)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    """Wherever a file whose last bytes are tile data is cut, it is refused, never read as a smaller slide."""
    paths = [
        write_pyramid(tmp_path / "pages.tif", LEVELS, compression="jpeg"),
        write_pyramid(tmp_path / "sub.tif", LEVELS, subifds=True),
        write_pyramid(tmp_path / "aperio.svs", LEVELS, aperio_mpp=0.5, compression="jpeg"),
        write_pyramid(tmp_path / "strips.tif", [PIXELS], tile=None, rowsperstrip=50),
    ]
    for path in paths:
        with tifffile.TiffFile(path) as tif:
            pages = [*tif.pages, *(tif.pages[0].pages or ())]
            end = max(o + n for page in pages for o, n in zip(page.dataoffsets, page.databytecounts))
        whole = Path(path).read_bytes()
        for size in np.linspace(1, end - 1, 40, dtype=int):
            Path(path).write_bytes(whole[:size])
            with pytest.raises(SlideError):
                inspect_slide(path)
        Path(path).write_bytes(whole)
        inspect_slide(path)


def test_a_broken_list_of_pages_is_noticed(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", LEVELS, compression="jpeg")
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        link = page.offset + 2 + 12 * len(page.tags)
    overwrite(path, link, (10**8).to_bytes(4, "little"))
    with pytest.raises(SlideError, match="the list of pages breaks off after page 0"):
        inspect_slide(path)


def test_missing_sub_pages_are_noticed(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", LEVELS, subifds=True)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tag = tif.pages[0].tags["SubIFDs"]
        tag.overwrite((10**8, tag.value[1]))
    with pytest.raises(SlideError, match="2 of 2 levels are missing; copy the file again"):
        inspect_slide(path)


def test_unknown_compression_and_colours(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", LEVELS)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[0].tags["Compression"].overwrite(52479)
    with pytest.raises(SlideError, match="no reader can read it rightly .*compression 52479 is unknown to tifffile"):
        inspect_slide(path)
    cmyk = np.concatenate([PIXELS, PIXELS[..., :1]], axis=2)
    for tile in ((64, 64), None):
        path = write_pyramid(tmp_path / "cmyk.tif", [cmyk], photometric="separated", tile=tile)
        with pytest.raises(SlideError, match="SEPARATED pixels are not grey, RGB or RGBA"):
            inspect_slide(path)
    path = write_pyramid(tmp_path / "float.tif", [PIXELS.astype(np.float32)])
    with pytest.raises(SlideError, match="32-bit float32 pixels are not 8 or 16 bit unsigned"):
        inspect_slide(path)
    path = write_pyramid(tmp_path / "extra.tif", [cmyk], extrasamples=["unspecified"])
    with pytest.raises(SlideError, match="4 samples a pixel are not grey, RGB or RGBA"):
        inspect_slide(path)


def test_absurd_tile_sizes_never_reach_openslide(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", LEVELS, compression="lzw")
    with tifffile.TiffFile(path, mode="r+") as tif:
        for name in ("TileWidth", "TileLength"):
            tif.pages[0].tags[name].overwrite(65520, dtype="H")
    with pytest.raises(SlideError, match="states tiles of 65520 x 65520 pixels"):
        inspect_slide(path)


def test_damaged_tags_raise_slide_errors_only(tmp_path: Path) -> None:
    """Random bytes in the tags: whatever happens, it is a SlideError, a known reader, and no crash."""
    path = write_pyramid(tmp_path / "a.tif", LEVELS[1:], compression="jpeg", mpp=0.5)
    with tifffile.TiffFile(path) as tif:
        tags = [range(page.offset, page.offset + 2 + 12 * len(page.tags)) for page in tif.pages]
    whole, rng = Path(path).read_bytes(), np.random.default_rng(0)
    places, messages = np.concatenate(tags), []
    for _ in range(80):
        Path(path).write_bytes(whole)
        for place in rng.choice(places, 2):
            overwrite(path, place, bytes([rng.integers(256)]))
        try:
            assert inspect_slide(path).reader in ("cucim", "tifffile", "openslide", "pil")
        except SlideError as e:
            messages.append(str(e))
    assert len(messages) > 20
    assert all(message.startswith(path) for message in messages)


def test_empty_tiles_are_announced_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_pyramid(tmp_path / "a.tif", LEVELS, compression="jpeg")
    zero_tile(path, 0, 3)
    zero_tile(path, 1, 0)
    inspect_slide(path)
    assert [r.getMessage() for r in caplog.records if r.name.startswith("monai_jsma")] == [
        f"{path}: 2 tiles were never written; they are read as white."
    ]
    aperio = write_pyramid(tmp_path / "a.svs", LEVELS, compression="jpeg", aperio_mpp=0.5)
    zero_tile(aperio, 1, 0)
    with pytest.raises(SlideError, match="OpenSlide fills empty tiles from other levels"):
        inspect_slide(aperio, reader="openslide")
