# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The command ``verify``: what it prints, writes and answers, also when it is killed."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from places import ROOT
from slide_files import shared_slide
from verify_cases import Case, cut, write_files

from monai_jsma.__main__ import main
from monai_jsma.datalists.verify import verify_datalist


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def case(files: Path, tmp_path: Path) -> Case:
    return Case(files, tmp_path / "case")


def test_everything_is_attempted(case):
    """Faults of all kinds in one datalist are all found, and every one is in failed.csv."""
    case.content["training"][0].update(label=9, mpp=-1, sha256="0", location=[9999, 0], size=[9, 9])
    case.content["training"][1]["image"] = "none.tif"
    cut(case.folder / "c.tif")
    case.content["test"][1]["patient"] = "P3"
    found = [
        *[("training[0]", stage) for stage in ("label", "mpp", "sha256", "box")],
        ("training[1]", "file"),
        *[("validation[0]", stage) for stage in ("sha256", "open")],
        *[(key, "split") for key in ("validation[0]", "test[1]")],
    ]
    assert case.run() == found
    assert main(["verify", str(case.folder / "datalist.json")]) == 1
    with open(case.folder / "failed.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["key", "image", "stage", "reason"]
    assert rows[1:] == [[f.item, f.where, f.stage, " ".join(f.reason.split())] for f in case.faults]
    assert not list(case.folder.glob(".*.part*"))


def test_command(case, tmp_path, capsys):
    assert case.run() == []
    datalist, table = case.folder / "datalist.json", tmp_path / "new" / "faults.csv"
    command = ["verify", str(datalist), f"--failed={table}"]
    assert main([*command, "--read=all", "--magnifications=50X, 0.5"]) == 0
    assert capsys.readouterr().out == f"{datalist}: 6 items, no fault\n"
    assert table.read_text() == "key,image,stage,reason\n"
    assert main([*command, "--magnifications=400X"]) == 1
    out = capsys.readouterr().out
    assert out.startswith(f"{datalist}: 6 faults in 6 of 6 items (magnification 6); all of them are in ")
    assert len(table.read_text().splitlines()) == 7
    datalist.rename(tmp_path / "moved.json")
    assert main(["verify", str(tmp_path / "moved.json"), f"--base-dir={case.folder}"]) == 0


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("[", [], "not a JSON file"),
        ("{}", [], "no items under any of training, validation, test"),
        ('{"test": [{"image": "a"}]}', ["--magnifications=big"], "'big' is no magnification"),
        ('{"test": [{"image": "a"}]}', ["--mpp=352"], "mpp=352.0 is outside"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, capsys, text, options, message):
    (tmp_path / "datalist.json").write_text(text)
    assert main(["verify", str(tmp_path / "datalist.json"), *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "failed.csv").exists()


def test_killed_in_the_middle_leaves_no_half_file(case):
    case.content["training"] *= 2000
    (case.folder / "datalist.json").write_text(json.dumps(case.content))
    (case.folder / "failed.csv").write_text("of the last time")
    command = [sys.executable, "-m", "monai_jsma", "verify", str(case.folder / "datalist.json"), "--read=all"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    before = set(case.folder.iterdir())
    time.sleep(6)
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert set(case.folder.iterdir()) == before
    assert (case.folder / "failed.csv").read_text() == "of the last time"


def test_real_slides(tmp_path):
    names = ("cmu-1-small-region.svs", "tcga-cr-7395-01a-01-ts1.svs", "os_unreadable.svs", "broken.svs")
    items = [{"image": shared_slide(name), "label": i % 2} for i, name in enumerate(names)]
    (tmp_path / "datalist.json").write_text(json.dumps({"training": items}))
    faults, number = verify_datalist(tmp_path / "datalist.json")
    found = [(Path(fault.where).name, fault.stage) for fault in faults]
    assert found == [(names[1], "mpp"), (names[2], "read"), (names[3], "open")]
    assert number == 4
