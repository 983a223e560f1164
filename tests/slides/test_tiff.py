# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Which pages of a TIFF file are its levels, how often its tags are read, and every way in which it is refused."""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from slide_files import (
    HAS_CUCIM,
    levels_of,
    needs_cucim,
    overwrite,
    page_of,
    picture,
    shared_slide,
    tile_range,
    write_pyramid,
    write_trestle,
    zero_tile,
)

from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.open import inspect_slide, open_slide
from monai_jsma.slides.tiff import TiffHeader

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


# --------------------------------------------------------------------------------------------------------- bad files


def test_files_that_are_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.svs: there is no such file; correct the path"):
        inspect_slide(tmp_path / "none.svs")
    with pytest.raises(SlideError, match="is a folder"):
        inspect_slide(tmp_path)


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


@pytest.mark.parametrize(("code", "page"), [(277, 2), (322, 2), (258, 1), (324, 1)])
def test_a_damaged_tag_of_the_layout_is_named(tmp_path: Path, code: int, page: int) -> None:
    """tifffile leaves such a tag out, and a level would be none any more, without a word."""
    path = write_pyramid(tmp_path / "a.tif", LEVELS, compression="zlib")
    with tifffile.TiffFile(path) as tif:
        place = tif.pages[page].tags[code].offset
    overwrite(path, place + 2, b"\x00\x10")  # a data type that there is not
    with pytest.raises(SlideError, match=rf"a\.tif: tag {code} of page {page} cannot be read; copy the file again"):
        inspect_slide(path)


@pytest.mark.parametrize("aperio_mpp", [None, 0.5])
@pytest.mark.parametrize("page", [0, 1, 2])
@pytest.mark.parametrize("code", [277, 322, 323, 324, 325])
def test_a_level_without_a_tag_of_its_layout_is_not_left_out(
    tmp_path: Path, code: int, page: int, aperio_mpp: float | None
) -> None:
    """Its number is changed by one bit, so that the level seems to be something else."""
    path = write_pyramid(tmp_path / "a.tif", LEVELS[:3], aperio_mpp=aperio_mpp)
    assert len(inspect_slide(path).level_sizes) == 3
    overwrite(path, page_of(path, page).tags[code].offset, (code ^ 0x2000).to_bytes(2, "little"))
    with pytest.raises(SlideError, match=rf"a\.tif: page {page} (lacks the tags Tile|states (bits of 3|tiles of 0))"):
        inspect_slide(path)


@pytest.mark.parametrize("page", [0, 1, 2])
@pytest.mark.parametrize("name", ["TileWidth", "TileLength"])
def test_a_level_of_tiles_without_a_size_is_not_left_out(tmp_path: Path, name: str, page: int) -> None:
    path = write_pyramid(tmp_path / "a.svs", LEVELS[:3], aperio_mpp=0.5)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[page].tags[name].overwrite(0)
    with pytest.raises(SlideError, match=rf"a\.svs: page {page} states tiles of (0 x 64|64 x 0) pixels"):
        inspect_slide(path)


@pytest.mark.parametrize("page", [1, 2])
def test_a_level_of_another_vendor_with_too_few_tiles_is_not_left_out(tmp_path: Path, page: int) -> None:
    path = write_trestle(tmp_path / "a.tif", LEVELS[:3])
    assert len(inspect_slide(path).level_sizes) == 3
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[page].tags["ImageLength"].overwrite(33554512)
    with pytest.raises(SlideError, match=rf"a\.tif: page {page} lists \d+ of \d+ tiles"):
        inspect_slide(path)


@pytest.mark.parametrize("pixels", [LEVELS[1][..., 0], LEVELS[1].astype(np.uint16)])
def test_a_level_with_pixels_of_another_form_is_not_left_out(tmp_path: Path, pixels: np.ndarray) -> None:
    """A changed bit in a tag of a level; the slide would be coarser."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tif:
        tif.write(PIXELS, tile=(64, 64), photometric="rgb")
        color = "rgb" if pixels.ndim == 3 else "minisblack"
        tif.write(pixels, tile=(64, 64), photometric=color, subfiletype=1)
    with pytest.raises(
        SlideError, match=r"a\.tif: page 1 has the shape of a level, but its pixels \(.*samples\) are not"
    ):
        inspect_slide(path)


def test_a_page_whose_tags_are_zeros_is_not_the_last(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", LEVELS[:3])
    page = page_of(path, 1)
    first_lost = page.tags[258].offset + 4  # its number of values: tifffile goes no further
    end = page.offset + 2 + 12 * len(page.tags)
    overwrite(path, first_lost, bytes(end + 4 - first_lost))  # with the offset of the next page
    with pytest.raises(SlideError, match=r"a\.tif: the tags of page 1 are damaged"):
        inspect_slide(path)


def test_tiles_of_too_many_bytes_are_refused(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", [PIXELS.astype(np.uint16) * 257], compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as tif:
        tif.pages[0].tags["TileWidth"].overwrite(2**20)  # 64 x 1,048,576 pixels of 6 bytes
    with pytest.raises(SlideError, match=r"a\.tif: page 0 states tiles of 402653184 bytes .limit 268435456.; copy"):
        inspect_slide(path)


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


def test_the_page_of_a_level_is_found_by_its_offset(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", LEVELS, subifds=True, compression="lzw")
    levels = TiffHeader.read(path).levels
    assert levels[0].offset == page_of(path, 0).offset
    assert len({level.offset for level in levels}) == len(LEVELS)


# ---------------------------------------------------------------------------------------- how often the tags are read


def count_opened(patch: pytest.MonkeyPatch) -> list[str]:
    """The files whose tags tifffile reads from now on."""
    paths: list[str] = []
    read_tags = tifffile.TiffFile.__init__

    def count(self: tifffile.TiffFile, path: str, *args: Any, **options: Any) -> None:
        paths.append(str(path))
        read_tags(self, path, *args, **options)

    patch.setattr(tifffile.TiffFile, "__init__", count)
    return paths


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return count_opened(monkeypatch)


def write_huge(path: Path) -> str:
    """A slide of 100,000 x 100,000 pixels whose 152,881 tiles are one and the same."""
    size, tile = 100_000, 256
    count = (-(-size // tile)) ** 2
    tiles = itertools.chain([picture(tile, tile)], itertools.repeat(None, count - 1))
    shape = {"shape": (size, size, 3), "dtype": "uint8", "tile": (tile, tile), "metadata": None}
    tifffile.imwrite(path, tiles, compression="jpeg", photometric="ycbcr", subsampling=(2, 2), bigtiff=True, **shape)
    with tifffile.TiffFile(path, mode="r+") as tif:
        for name in ("TileOffsets", "TileByteCounts"):
            tag = tif.pages[0].tags[name]
            tag.overwrite([tag.value[0]] * count)
    return str(path)


COUNT_READS = """
import pickle, sys, tifffile
reads = []
init = tifffile.TiffFile.__init__
tifffile.TiffFile.__init__ = lambda self, *args, **options: reads.append(1) or init(self, *args, **options)
packed = sys.stdin.buffer.read()
for reader in (pickle.loads(packed), pickle.loads(packed)):
    reader.read(0, (99_000, 99_000), (299, 299))
    reader.read(0, (0, 0), (10, 10))
print(len(reads))
"""  # by two copies of a pickled reader, in a process of their own


@pytest.mark.parametrize("name", [pytest.param("cucim", marks=needs_cucim), "tifffile"])
def test_the_tags_of_a_huge_slide_are_read_once_in_a_process(tmp_path: Path, name: str, opened: list[str]) -> None:
    path = write_huge(tmp_path / "huge.tif")
    opened.clear()
    reader = open_slide(inspect_slide(path, reader=name))
    assert reader.level_sizes == ((100_000, 100_000),)
    assert reader.read(0, (50_000, 70_000), (299, 299)).shape == (299, 299, 3)
    assert opened == [path]
    packed = pickle.dumps(reader)
    assert len(packed) < 1000
    done = subprocess.run([sys.executable, "-c", COUNT_READS], input=packed, capture_output=True, check=True)
    assert int(done.stdout) == 1
    reader.close()


def test_an_image_in_strips_is_opened_once(tmp_path: Path, opened: list[str]) -> None:
    path = write_pyramid(tmp_path / "a.tif", [PIXELS], tile=None, rowsperstrip=16)
    opened.clear()
    np.testing.assert_array_equal(open_slide(inspect_slide(path)).array, PIXELS)  # type: ignore[attr-defined]
    assert opened == [path]


def test_a_header_is_recalled_only_of_the_same_file(tmp_path: Path, opened: list[str]) -> None:
    path = write_pyramid(tmp_path / "a.tif", LEVELS)
    header = TiffHeader.read(path)
    opened.clear()
    assert TiffHeader.recall(path) is header
    assert not opened
    write_pyramid(path, LEVELS[:2])
    assert len(TiffHeader.recall(path).levels) == 2
    assert TiffHeader.read(path) is TiffHeader.recall(path)
