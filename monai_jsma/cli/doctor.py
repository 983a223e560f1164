# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``doctor``: does this machine have what the package needs? A fix is named for all that is not well.

Libraries are imported in other processes (:mod:`monai_jsma.cli.probes`) with a time limit, so that one that crashes or
hangs is a line of the report and not the end of it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from monai_jsma.cli import Commands, add_command
from monai_jsma.cli.checks import Answer, all_checks

__all__ = ["add_parser", "ask", "run"]


def add_parser(commands: Commands) -> None:
    """Add the command."""
    summary = "Check versions, readers and GPU of this machine, with a fix for each fault."
    parser = add_command(commands, "doctor", run, summary=summary)
    text = "seconds that a library may take to import (default: %(default)g)"
    parser.add_argument("--timeout", type=float, default=120.0, metavar="S", help=text)


def run(args: argparse.Namespace) -> int:
    """Print the lines as they come; 1 if there is a FAIL."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="doctor") as folder:
        checks = list(all_checks(partial(ask, timeout=args.timeout), folder))
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for lines in pool.map(lambda check: check(), checks):
                for line in lines:
                    counts[line.status] += 1
                    print(f"{line.status}  {line.name:<12} {line.text}", flush=True)
                    if line.fix:
                        print(f"      {'':<12} fix: {line.fix}", flush=True)
    print(", ".join(f"{counts[status]} {status}" for status in ("PASS", "WARN", "FAIL")))
    return 1 if counts["FAIL"] else 0


def ask(probe: str, *args: str, timeout: float) -> Answer:
    """Run a probe in another process."""
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-m", "monai_jsma.cli.probes", probe, *args]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout, check=False,
            stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return Answer(error=f"no answer within {timeout:g} s")
    except OSError as error:
        return Answer(error=f"cannot be started: {error}")
    if done.returncode < 0:
        return Answer(error=f"crashed ({signal.Signals(-done.returncode).name})")
    if done.returncode:
        return Answer(error=(done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    try:
        return Answer(json.loads(done.stdout.strip().splitlines()[-1]))
    except (ValueError, IndexError):
        return Answer(error=f"answered {done.stdout[-80:]!r}")
