# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``synthetic OUT``: write pictures with a known answer, and their datalist."""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_jsma.cli import Commands, add_command

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> None:
    """Add the command."""
    summary = "Write pictures whose class is told by one magnification and place, known beforehand."
    parser = add_command(commands, "synthetic", run, summary=summary)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write the pictures and datalist.json to")
    for side, number in (("train", 320), ("validation", 80), ("test", 80)):
        text = f"number of {side} pictures (default: {number})"
        parser.add_argument(f"--{side}", type=int, default=number, metavar="N", help=text)
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="equal seeds give equal files (default: 0)")
    text = "one cell tells the class, or half of the cells do, or one of a magnification that each picture draws, or a "
    text += "handwritten digit in one cell"
    parser.add_argument(
        "--task", choices=("sparse", "dense", "mixed", "digits"), default="sparse", help=f"{text} (default: sparse)"
    )
    text = "true magnification: 50X, 100X or 200X, not for mixed (default: 1)"
    parser.add_argument("--level", type=int, choices=(0, 1, 2), default=1, help=text)
    parser.add_argument("--classes", type=int, metavar="C", help="number of classes (default: all, 4 or of digits 10)")


def run(args: argparse.Namespace) -> None:
    """Write the pictures and print where the datalist is."""
    from monai_jsma.datalists.synthetic import make_dataset

    datalist = make_dataset(
        args.out, args.train, args.validation, args.test,
        seed=args.seed, task=args.task, level=args.level, num_classes=args.classes,
    )  # fmt: skip
    print(f"{datalist}: {args.train} training, {args.validation} validation and {args.test} test pictures")
