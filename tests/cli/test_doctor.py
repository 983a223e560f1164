# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``doctor`` turns every kind of trouble into a line with a fix; ``test_packaging.py`` runs the command itself."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from monai_jsma.__main__ import main
from monai_jsma.cli import doctor
from monai_jsma.cli.doctor import Line, ProbeAnswer

ask = partial(doctor.ask_probe, timeout=120)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Makes a module that the probe finds."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def module(text: str) -> str:
        (tmp_path / "troubled.py").write_text(text)
        return "troubled"

    return module


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import ctypes; ctypes.string_at(0)", "crashed (SIGSEGV)"),
        ("import os; os.abort()", "crashed (SIGABRT)"),
        ("import time; time.sleep(60)", "no answer within 3 s"),
        ("raise ImportError('libcuda.so.1: no such file')", "ImportError: libcuda.so.1: no such file"),
        ("import os; os._exit(3)", "exit code 3"),
        ("import os; os._exit(0)", "answered ''"),
    ],
)
def test_trouble_at_import_is_a_failed_line(module, text, error):
    lines = doctor.check_library(partial(doctor.ask_probe, timeout=3), module(text), "troubled-package")
    assert lines == [Line("FAIL", "troubled", error, "pip install --force-reinstall troubled-package")]


def test_a_library_that_talks_is_no_trouble(module):
    name = module("import sys; print('hello'); print('warning', file=sys.stderr)")
    assert doctor.check_library(ask, name, "")[0].status == "PASS"


def test_a_library_that_is_missing():
    (line,) = doctor.check_library(ask, "no_such_library", "it")
    assert (line.status, line.text) == ("FAIL", "ModuleNotFoundError: No module named 'no_such_library'")


def test_readers_give_what_was_written(tmp_path):
    lines = doctor.check_readers(ask, str(tmp_path))
    assert {line.name for line in lines} >= {"read tifffile", "read openslide", "read pil"}
    assert {line.status for line in lines} == {"PASS"}


def test_wrong_pixels_are_seen(tmp_path):
    """Another picture under the same name: all readers are right, and differ from what was written."""
    import numpy as np

    def spoiling(probe: str, *args: str) -> ProbeAnswer:
        answer = ask(probe, *args)
        if probe == "write":
            written = np.load(tmp_path / "written.npy")
            np.save(tmp_path / "written.npy", np.roll(written, 8, axis=1))
        return answer

    lines = doctor.check_readers(spoiling, str(tmp_path))
    assert {line.status for line in lines} == {"FAIL"}
    assert all(line.text.startswith("wrong pixels: off by up to") and line.fix for line in lines)


def test_one_reader_in_trouble_is_not_the_end_of_the_others(tmp_path):
    def crashing(probe: str, *args: str) -> ProbeAnswer:
        if args[0] == "openslide":
            return ProbeAnswer(error="crashed (SIGSEGV)")
        return ProbeAnswer({"largest": 0, "mean": 0.0})

    lines = {line.name: line for line in doctor.check_readers(crashing, str(tmp_path))}
    assert (lines["read openslide"].status, lines["read openslide"].text) == ("FAIL", "crashed (SIGSEGV)")
    assert all(line.status == "PASS" for name, line in lines.items() if name != "read openslide")
    lines = doctor.check_readers(lambda *args: ProbeAnswer(error="no numpy"), str(tmp_path))
    assert {(line.status, line.text) for line in lines} == {("FAIL", "no file to read: no numpy")}


def torch_of(folder: Path, cuda: str) -> SimpleNamespace:
    (folder / "version.py").write_text(f"__version__ = '2.13.0'\ncuda: Optional[str] = {cuda}\nhip: str = '6'\n")
    return SimpleNamespace(origin=str(folder / "__init__.py"))


@pytest.mark.parametrize(
    ("cuda", "modules", "status"), [("'13.0'", False, "FAIL"), ("'13.0'", True, "PASS"), ("None", False, "PASS")]
)
def test_cucim_that_would_hang_is_found_without_importing_it(tmp_path, monkeypatch, cuda, modules, status):
    """Also the reader check keeps away from it then."""
    found = {"torch": torch_of(tmp_path, cuda), "cucim": SimpleNamespace(origin="")}
    monkeypatch.setattr(doctor.importlib.util, "find_spec", found.get)
    monkeypatch.setattr(doctor, "KERNEL_MODULES", tmp_path if modules else tmp_path / "none")
    monkeypatch.delenv("ENABLE_CUSLIDE2", raising=False)
    (line,) = doctor.check_cucim()
    assert line.status == status
    asked = []
    doctor.check_readers(lambda *args: asked.append(args) or ProbeAnswer({"largest": 0, "mean": 0}), str(tmp_path))
    assert (("read", "cucim", str(tmp_path)) in asked) == (status == "PASS")
    if status == "FAIL":
        assert "hangs at import beside PyTorch for CUDA 13.0" in line.text
        assert line.fix.startswith("pip uninstall cucim")


def test_cucim_absent_or_switched_to_its_other_plugin(monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert doctor.check_cucim() == [
        Line("WARN", "cucim", "not installed; tifffile reads in its place", "pip install --no-deps cucim-cu13")
    ]
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: SimpleNamespace(origin=None))
    monkeypatch.setenv("ENABLE_CUSLIDE2", "1")
    assert [(line.status, line.fix) for line in doctor.check_cucim()] == [("WARN", "unset ENABLE_CUSLIDE2")]


def test_torch_is_read_as_it_says_itself():
    import torch

    assert doctor.read_torch_cuda() == (torch.version.cuda or "")


@pytest.mark.parametrize(
    ("answer", "statuses"),
    [
        ({"built_for": "13.0", "names": ["H"], "cudnn": 91900}, ["PASS", "PASS"]),
        ({"built_for": "13.0", "names": ["H"], "cudnn": None}, ["PASS", "FAIL"]),
        ({"built_for": "13.0", "names": [], "cudnn": None}, ["WARN", "PASS"]),
        ({"built_for": None, "names": [], "cudnn": None}, ["WARN", "PASS"]),
        (None, ["FAIL"]),
    ],
)
def test_gpu(answer, statuses):
    lines = doctor.check_gpu(lambda probe: ProbeAnswer(answer, "" if answer else "driver too old"))
    assert [line.status for line in lines] == statuses
    assert all(line.fix for line in lines if line.status != "PASS")


def test_torchvision_beside_another_build():
    error = "RuntimeError: operator torchvision::nms does not exist"
    (line,) = doctor.check_library(lambda *args: ProbeAnswer(error=error), "torchvision", "torchvision")
    assert (line.status, "the fallback" in line.text) == ("WARN", True)
    (line,) = doctor.check_library(lambda *args: ProbeAnswer(error="RuntimeError: other"), "torchvision", "torchvision")
    assert line.status == "FAIL"


@pytest.mark.parametrize(("free", "status"), [(50e9, "PASS"), (5e9, "WARN"), (0.5e9, "FAIL")])
def test_disk(monkeypatch, free, status):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    lines = {line.name: line for line in doctor.check_machine(os.curdir)}
    assert lines["disk"].status == status
    assert lines["python"].text.startswith(".".join(map(str, sys.version_info[:3])))
    assert bool(lines["disk"].fix) == (status != "PASS")


def test_jpeg_tiles_that_end_early(monkeypatch):
    """With cuCIM all are seen; with tifffile alone the way out is named."""
    monkeypatch.setattr(doctor, "_uses_cucim", lambda: False)
    (line,) = doctor.check_early_ends(ask)
    assert (line.status, line.name) == ("WARN", "JPEG tiles")
    assert line.text == "tifffile sees a JPEG tile that ends early within its last block only in strict reading"
    assert "verify DATALIST --read all" in line.fix
    monkeypatch.setattr(doctor, "_uses_cucim", lambda: True)
    answer = ProbeAnswer({"cucim": "cucim sees every JPEG tile that ends early"})
    (line,) = doctor.check_early_ends(lambda *args: answer)
    assert line == Line("PASS", "JPEG tiles", "cucim sees every JPEG tile that ends early")


def test_report_and_exit_code(monkeypatch, capsys):
    found = [[Line("PASS", "a", "1.0"), Line("WARN", "b", "none", "mend b")], [Line("FAIL", "c", "gone", "mend c")]]
    monkeypatch.setattr(doctor, "list_checks", lambda ask, folder: [lambda lines=lines: lines for lines in found])
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "PASS  a            1.0",
        "WARN  b            none",
        "                   fix: mend b",
        "FAIL  c            gone",
        "                   fix: mend c",
        "1 PASS, 1 WARN, 1 FAIL",
    ]
    found.pop()
    assert main(["doctor"]) == 0
