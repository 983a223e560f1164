# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""All commands: quick help, exit codes, one line for a wrong input."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from places import ROOT

from monai_jsma.__main__ import main

HEAVY = {"torch", "monai", "sklearn", "numpy", "timm", "matplotlib", "jinja2", "pandas", "scipy"}
COMMANDS = [
    [],
    ["compare"],
    ["crossval"],
    ["demo"],
    ["doctor"],
    ["draw"],
    ["encoders"],
    ["export"],
    ["features"],
    ["features", "read"],
    ["features", "write"],
    ["info"],
    ["pack"],
    ["prepare"],
    ["prepare", "bach"],
    ["prepare", "folder"],
    ["prepare", "tcga_prad"],
    ["report"],
    ["synthetic"],
    ["verify"],
    ["view"],
]


def python(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy():
    done = python("-X", "importtime", "-m", "monai_jsma", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: python -m monai_jsma")
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "monai_jsma" in imported
    assert not imported & HEAVY


def test_help_of_every_command_imports_nothing_heavy():
    """In one new process, one command after the other."""
    script = f"""
import sys
from monai_jsma.__main__ import main
for command in {COMMANDS}:
    try:
        main([*command, "--help"])
    except SystemExit as end:
        assert end.code == 0, command
heavy = {HEAVY} & set(sys.modules)
assert not heavy, heavy
"""
    done = python("-c", script)
    assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        assert " ".join(["usage: python -m monai_jsma", *command, "["]) in done.stdout


def test_every_command_is_tested(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    listed = re.findall(r"^    (\w+)", capsys.readouterr().out, re.MULTILINE)
    assert sorted(listed) == sorted({command[0] for command in COMMANDS if command})


def test_a_process_tells_by_its_exit_code(tmp_path):
    wrong = python("-m", "monai_jsma", "prepare", "folder", str(tmp_path))
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert re.fullmatch(
        r"error: .*labels\.csv: there is no such table of labels; .* a folder for each class\.\n", wrong.stderr
    )
    done = python("-m", "monai_jsma", "synthetic", str(tmp_path), "--train=2", "--validation=1", "--test=1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 training, 1 validation and 1 test images" in done.stdout


@pytest.mark.parametrize("args", [[], ["paint"], ["prepare"], ["prepare", "camelyon"], ["synthetic", "x", "--level=3"]])
def test_wrong_usage(args, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(args)
    assert exit_info.value.code == 2
    assert "usage: python -m monai_jsma" in capsys.readouterr().err


def test_error_is_one_line_and_verbose_shows_where(tmp_path, capsys, caplog):
    (tmp_path / "labels.csv").write_text("image,label\n4.png,a\n")
    assert main(["prepare", "folder", str(tmp_path)]) == 1
    assert re.fullmatch(r"error: .*1 of 1 images are not in .*: 4\.png\.\n", capsys.readouterr().err)
    assert not caplog.records
    assert main(["prepare", "folder", str(tmp_path), "--verbose"]) == 1
    assert caplog.records[-1].exc_info
    assert not (tmp_path / "datalist.json").exists()
