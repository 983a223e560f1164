# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``prepare mosaic`` makes large images in which one place decides, of small labeled images such as cores."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_jsma._io import format_table
from monai_jsma.cli import Commands, add_command, parse_mpp, parse_number, parse_whole, show_progress

__all__ = ["add_mosaic", "prepare_mosaic"]


def add_mosaic(sources: Commands) -> None:
    """Add ``mosaic`` to the commands of ``prepare``."""
    summary = "Make pictures in which few places decide: many of your own labeled pictures on one, blank glass between."
    parser = add_command(sources, "mosaic", prepare_mosaic, summary=summary)
    add = parser.add_argument
    add("datalist", type=Path, metavar="DATALIST", help="datalist of small pictures with labels, such as cores")
    add("out", type=Path, metavar="OUT", help="folder to write pictures, annotations and datalist.json to")
    add("--class", required=True, dest="positive_class", metavar="NAME", help="the class that is looked for")
    add("--base-dir", type=Path, metavar="DIR", help="folder of relative image paths (default: that of DATALIST)")
    _add_layout_options(parser)
    _add_output_options(parser)


def _add_layout_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--grid", type=_parse_grid, default=(3, 3), metavar="RxC", help="rows and columns of places (default: 3x3)")
    add(
        "--blank",
        type=parse_number,
        default=0.3,
        metavar="SHARE",
        help="share of places without a core (default: %(default)s)",
    )
    add(
        "--positive",
        type=_parse_positive,
        default=(1,),
        metavar="N",
        help="cores of the class on a positive picture: a number (1), a share (0.25), or several that take "
        "turns (0.5,0.25,0.1) (default: 1)",
    )
    add(
        "--rule",
        choices=("any", "majority"),
        default="any",
        help="a picture is positive if any core is of the class, or if more than half are (default: any)",
    )
    add(
        "--cores-per-picture",
        type=parse_whole(1),
        metavar="N",
        help="number of different cores on a picture, which are repeated on it (default: as many as there are)",
    )
    add(
        "--margin",
        type=parse_number,
        default=0.1,
        metavar="SHARE",
        help="how much larger a place is than the largest core (default: %(default)s)",
    )
    add(
        "--centered",
        action="store_true",
        help="put each core in the middle of its place (default: anywhere in it), so that a core has the same pixels "
        "on every picture",
    )
    add("--seed", type=parse_whole(), default=0, metavar="S", help="random seed of the pictures and folds (default: 0)")


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--train",
        type=parse_whole(),
        default=200,
        metavar="N",
        help="number of training pictures (default: %(default)s)",
    )
    add(
        "--validation",
        type=parse_whole(),
        default=50,
        metavar="N",
        help="number of validation pictures (default: %(default)s)",
    )
    add(
        "--test",
        type=parse_whole(),
        default=50,
        metavar="N",
        help="number of test pictures; with --folds of each fold (default: %(default)s)",
    )
    add(
        "--folds",
        type=parse_whole(2),
        metavar="K",
        help="divide the cores of all splits into K folds by group, each with its own pictures, as crossval needs "
        "(default: keep the splits)",
    )
    add(
        "--fold",
        type=parse_whole(),
        default=0,
        metavar="F",
        help="fold to test on, with --folds (default: %(default)s)",
    )
    add(
        "--to-mpp",
        type=parse_mpp,
        metavar="UM",
        help="um per pixel to resample all cores to (default: as the cores, which must agree)",
    )
    add(
        "--lossless",
        action="store_true",
        help="store the pixels as they are (default: JPEG of quality 95, without chroma subsampling)",
    )


def _parse_grid(text: str) -> tuple[int, int]:
    rows, separator, cols = text.lower().partition("x")
    if not (separator and rows.isdecimal() and cols.isdecimal()):
        raise argparse.ArgumentTypeError(f"'{text}' is no grid: write rows x columns, such as 3x3")
    return int(rows), int(cols)


def _parse_positive(text: str) -> tuple[int | float, ...]:
    numbers = []
    for part in text.split(","):
        try:
            numbers.append(int(part) if part.strip().isdecimal() else float(part))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"'{part}' is no number: write 1, 0.25 or 0.5,0.25,0.1") from error
    return tuple(numbers)


def prepare_mosaic(args: argparse.Namespace) -> None:
    """Write the mosaics and print how many there are, and of how many different cores."""
    from monai_jsma.datalists.mosaic import MosaicSettings
    from monai_jsma.datalists.mosaic_datalist import JPEG_QUALITY, MosaicOutput, make_mosaics

    settings = MosaicSettings(
        grid=args.grid,
        blank=args.blank,
        positive=args.positive,
        rule=args.rule,
        cores_per_picture=args.cores_per_picture,
        margin=args.margin,
        seed=args.seed,
        centered=args.centered,
    )
    output = MosaicOutput(
        num_train=args.train,
        num_validation=args.validation,
        num_test=args.test,
        folds=args.folds,
        fold=args.fold,
        to_mpp=args.to_mpp,
        quality=None if args.lossless else JPEG_QUALITY,
    )
    content = make_mosaics(
        args.datalist,
        args.out,
        positive_class=args.positive_class,
        settings=settings,
        output=output,
        base_dir=args.base_dir,
        progress=show_progress,
    )
    print(_format_sets(content))
    print("What can be learned depends on the number of different cores, not on the number of pictures made of them.")
    print(args.out / "datalist.json")


def _format_sets(content: Mapping[str, Any]) -> str:
    """A table of the pictures of each split, and of the different cores that they are made of."""
    from monai_jsma.datalists.splits import SPLITS

    class_names = list(content["labels"].values())
    positive_class = content["settings"]["class"]
    rows = [["", *class_names, f"different cores: {positive_class}", "other"]]
    for split in SPLITS:
        items = content.get(split, [])
        if not items:
            continue
        row = [split]
        for label in range(len(class_names)):
            row.append(str(sum(item["label"] == label for item in items)))
        groups = {item["group"] for item in items}
        for kind in (positive_class, "other"):
            numbers = [content["distinct_cores"][group.removeprefix("cores of ")][kind] for group in groups]
            row.append(str(sum(numbers)))
        rows.append(row)
    return "\n".join(format_table(rows))
