# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Tables 5 and 6 of the paper: training and inference with 5 patches and with all, for one magnification and for all.

    python benchmarks/epoch.py [--bundle tcga_prad] [--thumbnail-backbone mobilenetv3_small_100] [--output epoch.json]

"Combined" is the sum of the three networks of one magnification, "ours" one network for all of them. The paper's ratios
are compared with what the arithmetic allows: the multiply-adds of each network's forward pass, counted while it runs (a
training step takes three times as many, whatever the network). Times are seconds, medians of interleaved repeats: on a
CPU processor time, because other programs stretch the clock; on a GPU by the clock.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from common import interleaved, positive, run_program, table, write_report
from workload import MODULES, Workload, add_arguments, multiply_adds

from monai_jsma.networks import JSMANet, PatchSource

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


class Measured(NamedTuple):
    """What was measured of a cell, for one image."""

    seconds: np.ndarray  # of every repeat: (clock, processor)
    multiply_adds: int  # of a forward pass


def measure(workload: Workload, phases: Sequence[str], repeats: int) -> dict[Cell, Measured]:
    """Measure every cell of the table, each network with 5 patches and with all."""
    batch_sizes = {"training": workload.args.training_batch_size, "inference": workload.args.batch_size}
    steps = {"training": workload.train, "inference": workload.infer}
    networks = {magnification.name: [magnification] for magnification in workload.magnifications}
    networks[OURS] = workload.magnifications

    jobs: dict[Cell, Callable[[int], object]] = {}
    work: dict[Cell, int] = {}
    for name, magnifications in networks.items():
        network = workload.network(magnifications)
        single = workload.patches(magnifications, 1)
        for k in PATCHES:
            forward = multiply_adds(partial(workload.infer, network, k, single))
            for phase in phases:
                cell = Cell(name, phase, k)
                patches = workload.patches(magnifications, batch_sizes[phase])
                jobs[cell] = partial(_run_step, steps[phase], network, k, patches)
                work[cell] = forward

    workload.compile()
    timed = interleaved({str(cell): job for cell, job in jobs.items()}, repeats + 1)
    measured = {}
    for cell in jobs:
        seconds = timed[str(cell)][1:]  # the first repeat warms up
        measured[cell] = Measured(seconds / batch_sizes[cell.phase], work[cell])
    return measured


def _run_step(step: Callable[..., object], network: JSMANet, k: int | str, patches: PatchSource, repeat: int) -> None:
    step(network, k, patches)


def with_combined(values: Mapping[Cell, Any]) -> dict[Cell, Any]:
    """The same values, and the sums of those of the single magnifications."""
    sums: dict[Cell, Any] = {}
    for cell, value in values.items():
        if cell.network != OURS:
            combined = cell._replace(network=COMBINED)
            sums[combined] = sums.get(combined, 0) + value
    return {**values, **sums}


def make_times(seconds: Mapping[Cell, np.ndarray], work: Mapping[Cell, int]) -> list[dict[str, Any]]:
    """The paper's table: a row for each network with seconds and 10^9 multiply-adds (GMAC) of one image."""
    rows: dict[str, dict[str, Any]] = {}
    for cell in sorted(seconds, key=lambda cell: cell.network == OURS):  # ours last; the others keep their order
        row = rows.setdefault(cell.network, {"network": cell.network})
        row[f"{cell.phase}, {cell.patches} (s)"] = float(np.median(seconds[cell]))

    for cell, number in work.items():
        rows[cell.network][f"{cell.patches} (GMAC)"] = number / 1e9
    return list(rows.values())


def make_ratios(seconds: Mapping[Cell, np.ndarray], work: Mapping[Cell, int], bundle: str) -> list[dict[str, Any]]:
    """How many times faster ours with 5 patches is: in the paper, by arithmetic, and as measured."""
    paper = _read_paper(bundle)
    rows = []
    for slower in SLOWER:
        if slower not in seconds:
            continue
        ours = Cell(OURS, slower.phase, PATCHES[0])
        limit = work[slower] / work[ours]
        measured = float(np.median(seconds[slower] / seconds[ours]))
        published = float(paper[slower] / paper[ours])
        rows.append(
            {
                "ours with 5 patches against": f"{slower.phase}, {slower.network}, {slower.patches}",
                "paper": None if np.isnan(published) else published,
                "limit": limit,
                "measured": measured,
                "share of limit": measured / limit,
            }
        )
    return rows


def _read_paper(bundle: str) -> dict[Cell, Any]:
    """The paper's times by cell; NaN where it has none."""
    times = {}
    for name, values in PAPER[bundle].items():
        for (phase, k), value in zip(product(PHASES, PATCHES), values):
            times[Cell(name, phase, k)] = np.array(value, float)
    return with_combined(times)


def run(args: argparse.Namespace) -> None:
    """Measure, print both tables and write the report."""
    if args.training_batch_size > args.batch_size:
        raise ValueError("--training-batch-size must not exceed --batch-size.")
    workload = Workload(args)
    measured = measure(workload, args.phases, args.repeats)

    seconds = with_combined({cell: each.seconds[:, workload.meter] for cell, each in measured.items()})
    work = with_combined({cell: each.multiply_adds for cell, each in measured.items()})
    times = make_times(seconds, work)
    ratios = make_ratios(seconds, work, args.bundle)
    print(f"\n{table(times)}")
    print(f"\n{table(ratios)}")

    repeats = []
    for cell, each in measured.items():
        repeats.append({**cell._asdict(), "clock, processor (s)": each.seconds.tolist()})
    write_report(args.output, workload.settings(), MODULES, times=times, ratios=ratios, repeats=repeats)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Time training and inference, with 5 patches and with all.")
    add_arguments(parser)
    parser.add_argument(
        "--training-batch-size", type=positive, default=4, metavar="N",
        help="images in a training step, not more than --batch-size (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=PHASES, help="default: both")
    parser.add_argument("--output", default="epoch.json", metavar="FILE", help="report (default: %(default)s)")
    run_program(run, parser.parse_args())


if __name__ == "__main__":
    main()
