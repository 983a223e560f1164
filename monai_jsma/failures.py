# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The one line that says why a run of a bundle failed, below or out of MONAI's traceback.

MONAI wraps what a configuration raises in errors of its own, so that the reason stands far above the end.
"""

from __future__ import annotations

import re
import sys
from types import TracebackType

__all__ = ["describe_cause", "find_cause_in_log", "print_cause_last"]

_WRAPPERS = ("Failed to evaluate", "Failed to instantiate", "applying transform")  # of MONAI
_MARK = "error: "


def print_cause_last() -> None:
    """Let this process print the reason of an error in a line of its own, after the traceback."""
    if not isinstance(sys.excepthook, _CauseHook):
        sys.excepthook = _CauseHook()


class _CauseHook:
    """A hook that prints the traceback as before, then the reason."""

    def __init__(self) -> None:
        self._print_traceback = sys.excepthook

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        self._print_traceback(kind, error, trace)
        if isinstance(error, Exception):
            print(f"{_MARK}{describe_cause(error)}", file=sys.stderr)


def describe_cause(error: BaseException) -> str:
    """The message of an error in one line, without the errors that MONAI wraps around it.

    Args:
        error: an error that a configuration, a transform or a worker process has raised.
    """
    while isinstance(error, RuntimeError) and str(error).startswith(_WRAPPERS):
        inner = error.__cause__ or error.__context__
        if inner is None:
            break
        error = inner

    message = str(error)
    if "Original Traceback" in message:  # a worker process sends its traceback as text
        message = find_cause_in_log(message)
    line = " ".join(message.split())
    return line or type(error).__name__


def find_cause_in_log(text: str) -> str:
    """The line of a log that says why the run failed.

    It is the line that :func:`print_cause_last` adds, else the first error of the first traceback, else the last line.

    Args:
        text: output of the command.
    """
    lines = text.strip().splitlines()
    for line in reversed(lines):
        if line.startswith(_MARK):
            return line.removeprefix(_MARK)

    for line in lines:
        is_error = re.match(r"(\w+\.)*\w*(Error|Exception|Interrupt)\b(: |$)", line)
        if is_error:
            return line
    return lines[-1] if lines else "it has written nothing"
