# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Tables 5 and 6 of the paper: training and inference with 5 patches and with all, for one magnification and for all.

    python benchmarks/epoch.py [--bundle tcga_prad] [--thumbnail-backbone mobilenetv3_small_100] [--output epoch.json]

"Combined" is the sum of the three networks of one magnification, "ours" one network for all of them. The paper's ratios
are compared with what the arithmetic allows: the multiply-adds of each network's forward pass, counted while it runs (a
training step takes three times as many, whatever the network). Times are seconds, medians of interleaved repeats: of
the processor on a CPU, where other programs stretch the clock (with one thread and nothing else running both are the
same), by the clock on a GPU.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from common import interleaved, table, write_report
from workload import MODULES, Workload, add_arguments, multiply_adds, positive

PATCHES: tuple[int | str, ...] = (5, "all")
PHASES = ("training", "inference")
OURS, COMBINED = "ours", "combined"

# Tables 5 and 6, on a Quadro RTX 8000: s an epoch and ms a sample, each with 5 patches and with all.
PAPER = {
    "bach": {
        "50X": (17.9, 17.9, 13.8, 13.8),
        "100X": (22.9, 59.0, 18.4, 50.3),
        "200X": (22.9, 148.1, 24.4, 125.6),
        "ours": (25.2, None, 30.6, 316.1),
    },
    "tcga_prad": {
        "25X": (13.2, 13.2, 11.6, 11.6),
        "50X": (15.1, 39.9, 14.4, 39.6),
        "100X": (15.3, 115.0, 16.1, 118.9),
        "ours": (17.1, None, 23.2, 288.0),
    },
}


class Cell(NamedTuple):
    """A cell of the table: a network, what it does, and with how many patches."""

    network: str
    phase: str
    patches: int | str


# What ours with 5 patches is compared with. The paper's inference with all patches is its own network's ("ours"), its
# training with all patches the three single ones' ("combined"); both are given for both.
SLOWER = (
    Cell(COMBINED, "training", 5),
    Cell(COMBINED, "training", "all"),
    Cell(OURS, "training", "all"),
    Cell(COMBINED, "inference", "all"),
    Cell(OURS, "inference", "all"),
)


def measure(workload: Workload, phases: Sequence[str], repeats: int) -> tuple[dict[Cell, np.ndarray], dict[Cell, int]]:
    """Of each cell, for one picture: seconds of every repeat (clock, processor), multiply-adds of a forward pass."""
    levels = {m.name: [m] for m in workload.magnifications} | {OURS: workload.magnifications}
    size = {"training": workload.args.training_batch_size, "inference": workload.args.batch_size}
    jobs: dict[Cell, Callable[[int], object]] = {}
    work: dict[Cell, int] = {}
    for name, magnifications in levels.items():
        network, single = workload.network(magnifications), workload.patches(magnifications, 1)
        forward = {k: multiply_adds(partial(workload.infer, network, k, single)) for k in PATCHES}
        for phase, k in product(phases, PATCHES):
            step = workload.train if phase == "training" else workload.infer
            patches = workload.patches(magnifications, size[phase])
            jobs[Cell(name, phase, k)] = partial(_call, step, network, k, patches)
            work[Cell(name, phase, k)] = forward[k]
    workload.compile()
    timed = interleaved({str(cell): job for cell, job in jobs.items()}, repeats + 1)
    return {cell: timed[str(cell)][1:] / size[cell.phase] for cell in jobs}, work  # the first repeat warms up


def _call(step: Callable[..., object], *args: Any) -> None:
    step(*args[:-1])  # the last is the number of the repeat


def with_combined(values: Mapping[Cell, Any]) -> dict[Cell, Any]:
    """The same values, and the sums of those of the single magnifications."""
    sums: dict[Cell, Any] = {}
    for cell, value in values.items():
        if cell.network != OURS:
            combined = cell._replace(network=COMBINED)
            sums[combined] = sums.get(combined, 0) + value
    return {**values, **sums}


def times(seconds: Mapping[Cell, np.ndarray], work: Mapping[Cell, int]) -> list[dict[str, Any]]:
    """The paper's table: a row a network; seconds and 10^9 multiply-adds (GMAC), both of one picture."""
    rows = []
    for name in dict.fromkeys(cell.network for cell in sorted(seconds, key=lambda cell: cell.network == OURS)):
        row: dict[str, Any] = {"network": name}
        cells = [cell for cell in seconds if cell.network == name]
        row |= {f"{c.phase}, {c.patches} (s)": float(np.median(seconds[c])) for c in cells}
        row |= {f"{c.patches} (GMAC)": work[c] / 1e9 for c in cells}
        rows.append(row)
    return rows


def ratios(seconds: Mapping[Cell, np.ndarray], work: Mapping[Cell, int], bundle: str) -> list[dict[str, Any]]:
    """How many times faster ours with 5 patches is: in the paper, by arithmetic, and as measured."""
    paper = with_combined({
        Cell(name, phase, k): np.array(value, float)
        for name, values in PAPER[bundle].items()
        for (phase, k), value in zip(product(PHASES, PATCHES), values)
    })  # fmt: skip
    rows = []
    for slower in (cell for cell in SLOWER if cell in seconds):
        ours = Cell(OURS, slower.phase, PATCHES[0])
        limit = work[slower] / work[ours]
        measured = float(np.median(seconds[slower] / seconds[ours]))
        published = float(paper[slower] / paper[ours])
        rows.append({
            "ours with 5 patches against": f"{slower.phase}, {slower.network}, {slower.patches}",
            "paper": None if np.isnan(published) else published,
            "limit": limit,
            "measured": measured,
            "share of limit": measured / limit,
        })  # fmt: skip
    return rows


def run(args: argparse.Namespace) -> None:
    """Measure, print both tables and write the report."""
    if args.training_batch_size > args.batch_size:
        raise ValueError("--training-batch-size must not exceed --batch-size.")
    workload = Workload(args)
    measured, counted = measure(workload, args.phases, args.repeats)
    seconds = with_combined({cell: each[:, workload.meter] for cell, each in measured.items()})
    work = with_combined(counted)
    results = {"times": times(seconds, work), "ratios": ratios(seconds, work, args.bundle)}
    for rows in results.values():
        print(f"\n{table(rows)}")
    every = [{**cell._asdict(), "clock, processor (s)": each.tolist()} for cell, each in measured.items()]
    write_report(args.output, workload.settings(), MODULES, **results, repeats=every)
    print(f"\n{args.output}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Time training and inference, with 5 patches and with all.")
    add_arguments(parser)
    parser.add_argument(
        "--training-batch-size", type=positive, default=4, metavar="N", help="at most the other (default: %(default)s)"
    )
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES, help="default: both")
    parser.add_argument("--output", default="epoch.json", metavar="FILE", help="report (default: %(default)s)")
    try:
        run(parser.parse_args())
    except ValueError as error:
        sys.exit(f"epoch.py: error: {error}")


if __name__ == "__main__":
    main()
