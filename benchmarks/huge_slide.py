# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A slide of 100,000 x 100,000 pixels: opened, its thumbnail and 5 patches read, each time in a separate process.

    python benchmarks/huge_slide.py [--slide FILE] [--output huge_slide.json]

The slide is a BigTIFF pyramid of JPEG tiles, with the levels of a scanner (1, 4 and 16). Repeated tiles share their
bytes, so it takes a few MB on disk; a reader sees 153,000 tiles all the same. Memory is counted above the imports.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import in_own_process, now, peak_memory, run_program, table, write_report
from decoded import Decoded
from slide import make_slide

from monai_jsma.data import Pyramid
from monai_jsma.slides import inspect_slide, open_slide

MODULES = ("monai_jsma", "cucim", "openslide", "tifffile", "imagecodecs", "numpy", "torch")
READERS = ("cucim", "tifffile", "openslide")
MPP = 0.25  # of level 0
DOWNSAMPLES = (1, 4, 16)
MAGNIFICATIONS = (4.0, 1.0, 0.25)
SIZE = 299
THUMBNAIL = (299, 299)
PATCHES = 5


def look(path: str, library: str) -> dict[str, Any]:
    """What a user does first: open the slide, look at its thumbnail, read a few patches."""
    memory = peak_memory()
    start = now()
    reader = open_slide(inspect_slide(path, reader=library))
    pyramid = Pyramid(reader, mpp=MPP, magnifications=MAGNIFICATIONS, patch_size=SIZE, path=path)
    decoded = Decoded(pyramid)
    opened = now()

    pyramid.thumbnail(THUMBNAIL)
    seen = now()

    cells = np.linspace(0, pyramid.geometry.num_cells - 1, PATCHES, dtype=int)
    pyramid.read(cells.tolist())
    end = now()

    clock, processor = (end - start).tolist()
    return {
        "reader": library,
        "opened s": float((opened - start)[0]),
        "thumbnail s": float((seen - opened)[0]),
        "patches s": float((end - seen)[0]),
        "all s": clock,
        "all CPU s": processor,
        "memory MB": peak_memory() - memory,
        "tiles": len(set(decoded.tiles())),
    }


def run(args: argparse.Namespace) -> None:
    """Make the slide, look at it with every reader, print a table and write the report."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "huge.tif"))
        make = partial(make_slide, size=args.size, mpp=MPP, downsamples=DOWNSAMPLES)
        in_own_process(make, path, args.slide)
        megabytes = Path(path).stat().st_size / 1e6
        rows = [in_own_process(look, path, library) for library in READERS]

    print(f"{args.size} x {args.size} pixels, {megabytes:.1f} MB on disk\n\n{table(rows)}")
    settings = {**vars(args), "disk_mb": megabytes, "downsamples": DOWNSAMPLES}
    write_report(args.output, settings, MODULES, results=rows)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Open a huge slide and read its thumbnail and five patches.")
    parser.add_argument("--slide", metavar="FILE", help="image or slide to repeat; by default a synthetic tissue")
    parser.add_argument("--size", type=int, default=100_000, help="pixels a side (default: %(default)s)")
    parser.add_argument("--output", default="huge_slide.json", metavar="FILE", help="report (default: %(default)s)")
    run_program(run, parser.parse_args())


if __name__ == "__main__":
    main()
