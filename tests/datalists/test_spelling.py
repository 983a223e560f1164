# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Names that are likely the same in two spellings are a question to the user, never two patients without a word."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from monai_jsma.__main__ import main
from monai_jsma.datalists import check_groups, folder_datalist, load_datalist, save_datalist, split_by_group
from monai_jsma.datalists.spelling import find_doubles, find_same_files, spelling_key
from monai_jsma.datalists.splits import make_fold_datalists
from monai_jsma.datalists.verify import verify_datalist

DOUBLES = [
    ("001", "1"),
    ("Pat-1", "pat-1"),
    ("Müller", unicodedata.normalize("NFD", "Müller")),
    ("P1", "P1 "),
    ("P1", "\ufeffP1"),
    ("P1", "Ｐ１"),
    ("P1", "P-1"),
    ("P_01", "p 1"),
    ("Pat-1", "Pat\u20131"),  # an en dash
    ("7", "7.0"),
    ("7", "007"),
    ("straße", "STRASSE"),
    ("12", "\u0661\u0662"),  # Arabic digits
    ("A B", "A\u00a0B"),
    ("-1", "-01"),
    ("-1", "\u22121.0"),  # a minus
    ("-P1", "P1"),
    ("7", "7,0"),
    ("O'Neil", "O\u2019Neil"),
    ("C1", "\u04211"),  # a Cyrillic letter
    ("PT-4", "\u03a1\u03a4-4"),  # Greek ones
]
DIFFERENT = [
    ("1", "10"),
    ("1-12", "11-2"),
    ("P1_2", "P12"),
    ("TCGA-2A-A8VL", "TCGA-2A-A8VO"),
    ("ER+", "ER-"),
    ("-1", "1"),  # scores, or classes
    ("-1.0", "1"),
    ("\u22121", "1"),
    ("1.10", "1.1"),
    ("P1", "Q1"),
    ("-", "_."),
]


@pytest.mark.parametrize(("first", "second"), DOUBLES)
def test_likely_doubles(first: str, second: str) -> None:
    (double,) = find_doubles([("patient", first), ("patient", second)])
    assert (double.kind, set(double.spellings)) == ("patient", {first, second})
    assert str(double) not in (f"patient {first!r} and {first!r}", f"patient {second!r} and {second!r}")
    assert len(set(str(double).split(" and ", 1))) == 2
    assert find_doubles([("patient", first), ("group", second)]) == []


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_names_that_differ(first: str, second: str) -> None:
    assert find_doubles([("patient", first), ("patient", second)]) == []


@given(st.text(max_size=12))
def test_a_key_of_any_text(text: str) -> None:
    assert spelling_key(text) == spelling_key(text)
    assert spelling_key(f" {text} ") == spelling_key(text)


def test_doubles_are_shown_apart() -> None:
    (double,) = find_doubles([("group", "ö"), ("group", "o\u0308")])
    assert str(double) == r"group 'o\u0308' and '\xf6'"
    (double,) = find_doubles([("group", "1"), ("group", "001")])
    assert str(double) == "group '001' and '1'"


def write_images(folder: Path, groups: list[str], column: str = "group") -> Path:
    """Two images of two classes for each name."""
    lines = [f"image,label,{column}"]
    for i, group in enumerate(groups):
        for label in "AB":
            name = f"{i}{label}.png"
            Image.new("RGB", (8 + i, 8), (i, ord(label), 0)).save(folder / name)
            lines.append(f'{name},{label},"{group}"')
    (folder / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.mark.parametrize("column", ["group", "patient"])
def test_prepare_folder_asks(tmp_path: Path, column: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path, ["001", "1", "2", "02", "3", "4"], column)
    with pytest.raises(
        ValueError, match=rf"labels\.csv: .*{column} '001' and '1'.*{column} '02' and '2'.*--names-as-written"
    ):
        folder_datalist(tmp_path, folds=3, mpp=1.0)
    command = ["prepare", "folder", str(tmp_path), "--folds=3", "--mpp=1"]
    assert main(command) != 0
    assert "'001' and '1'" in capsys.readouterr().err
    assert not (tmp_path / "datalist.json").exists()

    assert not main([*command, "--names-as-written"])
    content = json.loads((tmp_path / "datalist.json").read_text())
    assert content["names_as_written"] is True
    assert load_datalist(tmp_path / "datalist.json", "training")  # and later checks keep to it
    assert verify_datalist(tmp_path / "datalist.json")[0] == []
    assert len(make_fold_datalists(content, 3)) == 3


def test_class_names_in_two_spellings(tmp_path: Path) -> None:
    for folder in ("tumor", "Tumor", "benign"):
        (tmp_path / folder).mkdir()
        for i in range(3):
            Image.new("RGB", (9, 8), (i, len(folder), ord(folder[0]))).save(tmp_path / folder / f"{i}.png")
    with pytest.raises(ValueError, match="class 'Tumor' and 'tumor'"):
        folder_datalist(tmp_path, folds=3, mpp=1.0)
    assert len(folder_datalist(tmp_path, folds=3, mpp=1.0, names_as_written=True)["labels"]) == 3


def item(image: str, **more: object) -> dict:
    return {"image": image, "label": 0, **more}


@pytest.mark.parametrize("key", ["group", "patient"])
def test_likely_leak_between_splits(key: str) -> None:
    splits = {"training": [item("a", **{key: 7})], "test": [item("b", **{key: "007"})]}
    with pytest.raises(ValueError, match=f"likely one name in several spellings: .*{key} '007' and '7'"):
        check_groups(splits)
    check_groups(splits, names_as_written=True)
    check_groups({"training": [*splits["training"], *splits["test"]], "test": [item("c")]})  # in one split


def test_a_split_of_likely_doubles_is_refused() -> None:
    items = [item(f"{i}.png", group=group) for i, group in enumerate(["P1", "p1", "P2", "P3"])]
    with pytest.raises(ValueError, match="group 'P1' and 'p1'; write each in one spelling; if they differ, say so"):
        split_by_group(items, 2)
    assert len(split_by_group(items, 2, names_as_written=True)) == 4
    with pytest.raises(ValueError, match="group 'P1' and 'p1'"):
        make_fold_datalists({"training": items}, 2, validation=False)


def test_images_in_two_spellings() -> None:
    with pytest.raises(ValueError, match=r"image 'A\.png' and 'a\.png'"):
        check_groups({"training": [item("A.png")], "test": [item("a.png")]})
    check_groups({"training": [item("A.png", sha256="1")], "test": [item("a.png", sha256="2")]})
    check_groups({"training": [item("1.png")], "test": [item("01.png")]})  # numbers of images count as written
    with pytest.raises(ValueError, match="1.png in .*test.*training"):
        check_groups({"training": [item("1.png")], "test": [item("./x/../1.png")]})


@pytest.fixture
def pics(tmp_path: Path) -> Path:
    folder = tmp_path / "pics"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (9 + i, 8), (i, 0, 0)).save(folder / f"{i}.png")
    return folder


def write(folder: Path, **content: object) -> Path:
    (folder / "datalist.json").write_text(json.dumps(content), encoding="utf-8")
    return folder / "datalist.json"


def test_one_file_under_two_paths(pics: Path) -> None:
    os.symlink(pics / "0.png", pics / "link.png")
    os.link(pics / "0.png", pics / "hard.png")
    for other in ("../pics/0.png", str(pics / "0.png"), "link.png", "hard.png"):
        path = write(pics, training=[item("0.png"), item("1.png")], test=[item(other)])
        with pytest.raises(ValueError, match=r"in one split only, but found .*0\.png = .* in \['test', 'training'\]"):
            load_datalist(path, "training")
    assert set(find_same_files(["0.png", "../pics/0.png", "1.png"], pics)) == {"0.png", "../pics/0.png"}


def test_one_file_under_two_paths_before_a_split(pics: Path) -> None:
    items = [item("0.png", mpp=1.0), item("../pics/0.png", mpp=1.0), item("1.png", mpp=1.0)]
    with pytest.raises(ValueError, match=r"image '\.\./pics/0\.png' and '0\.png'"):
        split_by_group(items, 2, base=pics)
    faults, _ = verify_datalist(write(pics, test=items))
    assert [(fault.item, fault.stage) for fault in faults] == [("test[0]", "split"), ("test[1]", "split")]


def test_copies_of_another_case(pics: Path) -> None:
    shutil.copy(pics / "0.png", pics / "0.PNG")
    path = write(pics, training=[item("0.png"), item("1.png")], test=[item("0.PNG")])
    with pytest.raises(ValueError, match=r"datalist\.json: .*image '0\.PNG' and '0\.png'"):
        load_datalist(path, "training")
    Image.new("RGB", (300, 300)).save(pics / "0.PNG")  # another image, by its size
    assert load_datalist(path, "training")


def test_verify_names_likely_doubles(pics: Path) -> None:
    items = [item("0.png", patient="Pat-1", mpp=1.0), item("1.png", patient="Pat-2", mpp=1.0)]
    path = write(pics, validation=items, test=[item("2.png", patient="pat-1", mpp=1.0)])
    faults, _ = verify_datalist(path)
    assert [(fault.item, fault.stage) for fault in faults] == [("validation[0]", "split"), ("test[0]", "split")]
    assert "patient 'Pat-1' and 'pat-1'" in faults[0].reason


@pytest.mark.parametrize("value", ["no", 1, None])
def test_names_as_written_is_true_or_false(pics: Path, value: object) -> None:
    path = write(pics, training=[item("0.png")], names_as_written=value)
    with pytest.raises(ValueError, match="'names_as_written' of a datalist must be true or false"):
        load_datalist(path, "training")
    assert "datalist" in {fault.stage for fault in verify_datalist(path, mpp=1.0)[0]}


def test_saving_a_likely_leak_is_refused(tmp_path: Path) -> None:
    content = {"training": [item("a", group="1")], "test": [item("b", group="01")]}
    with pytest.raises(ValueError, match="group '01' and '1'"):
        save_datalist(content, tmp_path / "d.json")
    save_datalist({**content, "names_as_written": True}, tmp_path / "d.json")


def test_paths_that_no_file_can_have(tmp_path: Path) -> None:
    assert find_same_files(["a\0", "\ud800", "../a/b.png"], tmp_path) == {}
    assert find_same_files(["b.png", str(tmp_path / "b.png")], tmp_path) != {}  # though neither exists
