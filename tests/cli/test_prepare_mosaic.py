# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``prepare mosaic``: its options, what it prints, and what it refuses."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from monai_jsma.__main__ import main
from monai_jsma.datalists.synthetic import make_dataset


@pytest.fixture
def datalist(tmp_path):
    """24 pictures of two classes in three splits."""
    content: dict = {"labels": {"0": "benign", "1": "tumor"}, "mpp": 1.0, "training": [], "validation": [], "test": []}
    for i in range(24):
        Image.new("RGB", (50, 60), (10 * i, 90, 150)).save(tmp_path / f"{i}.png")
        content[("training", "validation", "test")[i // 2 % 3]].append({"image": f"{i}.png", "label": i % 2})
    (tmp_path / "cores.json").write_text(json.dumps(content))
    return tmp_path / "cores.json"


def test_options_reach_the_mosaics_and_the_numbers_are_printed(datalist, tmp_path, capsys):
    options = ["--grid=4x3", "--blank=0.25", "--positive=2,0.5", "--train=4", "--validation=2", "--test=2", "--seed=3"]
    options += ["--margin=0.5", "--cores-per-picture=4", "--lossless"]
    assert main(["prepare", "mosaic", str(datalist), str(tmp_path / "out"), "--class=tumor", *options]) == 0
    content = json.loads((tmp_path / "out" / "datalist.json").read_text())
    asked = {"grid": [4, 3], "blank": 0.25, "positive": [2, 0.5], "seed": 3, "margin": 0.5, "cores_per_picture": 4}
    assert asked.items() <= content["settings"].items()
    assert content["settings"]["quality"] is None
    assert [item["num_positive"] for item in content["training"]] == [0, 2, 0, 4]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[-4:] == ["no tumor", "tumor", "different cores: tumor", "other"]
    assert [line.split() for line in lines[1:4]] == [
        ["training", "2", "2", "4", "4"],
        ["validation", "1", "1", "2", "4"],
        ["test", "1", "1", "2", "4"],
    ]
    assert "number of different cores, not on the number of pictures" in lines[4]
    assert lines[5] == str(tmp_path / "out" / "datalist.json")
    assert main(["verify", lines[5], "--read", "all"]) == 0


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--grid=3", "'3' is no grid"),
        ("--grid=axb", "no grid"),
        ("--positive=one", "'one' is no number"),
        ("--positive=0,5", "a share has a decimal point"),
        ("--positive=9", "1 to 6 positive"),
    ],
)
def test_what_is_no_option(datalist, tmp_path, capsys, option, message):
    try:
        code = main(["prepare", "mosaic", str(datalist), str(tmp_path / "out"), "--class=tumor", option])
    except SystemExit as error:
        code = error.code
    assert code in (1, 2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_datalist_without_names_of_classes(tmp_path, capsys):
    path = make_dataset(tmp_path, num_train=2, num_validation=1, num_test=1)
    content = json.loads(path.read_text())
    del content["labels"]
    path.write_text(json.dumps(content))
    assert main(["prepare", "mosaic", str(path), str(tmp_path / "out"), "--class=tumor"]) == 1
    assert "it names no classes" in capsys.readouterr().err
