# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``prepare tcga_prad SLIDES ANNOTATIONS``: make a datalist of regions of annotated prostate slides."""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_jsma.cli import Commands, add_command

__all__ = ["add_parser", "run"]

_COLUMNS = ("slide", "stage", "reason")  # of the table of what failed


def add_parser(commands: Commands) -> None:
    """Add the command to those of ``prepare``."""
    summary = "Make a datalist of regions inside the annotations of prostate slides, balanced, split by patient."
    parser = add_command(commands, "tcga_prad", run, summary=summary)
    parser.add_argument("slides", type=Path, metavar="SLIDES", help="folder of slides; image paths are relative to it")
    parser.add_argument(
        "annotations", type=Path, metavar="ANNOTATIONS",
        help="folder of QuPath GeoJSON, ImageScope XML or CSV of boxes, named as their slides; or one file",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="JSON", help="datalist to write (default: SLIDES/datalist.json)")
    parser.add_argument(
        "--map", action="append", default=[], metavar="NAME=CLASS",
        help="class of an annotated name: benign, 'Gleason 3', 'Gleason 4/5' or ignore; may be repeated",
    )  # fmt: skip
    _add_numbers(parser)
    parser.add_argument("--strict", action="store_true", help="write no datalist when anything failed")


def _add_numbers(parser: argparse.ArgumentParser) -> None:
    number = parser.add_argument
    number("--size-um", type=float, default=2000.0, metavar="UM", help="side of a region in um (default: %(default)g)")
    number("--cover", type=float, default=0.5, help="smallest share of it inside its class (default: %(default)s)")
    number("--per-slide", type=int, default=12, metavar="N", help="most regions of a slide (default: %(default)s)")
    number("--per-class", type=int, default=95, metavar="N", help="most regions of a class (default: %(default)s)")
    number("--mpp", type=float, help="um per pixel of all slides, in place of what they say")
    number("--folds", type=int, default=5, metavar="K", help="number of folds of patients (default: %(default)s)")
    number("--fold", type=int, default=0, metavar="F", help="fold to test on, from 0 (default: %(default)s)")
    number("--seed", type=int, default=0, metavar="S", help="of places, choice and split (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Write the datalist and the table of what failed, and print what is on each side."""
    from monai_jsma._io import csv_text, write_whole
    from monai_jsma.cli.folder import summary
    from monai_jsma.datalists.prostate import RegionSettings, class_mapping, gather
    from monai_jsma.datalists.schema import save_datalist

    out = args.out or args.slides / "datalist.json"
    failed = out.parent / "failed.csv"
    names = ("size_um", "cover", "per_slide", "per_class", "mpp", "folds", "fold", "seed")
    settings = RegionSettings(**{name: getattr(args, name) for name in names})
    cohort = gather(
        args.slides, args.annotations, settings=settings, mapping=class_mapping(args.map), skip=(out, failed)
    )
    write_whole(failed, csv_text(_COLUMNS, ((fault.where, fault.stage, fault.line) for fault in cohort.faults)))
    if not (cohort.faults and args.strict):
        content = cohort.datalist()
        save_datalist(content, out)
        print(summary(content))
        print("placed: " + ", ".join(f"{n} {name}" for name, n in content["placed"].items()))
        if content["unknown"]:
            unknown = ", ".join(f"{name} ({n})" for name, n in sorted(content["unknown"].items()))
            print(f"not used, as --map names no class for them: {unknown}")
        print(out)
    if cohort.faults:
        kept = "no datalist was written" if args.strict else "the datalist holds the rest"
        raise ValueError(f"{len(cohort.faults)} slides or annotations failed, listed in {failed}; {kept}.")
