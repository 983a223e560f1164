# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Commands that start from a process that has imported everything are those that Python itself would run."""

from __future__ import annotations

import subprocess
import sys

import pytest

from monai_jsma.cli.ready_pythons import ReadyPythons

PROGRAM = """
import os, signal, sys
import numpy
print(sys.argv[0], sys.argv[1:], os.getcwd(), sys.path[0], __name__, __package__, flush=True)
print("requests left:", repr(sys.stdin.read()), flush=True)
print("known before:", getattr(numpy, "left_by_another_command", None), flush=True)
numpy.left_by_another_command = sys.argv[1]
print("Ctrl-C:", signal.getsignal(signal.SIGINT), file=sys.stderr, flush=True)
if sys.argv[1] == "exit":
    sys.exit(3)
if sys.argv[1] == "raise":
    raise ValueError("a reason")
if sys.argv[1] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""
ENDS = {"end": 0, "exit": 3, "raise": 1, "kill": -9}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def run_as_usual(arguments, folder):
    """The exit code and the output of a command that Python starts itself; the slow reference."""
    done = subprocess.run(
        [sys.executable, "-m", "program", *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.returncode, without_frames(done.stdout.decode())


def without_frames(output):
    """Output without the lines of a traceback, which name where a program was started."""
    return [line for line in output.splitlines() if not line.startswith(" ")]


def run_all(folder):
    """Exit code and output of each command, run one after the other by the same object."""
    results = {}
    with ReadyPythons() as pythons:
        for end in ENDS:
            log = folder / f"{end}.log"
            log.write_text("of before\n")
            code = pythons.run([sys.executable, "-m", "program", end, "x=1"], folder=folder, log=log)
            first, *others = without_frames(log.read_text())
            assert first == "of before"
            results[end] = code, others
    return results


def test_code_output_and_surroundings_are_those_of_a_command_as_usual(folder):
    results = run_all(folder)
    for end, code in ENDS.items():
        assert results[end] == run_as_usual([end, "x=1"], folder)
        assert results[end][0] == code


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere commands are started as usual")
def test_what_is_imported_is_there_without_an_import(folder, monkeypatch):
    (folder / "program.py").write_text("import sys; print('monai.bundle' in sys.modules)")
    log = folder / "log"
    with ReadyPythons() as pythons:
        assert pythons.run([sys.executable, "-m", "program"], folder=folder, log=log) == 0
    assert log.read_text() == "True\n"


@pytest.mark.parametrize("surroundings", ["another system", "a GPU"])
def test_commands_start_as_usual_where_a_fork_is_not_known_to_be_safe(folder, monkeypatch, surroundings):
    if surroundings == "another system":
        monkeypatch.setattr(sys, "platform", "darwin")
    else:
        (folder / "sitecustomize.py").write_text("import torch; torch.cuda.is_available = lambda: True")
        monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")
    (folder / "program.py").write_text("import sys; print('monai.bundle' in sys.modules)")
    log = folder / "log"
    with ReadyPythons() as pythons:
        assert pythons.run([sys.executable, "-m", "program"], folder=folder, log=log) == 0
    assert log.read_text() == "False\n"
