# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What all readers share: windows inside the level, files opened late, few at a time, by process and by thread."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from slide_files import (
    HAS_CUCIM,
    JPEG,
    LEVELS,
    PIXELS,
    levels_of,
    needs_cucim,
    open_with,
    page_of,
    stored_levels,
    windows,
    write_pyramid,
)

from monai_jsma.slides.base import ArrayReader, Reader
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.open import inspect_slide, open_slide
from monai_jsma.slides.tiff import TiffHeader
from monai_jsma.slides.tifffile_reader import TiffReader, TileFile


@pytest.mark.parametrize("reader", [pytest.param("cucim", marks=needs_cucim), "tifffile", "openslide", "pil"])
def test_windows_outside_are_refused(tmp_path: Path, reader: str) -> None:
    opened = open_with(write_pyramid(tmp_path / "a.tif", LEVELS[:1], **JPEG), reader)
    inside = opened.read(0, (329, 419), (1, 1))
    assert inside.shape == (1, 1, 3)
    for window in ((-1, 0, 5, 5), (0, -1, 5, 5), (326, 0, 5, 5), (0, 416, 5, 5), (0, 0, 0, 5), (0, 0, 331, 5)):
        with pytest.raises(ValueError, match=r"a\.tif: the window of .* is not inside level 0 of 330 x 420"):
            opened.read(0, window[:2], window[2:])
    for level in (-1, 1):
        with pytest.raises(ValueError, match="is not one of its 1 levels"):
            opened.read(level, (0, 0), (5, 5))
    with pytest.raises(TypeError):
        opened.read(0, (0.5, 0), (5, 5))  # type: ignore[arg-type]


def test_array_reader_checks_its_array() -> None:
    np.testing.assert_array_equal(ArrayReader(PIXELS).read(0, (3, 4), (5, 6)), PIXELS[3:8, 4:10])
    for wrong in (PIXELS.astype(float), PIXELS[..., 0], PIXELS[..., :2]):
        with pytest.raises(ValueError, match="an image is uint8"):
            ArrayReader(wrong)


def test_levels_that_differ_from_the_tags_are_refused(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", LEVELS[:2], **JPEG)
    for reader in ["tifffile", "openslide"] + ["cucim"] * HAS_CUCIM:
        info = inspect_slide(path, reader=reader)
        wrong = replace(info, level_sizes=((330, 420), (1, 1)))
        with pytest.raises(SlideError, match=r"has levels of .* but the tags say \(\(330, 420\), \(1, 1\)\)"):
            open_slide(wrong).read(0, (0, 0), (1, 1))


def test_an_exchanged_file_is_noticed(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", LEVELS[:2], **JPEG)
    reader = open_with(path)
    write_pyramid(path, levels_of(PIXELS[::-1], [2.0005])[:2], **JPEG)
    with pytest.raises(SlideError, match="changed after it was inspected; inspect it again"):
        reader.read(0, (0, 0), (5, 5))
    np.testing.assert_array_equal(open_with(path).read(0, (0, 0), (9, 9)), stored_levels(path)[0][:9, :9])
    os.remove(path)
    reader.close()
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        reader.read(0, (0, 0), (5, 5))


KINDS = [pytest.param("cucim", marks=needs_cucim), "tifffile", "openslide"]


def read_all(reader: Reader, rows: list[int]) -> list[np.ndarray]:
    return [reader.read(0, (row, row), (90, 90)) for row in rows]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_readers_survive_processes(tmp_path: Path, method: str) -> None:
    """Readers in use are inherited by forked workers, or pickled to spawned ones, as in a DataLoader."""
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {method} on this platform")
    path = write_pyramid(tmp_path / "a.tif", LEVELS, **JPEG)
    level, rows = stored_levels(path)[0], list(range(0, 200, 7))
    readers = [open_with(path, name) for name in ["tifffile", "openslide"] + ["cucim"] * HAS_CUCIM]
    expected = [level[row : row + 90, row : row + 90] for row in rows]
    for reader in readers:
        np.testing.assert_array_equal(read_all(reader, rows), expected)
    with multiprocessing.get_context(method).Pool(2 if method == "fork" else 1) as pool:
        answers = [pool.apply_async(read_all, (reader, rows)) for reader in readers * 2]
        for reader in readers:
            np.testing.assert_array_equal(read_all(reader, rows), expected)  # at the same time
        for answer in answers:
            np.testing.assert_array_equal(answer.get(timeout=100), expected)
    for reader in readers:
        np.testing.assert_array_equal(read_all(reader, rows), expected)


def file_number(reader: TiffReader) -> int:
    return reader.open_file()[0]._file.fileno()


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork on this platform")
def test_a_forked_child_opens_its_own_file(tmp_path: Path) -> None:
    """Parent and child would otherwise move each other's position in the file."""
    reader = open_with(write_pyramid(tmp_path / "a.tif", LEVELS, **JPEG), "tifffile")
    mine = file_number(reader)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(file_number, (reader,)) != mine
    assert file_number(reader) == mine


@pytest.mark.parametrize("name", KINDS)
def test_pickles_are_small_and_copies_read_alike(tmp_path: Path, name: str) -> None:
    reader = open_with(write_pyramid(tmp_path / "a.tif", LEVELS, **JPEG), name)
    before = reader.read(1, (5, 6), (70, 80))
    packed = pickle.dumps(reader)
    assert len(packed) < 2000
    for twin in (pickle.loads(packed), copy.deepcopy(reader)):
        assert (twin.level_sizes, twin.exact) == (reader.level_sizes, reader.exact)
        np.testing.assert_array_equal(twin.read(1, (5, 6), (70, 80)), before)


@pytest.mark.parametrize("name", KINDS)
def test_threads_share_a_reader(tmp_path: Path, name: str) -> None:
    path = write_pyramid(tmp_path / "a.tif", LEVELS, **JPEG)
    reader, level = open_with(path, name), stored_levels(path)[0]
    places = [window for window in windows((330, 420), 300, seed=5) if window[2:] != (330, 420)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda window: reader.read(0, window[:2], window[2:]), places))
    for window, (row, col, h, w) in zip(found, places):
        np.testing.assert_array_equal(window, level[row : row + h, col : col + w])


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files through /proc")
@pytest.mark.parametrize("name", KINDS)
def test_few_files_stay_open(tmp_path: Path, name: str) -> None:
    path = write_pyramid(tmp_path / "a.tif", [PIXELS[:40, :40]], **JPEG)
    readers = [open_with(shutil.copy(path, tmp_path / f"{i}.tif"), name) for i in range(80)]
    readers[0].close()
    before = len(os.listdir("/proc/self/fd"))
    for reader in readers:
        reader.read(0, (0, 0), (40, 40))
    assert len(os.listdir("/proc/self/fd")) - before <= 32 * 2
    readers[0].close()
    assert len(os.listdir("/proc/self/fd")) <= before
    assert readers[3].read(0, (0, 0), (40, 40)).shape == (40, 40, 3)


def test_tifffile_decodes_only_the_tiles_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[int, int]] = []
    read_tile = TileFile.read_tile
    monkeypatch.setattr(TileFile, "read_tile", lambda self, *tile: decoded.append(tile) or read_tile(self, *tile))
    reader = open_with(write_pyramid(tmp_path / "a.tif", LEVELS, compression="lzw"))
    columns = -(-420 // 64)
    reader.read(0, (64, 64), (64, 64))
    assert decoded == [(0, columns + 1)]
    reader.read(0, (63, 64), (2, 64))
    reader.read(1, (0, 0), (1, 1))
    assert decoded == [(0, columns + 1), (0, 1), (1, 0)]  # the first one was kept


def test_the_page_of_a_level_is_found_by_its_offset(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", LEVELS, subifds=True, compression="lzw")
    levels = TiffHeader.read(path).levels
    assert levels[0].offset == page_of(path, 0).offset
    assert len({level.offset for level in levels}) == 4
