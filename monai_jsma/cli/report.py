# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``report PREDICTIONS...``: tables and figures of one or more runs, on one page."""

from __future__ import annotations

import argparse
from pathlib import Path

from monai_jsma.cli import Commands, add_command

__all__ = ["add_parser", "run"]


def add_parser(commands: Commands) -> None:
    """Add the command."""
    summary = "Write scores with intervals, curves, attention and the worst errors of one or more runs as a page."
    parser = add_command(commands, "report", run, summary=summary)
    text = "prediction records, or NAME=FILE; files of one NAME are one run, others are compared to the first run"
    parser.add_argument("predictions", nargs="+", metavar="PREDICTIONS", help=text)
    text = "folder to write to (default: report)"
    parser.add_argument("--output", type=Path, default=Path("report"), metavar="DIR", help=text)
    text = "score each region, or all regions of a file or group as one by mean probability (default: region)"
    parser.add_argument("--by", choices=("region", "file", "group"), default="region", help=text)
    parser.add_argument("--ordered", action="store_true", help="the classes are grades: show the quadratic kappa")
    text = "number of bootstrap resamples, 0 for no intervals (default: 1000)"
    parser.add_argument("--resamples", type=_count, default=1000, metavar="N", help=text)
    parser.add_argument("--seed", type=_count, default=0, metavar="S", help="of the bootstrap (default: 0)")
    text = "number of the worst errors to show (default: 8)"
    parser.add_argument("--errors", type=_count, default=8, metavar="N", help=text)
    text = "where relative paths of the pictures begin (default: here)"
    parser.add_argument("--base-dir", type=Path, default=Path(), metavar="DIR", help=text)


def run(args: argparse.Namespace) -> None:
    """Write the report and print each run's accuracy."""
    from monai_jsma.report import Settings, read_runs, write_report

    settings = Settings(
        by=args.by,
        ordered=args.ordered,
        resamples=args.resamples,
        seed=args.seed,
        errors=args.errors,
    )
    content = write_report(read_runs(args.predictions), args.output, settings, base_dir=args.base_dir)
    for found in content["runs"]:
        print(f"{found['name']}: {found['regions']} regions of {found['groups']} groups, {_accuracy(found['scored'])}")
    print(args.output / "report.html")


def _accuracy(scored: dict | None) -> str:
    if scored is None:
        return "none has a label"
    accuracy = scored["scores"]["accuracy"]
    interval = "" if accuracy["low"] is None else f" [{accuracy['low']:.3f}, {accuracy['high']:.3f}]"
    return f"accuracy {accuracy['value']:.3f}{interval}"


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number")
    return int(text)
