# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What all readers share: the stored pixels, windows inside the level, few files open, by process and by thread."""

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
import openslide
import pytest
from slide_files import (
    HAS_CUCIM,
    JPEG,
    LEVELS,
    PIXELS,
    levels_of,
    needs_cucim,
    open_with,
    shared_slide,
    stored_levels,
    windows,
    write_pyramid,
    zero_tile,
)

from monai_jsma.slides.base import ArrayReader, Reader
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.open import inspect_slide, open_slide
from monai_jsma.slides.tifffile_reader import TiffReader


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


def assert_reads(reader: Reader, expected: list[np.ndarray], count: int = 40) -> None:
    assert reader.level_sizes == tuple(level.shape[:2] for level in expected)
    for index, level in enumerate(expected):
        for row, col, h, w in windows(level.shape[:2], count):
            window = reader.read(index, (row, col), (h, w))
            assert window.dtype == np.uint8
            np.testing.assert_array_equal(window, level[row : row + h, col : col + w])


@pytest.mark.parametrize("options", [{}, JPEG])
@pytest.mark.parametrize("reader", [pytest.param("cucim", marks=needs_cucim), "tifffile"])
def test_the_stored_pixels_of_levels_between_whole_downsamples(tmp_path: Path, options: dict, reader: str) -> None:
    path = write_pyramid(tmp_path / "a.tiff", LEVELS, **options)
    opened = open_with(path, reader)
    assert opened.exact == (True,) * 4
    assert_reads(opened, stored_levels(path))


@pytest.mark.parametrize(
    "name", ["cmu-1-small-region.svs", "tcga-cr-7395-01a-01-ts1.svs", "os_boxes.tiff", "os_small.svs"]
)
def test_real_slides(name: str) -> None:
    path = shared_slide(name)
    expected = stored_levels(path)
    assert_reads(open_with(path), expected, count=3)
    with openslide.OpenSlide(path) as slide:
        size = min(slide.dimensions[0], 700), min(slide.dimensions[1], 500)
        level0 = np.asarray(slide.read_region((0, 0), 0, size))[..., :3]
    np.testing.assert_array_equal(open_with(path).read(0, (0, 0), level0.shape[:2]), level0)
    np.testing.assert_array_equal(open_with(path, "openslide").read(0, (0, 0), level0.shape[:2]), level0)


def test_empty_tiles_are_white_in_every_reader(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", LEVELS[:2], **JPEG)
    columns, levels = -(-420 // 64), stored_levels(path)
    zero_tile(path, 0, columns + 2)
    zero_tile(path, 1, 0)
    levels[0][64:128, 128:192] = 255
    levels[1][:64, :64] = 255
    reader = open_with(path)
    assert isinstance(reader, TiffReader)
    assert_reads(reader, levels)
    np.testing.assert_array_equal(open_with(path, "openslide").read(0, (0, 0), (330, 420)), levels[0])
    aperio = write_pyramid(tmp_path / "a.svs", LEVELS[:2], aperio_mpp=0.5, **JPEG)
    zero_tile(aperio, 0, columns + 2)
    np.testing.assert_array_equal(open_with(aperio).read(0, (0, 0), (330, 420)), levels[0])


def test_a_real_damaged_slide_is_refused() -> None:
    path = shared_slide("os_unreadable.svs")
    for reader in ["tifffile", "openslide"] + ["cucim"] * HAS_CUCIM:
        with pytest.raises(SlideError, match=r"os_unreadable\.svs: .*damaged"):
            open_with(path, reader).read(0, (0, 0), (16, 16))
