# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``verify DATALIST``: find every fault of a datalist and its files before a training finds the first."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from monai_jsma.cli import Commands, add_command

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> None:
    """Add the command."""
    summary = "Check every file, box, label, checksum and group of a datalist."
    parser = add_command(commands, "verify", run, summary=summary)
    parser.add_argument("datalist", type=Path, metavar="DATALIST", help="the JSON file")
    parser.add_argument(
        "--base-dir", type=Path, metavar="DIR", help="folder of relative image paths (default: the datalist's)"
    )
    parser.add_argument(
        "--mpp", type=float, help="um per pixel of the pictures whose spacing neither the datalist nor the file tells"
    )
    parser.add_argument(
        "--magnifications", metavar="A,B,C", help="that the files must be fine enough for: 50X,100X or um per pixel"
    )
    parser.add_argument(
        "--read", choices=("patch", "all"), default="patch",
        help="one patch of each region, or all pixels of all levels (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--failed", type=Path, metavar="CSV", help="table of the faults (default: failed.csv beside the datalist)"
    )


def run(args: argparse.Namespace) -> int:
    """Write the table of faults and print how many there are; 1 if there is any."""
    from monai_jsma._io import write_whole
    from monai_jsma.datalists.verify import STAGES, fault_table, verify_datalist

    table = args.failed or args.datalist.parent / "failed.csv"
    folder = next(p for p in table.absolute().parents if p.exists())
    if not os.access(folder, os.W_OK):  # said now, not after hours of reading
        raise PermissionError(f"{table}: cannot be written; name another file with --failed.")
    faults, number = verify_datalist(
        args.datalist, args.base_dir, mpp=args.mpp, magnifications=split_names(args.magnifications),
        everything=args.read == "all", progress=with_progress,
    )  # fmt: skip
    write_whole(table, fault_table(faults))
    if not faults:
        print(f"{args.datalist}: {number} items, no fault")
        return 0
    stages = Counter(fault.stage for fault in faults)
    counts = ", ".join(f"{stage} {stages[stage]}" for stage in STAGES if stages[stage])
    items = len({fault.key for fault in faults if fault.key})
    print(f"{args.datalist}: {len(faults)} faults in {items} of {number} items ({counts}); all of them are in {table}")
    return 1


def split_names(text: str | None) -> list[str | float]:
    """Magnifications from the command line: names, or numbers for um per pixel."""
    return [magnification(name.strip()) for name in text.split(",")] if text else []


def magnification(text: str) -> str | float:
    """A name such as "100X" as it is, anything else as um per pixel.

    Raises:
        ValueError: when it is neither.
    """
    try:
        return text if text[-1:] in "xX" else float(text)
    except ValueError as error:
        raise ValueError(f"'{text}' is no magnification: give um per pixel (1.0) or a name ('100X').") from error


def with_progress(entries: Sequence[Any]) -> Iterator[Any]:
    """Go through the entries with a progress bar on the terminal's error stream, above which warnings are logged."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    bar: Iterable[Any] = tqdm(entries, unit="item", dynamic_ncols=True, disable=None)  # None: only on a terminal
    with logging_redirect_tqdm():
        yield from bar
