# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run as programs, in their smallest setting; times are not looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from slide_files import stored_levels

from monai_jsma.data import PatchGeometry

pytest.importorskip("cucim", reason="the benchmarks compare with cuCIM, which is not installed")

FOLDER = Path(__file__).parents[1] / "benchmarks"


def run(program: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / program), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    """The modules ``common`` and ``slide`` of the benchmarks."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import common
    import slide

    yield common, slide
    for name in ("common", "slide"):
        del sys.modules[name]


def test_reading_compares_equal_pixels(tmp_path: Path) -> None:
    output = tmp_path / "reading.json"
    small = ["--size", "2048", "--repeats", "2", "--patches", "2"]
    done = run("reading.py", *small, "--output", str(output))
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert report["settings"]["size"] == 2048
    assert report["settings"]["slide"] is None
    assert report["machine"]["cores"] >= 1
    assert report["versions"]["numpy"] == np.__version__
    assert list(map(len, report["results"].values())) == [9, 9, 7]
    for case, rows in report["results"].items():
        for row in rows:
            assert row["reader"] in done.stdout
            assert min(row["patches/s"], row["CPU ms"], row["of bare"]) > 0
            assert row["memory MB"] > 1  # at least the batch and what was decoded
            if "stored" in case or "bare" in row["reader"]:
                assert row["largest difference"] == 0, (case, row)
        assert rows[0]["of bare"] == 1


def test_missing_slide_is_one_clear_line(tmp_path: Path) -> None:
    missing = tmp_path / "none.svs"
    done = run("reading.py", "--slide", str(missing), "--output", str(tmp_path / "reading.json"))
    assert done.returncode == 1
    assert done.stderr == f"reading.py: error: {missing}: there is no such file; correct the path in the datalist.\n"
    assert list(tmp_path.iterdir()) == []


def test_huge_slide_reads_only_the_tiles_it_needs(tmp_path: Path) -> None:
    output = tmp_path / "huge.json"
    done = run("huge_slide.py", "--size", "8192", "--output", str(output))
    assert done.returncode == 0, done.stderr
    geometry = PatchGeometry((8192, 8192), 0.25, (4.0, 1.0, 0.25), 299)
    tiles = {(4.0, row, col) for row, col in product(range(2), repeat=2)}  # of the thumbnail: all of the smallest level
    for cell in np.linspace(0, geometry.num_cells - 1, 5, dtype=int).tolist():
        row, col, *_ = map(int, geometry.level_box(cell))
        spans = (range(start // 256, (start + 298) // 256 + 1) for start in (row, col))
        tiles |= {(geometry.magnifications[geometry.cell(cell).level].mpp, *tile) for tile in product(*spans)}
    results = json.loads(output.read_text())["results"]
    assert {row["reader"]: row["tiles"] for row in results} == dict.fromkeys(
        ("cucim", "tifffile", "openslide"), len(tiles)
    )


def test_slide_of_shared_tiles_has_the_same_pixels(tmp_path: Path, benchmarks: tuple[ModuleType, ModuleType]) -> None:
    _, slide = benchmarks
    pixels = np.random.default_rng(0).integers(0, 256, (1024, 2048, 3), np.uint8)
    for once in (False, True):
        slide.write_slide(str(tmp_path / f"{once}.tif"), pixels, 3000, 0.25, (1, 4, 16), None, once)
    each, shared = stored_levels(str(tmp_path / "False.tif")), stored_levels(str(tmp_path / "True.tif"))
    assert np.array_equal(each[0], np.tile(pixels, (3, 2, 1))[:3000, :3000])
    assert [level.shape for level in each] == [(3000, 3000, 3), (750, 750, 3), (187, 187, 3)]
    for one, other in zip(each, shared):
        assert np.array_equal(one, other)
    assert (tmp_path / "True.tif").stat().st_size < 0.4 * (tmp_path / "False.tif").stat().st_size


def test_jobs_take_turns(benchmarks: tuple[ModuleType, ModuleType]) -> None:
    common, _ = benchmarks
    calls: list[tuple[str, int]] = []
    jobs = {name: lambda repeat, name=name: calls.append((name, repeat)) for name in "abc"}
    seconds = common.interleaved(jobs, 2)
    assert calls == [("a", 0), ("b", 0), ("c", 0), ("b", 1), ("c", 1), ("a", 1)]
    assert {name: each.shape for name, each in seconds.items()} == dict.fromkeys("abc", (2, 2))


def test_table_is_aligned_markdown(benchmarks: tuple[ModuleType, ModuleType]) -> None:
    common, _ = benchmarks
    text = common.table([{"reader": "a", "MB": 1234.5}, {"reader": "longer", "MB": 0.12345}])
    assert text.splitlines() == [
        "| reader |    MB |",
        "| ------ | ----: |",
        "| a      |  1234 |",
        "| longer | 0.123 |",
    ]
