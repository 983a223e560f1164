# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Images of several classes in datalists: from a table to what a network gets, or one error."""

from __future__ import annotations

import csv
import json

import pytest
from PIL import Image

from monai_jsma.__main__ import main
from monai_jsma.data import BalancedSampler
from monai_jsma.datalists.folder import folder_datalist
from monai_jsma.datalists.schema import load_datalist, save_datalist
from monai_jsma.datalists.splits import SPLITS, make_fold_datalists
from monai_jsma.transforms import LabelsToMultiHot, LabelsToMultiHotd

LABELS = ["tumor; necrosis", "", "necrosis", "tumor"]


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures with a table that names their classes and has a column for each."""
    rows = []
    for i in range(12):
        Image.new("RGB", (4, 3), (i, 0, 0)).save(tmp_path / f"{i:02d}.png")
        label = LABELS[i % 4]
        columns = {name: str(int(name in label)) for name in ("tumor", "necrosis")}
        rows.append({"image": f"{i:02d}.png", "label": label, "group": f"P{i}", **columns})
    write(tmp_path, rows)
    return tmp_path


def write(folder, rows) -> None:
    with open(folder / "labels.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def labels_of(content):
    return {item["image"]: item["label"] for split in SPLITS for item in content[split]}


def test_names_and_columns_give_the_same_lists(folder):
    by_name = folder_datalist(folder, mpp=0.5, folds=3, multi_label=True, class_order=["tumor", "necrosis"])
    by_column = folder_datalist(folder, mpp=0.5, folds=3, label_columns=["tumor", "necrosis"])
    assert by_name == by_column
    assert (by_name["task"], by_name["labels"]) == ("multilabel", {"0": "tumor", "1": "necrosis"})
    expected = [[0, 1], [], [1], [0]]
    assert labels_of(by_name) == {f"{i:02d}.png": expected[i % 4] for i in range(12)}
    path = save_datalist(by_name, folder / "datalist.json")
    items = load_datalist(path, "training", num_classes=2, min_classes=2, task="multilabel")
    assert all(isinstance(item["label"], list) for item in items)
    assert main(["verify", str(path)]) == 0
    for fold in make_fold_datalists(by_name, 3):
        assert len(labels_of(fold)) == 12


def test_the_command_counts_each_class(folder, capsys):
    assert main(["prepare", "folder", str(folder), "--mpp", "0.5", "--folds", "3", "--multi-label"]) == 0
    header, *splits, _ = capsys.readouterr().out.splitlines()
    assert header.split() == ["necrosis", "tumor", "groups"]
    assert sum(int(line.split()[1]) for line in splits) == 6


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ({"label": "tumor;;ink"}, {"multi_label": True}, "has a class without a name or twice"),
        ({"label": "tumor;tumor"}, {"multi_label": True}, "has a class without a name or twice"),
        ({"tumor": "2"}, {"label_columns": ["tumor"]}, r"'tumor' is '2', but must be 1 \(present\) or 0"),
        ({"tumor": ""}, {"label_columns": ["tumor"]}, "needed is a value of 'tumor'"),
        ({}, {"label_columns": ["stroma"]}, "the header needs 'image' and 'stroma'"),
    ],
)
def test_a_wrong_table(folder, row, options, message):
    with open(folder / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    rows[3] |= row
    write(folder, rows)
    with pytest.raises(ValueError, match=message):
        folder_datalist(folder, mpp=0.5, folds=3, **options)


@pytest.mark.parametrize(
    ("label", "task", "message"),
    [
        ([1, 0, 1], "multilabel", r"must list the numbers of the classes that are present.*rising.*is \[1, 0, 1\]"),
        ([3], "multilabel", "below num_classes=3"),
        (1, "multilabel", "must list the numbers"),
        ([1], "multiclass", r"must be a whole number from 0.*For images of several classes set the task 'multilabel'"),
        ([True], "multilabel", "must list the numbers"),
    ],
)
def test_a_wrong_label(tmp_path, label, task, message):
    Image.new("RGB", (4, 3)).save(tmp_path / "a.png")
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"test": [{"image": "a.png", "label": label}]}))
    with pytest.raises(ValueError, match=message):
        load_datalist(path, "test", num_classes=3, task=task)


def test_lists_and_numbers_are_not_mixed(tmp_path, capsys):
    for name in "ab":
        Image.new("RGB", (4, 3), name == "a" and "red" or "blue").save(tmp_path / f"{name}.png")
    items = [{"image": "a.png", "label": [0], "mpp": 0.5}, {"image": "b.png", "label": 1, "mpp": 0.5}]
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"labels": {"0": "x", "1": "y"}, "test": items}))
    with pytest.raises(ValueError, match=r"test\[0\]: the label must be a whole number"):
        load_datalist(path, "test")
    assert main(["verify", str(path)]) == 1
    assert "1 faults in 1 of 2 items (label 1)" in "".join(capsys.readouterr())


def test_lists_become_zeros_and_ones():
    assert LabelsToMultiHot(3)([0, 2]).tolist() == [1, 0, 1]
    assert LabelsToMultiHotd("label", 2)({"label": [], "image": 1})["label"].tolist() == [0, 0]
    assert LabelsToMultiHotd("label", 2, allow_missing_keys=True)({"image": 1}) == {"image": 1}
    for wrong in ([3], 1, "01"):
        with pytest.raises(ValueError, match="must list numbers of classes below 3"):
            LabelsToMultiHot(3)(wrong)


def test_balanced_batches_need_one_class():
    with pytest.raises(ValueError, match="set 'balanced' to false"):
        BalancedSampler([[0], [0, 1]])
