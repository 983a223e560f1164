# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""BACH's folders as people have them: what is said of each oddity, and where the pictures are looked for."""

from __future__ import annotations

import shutil

import pytest
from bach_cases import TEST, make_bach, truth, write_truth

from monai_jsma.datalists.bach import bach_datalist
from monai_jsma.datalists.schema import SIDES, load_datalist, save_datalist


@pytest.fixture
def root(tmp_path):
    return make_bach(tmp_path)


def test_odd_files_are_left_out_and_named(root, caplog):
    content = bach_datalist(root)
    for name in ("Thumbs.db", "Normal/Thumbs.db", "Benign/._b001.tif", "InSitu/is001 (1).tif", "Unsure/b777.tif"):
        (root / "Photos" / name).parent.mkdir(exist_ok=True)
        (root / "Photos" / name).write_bytes(b"x")
    (root / "__MACOSX" / "Photos" / "Normal").mkdir(parents=True)
    caplog.clear()
    assert bach_datalist(root) == content
    assert "left out, not named as BACH's pictures are: Benign/._b001.tif, InSitu/is001 (1).tif, " in caplog.text
    assert "(5 in all)" in caplog.text


def test_unexpected_numbers_are_warned_of(root, caplog):
    (root / "Photos" / "InSitu" / "is004.tif").unlink()
    write_truth(root, [line for line in truth(root) if line[0] != "b002.tif"])
    assert sum(len(bach_datalist(root)[side]) for side in ("training", "validation")) == 39
    messages = "\n".join(record.message for record in caplog.records)
    assert "9 InSitu pictures, where BACH has 100" in messages
    assert "10 unlabelled test pictures, where BACH has 100" in messages
    assert "in the table only: is004" in messages
    assert "not in the table: b002" in messages
    (root / "Photos" / "microscopy_ground_truth.csv").unlink()
    bach_datalist(root)
    assert "has no microscopy_ground_truth.csv, so the labels are those of the folders alone" in caplog.text


def test_words_of_the_table_and_folders(root):
    """Other copies write the classes otherwise."""
    content = bach_datalist(root)
    (root / "Photos" / "InSitu").rename(root / "Photos" / "in situ")
    write_truth(
        root, [[name.removesuffix(".tif").upper(), label.replace("InSitu", "In_Situ")] for name, label in truth(root)]
    )
    again = bach_datalist(root)
    for side in SIDES:
        assert [{**i, "image": i["image"].replace("in situ", "InSitu")} for i in again[side]] == content[side]


def test_disagreement_is_an_error(root):
    lines = truth(root)
    write_truth(root, [[name, "Benign" if name == "iv007.tif" else label] for name, label in lines])
    with pytest.raises(ValueError, match=r"disagree on iv007 \(folder Invasive, table Benign\); correct whichever"):
        bach_datalist(root)
    write_truth(root, [*lines, ["b001.tif", "Normal"]])
    with pytest.raises(ValueError, match=r"row 41: b001\.tif has two labels"):
        bach_datalist(root)
    write_truth(root, [["b001.tif", "Malign"]])
    with pytest.raises(
        ValueError, match=r"row 1: needed are a file's name and one of .* got \['b001\.tif', 'Malign'\]"
    ):
        bach_datalist(root)
    write_truth(root, lines)
    photos = root / "Photos"
    shutil.move(photos / "InSitu" / "is001.tif", photos / "Invasive" / "is001.tif")
    with pytest.raises(ValueError, match=r"is001\.tif: begins with 'is', those of Invasive with 'iv'"):
        bach_datalist(root)


def test_missing_parts_are_errors(tmp_path, root):
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        bach_datalist(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no folder Photos with the folders Normal, Benign, InSitu, Inv"):
        bach_datalist(tmp_path / TEST)
    shutil.rmtree(root / "Photos" / "Benign")
    with pytest.raises(ValueError, match="Photos: no pictures of Benign; unzip"):
        bach_datalist(root)


def test_copies_are_errors(tmp_path, root):
    shutil.copy(root / "Photos" / "Normal" / "n001.tif", tmp_path / TEST / "Photos" / "test3.tif")
    with pytest.raises(
        ValueError, match=r"files of the same picture: Photos/Normal/n001\.tif = .*test3\.tif; keep one"
    ):
        bach_datalist(root)


def test_test_folder_inside_or_given_or_absent(tmp_path, root, caplog):
    shutil.move(tmp_path / TEST / "Photos", root / "Test set")
    (tmp_path / TEST).rmdir()
    assert len(bach_datalist(root)["test"]) == 10
    shutil.move(root / "Test set", tmp_path / "elsewhere")
    assert len(bach_datalist(root, test=tmp_path / "elsewhere")["test"]) == 10
    caplog.clear()
    assert bach_datalist(root)["test"] == []
    assert "No unlabelled test pictures in or beside" in caplog.text
    shutil.copytree(tmp_path / "elsewhere", root / "Photos" / "test")
    assert len(bach_datalist(root)["test"]) == 10
    with pytest.raises(FileNotFoundError, match=r"InSitu: holds no test0\.tif"):
        bach_datalist(root, test=root / "Photos" / "InSitu")
    for name in ("test_a", "test_b"):
        shutil.copytree(tmp_path / "elsewhere", root / name)
    with pytest.raises(
        ValueError, match="Several folders have test pictures: .*test_a.*test_b; choose one with --test"
    ):
        bach_datalist(root)


@pytest.mark.parametrize("place", ["root", "above", "photos"])
def test_the_folder_that_people_name(tmp_path, root, place):
    named = {"root": root, "above": tmp_path, "photos": root / "Photos"}[place]
    content = bach_datalist(named)
    assert len(load_datalist(save_datalist(content, named / "d.json"), "training")) == 32
    assert len(load_datalist(named / "d.json", "test")) == 10


def test_relative_root_gives_the_same(root, monkeypatch):
    content = bach_datalist(root)
    monkeypatch.chdir(root)
    assert bach_datalist(".") == content
