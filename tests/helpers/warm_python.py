# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A Python whose commands start at once, for tests that run many: ``bin/python`` in :func:`warm_python`'s folder.

Importing PyTorch, MONAI and this package takes a process seven seconds, which is longer than most commands of the tests
need. A server imports them once in each process of pytest and forks for every command. The command has the arguments,
folder, environment and streams of whoever calls it, and its exit code, or its signal, is the caller's; a caller that is
killed takes its command along. ``python -c`` is run by a Python of its own.

What is not tested this way is that a command imports what it needs. So a command of each kind is also run by
``sys.executable``: a training in ``test_bundle.py``, two processes in ``test_bundle_distributed.py``, the command line
in ``tests/cli/test_main.py``; and by a fresh environment the README's example, ``doctor`` and a training in
``test_packaging.py``.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

__all__ = ["warm_python"]

MODULES = (
    "monai.bundle",
    "monai.engines",
    "monai.handlers",
    "monai_jsma",
    "matplotlib.pyplot",
    "scipy.stats",
    "timm",
    "torch.utils.tensorboard",
)
READY = b"ready\n"
CLIENT = Path(__file__).with_name("warm_client.py")


@functools.cache
def warm_python() -> Path:
    """The program ``python`` that stands for ``sys.executable``, in a folder that can be put on the path."""
    folder = Path(tempfile.mkdtemp(prefix="warm"))  # the address of a socket may have 107 characters only
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shim = folder / "python"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{CLIENT}" "{folder}/socket" "$0" "$@"\n')
    shim.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, __file__, str(folder / "socket")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    atexit.register(server.wait)
    atexit.register(server.stdin.close)  # called first; the server ends with its standard input, however this ends
    assert server.stdout.readline() == READY, "the server of warm_python did not start"
    return shim


def serve(address: str) -> dict[str, Any]:
    """Import everything and fork for each caller; returns in a copy only, which is to run what it returns."""
    for name in MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    os.write(1, READY)
    while True:
        readable, _, _ = select.select([listener, 0], [], [])
        if 0 in readable:
            os._exit(0)
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return keep_command(connection)
        connection.close()
        reap_ended()


def reap_ended() -> None:
    """Let the processes go that kept commands which have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def keep_command(connection: socket.socket) -> dict[str, Any]:
    """Fork for one command, hand it its caller's signals and the caller its end; returns in the command only."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile("rb") as file:
        request = json.loads(file.readline())
    command = os.fork()
    if command == 0:
        connection.close()
        become_command(request, streams)
        return request
    os.setpgid(command, command)
    for stream in streams:
        os.close(stream)
    status = watch(command, connection)
    with contextlib.suppress(BrokenPipeError):  # the caller is gone
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def watch(command: int, connection: socket.socket) -> int:
    """Wait for the command; its status. It is killed, with what it started, where its caller is gone."""
    ended = os.pidfd_open(command)
    while True:
        readable, _, _ = select.select([ended, connection], [], [])
        if ended in readable:
            break
        numbers = connection.recv(16)
        for number in numbers:
            os.kill(command, number)
        if not numbers:
            os.killpg(command, signal.SIGKILL)
            break
    return os.waitpid(command, 0)[1]


def become_command(request: dict[str, Any], streams: list[int]) -> None:
    """Make this process the one that Python itself would have started."""
    if os.getpgid(0) != os.getpid():
        os.setpgid(0, 0)
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    if request["unbuffered"]:
        sys.stdout.reconfigure(line_buffering=True)
        sys.stderr.reconfigure(line_buffering=True)
    environment = request["environment"]
    environment.pop("JPY_PARENT_PID", None)  # a kernel of Jupyter ends where its parent is another process
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(environment)
    if environment.get("PYTHONWARNINGS") == "ignore":
        warnings.simplefilter("ignore")
    sys.executable = request["shim"]
    added = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
    sys.path[1:1] = added


def run_command(arguments: list[str]) -> None:
    """Run a module or a program as ``__main__``."""
    if arguments[0] == "-m":
        sys.path[0] = os.getcwd()
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    sys.path[0] = str(Path(arguments[0]).resolve().parent)
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    run_command(serve(sys.argv[1])["arguments"])
