# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A slide of 100,000 x 100,000 pixels: opened, its thumbnail and 5 patches read, in a process of its own each time.

    python benchmarks/huge_slide.py [--slide FILE] [--output huge_slide.json]

The slide is a BigTIFF pyramid of JPEG tiles, with the levels of a scanner (1, 4 and 16). Repeated tiles share their
bytes, so that it takes a few MB on disk; a reader sees 153,000 tiles all the same. Memory is counted above the imports.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import in_own_process, now, peak_memory, table, write_report
from decoded import Decoded
from slide import tissue, write_slide

from monai_jsma.data import Pyramid, SlideError, inspect_slide
from monai_jsma.slides import open_slide

MODULES = ("monai_jsma", "cucim", "openslide", "tifffile", "imagecodecs", "numpy", "torch")
READERS = ("cucim", "tifffile", "openslide")
MPP, DOWNSAMPLES = 0.25, (1, 4, 16)
MAGNIFICATIONS, SIZE = (4.0, 1.0, 0.25), 299
THUMBNAIL, PATCHES = (299, 299), 5


def look(path: str, library: str) -> dict[str, Any]:
    """What a user does first: open the slide, look at its thumbnail, read a few patches."""
    memory, clock = peak_memory(), [now()]
    info = inspect_slide(path, reader=library)
    pyramid = Pyramid(open_slide(info), mpp=MPP, magnifications=MAGNIFICATIONS, patch_size=SIZE, path=path)
    decoded = Decoded(pyramid)
    clock.append(now())
    pyramid.thumbnail(THUMBNAIL)
    clock.append(now())
    pyramid.read(np.linspace(0, pyramid.geometry.num_cells - 1, PATCHES, dtype=int).tolist())
    clock.append(now())
    opening, thumbnail, patches = np.diff(clock, axis=0)[:, 0].tolist()
    row = {"reader": library, "opened s": opening, "thumbnail s": thumbnail, "patches s": patches}
    row |= dict(zip(("all s", "all CPU s"), (clock[-1] - clock[0]).tolist())) | {"memory MB": peak_memory() - memory}
    return row | {"tiles": len(set(decoded.tiles()))}


def run(args: argparse.Namespace) -> None:
    """Make the slide, look at it with every reader, print a table and write the report."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "huge.tif"))
        in_own_process(_make, path, args.slide, args.size)
        disk = Path(path).stat().st_size / 1e6
        rows = [in_own_process(look, path, library) for library in READERS]
    print(f"{args.size} x {args.size} pixels, {disk:.1f} MB on disk\n\n{table(rows)}")
    write_report(args.output, {**vars(args), "disk_mb": disk, "downsamples": DOWNSAMPLES}, MODULES, results=rows)
    print(f"\n{args.output}")


def _make(path: str, source: str | None, size: int) -> None:
    write_slide(path, tissue(source), size, MPP, DOWNSAMPLES, "jpeg", once=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Open a huge slide and read its thumbnail and five patches.")
    parser.add_argument("--slide", metavar="FILE", help="picture or slide to repeat; by default a synthetic tissue")
    parser.add_argument("--size", type=int, default=100_000, help="pixels a side (default: %(default)s)")
    parser.add_argument("--output", default="huge_slide.json", metavar="FILE", help="report (default: %(default)s)")
    try:
        run(parser.parse_args())
    except (FileNotFoundError, SlideError, ValueError) as error:
        sys.exit(f"huge_slide.py: error: {error}")


if __name__ == "__main__":
    main()
