# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of lazy reading count the tiles that are decoded; times are not looked at."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from places import ROOT
from warm_python import warm_python

from monai_jsma.data import Pyramid, inspect_slide
from monai_jsma.slides import open_slide
from monai_jsma.slides.tifffile_reader import TileFile

pytest.importorskip("cucim", reason="the benchmarks read by cuCIM, which is not installed")

FOLDER = ROOT / "benchmarks"


def run(program: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [str(warm_python()), str(FOLDER / program), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_few_patches_decode_few_tiles_end_to_end(tmp_path: Path) -> None:
    output = tmp_path / "end_to_end.json"
    small = ["--sizes", "2048", "--repeats", "1", "--patches", "2", "--backbone", "test_resnet"]
    done = run("end_to_end.py", *small, "--thumbnail-backbone", "test_resnet", "--output", str(output))
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    rows = {row["way"]: row for row in report["results"]}
    assert all(way in done.stdout for way in rows)
    levels = 2**2, 4**2, 8**2  # tiles; the thumbnail is averaged from the first
    found = {way: (row["patches"], row["tiles"], row["decoded"]) for way, row in rows.items()}
    assert found["all, aligned"] == (sum(levels), sum(levels), 4 + sum(levels))
    assert found["usual pipeline"] == (64, 64, 64)
    assert found["all, 299"][:2] == (2**2 + 4**2 + 7**2, sum(levels))
    patches, tiles, decoded = found["ours, aligned"]
    assert (patches, decoded) == (2, 4 + 2)
    assert 4 <= tiles <= decoded
    assert found["ours, a training step"][::2] == (2, 4 + 2)
    assert (found["ours, 299"][0], rows["ours, aligned"]["of ours"]) == (2, 1)
    for row in rows.values():
        assert min(row["s"], row["CPU s"], row["of ours"], row["memory MB"], row["read MB"]) > 0
    assert report["settings"]["patches"] == 2


def test_lazy_reading_counts_the_tiles_of_patches(tmp_path: Path) -> None:
    output = tmp_path / "lazy.json"
    done = run("lazy_reading.py", "--size", "2048", "--repeats", "2", "--patches", "3", "--output", str(output))
    assert done.returncode == 0, done.stderr
    aligned, centred, region = json.loads(output.read_text())["results"]
    assert (aligned["tiles"], region["tiles"]) == (3, 64)
    assert 3 * 1.5 < centred["tiles"] <= 3 * 9
    assert region["of its tiles"] is None
    assert min(aligned["of its tiles"], centred["of its tiles"], aligned["of the region"]) > 0


def test_tiles_are_those_that_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted by what tifffile really decodes."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import slide
    from decoded import Decoded

    path = str(tmp_path / "slide.tif")
    options = {"downsamples": (1, 2, 4), "compression": "jpeg", "once": False}
    slide.write_slide(path, slide.tissue(None), size=2000, mpp=0.25, **options)
    decode, calls = TileFile.read_tile, []
    monkeypatch.setattr(TileFile, "read_tile", lambda self, *tile: calls.append(tile) or decode(self, *tile))
    for aligned, cells in ((True, [0, 5, 30, 83]), (False, [1, 10, 40])):
        reader = open_slide(inspect_slide(path, reader="tifffile"))
        size = 256 if aligned else 299
        pyramid = Pyramid(reader, mpp=0.25, magnifications=(1, 0.5, 0.25), patch_size=size, path=path, aligned=aligned)
        decoded = Decoded(pyramid)
        calls.clear()
        pyramid.read(cells)
        tiles = decoded.tiles()
        assert len(set(calls)) == len(calls) == len(set(tiles))
        columns = [-(-width // 256) for _, width in reader.level_sizes]
        assert set(calls) == {(level, row // 256 * columns[level] + col // 256) for level, (row, col), _ in tiles}
        reader.close()
