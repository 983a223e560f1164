# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""How fast patches are read, and with how much memory: our pyramid, the bare libraries, MONAI's WSIReader.

    python benchmarks/reading.py [--slide FILE] [--output reading.json]

All read the same windows into the same kind of batch, each from a slide opened once, and no window twice; the patches
are compared. Three cases: stored levels of a JPEG and of an uncompressed slide, and a magnification between the stored
levels, where bare libraries leave the averaging to Pillow and WSIReader has none for windows. "CPU ms" is the processor
time for a patch, in all threads; "of bare" is that time divided by the bare library's in the same repeat. Both are what
a busy machine changes least; all are medians.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from common import in_own_process, interleaved, peak_memory, run_program, table, write_report
from contenders import CONTENDERS, DOWNSAMPLES, MPP, SIZE, Contender, Read, Window, find_windows, open_pyramid
from slide import tissue, write_slide

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


def measure(case: Case, path: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure a case: a row for each contender.

    This process itself reads nothing, so that the others start without what was read before.
    """
    windows = in_own_process(_draw_windows, case, path, args)
    contenders = [contender for contender in CONTENDERS if contender.averages or case.stored]
    seconds, differences = in_own_process(_compare, contenders, case, path, windows)

    bare = {}  # the first contender of each library
    for contender in contenders:
        bare.setdefault(contender.library, seconds[contender.name][:, 1])

    rows = []
    for contender in contenders:
        clock, processor = seconds[contender.name].T
        row = {
            "reader": contender.name,
            "patches/s": float(args.patches / np.median(clock)),
            "CPU ms": float(1e3 * np.median(processor) / args.patches),
            "of bare": float(np.median(processor / bare[contender.library])),
            "memory MB": in_own_process(_measure_memory, contender, case, path, windows[0]),
            "largest difference": differences[contender.name],
        }
        rows.append(row)
    return rows


def _draw_windows(case: Case, path: str, args: argparse.Namespace) -> list[list[Window]]:
    """Windows of a first call and of every repeat; none comes twice."""
    pyramid = open_pyramid(path, "tifffile", case.magnifications)
    available = pyramid.geometry.num_cells
    needed = (args.repeats + 1) * args.patches
    if needed > available:
        raise ValueError(
            f"{needed} windows are needed, but the slide has {available}; give a larger --size, or fewer --repeats or "
            "--patches."
        )
    cells = np.random.default_rng(0).permutation(available)[:needed]
    return [find_windows(pyramid, part.tolist()) for part in np.split(cells, args.repeats + 1)]


def _measure_memory(contender: Contender, case: Case, path: str, windows: Sequence[Window]) -> float:
    before = peak_memory()
    read = contender.open(path, case.magnifications)
    read(windows)
    return peak_memory() - before


def _compare(
    contenders: Sequence[Contender], case: Case, path: str, windows: Sequence[Sequence[Window]]
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Seconds of every repeat, and the largest difference of any pixel from the first contender's."""
    readers = {contender.name: contender.open(path, case.magnifications) for contender in contenders}
    for read in readers.values():
        read(windows[0])  # no contender pays for its first call
    jobs = {name: partial(_read_repeat, read, windows[1:]) for name, read in readers.items()}
    seconds = interleaved(jobs, len(windows) - 1)

    reference = readers[contenders[0].name]
    differences = dict.fromkeys(readers, 0)
    for part in windows:
        expected = reference(part).astype(np.int16)
        for name, read in readers.items():
            difference = np.abs(expected - read(part)).max()
            differences[name] = max(differences[name], int(difference))
    return seconds, differences


def _read_repeat(read: Read, windows: Sequence[Sequence[Window]], repeat: int) -> None:
    read(windows[repeat])


def run(args: argparse.Namespace) -> None:
    """Make the slides, measure all cases, print a table for each and write the report."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for compression in ("jpeg", None):
            in_own_process(_make_slide, _path(folder, compression), args, compression)
        for case in CASES:
            rows = measure(case, _path(folder, case.compression), args)
            print(f"\n{case.name}\n\n{table(rows)}", flush=True)
            results[case.name] = rows

    settings = {**vars(args), "window": SIZE, "mpp": MPP, "downsamples": DOWNSAMPLES}
    write_report(args.output, settings, MODULES, results=results)


def _path(folder: str, compression: str | None) -> str:
    return str(Path(folder, f"{compression}.tif"))


def _make_slide(path: str, args: argparse.Namespace, compression: str | None) -> None:
    pixels = tissue(args.slide)
    write_slide(
        path, pixels, size=args.size, mpp=MPP, downsamples=DOWNSAMPLES, compression=compression, once=False
    )  # fmt: skip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Compare the speed and memory of reading patches.")
    parser.add_argument("--slide", metavar="FILE", help="image or slide to repeat; by default a synthetic tissue")
    parser.add_argument("--size", type=int, default=8192, help="pixels a side of level 0 (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=50, help="number of repeats (default: %(default)s)")
    parser.add_argument("--patches", type=int, default=6, help="in each repeat (default: %(default)s)")
    parser.add_argument("--output", default="reading.json", metavar="FILE", help="report (default: %(default)s)")
    run_program(run, parser.parse_args())


if __name__ == "__main__":
    main()
