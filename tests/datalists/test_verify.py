# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``verify`` finds every fault of a datalist, each at its stage, and none in a good one."""

from __future__ import annotations

import csv
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from dicom_files import write_dicom_slide
from PIL import Image
from slide_files import overwrite, picture, tile_range
from verify_cases import Case, write_files

from monai_jsma._io import file_sha256
from monai_jsma.datalists.schema import find_region, load_datalist
from monai_jsma.datalists.splits import check_groups, find_shared, find_splits
from monai_jsma.datalists.verify import fault_table, read_region
from monai_jsma.slides.identity import slide_sha256
from monai_jsma.slides.open import inspect_slide


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def case(files: Path, tmp_path: Path) -> Case:
    return Case(files, tmp_path / "case")


@pytest.mark.parametrize("everything", [False, True])
def test_a_good_datalist_has_no_fault(case, everything):
    assert case.run(everything=everything, magnifications=("50X", "100X", 0.5)) == []


ITEM_CASES = {  # what is spoilt: the stage that sees it
    "unknown label": ({"label": 2}, "label"),
    "name for a label": ({"label": "tumor"}, "label"),
    "no label to learn": ({"label": None}, "label"),
    "spacing is text": ({"mpp": "0.5"}, "mpp"),
    "spacing is no number": ({"mpp": float("nan")}, "mpp"),
    "spacing of 72 dpi": ({"mpp": 352.8}, "mpp"),
    "spacing too coarse": ({"mpp": 1.2}, "magnification"),
    "box beyond the right edge": ({"location": [0, 500], "size": [10, 401]}, "box"),
    "box above": ({"location": [-1, 0], "size": [10, 10]}, "box"),
    "box of nothing": ({"location": [0, 0], "size": [0, 10]}, "box"),
    "box of half pixels": ({"location": [0.5, 0], "size": [10, 10]}, "box"),
    "box of three numbers": ({"location": [0, 0, 0], "size": [10, 10]}, "box"),
    "place beyond the picture": ({"location": [700, 0], "size": [1, 1]}, "box"),
    "place without a size": ({"location": [10, 20]}, "box"),
    "a patch of MONAI": ({"location": [10, 20], "size": [30, 40], "level": 0}, "box"),
    "size of another picture": ({"size": [900, 700]}, "box"),
    "checksum of another file": ({"sha256": "0" * 64}, "sha256"),
    "no such file": ({"image": "none.tif"}, "file"),
    "a folder": ({"image": "."}, "file"),
    "half a character": ({"image": "\ud800.tif"}, "file"),
    "a zero byte": ({"image": "a\0.tif"}, "file"),
    "no image": ({"image": 3}, "item"),
}


@pytest.mark.parametrize("name", ITEM_CASES)
def test_fault_of_an_item(case, name):
    change, stage = ITEM_CASES[name]
    case.content["training"][0].update(change)
    assert case.run(magnifications=("100X",)) == [("training[0]", stage)]
    assert len(list(csv.reader(fault_table(case.faults).encode().decode().splitlines()))) == 2
    assert case.faults[0].where == ("3" if name == "no image" else case.content["training"][0]["image"])


def zero(path: Path) -> None:
    """The bytes of the last tile of level 0, which no patch of the middle touches."""
    first, count = tile_range(path, 0, 47)
    overwrite(path, first, bytes(count))


FILE_CASES = {  # what is done to the file: stages without its checksum, of a patch and of everything
    "zeroed tile": (zero, [], ["read"]),
    "no bytes": (lambda path: path.write_bytes(b""), ["file"], ["file"]),
    "text": (lambda path: path.write_text("no picture"), ["open"], ["open"]),
}


@pytest.mark.parametrize("name", FILE_CASES)
def test_fault_of_a_file(case, name):
    spoil, patch, everything = FILE_CASES[name]
    spoil(case.folder / "c.tif")
    checksum = [] if patch == ["file"] else ["sha256"]
    assert [stage for _, stage in case.run()] == checksum + patch
    assert {key for key, _ in case.run(everything=True)} == {"validation[0]"}
    del case.content["validation"][0]["sha256"]
    assert [stage for _, stage in case.run()] == patch
    assert [stage for _, stage in case.run(everything=True)] == everything


def test_damaged_picture_that_is_decoded_whole(case):
    os.truncate(case.folder / "e.png", 2000)
    assert case.run() == [("test[1]", "sha256"), ("test[1]", "read")]


def test_region_is_read_where_it_lies(case):
    """A zeroed tile in one region is no fault of another, and read in the middle of the region."""
    first, count = tile_range(case.folder / "b.tif", 0, 9)  # rows and columns 128 to 255
    overwrite(case.folder / "b.tif", first, bytes(count))
    for item in case.content["training"]:
        del item["sha256"]
    assert case.run() == [("training[2]", "read")]
    assert "tile 9 of level 0" in case.faults[0].reason


def test_reading_everything_covers_every_pixel_of_the_region_once(case, monkeypatch):
    info = inspect_slide(case.folder / "a.tif")
    seen = [np.zeros(size, int) for size in info.level_sizes]

    class Counting:
        def read(self, level, location, size):
            row, col = location
            height, width = size
            seen[level][row : row + height, col : col + width] += 1

    monkeypatch.setattr("monai_jsma.datalists.verify.open_slide", lambda info: Counting())
    monkeypatch.setattr("monai_jsma.datalists.verify._BLOCK", 128)
    read_region(info, (101, 203), (311, 399), everything=True)
    expected = [np.zeros(size, int) for size in info.level_sizes]
    expected[0][101:412, 203:602] = 1
    expected[1][50:206, 101:301] = 1
    for level in (0, 1):
        np.testing.assert_array_equal(seen[level], expected[level])


@pytest.mark.parametrize(
    ("item", "region"),
    [
        ({}, ((0, 0), (700, 900))),
        ({"location": [10, 20], "size": [30, 40]}, ((10, 20), (30, 40))),
        ({"size": [700, 900]}, ((0, 0), (700, 900))),
    ],
)
def test_region_of_an_item(case, item, region):
    location, size = find_region(item, inspect_slide(case.folder / "a.tif"))
    assert (tuple(location), tuple(size)) == region


def test_spacing_turned_down_for_a_default(case, caplog):
    """A spacing that is not believed, and the one of --mpp that takes its place, are both named."""
    Image.open(case.folder / "e.png").save(case.folder / "e.png", dpi=(72, 72))
    for name in ("mpp", "sha256"):
        case.content["test"][1].pop(name, None)
    assert case.run() == [("test[1]", "mpp")]
    assert "72.009 dpi: 352.73 um/px rejected" in case.faults[0].reason
    assert case.run(mpp=0.5) == []
    assert "e.png: 72.009 dpi: 352.73 um/px rejected: outside 0.05-20; the default of 0.5 um/px" in caplog.text


def test_spacing_unknown_unless_given(case):
    del case.content["test"][1]["mpp"]
    assert case.run() == [("test[1]", "mpp")]
    assert case.run(mpp=0.5) == []
    assert case.run(mpp=0.9, magnifications=("200X",)) == [("test[1]", "magnification")]
    case.content["mpp"] = 0.5
    assert case.run() == []


LEAKS = {  # what is changed in the validation item: the words that tell
    "patient": ({"patient": "P1"}, "group P1 lies in training and validation; patient P1 lies"),
    "group": ({"group": "P1", "patient": "P9"}, "group P1 lies in training and validation"),
    "patient behind a group": ({"group": "G", "patient": "P1"}, "patient P1 lies in training and validation"),
    "picture by another name": ({"image": "./a.tif"}, "image a.tif lies in training and validation"),
}


@pytest.mark.parametrize("name", LEAKS)
def test_leak(case, name):
    change, words = LEAKS[name]
    case.content["validation"][0].update(change)
    case.content["validation"][0].pop("sha256")
    assert case.run() == [("training[0]", "split"), ("validation[0]", "split")]
    assert all(words in fault.reason for fault in case.faults)
    with pytest.raises(ValueError, match=r"in \['training', 'validation'\]"):
        load_datalist(case.folder / "datalist.json", "training")


def test_copy_of_a_file_in_another_split(case):
    shutil.copy(case.folder / "a.tif", case.folder / "copy.tif")
    case.content["test"].append({"image": "copy.tif"})
    assert case.run() == [("training[0]", "split"), ("test[2]", "split")]
    assert (
        f"file of equal bytes {file_sha256(case.folder / 'a.tif')} lies in test and training" in case.faults[0].reason
    )


def test_leak_in_a_list_of_another_name(case):
    case.content["holdout"] = [case.content["validation"][0]]
    assert case.run() == [("validation[0]", "split"), ("holdout[0]", "split")]


def test_kinds_of_identity_are_kept_apart():
    pairs = [
        ("training", ("group", "a")),
        ("test", ("group", "a")),
        ("test", ("patient", "a")),
        ("test", ("group", "b")),
    ]
    assert find_shared(pairs) == {("group", "a"): ["test", "training"]}
    check_groups({"training": [{"image": "x", "group": 1, "patient": 7}], "test": [{"image": "y", "group": 7}]})
    assert list(find_splits({"training": [], "mpp": 1, "names": ["a"], "more": [{"image": "a"}]})) == [
        "training",
        "more",
    ]


def test_faults_of_the_datalist_itself(case):
    case.content["labels"] = {"1": "benign", "2": "tumor"}
    assert case.run() == [("", "datalist")]
    case.content.update(labels=["benign", "tumor"], mpp=-1)
    assert [stage for _, stage in case.run()][:2] == ["datalist", "datalist"]


def test_training_items_of_one_class(case):
    for item in case.content["training"]:
        item["label"] = 1
    assert case.run() == [("", "label")]
    case.content["training"][0]["label"] = [1]  # that fault is told, and stops nothing
    assert ("training[0]", "label") in case.run()


def add_dicom_slides(case: Case) -> None:
    """Two DICOM slides of two files: ``f`` in training, ``g`` in validation."""
    for i, name in enumerate("fg"):
        pixels = picture(128, 128, 10 + i)
        write_dicom_slide(case.folder / name, [pixels, pixels[::2, ::2]])
        item = {"image": f"{name}/level0.dcm", "sha256": slide_sha256(case.folder / name), "label": 0}
        case.content[("training", "validation")[i]].append({**item, "patient": f"P{6 + i}"})


def test_a_changed_second_file_of_a_slide(case):
    add_dicom_slides(case)
    assert case.run() == []
    path = case.folder / "f" / "level1.dcm"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    assert case.run() == [("training[3]", "sha256")]
    assert "f/level0.dcm: its sha256 is" in case.faults[0].reason


def test_a_lost_second_file_of_a_slide(case):
    add_dicom_slides(case)
    (case.folder / "f" / "level1.dcm").unlink()
    assert case.run() == [("training[3]", "sha256")]


@pytest.mark.parametrize("image", ["f/level1.dcm", "f", "copy/x.dcm"])
def test_one_dicom_series_under_two_names_in_two_splits(case, image):
    """Also a copy that lacks a level, whose bytes differ."""
    add_dicom_slides(case)
    (case.folder / "copy").mkdir()
    shutil.copy(case.folder / "f" / "level0.dcm", case.folder / "copy" / "x.dcm")
    case.content["test"].append({"image": image, "patient": "P9"})
    assert case.run() == [("training[3]", "split"), ("test[2]", "split")]
    assert re.search(r"slide DICOM series [\d.]+ lies in test and training", case.faults[0].reason)


def test_a_mirax_slide_without_its_folder(case):
    Image.fromarray(picture(50, 60)).save(case.folder / "h.mrxs", "JPEG")
    case.content["test"].append({"image": "h.mrxs", "patient": "P9"})
    assert case.run() == [("test[2]", "open")]
    assert "h.mrxs: only a preview" in case.faults[0].reason
