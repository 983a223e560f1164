# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``synthetic`` and ``prepare``: the datalists they write, equal bytes when repeated, the table of the splits."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from places import ROOT

from monai_jsma.__main__ import main

OSTEOSARCOMA = ROOT.parent / "shared" / "data" / "osteosarcoma"


def test_synthetic_writes_the_same_twice(tmp_path):
    for name in ("a", "b"):
        options = ["--train=3", "--validation=1", "--test=1", "--seed=4", "--task=mixed", "--classes=3"]
        assert main(["synthetic", str(tmp_path / name), *options]) == 0
    files = [{p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.*")} for n in ("a", "b")]
    assert files[0] == files[1]
    content = json.loads((tmp_path / "a" / "datalist.json").read_text())
    assert content["settings"]["task"] == "mixed"
    assert content["settings"]["seed"] == 4
    assert len(content["labels"]) == 3


@pytest.fixture
def folder(tmp_path):
    """A folder of nine pictures of three patients with all classes."""
    lines = ["image,label,patient"]
    for i in range(9):
        Image.new("RGB", (4, 3), (i, 0, 0)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{'abc'[i % 3]},P{i // 3}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    return tmp_path


def test_prepare_folder(folder, tmp_path, capsys):
    out = tmp_path / "new" / "list.json"
    options = ["--folds=3", "--fold=2", "--mpp=0.5", "--class-order=c, a,b", f"--labels={folder / 'labels.csv'}"]
    assert main(["prepare", "folder", str(folder), *options, f"--out={out}"]) == 0
    content = json.loads(out.read_text())
    assert content["labels"] == {"0": "c", "1": "a", "2": "b"}
    assert content["mpp"] == 0.5
    assert content["settings"] == {"folds": 3, "fold": 2, "seed": 0}
    table = capsys.readouterr().out.splitlines()
    assert table[0].split() == ["c", "a", "b", "groups"]
    assert [line.split() for line in table[1:4]] == [
        [s, "1", "1", "1", "1"] for s in ("training", "validation", "test")
    ]
    assert table[4] == str(out)


def test_prepare_folder_twice_gives_the_same_bytes(folder):
    for _ in range(2):
        assert main(["prepare", "folder", str(folder), "--folds=3"]) == 0
    first = (folder / "datalist.json").read_bytes()
    assert main(["prepare", "folder", str(folder), "--folds=3"]) == 0
    assert (folder / "datalist.json").read_bytes() == first


@pytest.mark.skipif(not OSTEOSARCOMA.is_dir(), reason="the osteosarcoma tiles are not here")
def test_prepare_osteosarcoma(tmp_path, capsys):
    out = tmp_path / "datalist.json"
    command = ["prepare", "folder", str(OSTEOSARCOMA), f"--out={out}", "--mpp=1.0"]
    assert main([*command, "--folds=4"]) == 0
    content = json.loads(out.read_text())
    assert sum(len(content[side]) for side in ("training", "validation", "test")) == 60
    assert main(command) == 1
    assert "4 groups cannot make 5 folds: use 2 to 4" in capsys.readouterr().err
