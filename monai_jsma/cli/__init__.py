# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The commands of ``python -m monai_jsma``. Each is a module with ``add_parser``, light to import, and ``run``.

``run`` imports what it needs (torch, MONAI), so that ``--help`` answers at once. It prints its result, and raises
ValueError, OSError or SlideError for what the user can mend. A command that checks returns its exit code.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

__all__ = ["Commands", "add_command"]

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = argparse._SubParsersAction


def add_command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int | None], *, summary: str
) -> argparse.ArgumentParser:
    """Add the parser of one command, with the options that all commands have.

    Args:
        commands: of the program, or of a command such as ``prepare`` that has commands of its own.
        name: what the user types.
        run: does it; gets the parsed arguments, returns the exit code or None for 0.
        summary: one sentence for ``--help``.
    """
    parser = commands.add_parser(name, help=summary, description=summary)
    parser.add_argument("--verbose", action="store_true", help="show the log, and where in the code an error arose")
    parser.set_defaults(run=run)
    return parser
