# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What all benchmarks share: fair timing, peak memory, tables, and a report with settings, machine and versions.

Times are in seconds, memory in MB (10^6 bytes). Linux only: the kernel counts ``ru_maxrss`` in KiB there.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from monai_jsma._io import count_cores, write_whole
from monai_jsma.slides import SlideError

__all__ = [
    "in_own_process",
    "interleaved",
    "machine",
    "now",
    "peak_memory",
    "positive",
    "run_program",
    "table",
    "versions",
    "write_report",
]

T = TypeVar("T")


def interleaved(jobs: Mapping[str, Callable[[int], object]], repeats: int) -> dict[str, np.ndarray]:
    """Time jobs that take turns: seconds by the clock and of the processor, ``(repeats, 2)`` for each job.

    Because the jobs take turns, a busy machine slows all of them alike. Their order is random in each repeat, so no job
    always finds the caches as the same other job left them. Jobs are called with the number of the repeat.
    """
    rng = np.random.default_rng(0)
    seconds = {name: np.empty((repeats, 2)) for name in jobs}
    for repeat in range(repeats):
        for name in rng.permutation(list(jobs)).tolist():
            start = now()
            jobs[name](repeat)
            seconds[name][repeat] = now() - start
    return seconds


def now() -> np.ndarray:
    """Seconds by the clock, and of the processor in all threads of this process."""
    return np.array([time.perf_counter(), time.process_time()])


def peak_memory() -> float:
    """The most memory that this process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def in_own_process(function: Callable[..., T], *args: Any) -> T:
    """Call a function in a process of its own, forked from this one: with its imports, and without what it reads.

    A fork starts to count its peak anew; a process that executes another program inherits its parent's peak.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(function, *args).result()


def machine() -> dict[str, Any]:
    """Describe the machine and the day."""
    processor = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(": ")[2]
            break

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor,
        "cores": count_cores(),
        "memory_gb": round(memory / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def versions(modules: Sequence[str]) -> dict[str, str]:
    """Versions of these modules."""
    return {name: str(importlib.import_module(name).__version__) for name in modules}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as an aligned Markdown table: the first column to the left, the others to the right."""
    lines = [list(rows[0])]
    for row in rows:
        lines.append([_format(value) for value in row.values()])

    widths = []
    for column in zip(*lines):
        widths.append(max(len(cell) for cell in column))

    rule = ["-" * widths[0]]
    rule += ["-" * (width - 1) + ":" for width in widths[1:]]
    lines.insert(1, rule)
    return "\n".join(_align(line, widths) for line in lines)


def _align(cells: Sequence[str], widths: Sequence[int]) -> str:
    aligned = [cells[0].ljust(widths[0])]
    for cell, width in zip(cells[1:], widths[1:]):
        aligned.append(cell.rjust(width))
    return "| " + " | ".join(aligned) + " |"


def _format(value: Any) -> str:
    """Three digits of a number below 100, whole numbers above."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def write_report(path: str | Path, settings: Mapping[str, Any], modules: Sequence[str], **results: Any) -> None:
    """Write results as JSON, with settings, machine and versions, and print where."""
    report = {
        "settings": dict(settings),
        "machine": machine(),
        "versions": versions(modules),
        **results,
    }
    write_whole(path, json.dumps(report, indent=2) + "\n")
    print(f"\n{path}")


def run_program(run: Callable[[argparse.Namespace], None], args: argparse.Namespace) -> None:
    """Run a benchmark; wrong input ends it with one line that names the program."""
    try:
        run(args)
    except (FileNotFoundError, SlideError, ValueError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")


def positive(text: str) -> int:
    """Parse an option's whole number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number
