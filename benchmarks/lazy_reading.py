# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What the patches of a region cost beside their tiles, and beside the whole region.

    python benchmarks/lazy_reading.py [--slide FILE] [--output lazy_reading.json]

The region is a slide of 8192 x 8192 pixels at level 0, in tiles of 256, with levels 1, 2 and 4. In every repeat other
cells are drawn; their patches are read into a batch, the same tiles one by one into another, and the region, 1024 x
1024 pixels at a time. cuCIM keeps no tile, so that each is decoded again. "CPU ms" is the processor's time in all
threads, the median of all repeats; "of its tiles" is that time over the tiles', "of the region" over the region's.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from common import in_own_process, interleaved, table, write_report
from decoded import Decoded, Window
from slide import TILE, tissue, write_slide

from monai_jsma.data import Pyramid, Reader, SlideError, inspect_slide
from monai_jsma.slides import open_slide

MODULES = ("monai_jsma", "cucim", "tifffile", "imagecodecs", "numpy")
MPP, DOWNSAMPLES, BLOCK = 0.25, (1, 2, 4), 4 * TILE
KINDS = {f"{TILE}, aligned": (TILE, True), "299": (299, False)}
REGION = "the region"


def measure(path: str, size: int, patches: int, repeats: int) -> list[dict[str, Any]]:
    """A row for each kind of patch, and one for the region."""
    reader = _reader(path)
    blocks = [(0, i, j, *(min(BLOCK, size - k) for k in (i, j))) for i, j in product(range(0, size, BLOCK), repeat=2)]
    jobs: dict[str, Callable[[int], object]] = {REGION: lambda _: _read(reader, blocks)}
    _read(reader, blocks)  # nobody pays for the first look at a tile
    tiles = {REGION: (size // -TILE) ** 2}
    for kind, (patch_size, aligned) in KINDS.items():
        pyramid, rng = _pyramid(path, patch_size, aligned), np.random.default_rng(0)
        drawn = [rng.choice(pyramid.geometry.num_cells, patches, replace=False).tolist() for _ in range(repeats)]
        under = [_tiles_under(_pyramid(path, patch_size, aligned), cells) for cells in drawn]
        jobs[kind] = partial(_call, pyramid.read, drawn)
        jobs[f"{kind}: tiles"] = partial(_call, partial(_read_tiles, reader), under)
        tiles[kind] = float(np.mean([len(part) for part in under]))
    seconds = {name: each[:, 1] for name, each in interleaved(jobs, repeats).items()}
    return [_row(kind, patches, tiles, seconds) for kind in (*KINDS, REGION)]


def _row(kind: str, patches: int, tiles: dict[str, Any], seconds: dict[str, np.ndarray]) -> dict[str, Any]:
    own = seconds.get(f"{kind}: tiles")
    return {
        "what": kind if kind == REGION else f"{patches} patches of {kind}",
        "tiles": tiles[kind],
        "CPU ms": float(1e3 * np.median(seconds[kind])),
        "of its tiles": None if own is None else float(np.median(seconds[kind]) / np.median(own)),
        "of the region": float(np.median(seconds[kind]) / np.median(seconds[REGION])),
    }


def _reader(path: str) -> Reader:
    return open_slide(inspect_slide(path, reader="cucim"))


def _pyramid(path: str, patch_size: int, aligned: bool) -> Pyramid:
    spacings = [MPP * down for down in DOWNSAMPLES]
    return Pyramid(_reader(path), mpp=MPP, magnifications=spacings, patch_size=patch_size, path=path, aligned=aligned)


def _tiles_under(pyramid: Pyramid, cells: Sequence[int]) -> list[Window]:
    decoded = Decoded(pyramid)
    pyramid.read(cells)
    return decoded.tiles()


def _read(reader: Reader, windows: Sequence[Window]) -> None:
    for window in windows:
        reader.read(*window)


def _read_tiles(reader: Reader, tiles: Sequence[Window]) -> None:
    batch = np.empty((len(tiles), TILE, TILE, 3), np.uint8)
    for room, tile in zip(batch, tiles):
        room[...] = reader.read(*tile)


def _call(job: Callable[[Any], object], parts: Sequence[Any], repeat: int) -> None:
    job(parts[repeat])


def run(args: argparse.Namespace) -> None:
    """Make the slide, measure, print a table and write the report."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "region.tif"))
        in_own_process(_make, path, args.slide, args.size)
        rows = in_own_process(measure, path, args.size, args.patches, args.repeats)
    print(table(rows))
    write_report(args.output, {**vars(args), "mpp": MPP, "downsamples": DOWNSAMPLES}, MODULES, results=rows)
    print(f"\n{args.output}")


def _make(path: str, source: str | None, size: int) -> None:
    write_slide(path, tissue(source), size, MPP, DOWNSAMPLES, "jpeg", once=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Compare reading a few patches with their tiles and with the region.")
    parser.add_argument("--slide", metavar="FILE", help="picture or slide to repeat; by default a synthetic tissue")
    parser.add_argument("--size", type=int, default=8192, help="pixels a side of level 0 (default: %(default)s)")
    parser.add_argument("--patches", type=int, default=5, metavar="K", help="read at a time (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=60, help="of which the median counts (default: %(default)s)")
    parser.add_argument("--output", default="lazy_reading.json", metavar="FILE", help="report (default: %(default)s)")
    try:
        run(parser.parse_args())
    except (FileNotFoundError, SlideError, ValueError) as error:
        sys.exit(f"lazy_reading.py: error: {error}")


if __name__ == "__main__":
    main()
