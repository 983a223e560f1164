# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``prepare bach ROOT``: make a datalist of the unzipped BACH challenge."""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_jsma.cli import Commands, add_command
from monai_jsma.cli.folder import add_split, summary

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> None:
    """Add the command to those of ``prepare``."""
    text = "Make a datalist of the unzipped ICIAR 2018 BACH challenge, with its unlabelled pictures as test list."
    parser = add_command(commands, "bach", run, summary=text)
    parser.add_argument("root", type=Path, metavar="ROOT", help="the folder ICIAR2018_BACH_Challenge, or one above it")
    parser.add_argument("--test", type=Path, metavar="DIR", help="folder of the unlabelled pictures (default: found)")
    parser.add_argument(
        "--patients", type=Path, metavar="CSV",
        help="table with columns image and patient; no patient is then on two sides",
    )  # fmt: skip
    parser.add_argument(
        "--tiled", type=Path, metavar="OUT",
        help="write all pictures as tiled pyramids to OUT, without loss, and list these; goes on where it was stopped",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="JSON", help="datalist to write (default: datalist.json in OUT, else in ROOT)"
    )
    add_split(parser, "validate")


def run(args: argparse.Namespace) -> None:
    """Write the datalist and print what is on each side."""
    from monai_jsma.datalists.bach import bach_datalist
    from monai_jsma.datalists.schema import save_datalist

    content = bach_datalist(
        args.root, test=args.test, patients=args.patients,
        folds=args.folds, fold=args.fold, seed=args.seed, tiled=args.tiled,
    )  # fmt: skip
    path = save_datalist(content, args.out or (args.tiled or args.root) / "datalist.json")
    print(summary(content))
    print(path)
