# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What the patches of a region cost, compared with their tiles and with the whole region.

    python benchmarks/lazy_reading.py [--slide FILE] [--output lazy_reading.json]

The region is a slide of 8192 x 8192 pixels at level 0, in tiles of 256, with levels 1, 2 and 4. In every repeat other
cells are drawn; their patches are read into a batch, the same tiles one by one into another, and the region, 1024 x
1024 pixels at a time. cuCIM caches no tile, so each one is decoded again. "CPU ms" is the processor time in all
threads, the median of all repeats; "of its tiles" is that time divided by the tiles', "of the region" by the region's.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from common import in_own_process, interleaved, run_program, table, write_report
from decoded import Decoded, Window
from slide import TILE, make_slide

from monai_jsma.data import Pyramid
from monai_jsma.slides import Reader, inspect_slide, open_slide

MODULES = ("monai_jsma", "cucim", "tifffile", "imagecodecs", "numpy")
MPP = 0.25  # of level 0
DOWNSAMPLES = (1, 2, 4)
BLOCK = 4 * TILE  # of the region, read at a time
REGION = "the region"
KINDS = {f"{TILE}, aligned": (TILE, True), "299": (299, False)}  # patch size, aligned


def measure(path: str, size: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each kind of patch, and one for the region."""
    reader = _open(path)
    blocks = _cut_blocks(size)
    _read(reader, blocks)  # no job pays for the first check of a tile

    jobs: dict[str, Callable[[int], object]] = {REGION: lambda repeat: _read(reader, blocks)}
    num_tiles: dict[str, float] = {REGION: (size // -TILE) ** 2}
    for kind in KINDS:
        pyramid = _open_pyramid(path, kind)
        rng = np.random.default_rng(0)
        cells = []
        tiles = []
        for _ in range(args.repeats):
            drawn = rng.choice(pyramid.geometry.num_cells, args.patches, replace=False).tolist()
            cells.append(drawn)
            tiles.append(_find_tiles(path, kind, drawn))
        jobs[kind] = partial(_read_cells, pyramid, cells)
        jobs[f"{kind}: tiles"] = partial(_read_tiles, reader, tiles)
        num_tiles[kind] = float(np.mean([len(each) for each in tiles]))

    seconds = {name: each[:, 1] for name, each in interleaved(jobs, args.repeats).items()}
    rows = []
    for kind in (*KINDS, REGION):
        median = np.median(seconds[kind])
        own = seconds.get(f"{kind}: tiles")
        rows.append(
            {
                "what": kind if kind == REGION else f"{args.patches} patches of {kind}",
                "tiles": num_tiles[kind],
                "CPU ms": float(1e3 * median),
                "of its tiles": None if own is None else float(median / np.median(own)),
                "of the region": float(median / np.median(seconds[REGION])),
            }
        )
    return rows


def _cut_blocks(size: int) -> list[Window]:
    """The windows in which the region is read."""
    blocks = []
    for row, col in product(range(0, size, BLOCK), repeat=2):
        blocks.append((0, (row, col), (min(BLOCK, size - row), min(BLOCK, size - col))))
    return blocks


def _open(path: str) -> Reader:
    return open_slide(inspect_slide(path, reader="cucim"))


def _open_pyramid(path: str, kind: str) -> Pyramid:
    patch_size, aligned = KINDS[kind]
    spacings = [MPP * down for down in DOWNSAMPLES]
    return Pyramid(
        _open(path), mpp=MPP, magnifications=spacings, patch_size=patch_size, path=path, aligned=aligned
    )  # fmt: skip


def _find_tiles(path: str, kind: str, cells: Sequence[int]) -> list[Window]:
    """The tiles under the patches of cells."""
    pyramid = _open_pyramid(path, kind)
    decoded = Decoded(pyramid)
    pyramid.read(cells)
    return decoded.tiles()


def _read(reader: Reader, windows: Sequence[Window]) -> None:
    for window in windows:
        reader.read(*window)


def _read_cells(pyramid: Pyramid, cells: Sequence[Sequence[int]], repeat: int) -> None:
    pyramid.read(cells[repeat])


def _read_tiles(reader: Reader, tiles: Sequence[Sequence[Window]], repeat: int) -> None:
    batch = np.empty((len(tiles[repeat]), TILE, TILE, 3), np.uint8)
    for pixels, tile in zip(batch, tiles[repeat]):
        pixels[...] = reader.read(*tile)


def run(args: argparse.Namespace) -> None:
    """Make the slide, measure, print a table and write the report."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "region.tif"))
        make = partial(make_slide, size=args.size, mpp=MPP, downsamples=DOWNSAMPLES)
        in_own_process(make, path, args.slide)
        rows = in_own_process(measure, path, args.size, args)
    print(table(rows))
    write_report(args.output, {**vars(args), "mpp": MPP, "downsamples": DOWNSAMPLES}, MODULES, results=rows)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Compare reading a few patches with their tiles and with the region.")
    parser.add_argument("--slide", metavar="FILE", help="image or slide to repeat; by default a synthetic tissue")
    parser.add_argument("--size", type=int, default=8192, help="pixels a side of level 0 (default: %(default)s)")
    parser.add_argument("--patches", type=int, default=5, metavar="K", help="read at a time (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=60, help="number of repeats (default: %(default)s)")
    parser.add_argument("--output", default="lazy_reading.json", metavar="FILE", help="report (default: %(default)s)")
    run_program(run, parser.parse_args())


if __name__ == "__main__":
    main()
