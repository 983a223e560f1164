# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The commands of ``python -m monai_jsma``: prepare, examine, train, compare, show, view, doctor, encoders and more.

Each module adds its commands to the parser with ``add_commands`` and is light to import. The function that runs a
command itself imports torch and MONAI, so that ``--help`` answers at once. It prints its result, and raises
ValueError, OSError or SlideError for what the user can correct. A command that checks something returns its exit code.
"""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

__all__ = ["Commands", "add_command", "parse_mpp", "parse_number", "parse_whole", "print_error", "show_progress"]

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = argparse._SubParsersAction


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int | None], *, summary: str
) -> argparse.ArgumentParser:
    """Add the parser of one command, with the options that all commands have.

    Args:
        commands: commands of the program, or of a command such as ``prepare`` that has commands of its own.
        name: name that the user types.
        run: function that runs the command: it gets the parsed arguments and returns the exit code, or None for 0.
        summary: one sentence for ``--help``.
    """
    parser = commands.add_parser(name, help=summary, description=summary)
    parser.add_argument("--verbose", action="store_true", help="show the log, and where in the code an error arose")
    parser.set_defaults(run=run)
    return parser


def parse_whole(smallest: int = 0) -> Callable[[str], int]:
    """The type of an option that is a whole number.

    Args:
        smallest: smallest number that is taken.
    """

    def parse(text: str) -> int:
        number = int(text) if text.isdecimal() else None
        if number is None or number < smallest:
            raise argparse.ArgumentTypeError(f"'{text}' is no whole number of at least {smallest}")
        return number

    return parse


def parse_mpp(text: str) -> float:
    """The um per pixel of an option ``--mpp``, with a decimal point or a decimal comma."""
    return parse_number(text)


def parse_number(text: str) -> float:
    """The number of an option, with a decimal point or a decimal comma."""
    from monai_jsma.slides.spacing import parse_decimal  # slow to import, and needed where the option is given only

    try:
        return parse_decimal(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def print_error(error: object) -> None:
    """Print the message of an error as one line of the error stream."""
    text = _describe_system_error(error) if isinstance(error, OSError) and error.errno else str(error)
    message = " ".join(text.split())
    print(f"error: {message}", file=sys.stderr)


def _describe_system_error(error: OSError) -> str:
    """The file first, then what the operating system says of it, and the way out."""
    if error.filename is None:
        return str(error)
    ways_out = {
        errno.EACCES: "ask its owner for the permission, or name another",
        errno.EPERM: "ask its owner for the permission, or name another",
        errno.EROFS: "name another folder",
        errno.ENOTDIR: "a part of this path is a file; name another folder",
        errno.EEXIST: "a file has this name; name another folder",
        errno.ENOENT: "correct the path",
        errno.EISDIR: "name a file",
        errno.ENAMETOOLONG: "name a shorter one",
    }
    reason = error.strerror or "it cannot be used"
    way_out = ways_out.get(error.errno or 0)
    return f"{error.filename}: {reason}" + (f"; {way_out}." if way_out else "")


def show_progress(entries: Sequence[Any]) -> Iterator[Any]:
    """Iterate over entries with a progress bar on the terminal's error stream; warnings are logged above it."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    bar: Iterable[Any] = tqdm(entries, unit="item", dynamic_ncols=True, disable=None)  # None: only on a terminal
    with logging_redirect_tqdm():
        yield from bar
