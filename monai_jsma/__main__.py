# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``python -m monai_jsma COMMAND``: make, prepare and check data, draw and report predictions.

Exit code 0: done. 1: the input is wrong, said in one line, or a check failed. 2: the usage is wrong.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from monai_jsma.cli import bach, crossval, demo, doctor, draw, folder, info, report, synthetic, tcga_prad, verify

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; neither torch nor MONAI is imported for it."""
    parser = argparse.ArgumentParser(
        prog="python -m monai_jsma",
        description="Joint spatial and magnification based attention for large histopathology pictures.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    demo.add_parser(commands)
    synthetic.add_parser(commands)
    summary = "Make a datalist of pictures or slides on disk."
    prepare = commands.add_parser("prepare", help=summary, description=summary)
    sources = prepare.add_subparsers(metavar="SOURCE", required=True)
    bach.add_parser(sources)
    folder.add_parser(sources)
    tcga_prad.add_parser(sources)
    crossval.add_parsers(commands)
    report.add_parser(commands)
    info.add_parser(commands)
    verify.add_parser(commands)
    doctor.add_parser(commands)
    draw.add_parser(commands)
    return parser


def _errors_of_the_user() -> tuple[type[Exception], ...]:
    """What is reported in one line. Called once an error is there, as the import takes seconds."""
    from monai_jsma.slides.errors import SlideError

    return ValueError, OSError, SlideError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code."""
    args = build_parser().parse_args(argv)
    if args.verbose:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        return args.run(args) or 0
    except _errors_of_the_user() as error:
        if args.verbose:
            logging.getLogger(__name__).exception("What led to the error:")
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
