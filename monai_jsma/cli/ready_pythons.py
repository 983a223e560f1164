# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Commands that start at once: a Python that has imported everything runs each of them in a copy of itself.

PyTorch, MONAI and this package take seconds to import, and a comparison of variants runs hundreds of commands. So a
process that does nothing else, ``python -m monai_jsma.cli.ready_pythons``, imports them once and forks for every
command. It reads requests from its standard input and answers each with the exit code.

Where that is not known to be safe, commands are started as usual: outside of Linux, and where PyTorch sees a GPU, whose
driver may not be in use when a process forks.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

__all__ = ["ReadyPythons"]

_MODULES = (
    "monai.bundle",
    "monai.engines",
    "monai.handlers",
    "monai_jsma",
    "scipy.stats",
    "timm",
    "torch.utils.tensorboard",
)  # what the commands of a bundle import
_READY = "ready\n"


class ReadyPythons:
    """Runs ``python -m`` commands, several at the same time; a context manager, at whose end its processes end.

    Example::

        with ReadyPythons() as pythons:
            code = pythons.run([sys.executable, "-m", "monai.bundle", "--help"], folder=folder, log=folder / "help.log")
    """

    def __init__(self) -> None:
        self._idle: list[_ReadyPython] = []
        self._can_be_ready = sys.platform == "linux"

    def run(self, command: Sequence[str], *, folder: Path, log: Path) -> int:
        """Run a command, and return its exit code.

        Args:
            command: Python, ``-m``, the module and its arguments.
            folder: folder in which it runs.
            log: file to which its output is appended.
        """
        python = self._take()
        if python is None:
            with log.open("a", encoding="utf-8") as file:
                return subprocess.run(
                    command, cwd=folder, stdout=file, stderr=subprocess.STDOUT, check=False
                ).returncode
        code = python.run(command, folder=folder, log=log)
        self._idle.append(python)
        return code

    def _take(self) -> _ReadyPython | None:
        """One that is idle or new; None where there is none."""
        if not self._can_be_ready:
            return None
        with contextlib.suppress(IndexError):
            return self._idle.pop()
        python = _ReadyPython()
        if python.is_ready:
            return python
        self._can_be_ready = False
        python.close()
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for python in self._idle:
            python.close()
        self._idle.clear()


class _ReadyPython:
    """The process, seen from outside."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._requests = cast(IO[str], self._process.stdin)
        self._answers = cast(IO[str], self._process.stdout)
        self.is_ready = self._answers.readline() == _READY

    def run(self, command: Sequence[str], *, folder: Path, log: Path) -> int:
        """As :meth:`ReadyPythons.run`."""
        request = {"module": command[2], "arguments": list(command[3:]), "folder": str(folder), "log": str(log)}
        try:
            self._requests.write(json.dumps(request) + "\n")
            self._requests.flush()
        except BrokenPipeError:
            return self._process.wait()
        answer = self._answers.readline()
        return int(answer) if answer else self._process.wait()

    def close(self) -> None:
        """Let it end."""
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        self._process.wait()
        self._answers.close()


def _serve() -> None:
    """Import everything, then fork for each request; returns in a copy only, which is to run its command."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w") as answers:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the imports print is no answer
        for name in _MODULES:
            importlib.import_module(name)
        if not _can_fork():
            sys.exit()
        # Ctrl-C ends the commands, and then there are no more requests.
        usual = signal.signal(signal.SIGINT, signal.SIG_IGN)
        answers.write(_READY)
        answers.flush()
        for line in sys.stdin:
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGINT, usual)
                _become(json.loads(line))
                return
            _, status = os.waitpid(child, 0)
            answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
            answers.flush()
    sys.exit()


def _can_fork() -> bool:
    import torch

    return not torch.cuda.is_available()


def _become(request: dict) -> None:
    """Make this process the one that ``python -m`` would have started."""
    folder = request["folder"]
    os.chdir(folder)
    sys.path[0] = folder
    sys.argv = [request["module"], *request["arguments"]]

    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # the requests are not for the command
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)


if __name__ == "__main__":
    _serve()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
