# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Commands of ``warm_python`` are those that Python itself would run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from warm_python import warm_python

PROGRAM = """
import os, signal, sys
import numpy
import beside
print(sys.argv, os.getcwd(), sys.path[0], __name__, os.environ["GIVEN"], flush=True)
print("read:", sys.stdin.read(), "left:", getattr(numpy, "left_by_another_command", None), flush=True)
numpy.left_by_another_command = True
print("to the other stream", file=sys.stderr, flush=True)
end = sys.argv[1]
if end == "exit":
    sys.exit(3)
if end == "raise":
    raise ValueError("a reason")
if end == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""
FOREVER = """
import os, time
print(os.getpid(), flush=True)
time.sleep(600)
"""
KINDS = {"file": ["program.py"], "unbuffered": ["-u", "program.py"], "code": ["-c", "import program"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "forever.py").write_text(FOREVER)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "beside.py").touch()
    return tmp_path


def run(python: str, folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code and both outputs, without the lines of a traceback that name where a program was started."""
    env = os.environ | {"GIVEN": "yes", "PYTHONPATH": str(folder / "elsewhere")}
    done = subprocess.run([python, *arguments], cwd=folder, env=env, input="in", capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if not line.startswith(" ")]
    return done.returncode, done.stdout, "\n".join(errors)


@pytest.mark.parametrize("end", ["end", "exit", "raise", "kill"])
def test_a_module_ends_as_it_would(folder, end):
    warm, usual = (run(python, folder, "-m", "program", end) for python in (str(warm_python()), sys.executable))
    assert warm == usual
    assert usual[0] == {"end": 0, "exit": 3, "raise": 1, "kill": -9}[end]


@pytest.mark.parametrize("kind", KINDS)
def test_other_programs_run_as_they_would(folder, kind):
    warm, usual = (run(python, folder, *KINDS[kind], "end") for python in (str(warm_python()), sys.executable))
    assert warm == usual
    assert usual[0] == 0, usual


def start_forever(folder: Path) -> tuple[subprocess.Popen[str], int]:
    caller = subprocess.Popen([warm_python(), "forever.py"], cwd=folder, stdout=subprocess.PIPE, text=True)
    assert caller.stdout is not None
    return caller, int(caller.stdout.readline())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_ends_with_its_caller(folder, number):
    caller, command = start_forever(folder)
    assert command != caller.pid
    caller.send_signal(number)
    assert caller.wait() == -number
    for _ in range(500):
        if not Path(f"/proc/{command}").exists():
            return
        time.sleep(0.02)
    pytest.fail("the command goes on")
