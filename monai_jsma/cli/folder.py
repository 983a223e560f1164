# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``prepare folder ROOT``: make a datalist of a folder of pictures or slides, or of a table of them."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_jsma.cli import Commands, add_command

__all__ = ["add_parser", "add_split", "run", "summary"]


def add_parser(commands: Commands) -> None:
    """Add the command to those of ``prepare``."""
    text = "Make a datalist of pictures or slides with labels, split by group."
    parser = add_command(commands, "folder", run, summary=text)
    parser.add_argument(
        "root", type=Path, metavar="ROOT",
        help="folder with a table labels.csv or a folder for each class, or the table itself; paths are relative to it",
    )  # fmt: skip
    parser.add_argument(
        "--labels", type=Path, metavar="CSV",
        help="table with columns image, label and, if known, group or patient, mpp, sha256 "
        "(default: ROOT/labels.csv, else the folders are the classes)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="JSON", help="datalist to write (default: ROOT/datalist.json)")
    parser.add_argument(
        "--mpp", type=float, help="um per pixel, where the table does not give it (default: as each file says)"
    )
    parser.add_argument(
        "--class-order", metavar="A,B,C", help="class names in the order of their numbers (default: sorted)"
    )
    add_split(parser, "test")


def add_split(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Add the options of a cross-validation; ``purpose`` is what the held-out fold is for."""
    parser.add_argument("--folds", type=int, default=5, metavar="K", help="number of folds (default: %(default)s)")
    parser.add_argument(
        "--fold", type=int, default=0, metavar="F", help=f"fold to {purpose} on, from 0 (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the split (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Write the datalist and print what is on each side."""
    from monai_jsma.datalists.folder import folder_datalist
    from monai_jsma.datalists.schema import save_datalist

    order = [name.strip() for name in args.class_order.split(",")] if args.class_order else None
    content = folder_datalist(
        args.root, args.labels, mpp=args.mpp, folds=args.folds, fold=args.fold, seed=args.seed, class_order=order
    )
    folder = args.root if args.root.is_dir() else args.root.parent
    path = save_datalist(content, args.out or folder / "datalist.json")
    print(summary(content))
    print(path)


def summary(content: Mapping[str, Any]) -> str:
    """A table of the pictures of each class and the groups on each side of a datalist."""
    from monai_jsma.datalists.groups import group_of
    from monai_jsma.datalists.schema import SIDES

    names = list(content["labels"].values())
    columns: list[int | None] = list(range(len(names)))
    if any("label" not in item for side in SIDES for item in content[side]):
        names, columns = [*names, "unlabelled"], [*columns, None]
    rows = [["", *names, "groups"]]
    for side in SIDES:
        counts = Counter(item.get("label") for item in content[side])
        groups = {group_of(item) for item in content[side]}
        rows.append([side, *(str(counts[i]) for i in columns), str(len(groups))])
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths)) for row in rows)
