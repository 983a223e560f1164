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


def test_synthetic_slides(tmp_path, capsys):
    options = ["--train=2", "--validation=1", "--test=1", "--regions=6", "--informative=0.25", "--tissue=0.5"]
    assert main(["synthetic", str(tmp_path), "--task=slides", "--variants=2", *options]) == 0
    assert capsys.readouterr().out.endswith("2 training, 1 validation and 1 test slides\n")
    content = json.loads((tmp_path / "datalist.json").read_text())
    found = content["settings"]
    assert (found["side"], found["informative"], found["tissue"], found["variants"]) == (6, 0.25, 0.5, 2)
    assert [item["num_informative"] for item in content["training"]] == [4, 4]
    assert len(content["labels"]) == 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--regions=8"], "--regions is of slides: give --task slides, or leave it out"),
        (["--task=slides", "--informative=0.6"], "share of informative regions must be above 0 and at most 0.5"),
    ],
)
def test_synthetic_slides_that_cannot_be(tmp_path, capsys, options, reason):
    assert main(["synthetic", str(tmp_path), *options]) == 1
    assert reason in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


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


@pytest.mark.parametrize(
    ("options", "classes"),
    [
        (['a,"Gleason 4,5",c'], ["a", "Gleason 4,5", "c"]),
        (['c, "Gleason 4,5", a'], ["c", "Gleason 4,5", "a"]),
        (["c", '"Gleason 4,5"', "a"], ["c", "Gleason 4,5", "a"]),
        (['"Gleason 4,5"', "c,a"], ["Gleason 4,5", "c", "a"]),
    ],
)
def test_prepare_class_order_with_a_comma(folder, options, classes):
    table = folder / "labels.csv"
    table.write_text(table.read_text().replace(",b,", ',"Gleason 4,5",'))
    command = ["prepare", "folder", str(folder), "--folds=3", "--mpp=0.5"]
    assert main(command + [f"--class-order={option}" for option in options]) == 0
    content = json.loads((folder / "datalist.json").read_text())
    assert list(content["labels"].values()) == classes


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("a,b,c,", "--class-order a,b,c,: a class has no name"),
        ("a,,b", "a class has no name"),
        ('a,"b,c', '--class-order a,"b,c: unexpected end of data; write a name with a comma in double quotes'),
        ("", "--class-order : a class has no name"),
    ],
)
def test_prepare_wrong_class_order(folder, capsys, option, message):
    assert main(["prepare", "folder", str(folder), "--folds=3", f"--class-order={option}"]) == 1
    assert message in capsys.readouterr().err
    assert not (folder / "datalist.json").exists()


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
    assert "4 groups cannot make 5 folds: use 3 to 4" in capsys.readouterr().err
