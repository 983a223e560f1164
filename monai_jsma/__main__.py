# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``python -m monai_jsma COMMAND``: prepare and check data, train variants of a bundle, show and score predictions.

Exit code 0: done. 1: the input is wrong, as one line says, or a check failed. 2: the command line is wrong.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from monai_jsma.cli import (
    compare,
    doctor,
    encoders,
    examine,
    export,
    features,
    pack,
    prepare,
    print_error,
    show,
    train,
    view,
)

__all__ = ["build_parser", "main"]


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; neither torch nor MONAI is imported for it."""
    parser = argparse.ArgumentParser(
        prog="python -m monai_jsma",
        description="Joint spatial and magnification based attention for large histopathology images.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (doctor, encoders, features, prepare, examine, train, compare, show, view, pack, export):
        module.add_commands(commands)
    return parser


def _list_user_errors() -> tuple[type[Exception], ...]:
    """The errors that are reported in one line. Called only when there is an error, as the import takes seconds."""
    from monai_jsma.slides.errors import SlideError

    return ValueError, OSError, SlideError


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments of the command line (default: those of this process).

    Returns:
        The exit code.
    """
    args = build_parser().parse_args(argv)
    if args.verbose:
        logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        return args.run(args) or 0
    except _list_user_errors() as error:
        if args.verbose:
            logging.getLogger(__name__).exception("The error arose here:")
        print_error(error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
