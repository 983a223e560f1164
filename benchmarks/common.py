# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks share: fair timing, peak memory, and a report that says on what it was measured.

Times are in seconds, memory in MB (10^6 bytes). Linux only: the kernel counts ``ru_maxrss`` in KiB there.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from monai_jsma._io import write_whole

__all__ = ["in_own_process", "interleaved", "machine", "now", "peak_memory", "table", "versions", "write_report"]

T = TypeVar("T")


def interleaved(jobs: Mapping[str, Callable[[int], object]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds that every repeat of every job took, by the clock and of the processor: ``(repeats, 2)`` a job.

    The jobs take turns, so that a busy machine slows all of them alike, in another random order each time, so that
    nobody always finds what the same other one left in the caches. They are called with the number of the repeat.
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
    """The machine and the day."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": models[0].partition(": ")[2] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def versions(modules: Sequence[str]) -> dict[str, str]:
    """Versions of these modules."""
    return {name: str(importlib.import_module(name).__version__) for name in modules}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of the same keys as a Markdown table, aligned: the first column to the left, the others to the right."""
    lines = [list(map(str, rows[0])), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    aligned = ([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in aligned)


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) and value < 100 else _whole(value)


def _whole(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, float) else str(value)


def write_report(path: str | Path, settings: Mapping[str, Any], modules: Sequence[str], **results: Any) -> None:
    """Write what was measured as JSON: settings, machine, versions and results."""
    report = {"settings": dict(settings), "machine": machine(), "versions": versions(modules), **results}
    write_whole(path, json.dumps(report, indent=2) + "\n")
