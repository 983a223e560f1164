# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""How fast patches are read, and with how much memory: our pyramid, the bare libraries, MONAI's WSIReader.

    python benchmarks/reading.py [--slide FILE] [--output reading.json]

Everyone reads the same windows into the same kind of batch, each from a slide opened once, and no window twice; the
patches are compared. Three cases: stored levels of a JPEG and of an uncompressed slide, and a magnification between the
stored levels, where bare libraries leave the averaging to Pillow and WSIReader has none for windows. "CPU ms" is the
processor's time for a patch, in all threads; "of bare" is that time over the bare library's in the same repeat. Both
are what a busy machine changes least; all are medians.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import in_own_process, interleaved, peak_memory, table, write_report
from contenders import CONTENDERS, DOWNSAMPLES, MPP, SIZE, Contender, Read, Window, open_pyramid, windows_of
from slide import tissue, write_slide

from monai_jsma.data import SlideError

MODULES = ("monai_jsma", "cucim", "openslide", "tifffile", "imagecodecs", "PIL", "monai", "numpy", "torch")


class Case(NamedTuple):
    """A slide and what is read from it."""

    name: str
    compression: str | None
    magnifications: tuple[float, ...]  # um per pixel
    stored: bool


CASES = (
    Case("JPEG, stored levels", "jpeg", tuple(MPP * down for down in DOWNSAMPLES), True),
    Case("uncompressed, stored levels", None, tuple(MPP * down for down in DOWNSAMPLES), True),
    Case("JPEG, averaged to 0.8 um per pixel", "jpeg", (0.8,), False),
)


def measure(case: Case, path: str, repeats: int, patches: int) -> list[dict[str, Any]]:
    """One row a contender. This process itself reads nothing, so that the others begin without what was read before."""
    parts = in_own_process(_windows, case, path, repeats, patches)
    contenders = [c for c in CONTENDERS if c.averages or case.stored]
    seconds, differences = in_own_process(_compare, contenders, case, path, parts)
    rows = []
    for contender in contenders:
        bare = seconds[next(c.name for c in contenders if c.library == contender.library)]
        clock, processor = seconds[contender.name].T
        rows.append({
            "reader": contender.name,
            "patches/s": float(patches / np.median(clock)),
            "CPU ms": float(1e3 * np.median(processor) / patches),
            "of bare": float(np.median(processor / bare[:, 1])),
            "memory MB": in_own_process(_memory, contender, case, path, parts[0]),
            "largest difference": differences[contender.name],
        })  # fmt: skip
    return rows


def _windows(case: Case, path: str, repeats: int, patches: int) -> list[list[Window]]:
    """Windows of a first call and of every repeat; none comes twice."""
    pyramid = open_pyramid(path, "tifffile", case.magnifications)
    needed = (repeats + 1) * patches
    if needed > pyramid.geometry.num_cells:
        raise ValueError(
            f"{needed} windows are needed, but the slide has {pyramid.geometry.num_cells}; give a larger --size, or "
            "fewer --repeats or --patches."
        )
    cells = np.random.default_rng(0).permutation(pyramid.geometry.num_cells)[:needed]
    return [windows_of(pyramid, part.tolist()) for part in np.split(cells, repeats + 1)]


def _memory(contender: Contender, case: Case, path: str, windows: Sequence[Window]) -> float:
    before = peak_memory()
    contender.open(path, case.magnifications)(windows)
    return peak_memory() - before


def _compare(
    contenders: Sequence[Contender], case: Case, path: str, parts: Sequence[Sequence[Window]]
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Seconds of every repeat, and the largest difference of any pixel from the first contender's."""
    readers = {c.name: c.open(path, case.magnifications) for c in contenders}
    for read in readers.values():
        read(parts[0])  # nobody pays for the first call
    jobs = {name: partial(_read_part, read, parts[1:]) for name, read in readers.items()}
    seconds = interleaved(jobs, len(parts) - 1)
    differences = dict.fromkeys(readers, 0)
    for part in parts:
        expected = readers[contenders[0].name](part).astype(np.int16)
        for name, read in readers.items():
            differences[name] = max(differences[name], int(np.abs(expected - read(part)).max()))
    return seconds, differences


def _read_part(read: Read, parts: Sequence[Sequence[Window]], repeat: int) -> None:
    read(parts[repeat])


def run(args: argparse.Namespace) -> None:
    """Make the slides, measure all cases, print a table a case and write the report."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for compression in ("jpeg", None):
            path = str(Path(folder, f"{compression}.tif"))
            in_own_process(_make, path, args.slide, args.size, compression)
        for case in CASES:
            path = str(Path(folder, f"{case.compression}.tif"))
            results[case.name] = measure(case, path, args.repeats, args.patches)
            print(f"\n{case.name}\n\n{table(results[case.name])}", flush=True)
    settings = {**vars(args), "window": SIZE, "mpp": MPP, "downsamples": DOWNSAMPLES}
    write_report(args.output, settings, MODULES, results=results)
    print(f"\n{args.output}")


def _make(path: str, source: str | None, size: int, compression: str | None) -> None:
    write_slide(path, tissue(source), size, MPP, DOWNSAMPLES, compression, once=False)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Compare the speed and memory of reading patches.")
    parser.add_argument("--slide", metavar="FILE", help="picture or slide to repeat; by default a synthetic tissue")
    parser.add_argument("--size", type=int, default=8192, help="pixels a side of level 0 (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=50, help="of which the median counts (default: %(default)s)")
    parser.add_argument("--patches", type=int, default=6, help="in each repeat (default: %(default)s)")
    parser.add_argument("--output", default="reading.json", metavar="FILE", help="report (default: %(default)s)")
    try:
        run(parser.parse_args())
    except (FileNotFoundError, SlideError, ValueError) as error:
        sys.exit(f"reading.py: error: {error}")


if __name__ == "__main__":
    main()
